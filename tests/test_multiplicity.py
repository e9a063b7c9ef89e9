from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from medtransfer import multiplicity
from medtransfer.errors import UserError
from medtransfer.multiplicity import WithBest, benjamini_hochberg, dunnett, holm, with_best

HALF = math.sqrt(0.5)
P = [0.01, 0.04, 0.03, 0.005, 0.2, 0.03]


def ends(result: WithBest) -> tuple[Any, Any]:
    assert result.low is not None
    assert result.high is not None
    return np.array(result.low), np.array(result.high)


def test_holm_by_hand() -> None:
    # In order: .01 * 3, .02 * 2 and .03 * 1, which must not be below the one before.
    assert holm([0.03, 0.01, 0.02]) == pytest.approx((0.04, 0.03, 0.04))
    assert holm([0.6, 0.7]) == (1, 1)


def test_benjamini_hochberg_by_hand() -> None:
    # In order: .01 * 3 / 1, .02 * 3 / 2 and .09 * 3 / 3.
    assert benjamini_hochberg([0.09, 0.01, 0.02]) == pytest.approx((0.09, 0.03, 0.03))
    assert benjamini_hochberg([0.01, 0.011]) == pytest.approx((0.011, 0.011))


def test_adjusted_p_values_agree_with_statsmodels_and_scipy() -> None:
    # statsmodels 0.15.0, multipletests(P, method="holm") and "fdr_bh".
    assert holm(P) == pytest.approx((0.05, 0.12, 0.12, 0.03, 0.2, 0.12))
    assert benjamini_hochberg(P) == pytest.approx((0.03, 0.048, 0.045, 0.03, 0.2, 0.045))
    drawn = np.random.default_rng(0).random(40) ** 3
    assert benjamini_hochberg(drawn.tolist()) == pytest.approx(stats.false_discovery_control(drawn))


def test_holm_is_the_step_down_of_bonferroni() -> None:
    drawn = np.random.default_rng(1).random(12) ** 4
    adjusted = np.array(holm(drawn.tolist()))
    for alpha in (0.01, 0.05, 0.2, 0.5):
        claims: set[int] = set()
        for place in np.argsort(drawn):
            if drawn[place] > alpha / (12 - len(claims)):
                break
            claims.add(int(place))
        assert set(np.flatnonzero(adjusted <= alpha)) == claims


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
def test_adjustment_leaves_out_what_was_not_tested_and_keeps_order_and_bounds(adjust: Any) -> None:
    assert adjust([]) == ()
    assert adjust([None, None]) == (None, None)
    assert adjust([0.03]) == (0.03,)
    with_gaps = adjust([None, *P[:3], None, *P[3:]])
    assert with_gaps == (None, *adjust(P)[:3], None, *adjust(P)[3:])
    order = [4, 2, 0, 5, 1, 3]
    assert adjust([P[place] for place in order]) == tuple(adjust(P)[place] for place in order)
    drawn = np.sort(np.random.default_rng(2).random(30))
    adjusted = np.array(adjust(drawn.tolist()))
    assert (np.diff(adjusted) >= 0).all()
    assert (adjusted >= drawn).all()
    assert adjusted.max() <= 1


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan, math.inf])
def test_what_is_no_p_value_is_refused(adjust: Any, p: float) -> None:
    with pytest.raises(UserError, match=r"p-values must be in \[0, 1\]"):
        adjust([0.5, p])


# Dunnett (JASA 1955): one-sided values at alpha 0.05 for these numbers of comparisons with a control, equal numbers.
COUNTS = (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15, 20)
TABLE = {
    5: (2.44, 2.68, 2.85, 2.98, 3.08, 3.16, 3.24, 3.30, 3.36, 3.41, 3.45, 3.57, 3.72),
    8: (2.22, 2.42, 2.55, 2.66, 2.74, 2.81, 2.87, 2.92, 2.96, 3.01, 3.04, 3.14, 3.25),
    10: (2.15, 2.34, 2.47, 2.56, 2.64, 2.70, 2.76, 2.81, 2.85, 2.89, 2.92, 3.01, 3.12),
    20: (2.03, 2.19, 2.30, 2.39, 2.46, 2.51, 2.56, 2.60, 2.64, 2.67, 2.70, 2.77, 2.87),
    60: (1.95, 2.10, 2.21, 2.28, 2.35, 2.39, 2.44, 2.48, 2.51, 2.54, 2.56, 2.63, 2.72),
    1e7: (1.92, 2.06, 2.16, 2.23, 2.29, 2.34, 2.38, 2.42, 2.45, 2.48, 2.50, 2.56, 2.64),
}


@pytest.mark.parametrize("df", TABLE)
def test_critical_values_are_those_of_dunnetts_table(df: float) -> None:
    ours = [dunnett((HALF,) * count, df, 0.05) for count in COUNTS]
    assert ours == pytest.approx(TABLE[df], abs=0.0055)  # the table has two decimals


