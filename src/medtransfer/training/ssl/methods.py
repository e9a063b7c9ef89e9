"""Self-supervised objectives: what the training loop needs to train a backbone on images without labels.

Losses and heads are lightly's (https://github.com/lightly-ai/lightly). Heads are thrown away after the training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from lightly.loss import BarlowTwinsLoss, NTXentLoss, VICRegLoss
from lightly.models.modules.heads import BarlowTwinsProjectionHead, SimCLRProjectionHead, VICRegProjectionHead
from numpy.typing import NDArray
from torch import Tensor, nn

from medtransfer.core import schema
from medtransfer.core.errors import UserError
from medtransfer.params import Augmentation, Training
from medtransfer.training import networks
from medtransfer.training.fitting import BackboneSpec
from medtransfer.training.loader import Cache
from medtransfer.training.ssl import masked_autoencoder
from medtransfer.training.ssl.probe import Probe
from medtransfer.training.ssl.views import ViewLoader
from medtransfer.training.trainer import Trainer
from medtransfer.weights import architectures

EMBEDDING = 128
"""outputs of SimCLR's head, as published"""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What can be set of the methods; a method reads what it has."""

    projector: int
    """width of the head that is thrown away: layers of a projector, tokens of a decoder"""
    temperature: float
    """simclr: divides the cosine similarities"""
    masked: float
    """mae: share of the patches that is hidden"""


Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) -> the batch's loss"""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to learn from images alone."""

    name: str
    paper: str
    views: int
    """of each image in a batch; with two, the loss also compares the images of the batch with one another"""
    masks: bool
    """whether patches are hidden and have to be predicted: plain vision transformers only"""
    network: Callable[[Any, Settings, int], nn.Module]
    """(classifier whose backbone is filled, settings, image size) -> network; its head is drawn by torch's generator"""
    loss: Callable[[Settings], Loss]


def _pairs(name: str, paper: str, head: Callable[[int, int], nn.Module], loss: Callable[[Settings], Loss]) -> Method:
    """Describes a method that compares two views: `head` takes the features and the projector's width."""

    def network(base: Any, settings: Settings, image_size: int) -> nn.Module:
        base.head = head(base.head.in_features, settings.projector)
        return cast(nn.Module, base)

    def between(settings: Settings) -> Loss:
        apart = loss(settings)
        return lambda outputs, _: apart(outputs[0::2], outputs[1::2])

    return Method(name=name, paper=paper, views=2, masks=False, network=network, loss=between)


def _autoencoder(base: Any, settings: Settings, image_size: int) -> nn.Module:
    seen = masked_autoencoder.shown(base.architecture, image_size, settings.masked)
    return masked_autoencoder.MaskedAutoencoder(base, settings.projector, seen)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        _pairs(
            "simclr",
            "Chen et al., A simple framework for contrastive learning of visual representations, ICML 2020",
            lambda features, width: SimCLRProjectionHead(features, width, EMBEDDING),
            lambda settings: NTXentLoss(settings.temperature),
        ),
        _pairs(
            "barlow-twins",
            "Zbontar et al., Barlow Twins: self-supervised learning via redundancy reduction, ICML 2021",
            lambda features, width: BarlowTwinsProjectionHead(features, width, width),
            lambda settings: BarlowTwinsLoss(),
        ),
        _pairs(
            "vicreg",
            "Bardes et al., VICReg: variance-invariance-covariance regularization, ICLR 2022",
            lambda features, width: VICRegProjectionHead(features, width, width),
            lambda settings: VICRegLoss(),
        ),
        Method(
            name="mae",
            paper="He et al., Masked autoencoders are scalable vision learners, CVPR 2022",
            views=1,
            masks=True,
            network=_autoencoder,
            loss=lambda settings: masked_autoencoder.masked_loss,
        ),
    )
}


