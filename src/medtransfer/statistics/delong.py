"""Areas under the ROC curve with their covariance over the same test images: no resampling, no loop over pairs.

An area is the mean of one number per image, its placement: the share of images of the other class that it is ranked
on the right side of, ties counting half. The spread of the placements gives the covariance of all areas (DeLong et
al., Biometrics 1988), mid-ranks give the placements (Sun and Xu, IEEE Signal Processing Letters 2014), and sums over
the images of a patient make it hold where patients repeat (Obuchowski, Biometrics 1997).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from medtransfer.core.cores import spread
from medtransfer.core.errors import UserError
from medtransfer.statistics.t_tests import ROUNDING

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Placements:
    """Areas of several models and labels, and what each patient adds to them."""

    auc: Array
    """models x labels; nan where the label is undefined"""
    positives: Array
    """models x labels x patients: a patient's images with the finding, (placement - auc) / their number, summed"""
    negatives: Array
    """the same of the images without the finding"""
    counts: Array
    """labels x 3: patients with an image with the finding, with an image without it, with an image of either kind"""
    images: int
    undefined: tuple[int, ...]
    """labels without both classes"""
    clustered: bool
    """some patient has several images"""

    @property
    def patients(self) -> int:
        """Counts the patients."""
        return int(self.positives.shape[2])


@dataclass(frozen=True, kw_only=True)
class AucTest:
    """A linear combination of areas with its standard error, two-sided z-test and interval."""

    method: Literal["DeLong", "Obuchowski"]
    estimate: float | None
    """None where no label has both classes"""
    null: float
    """value that is tested: 0.5 for an area, 0 for a difference"""
    level: float
    """of the interval"""
    patients: int
    images: int
    labels: int
    """number of labels that the mean is over"""
    undefined: tuple[int, ...]
    """labels without both classes, thus outside the mean"""
    error: float | None = None
    z: float | None = None
    p: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""
    """why a number is None, or why p is 1 without a statistic"""

    def separated(self, alpha: float) -> bool | None:
        """Says whether p <= alpha; None where no test is possible."""
        return None if self.p is None else self.p <= alpha


def placements(targets: Any, scores: Any, patients: Sequence[Any] | Array | None = None) -> Placements:
    """Computes the areas of every model and label, and each patient's part in them.

    Args:
        targets: images x labels, 0 or 1, or -1 for uncertain: the image is left out for that label.
        scores: models x images x labels; only their order matters.
        patients: one id per image; None: every image is a patient of its own.

    Raises:
        UserError: the shapes do not fit, a score is not finite, or a target is none of -1, 0, 1.
    """
    truth, values = checked(targets, scores)
    groups, number = patient_index(patients, truth.shape[0])
    shape = (values.shape[0], truth.shape[1])
    auc = np.full(shape, np.nan)
    positives, negatives = np.zeros((*shape, number)), np.zeros((*shape, number))
    counts = np.zeros((shape[1], 3), dtype=np.int64)

    def of_label(label: int) -> None:
        with_it, without = (np.flatnonzero(truth[:, label] == kind) for kind in (1, 0))
        held = [np.unique(groups[part]) for part in (with_it, without)]
        counts[label] = len(held[0]), len(held[1]), len(np.union1d(*held))
        if len(with_it) == 0 or len(without) == 0:
            return
        above, below = _shares(values[:, with_it, label], values[:, without, label])
        auc[:, label] = area = above.mean(axis=1)
        positives[:, label] = _sums((above - area[:, None]) / len(with_it), groups[with_it], number)
        negatives[:, label] = _sums((below - area[:, None]) / len(without), groups[without], number)

    spread(of_label, range(shape[1]), numbers=values[:, :, 0].size)
    return Placements(
        auc=auc, positives=positives, negatives=negatives, counts=counts, images=len(truth),
        undefined=tuple(int(k) for k in np.flatnonzero(np.isnan(auc[0]))), clustered=number < len(truth),
    )  # fmt: skip


def area(parts: Placements, model: int, *, label: int | None = None, level: float = 0.95) -> AucTest:
    """Tests the area of a model, or its mean over the defined labels, against 0.5.

    Raises:
        UserError: there is no such model or label, or `level` is not between 0 and 1.
    """
    return _combination(parts, {model: 1.0}, label, level, null=0.5)


def difference(parts: Placements, a: int, b: int, *, label: int | None = None, level: float = 0.95) -> AucTest:
    """Tests the difference of two models, a - b, in one label's area or in the mean over the defined labels.

    Raises:
        UserError: there is no such model or label, `a == b`, or `level` is not between 0 and 1.
    """
    if a == b:
        raise UserError(f"`a != b` must hold: two models are compared, got {a} and {b}")
    return _combination(parts, {a: 1.0, b: -1.0}, label, level, null=0.0)


