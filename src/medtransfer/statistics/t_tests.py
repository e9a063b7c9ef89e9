"""Tests between the scores of two initializations: arrays in, numbers out; no files, no names of initializations.

"Not separated" means p > alpha. It is never "equivalent", which only an equivalence test could say. Every test
is of a - b, two-sided unless `alternative` says that a is greater or less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from medtransfer.core.errors import UserError

Test = Literal["pooled", "welch", "paired"]
Alternative = Literal["two-sided", "greater", "less"]
Scores = Sequence[float] | npt.NDArray[Any]
Array = npt.NDArray[Any]

ROUNDING = 1e-12
"""relative size below which a spread or a difference is floating-point noise, thus zero"""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Mean and spread of the scores of several runs."""

    mean: float
    std: float | None
    """None where it is undefined: a single score"""
    n: int


@dataclass(frozen=True, kw_only=True)
class TTest:
    """A t-test of a - b, or the reason why there is none."""

    test: Test | Literal["corrected"]
    difference: float
    """mean of a minus mean of b"""
    n: tuple[int, ...] = ()
    """number of pairs, or number of scores of a and of b"""
    alternative: Alternative = "two-sided"
    alpha: float = 0.05
    """1 - level of the interval"""
    statistic: float | None = None
    df: float | None = None
    p: float | None = None
    """None where no test is possible"""
    low: float | None = None
    """lower end of the interval of the difference; -inf under the alternative `less`"""
    high: float | None = None
    """upper end; inf under the alternative `greater`"""
    note: str = ""
    """why `p` is None, or why it is 1 without a statistic"""

    def separated(self, alpha: float) -> bool | None:
        """Says whether p <= alpha; None where no test is possible."""
        return None if self.p is None else self.p <= alpha


def summary(scores: Scores) -> Summary:
    """Summarises scores by mean, sample std (ddof 1) and n; the std of a single score is undefined.

    Raises:
        UserError: there is no score, or one is not finite.
    """
    values = finite(scores, "scores")
    std = float(values.std(ddof=1)) if len(values) > 1 else None
    return Summary(mean=float(values.mean()), std=std, n=len(values))


def corrected_t_test(
    a: Scores, b: Scores, *, ratio: float, alternative: Alternative = "two-sided", alpha: float = 0.05
) -> TTest:
    """Tests scores paired by fold: the corrected resampled t-test (Nadeau and Bengio, Machine Learning 2003).

    Folds share training images, so their scores vary less than those of independent samples would: the variance of
    the mean difference is taken as (1 / n + ratio) times that of the differences, not 1 / n times.

    Args:
        a: one score per fold.
        b: the scores of the same folds.
        ratio: test images per training image of a fold.
        alternative: what a is said to be, against b.
        alpha: 1 - level of the interval.

    Raises:
        UserError: a score is missing or not finite, the numbers differ, or `ratio <= 0`.
    """
    first, second = finite(a, "a"), finite(b, "b")
    if len(first) != len(second) or not 0 < ratio < math.inf:
        raise UserError(f"`len(a) == len(b)` and `ratio > 0` must hold, got {len(first)}, {len(second)}, {ratio}")
    difference = first - second
    blank = _blank("corrected", float(difference.mean()), (len(difference),), alternative, alpha)
    if len(difference) < 2:
        return replace(blank, note="fewer than two folds")
    error = float(difference.std(ddof=1) * np.sqrt(1 / len(difference) + ratio))
    return _tested(blank, error, len(difference) - 1, scale(first, second))


def t_test(a: Scores, b: Scores, *, test: Test, alternative: Alternative = "two-sided", alpha: float = 0.05) -> TTest:
    """Tests two sets of scores for a difference in mean.

    pooled: independent samples of one variance (Student). welch: independent samples of two variances (Welch,
    Biometrika 1947). paired: differences of scores that stand at the same place (the same seed).

    A side with a single score has no std, so there is no test. Where neither side varies there is nothing to
    measure a difference against: p is 1 if the means are equal, else there is no test (not p = 0, which a
    seed without effect would earn for free).

    Args:
        a: scores, one per run.
        b: scores of the other initialization.
        test: see above.
        alternative: what a is said to be, against b.
        alpha: 1 - level of the interval; one-sided alternatives have a one-sided interval.

    Raises:
        UserError: a score is missing or not finite, or paired scores differ in number.
    """
    first, second = finite(a, "a"), finite(b, "b")
    if test != "paired":
        return t_test_from_summary(summary(a), summary(b), test=test, alternative=alternative, alpha=alpha)
    difference = differences(first, second)
    blank = _blank(test, float(difference.mean()), (len(difference),), alternative, alpha)
    if len(difference) < 2:
        return replace(blank, note="fewer than two pairs")
    error = float(difference.std(ddof=1) / np.sqrt(len(difference)))
    return _tested(blank, error, len(difference) - 1, scale(first, second))


