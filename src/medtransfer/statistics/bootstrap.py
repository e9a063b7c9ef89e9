"""Uncertainty from patients.

Patients are resampled, not images: a patient drawn twice brings all its images twice. One draw serves all models and
seeds, so that differences are paired. A draw is a weight per image, so nothing is sorted again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from medtransfer.core.cores import spread
from medtransfer.core.errors import UserError
from medtransfer.core.progress import Tell, untold
from medtransfer.statistics import ranked
from medtransfer.statistics.delong import checked, patient_index
from medtransfer.statistics.t_tests import ROUNDING

Array = npt.NDArray[Any]

BLOCK = 1_500_000
"""weights (images x resamples) held at a time"""
LEAST_BLOCK = 64
"""resamples held at a time where images are many: more would not stay in a core's cache, fewer cost more in calls"""
MOST_PATIENTS = 1000
"""patients that are left out one by one in a jackknife; more go in groups"""
LEFT_OUT = 150
"""resamples that cost about as much as to leave each patient out"""
MAX_REDRAWS = 100
"""times the number of resamples that may be redrawn before the classes count as too rare"""


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """A score of several models under weights of the images."""

    name: str
    images: int
    score: Callable[[Array], Array]
    """weights (images x resamples) -> models x resamples"""
    defined: Callable[[Array], Array]
    """weights (images x resamples) -> whether the score exists, per resample"""
    without: Callable[[Array, int], Array] | None = None
    """patient of each image, their number -> models x patients: the score without each, nan where undefined; None: it
    has no closed form, and all images are weighed once for each patient"""


