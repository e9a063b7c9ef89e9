"""How large a difference between two initializations is, whether it is small enough, and how many seeds show it.

Every number is of a against b, and higher scores are better. "Equivalent" is said by `tost` alone.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import optimize, special, stats

from medtransfer.errors import UserError
from medtransfer.statistics import ROUNDING, Array, Scores, Test, differences, finite, scale, t_test

LARGEST_T = 1000.0
"""size of a t up to which the noncentral t is inverted; SciPy's was checked that far"""
LARGEST_RATIO = 1000.0
"""margin in std that a larger one is taken as, which can only ask for more seeds; SciPy's was checked that far"""
MOST_SEEDS = 1000
"""seeds that `seeds_needed` looks at"""


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


@dataclass(frozen=True, kw_only=True)
class Superiority:
    """The probability that a run of a scores higher than one of b, where a tie counts half."""

    kind: Literal["all pairs of runs", "runs of one seed"]
    """which runs are compared: any of a with any of b, or two that share a seed"""
    estimate: float
    n: tuple[int, ...]
    """number of pairs, or number of scores of a and of b"""
    level: float
    method: str = ""
    """of the interval"""
    low: float | None = None
    high: float | None = None
    note: str = ""
    """why there is no interval"""


@dataclass(frozen=True, kw_only=True)
class Equivalence:
    """Two one-sided tests of |mean of a - mean of b| < margin, or the reason why there are none."""

    test: Test
    margin: float
    alpha: float
    difference: float
    """mean of a minus mean of b"""
    n: tuple[int, ...]
    """number of pairs, or number of scores of a and of b"""
    df: float | None = None
    p: float | None = None
    """the larger of the two; None where no test is possible"""
    low: float | None = None
    high: float | None = None
    """interval of level 1 - 2 alpha: within the margin exactly where the verdict is `equivalent`"""
    verdict: Literal["equivalent", "not shown"] = "not shown"
    """`not shown` does not say that the two differ"""
    note: str = ""
    """why `p` is None, or that no difference could have been shown to be small enough"""


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


def superiority(a: Scores, b: Scores, *, paired: bool, level: float = 0.95) -> Superiority:
    """Gives the probability that a run of a beats one of b, ties counted half, with an interval.

    Not paired: the share of all pairs of runs (A12 of Vargha and Delaney, JEBS 2000). The interval has the variance
    and degrees of freedom of Brunner and Munzel (Biometrical Journal 2000) on the logit scale, which keeps it in
    [0, 1]. Where all pairs of runs go alike that variance is 0. Then the min(n_a, n_b) pairs in which every run
    stands once, which are independent, carry the interval: exact, and wide.

    Paired: the share of seeds won. The interval is that of Clopper and Pearson (Biometrika 1934): it holds its level
    at every n and every probability, while Wilson's falls below for few seeds and probabilities near 0 and 1.

    Args:
        a: scores, one per run.
        b: scores of the other initialization.
        paired: scores that stand at the same place share a seed.
        level: of the interval.

    Raises:
        UserError: a score is missing or not finite, paired scores differ in number, or `level` is not in (0, 1).
    """
    alpha, first, second = _alpha(level), finite(a, "a"), finite(b, "b")
    gaps = differences(first, second) if paired else first[:, None] - second
    wins = _wins(gaps, ROUNDING * scale(first, second))
    if paired:
        low, high = _clopper_pearson(float(wins.sum()), len(wins), alpha)
        known = Superiority(kind="runs of one seed", estimate=float(wins.mean()), n=wins.shape, level=level)
        return replace(known, method="Clopper-Pearson", low=low, high=high)
    known = Superiority(kind="all pairs of runs", estimate=float(wins.mean()), n=wins.shape, level=level)
    if min(wins.shape) < 2:
        return replace(known, note="fewer than two runs on a side")
    if np.ptp(wins) == 0:
        low, high = _all_alike(known.estimate, min(wins.shape), alpha)
        return replace(known, method="exact, pairs of which all go alike", low=low, high=high)
    low, high = _logit_interval(wins, alpha)
    return replace(known, method="Brunner-Munzel, logit", low=low, high=high)