def contributions(parts: Placements) -> Array:
    """Gives each patient a number per model, whose mean over patients is the model's mean area: models x patients.

    The variance of that mean (squared spread / patients) is DeLong's for one label and one image per patient, also
    where few patients have the finding; else the term that mixes both classes has the factor
    sqrt(k10 / (k10 - 1) * k01 / (k01 - 1)) in place of k / (k - 1). The numbers stand for per-patient scores where
    areas of several seeds meet, see `all_pairs.over_seeds_and_patients`.

    A label with a class from a single patient is in the mean, and adds no spread: it shows none, see `thin` and
    `coarseness`.

    Raises:
        UserError: no label has both classes.
    """
    labels = _defined(parts)
    if not labels:
        raise UserError("no area over patients: a label with both classes must exist")
    correction = np.sqrt((parts.patients - 1) / parts.patients)
    sums = _scaled(parts, 0, parts.positives) + _scaled(parts, 1, parts.negatives)
    sums[:, list(thin(parts))] = 0.0
    mean = parts.auc[:, labels].mean(axis=1)
    return np.asarray(mean[:, None] + parts.patients * correction * sums[:, labels].mean(axis=1))


def thin(parts: Placements) -> tuple[int, ...]:
    """Lists the defined labels of which a class comes from a single patient."""
    return tuple(label for label in _defined(parts) if parts.counts[label, :2].min() < 2)


def coarseness(parts: Placements) -> float:
    """Gives the variance of a difference of two mean areas that placements on few patients do not show.

    An area moves in steps of 1 / the size of the smaller class, and near 1 the placements hardly vary: two networks
    that differ by a margin then look equal on these images. Each label adds the square of a quarter of a step.
    """
    labels = _defined(parts)
    smaller = parts.counts[labels, :2].min(axis=1).astype(np.float64)
    return float(((0.25 / smaller) ** 2).sum() / len(labels) ** 2)


def score_interval(auc: float, positives: int, negatives: int, *, level: float = 0.95) -> tuple[float, float]:
    """Gives the interval of a single area by its score equation, which has a width at an area of 1, too.

    Method 5 of Newcombe (Statistics in Medicine 2006): the ends are the areas whose own standard error (that of Hanley
    and McNeil, both classes taken as of their mean size) just reaches the area that was found.

    Args:
        auc: found.
        positives: patients with the finding.
        negatives: patients without it.
        level: of the interval.
    """
    half = (positives + negatives) / 2 - 1
    z = float(stats.norm.ppf((1 + level) / 2))

    def excess(area: float) -> float:
        spread = area * (1 - area) * (1 + half * (1 - area) / (2 - area) + half * area / (1 + area))
        return abs(auc - area) - z * float(np.sqrt(spread / (positives * negatives)))

    inside = min(max(auc, ROUNDING), 1 - ROUNDING)  # at 0 and 1 themselves the standard error is 0
    low = 0.0 if auc <= 0 else float(optimize.brentq(excess, 0.0, inside))
    high = 1.0 if auc >= 1 else float(optimize.brentq(excess, inside, 1.0))
    return low, high


def checked(targets: Any, scores: Any) -> tuple[Array, Array]:
    """Checks targets (images x labels) and scores (models x images x labels), and returns them as arrays.

    Raises:
        UserError: the shapes do not fit, a score is not finite, or a target is none of -1, 0, 1.
    """
    truth, values = np.asarray(targets), np.asarray(scores, dtype=np.float64)
    if truth.ndim != 2 or values.ndim != 3 or values.shape[1:] != truth.shape or 0 in values.shape:
        raise UserError(
            "targets must be images x labels and scores models x images x labels, none of them 0, "
            f"got {truth.shape} and {values.shape}"
        )
    if not np.isin(truth, (-1, 0, 1)).all():
        raise UserError(f"targets must be 0, 1 or -1 (uncertain), got {np.unique(truth)[:5].tolist()}")
    if not np.isfinite(values).all():
        raise UserError(f"scores must be finite, got {int((~np.isfinite(values)).sum())} that are not")
    return truth, values


def patient_index(patients: Sequence[Any] | Array | None, images: int) -> tuple[Array, int]:
    """Numbers the patients: an index per image, and how many there are.

    Raises:
        UserError: there is not one id per image.
    """
    if patients is None:
        return np.arange(images), images
    ids = np.asarray(patients)
    if ids.shape != (images,):
        raise UserError(f"patients must be one id per image, got {ids.shape} for {images} images")
    names, index = np.unique(ids, return_inverse=True)
    return index, len(names)


