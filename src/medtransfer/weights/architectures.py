"""What an architecture of timm is, whatever its weights: sides it takes, strides, width, operations.

What only a built network can say is asked once per version of timm and torch, on torch's meta device, where tensors
have shapes and no numbers.
"""

from __future__ import annotations

from typing import Any

from medtransfer.core.errors import UserError, one_line
from medtransfer.core.remembered import remembered
from medtransfer.weights import timm_index, variants

REFUSALS = (RuntimeError, AssertionError, ValueError, TypeError, KeyError, IndexError, AttributeError)
"""what timm and segmentation-models-pytorch raise where an architecture cannot be used as asked"""


def published(name: str) -> timm_index.Tag:
    """Returns what timm says of an architecture's default weights, whether they exist or not."""
    found = timm_index.find(name)
    assert found is not None, name
    return found


def sized(name: str) -> bool:
    """Says whether the side of the input decides the shape of some tensors of a backbone."""
    return published(name).fixed_input_size


def told(name: str, image_size: int | None = None) -> tuple[str, dict[str, Any]]:
    """Says how timm builds a backbone: by which architecture, and what it is told.

    Args:
        name: of the backbone.
        image_size: side of the input, in pixels; None: that of the published weights.

    Raises:
        UserError: the name holds what is no argument.
    """
    architecture, arguments = variants.split(name)
    if image_size and sized(name):
        arguments["img_size"] = image_size
    found: dict[str, Any] = dict(arguments)
    if "mlp_layer" in found:
        import timm.layers

        found["mlp_layer"] = getattr(timm.layers, found["mlp_layer"])
    return architecture, found


def create(name: str, image_size: int | None = None, **options: Any) -> Any:
    """Builds a backbone by timm, with its random weights.

    Args:
        name: of the backbone.
        image_size: side of the input, in pixels; None: that of the published weights.
        options: of `timm.create_model`, as `num_classes` and `features_only`.

    Raises:
        UserError: timm does not take an argument that the name holds.
    """
    import timm

    architecture, arguments = told(name, image_size)
    side = published_side(name)
    if side != published(architecture).input_size[-1]:  # what timm's own code asks of the side then agrees
        options["pretrained_cfg_overlay"] = {
            **options.get("pretrained_cfg_overlay", {}),
            "input_size": published(name).input_size,
        }
    try:
        return timm.create_model(architecture, **{"pretrained": False, **arguments, **options})
    except REFUSALS as error:
        if architecture == name:
            raise
        reason = one_line(error) or type(error).__name__
        raise UserError(f"timm does not build {architecture} with the arguments of {name}: {reason}") from error


def published_side(name: str) -> int:
    """Returns the side of the input that timm's default weights of an architecture were trained on, in pixels."""
    return published(name).input_size[-1]


def strides(name: str) -> tuple[int, ...]:
    """Returns the strides of the feature maps that timm's feature extractor gives, in pixels, the finest first.

    Raises:
        UserError: the architecture has no feature extractor.
    """
    return tuple(_strides(name))


@remembered("timm", "torch")
def _strides(name: str) -> list[int]:
    import torch

    try:
        with torch.device("meta"):
            model = create(name, features_only=True)
    except REFUSALS as error:
        raise UserError(f"backbone {name} offers no feature maps, so it cannot segment: {one_line(error)}") from error
    return list(model.feature_info.reduction())


@remembered("timm", "torch")
def parameters(name: str) -> int:
    """Counts the parameters of an architecture's backbone, without a head."""
    import torch

    from medtransfer.weights.backbones import bare_backbone

    with torch.device("meta"):
        return sum(tensor.numel() for tensor in bare_backbone(name).parameters())


@remembered("timm", "torch")
def patch_size(name: str) -> int:
    """Returns the side of the patches that an architecture cuts its input into, in pixels; 1 if it cuts none.

    Such patches do not overlap, and what is left at the edge would be dropped without a word.
    """
    import torch

    from medtransfer.weights.backbones import bare_backbone

    with torch.device("meta"):
        model = bare_backbone(name)
    cut = getattr(getattr(model, "patch_embed", None), "proj", None)
    return int(cut.stride[0]) if isinstance(cut, torch.nn.Conv2d) and cut.stride == cut.kernel_size else 1
