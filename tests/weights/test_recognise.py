"""Layouts of published files: which one a file has, every key accounted, features those of the publisher's own code.

Files are made by the code that publishes such files where it is installed (transformers), else in the key layout of the
code that saves them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from medtransfer.core.errors import UserError
from medtransfer.params import OwnInit
from medtransfer.weights import architectures, backbones, convert, locate, store
from medtransfer.weights.fingerprint import fixed_input
from medtransfer.weights.formats import read
from medtransfer.weights.names import Initialization, parse

State = dict[str, Tensor]
VIT = "vit_tiny_patch16_224:depth=3:img_size=64"
POOLED = "vit_tiny_patch16_224:depth=3:global_pool=avg:img_size=64"
DINOV2 = "vit_small_patch14_dinov2:depth=3:img_size=56"
REGISTERS = "vit_small_patch14_reg4_dinov2:depth=3:img_size=56"
SIZES = {"num_hidden_layers": 3, "image_size": 64, "patch_size": 16}
ATTO = {"depths": [2, 2, 6, 2], "hidden_sizes": [40, 80, 160, 320]}
EVA = "eva02_tiny_patch14_224:depth=2:img_size=64:patch_size=16"
TINY = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, **SIZES}


def drawn(backbone: str) -> State:
    """Draws a backbone whose tensors differ in every place."""
    torch.manual_seed(5)
    state = backbones.bare_backbone(backbone).state_dict()
    noisy = {key: t + 0.05 * torch.randn(t.shape) for key, t in state.items() if t.is_floating_point()}
    noisy |= {key: tensor.abs() + 0.5 for key, tensor in noisy.items() if key.endswith("running_var")}
    return {key: noisy.get(key, tensor) for key, tensor in state.items()}


def renamed(state: State, *rules: tuple[str, str], prefix: str = "") -> State:
    for expression, name in rules:
        state = {re.sub(expression, name, key): tensor for key, tensor in state.items()}
    return {prefix + key: tensor for key, tensor in state.items()}


def obtained(path: Path, backbone: str) -> tuple[Any, State]:
    init = parse(f"file:{path}@{backbone}", "resnet50")
    receipt = store.obtain(init, path.parent)
    return receipt, store.state(init, path.parent, 0, "one")


def features(backbone: str, tensors: State, images: Tensor) -> Tensor:
    model = backbones.bare_backbone(backbone)
    model.load_state_dict(tensors)
    with torch.inference_mode():
        result: Tensor = model.eval()(images)
    return result


# ---- files that the publishers' own library writes


def _pooled(output: Any) -> Tensor:
    pooled: Tensor = output.pooler_output
    return pooled


def _first(output: Any) -> Tensor:
    token: Tensor = output.last_hidden_state[:, 0]
    return token


def _mean(output: Any) -> Tensor:
    mean: Tensor = output.last_hidden_state.mean((2, 3))
    return mean


TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any], Callable[[Any], Tensor]]] = {
    "ViT": (VIT, "names of a vision transformer", {**TINY, "layer_norm_eps": 1e-6}, _first),
    "Dinov2": (
        DINOV2, "names of a vision transformer",
        {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 3, "image_size": 56, "patch_size": 14},
        _first,
    ),
    "Dinov2WithRegisters": (
        REGISTERS, "names of a vision transformer",
        {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 3, "image_size": 56, "patch_size": 14},
        _first,
    ),
    "SiglipVision": (
        "vit_base_patch16_siglip_224:act_layer=gelu_tanh:depth=3:img_size=64", "names of a vision transformer",
        {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, **SIZES,
         "hidden_act": "gelu_pytorch_tanh"},
        _pooled,
    ),
    "CLIPVision": (
        "vit_base_patch16_clip_quickgelu_224:depth=3:img_size=64", "names of a vision transformer",
        {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, **SIZES}, _pooled,
    ),
    "Swin": (
        "swin_tiny_patch4_window7_224", "names of Swin",
        {"image_size": 224, "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7},
        _pooled,
    ),
    "ConvNext": ("convnext_atto", "names of ConvNeXt", ATTO, _pooled),
    "ConvNextV2": ("convnextv2_atto", "names of ConvNeXt", ATTO, _pooled),
    "SamVision": (
        "samvit_base_patch16:depth=2:img_size=64", "SAM's names",
        {"num_hidden_layers": 2, "image_size": 64, "global_attn_indexes": [], "use_abs_pos": True}, _mean,
    ),
}  # fmt: skip
QUICK: set[str] = set()
"""its import alone takes seconds; the zoo has rows in its names, which the quick suite converts"""


def made_by_transformers(kind: str, folder: Path) -> tuple[str, str, nn.Module, Callable[[Any], Tensor]]:
    transformers = pytest.importorskip("transformers")
    backbone, word, config, output = TRANSFORMERS[kind]
    torch.manual_seed(3)
    model: Any = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**config)).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.02 * torch.randn(tensor.shape))
    model.save_pretrained(folder)
    return backbone, word, model, output


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in TRANSFORMERS]
)
def test_a_file_of_transformers_gives_the_features_that_transformers_computes(kind: str, tmp_path: Path) -> None:
    backbone, word, model, output = made_by_transformers(kind, tmp_path)
    receipt, tensors = obtained(tmp_path / "model.safetensors", backbone)
    assert word in receipt.layout
    side = architectures.published_side(backbone)
    images = fixed_input(side)
    with torch.inference_mode():
        expected = output(model(images))
    found = features(backbone, tensors, images)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max())), float(
        (found - expected).abs().max()
    )
    torch.save(model.state_dict(), tmp_path / "in_memory.pth")  # the names that its version 5 has in memory
    again, _ = obtained(tmp_path / "in_memory.pth", backbone)
    assert again.tensors_sha256 == receipt.tensors_sha256


# ---- files in the key layouts of code that is not installed


@dataclass(frozen=True)
class Case:
    """One layout: how it is written, what the receipt must say, of which backbone."""

    backbone: str
    write: Callable[[State], Any]
    layout: str
    prefix: str
    dropped: int = 0


def _dinov2(state: State) -> State:
    """facebookresearch/dinov2 `vision_transformer.py`: a class token's place, registers, a mask token."""
    result = renamed(state, ("^reg_token$", "register_tokens"))
    if "reg_token" in state:
        place = torch.randn(1, 1, state["pos_embed"].shape[-1])
        result |= {"pos_embed": torch.cat([place, state["pos_embed"]], 1), "cls_token": state["cls_token"] - place}
    return result | {"mask_token": torch.zeros(1, state["norm.weight"].numel())}


