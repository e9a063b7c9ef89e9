"""Calibration: does what is given a probability come true as often? Arrays in, numbers out.

Of one label: `target` is 0/1, `probability` in [0, 1], one of each per image. The order of images decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

from medtransfer.statistics.bootstrap import Array

BINS = 15
"""of equal mass: as many images in each, but that equal probabilities stay together"""
EDGE = 1e-7
"""probabilities stay this far from 0 and 1 where their logit is taken: a step of 32 bits"""
STEPS = 30
"""of Newton's method; what has not settled by then has no finite solution"""
COLDEST, WARMEST = 0.02, 50.0
"""ends between which a temperature is looked for"""
EVENTS = 100
"""patients of the smaller class below which calibration is hardly measured (Vergouwe et al., J Clin Epidemiol 2005)"""
THRESHOLDS = np.arange(1, 100) / 100
"""at which net benefit is computed"""


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Images in bins of equal mass."""

    places: Array
    """images: number of its bin"""
    counts: Array
    """bins: images, at least one"""
    truth: Array
    """bins: how many are positive"""
    expected: Array
    """bins: sum of the probabilities"""


@dataclass(frozen=True, kw_only=True)
class Recalibration:
    """Logistic recalibration of a label (Cox, Biometrika 1958; Van Calster et al., BMC Medicine 2019)."""

    slope: float
    """of the logit of the truth over that of the probability; 1 is right, below 1 the probabilities are too extreme"""
    intercept: float
    """with the slope held at 1; 0 is right, below 0 they are too high (calibration in the large)"""
    of_slope: Array
    """images: what each adds to the slope, which is their mean"""
    of_intercept: Array


def grouped(target: Array, probability: Array, number: int = BINS) -> Groups:
    """Puts images into bins of equal mass, cut at quantiles; equal probabilities are in one bin."""
    ranks = np.unique(np.arange(1, number) * len(probability) // number)
    cuts = np.unique(np.partition(probability, ranks)[ranks])
    places = np.searchsorted(cuts, probability, side="right")
    counts = np.bincount(places)
    kept = counts > 0
    places = (np.cumsum(kept) - 1)[places]
    return Groups(
        places=places, counts=counts[kept], truth=np.bincount(places, weights=target),
        expected=np.bincount(places, weights=probability),
    )  # fmt: skip


def expected_error(target: Array, probability: Array) -> float:
    """Computes the expected calibration error: the mean over images of the gap between truth and probability in a bin.

    As Naeini et al. (AAAI 2015), with bins of equal mass (Nixon et al., CVPR Workshops 2019). It is not debiased, and
    0 for nobody: `chance_error` says what calibrated probabilities come to.
    """
    groups = grouped(target, probability)
    return float(np.abs(groups.truth - groups.expected).sum() / len(target))


def chance_error(groups: Groups, probability: Array) -> float:
    """Computes the mean of `expected_error` if every probability were right and images independent of each other.

    The mean absolute deviation of a binomial number in closed form (De Moivre), shrunk to the variance of the sum of
    unequal chances.
    """
    n, p = groups.counts.astype(np.float64), np.clip(groups.expected / groups.counts, EDGE, 1 - EDGE)
    above = np.floor(n * p) + 1
    choose = special.gammaln(n + 1) - special.gammaln(above + 1) - special.gammaln(n - above + 1)
    deviation = 2 * above * np.exp(choose + above * np.log(p) + (n - above + 1) * np.log1p(-p))
    variance = np.bincount(groups.places, weights=probability * (1 - probability))
    return float((deviation * np.sqrt(variance / (n * p * (1 - p)))).sum() / n.sum())


def brier_parts(groups: Groups, target: Array, probability: Array) -> tuple[float, float, float]:
    """Splits the Brier score into reliability - resolution + uncertainty (Murphy, J Appl Meteorol 1973).

    The resolution is the generalised one, which holds what bins hide of their insides, so that the three add up to
    the score exactly (Stephenson, Coelho and Jolliffe, Weather and Forecasting 2008).
    """
    n, mean = len(target), float(target.mean())
    said, true = groups.expected / groups.counts, groups.truth / groups.counts
    reliability = float((groups.counts * (said - true) ** 2).sum() / n)
    between = float((groups.counts * (true - mean) ** 2).sum() / n)
    off, off_true = probability - said[groups.places], target - true[groups.places]
    within = float((off**2 - 2 * off * off_true).mean())
    return reliability, between - within, mean * (1 - mean)


def logits(probability: Array) -> Array:
    """Takes the log odds, of probabilities kept off 0 and 1."""
    kept = np.clip(np.asarray(probability, dtype=np.float64), EDGE, 1 - EDGE)
    return np.asarray(np.log(kept) - np.log1p(-kept))


def recalibration(target: Array, probability: Array) -> Recalibration | None:
    """Fits the truth by the logit of the probability; None where a class is absent or the two are separated."""
    odds, n = logits(probability), len(target)
    spread = float(odds.std())
    if not 0 < target.sum() < n or spread < EDGE:
        return None
    scaled = (odds - odds.mean()) / spread
    share = float(target.mean())
    a, b = math.log(share / (1 - share)), 0.0
    for _ in range(STEPS):
        chance = special.expit(a + b * scaled)
        weight = chance * (1 - chance)
        off = target - chance
        weighted = weight * scaled
        s0, s1, s2 = float(weight.sum()), float(weighted.sum()), float(weighted @ scaled)
        determinant = s0 * s2 - s1 * s1
        if determinant <= 1e-12 * s0 * s2:
            return None
        g0, g1 = float(off.sum()), float(off @ scaled)
        step_a, step_b = (s2 * g0 - s1 * g1) / determinant, (s0 * g1 - s1 * g0) / determinant
        longest = max(abs(step_a), abs(step_b))
        a, b = a + step_a / max(1.0, longest), b + step_b / max(1.0, longest)
        if longest < 1e-9:
            break
    else:
        return None
    intercept, of_intercept = _shifted(target, odds)
    return Recalibration(
        slope=b / spread, intercept=intercept, of_intercept=of_intercept,
        of_slope=(b + n * off * (s0 * scaled - s1) / determinant) / spread,
    )  # fmt: skip


def _shifted(target: Array, odds: Array) -> tuple[float, Array]:
    """Finds the intercept beside a slope of 1, and what each image adds to it."""
    shift, off, weight = 0.0, target, 1.0
    for _ in range(STEPS):
        chance = special.expit(shift + odds)
        off, weight = target - chance, float((chance * (1 - chance)).sum())
        step = float(off.sum()) / max(weight, EDGE)
        shift += math.copysign(min(abs(step), 2.0), step)
        if abs(step) < 1e-9:
            break
    return shift, np.asarray(shift + len(target) * off / weight)


def temperature(target: Array, odds: Array) -> float | None:
    """Finds what to divide logits by for the least log loss (Guo et al., ICML 2017): above 1 they were too sure.

    Args:
        target: images, 0 or 1; or images x classes, one 1 in each row.
        odds: of the same shape; of classes the log of their probabilities.

    Returns:
        None where only one class occurs, or no temperature is best.
    """
    if not _has_two_classes(target):
        return None
    right = (target * odds).sum(axis=1) if target.ndim == 2 else target * odds

    def loss(log_temperature: float) -> float:
        scaled = math.exp(-log_temperature) * odds
        total = special.logsumexp(scaled, axis=1) if target.ndim == 2 else np.logaddexp(0.0, scaled)
        return float((total - math.exp(-log_temperature) * right).mean())

    ends = math.log(COLDEST), math.log(WARMEST)
    found = optimize.minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-7})
    inside = ends[0] + 1e-3 < found.x < ends[1] - 1e-3
    return math.exp(found.x) if inside else None


def _has_two_classes(target: Array) -> bool:
    return bool((target.sum(axis=0) > 0).sum() > 1 if target.ndim == 2 else 0 < target.sum() < len(target))


def temperatures(targets: Array, probabilities: Array, multiclass: bool) -> list[float | None]:
    """Finds the temperature of each label, or one for all classes, which then stands for each.

    Args:
        targets: images x labels, -1 for uncertain. Of val: test is never fitted to.
        probabilities: likewise.
        multiclass: the labels are classes.
    """
    if multiclass:
        return [temperature(targets, np.log(np.clip(probabilities, EDGE, 1)))] * targets.shape[1]
    known = targets >= 0
    return [
        temperature(targets[known[:, k], k].astype(np.float64), logits(probabilities[known[:, k], k]))
        for k in range(targets.shape[1])
    ]


def tempered(probabilities: Array, found: Sequence[float | None], multiclass: bool) -> Array:
    """Divides the logits of images x labels by a temperature each; a label without one keeps its probabilities."""
    values = np.array([1.0 if one is None else one for one in found])
    if multiclass:
        return np.asarray(special.softmax(np.log(np.clip(probabilities, EDGE, 1)) / values, axis=1))
    moved = special.expit(logits(probabilities) / values)
    return np.where(values == 1, probabilities, moved)


def scores_of_run(
    val: tuple[Array, Array], test: tuple[Array, Array], slugs: Sequence[str], tested: Sequence[str], multiclass: bool
) -> dict[str, float]:
    """Fits temperatures to val and scores how test is calibrated, as it is and with them.

    Args:
        val: targets and probabilities, images x labels; targets below 0 are uncertain.
        test: likewise.
        slugs: of the labels, as in score names.
        tested: those that means are over; empty: all.
        multiclass: the labels are classes.

    Returns:
        `temperature.<slug>` (of classes `temperature`), and of test, per label and as means over the labels that have
        the score, `test_ece_tempered`, `test_calibration_slope` and `test_calibration_intercept`.
    """
    fitted = temperatures(*val, multiclass)
    targets, probabilities = test
    after = tempered(probabilities, fitted, multiclass)
    scores: dict[str, float] = {}
    for k, slug in enumerate(slugs):
        known = targets[:, k] >= 0
        target = targets[known, k].astype(np.float64)
        if len(target) and any(one is not None for one in fitted):
            scores[f"test_ece_tempered.{slug}"] = expected_error(target, after[known, k])
        fit = recalibration(target, probabilities[known, k]) if len(target) else None
        if fit is not None:
            scores[f"test_calibration_slope.{slug}"] = fit.slope
            scores[f"test_calibration_intercept.{slug}"] = fit.intercept
    for name in ("test_ece_tempered", "test_calibration_slope", "test_calibration_intercept"):
        values = [scores[f"{name}.{slug}"] for slug in tested or slugs if f"{name}.{slug}" in scores]
        scores |= {name: float(np.mean(values))} if values else {}
    if multiclass:
        return scores | ({"temperature": fitted[0]} if fitted[0] is not None else {})
    named = {f"temperature.{slug}": one for slug, one in zip(slugs, fitted, strict=True) if one is not None}
    return scores | named


def net_benefit(target: Array, probability: Array) -> Array:
    """Computes net benefit at `THRESHOLDS`, per image (Vickers and Elkin, Med Decis Making 2006).

    True positives minus false ones at the odds of the threshold: from there on an image is called positive. To treat
    none has 0, to treat all that of probabilities of 1.
    """
    reached = np.searchsorted(THRESHOLDS, probability, side="right")
    size = len(THRESHOLDS) + 1
    called = np.bincount(reached, minlength=size)[::-1].cumsum()[::-1][1:]
    true = np.bincount(reached, weights=target, minlength=size)[::-1].cumsum()[::-1][1:]
    return np.asarray((true - (called - true) * THRESHOLDS / (1 - THRESHOLDS)) / len(target))


def wilson(share: float, number: float, level: float) -> tuple[float, float]:
    """Gives the interval of a share of `number` (Wilson, JASA 1927)."""
    z = float(stats.norm.ppf((1 + level) / 2))
    middle = (share + z * z / (2 * number)) / (1 + z * z / number)
    half = z / (1 + z * z / number) * math.sqrt(share * (1 - share) / number + z * z / (4 * number * number))
    return max(0.0, middle - half), min(1.0, middle + half)
