from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats

from medtransfer.core.errors import UserError
from medtransfer.statistics.effects import standardized, upper_std

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


def test_upper_std_is_the_one_at_which_so_small_a_std_is_just_unlikely() -> None:
    bound = upper_std(2.0, 5, level=0.9)
    assert stats.chi2.cdf(4 * 2.0**2 / bound**2, 4) == pytest.approx(0.1)
    # With 3 scores chi-squared has 2 degrees of freedom: its quantile of 0.2 is -2 ln 0.8.
    assert upper_std(1.0, 3) == pytest.approx(math.sqrt(2 / (-2 * math.log(0.8))))
    assert upper_std(0.0, 3) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: standardized(A, B, paired=True, level=1), "0 < level < 1"),
        (lambda: standardized(A, B[:5], paired=True), "got 6 and 5"),
        (lambda: upper_std(1, 1), "n >= 2"),
        (lambda: upper_std(-1, 3), "std >= 0"),
        (lambda: upper_std(1, 3, level=1.5), "0 < level < 1"),
    ],
)
def test_bad_input_is_refused(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