@dataclass(frozen=True, kw_only=True)
class Resamples:
    """Scores of all models on the same resamples of the patients."""

    name: str
    values: Array
    """models x resamples"""
    point: Array
    """models: the score of the images as they are"""
    jackknife: Array
    """models x patients: the score without the patient; nan where undefined"""
    redrawn: int
    """resamples without both classes, drawn anew"""
    patients: int
    images: int


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A bootstrap interval over patients."""

    method: Literal["percentile", "bca", "score"]
    """score: of an area near 1, see `delong.score_interval`"""
    statistic: str
    estimate: float
    level: float
    patients: int
    images: int
    resamples: int
    redrawn: int
    low: float | None = None
    high: float | None = None
    note: str = ""
    """why there is no interval, or why it has no width"""


def mean_auc(targets: Any, scores: Any) -> Statistic:
    """Defines the area under the ROC curve, ties half, as the mean over labels.

    Args:
        targets: images x labels, 0 or 1, or -1 for uncertain: left out for that label.
        scores: models x images x labels.

    Raises:
        UserError: input is bad, or a label lacks a class: its area is undefined and may not enter a mean.
    """
    whole = _ranked("mean AUC", targets, scores, ranked.auc, tied=0.5)
    truth, values = checked(targets, scores)
    return replace(whole, without=lambda index, number: ranked.areas_without(truth, values, index, number))


def average_precision(targets: Any, scores: Any) -> Statistic:
    """Defines average precision (no interpolation, tied scores share one threshold), as the mean over labels.

    Args: as in `mean_auc`.

    Raises:
        UserError: as in `mean_auc`.
    """
    return _ranked("mean average precision", targets, scores, ranked.precision, tied=0.0)


def mean(values: Any, name: str = "mean") -> Statistic:
    """Defines the mean over images of one number per image: models x images.

    Raises:
        UserError: the shape does not fit, or a number is not finite.
    """
    numbers = matrix(values, "values", "models x images")
    # Not `@`: its rows may differ in the last bit, and equal models must have equal scores.
    return Statistic(
        name=name,
        images=numbers.shape[1],
        score=lambda weights: np.einsum("mi,ib->mb", numbers, weights) / weights.sum(axis=0),
        defined=_always,
    )


def pooled_dice(terms: Any) -> Statistic:
    """Defines one Dice over all pixels, as the mean over labels.

    Args:
        terms: models x images x labels x (intersection, predicted, target) in pixels.

    Raises:
        UserError: the shape does not fit, or a number is not finite.
    """
    counts = np.asarray(terms, dtype=np.float64)
    if counts.ndim != 4 or counts.shape[3] != 3 or 0 in counts.shape or not np.isfinite(counts).all():
        raise UserError(f"terms must be finite, models x images x labels x 3, got shape {counts.shape}")

    def score(weights: Array) -> Array:
        sums = np.einsum("milt,ib->mblt", counts, weights)
        total = sums[..., 1] + sums[..., 2]
        return np.asarray(np.where(total > 0, 2 * sums[..., 0] / np.where(total > 0, total, 1.0), 1.0).mean(axis=2))

    return Statistic(name="pooled Dice", images=counts.shape[1], score=score, defined=_always)


def balanced_accuracy(truth: Any, answers: Any) -> Statistic:
    """Defines the mean recall over the classes that occur.

    Args:
        truth: images, class numbers.
        answers: models x images, class numbers.
    """
    classes = np.asarray(truth)
    right = np.asarray(answers) == classes
    members = np.stack([classes == one for one in np.unique(classes)]).astype(np.float64)

    def score(weights: Array) -> Array:
        sizes = members @ weights
        return np.asarray(np.stack([(members * hit) @ weights / sizes for hit in right]).mean(axis=1))

    def defined(weights: Array) -> Array:
        return np.asarray((members @ weights > 0).all(axis=0))

    return Statistic(name="balanced accuracy", images=len(classes), score=score, defined=defined)


def quadratic_kappa(truth: Any, answers: Any, classes: int) -> Statistic:
    """Defines Cohen's kappa with quadratic weights (Psychological Bulletin 1968).

    Args:
        truth: images, class numbers from 0.
        answers: models x images, likewise.
        classes: their number.
    """
    rows = np.eye(classes)[np.asarray(truth)]
    columns = np.eye(classes)[np.asarray(answers)]
    apart = (np.asarray(answers) - np.asarray(truth)) ** 2
    cost = (np.arange(classes)[:, None] - np.arange(classes)) ** 2

    def parts(weights: Array) -> tuple[Array, Array]:
        of_truth, size = rows.T @ weights, weights.sum(axis=0)
        by_chance = [np.einsum("kb,kl,lb->b", of_truth, cost, column.T @ weights) / size for column in columns]
        return apart @ weights, np.stack(by_chance)

    def score(weights: Array) -> Array:
        seen, by_chance = parts(weights)
        return np.asarray(1 - seen / by_chance)

    def defined(weights: Array) -> Array:
        return np.asarray((parts(weights)[1] > 0).all(axis=0))

    return Statistic(name="quadratic kappa", images=len(rows), score=score, defined=defined)


def contributions(statistic: Statistic, patients: Sequence[Any] | Array | None = None) -> Array:
    """Gives each patient a number per model, whose mean over patients is the model's score: models x patients.

    They are the jackknife's pseudo-values, moved to that mean, so that their variance / patients is the jackknife's
    (Tukey 1958). More than `MOST_PATIENTS` patients are left out in as many groups, each of which counts as one. A
    patient without whom the score is undefined adds no spread.

    Raises:
        UserError: there are fewer than two patients.
    """
    index, number = patient_index(patients, statistic.images)
    if number > MOST_PATIENTS:
        index, number = index % MOST_PATIENTS, MOST_PATIENTS
    if number < 2:
        raise UserError(f"a spread over patients needs two or more, got {number}")
    point = statistic.score(np.ones((statistic.images, 1), dtype=np.float32))[:, :1]
    block = max(1, BLOCK // statistic.images)
    without = np.concatenate(_one_by_one(statistic, index, number, block), axis=1)
    without = np.where(np.isfinite(without), without, np.nanmean(without, axis=1, keepdims=True))
    return np.asarray(point + (number - 1) * (without.mean(axis=1, keepdims=True) - without))


def bootstrap(
    statistic: Statistic, rng: np.random.Generator, *, patients: Sequence[Any] | Array | None = None, resamples: int,
    tell: Tell = untold,
) -> Resamples:  # fmt: skip
    """Scores all models on the same resamples of the patients, and without each patient.

    Resamples are drawn one after the other and scored on all cores, so that their number does not change a digit.

    Args:
        statistic: what is scored.
        rng: where the resamples are drawn from.
        patients: one id per image; None: every image is a patient of its own.
        resamples: number of resamples.
        tell: called with what is done.

    Raises:
        UserError: there are fewer than two patients, `resamples < 1`, or resamples hardly ever have both classes.
    """
    index, number = patient_index(patients, statistic.images)
    if number < 2 or resamples < 1:
        raise UserError(f"`patients >= 2 and resamples >= 1` must hold, got {number} and {resamples}")
    block = max(LEAST_BLOCK, BLOCK // statistic.images)
    redrawn = drawn = done = 0
    whole = resamples + (number if statistic.without is None else LEFT_OUT)
    point = statistic.score(np.ones((statistic.images, 1), dtype=np.float32))[:, 0]

    def blocks() -> Iterator[Array]:
        nonlocal redrawn, drawn
        while drawn < resamples:
            weights = _draw(rng, number, min(block, resamples - drawn))[index]
            kept = statistic.defined(weights)
            redrawn += int((~kept).sum())
            drawn += int(kept.sum())
            if redrawn > MAX_REDRAWS * resamples:
                words = f"{redrawn} resamples of {number} patients lack a class: too few patients have the finding"
                raise UserError(words)
            yield weights[:, kept] if not kept.all() else weights

    def after(scores: Array) -> None:
        nonlocal done
        done += scores.shape[1]
        one_by_one = f"without each patient, {done - resamples:,} of {number:,}"
        tell(f"{done:,} of {resamples:,} resamples" if done <= resamples else one_by_one, done / whole)

    values = spread(statistic.score, blocks(), numbers=block * statistic.images, after=after)
    if statistic.without is not None:
        tell("without each patient", resamples / whole)
        left_out = [statistic.without(index, number)]
    else:
        left_out = _one_by_one(statistic, index, number, block, after)
    return Resamples(
        name=statistic.name, values=np.concatenate(values, axis=1), redrawn=redrawn, patients=number, point=point,
        jackknife=np.concatenate(left_out, axis=1), images=statistic.images,
    )  # fmt: skip


def interval(
    resamples: Resamples,
    a: Sequence[int],
    b: Sequence[int] = (),
    *,
    method: Literal["percentile", "bca"] = "bca",
    level: float = 0.95,
) -> Interval:
    """Gives the interval of the mean score of models `a`, or of their mean difference from `b`, pair by pair.

    bca: bias-corrected and accelerated (Efron, JASA 1987), acceleration by the jackknife over patients.

    Args:
        resamples: of all models.
        a: rows of the models, such as the seeds of one initialization.
        b: rows to subtract, seed by seed; empty: none.
        method: percentile or bca.
        level: of the interval.

    Raises:
        UserError: a row does not exist, the rows do not pair, or `level` is not between 0 and 1.
    """
    rows, count = [*a, *b], len(resamples.point)
    if not a or (b and len(a) != len(b)) or not all(0 <= row < count for row in rows) or not 0 < level < 1:
        raise UserError(f"rows of 0 to {count - 1} in pairs and a level in (0, 1) are needed, got {a}, {b} and {level}")
    point, drawn, left_out = (_combined(x, a, b) for x in (resamples.point, resamples.values, resamples.jackknife))
    estimate = float(point)
    tail = (1 - level) / 2
    note = ""
    ends: tuple[float, float] | None = (tail, 1 - tail)
    if np.ptp(drawn) <= ROUNDING * max(1.0, abs(estimate)):
        note = "no variance over patients"
    elif method == "bca":
        ends, note = _bca_ends(estimate, drawn, left_out, (tail, 1 - tail))
    low, high = (float(x) for x in np.quantile(drawn, ends)) if ends else (None, None)
    return Interval(
        method=method, statistic=resamples.name, estimate=estimate, level=level, patients=resamples.patients,
        images=resamples.images, resamples=len(drawn), redrawn=resamples.redrawn, low=low, high=high, note=note,
    )  # fmt: skip


def _ranked(name: str, targets: Any, scores: Any, kernel: ranked.Kernel, tied: float) -> Statistic:
    """Defines a mean over labels of a statistic of ranks; what depends on the ranks is made ready once.

    Args:
        name: of the statistic.
        targets: see `mean_auc`.
        scores: see `mean_auc`.
        kernel: computes the statistic of one model and label from weights.
        tied: share of a tied negative that counts as ranked below the positive.
    """
    truth, values = checked(targets, scores)
    with_it, without = (truth == 1).astype(np.float32).T, (truth == 0).astype(np.float32).T
    lacking = np.flatnonzero(~(with_it.any(axis=1) & without.any(axis=1))).tolist()
    if lacking:
        raise UserError(f"labels {lacking} lack a class, so {name} is undefined for them; leave them out")

    @functools.cache  # where contributions alone are asked for, nobody needs them
    def bins() -> list[list[tuple[Any, Any]]]:
        def of_model(model: Array) -> list[tuple[Any, Any]]:
            return [ranked.bins(target, model[:, k], tied) for k, target in enumerate(truth.T)]

        return spread(of_model, values, numbers=truth.size)

    def score(weights: Array) -> Array:
        negatives = without @ weights
        found = [
            [kernel(up @ weights, ranked.running(down @ weights), negatives[k]) for k, (up, down) in enumerate(model)]
            for model in bins()
        ]
        return np.asarray(np.mean(found, axis=1))

    def defined(weights: Array) -> Array:
        return np.asarray(((with_it @ weights > 0) & (without @ weights > 0)).all(axis=0))

    return Statistic(name=name, images=len(truth), score=score, defined=defined)


def _always(weights: Array) -> Array:
    return np.ones(weights.shape[1], dtype=np.bool_)


def _draw(rng: np.random.Generator, patients: int, resamples: int) -> Array:
    """Draws how often each patient is in each resample: patients x resamples."""
    counts = np.empty((resamples, patients), dtype=np.float32)
    for row, drawn in zip(counts, rng.integers(0, patients, (resamples, patients)), strict=True):
        row[:] = np.bincount(drawn, minlength=patients)
    return np.ascontiguousarray(counts.T)


def _one_by_one(
    statistic: Statistic, index: Array, number: int, block: int, after: Callable[[Array], None] | None = None
) -> list[Array]:
    """Scores all models without each of `number` patients, in blocks of models x patients."""
    starts = range(0, number, block)
    return spread(
        lambda start: _without(statistic, index, np.arange(start, min(start + block, number))), starts,
        numbers=block * statistic.images, after=after,
    )  # fmt: skip


def _without(statistic: Statistic, index: Array, patients: Array) -> Array:
    """Scores all models without each of the patients, nan where that is undefined: models x patients."""
    weights = (index[:, None] != patients).astype(np.float32)
    kept = statistic.defined(weights)
    scores = statistic.score(np.where(kept, weights, 1.0).astype(np.float32))
    return np.where(kept, scores, np.nan)


def _combined(scores: Array, a: Sequence[int], b: Sequence[int]) -> Array:
    """Averages the rows `a`, or their differences from the rows `b`."""
    return np.asarray((scores[list(a)] - scores[list(b)]).mean(axis=0) if b else scores[list(a)].mean(axis=0))


def _bca_ends(
    estimate: float, drawn: Array, left_out: Array, ends: tuple[float, float]
) -> tuple[tuple[float, float] | None, str]:
    """Moves the quantiles for bias and skew; None, with the reason, where that is impossible."""
    if not np.isfinite(left_out).all():
        return None, "no BCa interval: a class comes from a single patient"
    share = float(((drawn < estimate).mean() + (drawn <= estimate).mean()) / 2)
    if not 0 < share < 1:
        return None, "no BCa interval: the estimate lies outside all resamples"
    influence = left_out.mean() - left_out
    scale = float((influence**2).sum()) ** 1.5
    skew = float((influence**3).sum()) / (6 * scale) if scale else 0.0
    bias, z = stats.norm.ppf(share), stats.norm.ppf(ends)
    moved = stats.norm.cdf(bias + (bias + z) / (1 - skew * (bias + z)))
    return (float(moved[0]), float(moved[1])), ""


def matrix(values: Any, name: str, shape: str) -> Array:
    """Checks numbers in rows and columns.

    Raises:
        UserError: the shape does not fit, or a number is not finite.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 2 or numbers.size == 0 or not np.isfinite(numbers).all():
        raise UserError(f"{name} must be finite numbers, {shape}, got shape {numbers.shape}")
    return numbers