def _shares(positives: Array, negatives: Array) -> tuple[Array, Array]:
    """Computes placements (models x images): the share of negatives below, and of positives above, ties half."""
    m, n = positives.shape[1], negatives.shape[1]
    ranks = stats.rankdata(np.concatenate([positives, negatives], axis=1), axis=1)
    above = (ranks[:, :m] - stats.rankdata(positives, axis=1)) / n
    below = 1 - (ranks[:, m:] - stats.rankdata(negatives, axis=1)) / m
    return above, below


def _sums(values: Array, groups: Array, number: int) -> Array:
    """Sums models x images over the images of each patient: models x patients."""
    return np.stack([np.bincount(groups, weights=row, minlength=number) for row in values])


def _scaled(parts: Placements, kind: int, sums: Array) -> Array:
    """Applies the square root of k / (k - 1), k patients of a kind (column of `counts`), label by label."""
    k = parts.counts[:, kind].astype(np.float64)
    factor = np.sqrt(np.divide(k, k - 1, out=np.full_like(k, np.nan), where=k > 1))
    factor[list(parts.undefined)] = np.nan
    return np.asarray(sums * factor[:, None])


def _defined(parts: Placements) -> list[int]:
    return [label for label in range(parts.auc.shape[1]) if label not in parts.undefined]


def _combination(parts: Placements, models: dict[int, float], label: int | None, level: float, null: float) -> AucTest:
    """Tests the sum of weighted areas, averaged over the labels that are defined."""
    _check_choice(parts, models, label, level)
    labels = _defined(parts) if label is None else [k for k in [label] if k not in parts.undefined]
    undefined = parts.undefined if label is None else tuple(k for k in [label] if k in parts.undefined)
    known: dict[str, Any] = {
        "method": "Obuchowski" if parts.clustered else "DeLong", "null": null, "level": level,
        "patients": parts.patients, "images": parts.images, "labels": len(labels), "undefined": undefined,
    }  # fmt: skip
    if not labels:
        return AucTest(estimate=None, note="no label has both classes", **known)
    estimate = float(sum(weight * parts.auc[model, labels].mean() for model, weight in models.items()))
    if parts.counts[labels, :2].min() < 2:
        lone = [k for k in labels if parts.counts[k, :2].min() < 2]
        return AucTest(estimate=estimate, note=f"a class of a single patient: labels {lone}", **known)
    error = _error(parts, models, labels)
    return AucTest(estimate=estimate, **known, **_tested(estimate, error, null, level))


def _check_choice(parts: Placements, models: dict[int, float], label: int | None, level: float) -> None:
    count, labels = parts.auc.shape
    if any(not 0 <= model < count for model in models) or not (label is None or 0 <= label < labels):
        raise UserError(f"models are 0 to {count - 1}, labels 0 to {labels - 1}; got {list(models)} and {label}")
    if not 0 < level < 1:
        raise UserError(f"`0 < level < 1` must hold, got {level}")


def _error(parts: Placements, models: dict[int, float], labels: list[int]) -> float:
    """Computes the standard error of a combination from each patient's part in it."""

    def combined(kind: int, sums: Array) -> Array:
        scaled = _scaled(parts, kind, sums)
        return np.asarray(sum(weight * scaled[model, labels].mean(axis=0) for model, weight in models.items()))

    mixed = combined(2, parts.positives) @ combined(2, parts.negatives)
    whole = (combined(0, parts.positives) ** 2).sum() + (combined(1, parts.negatives) ** 2).sum() + 2 * mixed
    return float(np.sqrt(max(whole, 0.0)))  # labels with unequal counts may leave a rounding below zero


def _tested(estimate: float, error: float, null: float, level: float) -> dict[str, Any]:
    """Compares an estimate with its standard error; an error below rounding counts as zero."""
    if error <= ROUNDING:
        same = abs(estimate - null) <= ROUNDING
        note = "no variance and no difference" if same else "no variance over patients"
        ends = {"low": estimate, "high": estimate} if same else {}
        return {"error": 0.0, "p": 1.0 if same else None, "note": note, **ends}
    z = (estimate - null) / error
    half = float(stats.norm.ppf((1 + level) / 2)) * error
    p = float(2 * stats.norm.sf(abs(z)))
    return {"error": error, "z": float(z), "p": p, "low": estimate - half, "high": estimate + half}