def _chunks(state: State) -> State:
    """The same in chunks of two blocks, `block_chunks` of the same code."""
    chunked = {
        re.sub(r"blocks\.(\d+)\.", lambda m: f"blocks.{int(m[1]) // 2}.{m[1]}.", k): t
        for k, t in _dinov2(state).items()
    }
    return renamed(chunked, prefix="backbone.") | {"dino_head.mlp.0.weight": torch.ones(8, 4)}


def _mae(state: State) -> dict[str, Any]:
    """facebookresearch/mae `models_mae.py`, `util/misc.py`: decoder, optimizer, Namespace."""
    decoder = {"mask_token": torch.zeros(1, 1, 512), "decoder_embed.weight": torch.zeros(512, 192)}
    decoder |= {"decoder_pos_embed": torch.zeros(1, 17, 512), "decoder_blocks.0.norm1.weight": torch.zeros(512)}
    rest = {"optimizer": {"state": {}, "param_groups": []}, "epoch": 799, "args": argparse.Namespace(lr=1e-3)}
    return {"model": state | decoder, **rest}


def _sam(state: State) -> State:
    """facebookresearch/segment-anything `modeling/image_encoder.py` and `modeling/sam.py`."""
    rest = {
        "prompt_encoder.no_mask_embed.weight": torch.ones(1, 256),
        "mask_decoder.iou_token.weight": torch.ones(1, 9),
    }
    return renamed(state, (r"mlp\.fc", "mlp.lin"), prefix="image_encoder.") | rest


