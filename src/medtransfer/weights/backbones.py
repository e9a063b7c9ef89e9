"""timm backbones: built bare, drawn from a seed, filled with tensors in timm's layout, fitted to an input side."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from timm.layers import Conv2dSame, create_pool2d, resample_abs_pos_embed, resample_abs_pos_embed_nhwc
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from medtransfer.core.errors import UserError, some
from medtransfer.weights import architectures


def bare_backbone(name: str, image_size: int | None = None) -> nn.Module:
    """Builds a timm backbone without its classifier, with timm's random weights; None: for the published side."""
    model: nn.Module = architectures.create(name, image_size, num_classes=0)
    return model


def bare_state(backbone: str, seed: int, random_last_bn: str) -> dict[str, Tensor]:
    """Draws a backbone from a seed as timm does; `random_last_bn` says what timm's zeroed batch norms get."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = bare_backbone(backbone)
    for module in model.modules():
        zeroed = isinstance(module, nn.BatchNorm2d) and module.affine and not bool(module.weight.any())
        if zeroed and random_last_bn == "one":
            nn.init.ones_(module.weight)  # type: ignore[arg-type]  # a batch norm's weight is a parameter
    return dict(model.state_dict())


@functools.lru_cache(maxsize=64)
def shapes(name: str, image_size: int | None = None) -> Mapping[str, torch.Size]:
    """Returns the shape of every tensor of a bare backbone; None: at the published side."""
    if image_size and not architectures.sized(name):
        return shapes(name)
    with torch.device("meta"):
        return {key: tensor.shape for key, tensor in bare_backbone(name, image_size).state_dict().items()}


@functools.lru_cache(maxsize=64)
def width(name: str, image_size: int) -> int:
    """Returns the number of features that the bare backbone gives; timm's `num_features` is that before its head."""
    with torch.device("meta"), torch.inference_mode():
        features: Tensor = bare_backbone(name, image_size).eval()(torch.empty(2, 3, image_size, image_size))
    return features.shape[-1]


@functools.lru_cache(maxsize=64)
def operations(name: str, image_size: int) -> float:
    """Counts the floating-point operations of a backbone's features of one image (torch's counter: 2 per product)."""
    with torch.device("meta"):
        module = bare_backbone(name, image_size).eval()
        image = torch.empty(1, 3, image_size, image_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(image)
    return float(counter.get_total_flops())


def sources(own: Iterable[str], given: Iterable[str]) -> dict[str, str | None]:
    """Finds for each key of a backbone, or of timm's feature extractor of it, its key in the backbone; None: nowhere.

    timm's feature extractors join the first two parts of a key (`stages.0.x` becomes `stages_0.x`) or put `model.` or
    `body.` before it, and leave out what comes after the last feature map.
    """
    names: dict[str, str] = {}
    for key in given:
        names |= {key.replace(".", "_", 1): key, f"model.{key}": key, f"body.{key}": key}
    names |= {key: key for key in given}
    return {key: names.get(key) for key in own}


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], backbone: str) -> None:
    """Fills a backbone, or timm's feature extractor of it, with backbone tensors; every one of its own is set.

    Raises:
        UserError: the module has a tensor that the weights lack.
    """
    found = sources(module.state_dict(), tensors)
    missing = tuple(key for key, source in found.items() if source is None)
    if missing:
        raise UserError(f"weights of {backbone} lack {len(missing)} tensors of its encoder {some(missing)}")
    module.load_state_dict({key: tensors[source] for key, source in found.items() if source}, strict=True)


def fitted(module: nn.Module, tensors: Mapping[str, Tensor], backbone: str, image_size: int) -> Mapping[str, Tensor]:
    """Resamples those tensors of the published side whose shape depends on the input's side; no other is touched.

    The resampling is timm's own: that of its loading code for the architecture or, for a square grid of position
    embeddings without class token that this leaves alone (as Hiera's), `timm.layers.resample_abs_pos_embed`; SAM's are
    resampled as its own code does.

    Args:
        module: what is filled: the backbone built for `image_size`, or a feature extractor of it.
        tensors: of the backbone at its published side.
        backbone: timm architecture.
        image_size: side of the input, in pixels.

    Raises:
        UserError: timm has no rule for one of them.
    """
    published, here = shapes(backbone), shapes(backbone, image_size)
    needed = set(sources(module.state_dict(), tensors).values())
    sized = [key for key in here if key in needed and here[key] != published[key]]
    if not sized:
        return tensors
    overlay = {"state_dict": dict(tensors), "custom_load": False, "classifier": None}  # no classifier: loads strictly
    options: Any = {"num_classes": 0, "pretrained": True, "pretrained_cfg_overlay": overlay}
    try:
        loaded = architectures.create(backbone, image_size, **options).state_dict()
    except (RuntimeError, UserError):  # a shape that timm's code does not change
        loaded = {key: _regridded(key, tensors[key], here[key], backbone) for key in sized}
    return {**tensors, **{key: loaded[key] for key in sized}}


