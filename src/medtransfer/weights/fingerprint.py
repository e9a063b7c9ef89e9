"""What a backbone computes of a fixed input, as a few numbers: two machines that agree on them run the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from medtransfer.weights.backbones import bare_backbone, load_into, same_padding

FEATURES = 16
"""numbers of a fingerprint"""


def fixed_input(size: int) -> Tensor:
    """Returns the image that fingerprints are of, (1, 3, size, size): waves, the same on every machine."""
    t = torch.arange(size, dtype=torch.float64) / size
    waves = [torch.sin(7 * (c + 1) * t)[:, None] * torch.cos(5 * (c + 2) * t)[None, :] for c in range(3)]
    return torch.stack(waves)[None].float()


def fingerprint(backbone: str, tensors: Mapping[str, Tensor], padding: str) -> tuple[float, ...]:
    """Computes features of a fixed input, in evaluation mode with the padding of pre-training: evenly spaced ones.

    Two machines that load the same weights get the same numbers up to float32 rounding.
    """
    model = bare_backbone(backbone)
    load_into(model, tensors, backbone)
    same_padding(model, padding)
    return features(model)


def features(model: nn.Module) -> tuple[float, ...]:
    """Reads the evenly spaced features of the fixed input off a backbone."""
    config: Any = model.pretrained_cfg
    training = model.training
    with torch.inference_mode():
        flat = model.eval()(fixed_input(config["input_size"][-1])).double().flatten()
    model.train(training)
    step = max(1, len(flat) // FEATURES)
    return tuple(float(f"{value:.6g}") for value in flat[::step][:FEATURES].tolist())


def deviation(found: tuple[float, ...], expected: tuple[float, ...]) -> float:
    """Returns the largest difference of two fingerprints, as a fraction of the largest number in them."""
    scale = max(max(map(abs, expected)), 1e-12)
    return max(abs(a - b) for a, b in zip(found, expected, strict=True)) / scale