def _swin(state: State) -> dict[str, Any]:
    """microsoft/Swin-Transformer's names inside a teacher of two heads (jlianglab/Ark)."""
    moved = {re.sub(r"\d(?=\.downsample)", lambda m: str(int(m[0]) - 1), key): tensor for key, tensor in state.items()}
    named = renamed(moved, prefix="module.")
    named |= {"module.layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49)}
    named |= {"module.layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.long)}
    return {
        "teacher": named | {"module.omni_heads.0.weight": torch.ones(14, 8), "module.projector.weight": torch.ones(3)}
    }


def _convnext(state: State) -> dict[str, Any]:
    """facebookresearch/ConvNeXt `models/convnext.py`."""
    rules = [(r"stages\.(\d)\.downsample", r"downsample_layers.\1"), ("^stem", "downsample_layers.0")]
    rules += [(r"head\.norm", "norm"), (r"\.blocks", ""), ("conv_dw", "dwconv"), (r"mlp\.fc", "pwconv")]
    return {"model": renamed(state, *rules) | {"head.weight": torch.ones(9, 320)}}


def _clip_trunk(state: State) -> State:
    """mlfoundations/open_clip `timm_model.py` under `visual`."""
    text = {"text.transformer.embeddings.word_embeddings.weight": torch.ones(10, 8), "logit_scale": torch.tensor(1.0)}
    return renamed(state, prefix="visual.trunk.") | {"visual.head.proj.weight": torch.ones(8, 192)} | text


def _torchvision(state: State) -> State:
    """torchvision `models/vision_transformer.py`."""
    rules = [
        ("^cls_token$", "class_token"),
        ("^pos_embed$", "encoder.pos_embedding"),
        (r"^patch_embed\.proj", "conv_proj"),
    ]
    rules += [(r"^norm\.", "encoder.ln."), (r"^blocks\.(\d+)\.", r"encoder.layers.encoder_layer_\1.")]
    rules += [(r"\.norm([12])\.", r".ln_\1."), (r"attn\.qkv\.", "self_attention.in_proj_")]
    rules += [(r"attn\.proj\.", "self_attention.out_proj."), (r"mlp\.fc1\.", "mlp.0."), (r"mlp\.fc2\.", "mlp.3.")]
    return renamed(state, *rules) | {"heads.head.weight": torch.ones(5, 192)}


CASES = {
    "dinov2": Case(DINOV2, _dinov2, "timm's names", "", 1),
    "dinov2 with registers": Case(REGISTERS, _dinov2, "DINOv2's names (register_tokens)", "", 1),
    "registers, no mask token": Case(
        REGISTERS, lambda s: {k: t for k, t in _dinov2(s).items() if k != "mask_token"}, "DINOv2's names", ""
    ),
    "teacher": Case(DINOV2, lambda s: {"teacher": renamed(_dinov2(s), prefix="backbone.")}, "timm's", "backbone.", 1),
    "chunks": Case(DINOV2, lambda s: {"teacher": _chunks(s)}, "chunks", "backbone.", 2),
    "mae": Case(VIT, _mae, "timm's names", "", 4),
    "open_clip trunk": Case(VIT, _clip_trunk, "timm's names", "visual.trunk.", 3),
    "sam": Case("samvit_base_patch16:depth=2:img_size=64", _sam, "SAM's names", "image_encoder.", 2),
    "swin of old": Case("swin_tiny_patch4_window7_224", _swin, "names that timm converts itself", "module.", 4),
    "convnext of old": Case("convnext_atto", _convnext, "ConvNeXt's original names", "", 1),
    "torchvision": Case(VIT, _torchvision, "torchvision's names", "", 1),
    "eva": Case(EVA, lambda s: {"module": s}, "timm's names", ""),
    "layer scale": Case(f"{VIT}:init_values=1e-05", dict, "timm's names", ""),
    "lightning": Case(
        VIT, lambda s: {"state_dict": renamed(s, prefix="model.backbone."), "pytorch-lightning_version": "2.4"},
        "timm's names", "model.backbone.",
    ),
    "compiled, in FSDP": Case(
        VIT, lambda s: renamed(s, (r"blocks\.(\d)\.", r"blocks.\1._fsdp_wrapped_module."), prefix="_orig_mod.module."),
        "timm's names", "module.",
    ),
    "averaged": Case(VIT, lambda s: {"model_ema": renamed(s, prefix="module."), "model": {}}, "timm's", "module."),
    "gray": Case(
        "densenet121", lambda s: s | {"features.conv0.weight": s["features.conv0.weight"].sum(1, keepdim=True),
                                      "classifier.weight": torch.ones(18, 1024), "op_threshs": torch.ones(18)},
        "timm's names", "", 2,
    ),
}  # fmt: skip
SLOW = {"swin of old", "gray", "dinov2", "teacher", "compiled, in FSDP", "averaged", "layer scale", "sam"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES])
def test_a_layout_is_recognised_and_every_key_accounted(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    state = drawn(case.backbone)
    path = tmp_path / "w.pth"
    torch.save(case.write(state), path)
    receipt, tensors = obtained(path, case.backbone)
    assert case.layout in receipt.layout
    assert f"prefix {case.prefix!r}" in receipt.layout
    gray = name == "gray"  # its sum over red, green and blue is what three equal channels see
    same = [key for key in tensors if torch.allclose(tensors[key], state[key], atol=1e-6)]
    assert len(same) == len(tensors) - gray
    images = fixed_input(architectures.published_side(case.backbone))
    images = images[:, :1].expand_as(images) if gray else images
    expected = features(case.backbone, state, images)
    found = features(case.backbone, tensors, images)
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))
    assert sum(map(len, receipt.dropped.values())) == case.dropped
    content = read.read(path)
    accounted = {key for keys in receipt.keys.values() for key in keys.split(" + ")}
    assert accounted | {key for keys in receipt.dropped.values() for key in keys} == set(content.tensors)