class SelfSupervised:
    """The objective of one method; `Trainer` takes it in the place of a task's, and `follow` takes the trainer.

    With a probe, the validation scores hold `probe`: that of the first epoch and of every N-th after it, in between
    the last one.
    """

    metric = "probe"

    def __init__(self, method: Method, settings: Settings, probe: Probe | None) -> None:
        self.method, self.settings, self.probe = method, settings, probe
        self.needs_whole_batch = method.views > 1  # its loss must see the images of all processes
        self._loss = method.loss(settings)
        self._trainer: Trainer | None = None

    def build(self, spec: BackboneSpec, tensors: Mapping[str, Tensor], head_seed: int) -> nn.Module:
        """Builds the network: the backbone with the tensors, and a head that is drawn from `head_seed`.

        Raises:
            UserError: the method cannot train this backbone, or the tensors do not fit it.
        """
        _check_backbone(self.method, spec.backbone, self.settings)
        with torch.random.fork_rng(devices=[]):
            base = networks.classifier(spec, 1, tensors, head_seed)
            torch.manual_seed(head_seed)
            return self.method.network(base, self.settings, spec.image_size)

    def loader(
        self, cache: Cache, ids: list[str], *, backbone: str, size: int, augmentation: Augmentation, **own: Any
    ) -> ViewLoader:
        """Builds the loader of the method's batches.

        Args:
            cache: of the images; its labels are not looked at.
            ids: of the images.
            backbone: timm architecture.
            size: side of the input, in pixels.
            augmentation: of the views of val, as that of the training.
            own: what else `Loader` takes.
        """
        shown = masked_autoencoder.shown(backbone, size, self.settings.masked) if self.method.masks else 0
        patch = architectures.patch_size(backbone)
        views = self.method.views
        return ViewLoader(
            cache, ids, views=views, patch=patch, shown=shown, augmentation=augmentation, size=size, **own
        )

    def follow(self, trainer: Trainer) -> None:
        """Takes the trainer, whose epochs and network the probe needs; to be called before it runs.

        Raises:
            UserError: train or val has a single image, and the method compares images.
        """
        alone = [split for split in ("train", "val") if len(trainer.rows[split]) < 2]
        if self.method.views > 1 and alone:
            raise UserError(f"{self.method.name} compares images: it needs two or more in {' and '.join(alone)}")
        self._trainer = trainer

    def loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Returns the batch's loss; that of a single image is 0 where images are compared."""
        if self.method.views > 1 and len(logits) < 2 * self.method.views:
            return logits.float().sum() * 0
        return self._loss(logits.float(), truth)

    def collect(self, logits: Tensor, truth: Tensor, rows: NDArray[np.int64], native: bool) -> NDArray[Any]:
        """Keeps nothing of a batch but its loss."""
        return np.zeros((len(rows), 0))

    def score(self, collected: NDArray[Any], rows: NDArray[np.int64]) -> dict[str, float]:
        """Gives the probe's score of this epoch."""
        return {"probe": self._probed(self.probe)} if self.probe else {}

    def _probed(self, probe: Probe) -> float:
        if self._trainer is None:
            raise RuntimeError("a probe needs `follow` before the training")
        fit, network = self._trainer.fit, self._trainer.model
        if fit.epoch % probe.every:
            return fit.history[-1]["val_probe"]
        return probe.score(cast(nn.Module, network.backbone))


def objective(method: str, settings: Settings, probe: Probe | None = None) -> SelfSupervised:
    """Builds the objective of a method.

    Raises:
        UserError: there is no method of that name.
    """
    return SelfSupervised(lookup(method), settings, probe)


def lookup(name: str) -> Method:
    """Finds a method by its name.

    Raises:
        UserError: there is none of that name.
    """
    if name not in METHODS:
        raise UserError(f"unknown self-supervised method {name!r}{schema.nearest(name, METHODS)}")
    return METHODS[name]


def check(method: str, backbone: str, settings: Settings, protocol: Training, probed: bool) -> None:
    """Refuses, before any work, what the method cannot have.

    Args:
        method: its name.
        backbone: timm architecture.
        settings: of the method.
        protocol: of the training.
        probed: whether there is a probe.

    Raises:
        UserError: with the law, the value and the repair.
    """
    found = lookup(method)
    _check_backbone(found, backbone, settings)
    if found.views > 1 and protocol.batch_size < 2:
        raise UserError(f"batch_size >= 2 must hold for {method}, which compares images, got {protocol.batch_size}")
    valid = ("val_loss", "val_probe") if probed else ("val_loss",)
    if protocol.monitor not in valid:
        why = "" if probed else "; val_probe needs a probe task"
        raise UserError(f"monitor of {method} must be one of {', '.join(valid)}, got {protocol.monitor!r}{why}")


def _check_backbone(method: Method, backbone: str, settings: Settings) -> None:
    """Refuses a backbone, and a decoder's width, that a method with masks cannot have."""
    if not method.masks:
        return
    if not masked_autoencoder.is_plain(backbone):
        others = ", ".join(name for name, other in METHODS.items() if not other.masks)
        raise UserError(
            f"{method.name} needs a plain vision transformer of timm (patches and position embeddings, such as "
            f"vit_small_patch16_224), and {backbone} is none; take one, or one of {others}"
        )
    if settings.projector % masked_autoencoder.HEAD_WIDTH:
        width = masked_autoencoder.HEAD_WIDTH
        raise UserError(f"projector must be a multiple of {width} for {method.name}, got {settings.projector}")
