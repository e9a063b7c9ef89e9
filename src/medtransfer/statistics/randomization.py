"""Tests by re-drawn signs or labels: exact where all patterns can be taken, else by drawing.

Every test is of a - b, two-sided unless `alternative` says that a is greater or less.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from medtransfer.core.errors import UserError
from medtransfer.statistics.t_tests import (
    ROUNDING,
    Alternative,
    Array,
    Scores,
    differences,
    finite,
    require_level,
    scale,
)

Randomization = Literal["wilcoxon", "sign-flip", "label"]

ENUMERATED = 20_000
"""number of sign or label patterns up to which all of them are taken; above it they are drawn"""


@dataclass(frozen=True, kw_only=True)
class RandomizationTest:
    """A test by re-drawn signs or labels, or the reason why there is none. It has no interval."""

    test: Randomization
    difference: float
    """mean of a minus mean of b"""
    n: tuple[int, ...]
    """number of pairs, or number of scores of a and of b"""
    alternative: Alternative
    statistic: float | None = None
    """wilcoxon: rank sum of the pairs where a is higher; else the difference"""
    p: float | None = None
    """None where no test is possible"""
    least: float | None = None
    """smallest p that any outcome on this data can have; above alpha, nothing can be separated"""
    draws: int = 0
    """number of drawn patterns; 0: the p-value is over all patterns"""
    note: str = ""
    """why `p` is None, or why no outcome could have reached alpha"""

    def separated(self, alpha: float) -> bool | None:
        """Says whether p <= alpha; None where no test is possible."""
        return None if self.p is None else self.p <= alpha


def wilcoxon_test(
    a: Scores, b: Scores, *, alternative: Alternative = "two-sided", alpha: float = 0.05
) -> RandomizationTest:
    """Tests paired scores by the signed ranks of their differences (Wilcoxon, Biometrics Bulletin 1945).

    Equal sizes share their mean rank. Zero differences are ranked and then left out (Pratt, JASA 1959). The p-value is
    exact at any n, given the ties: the distribution of the rank sum over all 2^m signs of the m nonzero differences.

    Raises:
        UserError: a score is missing or not finite, the numbers differ, or `alpha` is out of range.
    """
    difference, blank = _pairs("wilcoxon", a, b, alternative, alpha)
    if blank.note:
        return blank
    ranks = np.rint(2 * stats.rankdata(np.abs(difference))).astype(int)[difference != 0]  # doubled: whole numbers
    chance = np.ones(1)
    for rank in ranks:
        chance = (np.pad(chance, (0, rank)) + np.pad(chance, (rank, 0))) / 2
    sums = np.arange(len(chance)) - ranks.sum() / 2
    observed = int(ranks[difference[difference != 0] > 0].sum())
    p = float(chance[_extremes(sums, sums[observed], alternative)].sum())
    least = (2 if alternative == "two-sided" else 1) * 0.5 ** len(ranks)
    return _reachable(replace(blank, statistic=observed / 2, p=min(p, 1.0), least=least), alpha)


def permutation_test(
    a: Scores,
    b: Scores,
    *,
    paired: bool,
    generator: np.random.Generator,
    draws: int = 9999,
    alternative: Alternative = "two-sided",
    alpha: float = 0.05,
) -> RandomizationTest:
    """Tests scores by flipping the signs of paired differences, else by relabelling the scores (Fisher, 1935).

    All patterns are taken where there are at most `ENUMERATED`; else `draws` are drawn, and the observed pattern is
    counted as one more, so that p is never 0 (Phipson and Smyth, 2010). Two-sided: the size of the mean difference.

    Raises:
        UserError: a score is missing or not finite, paired scores differ in number, or `draws` or `alpha` is out of
            range.
    """
    if draws < 1:
        raise UserError(f"`draws >= 1` must hold, got {draws}")
    if paired:
        values, blank = _pairs("sign-flip", a, b, alternative, alpha)
        patterns = _signs(len(values), draws, generator)
    else:
        first, second = finite(a, "a"), finite(b, "b")
        blank = _screened("label", first, second, (len(first), len(second)), alternative, alpha)
        values = np.concatenate([first, second]) - first.mean()  # centred: the size of the scores must not cost digits
        patterns = _labels(len(first), len(second), draws, generator)
    if blank.note:
        return blank
    weight = patterns / len(values) if paired else np.where(patterns, 1 / blank.n[0], -1 / blank.n[-1])
    found = weight @ values
    enumerated = _patterns(*blank.n) <= ENUMERATED
    extra = 0 if enumerated else 1
    extremes = _extremes(found, blank.difference, alternative)
    farthest = {"two-sided": np.abs(found).max(), "greater": found.max(), "less": found.min()}
    top = _extremes(found, float(farthest[alternative]), alternative)
    count = len(found) + extra
    p, least = (extremes.sum() + extra) / count, (top.sum() if enumerated else 1) / count
    result = replace(blank, statistic=blank.difference, p=float(p), least=float(least))
    return _reachable(replace(result, draws=0 if enumerated else draws), alpha)


def _pairs(
    test: Randomization, a: Scores, b: Scores, alternative: Alternative, alpha: float
) -> tuple[Array, RandomizationTest]:
    first, second = finite(a, "a"), finite(b, "b")
    difference = differences(first, second)
    noise = ROUNDING * scale(first, second)
    # On a grid of the noise's width, so that differences equal but for rounding are ties.
    difference = np.rint(difference / noise) * noise if noise else difference
    return difference, _screened(test, difference, np.zeros(1), (len(difference),), alternative, alpha)


def _screened(
    test: Randomization, first: Array, second: Array, n: tuple[int, ...], alternative: Alternative, alpha: float
) -> RandomizationTest:
    """Makes a record without p, with the reason where there can be none; of pairs, `second` is a single 0."""
    require_level(alpha)
    difference = float(first.mean() - second.mean())
    blank = RandomizationTest(test=test, difference=difference, n=n, alternative=alternative)
    if min(n) < 2:
        return replace(blank, note="fewer than two pairs" if len(n) == 1 else "fewer than two runs on a side")
    noise = 2 * ROUNDING * scale(first, second)
    if max(np.ptp(first), np.ptp(second)) > noise:
        return blank
    if abs(difference) <= noise:
        return replace(blank, p=1.0, note="no variance and no difference")
    return replace(blank, note="no variance on either side")


def _signs(n: int, draws: int, generator: np.random.Generator) -> Array:
    """Gives patterns x n signs: all, or `draws` of them."""
    if _patterns(n) <= ENUMERATED:
        return 1.0 - 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
    return generator.choice((-1.0, 1.0), (draws, n))


def _labels(n_a: int, n_b: int, draws: int, generator: np.random.Generator) -> Array:
    """Gives patterns x scores, true where a score counts as one of a: all, or `draws` of them."""
    n = n_a + n_b
    if _patterns(n_a, n_b) > ENUMERATED:
        return generator.permuted(np.tile(np.arange(n) < n_a, (draws, 1)), axis=1)
    chosen = np.array(list(combinations(range(n), n_a)))
    labels: Array = (chosen[:, :, None] == np.arange(n)).any(axis=1)
    return labels


def _patterns(n: int, other: int = 0) -> int:
    """Counts the signs of n pairs, or the labellings of n and `other` scores."""
    return math.comb(n + other, n) if other else 2**n


def _extremes(values: Array, observed: float, alternative: Alternative) -> npt.NDArray[np.bool_]:
    """Marks the values at least as extreme as the observed one, equal but for rounding included."""
    noise = 1e-9 * float(np.abs(values).max())
    if alternative == "two-sided":
        return np.abs(values) >= abs(observed) - noise
    return values >= observed - noise if alternative == "greater" else values <= observed + noise


def _reachable(result: RandomizationTest, alpha: float) -> RandomizationTest:
    if result.least is None or result.least <= alpha:
        return result
    return replace(
        result, note=f"at n={result.n} no outcome can reach alpha={alpha:g}: p is {result.least:.3g} or more"
    )
