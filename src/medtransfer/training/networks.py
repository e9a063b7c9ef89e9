"""Backbone + head (timm) and encoder + decoder (segmentation-models-pytorch), filled with an initialization."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, cast

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.base import SegmentationHead, initialization
from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder, DPTSegmentationHead
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from segmentation_models_pytorch.encoders.timm_vit import TimmViTEncoder
from torch import Tensor, nn

from medtransfer.core.errors import UserError, one_line
from medtransfer.training.fitting import BackboneSpec, NetworkSpec, nominal, resolved_decoder
from medtransfer.weights import architectures, backbones

CHANNELS = 256
"""of the UPerNet's and the DPT's feature maps, as segmentation-models-pytorch sets them"""


class Classifier(nn.Module):
    """A timm backbone with a new linear head that returns one logit per label."""

    def __init__(self, backbone: str, labels: int, image_size: int) -> None:
        super().__init__()
        self.architecture = backbone
        self.backbone = backbones.bare_backbone(backbone, image_size)
        self.head = nn.Linear(backbones.width(backbone, image_size), labels)
        nn.init.normal_(self.head.weight, std=0.01)  # as published
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns logits, (B, labels)."""
        logits: Tensor = self.head(self.backbone(inputs))
        return logits


class Pyramid(nn.Module):
    """timm's feature maps of stride 4 and more, channels first, in the form that the UPerNet decoder takes."""

    def __init__(self, backbone: str, image_size: int) -> None:
        super().__init__()
        self.name = backbone
        self.model: Any = architectures.create(backbone, image_size, features_only=True)
        self.channels_last = getattr(self.model, "output_fmt", None) == "NHWC"
        self.skipped = sum(stride < 4 for stride in self.model.feature_info.reduction())
        self.out_channels = [3, 0, *self.model.feature_info.channels()[self.skipped :]]

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """Returns the maps, (B, C, S / stride, S / stride), behind two places that the decoder leaves out."""
        maps = self.model(inputs)[self.skipped :]
        if self.channels_last:
            maps = [each.permute(0, 3, 1, 2).contiguous() for each in maps]
        return [inputs, inputs, *maps]


class Segmenter(nn.Module):
    """An encoder, a decoder that takes what the encoder gives, and a head."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder, self.segmentation_head = encoder, decoder, head

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns logits at the input's size, (B, labels, S, S)."""
        features = self.encoder(inputs)
        decoded = self.decoder(*features) if isinstance(features, tuple) else self.decoder(features)
        logits: Tensor = self.segmentation_head(decoded)
        if logits.shape[-2:] == inputs.shape[-2:]:
            return logits
        return F.interpolate(logits, inputs.shape[-2:], mode="bilinear", align_corners=False)


def classifier(spec: BackboneSpec, labels: int, tensors: Mapping[str, Tensor], head_seed: int) -> nn.Module:
    """Builds a classifier whose backbone holds `tensors` and whose head is drawn from `head_seed`.

    Args:
        spec: of the backbone.
        labels: number of logits.
        tensors: of the backbone, at its published side.
        head_seed: of the head.

    Raises:
        UserError: the tensors do not fit the backbone at this side.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(head_seed)
        model = Classifier(spec.backbone, labels, spec.image_size)
        torch.manual_seed(head_seed)  # once more: backbones differ in what they draw before the head
        nn.init.normal_(model.head.weight, std=0.01)
    _fill(model.backbone, tensors, spec)
    return model


def backbone(spec: BackboneSpec, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Builds a bare backbone that holds `tensors`: no head, no decoder.

    Args:
        spec: of the backbone.
        tensors: of the backbone, at its published side.

    Raises:
        UserError: the tensors do not fit the backbone at this side.
    """
    with torch.random.fork_rng(devices=[]):
        module = backbones.bare_backbone(spec.backbone, spec.image_size)
    _fill(module, tensors, spec)
    return module


def pyramid(spec: BackboneSpec, tensors: Mapping[str, Tensor]) -> Pyramid:
    """Builds a backbone that gives its feature maps and holds `tensors`.

    Raises:
        UserError: the tensors do not fit the backbone at this side.
    """
    with torch.random.fork_rng(devices=[]):
        encoder = Pyramid(spec.backbone, spec.image_size)
    _fill(encoder.model, tensors, spec)
    return encoder


