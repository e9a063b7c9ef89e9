"""What fits a backbone: decoders to its feature maps, sides of the input to both; asked before any work starts.

Only what a built network alone can say imports torch, once per version of the libraries.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass

from medtransfer.core.errors import UserError, one_line
from medtransfer.core.remembered import remembered
from medtransfer.data.tasks import Task
from medtransfer.params import Classification, Model, Protocols, Segmentation
from medtransfer.statistics import metrics
from medtransfer.weights import architectures
from medtransfer.weights.names import Initialization

STRIDE = 32
"""pixels: total stride of a U-Net encoder of depth 5; its input side must be a multiple"""


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """Which backbone is built, whatever it starts from and whatever comes behind it."""

    backbone: str
    """timm architecture"""
    image_size: int
    """side of the input, in pixels"""
    padding: str = ""
    """what the backbone pads as TensorFlow does, see `backbones.same_padding`"""

    @classmethod
    def of(cls, init: Initialization, settings: Model, image_size: int) -> BackboneSpec:
        """Describes the backbone that an initialization is trained in."""
        return cls(backbone=init.backbone, image_size=image_size, padding=_padding(init, settings))


@dataclass(frozen=True, kw_only=True)
class NetworkSpec(BackboneSpec):
    """Which network is built for a task."""

    decoder: str = ""
    """`unet`, `upernet`, `dpt` or `auto`, see `resolved_decoder`; a classifier has a head in its place"""

    @classmethod
    def of(cls, init: Initialization, settings: Model, image_size: int) -> NetworkSpec:
        """Describes the network that an initialization is trained in."""
        padding = _padding(init, settings)
        return cls(backbone=init.backbone, image_size=image_size, decoder=settings.decoder, padding=padding)


def _padding(init: Initialization, settings: Model) -> str:
    return init.padding if settings.padding == "init" else ""


def nominal(stride: int) -> int:
    """Returns the power of two that stands for a stride in the DPT's resampling: 16 for patches of 14 pixels."""
    return 1 << round(math.log2(stride))


@functools.lru_cache(maxsize=64)
def resolved_decoder(backbone: str, decoder: str) -> str:
    """Resolves `auto` by the strides of the backbone's feature maps; any other decoder is held to them.

    Raises:
        UserError: the decoder cannot use these maps.
    """
    found = architectures.strides(backbone)
    fitting = ["upernet"]
    if len(set(found)) == 1:
        fitting = ["dpt"]
    elif found[-5:] == (2, 4, 8, 16, 32):
        fitting = ["unet", "upernet"]
    elif found == (4, 8, 16, 32):
        fitting = ["upernet", "unet"]
    if decoder not in ("auto", *fitting):
        raise UserError(
            f"model.decoder {decoder} cannot use the feature maps of {backbone}, whose strides are "
            f"{', '.join(map(str, found))}: set it to auto or {' or '.join(fitting)}"
        )
    return fitting[0] if decoder == "auto" else decoder


def misfit(spec: NetworkSpec) -> str:
    """Says why a backbone, with a decoder or, without one, a head, cannot take inputs of its side; empty if it can.

    Tried on torch's meta device, where tensors have shapes and no numbers.
    """
    unit, law = _unit(spec)
    if spec.image_size % unit:
        return f"it must be a multiple of {law}"
    return _misfit(spec.backbone, spec.image_size, spec.decoder, spec.padding)


@remembered("timm", "torch", "segmentation-models-pytorch")
def _misfit(backbone: str, image_size: int, decoder: str, padding: str) -> str:
    import torch

    from medtransfer.training import networks
    from medtransfer.weights import backbones

    spec = NetworkSpec(backbone=backbone, image_size=image_size, decoder=decoder, padding=padding)
    try:
        with torch.device("meta"), torch.inference_mode():
            tensors = {key: torch.empty(shape) for key, shape in backbones.shapes(backbone).items()}
            model = (networks.segmenter if decoder else networks.classifier)(spec, 1, tensors, 0)
            model.eval()(torch.empty(2, 3, image_size, image_size))
    except (UserError, *architectures.REFUSALS) as error:
        return one_line(error)
    return ""


def fitting_sides(spec: NetworkSpec) -> list[int]:
    """Lists sides of the input that would do, in pixels: the nearest ones, 224, and that of the published weights."""
    unit = _unit(spec)[0]
    unit = unit if unit > 1 else STRIDE
    below = spec.image_size // unit * unit
    sides = {below, below + unit, below + 2 * unit, 224, architectures.published_side(spec.backbone)}
    return [side for side in sorted(sides) if side > 0 and not misfit(dataclasses.replace(spec, image_size=side))]