def test_the_critical_value_of_one_comparison_is_that_of_the_t_test() -> None:
    assert dunnett((HALF,), 7, 0.05) == stats.t.isf(0.05, 7)


@pytest.mark.parametrize(
    ("loadings", "df"), [((HALF,) * 3, 4), ((0.3, 0.6, 0.9), 7), (((20 / 23) ** 0.5,) * 4, 30), ((0.976, 0.2), 2)]
)
def test_critical_values_agree_with_drawn_ones(loadings: tuple[float, ...], df: int) -> None:
    rng, count = np.random.default_rng(3), 400_000
    loading = np.array(loadings)[:, None]
    normal = loading * rng.normal(size=count) + np.sqrt(1 - loading**2) * rng.normal(size=(len(loadings), count))
    largest = normal.max(axis=0) / np.sqrt(rng.chisquare(df, count) / df)
    for alpha in (0.01, 0.05, 0.2):
        error = 4 * (alpha * (1 - alpha) / count) ** 0.5
        assert (largest > dunnett(loadings, df, alpha)).mean() == pytest.approx(alpha, abs=error)


def test_critical_values_do_not_depend_on_the_number_of_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    cases: list[tuple[tuple[float, ...], float, float]] = [
        ((HALF,) * 9, 2, 0.05), ((0.1, 0.5, 0.95), 200, 0.01), (((20 / 21) ** 0.5,) * 5, 5, 0.05),
    ]  # fmt: skip
    few = [dunnett.__wrapped__(*case) for case in cases]
    monkeypatch.setattr(multiplicity, "NODES", 500)
    assert [dunnett.__wrapped__(*case) for case in cases] == pytest.approx(few, abs=1e-7)


def test_intervals_with_the_best_by_hand() -> None:
    # Means 10, 9, 5; every variance 1, df 6; d = 2.34 of Dunnett (two comparisons, df 6), std error sqrt(2 / 3).
    scores = [[9, 10, 11], [8, 9, 10], [4, 5, 6]]
    found = with_best(scores, paired=False)
    assert (found.method, found.n, found.df, found.std) == ("Hsu, one-way layout", (3, 3, 3), 6, 1)
    assert found.difference == (1, -1, -5)
    assert found.critical == pytest.approx((2.34,) * 3, abs=0.005)
    reach = dunnett((HALF, HALF), 6, 0.05) * (2 / 3) ** 0.5
    low, high = ends(found)
    assert low == pytest.approx([1 - reach, -1 - reach, -5 - reach])
    assert high == pytest.approx([1 + reach, -1 + reach, 0])
    assert found.candidates == (0, 1)


def test_a_single_candidate_is_the_best() -> None:
    found = with_best([[9, 10, 11], [1, 2, 3], [4, 5, 6]], paired=False)
    low, high = ends(found)
    assert found.candidates == (0,)
    assert (low[0], high[1], high[2]) == (0, 0, 0)
    assert (low[1:] < 0).all()


def textbook(scores: list[list[float]], alpha: float) -> tuple[list[float], list[float]]:
    """Follows Hsu (1996) word by word for unequal numbers, in plain loops."""
    k, n, mean = len(scores), [len(row) for row in scores], [float(np.mean(row)) for row in scores]
    df = sum(n) - k
    s = (sum((x - mean[i]) ** 2 for i in range(k) for x in scores[i]) / df) ** 0.5
    d = []
    for i in range(k):
        loadings = [(n[j] / (n[i] + n[j])) ** 0.5 for j in range(k) if j != i]
        d.append(dunnett(tuple(loadings), df, alpha))
    high = [
        max(0.0, min(mean[i] - mean[j] + d[i] * s * (1 / n[i] + 1 / n[j]) ** 0.5 for j in range(k) if j != i))
        for i in range(k)
    ]
    group = [i for i in range(k) if high[i] > 0]
    low = []
    for i in range(k):
        against = [mean[i] - mean[j] - d[j] * s * (1 / n[i] + 1 / n[j]) ** 0.5 for j in group if j != i]
        low.append(min(0.0, *against) if against else 0.0)
    return low, high


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_unequal_numbers_agree_with_the_textbook(seed: int, alpha: float) -> None:
    rng = np.random.default_rng(seed)
    scores = [rng.normal(shift, 1, n).tolist() for shift, n in zip([0, 0.3, 1, 2], rng.integers(2, 9, 4), strict=True)]
    found = with_best(scores, paired=False, alpha=alpha)
    low, high = textbook(scores, alpha)
    assert np.array(ends(found)) == pytest.approx(np.array([low, high]))


