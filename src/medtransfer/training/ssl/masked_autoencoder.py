"""The masked autoencoder: a plain vision transformer sees some patches of an image, the hidden ones are predicted.

He et al., Masked autoencoders are scalable vision learners, CVPR 2022.

Legend: B images of a batch, S the network's input side, P patches of an image, of F numbers each.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from lightly.models import modules
from lightly.models import utils as tokens
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from medtransfer.training import networks
from medtransfer.weights import architectures, backbones

DEPTH = 4
"""blocks of the decoder: fine-tuned, one is as good as the published eight (table 1a)"""
HEAD_WIDTH = 32
"""channels of one attention head of the decoder, as published"""


@functools.lru_cache(maxsize=64)
def is_plain(backbone: str) -> bool:
    """Says whether an architecture is timm's VisionTransformer with patches and position embeddings, nothing else."""
    with torch.device("meta"):
        model: Any = backbones.bare_backbone(backbone)
    plain = type(model) is VisionTransformer and type(model.patch_embed) is PatchEmbed
    return plain and model.pos_embed is not None


def shown(backbone: str, image_size: int, masked: float) -> int:
    """Counts the patches of an image that are not hidden: at least one, and at least one is hidden.

    Args:
        backbone: timm architecture.
        image_size: side of the input, in pixels.
        masked: share of the patches that is hidden.
    """
    patches = (image_size // architectures.patch_size(backbone)) ** 2
    return min(max(1, round(patches * (1 - masked))), patches - 1)


class MaskedAutoencoder(networks.Classifier):
    """A backbone that codes the patches that are shown, and a small transformer that predicts all from the codes.

    What timm puts behind the last norm (`fc_norm`, attention pooling) is not used and stays as it is.
    """

    def __init__(self, base: networks.Classifier, width: int, seen: int) -> None:
        """Takes over the backbone of a classifier; the decoder is drawn from torch's generator.

        Args:
            base: whose backbone it is.
            width: of the decoder's tokens.
            seen: patches of an image that are not hidden.
        """
        nn.Module.__init__(self)  # not the classifier's, which draws a backbone and a head
        self.architecture, self.backbone, self.seen = base.architecture, base.backbone, seen
        vit: Any = self.backbone
        skip = {"weight_initialization": "skip", "pos_embed_initialization": "skip"}
        # Inside a tuple, torch does not see the encoder, so that every tensor of the backbone has one name.
        self.encoder = (modules.MaskedVisionTransformerTIMM(vit=vit, **skip),)
        self.patch: int = vit.patch_embed.patch_size[0]
        self.prefix: int = vit.num_prefix_tokens
        self.embed = nn.Linear(vit.embed_dim, width)
        self.decoder = modules.MaskedVisionTransformerDecoderTIMM(
            num_patches=vit.patch_embed.num_patches, embed_dim=width, depth=DEPTH, num_heads=width // HEAD_WIDTH,
            num_prefix_tokens=self.prefix,
        )  # fmt: skip
        self.predict = nn.Linear(width, 3 * self.patch**2)

    def forward(self, inputs: Tensor) -> Tensor:
        """Predicts the patches of (B, 4, S, S), images and masks: (B, P, F)."""
        mask = _mask(inputs, self.patch)
        prefix = torch.arange(self.prefix, device=inputs.device).expand(len(inputs), -1)  # class token, registers
        places = mask.argsort(dim=1, stable=True)[:, : self.seen] + self.prefix
        keep = torch.cat([prefix, places], dim=1)
        code = self.embed(self.encoder[0].encode(inputs[:, :3], idx_keep=keep))
        length = mask.shape[1] + self.prefix
        blank = tokens.repeat_token(self.decoder.mask_token, (len(inputs), length)).to(code.dtype)
        decoded = self.decoder(tokens.set_at_index(blank, keep, code))
        patches: Tensor = self.predict(decoded[:, self.prefix :])
        return patches


def masked_loss(predicted: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean squared error over the hidden patches, each with its own mean and deviation taken out.

    Args:
        predicted: (B, P, F).
        targets: (B, 4, S, S), images and masks.
    """
    patch = targets.shape[-1] // math.isqrt(predicted.shape[1])
    wanted: Tensor = tokens.normalize_mean_var(tokens.patchify(targets[:, :3], patch))
    mask = _mask(targets, patch)
    return (((predicted - wanted) ** 2).mean(2) * mask).sum() / mask.sum()


def _mask(inputs: Tensor, patch: int) -> Tensor:
    """Reads the mask of the patches from the fourth channel: (B, P), 1 where hidden."""
    return inputs[:, 3, ::patch, ::patch].flatten(1)
