"""Fake files in the layouts in which vision transformers and later ResNet-50s are published.

As in `checkpoints`: a second implementation, after the code that saves each file, around the tensors of a timm backbone
of any width and depth. What lies beside the backbone holds other numbers than it.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from tests.support import checkpoints
from tests.support.checkpoints import State, another, optimizer, part, under

Writer = Callable[[State, Path], None]


def renamed(state: State, *rules: tuple[str, str]) -> State:
    """Puts expressions in place of each other in every key, in this order."""
    for expression, name in rules:
        state = {re.sub(expression, name, key): tensor for key, tensor in state.items()}
    return state


def width(state: State) -> int:
    return len(state["patch_embed.proj.weight"])


def bare(state: State, path: Path, head: str = "", classes: int = 14) -> None:
    """timm's own names: safetensors as `timm.push_to_hf_hub` writes them, else a bare state dict; some with a head."""
    features = 2048 if head == "fc" else width(state) if head else 0
    whole = state | (part(head, nn.Linear(features, classes)) if head else {})
    if path.suffix == ".safetensors":
        save_file({key: tensor.contiguous() for key, tensor in whole.items()}, path)
    else:
        torch.save(whole, path)


def dinov2(state: State) -> State:
    """facebookresearch/dinov2 `models/vision_transformer.py`: mask token; with registers a place for the class token.

    The class token here is half of what timm's is and its place the other half: their sum is exact.
    """
    if "reg_token" in state:
        half = state["cls_token"] / 2
        state = state | {"cls_token": half, "pos_embed": torch.cat([half, state["pos_embed"]], 1)}
    gated = state["blocks.0.mlp.fc1.weight"].shape[0] == 2 * state["blocks.0.mlp.fc2.weight"].shape[1]
    rules = [(r"\.mlp\.fc1\.", ".mlp.w12."), (r"\.mlp\.fc2\.", ".mlp.w3.")] if gated else []
    whole = renamed(state, ("^reg_token$", "register_tokens"), *rules)
    return whole | {"mask_token": torch.zeros(1, width(state))}


def dinov2_bare(state: State, path: Path, heads: bool = False) -> None:
    bare(dinov2(state) | ({"dino_head.mlp.0.weight": torch.randn(8, width(state))} if heads else {}), path)


def teacher(state: State, path: Path, chunked: bool = False) -> None:
    """DINOv2's teacher: facebookresearch/dinov2 `train/ssl_meta_arch.py`; chunks as `block_chunks` there makes them."""
    names = dinov2(state)
    if chunked:
        names = {re.sub(r"blocks\.(\d+)", lambda m: f"blocks.{int(m[1]) // 6}.{m[1]}", k): x for k, x in names.items()}
    heads = {f"{head}.mlp.0.weight": torch.randn(8, width(state)) for head in ("dino_head", "ibot_head")}
    torch.save({"teacher": under("backbone.", names) | heads}, path)


def dinov3(state: State, path: Path) -> None:
    """DINOv3 (facebookresearch/dinov3 `models/vision_transformer.py`): a joint bias whose key part is masked out.

    What is not masked is zero too, so that the network is that of timm's, which has none.
    """
    blocks = sum(key.endswith("norm1.weight") for key in state)
    rules = (("^reg_token$", "storage_tokens"), (r"\.gamma_([12])$", r".ls\1.gamma"))
    places = [f"blocks.{number}.attn.qkv.{kind}" for number in range(blocks) for kind in ("bias", "bias_mask")]
    biases = {place: torch.zeros(3 * width(state)) for place in places}
    beside = {"mask_token": torch.zeros(1, width(state)), "rope_embed.periods": torch.randn(16)}
    names = renamed(state, *rules) | biases | beside
    torch.save({"teacher": under("backbone.", names) | {"dino_head.mlp.0.weight": torch.randn(8, width(state))}}, path)


LAYER = r"^blocks\.(\d+)\."
EMBEDDINGS = (
    ("^cls_token$", "embeddings.cls_token"), ("^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."), (r"^norm\.", "layernorm."),
)  # fmt: skip


def parts(state: State, place: str, names: tuple[str, str, str]) -> State:
    """Cuts joint products of query, key and value into three."""
    whole: State = {}
    for key, tensor in state.items():
        found = re.fullmatch(r"(blocks\.\d+\.)attn\.qkv\.(\w+)", key)
        if found is None:
            whole[key] = tensor
        else:
            cut = zip(names, tensor.chunk(3), strict=True)
            whole |= {f"{found[1]}{place}{name}.{found[2]}": third.contiguous() for name, third in cut}
    return whole