def tost(a: Scores, b: Scores, *, margin: float, paired: bool, alpha: float = 0.05) -> Equivalence:
    """Tests whether the difference in mean is smaller than the margin, by two one-sided tests.

    The tests are `statistics.t_test` (paired, else Welch) against -margin and against margin; both must reject
    (Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 1987).

    Args:
        a: scores, one per run.
        b: scores of the other initialization.
        margin: smallest difference that matters, in the unit of the scores.
        paired: scores that stand at the same place share a seed.
        alpha: of each of the two tests, and thus of the verdict; below 0.5.

    Raises:
        UserError: a score is missing or not finite, paired scores differ in number, or `margin` or `alpha` is out of
            range.
    """
    if not (0 < margin < math.inf and 0 < alpha < 0.5):
        raise UserError(f"`margin > 0` (finite) and `0 < alpha < 0.5` must hold, got {margin}, {alpha}")
    test: Test = "paired" if paired else "welch"
    first, second = finite(a, "a"), finite(b, "b")
    interval = t_test(first, second, test=test, alpha=2 * alpha)
    above = t_test(first + margin, second, test=test, alternative="greater")
    below = t_test(first - margin, second, test=test, alternative="less")
    known = Equivalence(test=test, margin=margin, alpha=alpha, difference=interval.difference, n=interval.n)
    if interval.low is None or interval.high is None or above.p is None or below.p is None:
        return replace(known, df=interval.df, note=interval.note or above.note or below.note)
    p, half = max(above.p, below.p), (interval.high - interval.low) / 2
    return replace(
        known,
        df=interval.df,
        p=p,
        low=interval.low,
        high=interval.high,
        verdict="equivalent" if p <= alpha else "not shown",
        note="" if half < margin else f"too few runs: the half width {half:.3g} is not below the margin {margin:g}",
    )


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


def seeds_needed(
    std: float, *, margin: float, alpha: float = 0.05, power: float = 0.8, paired: bool = True
) -> int | None:
    """Counts the seeds at which a two-sided t-test finds a difference of `margin` with the wanted power.

    The power is exact for normal scores, from the noncentral t; of independent runs it is that of the pooled test at
    one std on both sides, which Welch's comes close to.

    Args:
        std: of the differences if paired, else of the scores of one side.
        margin: the difference to be found, in the unit of `std`.
        alpha: of the test.
        power: probability that p <= alpha where the difference is `margin`.
        paired: the test is on pairs.

    Returns:
        The smallest number of pairs, or of runs per side; None above `MOST_SEEDS`.

    Raises:
        UserError: `std` is negative, `margin` is not positive, one is not finite, or `alpha` or `power` is out of
            range.
    """
    if not (0 <= std < math.inf and 0 < margin < math.inf and 0 < alpha < 1 and 0 < power < 1):
        law = "`std >= 0, margin > 0` (both finite), `0 < alpha < 1, 0 < power < 1` must hold"
        raise UserError(f"{law}, got {std}, {margin}, {alpha}, {power}")
    ratio = LARGEST_RATIO if margin >= LARGEST_RATIO * std else margin / std
    seeds = range(2, MOST_SEEDS + 1)
    place = bisect.bisect_left(seeds, power, key=lambda n: _power(n, ratio, alpha, paired))  # it rises with n
    return seeds[place] if place < len(seeds) else None


def _alpha(level: float) -> float:
    if not 0 < level < 1:
        raise UserError(f"`0 < level < 1` must hold, got {level}")
    return 1 - level


def _power(n: int, ratio: float, alpha: float, paired: bool) -> float:
    """Computes the power of a two-sided t-test with n pairs, or n runs per side, for a difference of ratio std."""
    df, center = (n - 1, ratio * math.sqrt(n)) if paired else (2 * n - 2, ratio * math.sqrt(n / 2))
    critical = stats.t.isf(alpha / 2, df)
    return float(stats.nct.sf(critical, df, center) + stats.nct.sf(critical, df, -center))


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


def _wins(gaps: Array, noise: float) -> Array:
    """Marks 1 where a is higher, 0 where b is, and 0.5 where they differ by rounding alone."""
    return np.where(np.abs(gaps) <= noise, 0.5, gaps > 0)


def _clopper_pearson(wins: float, n: int, alpha: float) -> tuple[float, float]:
    """Computes the exact interval of a probability; a half win is taken as it stands."""
    low = float(stats.beta.ppf(alpha / 2, wins, n - wins + 1)) if wins > 0 else 0.0
    high = float(stats.beta.isf(alpha / 2, wins + 1, n - wins)) if wins < n else 1.0
    return low, high


def _all_alike(estimate: float, n: int, alpha: float) -> tuple[float, float]:
    """Computes the interval where n independent pairs all go one way (estimate 0 or 1) or all tie (0.5).

    A kind of outcome that has the probability q fills all n pairs with q^n, which must not be below its share of
    alpha. All the rest, 1 - q, may then be wins or losses.
    """
    if estimate == 0.5:
        tie = alpha ** (1 / n)
        return tie / 2, 1 - tie / 2
    return _clopper_pearson(estimate * n, n, alpha)


def _logit_interval(wins: Array, alpha: float) -> tuple[float, float]:
    """Computes the interval of the share of wins (runs of a x runs of b) from its parts by run."""
    estimate = wins.mean()
    parts = np.array([side.var(ddof=1) / len(side) for side in (wins.mean(axis=1), wins.mean(axis=0))])
    shares = parts / parts.sum()
    df = 1 / (shares**2 / (np.array(wins.shape) - 1)).sum()
    reach = stats.t.isf(alpha / 2, df) * math.sqrt(parts.sum()) / (estimate * (1 - estimate))
    low, high = special.expit(special.logit(estimate) + np.array([-reach, reach]))
    return float(low), float(high)