# ---- what is not the backbone


def test_position_embeddings_of_another_side_are_resampled_and_said(tmp_path: Path) -> None:
    state = drawn(DINOV2)
    torch.save(state, tmp_path / "w.pth")
    other = DINOV2.replace("img_size=56", "img_size=112")
    receipt, tensors = obtained(tmp_path / "w.pth", other)
    said = f"pos_embed: 4 x 4 places, taken as a square, resampled to 8 x 8; @{DINOV2} takes them as they are"
    assert receipt.adapted == (said,)
    model = timm.create_model("vit_small_patch14_dinov2", num_classes=0, depth=3, img_size=112)
    expected = timm.models.vision_transformer.checkpoint_filter_fn(dict(state), model)["pos_embed"]
    assert torch.equal(tensors["pos_embed"], expected)
    receipt, tensors = obtained(tmp_path / "w.pth", DINOV2)
    assert receipt.adapted == ()
    assert torch.equal(tensors["pos_embed"], state["pos_embed"])


@pytest.mark.parametrize(
    ("held", "named", "words"),
    [
        (f"{VIT}:init_values=1e-05", VIT, f"the file holds {VIT}:init_values=1e-05"),
        (VIT, VIT.replace("img", "patch_size=8:img"), VIT),
        (VIT, "vit_small_patch16_224:depth=3:img_size=64", "3 blocks of width 192, with patches of 16 pixels"),
        (VIT, VIT.replace("depth=3", "depth=2"), "3 blocks of width 192"),
        ("vit_tiny_patch16_224:depth=3:img_size=64:reg_tokens=4", VIT, f"{VIT}:reg_tokens=4"),
        (f"{VIT}:qkv_bias=false", VIT, f"the file holds {VIT}:qkv_bias=false"),
        (f"{VIT}:no_embed_class=true", VIT, f"the file holds {VIT}:no_embed_class=true"),
        (POOLED, VIT, f"the file holds {POOLED}"),
        (f"{POOLED}:class_token=false", VIT, "the file holds vit_tiny_patch16_224:class_token=false:depth=3:global_p"),
    ],
)
def test_a_backbone_of_other_arguments_is_refused_with_those_that_fit(
    held: str, named: str, words: str, tmp_path: Path
) -> None:
    torch.save(drawn(held), tmp_path / "w.pth")
    with pytest.raises(UserError, match=re.escape(words)):
        obtained(tmp_path / "w.pth", named)
    assert not list((tmp_path / "data").glob("weights/*/*"))


def test_a_file_of_unknown_names_is_refused_with_some_of_them(tmp_path: Path) -> None:
    torch.save({f"feature.{number}.weight": torch.ones(2) for number in range(5)}, tmp_path / "w.pth")
    with pytest.raises(
        UserError, match=r"are missing \(.*; the file holds 5 of other names \(feature.0.weight, feature"
    ):
        obtained(tmp_path / "w.pth", VIT)


def test_two_copies_are_refused_with_both_names_and_a_rule_chooses(tmp_path: Path) -> None:
    state = drawn(VIT)
    other = {key: tensor + 1 for key, tensor in state.items()}
    torch.save(renamed(state, prefix="student.") | renamed(other, prefix="teacher."), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"twice: by timm's names, prefix 'student\.', and .* 'teacher\.'"):
        obtained(tmp_path / "w.pth", VIT)
    entry = OwnInit(file=str(tmp_path / "w.pth"), backbone=VIT, prefix="teacher.", drop=("student.*",))
    init = parse("mine", "resnet50", {"mine": entry})
    store.obtain(init, tmp_path)
    assert torch.equal(store.state(init, tmp_path, 0, "one")["norm.weight"], other["norm.weight"])


