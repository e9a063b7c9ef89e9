"""One interval for a difference over seeds and patients, which are crossed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from medtransfer.core.errors import UserError
from medtransfer.statistics.bootstrap import Array, matrix
from medtransfer.statistics.delong import patient_index
from medtransfer.statistics.t_tests import ROUNDING, corrected_t_test, t_test

MAX_SEEDS = 1000
"""additional seeds that are looked at"""


@dataclass(frozen=True, kw_only=True)
class JointInterval:
    """An interval for a mean difference over seeds and patients, with its parts."""

    method: str
    estimate: float
    level: float
    seeds: int
    patients: int
    patient_error: float
    """standard error from patients; with one seed it holds the residual too"""
    seed_error: float | None = None
    """standard error from seeds and residual; its square and that of `patient_error` add up"""
    df: float | None = None
    """of both parts together"""
    p: float | None = None
    """two-sided, of no difference; at or below 1 - level exactly where 0 lies outside of the interval"""
    low: float | None = None
    high: float | None = None
    verdict: Literal["enough", "needs more seeds", "needs more test patients", "unknown"] = "unknown"
    """whether the half width is below the margin, and what would bring it there"""
    more_seeds: int | None = None
    """additional seeds that would bring the half width below the margin; None where no number is known to"""
    note: str = ""

    def ends(self, level: float) -> tuple[float, float] | None:
        """Gives the interval at another level; None where there is none."""
        if self.df is None or (not self.seed_error and not self.patient_error):
            return None
        of_seeds, quantile = self.seed_error or 0.0, (1 + level) / 2
        both = stats.t.ppf(quantile, self.df) * float(np.hypot(of_seeds, self.patient_error))
        half = float(max(both, stats.t.ppf(quantile, self.seeds - 1) * of_seeds))
        return self.estimate - half, self.estimate + half

    def p_of(self, value: float) -> float | None:
        """Computes the two-sided p-value of a true mean of `value`; None where there is no interval."""
        if self.df is None or (not self.seed_error and not self.patient_error):
            return None
        of_seeds = (self.seed_error or 0.0) ** 2
        return _two_sided(abs(self.estimate - value), of_seeds, self.patient_error**2, self.df, self.seeds)


def joint_interval(contributions: Any, *, level: float = 0.95, margin: float | None = None) -> JointInterval:
    """Gives one interval for a mean difference over seeds and patients, which are crossed: both are random.

    Two-way analysis of variance without replication: with mean squares of seeds S, patients P and residual R over s
    seeds and p patients, the variance of the mean is estimated by S / (s p) (seeds and residual) plus
    max(P - R, 0) / (s p) (patients). The t quantile has the degrees of freedom of Satterthwaite (Biometrics Bulletin
    1946) for these two parts, at least s - 1. Satterthwaite is a little short where few seeds dominate, so
    the interval is never narrower than that of the seeds alone (t with s - 1).

    Args:
        contributions: seeds x patients: the paired difference, such as a row of `delong.contributions` minus
            another, or `per_patient`; the mean over patients is the difference of that seed.
        level: of the interval.
        margin: the half width that is wanted; None: no verdict.

    Raises:
        UserError: the shape does not fit, a number is not finite, `margin <= 0`, or `level` is not in (0, 1).
    """
    numbers = matrix(contributions, "contributions", "seeds x patients")
    seeds, patients = numbers.shape
    if patients < 2 or not 0 < level < 1 or (margin is not None and margin <= 0):
        raise UserError(f"patients >= 2, 0 < level < 1, margin > 0 must hold, got {patients}, {level}, {margin}")
    known: dict[str, Any] = {"method": "crossed seeds and patients, Satterthwaite t", "level": level}
    known |= {"estimate": float(numbers.mean()), "seeds": seeds, "patients": patients}
    by_seed, by_patient = numbers.mean(axis=1), numbers.mean(axis=0)
    of_patients = float(by_patient.var(ddof=1) / patients)
    if seeds == 1:
        return JointInterval(patient_error=of_patients**0.5, note="one seed: its part is unknown", **known)
    residual = numbers - by_seed[:, None] - by_patient + numbers.mean()
    noise = float((residual**2).sum() / ((seeds - 1) * (patients - 1)))
    per_seed = float(by_seed.var(ddof=1))
    of_patients = max(of_patients - noise / (seeds * patients), 0.0)
    if per_seed + of_patients <= (ROUNDING * max(1.0, float(np.abs(numbers).max()))) ** 2:
        note = "no variance over seeds and patients"
        same = abs(known["estimate"]) <= ROUNDING * max(1.0, float(np.abs(numbers).max()))
        return JointInterval(patient_error=0.0, seed_error=0.0, p=1.0 if same else None, note=note, **known)
    df, half = (float(x) for x in _half_width(per_seed, of_patients, np.array(seeds), patients, level))
    verdict = _verdict(per_seed, of_patients, seeds, patients, level, margin)
    return JointInterval(
        patient_error=of_patients**0.5, seed_error=(per_seed / seeds) ** 0.5, df=df,
        p=_two_sided(abs(known["estimate"]), per_seed / seeds, of_patients, df, seeds),
        low=known["estimate"] - half, high=known["estimate"] + half, **verdict, **known,
    )  # fmt: skip


def ends_of_mean(contributions: Any, *, level: float = 0.95, ratio: float = 0.0) -> tuple[float, float] | None:
    """Gives the ends of the interval of a mean by what there is of it: patients and seeds, seeds, or folds.

    Args:
        contributions: seeds x patients, see `joint_interval`; seeds x 1: scores alone, which get a t-interval.
        level: of the interval.
        ratio: test images per training image where the rows are folds that are tested on images of their own: see
            `corrected_t_test`. 0: rows are seeds.

    Returns:
        None where there is nothing to measure the mean by: a single seed, or no variance.

    Raises:
        UserError: as in `joint_interval`.
    """
    numbers = matrix(contributions, "contributions", "seeds x patients")
    if numbers.shape[1] > 1 and not ratio:
        joint = joint_interval(numbers, level=level)
        return None if joint.low is None or joint.high is None else (joint.low, joint.high)
    scores = numbers.mean(axis=1)
    zeros = np.zeros(len(scores))
    test = (
        corrected_t_test(scores, zeros, ratio=ratio, alpha=1 - level)
        if ratio
        else t_test(scores, zeros, test="paired", alpha=1 - level)
    )
    return None if test.low is None or test.high is None else (test.low, test.high)


def of_two_sets(one: Any, other: Any) -> Array:
    """Gives what the patients of two test sets add to the difference of a network's scores on them.

    The mean of a row is a seed's score on the first minus that on the other, and the variance over patients that of
    the one mean plus that of the other: different people are independent.

    Args:
        one: seeds x patients, see `joint_interval`.
        other: the same seeds x other patients.

    Returns:
        Seeds x the patients of both.

    Raises:
        UserError: the seeds differ in number, or a number is not finite.
    """
    sets = [matrix(values, "contributions", "seeds x patients") for values in (one, other)]
    if len(sets[0]) != len(sets[1]):
        raise UserError(f"both test sets need the same seeds, got {len(sets[0])} and {len(sets[1])}")
    means = [values.mean(axis=1, keepdims=True) for values in sets]
    number = sum(values.shape[1] for values in sets)
    parts = [
        sign * (values - mean) * number / values.shape[1]
        for sign, values, mean in zip((1, -1), sets, means, strict=True)
    ]
    return np.asarray(means[0] - means[1] + np.concatenate(parts, axis=1))


def per_patient(values: Any, patients: Sequence[Any] | Array | None = None) -> Array:
    """Gathers numbers per image (seeds x images) per patient, so that the mean over patients is that over images.

    A patient counts with all its images: its number is the mean plus its images' deviations from it, summed, times
    patients / images.

    Raises:
        UserError: the shape does not fit, or a number is not finite.
    """
    numbers = matrix(values, "values", "seeds x images")
    index, number = patient_index(patients, numbers.shape[1])
    center = numbers.mean(axis=1, keepdims=True)
    sums = np.stack([np.bincount(index, weights=row, minlength=number) for row in numbers - center])
    return np.asarray(center + sums * number / numbers.shape[1])


def _half_width(per_seed: float, of_patients: float, seeds: Array, patients: int, level: float) -> tuple[Array, Array]:
    """Computes degrees of freedom and half width of the joint interval for each number of seeds."""
    of_seeds = per_seed / seeds
    whole = of_seeds + of_patients
    share = of_seeds / whole  # so that tiny variances do not underflow when squared
    df = np.maximum(1 / (share**2 / (seeds - 1) + (1 - share) ** 2 / (patients - 1)), seeds - 1)
    quantile = (1 + level) / 2
    both = stats.t.ppf(quantile, df) * np.sqrt(whole)
    return df, np.maximum(both, stats.t.ppf(quantile, seeds - 1) * np.sqrt(of_seeds))


def _two_sided(difference: float, of_seeds: float, of_patients: float, df: float, seeds: int) -> float:
    """Computes the p-value that belongs to the interval: the larger of both parts' and the seeds' alone."""
    both = stats.t.sf(difference / (of_seeds + of_patients) ** 0.5, df)
    alone = stats.t.sf(difference / of_seeds**0.5, seeds - 1) if of_seeds > 0 else 0.0
    return float(2 * max(both, alone))


def _verdict(
    per_seed: float, of_patients: float, seeds: int, patients: int, level: float, margin: float | None
) -> dict[str, Any]:
    """Says what brings the half width below the margin, with the variances taken as they are estimated."""
    if margin is None:
        return {"note": "no margin, no verdict"}
    below = _half_width(per_seed, of_patients, seeds + np.arange(MAX_SEEDS + 1), patients, level)[1] < margin
    if below.any():
        more = int(below.argmax())
        return {"verdict": "needs more seeds" if more else "enough", "more_seeds": more}
    if stats.t.ppf((1 + level) / 2, patients - 1) * of_patients**0.5 >= margin:
        return {"verdict": "needs more test patients", "note": "patients alone are too few for the margin"}
    return {"verdict": "needs more test patients", "note": f"{MAX_SEEDS} more seeds are not enough"}
