"""Statistics of ranks under weights of the images: AUC and average precision, and the areas without each patient.

What depends on the ranks is made ready once, as sparse matrices, so that a resample costs sums alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from medtransfer.core.cores import spread

Array = npt.NDArray[Any]
Kernel = Callable[[Array, Array, Array], Array]


def bins(target: Array, scores: Array, tied: float) -> tuple[Any, Any]:
    """Makes two sparse matrices, distinct scores of the positives (ascending) x images, that sum weights.

    The first sums the positives of each score. The running sum of the second is the weight of negatives below it.
    """
    positives, negatives = np.flatnonzero(target == 1), np.flatnonzero(target == 0)
    cuts, level = np.unique(scores[positives], return_inverse=True)
    low, high = (np.searchsorted(cuts, scores[negatives], side=side) for side in ("left", "right"))
    rows, columns = np.concatenate([low, high]), np.concatenate([negatives, negatives])
    # A negative between two cuts has low == high, so its two shares add up to one.
    shares = np.repeat([tied, 1 - tied], len(negatives))
    kept = (rows < len(cuts)) & (shares > 0)
    shape = (len(cuts), len(scores))
    ones = np.ones(len(positives), dtype=np.float32)
    below = sparse.csr_matrix((shares[kept].astype(np.float32), (rows[kept], columns[kept])), shape=shape)
    return sparse.csr_matrix((ones, (level, positives)), shape=shape), below


def running(sums: Array) -> Array:
    """Sums rows from the first on, in place: many in groups, whose rows are added side by side.

    Sums of how often images were drawn, or of halves of it, are exact in any order up to 2^23.
    """
    number, width = sums.shape
    size = number if width > number else math.isqrt(number)
    whole = number // size * size
    groups = sums[:whole].reshape(-1, size, width)
    for row in range(1, size):
        groups[:, row] += groups[:, row - 1]
    for group in range(1, len(groups)):
        groups[group] += groups[group - 1, -1]
    for row in range(whole, number):
        sums[row] += sums[row - 1]
    return sums


def auc(positives: Array, below: Array, negatives: Array) -> Array:
    """Computes the area from weights of positives and of negatives below them (scores x resamples)."""
    pairs = positives.sum(axis=0, dtype=np.float64) * negatives
    return np.asarray((positives * below).sum(axis=0, dtype=np.float64) / pairs)


def areas_without(truth: Array, scores: Array, index: Array, number: int) -> Array:
    """Computes the mean area without each patient from the placements of DeLong (Biometrics 1988), O(n log n).

    What is left of the sum over pairs is the whole, less the placements of the patient's images, plus the pairs among
    these, which were taken away twice.

    Args:
        truth: images x labels, 1, 0 or -1.
        scores: models x images x labels.
        index: images, the number of each one's patient.
        number: of patients.

    Returns:
        models x patients, nan where a label lacks a class without the patient.
    """
    areas, kinds = np.zeros((len(scores), number)), []
    for target in truth.T:
        positives, negatives = np.flatnonzero(target == 1), np.flatnonzero(target == 0)
        of_positives, of_negatives = index[positives], index[negatives]
        left = len(positives) - np.bincount(of_positives, minlength=number)
        left = left * (len(negatives) - np.bincount(of_negatives, minlength=number))
        kinds.append((positives, negatives, of_positives, of_negatives, left))
    within = [_pairs_within(of_positives, of_negatives) for _, _, of_positives, of_negatives, _ in kinds]

    def of_model(model: int) -> None:
        for label, (positives, negatives, of_positives, of_negatives, left) in enumerate(kinds):
            up, down = within[label]
            high, low = scores[model, positives, label], scores[model, negatives, label]
            above = _halves(np.sort(low), high)
            below = len(high) - _halves(np.sort(high), low)
            among = 0.5 * (np.sign(high[up] - low[down]) + 1)
            lost = np.bincount(of_positives, above, number) + np.bincount(of_negatives, below, number)
            lost -= np.bincount(of_positives[up], among, number)
            with np.errstate(divide="ignore", invalid="ignore"):
                areas[model] += np.where(left > 0, (above.sum() - lost) / left, np.nan)

    spread(of_model, range(len(scores)), numbers=truth.size)
    return np.asarray(areas / truth.shape[1])


def _halves(ordered: Array, values: Array) -> Array:
    """Counts how many of the ordered numbers are below each value, equal ones half."""
    return np.asarray(0.5 * (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")))


def _pairs_within(of_positives: Array, of_negatives: Array) -> tuple[Array, Array]:
    """Lists the pairs of a positive and a negative of one patient, by their places."""
    order = np.argsort(of_negatives, kind="stable")
    ordered = of_negatives[order]
    first, last = (np.searchsorted(ordered, of_positives, side) for side in ("left", "right"))
    counts = last - first
    up = np.repeat(np.arange(len(of_positives)), counts)
    within = np.arange(len(up)) - np.repeat(np.cumsum(counts) - counts, counts)
    return up, order[np.repeat(first, counts) + within]


def precision(positives: Array, below: Array, negatives: Array) -> Array:
    """Computes average precision from the same weights."""
    found = running(positives[::-1].copy())[::-1]
    precision = found / np.maximum(found + negatives - below, 1.0)  # a cut without any weight counts for nothing
    return np.asarray((positives * precision).sum(axis=0, dtype=np.float64) / found[0])