def test_a_rule_renames(tmp_path: Path) -> None:
    state = drawn(VIT)
    odd = renamed(state, (r"^blocks\.(\d+)\.", r"tower.layer\1."), (r"attn\.", "sa."), prefix="net.")
    torch.save(odd, tmp_path / "w.pth")
    rules = {r"^tower\.layer(\d+)\.": r"blocks.\1.", r"\.sa\.": ".attn."}
    entry = OwnInit(file=str(tmp_path / "w.pth"), backbone=VIT, prefix="net.", rename=rules)
    init = parse("mine", "resnet50", {"mine": entry})
    receipt = store.obtain(init, tmp_path)
    assert receipt is not None
    assert receipt.keys["blocks.1.attn.proj.bias"] == "net.tower.layer1.sa.proj.bias"
    assert receipt.tensors_sha256 == convert.digest(state)
    assert "renamed by 2 rules" in receipt.layout
    both = parse("mine", "", {"mine": OwnInit(file=entry.file, backbone=VIT, rename={r"layer\d+": "layer"})})
    with pytest.raises(UserError, match=r"layer0.* and .*layer1.* both become"):
        store.obtain(both, tmp_path)
    with pytest.raises(UserError, match=r"inits\.\*\.rename"):
        OwnInit(file="w.pth", backbone=VIT, rename={"(": "x"})
    with pytest.raises(UserError, match="invalid group reference"):
        OwnInit(file="w.pth", backbone=VIT, rename={"a": r"\2"})


def test_a_checkpoint_in_several_files_is_read_by_its_index(tmp_path: Path) -> None:
    state = drawn(VIT)
    names = list(state)
    parts = {f"model-0000{n}-of-00003.safetensors": names[n - 1 :: 3] for n in (1, 2, 3)}
    for name, keys in parts.items():
        save_file({key: state[key] for key in keys}, tmp_path / name)
    index = tmp_path / "model.safetensors.index.json"
    places = {key: name for name, keys in parts.items() for key in keys}
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    receipt, _ = obtained(index, VIT)
    assert receipt.tensors_sha256 == convert.digest(state)
    assert [Path(file.address).name for file in receipt.files] == [index.name, *parts]
    assert receipt.container == "shards"
    first, second, third = (tmp_path / name for name in parts)
    with pytest.raises(UserError, match="name their index"):
        obtained(first, VIT)
    save_file({key: state[key] + 1 for key in parts[second.name]}, second)  # a part that changed is read again
    assert obtained(index, VIT)[0].tensors_sha256 != receipt.tensors_sha256
    save_file({key: state[key] for key in parts[second.name][1:]}, second)
    with pytest.raises(UserError, match=rf"{second.name} holds 1 tensors that it does not hold"):
        obtained(index, VIT)
    third.unlink()
    with pytest.raises(UserError, match=rf"lists 3 files, 1 of which are not beside it \({third.name}\)"):
        obtained(index, VIT)
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(UserError, match="outside of its folder"):
        obtained(index, VIT)


def test_rotary_positions_that_timm_computes_otherwise_are_refused(tmp_path: Path) -> None:
    backbone = "vit_small_patch16_dinov3:depth=2:img_size=64"
    model = backbones.bare_backbone(backbone)
    own = dict(model.named_buffers())["rope.periods"]
    state = drawn(backbone) | {"rope_embed.periods": own.bfloat16()}
    torch.save(state, tmp_path / "w.pth")
    receipt, _ = obtained(tmp_path / "w.pth", backbone)
    assert receipt.dropped == {"rope_embed.*": ("rope_embed.periods",)}
    torch.save(state | {"rope_embed.periods": 3 * own}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"rope_embed\.periods is not what timm computes"):
        obtained(tmp_path / "other.pth", backbone)