def segmenter(spec: NetworkSpec, labels: int, tensors: Mapping[str, Tensor], head_seed: int) -> nn.Module:
    """Builds an encoder that holds `tensors` with a decoder and a head, drawn from `head_seed`: always random.

    Args:
        spec: of the network.
        labels: number of logits per pixel.
        tensors: of the backbone, at its published side.
        head_seed: of decoder and head.

    Raises:
        UserError: the backbone offers no feature maps that the decoder can use, or the tensors do not fit it.
    """
    build = {"unet": _unet, "upernet": _upernet, "dpt": _dpt}[resolved_decoder(spec.backbone, spec.decoder)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(head_seed)
        try:
            model: Any = build(spec.backbone, labels, head_seed, spec.image_size)
        except architectures.REFUSALS as error:
            reason = one_line(error)
            decoder = build.__name__[1:]
            raise UserError(f"backbone {spec.backbone} cannot be the encoder of {decoder}: {reason}") from error
        torch.manual_seed(head_seed)  # once more: encoders differ in what they draw before the decoder
        initialization.initialize_decoder(model.decoder)
        initialization.initialize_head(model.segmentation_head)
    model.encoder.name = spec.backbone  # with what timm was told of it
    _fill(model.encoder.model, tensors, spec)
    return cast(nn.Module, model)


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], spec: BackboneSpec) -> None:
    fitted = backbones.fitted(module, tensors, spec.backbone, spec.image_size)
    backbones.load_into(module, fitted, spec.backbone)
    backbones.same_padding(module, spec.padding)


def _unet(backbone: str, labels: int, head_seed: int, image_size: int) -> nn.Module:
    """Builds a U-Net (Ronneberger et al., 2015): depth 5, decoder 256-128-64-32-16."""
    architecture, arguments = architectures.told(backbone, image_size)
    model = smp.Unet(f"tu-{architecture}", encoder_weights=None, in_channels=3, classes=labels, **arguments)
    return cast(nn.Module, model)


def _upernet(backbone: str, labels: int, head_seed: int, image_size: int) -> nn.Module:
    """Builds a UPerNet (Xiao et al., ECCV 2018) on the feature maps of stride 4 and more, with a norm on each."""
    encoder = Pyramid(backbone, image_size)
    depth, finest = len(encoder.out_channels) - 1, encoder.model.feature_info.reduction()[encoder.skipped]
    torch.manual_seed(head_seed)
    decoder = UPerNetDecoder(encoder.out_channels, depth, CHANNELS)
    return Segmenter(encoder, decoder, SegmentationHead(CHANNELS, labels, kernel_size=1, upsampling=finest))


def _dpt(backbone: str, labels: int, head_seed: int, image_size: int) -> nn.Module:
    """Builds a DPT (Ranftl et al., ICCV 2021) on four evenly spaced blocks of a plain vision transformer.

    A block's output is taken as it is: the last norm of the backbone is loaded and not used, as in the paper, in timm's
    feature extractors and in segmentation-models-pytorch. The class token, if there is one, is read out by projection.
    """
    architecture, arguments = architectures.told(backbone, image_size)
    encoder = TimmViTEncoder(architecture, pretrained=False, num_classes=0, **arguments)
    if "return_prefix_tokens" not in inspect.signature(encoder.model.forward_intermediates).parameters:
        encoder.has_prefix_tokens = False  # such as CaiT, whose class token enters behind these blocks
    torch.manual_seed(head_seed)
    decoder = DPTDecoder(
        encoder.out_channels,
        [nominal(stride) for stride in encoder.output_strides],
        encoder.has_prefix_tokens,
        readout="cat" if encoder.has_prefix_tokens else "ignore",
        fusion_channels=CHANNELS,
    )
    return Segmenter(encoder, decoder, DPTSegmentationHead(CHANNELS, labels))


def pretrained_part(model: nn.Module) -> tuple[str, nn.Module]:
    """Returns the architecture and the backbone, or timm's feature extractor of it, of a network built here."""
    if isinstance(model, Classifier):
        return model.architecture, model.backbone
    encoder: Any = model.encoder
    return encoder.name, encoder.model
