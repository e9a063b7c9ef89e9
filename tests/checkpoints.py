"""Fake published checkpoints: the true container and key layout around the tensors of a timm backbone.

Each layout is written down from its publisher's own code, not from the converter that is tested on it. What is not
the backbone is random: a converter that takes a key encoder or an averaged copy for it is caught.
"""

from __future__ import annotations

import tempfile
import zipfile
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests import writers

State = dict[str, Tensor]
Arrays = dict[str, NDArray[Any]]

_DRAWN = torch.Generator().manual_seed(3)
SWIN, CONVNEXT = "swin_base_patch4_window7_224", "convnext_base"


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=_DRAWN)


def another(state: Mapping[str, Tensor]) -> State:
    """A second network of the same shapes, with other numbers."""
    return {key: drawn(*tensor.shape) if tensor.is_floating_point() else tensor for key, tensor in state.items()}


def under(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


def linear(name: str, inputs: int, outputs: int) -> State:
    return {f"{name}.weight": drawn(outputs, inputs), f"{name}.bias": drawn(outputs)}


def norm(name: str, width: int) -> State:
    running = {f"{name}.running_mean": drawn(width), f"{name}.running_var": drawn(width).abs()}
    return {f"{name}.weight": drawn(width), f"{name}.bias": drawn(width), **running}


def mlp(name: str, hidden: int = 2048, outputs: int = 128) -> State:
    return linear(f"{name}.0", 2048, hidden) | linear(f"{name}.2", hidden, outputs)


TRAINING: dict[str, Any] = {"epoch": 7, "arch": "resnet50", "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}}
"""what training code leaves beside a state dict"""


def supervised(state: State, path: Path, prefix: str = "", classes: int = 1000) -> None:
    """`state_dict` in a dict: newt's `pt_resnet_feature_extractor.py`, BenchmarkTransferLearning's `Version1`."""
    torch.save({"state_dict": under(prefix, state | linear("fc", 2048, classes)), **TRAINING}, path)


def contrast(state: State, path: Path, head: State) -> None:
    """`model` beside an averaged copy and a memory bank: PyContrast's `learning/contrast_trainer.py`."""
    copy = under("encoder.", another(state))
    rest = {"model_ema": copy, "contrast": {"memory_1": drawn(64, 128)}, **TRAINING}
    torch.save({"model": under("module.", under("encoder.", state) | head), **rest}, path)


def moco(state: State, path: Path, head: State) -> None:
    """Query and key encoder with heads and a queue: `main_moco.py` of MoCo, `pcl/builder.py` of PCL."""
    query, key = under("module.encoder_q.", state | head), under("module.encoder_k.", another(state | head))
    queue = {"module.queue": drawn(128, 256), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    torch.save({"state_dict": query | key | queue, **TRAINING}, path)


def prototypes(state: State, path: Path, heads: State) -> None:
    """A bare state dict with projection head and prototypes: swav's `src/resnet50.py`."""
    projection = linear("projection_head.0", 2048, 2048) | norm("projection_head.1", 2048)
    projection |= linear("projection_head.3", 2048, 128)
    torch.save(under("module.", state | projection | heads), path)


def moco_v3(state: State, path: Path, head: str) -> None:
    """Base and momentum encoder and a predictor: moco-v3's `moco/builder.py`, `main_moco.py`."""
    base = under("module.base_encoder.", state | mlp(head, 4096, 256))
    momentum = under("module.momentum_encoder.", another(state) | mlp(head, 4096, 256))
    torch.save({"state_dict": base | momentum | linear("module.predictor.0", 256, 4096), **TRAINING}, path)


def raw(state: State, path: Path) -> None:
    """A bare state dict without a head: hubconf.py of Barlow Twins, VICReg and DINO."""
    torch.save(state, path)


def radimagenet(state: State, path: Path) -> None:
    """The first nine children of torchvision's ResNet in a Sequential: `pytorch_example.ipynb` of RadImageNet."""
    places = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    split = [(key.partition("."), tensor) for key, tensor in state.items()]
    torch.save({f"backbone.{places[first]}.{rest}": tensor for (first, _, rest), tensor in split}, path)


BLOCKS = (3, 4, 6, 3)
"""of a ResNet-50's four groups"""


def tensorflow(state: State, prefix: str) -> Arrays:
    """SimCLR's variables, numbered in the order in which its `resnet.py` makes them: a block's shortcut first."""
    made = [("conv1", "bn1")]
    for group, blocks in enumerate(BLOCKS, 1):
        for block in range(blocks):
            place = f"layer{group}.{block}"
            made += [(f"{place}.downsample.0", f"{place}.downsample.1")] * (block == 0)
            made += [(f"{place}.conv{k}", f"{place}.bn{k}") for k in (1, 2, 3)]
    arrays: Arrays = {}
    for number, (conv, bn) in enumerate(made):
        suffix = f"_{number}" if number else ""
        arrays[f"{prefix}conv2d{suffix}/kernel"] = state[f"{conv}.weight"].permute(2, 3, 1, 0).contiguous().numpy()
        place = f"{prefix}batch_normalization{suffix}"
        arrays[f"{place}/gamma"], arrays[f"{place}/beta"] = state[f"{bn}.weight"].numpy(), state[f"{bn}.bias"].numpy()
        arrays[f"{place}/moving_mean"] = state[f"{bn}.running_mean"].numpy()
        arrays[f"{place}/moving_variance"] = state[f"{bn}.running_var"].numpy()
    assert number == 52
    return arrays


def simclr_v1(state: State, path: Path) -> None:
    """A zip around a TF1 checkpoint: google-research/simclr README, tonylins/simclr-converter `convert.py`."""
    head = {f"head_supervised/linear_layer/dense/{k}": np.zeros(s, np.float32) for k, s in HEAD_SUPERVISED.items()}
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "model.ckpt-225206"
        writers.write_tf_bundle(prefix, tensorflow(state, "base_model/") | head | {"global_step": np.array(225206)})
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(Path(folder).iterdir()):
                archive.write(file, f"ResNet50_1x/{file.name}")
            archive.writestr("ResNet50_1x/checkpoint", 'model_checkpoint_path: "model.ckpt-225206"\n')


HEAD_SUPERVISED = {"kernel": (2048, 1000), "bias": (1000,)}


def simclr_v2(state: State, path: Path) -> None:
    """A TF1 checkpoint with an averaged copy and the optimizer's slots: Separius/SimCLRv2-Pytorch `convert.py`."""
    model, slot = tensorflow(state, "base_model/"), np.zeros(4, np.float32)
    heads: Arrays = {f"head_contrastive/nl_{n}/dense/kernel": slot for n in range(3)}
    heads |= {f"head_supervised/linear_layer/dense/{k}": np.zeros(s, np.float32) for k, s in HEAD_SUPERVISED.items()}
    slots = {f"{key}/Momentum": slot for key in (*model, *heads) if "moving" not in key}
    average = tensorflow(another(state), "ema_model/base_model/")
    step: Arrays = {"global_step": np.array(250228)}
    writers.write_tf_bundle(path.with_suffix(""), model | heads | slots | average | step)


def haiku(state: State) -> tuple[dict[str, Arrays], dict[str, Arrays]]:
    """Parameters and states of haiku's ResNet: byol's `utils/networks.py`, ajtejankar/byol-convert `convert.py`."""
    params: dict[str, Arrays] = {}
    states: dict[str, Arrays] = {}
    for key, tensor in state.items():
        place, _, leaf = key.rpartition(".")
        module = haiku_module(place)
        if tensor.ndim == 4:
            params[module] = {"w": tensor.permute(2, 3, 1, 0).contiguous().numpy()}
        elif leaf in ("weight", "bias"):
            wide = tensor.reshape(1, 1, 1, -1).numpy()
            params.setdefault(module, {})["scale" if leaf == "weight" else "offset"] = wide
        elif leaf.startswith("running_"):
            wide = tensor.reshape(1, 1, 1, -1).numpy()
            average = {"average": wide, "hidden": wide * 0.9, "counter": np.array(7, np.int32)}
            states[f"{module}/~/{leaf.removeprefix('running_')}_ema"] = average
    return params, states


def haiku_module(place: str) -> str:
    if place in ("conv1", "bn1"):
        return f"res_net50/~/initial_{'conv' if place == 'conv1' else 'batchnorm'}"
    layer, block, part = place.split(".", 2)
    names = {"downsample.0": "shortcut_conv", "downsample.1": "shortcut_batchnorm"}
    names |= {f"conv{k}": f"conv_{k - 1}" for k in (1, 2, 3)} | {f"bn{k}": f"batchnorm_{k - 1}" for k in (1, 2, 3)}
    return f"res_net50/~/block_group_{int(layer[-1]) - 1}/~/block_{block}/~/{names[part]}"


def byol(state: State, path: Path) -> None:
    """A pickle of online and target networks: byol's `utils/checkpointing.py` and `byol_experiment.py`."""
    (params, states), (other_params, other_states) = haiku(state), haiku(another(state))
    weight: Arrays = {"w": np.zeros((16, 4), np.float32)}
    scale: Arrays = {"scale": np.ones(4, np.float32), "offset": np.zeros(4, np.float32)}
    heads = {"projector/linear": weight, "projector/batch_norm": scale, "predictor/linear": weight}
    average: Arrays = {
        "average": np.zeros(4, np.float32),
        "hidden": np.zeros(4, np.float32),
        "counter": np.array(7, np.int32),
    }
    norms = {f"{head}/batch_norm/~/mean_ema": average for head in ("projector", "predictor")}
    writers.write_haiku_pickle(
        path,
        {
            "online_params": params | heads | {"classifier": weight},
            "target_params": other_params | heads,
            "online_state": states | norms,
            "target_state": other_states | norms,
            "opt_state": {"momentum": {"mu": np.zeros(4, np.float32)}},
        },
    )


def swin(state: State, path: Path) -> None:
    """The original Swin: patch merging ends a stage, and its masks and indices are saved (Swin-Transformer)."""
    result: State = {}
    for key, tensor in state.items():
        parts = key.split(".")
        if len(parts) > 2 and parts[2] == "downsample":
            parts[1] = str(int(parts[1]) - 1)
        result[".".join(parts)] = tensor
        if key.endswith("relative_position_bias_table"):
            result[f"{'.'.join(parts[:-1])}.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
    result["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    torch.save({"state_dict": under("module.", result | linear("head", 1024, 14)), **TRAINING}, path)


def convnext(state: State, path: Path) -> None:
    """The original ConvNeXt's names (facebookresearch/ConvNeXt `models/convnext.py`)."""
    names = {"stem.": "downsample_layers.0.", "head.norm.": "norm.", ".blocks.": ".", ".conv_dw.": ".dwconv."}
    names |= {".mlp.fc1.": ".pwconv1.", ".mlp.fc2.": ".pwconv2."}
    result: State = {}
    for key, tensor in state.items():
        stage, _, rest = key.partition(".downsample.")
        name = f"downsample_layers.{stage.rpartition('.')[2]}.{rest}" if rest else key
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        result[name] = tensor
    content = {"model": result | linear("head", 1024, 14), "epoch": 3, "args": Namespace(model="convnext_base")}
    torch.save(content, path)


WRITERS: dict[tuple[str, str], Callable[[State, Path], None]] = {
    (name, "resnet50"): write_one
    for name, write_one in {
        "inat2021": lambda s, p: supervised(s, p, classes=10000),
        "inat2021-mini": lambda s, p: supervised(s, p, "module.", 10000),
        "imagenet+inat2021": lambda s, p: supervised(s, p, classes=10000),
        "imagenet+inat2021-mini": lambda s, p: supervised(s, p, classes=10000),
        "insdis": lambda s, p: contrast(s, p, linear("head", 2048, 128)),
        "pirl": lambda s, p: contrast(s, p, linear("head", 2048, 128) | linear("head_jig.fc1", 2048, 128)),
        "infomin": lambda s, p: contrast(s, p, mlp("head") | mlp("head_jig.fc1")),
        "moco-v1": lambda s, p: moco(s, p, linear("fc", 2048, 128)),
        "moco-v2": lambda s, p: moco(s, p, mlp("fc")),
        "pcl-v1": lambda s, p: moco(s, p, linear("fc", 2048, 128)),
        "pcl-v2": lambda s, p: moco(s, p, mlp("fc")),
        "simclr-v1": simclr_v1,
        "simclr-v1-lightly": supervised,
        "simclr-v2": simclr_v2,
        "byol": byol,
        "swav": lambda s, p: prototypes(s, p, {"prototypes.weight": drawn(3000, 128)}),
        "sela-v2": lambda s, p: prototypes(s, p, {"prototypes.weight": drawn(3000, 128)}),
        "deepcluster-v2": lambda s, p: prototypes(
            s, p, {f"prototypes.prototypes{k}.weight": drawn(3000, 128) for k in range(3)}
        ),
        "barlow-twins": raw,
        "vicreg": raw,
        "dino": raw,
        "moco-v3": lambda s, p: moco_v3(s, p, "fc"),
        "random+chestxray14-published": lambda s, p: supervised(s, p, classes=14),
        "random+chexpert-published": lambda s, p: supervised(s, p, "module.", 14),
        "imagenet+chestxray14-published": lambda s, p: supervised(s, p, classes=14),
        "imagenet+chexpert-published": lambda s, p: supervised(s, p, "module.", 14),
        "imagenet+mimic-published": lambda s, p: supervised(s, p, "module.", 14),
        "radimagenet": radimagenet,
    }.items()
} | {
    ("moco-v3", "vit_base_patch16_224"): lambda s, p: moco_v3(s, p, "head"),
    ("imagenet+mimic-published", SWIN): swin,
    ("imagenet+mimic-published", CONVNEXT): convnext,
}
NAMES = tuple(WRITERS)


def write(name: str, backbone: str, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes the published file of an initialization around a backbone's tensors."""
    WRITERS[name, backbone](dict(tensors), path)