def _unit(spec: NetworkSpec) -> tuple[int, str]:
    """Returns what the input's side must be a multiple of, in pixels and in words."""
    if spec.decoder == "unet":
        return STRIDE, f"{STRIDE}, the U-Net's total stride"
    patch = architectures.patch_size(spec.backbone)
    if spec.decoder == "dpt":
        stride = architectures.strides(spec.backbone)[0]
        patches = max(1, 32 // nominal(stride))  # the coarsest map of the DPT has a nominal stride of 32
        return stride * patches, f"{stride * patches}, the side of {patches} x {patches} patches of {stride} pixels"
    return patch, f"the patch size {patch}"


def check(task: Task, protocol: Classification | Segmentation, spec: NetworkSpec) -> None:
    """Refuses, before any work, networks, sizes and monitors that the task's kind cannot have.

    Raises:
        UserError: with the law, the value and the repair.
    """
    decoder = resolved_decoder(spec.backbone, spec.decoder) if task.segmentation else ""
    spec = dataclasses.replace(spec, decoder=decoder)
    if decoder == "upernet" and protocol.batch_size == 1:
        raise UserError("batch_size >= 2 must hold for the decoder upernet: its batch norms see one number per image")
    if reason := misfit(spec):
        sides = fitting_sides(spec)
        repair = f"{', '.join(map(str, sides))} would do" if sides else "none near it would do; take another backbone"
        behind = f" with the decoder {decoder}" if decoder else ""
        raise UserError(
            f"tasks.{task.name}.image_size {spec.image_size} does not fit {spec.backbone}{behind}: {reason}; {repair}"
        )
    if protocol.layer_decay < 1:
        from medtransfer.training import optimizer

        optimizer.depth_of(spec.backbone)
    _check_monitor(task, protocol.monitor)


def _check_monitor(task: Task, monitor: str) -> None:
    kind, ordinal, exams = task.kind, task.ordinal, task.unit == "study"
    names = dict.fromkeys((task.metric, *metrics.monitors(kind, ordinal, exams)))
    valid = ("val_loss", *(f"val_{name}" for name in names))
    if monitor not in valid:
        name = monitor.removeprefix("val_")
        why = metrics.unmonitored(name, kind, ordinal, exams) if name in metrics.METRICS else ""
        raise UserError(
            f"monitor of task {task.name} must be one of {', '.join(valid)}, got {monitor!r}"
            + (f": {why}" if why else "")
        )


def check_protocol(task: Task, protocol: str, settings: Protocols, spec: NetworkSpec, backbone_lr: float) -> None:
    """Refuses, before any work, a protocol that a backbone or a task cannot have.

    Raises:
        UserError: with the law, the value and the repair.
    """
    if protocol in ("partial", "lora") and backbone_lr == 0:
        raise UserError(
            f"the protocol {protocol} trains a part of the backbone, and backbone_lr of task {task.name} is 0: set it "
            "above 0, or take the protocol finetune, in which the backbone then stays as it is"
        )
    if protocol == "knn" and task.segmentation:
        raise UserError(
            f"the protocol knn votes on whole images, and task {task.name} has masks: take linear, which has a "
            "layer on dense features"
        )
    if protocol == "partial":
        from medtransfer.training import optimizer

        optimizer.check_blocks(spec.backbone, settings.partial_blocks)
    if protocol == "lora" and not _has_attention(spec.backbone):
        raise UserError(
            f"the protocol lora changes the attention of a transformer, and {spec.backbone} has none: take partial for "
            "it, or leave it out"
        )
    if protocol == "linear" and task.segmentation:
        architectures.strides(spec.backbone)
    elif protocol in ("linear", "knn") and (found := _feature_shape(spec.backbone, spec.image_size)):
        raise UserError(
            f"the protocol {protocol} needs one vector of features for each image, and {spec.backbone} gives {found}: "
            "take finetune or partial for it, or leave it out"
        )


@remembered("timm", "torch")
def feature_width(backbone: str, image_size: int, dense: bool) -> int:
    """Counts the features of an image, or, `dense`, of a pixel of it."""
    import torch

    from medtransfer.training import features, networks
    from medtransfer.weights import backbones

    with torch.device("meta"):
        built = networks.Pyramid(backbone, image_size) if dense else backbones.bare_backbone(backbone, image_size)
        return features.width(built, image_size)


@remembered("timm", "torch")
def _has_attention(backbone: str) -> bool:
    import torch

    from medtransfer.training import lora
    from medtransfer.weights import backbones

    with torch.device("meta"):
        return bool(lora.attention_layers(backbones.bare_backbone(backbone)))


@remembered("timm", "torch")
def _feature_shape(backbone: str, image_size: int) -> str:
    """Says what the features of two images are where they are not two vectors; empty: they are."""
    import torch

    from medtransfer.weights import backbones

    try:
        with torch.device("meta"), torch.inference_mode():
            found = backbones.bare_backbone(backbone, image_size).eval()(torch.empty(2, 3, image_size, image_size))
    except architectures.REFUSALS as error:
        return one_line(error)
    vectors = isinstance(found, torch.Tensor) and found.ndim == 2
    return "" if vectors else str(tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__)