def backbone_of(backbone: str, network: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Takes the backbone out of a trained network, head or projector left behind: timm's keys, at the published side.

    Tensors whose shape depends on the input's side, such as position embeddings, are resampled by timm's own rule.

    Raises:
        UserError: the network lacks tensors of the backbone, or timm has no rule for one of them.
    """
    wanted = shapes(backbone)
    found = {key: network[f"backbone.{key}"].contiguous() for key in wanted if f"backbone.{key}" in network}
    if found.keys() != wanted.keys():
        raise UserError(
            f"the trained network lacks {len(wanted) - len(found)} of the {len(wanted)} tensors of {backbone}"
        )
    sized = [key for key, shape in wanted.items() if found[key].shape != shape]
    return found | _resampled(backbone, found, sized) if sized else found


def _resampled(backbone: str, tensors: Mapping[str, Tensor], sized: Sequence[str]) -> dict[str, Tensor]:
    overlay = {"state_dict": dict(tensors), "custom_load": False, "classifier": None}  # no classifier: loads strictly
    try:
        model = architectures.create(backbone, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0)
    except RuntimeError as error:
        raise UserError(
            f"timm cannot bring {', '.join(sized)} of {backbone} back to the side "
            f"{architectures.published_side(backbone)} of its published weights; set pretraining.image_size to that"
        ) from error
    return {key: model.state_dict()[key].contiguous() for key in sized}


def _regridded(key: str, tensor: Tensor, shape: torch.Size, backbone: str) -> Tensor:
    """Resamples a square grid of position embeddings, (1, side * side, channels), or those of SAM.

    SAM's embeddings are (1, height, width, channels), its places relative to a token (2 * side - 1, channels), which
    its own code interpolates along the side.
    """
    if tensor.ndim == 4 and key.endswith("pos_embed") and tensor.shape[-1] == shape[-1]:
        moved: Tensor = resample_abs_pos_embed_nhwc(tensor, list(shape[1:3]))
        return moved
    if tensor.ndim == 2 and key.endswith(("rel_pos_h", "rel_pos_w")):
        return functional.interpolate(tensor.T[None], size=shape[0], mode="linear")[0].T.contiguous()
    tokens = (tensor.shape[1], shape[1])
    square = tensor.ndim == 3 and len(tensor) == 1 and all(math.isqrt(count) ** 2 == count for count in tokens)
    if not square or not key.endswith("pos_embed"):
        raise UserError(f"timm has no rule that fits {key} of {backbone} to another side")
    side = math.isqrt(shape[1])
    resampled: Tensor = resample_abs_pos_embed(tensor, [side, side], num_prefix_tokens=0)
    return resampled


def same_padding(module: nn.Module, kind: str) -> None:
    """Lets a network pad as TensorFlow's SAME does (more at the end than at the start), in place; no key changes.

    torch pads both sides alike. With stride 1 and an odd kernel the two agree, and 1x1 kernels pad nothing.

    Args:
        module: a convolutional network.
        kind: `pool`: max-pools only (SimCLR); `all`: every strided convolution too (BYOL); empty: nothing.
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if kind and isinstance(child, nn.MaxPool2d):  # timm pads it with minus infinity
                setattr(parent, name, create_pool2d("max", child.kernel_size, child.stride, padding="same"))
            elif kind == "all" and isinstance(child, nn.Conv2d) and max(child.stride) > 1:
                setattr(parent, name, _same_convolution(child))


def _same_convolution(conv: nn.Conv2d) -> nn.Module:
    shape = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride)
    same: nn.Conv2d = Conv2dSame(*shape, dilation=conv.dilation, groups=conv.groups, bias=conv.bias is not None)
    same.weight, same.bias = conv.weight, conv.bias
    return same
