"""What an architecture of timm is, whatever its weights: sides it takes, strides, width, operations.

What only a built network can say is asked once per version of timm and torch, on torch's meta device, where tensors
have shapes and no numbers.
"""

from __future__ import annotations

from typing import Any

from medtransfer.core.errors import UserError, one_line
from medtransfer.core.remembered import remembered
from medtransfer.weights import timm_index

REFUSALS = (RuntimeError, AssertionError, ValueError, TypeError, KeyError, IndexError, AttributeError)
"""what timm and segmentation-models-pytorch raise where an architecture cannot be used as asked"""


def published(name: str) -> timm_index.Tag:
    """Returns what timm says of an architecture's default weights, whether they exist or not."""
    found = timm_index.find(name)
    assert found is not None, name
    return found


def size_arguments(name: str, image_size: int | None) -> dict[str, int]:
    """Says what timm must be told of the input's side, in pixels: nothing for architectures that take any."""
    return {"img_size": image_size} if image_size and published(name).fixed_input_size else {}


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
    import timm
    import torch

    try:
        with torch.device("meta"):
            model: Any = timm.create_model(name, pretrained=False, features_only=True)
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
