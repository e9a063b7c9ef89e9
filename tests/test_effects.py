from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats

from medtransfer.effects import seeds_needed, standardized, superiority, tost, upper_std
from medtransfer.errors import UserError

A = [0.81, 0.84, 0.79, 0.86, 0.82, 0.83]
B = [0.80, 0.81, 0.80, 0.82, 0.79, 0.78]


def ends(result: Any) -> tuple[float, float]:
    assert result.low is not None
    assert result.high is not None
    return result.low, result.high


def by_quadrature(t: float, df: float, center: float) -> float:
    """Gives P(T <= t) of the noncentral t as the mean of a normal probability over the std."""
    root, at = math.sqrt(df), [max(0.0, center / t)] if t else None
    return float(
        integrate.quad(
            lambda s: stats.norm.cdf(t * s - center) * stats.chi.pdf(s * root, df) * root, 0, 12, points=at, limit=500
        )[0]
    )


def test_unpaired_effect_by_hand() -> None:
    # Means 2 and 4, pooled std 1, df 4: d = -2; J(4) = Gamma(2) / (sqrt(2) Gamma(1.5)) = sqrt(2 / pi).
    found = standardized([1, 2, 3], [3, 4, 5], paired=False)
    assert (found.kind, found.n, found.difference, found.note) == ("pooled std", (3, 3), -2, "")
    assert found.d == pytest.approx(-2)
    assert found.g == pytest.approx(-2 * math.sqrt(2 / math.pi))


def test_paired_effect_by_hand() -> None:
    # Differences 1, 2, 3: d = 2; J(2) = Gamma(1) / Gamma(.5) = 1 / sqrt(pi).
    found = standardized([2, 4, 6], [1, 2, 3], paired=True)
    assert (found.kind, found.n) == ("std of differences", (3,))
    assert (found.d, found.g) == pytest.approx((2, 2 / math.sqrt(math.pi)))


def test_effect_agrees_with_pingouin() -> None:
    # pingouin 0.7.0: compute_effsize of "cohen", and of "hedges", which takes 1 - 3 / (4 df - 1) for the exact J.
    found = standardized(A, B, paired=False)
    assert found.d == pytest.approx(1.257886513566577)
    assert found.g == pytest.approx(1.1611260125229943, rel=1e-3)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_ends_of_the_interval_are_the_effects_that_make_the_data_just_unlikely(paired: bool, level: float) -> None:
    found = standardized(A, B, paired=paired, level=level)
    unit, df = (math.sqrt(1 / 6), 5) if paired else (math.sqrt(2 / 6), 10)
    assert found.d is not None
    tail = [1 - by_quadrature(found.d / unit, df, found.low / unit) if found.low is not None else None]
    tail += [by_quadrature(found.d / unit, df, found.high / unit) if found.high is not None else None]
    assert tail == pytest.approx([(1 - level) / 2] * 2, abs=1e-7)


def test_interval_of_many_runs_is_the_normal_one() -> None:
    a = np.tile([-1.0, 1.0], 100_000)
    low, high = ends(standardized(a + 0.01, np.zeros(200_000), paired=True))
    assert (low, high) == pytest.approx((0.01 - 1.96 / 200_000**0.5, 0.01 + 1.96 / 200_000**0.5), abs=1e-6)


@pytest.mark.parametrize("paired", [True, False])
def test_effects_change_sign_with_the_sides_and_nothing_with_order_shift_and_scale(paired: bool) -> None:
    a, b, order = np.array(A), np.array(B), [3, 1, 5, 0, 4, 2]
    found = standardized(a, b, paired=paired)
    low, high = ends(found)
    swapped, moved = standardized(b, a, paired=paired), standardized(9 - 40 * b, 9 - 40 * a, paired=paired)
    assert ends(swapped) == pytest.approx((-high, -low))
    assert (swapped.d, swapped.g) == pytest.approx((-(found.d or 0), -(found.g or 0)))
    assert (*ends(moved), moved.d, moved.g) == pytest.approx((low, high, found.d, found.g))
    assert ends(standardized(a[order], b[order], paired=paired)) == pytest.approx((low, high))
    wins, lost = superiority(a, b, paired=paired), superiority(b, a, paired=paired)
    assert ends(lost) == pytest.approx((1 - ends(wins)[1], 1 - ends(wins)[0]))
    assert ends(superiority(9 + 40 * a[order], 9 + 40 * b[order], paired=paired)) == pytest.approx(ends(wins))
    near, back = tost(a, b, margin=0.05, paired=paired), tost(b, a, margin=0.05, paired=paired)
    assert (near.p, *ends(near)) == pytest.approx((back.p, -ends(back)[1], -ends(back)[0]))
    assert tost(9 + 40 * a, 9 + 40 * b, margin=2, paired=paired).p == pytest.approx(near.p)


