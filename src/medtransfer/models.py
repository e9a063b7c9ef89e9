"""Backbone + head (timm) and encoder + decoder (segmentation-models-pytorch), filled with an initialization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.base import initialization
from torch import Tensor, nn

from medtransfer import backbones
from medtransfer.errors import UserError

STRIDE = 32
"""pixels: total stride of a U-Net encoder of depth 5; its input side must be a multiple"""


class Classifier(nn.Module):
    """A timm backbone with a new linear head that returns one logit per label."""

    def __init__(self, backbone: str, labels: int) -> None:
        super().__init__()
        self.backbone = backbones.bare_backbone(backbone)
        features: Any = self.backbone.num_features
        self.head = nn.Linear(int(features), labels)
        nn.init.normal_(self.head.weight, std=0.01)  # as published
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns logits, (B, labels)."""
        logits: Tensor = self.head(self.backbone(inputs))
        return logits


def classifier(backbone: str, labels: int, tensors: Mapping[str, Tensor], head_seed: int) -> nn.Module:
    """Builds a classifier whose backbone holds `tensors` and whose head is drawn from `head_seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(head_seed)
        model = Classifier(backbone, labels)
        torch.manual_seed(head_seed)  # once more: backbones differ in what they draw before the head
        nn.init.normal_(model.head.weight, std=0.01)
    backbones.load_into(model.backbone, tensors, backbone)
    return model


def segmenter(backbone: str, labels: int, tensors: Mapping[str, Tensor], head_seed: int) -> nn.Module:
    """Builds a U-Net (Ronneberger et al., 2015) on the backbone: depth 5, decoder 256-128-64-32-16, a logit per label.

    The decoder is drawn from `head_seed`, as published it is always random.

    Raises:
        UserError: the backbone offers no feature maps that a U-Net can use.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(head_seed)
        try:
            model: Any = smp.Unet(f"tu-{backbone}", encoder_weights=None, in_channels=3, classes=labels)
        except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise UserError(f"backbone {backbone} cannot be the encoder of a U-Net: {error}") from error
        torch.manual_seed(head_seed)  # once more: encoders differ in what they draw before the decoder
        initialization.initialize_decoder(model.decoder)
        initialization.initialize_head(model.segmentation_head)
    backbones.load_into(model.encoder.model, tensors, backbone)
    return cast(nn.Module, model)
