"""How large a difference between two initializations is in units of a std, and how uncertain a std is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import optimize, special, stats

from medtransfer.core.errors import UserError
from medtransfer.statistics.t_tests import Scores, t_test

LARGEST_T = 1000.0
"""size of a t up to which the noncentral t is inverted; SciPy's was checked that far"""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A difference in mean in units of a std, or the reason why there is none."""

    kind: Literal["pooled std", "std of differences"]
    """the unit: a number in one cannot be compared with a number in the other"""
    difference: float
    """mean of a minus mean of b"""
    n: tuple[int, ...]
    """number of pairs, or number of scores of a and of b"""
    level: float
    d: float | None = None
    """Cohen's d: the difference in units of the std, too large on average"""
    g: float | None = None
    """Hedges' g: d without that bias; None also at one degree of freedom, where d has no mean"""
    low: float | None = None
    high: float | None = None
    """interval of the population's effect, of which g is the unbiased estimate"""
    note: str = ""
    """why a number is None"""


def standardized(a: Scores, b: Scores, *, paired: bool, level: float = 0.95) -> Effect:
    """Gives the difference in mean in units of a std: Cohen's d and Hedges' g, with an interval.

    Not paired: the unit is the pooled std. Paired: it is the std of the differences (d_z of Lakens, Frontiers in
    Psychology 2013), which pairing makes smaller, so that the effect is larger. g = d J(df) with the exact
    J(df) = Gamma(df/2) / (sqrt(df/2) Gamma((df-1)/2)) (Hedges, Journal of Educational Statistics 1981). The interval
    inverts the noncentral t (Steiger and Fouladi 1997); it is exact for normal scores, of one variance if not paired.

    Args:
        a: scores, one per run.
        b: scores of the other initialization.
        paired: scores that stand at the same place share a seed.
        level: of the interval.

    Raises:
        UserError: a score is missing or not finite, paired scores differ in number, or `level` is not in (0, 1).
    """
    tested = t_test(a, b, test="paired" if paired else "pooled", alpha=_alpha(level))
    effect = Effect(
        kind="std of differences" if paired else "pooled std",
        difference=tested.difference,
        n=tested.n,
        level=level,
        note=tested.note,
    )
    if tested.statistic is None or tested.df is None:
        return effect
    unit = math.sqrt(sum(1 / n for n in tested.n))
    d = tested.statistic * unit
    bias = math.exp(special.gammaln(tested.df / 2) - special.gammaln((tested.df - 1) / 2)) / math.sqrt(tested.df / 2)
    effect = replace(effect, d=d, g=d * bias if tested.df > 1 else None)
    if abs(tested.statistic) > LARGEST_T:
        return replace(effect, note=f"no interval: t is beyond {LARGEST_T:g}, there is next to no variance")
    low, high = (_noncentrality(tested.statistic, tested.df, (1 + sign * level) / 2) * unit for sign in (1, -1))
    return replace(effect, low=low, high=high, note="" if tested.df > 1 else "no g at one degree of freedom")


def upper_std(std: float, n: int, *, level: float = 0.8) -> float:
    """Gives the upper confidence bound of a std (chi-squared, normal scores), which plans more safely than the std.

    Args:
        std: sample std (ddof 1).
        n: number of scores it comes from.
        level: probability that the bound is not below the true std.

    Raises:
        UserError: `std` is negative or not finite, `n < 2`, or `level` is not in (0, 1).
    """
    if not (0 <= std < math.inf and n >= 2):
        raise UserError(f"`std >= 0` (finite) and `n >= 2` must hold, got {std}, {n}")
    return float(std * math.sqrt((n - 1) / stats.chi2.ppf(_alpha(level), n - 1)))


def _alpha(level: float) -> float:
    if not 0 < level < 1:
        raise UserError(f"`0 < level < 1` must hold, got {level}")
    return 1 - level


def _noncentrality(t: float, df: float, q: float) -> float:
    """Finds the noncentrality at which P(T <= t) = q.

    T <= t means Z <= t S - noncentrality, with Z normal and S the std, a scaled chi. With a quantile of Z and of S
    for half of the probability each, the two ends are on the two sides of the root.
    """
    if t < 0:
        return -_noncentrality(-t, df, 1 - q)
    halves = np.array([(1 - q) / 2, 1 - q / 2])
    start, end = t * np.sqrt(stats.chi2.ppf(halves, df) / df) + special.ndtri(halves)
    return float(optimize.brentq(lambda center: special.nctdtr(df, center, t) - q, start, end))
