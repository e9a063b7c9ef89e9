"""All differences of two initializations in one column (a task, or all tasks): errors, p-values, intervals at once.

Initializations are known by their places. Scores vary with the seed and with the test patients, which are crossed.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from medtransfer.core.errors import UserError
from medtransfer.statistics.effects import upper_std
from medtransfer.statistics.t_tests import ROUNDING

Array = npt.NDArray[Any]

POWER = 0.8
MOST_SEEDS = 1000
"""seeds that `seeds_needed` looks at"""
LARGEST_RATIO = 1000.0
"""difference in standard errors that a larger one is taken as; SciPy's noncentral t was checked that far"""
SMALLEST = 1e-4
"""share of the mean variance that a smaller one is raised to before its logarithm is taken"""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The differences of all pairs, row minus column: inits x inits."""

    seeds: int
    """or folds"""
    patients: int
    """0: seeds alone count"""
    estimate: Array
    seed_error: Array
    """standard error from seeds and what is left of both"""
    patient_error: Array
    """standard error from patients; 0 where seeds alone count"""
    seed_df: float
    """of pairs that differ in it, the most"""
    df: Array
    """of both errors together"""
    scale: float
    """size of the largest score, against which rounding is measured"""
    ratio: float = 0.0
    """see `over_seeds`: more seeds take 1 / seeds of the variance of one away, and never this part"""

    @property
    def inits(self) -> int:
        """Counts the initializations."""
        return len(self.estimate)

    @property
    def number(self) -> int:
        """Counts the pairs."""
        return self.inits * (self.inits - 1) // 2

    def taken(self, places: Sequence[int]) -> Pairs:
        """Takes the pairs of some initializations."""
        some = np.ix_(places, places)
        return replace(
            self, estimate=self.estimate[some], seed_error=self.seed_error[some], df=self.df[some],
            patient_error=self.patient_error[some],
        )  # fmt: skip

    @property
    def tested(self) -> Array:
        """Marks the pairs whose difference has something to be measured against."""
        return np.hypot(self.seed_error, self.patient_error) > ROUNDING * max(1.0, self.scale)

    def p(self) -> Array:
        """Computes two-sided p-values of no difference, one by one: nan where there is no test, 1 where none is needed.

        The larger of that over both errors and that over the seeds' alone: the degrees of freedom of Satterthwaite are
        a little too many where few seeds dominate.
        """
        size, both = np.abs(self.estimate), np.hypot(self.seed_error, self.patient_error)
        with np.errstate(divide="ignore", invalid="ignore"):
            p = 2 * np.maximum(
                stats.t.sf(size / both, self.df),
                np.where(self.seed_error > 0, stats.t.sf(size / self.seed_error, self.seed_df), 0.0),
            )
        untested = np.where(size <= ROUNDING * max(1.0, self.scale), 1.0, np.nan)
        return np.where(self.tested, p, untested)

    def reach(self, share: float) -> Array:
        """Computes the half width of the interval that misses with probability `share`; nan where there is no test."""
        both = stats.t.isf(share / 2, self.df) * np.hypot(self.seed_error, self.patient_error)
        alone = stats.t.isf(share / 2, self.seed_df) * self.seed_error
        return np.where(self.tested, np.maximum(both, alone), np.nan)


def over_seeds(scores: Any, *, ratio: float = 0.0) -> Pairs | None:
    """Compares scores paired by seed, or by fold or drawn split; None with a single one.

    Args:
        scores: inits x seeds.
        ratio: test images per training image of a fold whose test images are its own: the variance of a mean over
            such folds is 1 / n + ratio times that of a fold, not 1 / n times (Nadeau and Bengio, Machine Learning
            2003). 0: seeds, or folds with one test for all.

    Raises:
        UserError: the shape does not fit, or a score is not finite.
    """
    values = _checked(scores, 2)
    if values.shape[1] < 2:
        return None
    variances, df = moderated(values)
    pair = _sums(variances)
    zero = np.zeros_like(pair)
    return Pairs(
        seeds=values.shape[1], patients=0, estimate=_differences(values.mean(axis=1)), patient_error=zero, seed_df=df,
        seed_error=np.sqrt(pair * (1 / values.shape[1] + ratio)), df=np.full_like(pair, df),
        scale=float(np.abs(values).max()), ratio=ratio,
    )  # fmt: skip


def over_summaries(means: Any, stds: Any, counts: Any) -> Pairs | None:
    """Compares means of which std and number of runs are known, and not the runs; None with fewer than two means.

    Nothing is paired: the variance of a difference is the sum of both. Two means over equally many runs have Welch's
    degrees of freedom (Biometrika 1947), others those of the fewer runs alone (Mickey and Brown, Annals of Mathematical
    Statistics 1966): Welch's are too many in the far tails of many comparisons. Of 4,000 null tables with 2, 5 and 20
    inits at 2 to 20 runs, equally many or not, of one spread or two, .00 to .053 had any false difference at .05; with
    Welch's for all up to .32. Where equal seeds made scores rise and fall together, it is too careful.

    Args:
        means: of each init.
        stds: sample std over runs, ddof 1.
        counts: runs behind each mean, at least two.

    Raises:
        UserError: the shapes differ, a number is not finite, or a count is below two.
    """
    mean, std, runs = (np.asarray(values, dtype=np.float64) for values in (means, stds, counts))
    if not (mean.ndim == 1 and mean.shape == std.shape == runs.shape and np.isfinite([mean, std, runs]).all()):
        raise UserError(f"means, stds and counts must be finite numbers, one per init, got {mean}, {std}, {runs}")
    if (runs < 2).any() or (std < 0).any():
        raise UserError(f"`count >= 2` and `std >= 0` must hold, got {runs.tolist()}, {std.tolist()}")
    if len(mean) < 2:
        return None
    own = std**2 / runs
    pair, zero = _sums(own), np.zeros((len(own), len(own)))
    rest = _sums(own**2 / (runs - 1))
    welch = np.divide(pair**2, rest, out=np.ones_like(pair), where=rest > 0)
    df = np.where(runs[:, None] == runs, welch, np.minimum(runs[:, None], runs) - 1)
    return Pairs(
        seeds=int(runs.min()), patients=0, estimate=_differences(mean), seed_error=np.sqrt(pair), patient_error=zero,
        seed_df=float(df.max()), df=df, scale=float(np.abs(mean).max()),
    )  # fmt: skip


def over_seeds_and_patients(contributions: Any, *, coarseness: float = 0.0) -> Pairs | None:
    """Compares scores of which it is known what each patient adds; None with a single seed or patient.

    The variance of a difference is that of the seeds, by `moderated`, plus that of the patients, from a two-way
    analysis of variance without replication, as in `seeds_and_patients.joint_interval`; degrees of freedom by
    Satterthwaite (Biometrics Bulletin 1946), at least seeds - 1.

    Args:
        contributions: inits x seeds x patients; the mean over patients is the score of a seed.
        coarseness: a variance that is added to that of the patients, for what a score on few images cannot show.

    Raises:
        UserError: the shape does not fit, or a number is not finite.
    """
    values = _checked(contributions, 3)
    inits, seeds, patients = values.shape
    if seeds < 2 or patients < 2:
        return None
    by_seed, by_patient, mean = values.mean(axis=2), values.mean(axis=1), values.mean(axis=(1, 2))
    rest = values - by_seed[:, :, None] - by_patient[:, None, :] + mean[:, None, None]
    noise = _squares(rest.reshape(inits, -1)) / ((seeds - 1) * (patients - 1))
    spread = _squares(by_patient - mean[:, None]) / (patients - 1)
    of_patients = np.maximum(spread / patients - noise / (seeds * patients), 0.0) + coarseness
    variances, seed_df = moderated(by_seed)
    of_seeds = _sums(variances) / seeds
    whole = of_seeds + of_patients
    share = np.divide(of_seeds, whole, out=np.zeros_like(whole), where=whole > 0)
    df = np.maximum(1 / (share**2 / seed_df + (1 - share) ** 2 / (patients - 1)), seeds - 1)
    np.fill_diagonal(of_patients, 0.0)
    return Pairs(
        seeds=seeds, patients=patients, estimate=_differences(mean), seed_error=np.sqrt(of_seeds), seed_df=seed_df,
        patient_error=np.sqrt(of_patients), df=df, scale=float(np.abs(values).max()),
    )  # fmt: skip


def over_columns(columns: Sequence[Pairs], units: Sequence[float], groups: Sequence[str]) -> Pairs:
    """Averages differences over tasks, each in units of its own, such as the task's margin; groups count once.

    Runs and patients of different groups are independent, so variances add up, with the degrees of freedom of
    Satterthwaite. Tasks of a group share images: their errors are added as if they always went together, which can
    only be too careful.

    Args:
        columns: of the same initializations.
        units: of each column; the result is in multiples of them.
        groups: one name per column, the same for tasks that share images.
    """
    names = list(dict.fromkeys(groups))
    estimate = np.zeros_like(columns[0].estimate)
    of_seeds, of_patients = np.zeros_like(estimate), np.zeros_like(estimate)
    rest, seed_rest = np.zeros_like(estimate), np.zeros_like(estimate)
    for name in names:
        members = [(pair, unit) for pair, unit, group in zip(columns, units, groups, strict=True) if group == name]
        weight = 1 / len(members) / len(names)
        estimate += sum(weight / unit * pair.estimate for pair, unit in members)
        seeds = sum(weight / unit * pair.seed_error for pair, unit in members)
        patients = sum(weight / unit * pair.patient_error for pair, unit in members)
        of_seeds += seeds**2
        of_patients += patients**2
        rest += (seeds**2 + patients**2) ** 2 / np.minimum.reduce([pair.df for pair, _ in members])
        seed_rest += seeds**4 / min(pair.seed_df for pair, _ in members)
    with np.errstate(divide="ignore", invalid="ignore"):
        df = np.where(rest > 0, (of_seeds + of_patients) ** 2 / rest, 1.0)
        seed_df = np.where(seed_rest > 0, of_seeds**2 / seed_rest, np.inf)
    return Pairs(
        seeds=min(pair.seeds for pair in columns), patients=min(pair.patients for pair in columns), estimate=estimate,
        seed_error=np.sqrt(of_seeds), patient_error=np.sqrt(of_patients), df=df, seed_df=float(seed_df.min()),
        scale=max(pair.scale / unit for pair, unit in zip(columns, units, strict=True)),
        ratio=max(pair.ratio for pair in columns),
    )  # fmt: skip


def moderated(by_seed: Array) -> tuple[Array, float]:
    """Estimates how much each init's score varies with the seed, what all share of a seed taken out: variances and df.

    With a few seeds an init's own variance is hardly known, and one for all is wrong where inits differ in it. Each is
    drawn towards a common one by as much as the variances resemble each other (the moderated variance of Smyth,
    Statistical Applications in Genetics and Molecular Biology 2004), and never below its own estimate. The degrees of
    freedom are those of the prior and of the seeds together, at most those of the pooled variance.

    All equal, this holds the level: at most .05 of 3,000 simulations had any false difference among 2, 3, 10 or 20
    inits at 3, 5 or 10 seeds. Where one init varies four times as much as all others, .04 to .05.

    Args:
        by_seed: inits x seeds.
    """
    inits, seeds = by_seed.shape
    if inits < 2:
        return np.zeros(inits), float(seeds - 1)
    rest = by_seed - by_seed.mean(axis=1, keepdims=True) - by_seed.mean(axis=0) + by_seed.mean()
    own = (rest**2).sum(axis=1) / (seeds - 1) * inits / (inits - 1)
    pooled, whole = float(own.mean()), float((inits - 1) * (seeds - 1))
    if pooled <= 0 or inits == 2:
        return own, whole
    logs = np.log(np.maximum(own, SMALLEST * pooled)) - special.digamma((seeds - 1) / 2) + np.log((seeds - 1) / 2)
    excess = float(logs.var(ddof=1) - special.polygamma(1, (seeds - 1) / 2))
    if excess <= ROUNDING:
        return np.maximum(own, pooled), whole
    prior = 2 * _inverse_trigamma(excess)
    common = float(np.exp(logs.mean() + special.digamma(prior / 2) - np.log(prior / 2)))
    drawn = (prior * common + (seeds - 1) * own) / (prior + seeds - 1)
    return np.maximum(drawn, own), min(prior + seeds - 1, whole)


def power(
    seeds: int, *, seed_std: float, patient_error: float, margin: float, share: float, df_per_seed: float,
    patients: int, ratio: float = 0.0,
) -> float:  # fmt: skip
    """Computes the probability that a difference of `margin` is found.

    Args:
        seeds: of each initialization.
        seed_std: of a difference, over seeds.
        patient_error: standard error of a difference from patients.
        margin: the true difference.
        share: level of the comparison, its part of the page's.
        df_per_seed: degrees of freedom of `seed_std` per seed beyond the first.
        patients: 0: seeds alone count.
        ratio: see `over_seeds`.
    """
    of_seeds, of_patients = seed_std**2 * (1 / seeds + ratio), patient_error**2
    whole, seed_df = of_seeds + of_patients, df_per_seed * (seeds - 1)
    if whole <= 0:
        return 1.0
    part = of_seeds / whole
    df = max(1 / (part**2 / seed_df + ((1 - part) ** 2 / (patients - 1) if patients > 1 else 0.0)), seeds - 1)
    found = stats.nct.sf(stats.t.isf(share / 2, df), df, min(margin / whole**0.5, LARGEST_RATIO))
    if of_seeds > 0:
        center = min(margin / of_seeds**0.5, LARGEST_RATIO)
        found = min(found, stats.nct.sf(stats.t.isf(share / 2, seed_df), seed_df, center))
    return float(found)


def seeds_needed(pairs: Pairs, row: int, column: int, *, margin: float, share: float) -> int | None:
    """Counts the seeds in total with which a difference of `margin` is found with probability `POWER`.

    The std over seeds is taken at its upper 80 % bound: what a few seeds show of it is uncertain itself.

    Returns:
        None: no number up to `MOST_SEEDS` is enough.
    """
    of_one = float(pairs.seed_error[row, column]) / (1 / pairs.seeds + pairs.ratio) ** 0.5
    own_df = pairs.seed_df if pairs.patients else float(pairs.df[row, column])
    std = upper_std(of_one, max(2, round(own_df) + 1))
    of_patients = float(pairs.patient_error[row, column])

    def found(seeds: int) -> float:
        return power(
            seeds, seed_std=std, patient_error=of_patients, margin=margin, share=share, patients=pairs.patients,
            df_per_seed=own_df / (pairs.seeds - 1), ratio=pairs.ratio,
        )  # fmt: skip

    counts = range(2, MOST_SEEDS + 1)
    place = bisect.bisect_left(counts, POWER, key=found)  # it rises with the seeds
    return counts[place] if place < len(counts) else None


def _checked(values: Any, dimensions: int) -> Array:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != dimensions or 0 in numbers.shape or not np.isfinite(numbers).all():
        shape = "inits x seeds" if dimensions == 2 else "inits x seeds x patients"
        raise UserError(f"scores must be finite numbers, {shape}, got shape {numbers.shape}")
    return numbers


def _differences(values: Array) -> Array:
    return np.asarray(values[:, None] - values)


def _sums(values: Array) -> Array:
    """Adds each two; an init's difference from itself does not vary."""
    sums = np.asarray(values[:, None] + values)
    np.fill_diagonal(sums, 0.0)
    return sums


def _squares(values: Array) -> Array:
    """Sums the squared differences of each two rows."""
    product = values @ values.T
    size = np.diag(product)
    return np.asarray(np.maximum(size[:, None] + size - 2 * product, 0.0))


def _inverse_trigamma(value: float) -> float:
    """Solves trigamma(x) = value by Newton's method (Smyth 2004, appendix)."""
    x = 0.5 + 1 / value
    for _ in range(50):
        now = float(special.polygamma(1, x))
        step = now * (1 - now / value) / float(special.polygamma(2, x))
        x += step
        if abs(step) < 1e-8 * x:
            break
    return x