@pytest.mark.parametrize("size", [10.0, 300.0, 999.0])
@pytest.mark.parametrize("n", [2, 3, 20])
def test_huge_effects_have_an_interval_around_them(size: float, n: int) -> None:
    noise = stats.norm.ppf((np.arange(n) + 0.5) / n)
    found = standardized(noise / noise.std(ddof=1) + size / n**0.5, np.zeros(n), paired=True)
    low, high = ends(found)
    assert found.d is not None
    assert low < found.d < high


def test_effects_beyond_the_reach_of_the_noncentral_t_have_no_interval() -> None:
    found = standardized([1, 1.0001, 0.9999], [0, 0, 0], paired=True)
    assert found.d == pytest.approx(10_000)
    assert (found.low, found.high) == (None, None)
    assert "no interval: t is beyond 1000" in found.note


def test_two_pairs_have_an_interval_but_no_unbiased_effect() -> None:
    found = standardized([1, 2], [0, 0], paired=True)
    assert (found.g, found.note) == (None, "no g at one degree of freedom")
    assert found.d == pytest.approx(1.5 / 0.5**0.5)
    assert ends(found)[0] < 0 < ends(found)[1]


@pytest.mark.parametrize(
    ("a", "b", "paired", "note"),
    [
        ([1], [2], True, "fewer than two pairs"),
        ([1, 2], [2], False, "fewer than two runs on a side"),
        ([1, 1], [1, 1], False, "no variance and no difference"),
        ([1, 1], [2, 2], True, "no variance on either side"),
    ],
)
def test_no_spread_no_effect(a: list[float], b: list[float], paired: bool, note: str) -> None:
    found = standardized(a, b, paired=paired)
    assert (found.d, found.g, found.low, found.high, found.note) == (None, None, None, None, note)


def test_superiority_by_hand() -> None:
    # Of 9 pairs: 3 beats 1, 2; 5 beats 1, 2, 4; 2 beats 1 and ties with 2: 6.5.
    assert superiority([3, 5, 2], [1, 2, 4], paired=False).estimate == pytest.approx(6.5 / 9)
    # Place by place: won, won, lost; then a tie.
    assert superiority([3, 5, 2], [1, 2, 4], paired=True).estimate == pytest.approx(2 / 3)
    assert superiority([3, 5, 2, 7], [1, 2, 4, 7], paired=True).estimate == pytest.approx(2.5 / 4)


def test_unpaired_superiority_agrees_with_statsmodels_and_scipy() -> None:
    # statsmodels 0.15.0, rank_compare_2indep(A, B[:5]): prob1, var_prob, df.
    estimate, variance, df = 0.7833333333333334, 0.02413888888888889, 6.453846249170472
    found = superiority(A, B[:5], paired=False)
    reach = stats.t.ppf(0.975, df) * variance**0.5 / (estimate * (1 - estimate))
    logit = math.log(estimate / (1 - estimate))
    assert found.method == "Brunner-Munzel, logit"
    assert found.estimate == pytest.approx(estimate)
    assert ends(found) == pytest.approx([1 / (1 + math.exp(-logit - sign * reach)) for sign in (-1, 1)])
    theirs = stats.brunnermunzel(A, B[:5])
    assert abs(theirs.statistic) == pytest.approx((estimate - 0.5) / variance**0.5)
    assert theirs.pvalue == pytest.approx(2 * stats.t.sf(abs(theirs.statistic), df))