def t_test_from_summary(
    a: Summary,
    b: Summary,
    *,
    test: Literal["pooled", "welch"],
    ddof: Literal[0, 1] = 1,
    alternative: Alternative = "two-sided",
    alpha: float = 0.05,
) -> TTest:
    """Tests two independent sets of scores of which only mean, std and n are known, such as published ones.

    Args:
        a: first set.
        b: second set.
        test: see `t_test`.
        ddof: how both std were computed: 1 = sample, 0 = population (NumPy's default).
        alternative: what a is said to be, against b.
        alpha: 1 - level of the interval.

    Raises:
        UserError: `n < 1`, `std < 0`, or a number is not finite.
    """
    for side in (a, b):
        finite([side.mean, side.std or 0.0], "mean and std")
        if side.n < 1 or (side.std or 0.0) < 0:
            raise UserError(f"`n >= 1 and std >= 0` must hold, got n={side.n}, std={side.std}")
    blank = _blank(test, a.mean - b.mean, (a.n, b.n), alternative, alpha)
    if a.std is None or b.std is None or min(a.n, b.n) < 2:
        return replace(blank, note="fewer than two runs on a side")
    variance_a = a.std**2 * (a.n - ddof) / (a.n - 1)
    variance_b = b.std**2 * (b.n - ddof) / (b.n - 1)
    error = _pooled_error if test == "pooled" else _welch_error
    return _tested(blank, *error(variance_a, a.n, variance_b, b.n), max(abs(a.mean), abs(b.mean)))


def finite(scores: Scores, name: str) -> Array:
    """Turns scores into an array.

    Raises:
        UserError: there is no score, or one is not finite.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise UserError(f"{name} must be one or more finite numbers, got {values.tolist()}")
    return values


def _pooled_error(variance_a: float, n_a: int, variance_b: float, n_b: int) -> tuple[float, float]:
    """Computes the standard error of a difference in mean, and its degrees of freedom, under one variance."""
    df = n_a + n_b - 2
    pooled = ((n_a - 1) * variance_a + (n_b - 1) * variance_b) / df
    return float(np.sqrt(pooled * (1 / n_a + 1 / n_b))), df


def _welch_error(variance_a: float, n_a: int, variance_b: float, n_b: int) -> tuple[float, float]:
    """Computes the same under two variances, with the degrees of freedom of Welch and Satterthwaite."""
    part_a, part_b = variance_a / n_a, variance_b / n_b
    whole = part_a + part_b
    # As shares of the whole, so that tiny variances do not underflow when squared.
    share_a, share_b = (part_a / whole, part_b / whole) if whole else (0.5, 0.5)
    return float(np.sqrt(whole)), 1 / (share_a**2 / (n_a - 1) + share_b**2 / (n_b - 1))


def _blank(
    test: Test | Literal["corrected"], difference: float, n: tuple[int, ...], alternative: Alternative, alpha: float
) -> TTest:
    require_level(alpha)
    return TTest(test=test, difference=difference, n=n, alternative=alternative, alpha=alpha)


def require_level(alpha: float) -> None:
    """Refuses a level outside of (0, 1).

    Raises:
        UserError: with the law and the value.
    """
    if not 0 < alpha < 1:
        raise UserError(f"`0 < alpha < 1` must hold, got {alpha}")


def _tested(blank: TTest, error: float, df: float, scale: float) -> TTest:
    """Compares a difference with its standard error; below rounding of `scale` each counts as zero."""
    noise = ROUNDING * scale
    if error <= noise and abs(blank.difference) <= noise:
        return replace(blank, df=df, p=1.0, note="no variance and no difference")
    if error <= noise:
        return replace(blank, note="no variance on either side")
    t = blank.difference / error
    tail = {"two-sided": 2 * stats.t.sf(abs(t), df), "greater": stats.t.sf(t, df), "less": stats.t.cdf(t, df)}
    share = blank.alpha / 2 if blank.alternative == "two-sided" else blank.alpha
    reach = float(stats.t.isf(share, df)) * error
    low = -math.inf if blank.alternative == "less" else blank.difference - reach
    high = math.inf if blank.alternative == "greater" else blank.difference + reach
    return replace(blank, statistic=t, df=df, p=float(tail[blank.alternative]), low=low, high=high)


def differences(first: Array, second: Array) -> Array:
    """Subtracts paired scores.

    Raises:
        UserError: they differ in number.
    """
    if len(first) != len(second):
        raise UserError(f"`len(a) == len(b)` must hold for a paired test, got {len(first)} and {len(second)}")
    return first - second


def scale(first: Array, second: Array) -> float:
    """Gives the size of the largest score, against which rounding is measured."""
    return max(float(np.abs(first).max()), float(np.abs(second).max()))
