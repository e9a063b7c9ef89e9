"""What the overlap of two masks does not say: how far their outlines are apart, centre lines, single lesions.

Outline: pixels of a mask with one of their four neighbours outside it, or outside the image; distances are between
pixel centres, with the pixels' own height and width. How much is empty around the masks does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Unit = Literal["mm", "px"]

UNITS: tuple[Unit, ...] = ("mm", "px")

GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "surface": ("surface_dice", "hd95", "surface_distance"),
        "centre_line": ("cldice",),
        "lesions": ("lesions_found", "lesions_predicted", "lesions"),
    }
)
"""what a task may have measured -> the numbers of an image, see `measure`"""

DISTANCES = ("hd95", "surface_distance")
"""numbers in a unit of length, which their names end in"""

FOUND = 0.1
"""intersection over union from which on a predicted lesion is one of the target's"""

_EXACT = 1e-9
"""share of the tolerance by which a distance may be above it: 20 pixels of 0.1 mm are 2 mm"""


def names(groups: Sequence[str], unit: Unit) -> tuple[str, ...]:
    """Names the numbers of some groups in their order: those of a length with their unit, `hd95_mm`."""
    every = [name for group in GROUPS if group in groups for name in GROUPS[group]]
    return tuple(f"{name}_{unit}" if name in DISTANCES else name for name in every)


def measure(
    predicted: Array, target: Array, groups: Sequence[str], spacing: tuple[float, float], tolerance: float
) -> Array:
    """Measures one image's mask of one label, in the order of `names`.

    Both masks empty: surface Dice and clDice are 1. One of them empty: 0. A distance is nan where either is empty.

    Args:
        predicted: (height, width), of truth values.
        target: likewise.
        groups: keys of `GROUPS`.
        spacing: height and width of a pixel.
        tolerance: how far two outlines may be apart to count as one, in the same unit.
    """
    predicted, target = _cut(np.asarray(predicted, dtype=bool), np.asarray(target, dtype=bool))
    found: list[float] = []
    if "surface" in groups:
        found += surface(predicted, target, spacing, tolerance)
    if "centre_line" in groups:
        found.append(cldice(predicted, target))
    if "lesions" in groups:
        found += lesions(predicted, target)
    return np.array(found, dtype=np.float64)


def _cut(predicted: Array, target: Array) -> tuple[Array, Array]:
    """Cuts both masks to the rows and columns in which either is set."""
    either = predicted | target
    rows, columns = (np.flatnonzero(either.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return predicted[:0, :0], target[:0, :0]
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return predicted[window], target[window]


def _without_both(predicted: Array, target: Array) -> float | None:
    """Gives the share that counts where a mask is empty: 1 where both are, 0 where one is; None: neither."""
    empty = int(not predicted.any()) + int(not target.any())
    return {0: None, 1: 0.0, 2: 1.0}[empty]


def surface(
    predicted: Array, target: Array, spacing: tuple[float, float], tolerance: float
) -> tuple[float, float, float]:
    """Compares two outlines: surface Dice, 95th percentile of the Hausdorff distance, mean surface distance.

    Surface Dice is the share of both outlines' pixels that lie within the tolerance of the other outline (Nikolov et
    al., JMIR 2021); the 95th percentile is the larger one of the two directions'; the mean is over both outlines'
    pixels together.
    """
    from scipy.spatial import KDTree

    share = _without_both(predicted, target)
    if share is not None:
        return share, np.nan, np.nan
    places = [_outline(mask) * np.array(spacing) for mask in (predicted, target)]
    # Not a distance transform: an outline has few of the pixels of a large image.
    to_other = [KDTree(other).query(own)[0] for own, other in (places, reversed(places))]
    both = np.concatenate(to_other)
    near = both <= tolerance * (1 + _EXACT)
    return float(near.mean()), float(max(np.percentile(one, 95) for one in to_other)), float(both.mean())


def _outline(mask: Array) -> Array:
    """Lists rows and columns of the pixels that have one of four neighbours outside."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.argwhere(mask & ~inner)


def cldice(predicted: Array, target: Array) -> float:
    """Gives centre-line Dice: the harmonic mean of how much of each mask's skeleton lies in the other mask.

    Shit et al., CVPR 2021; the skeleton is scikit-image's (Zhang and Suen, CACM 1984).
    """
    from skimage.morphology import skeletonize

    share = _without_both(predicted, target)
    if share is not None:
        return share
    # Cut to what is set, a mask would touch the border, which scikit-image takes for set.
    thin: Callable[[Array], Array] = skeletonize
    lines = [thin(np.pad(mask, 1))[1:-1, 1:-1] for mask in (predicted, target)]
    precision, recall = (float(other[line].mean()) for line, other in zip(lines, (target, predicted), strict=True))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def lesions(predicted: Array, target: Array) -> tuple[float, float, float]:
    """Counts lesions, which are what touches by side or corner: found ones, predicted ones, those of the target.

    A predicted lesion and one of the target are a pair where their intersection over union is at least `FOUND`; each
    is in one pair at most, and as many pairs are made as can be. What is in none is missed, or a false positive.
    """
    from scipy import ndimage, sparse
    from scipy.sparse import csgraph

    own, guessed = (ndimage.label(mask, structure=np.ones((3, 3))) for mask in (target, predicted))
    shared = (own[0] > 0) & (guessed[0] > 0)
    if not shared.any():
        return 0.0, float(guessed[1]), float(own[1])
    sizes, guesses = (np.bincount(labels.ravel()) for labels, _ in (own, guessed))
    both, common = np.unique(own[0][shared].astype(np.int64) * len(guesses) + guessed[0][shared], return_counts=True)
    pairs = np.stack(np.divmod(both, len(guesses)))
    likely = common / (sizes[pairs[0]] + guesses[pairs[1]] - common) >= FOUND
    graph = sparse.csr_matrix((np.ones(likely.sum(), dtype=bool), pairs[:, likely] - 1), shape=(own[1], guessed[1]))
    matched = csgraph.maximum_bipartite_matching(graph, perm_type="column")
    return float((matched >= 0).sum()), float(guessed[1]), float(own[1])