def transformers(state: State, path: Path, *, plain: bool = False) -> None:
    """transformers `models/dinov2/modeling_dinov2.py`; plain: `models/vit/modeling_vit.py`, with its pooler."""
    gated = state["blocks.0.mlp.fc1.weight"].shape[0] == 2 * state["blocks.0.mlp.fc2.weight"].shape[1]
    names = (("1", "weights_in"), ("2", "weights_out")) if gated else ()
    cut = parts(state, "attention.attention.", ("query", "key", "value"))
    rules = [*EMBEDDINGS, *((rf"mlp\.fc{n}\.", f"mlp.{name}.") for n, name in names)]
    if plain:
        rules += [(r"mlp\.fc1\.", "intermediate.dense."), (r"mlp\.fc2\.", "output.dense.")]
        rules += [(r"\.norm1\.", ".layernorm_before."), (r"\.norm2\.", ".layernorm_after.")]
    rules += [(r"attn\.proj\.", "attention.output.dense."), (r"ls([12])\.gamma$", r"layer_scale\1.lambda1")]
    whole = renamed(cut, *rules, (LAYER, r"encoder.layer.\1."))
    beside = part("pooler.dense", nn.Linear(width(state), 4)) if plain else {}
    save_file(whole | beside | ({} if plain else {"embeddings.mask_token": torch.zeros(1, width(state))}), path)


def siglip(state: State, path: Path) -> None:
    """transformers `models/siglip/modeling_siglip.py`: the vision tower with its pooling head, the text tower."""
    size = width(state)
    pool = {key: tensor for key, tensor in state.items() if key.startswith("attn_pool.")}
    body = {key: tensor for key, tensor in state.items() if key not in pool}
    joint = {
        f"head.attention.in_proj_{kind}": torch.cat([pool.pop(f"attn_pool.q.{kind}"), pool.pop(f"attn_pool.kv.{kind}")])
        for kind in ("weight", "bias")
    }
    head = renamed(
        pool, ("latent$", "probe"), (r"attn_pool\.proj\.", "attn_pool.attention.out_proj."),
        (r"attn_pool\.norm\.", "attn_pool.layernorm."), (r"^attn_pool\.", "head."),
    )  # fmt: skip
    body["embeddings.position_embedding.weight"] = body.pop("pos_embed")[0]
    tower = renamed(
        parts(body, "self_attn.", ("q_proj", "k_proj", "v_proj")),
        (r"^patch_embed\.proj\.", "embeddings.patch_embedding."), (r"^norm\.", "post_layernorm."),
        (r"attn\.proj\.", "self_attn.out_proj."), (r"\.norm([12])\.", r".layer_norm\1."),
        (LAYER, r"encoder.layers.\1."),
    )  # fmt: skip
    text = {"text_model.embeddings.token_embedding.weight": torch.randn(9, size), "logit_scale": torch.ones(1)}
    save_file(under("vision_model.", tower | head | joint) | text | {"logit_bias": torch.ones(1)}, path)


def mae(state: State, path: Path) -> None:
    """facebookresearch/mae `models_mae.py`, `util/misc.py:save_model`: a decoder, an optimizer, a Namespace."""
    tokens = state["pos_embed"].shape[1]
    decoder = {"mask_token": torch.zeros(1, 1, 32), "decoder_pos_embed": torch.randn(1, tokens, 32)}
    decoder |= part("decoder_embed", nn.Linear(width(state), 32)) | part("decoder_pred", nn.Linear(32, 8))
    decoder |= part("decoder_blocks.0.norm1", nn.LayerNorm(32))
    rest = {"optimizer": optimizer("exp_avg"), "epoch": 799, "scaler": {"scale": 65536.0}, "args": Namespace(lr=1e-3)}
    torch.save({"model": state | decoder, **rest}, path)


def open_clip_trunk(state: State, path: Path) -> None:
    """mlfoundations/open_clip `timm_model.py`, `hf_model.py`: timm's image tower, transformers' text tower."""
    text = {"text.transformer.embeddings.word_embeddings.weight": torch.randn(9, 8)} | part(
        "text.proj.0", nn.Linear(8, 8)
    )
    head = {"visual.head.proj.weight": torch.randn(8, width(state)), "logit_scale": torch.tensor(1.0)}
    torch.save(under("visual.trunk.", state) | text | head, path)