def test_two_paired_inits_have_the_ends_of_the_one_sided_paired_t_tests() -> None:
    a, b = np.array([0.81, 0.84, 0.79, 0.86]), np.array([0.80, 0.81, 0.80, 0.82])
    low, high = ends(with_best([a, b], paired=True))
    upper = stats.ttest_rel(a, b, alternative="less").confidence_interval().high
    lower = stats.ttest_rel(a, b, alternative="greater").confidence_interval().low
    assert low == pytest.approx([min(0, lower), min(0, -upper)])
    assert high == pytest.approx([max(0, upper), max(0, -lower)])


def test_paired_error_is_the_interaction() -> None:
    # Rows plus columns plus [[1, -1, 0], [-1, 1, 0], [0, 0, 0]], whose squares add up to 4, over (3 - 1)(3 - 1).
    interaction = np.array([[1, -1, 0], [-1, 1, 0], [0, 0, 0]])
    scores = np.array([[5.0], [6], [9]]) + np.array([0, 30, -20]) + interaction
    found = with_best(list(scores), paired=True)
    assert found.std == pytest.approx(1)
    assert (found.df, found.method) == (4, "Hsu, blocks of one seed")
    reach = dunnett((HALF, HALF), 4, 0.05) * (2 / 3) ** 0.5
    assert ends(found)[1] == pytest.approx([max(0, -4 + reach), max(0, -3 + reach), 3 + reach])


@pytest.mark.parametrize("paired", [True, False])
def test_intervals_follow_order_of_inits_and_seeds_shift_and_scale(paired: bool) -> None:
    scores = np.random.default_rng(4).normal(size=(5, 4)) + np.arange(5)[:, None] / 2
    found, order = with_best(list(scores), paired=paired), [3, 0, 4, 2, 1]
    low, high = ends(found)
    moved = with_best(list(7 + 20 * scores[order][:, [2, 0, 3, 1]]), paired=paired)
    assert np.array(ends(moved)) == pytest.approx(20 * np.array([low[order], high[order]]))
    assert moved.candidates is not None
    assert found.candidates is not None
    assert sorted(order[place] for place in moved.candidates) == list(found.candidates)


def test_every_interval_reaches_0_and_the_highest_mean_is_a_candidate() -> None:
    rng = np.random.default_rng(5)
    for _ in range(30):
        scores = rng.normal(size=(4, 3)) + rng.normal(size=(4, 1))
        found = with_best(list(scores), paired=True)
        low, high = ends(found)
        assert (low <= 0).all()
        assert (high >= 0).all()
        assert found.candidates is not None
        assert int(scores.mean(axis=1).argmax()) in found.candidates


def test_a_shift_of_a_whole_seed_matters_only_where_seeds_are_not_paired() -> None:
    scores = np.random.default_rng(6).normal(size=(3, 5))
    shifted = scores + np.array([0, 10, 20, 30, 40])
    assert np.array(ends(with_best(list(shifted), paired=True))) == pytest.approx(
        np.array(ends(with_best(list(scores), paired=True)))
    )
    apart = with_best(list(shifted), paired=False)
    assert apart.std is not None
    assert apart.std > 10


def test_a_single_seed_gives_no_intervals() -> None:
    found = with_best([[0.8], [0.9], [0.7]], paired=True)
    assert (found.low, found.high, found.candidates, found.df) == (None, None, None, None)
    assert found.note == "a single seed of init 0, 1, 2: its spread is unknown"
    assert found.difference == pytest.approx((-0.1, 0.1, -0.2))
    assert with_best([[0.8, 0.9], [0.9]], paired=False).note == "a single seed of init 1: its spread is unknown"


@pytest.mark.parametrize(("a", "b"), [([0.1 + 0.2] * 3, [0.3] * 3), ([1, 1, 1], [2, 2, 2])])
@pytest.mark.parametrize("paired", [True, False])
def test_without_variance_there_are_no_intervals(a: list[float], b: list[float], paired: bool) -> None:
    found = with_best([a, b], paired=paired)
    assert (found.std, found.low, found.candidates) == (0, None, None)
    assert found.note == "no variance to measure differences against"


@pytest.mark.parametrize(
    ("scores", "paired", "alpha", "message"),
    [
        ([], True, 0.05, "two or more"),
        ([[1, 2]], False, 0.05, "two or more"),
        ([[1, 2], [1, 2, 3]], True, 0.05, "equally many"),
        ([[1, 2], [1, math.nan]], True, 0.05, "scores of init 1"),
        ([[1, 2], []], False, 0.05, "scores of init 1"),
        ([[1, 2], [2, 3]], False, 0.5, "alpha < 0.5"),
        ([[1, 2], [2, 3]], False, 0, "alpha < 0.5"),
    ],
)
def test_bad_input_is_refused(scores: Any, paired: bool, alpha: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        with_best(scores, paired=paired, alpha=alpha)