@pytest.mark.parametrize("wins", [0, 1, 3, 5])
def test_paired_interval_agrees_with_that_of_scipy_where_nothing_ties(wins: int) -> None:
    theirs = stats.binomtest(wins, 5).proportion_ci(0.9, method="exact")
    found = superiority([1] * wins + [-1] * (5 - wins), [0] * 5, paired=True, level=0.9)
    assert ends(found) == pytest.approx((theirs.low, theirs.high))


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_paired_interval_holds_its_level_whatever_the_share_of_ties(n: int) -> None:
    grid = np.linspace(0, 1, 21)
    half_wins = np.arange(2 * n + 1)
    intervals = [ends(superiority([1] * (h // 2) + [0] * (h % 2) + [-1] * (n - h // 2 - h % 2), [0] * n, paired=True))
                 for h in half_wins]  # fmt: skip
    low, high = np.array(intervals).T
    for win, tie in product(grid, grid):
        if win + tie <= 1:
            chance = np.ones(1)
            for _ in range(n):
                chance = np.convolve(chance, [1 - win - tie, tie, win])
            truth = win + tie / 2
            held = (low <= truth + 1e-12) & (truth - 1e-12 <= high)
            assert chance[held].sum() >= 0.95 - 1e-9


def test_separated_runs_have_an_interval_that_independent_pairs_carry() -> None:
    # Three pairs in which each run stands once are all won with q^3 <= .025 below q = .2924.
    found = superiority([4, 5, 6, 7], [1, 2, 3], paired=False)
    assert (found.estimate, *ends(found)) == pytest.approx((1, 0.025 ** (1 / 3), 1))
    assert found.method == "exact, pairs of which all go alike"
    assert ends(superiority([1, 2, 3], [4, 5, 6, 7], paired=False)) == pytest.approx((0, 1 - 0.025 ** (1 / 3)))


def test_runs_that_all_tie_have_an_interval_around_one_half() -> None:
    # Three ties in a row are likelier than .05 from a tie's chance of .3684 on; the rest may be won or lost.
    found = superiority([0.1 + 0.2] * 3, [0.3] * 4, paired=False)
    assert (found.estimate, *ends(found)) == pytest.approx((0.5, 0.05 ** (1 / 3) / 2, 1 - 0.05 ** (1 / 3) / 2))


def test_differences_of_rounding_size_tie() -> None:
    assert superiority([0.1 + 0.2, 0.5], [0.3, 0.4], paired=True).estimate == 0.75


def test_one_run_on_a_side_has_no_unpaired_interval() -> None:
    found = superiority([3, 4], [1], paired=False)
    assert (found.estimate, found.low, found.note) == (1, None, "fewer than two runs on a side")


def test_equivalence_by_hand() -> None:
    # Differences 0, 1, 2: mean 1, error 1 / sqrt 3. Against margin 4: t = 5 sqrt 3 and -3 sqrt 3, df 2; the larger p
    # is F(-3 sqrt 3), with F(t) = 1/2 + t / (2 sqrt(2 + t^2)) at df 2.
    found = tost([1, 3, 5], [1, 2, 3], margin=4, paired=True)
    assert found.p == pytest.approx(0.5 - 27**0.5 / (2 * 29**0.5))
    assert (found.verdict, found.difference, found.test, found.n, found.df) == ("equivalent", 1, "paired", (3,), 2)
    assert tost([1, 3, 5], [1, 2, 3], margin=4, paired=True, alpha=0.01).verdict == "not shown"


def test_equivalence_agrees_with_statsmodels() -> None:
    # statsmodels 0.15.0: ttost_paired(A, B, -.05, .05) and ttost_ind(A, B[:5], -.05, .05, usevar="unequal").
    assert tost(A, B, margin=0.05, paired=True).p == pytest.approx(0.018452787715758947)
    assert tost(A, B[:5], margin=0.05, paired=False).p == pytest.approx(0.016958585235408528)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_verdict_is_that_of_the_interval(paired: bool, alpha: float) -> None:
    low, high = ends(tost(A, B, margin=1, paired=paired, alpha=alpha))
    edge = max(-low, high)
    assert tost(A, B, margin=edge * 1.0001, paired=paired, alpha=alpha).verdict == "equivalent"
    assert tost(A, B, margin=edge * 0.9999, paired=paired, alpha=alpha).verdict == "not shown"
    assert tost(A, B, margin=edge, paired=paired, alpha=alpha).p == pytest.approx(alpha)


def test_too_few_runs_to_show_any_difference_to_be_small_are_named() -> None:
    found = tost([1, 3, 5], [1, 2, 3], margin=1.6, paired=True)
    assert found.verdict == "not shown"
    assert found.note == "too few runs: the half width 1.69 is not below the margin 1.6"
    assert tost([1, 3, 5], [1, 2, 3], margin=1.7, paired=True).note == ""


@pytest.mark.parametrize(
    ("a", "b", "note"),
    [
        ([1, 1], [1, 1], "no variance and no difference"),
        ([1, 1], [1.5, 1.5], "no variance on either side"),
        ([1, 1], [2, 2], "no variance on either side"),
        ([1], [1], "fewer than two"),
    ],
)
@pytest.mark.parametrize("paired", [True, False])
def test_nothing_is_shown_equivalent_without_spread(a: list[float], b: list[float], note: str, paired: bool) -> None:
    found = tost(a, b, margin=1, paired=paired)
    assert (found.p, found.low, found.high, found.verdict) == (None, None, None, "not shown")
    assert note in found.note


def test_upper_std_is_the_one_at_which_so_small_a_std_is_just_unlikely() -> None:
    bound = upper_std(2.0, 5, level=0.9)
    assert stats.chi2.cdf(4 * 2.0**2 / bound**2, 4) == pytest.approx(0.1)
    # With 3 scores chi-squared has 2 degrees of freedom: its quantile of 0.2 is -2 ln 0.8.
    assert upper_std(1.0, 3) == pytest.approx(math.sqrt(2 / (-2 * math.log(0.8))))
    assert upper_std(0.0, 3) == 0


@pytest.mark.parametrize(
    ("std", "margin", "alpha", "power", "pairs", "per_side"),
    [
        # statsmodels 0.15.0, solve_power of TTestPower and TTestIndPower, rounded up; None: above 1000.
        (1, 0.5, 0.05, 0.8, 34, 64),
        (1, 1, 0.05, 0.8, 10, 17),
        (2, 0.7, 0.01, 0.9, 125, 245),
        (1, 2, 0.05, 0.8, 5, 6),
        (1, 0.1, 0.05, 0.8, 787, None),
    ],
)
def test_seeds_needed_agree_with_statsmodels(
    std: float, margin: float, alpha: float, power: float, pairs: int, per_side: int | None
) -> None:
    assert seeds_needed(std, margin=margin, alpha=alpha, power=power) == pairs
    assert seeds_needed(std, margin=margin, alpha=alpha, power=power, paired=False) == per_side
    assert seeds_needed(std * 7, margin=margin * 7, alpha=alpha, power=power) == pairs


def test_seeds_needed_have_the_power_and_one_less_has_not() -> None:
    def power(n: int) -> float:
        critical, center = stats.t.isf(0.025, n - 1), 1.3 * n**0.5
        return 1 - by_quadrature(critical, n - 1, center) + by_quadrature(-critical, n - 1, center)

    n = seeds_needed(1, margin=1.3, alpha=0.05)
    assert n is not None
    assert power(n) >= 0.8 > power(n - 1)


@pytest.mark.parametrize("std", [0.0, 1e-300, 1e-12])
def test_a_margin_far_above_the_std_needs_the_two_seeds_of_any_test(std: float) -> None:
    assert seeds_needed(std, margin=1, alpha=0.05) == 2


def test_planning_with_the_upper_bound_asks_for_more_seeds() -> None:
    plain, safe = seeds_needed(1, margin=1), seeds_needed(upper_std(1, 5), margin=1)
    assert plain is not None
    assert safe is not None
    assert safe > plain


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: standardized(A, B, paired=True, level=1), "0 < level < 1"),
        (lambda: standardized(A, B[:5], paired=True), "got 6 and 5"),
        (lambda: superiority(A, [math.nan], paired=False), "finite"),
        (lambda: superiority(A, B, paired=False, level=0), "0 < level < 1"),
        (lambda: tost(A, B, margin=0, paired=True), "margin > 0"),
        (lambda: tost(A, B, margin=math.inf, paired=True), "margin > 0"),
        (lambda: tost(A, B, margin=1, paired=True, alpha=0.5), "alpha < 0.5"),
        (lambda: upper_std(1, 1), "n >= 2"),
        (lambda: upper_std(-1, 3), "std >= 0"),
        (lambda: upper_std(1, 3, level=1.5), "0 < level < 1"),
        (lambda: seeds_needed(1, margin=-1), "margin > 0"),
        (lambda: seeds_needed(math.nan, margin=1), "std >= 0"),
        (lambda: seeds_needed(1, margin=1, power=1), "power < 1"),
    ],
)
def test_bad_input_is_refused(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