def open_clip(state: State, path: Path) -> None:
    """mlfoundations/open_clip `model.py`, `transformer.py`: CLIP's own image and text towers."""
    tower = renamed(
        state, (r"^patch_embed\.proj\.", "conv1."), (r"^norm_pre\.", "ln_pre."), (r"^norm\.", "ln_post."),
        (r"\.norm([12])\.", r".ln_\1."), (r"attn\.qkv\.", "attn.in_proj_"), (r"attn\.proj\.", "attn.out_proj."),
        (r"mlp\.fc1\.", "mlp.c_fc."), (r"mlp\.fc2\.", "mlp.c_proj."), (LAYER, r"transformer.resblocks.\1."),
    )  # fmt: skip
    tower["class_embedding"] = tower.pop("cls_token")[0, 0]
    tower["positional_embedding"] = tower.pop("pos_embed")[0]
    tower["proj"] = torch.randn(width(state), 8)
    text = {
        "positional_embedding": torch.randn(7, 8), "text_projection": torch.randn(8, 8), "logit_scale": torch.ones(()),
        "token_embedding.weight": torch.randn(9, 8), "transformer.resblocks.0.ln_1.weight": torch.ones(8),
        "ln_final.weight": torch.ones(8),
    }  # fmt: skip
    torch.save(under("visual.", tower) | text, path)


def sam(state: State, path: Path) -> None:
    """facebookresearch/segment-anything `modeling/sam.py`, `modeling/image_encoder.py`."""
    rest = {"prompt_encoder.no_mask_embed.weight": torch.ones(1, 8), "mask_decoder.iou_token.weight": torch.ones(1, 8)}
    torch.save(under("image_encoder.", renamed(state, (r"mlp\.fc", "mlp.lin"))) | rest, path)


def swin(state: State) -> State:
    """timm 0.5.4 `models/swin_transformer.py`: merging ends a stage; masks and indices are saved."""
    whole = renamed(state, (r"layers\.1\.down", "layers.0.down"), (r"layers\.2\.down", "layers.1.down"))
    whole = renamed(whole, (r"layers\.3\.down", "layers.2.down"))
    blocks = {key.removesuffix("norm1.weight") for key in state if key.endswith("norm1.weight")}
    fixed = {f"{block}attn.relative_position_index": torch.zeros(4, 4, dtype=torch.long) for block in blocks}
    return whole | fixed | {"layers.0.blocks.1.attn_mask": torch.zeros(4, 4, 4)}


def ark(state: State, path: Path, *, whole: bool = True) -> None:
    """jlianglab/Ark: `Ark_Plus` saves student and teacher with heads; the file of 2023 is a bare state dict."""
    last = state["norm.weight"].numel()
    heads = part("omni_heads.0", nn.Linear(last, 14)) | part("projector", nn.Linear(last, 8))
    model = swin(state) | heads
    if not whole:
        torch.save(model, path)
        return
    torch.save({"epoch": 50, "teacher": under("module.", model), "state_dict": under("module.", another(model))}, path)


def eva_x(state: State, path: Path) -> None:
    """hustvl/EVA-X `eva_x.py`, trained by EVA-02's code: its own names, tables of angles, a head of tokens."""
    rules = (
        (r"mlp\.fc1_g\.", "mlp.w1."), (r"mlp\.fc1_x\.", "mlp.w2."), (r"mlp\.norm\.", "mlp.ffn_ln."),
        ("^fc_norm", "norm"),
    )  # fmt: skip
    joint = [] if any("fc1_g" in key for key in state) else [(r"mlp\.fc1\.", "mlp.w12.")]
    whole = renamed(state, *rules, *joint, (r"mlp\.fc2\.", "mlp.w3."))
    whole = renamed(whole, (r"attn\.([qv])_proj\.bias$", r"attn.\1_bias"))
    whole |= {"mask_token": torch.zeros(1, 1, width(state)), "rope.freqs_cos": torch.randn(9, 8)}
    torch.save({"module": whole | part("lm_head", nn.Linear(width(state), 8))}, path)


def vissl(state: State, path: Path) -> None:
    """facebookresearch/vissl `hooks/log_hooks.py`, `extra_scripts/convert_vissl_to_torchvision.py`: trunk and heads."""
    heads = {"0.clf.0.weight": torch.randn(128, 2048)}
    model = {"trunk": under("_feature_blocks.", state), "heads": heads}
    torch.save({"classy_state_dict": {"base_model": {"model": model, "meters": {}}}, "phase_idx": 199}, path)


