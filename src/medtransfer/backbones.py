"""timm backbones: built bare, drawn from a seed, filled with tensors in timm's layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import timm
import torch
from torch import Tensor, nn

from medtransfer.errors import UserError


def bare_backbone(name: str) -> nn.Module:
    """Builds a timm backbone without its classifier, with timm's random weights."""
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
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


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], backbone: str) -> None:
    """Fills a backbone, or timm's feature extractor of it, with backbone tensors; every one of its own is set.

    timm's feature extractors join the first two parts of a key (`stages.0.x` becomes `stages_0.x`) and leave out
    what comes after the last feature map.

    Raises:
        UserError: the module has a tensor that the weights lack.
    """
    joined = {key.replace(".", "_", 1): value for key, value in tensors.items()}
    own = module.state_dict()
    filled = {key: tensors[key] if key in tensors else joined.get(key) for key in own}
    missing = tuple(key for key, value in filled.items() if value is None)
    if missing:
        raise UserError(f"weights of {backbone} lack {len(missing)} tensors of its encoder {some(missing)}")
    module.load_state_dict(filled, strict=True)


def some(keys: Sequence[str]) -> str:
    """Names the first of many keys, for messages."""
    return f"({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})" if keys else ""