def test_a_matrix_of_zeros_was_not_written(tmp_path: Path) -> None:
    state = drawn(VIT)
    torch.save(state | {"blocks.1.attn.qkv.weight": torch.zeros(576, 192)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"1 matrices hold zeros alone \(blocks\.1\.attn\.qkv\.weight\)"):
        obtained(tmp_path / "w.pth", VIT)


def test_heads_beside_a_prefix_that_a_rule_gives_are_left_out(tmp_path: Path) -> None:
    state = renamed(drawn(VIT), prefix="module.encoder_q.")
    torch.save(state | {"module.queue": torch.ones(3, 3), "module.queue_ptr": torch.ones(1)}, tmp_path / "w.pth")
    entry = OwnInit(file=str(tmp_path / "w.pth"), backbone=VIT, prefix="module.encoder_q.")
    receipt = store.obtain(parse("mine", "", {"mine": entry}), tmp_path)
    assert receipt is not None
    assert {key for keys in receipt.dropped.values() for key in keys} == {"module.queue", "module.queue_ptr"}


# ---- damaged files

BROKEN = (
    "dinov2",
    "dinov2 with registers",
    "chunks",
    "mae",
    "sam",
    "torchvision",
    "eva",
    "layer scale",
    "transformers",
)


def damaged(state: State, used: list[str], what: str, dice: random.Random) -> tuple[State, str]:
    """Damages one tensor of those that the backbone is made of; returns what is left, and the key."""
    key = dice.choice(used)
    if what == "dropped":
        return {name: tensor for name, tensor in state.items() if name != key}, key
    if what == "renamed":
        place = dice.randrange(len(key))
        return {key[:place] + "x" + key[place:] if name == key else name: t for name, t in state.items()}, key
    if what == "reshaped":
        tensor = state[key]
        shapes = [(tensor.numel(), 1), (2, -1), tuple(reversed(tensor.shape)), (1, *tensor.shape, 1, 1)]
        fitting = [s for s in shapes if s != tuple(tensor.shape) and (-1 not in s or tensor.numel() % 2 == 0)]
        return state | {key: tensor.reshape(dice.choice(fitting))}, key
    matrices = [name for name in used if state[name].ndim > 1 and state[name].numel() >= 256]
    key = dice.choice(matrices)
    twins = [name for name in matrices if name != key and state[name].shape == state[key].shape]
    return (state | {key: state[dice.choice(twins)].clone()}, key) if twins else damaged(state, used, "dropped", dice)


@pytest.mark.parametrize(
    "count", [pytest.param(32, id="a few"), pytest.param(1000, id="a thousand", marks=pytest.mark.slow)]
)
def test_no_damaged_file_loads(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose backbone lacks a tensor is refused, or every tensor is still the one that was saved."""
    dice = random.Random(11)
    whole: list[tuple[Initialization, locate.Checkpoint, read.Content, str, list[str]]] = []
    for name in BROKEN if count > 100 else BROKEN[-4:-1]:
        folder = tmp_path / name.replace(" ", "_")
        folder.mkdir()
        if name == "transformers":
            backbone, *_ = made_by_transformers("ViT", folder)
            path = folder / "model.safetensors"
        else:
            backbone, path = CASES[name].backbone, folder / "w.pth"
            torch.save(CASES[name].write(drawn(backbone)), path)
        init = parse(f"file:{path}@{backbone}", "resnet50")
        checkpoint = locate.find(init, tmp_path)
        receipt, _ = convert.convert(init, checkpoint)
        used = sorted({key for keys in receipt.keys.values() for key in keys.split(" + ")})
        whole.append((init, checkpoint, read.read(path), receipt.tensors_sha256, used))
    loaded = []
    for number in range(count):
        init, checkpoint, content, sha256, used = whole[number % len(whole)]
        what = ("dropped", "renamed", "reshaped", "copied")[number // len(whole) % 4]
        tensors, key = damaged(content.tensors, used, what, dice)
        broken = read.Content(tensors, content.container, content.beside, content.place, content.others)
        monkeypatch.setattr(read, "read", lambda *_, broken=broken: broken)
        with contextlib.suppress(UserError):
            receipt, _ = convert.convert(init, checkpoint)
            if receipt.tensors_sha256 != sha256:
                loaded.append((init.record.name, what, key))
    assert not loaded


def test_an_exchange_of_two_tensors_changes_the_hash_alone(tmp_path: Path) -> None:
    """Names are all that tells two blocks apart: what a published hash, where there is one, guards against."""
    state = drawn(VIT)
    first, second = "blocks.0.attn.proj.weight", "blocks.2.attn.proj.weight"
    save_file(state, tmp_path / "whole.safetensors")
    save_file(state | {first: state[second], second: state[first]}, tmp_path / "exchanged.safetensors")
    whole, _ = obtained(tmp_path / "whole.safetensors", VIT)
    exchanged, _ = obtained(tmp_path / "exchanged.safetensors", VIT)
    assert whole.tensors_sha256 != exchanged.tensors_sha256
    assert whole.files[0].sha256 != exchanged.files[0].sha256