def gray(state: State, path: Path) -> None:
    """mlmed/torchxrayvision `models.py:ResNet`: torchvision's, a first convolution of one channel, 18 findings."""
    first = state["conv1.weight"].sum(1, keepdim=True)
    torch.save(state | {"conv1.weight": first} | part("fc", nn.Linear(2048, 18)), path)


def newt(state: State, path: Path, *, swav: bool) -> None:
    """visipedia/newt `benchmark/pt_resnet_feature_extractor.py`: what is cut off of its self-supervised files."""
    if swav:
        heads = part("projection_head", nn.Linear(2048, 128)) | {"prototypes.weight": torch.randn(30, 128)}
        torch.save({"state_dict": under("module.", state | heads), "epoch": 199}, path)
        return
    model = state | part("fc", *checkpoints.head(mlp=True))
    queue = {"module.queue": torch.randn(128, 16), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    both = under("module.encoder_q.", model) | under("module.encoder_k.", another(model)) | queue
    torch.save({"state_dict": both, "epoch": 999, "optimizer": optimizer()}, path)


KAIKO = tuple(f"kaiko-{size}" for size in ("vits16", "vits8", "vitb16", "vitb8", "vitl14"))
VISSL = ("npid", "pirl-200", "pirl-800", "simclr-800", "simclr-1000", "moco-v2", "barlow-twins", "swav")
WRITERS: dict[str, Writer] = {
    **dict.fromkeys(("omnirad-base", "omnirad-small", "radio-dino-s16", "radio-dino-b16", "radio-dino-s8"), bare),
    **dict.fromkeys((*KAIKO, "lunit-dino-vits8", "lunit-dino-vits16", "retfound-green", "h0-mini"), bare),
    **dict.fromkeys(("uni", "uni2-h", "virchow", "virchow2", "h-optimus-0", "h-optimus-1", "prov-gigapath"), bare),
    **dict.fromkeys(("medmae-cxr-mae-ft-cxr", "medmae-cxr-mae-ft-chexpert"), partial(bare, head="head")),
    **{f"medmae-in1k-{start}-ft-cxr": partial(bare, head="fc") for start in ("mocov2", "byol", "swav")},
    **dict.fromkeys(("rad-dino", "openmidnight"), dinov2_bare),
    "gpfm": partial(dinov2_bare, heads=True),
    **dict.fromkeys(("retfound-dinov2-meh", "retfound-dinov2-shanghai"), teacher),
    "chexfound": partial(teacher, chunked=True),
    "meddinov3": dinov3,
    **dict.fromkeys(("rad-dino-maira-2", "dinov2-base-xray-224", "phikon-v2", "midnight-12k"), transformers),
    "phikon": partial(transformers, plain=True),
    "medsiglip-448": siglip,
    **dict.fromkeys(("retfound-cfp", "retfound-oct", "retfound-meh", "retfound-shanghai", "usf-mae"), mae),
    **dict.fromkeys(("medical-mae-vitb", "medical-mae-vits"), mae),
    "biomedclip": open_clip_trunk,
    "dermlip": open_clip,
    "medsam": sam,
    "ark-plus": ark,
    "ark-6": partial(ark, whole=False),
    **{f"eva-x-{size}": eva_x for size in ("tiny", "small", "base")},
    **{f"gastronet-5m-{start}": torch.save for start in ("dino", "simclr-v2", "moco-v2")},
    "txrv-resnet50": gray,
    **{f"vissl-{name}": vissl for name in VISSL},
    "barlow-twins-ljng": torch.save,
    "moco-v2-200": partial(checkpoints.moco, mlp=True),
    "imagenet+inat2018": checkpoints.inat,
    **dict.fromkeys(("inat2021-mini-swav", "inat2021-mini-swav-1000"), partial(newt, swav=True)),
    "inat2021-mini-moco-v2": partial(newt, swav=False),
}
"""initialization -> how its one file is written"""


def write(name: str, tensors: State, path: Path) -> None:
    """Writes the fake of a published file.

    Args:
        name: of the initialization, one of `WRITERS`.
        tensors: `state_dict()` of its backbone or of a smaller one of the same architecture.
        path: where the published file itself would lie.
    """
    with torch.random.fork_rng():
        torch.manual_seed(3)
        WRITERS[name](dict(tensors), path)
