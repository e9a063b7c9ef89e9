from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from medtransfer.core.errors import UserError
from medtransfer.statistics.ranks import PRIOR_STRENGTH, Ranks, friedman, nemenyi, rank, signed_rank

# 14 tasks x 4 initializations, with ties within a task.
TABLE = np.array([
    [.763, .768, .771, .798], [.599, .591, .590, .569], [.954, .971, .968, .967], [.628, .661, .654, .657],
    [.882, .888, .886, .898], [.936, .931, .916, .931], [.661, .668, .609, .685], [.583, .583, .563, .625],
    [.775, .838, .866, .875], [1.0, 1.0, 1.0, 1.0], [.940, .962, .965, .962], [.619, .666, .614, .669],
    [.972, .981, .975, .975], [.957, .978, .946, .970],
])  # fmt: skip

# The example in the documentation of scikit-posthocs: 6 blocks x 3.
BLOCKS = np.array([[31, 27, 24], [31, 28, 31], [45, 29, 46], [21, 18, 48], [42, 36, 46], [32, 17, 40]], dtype=float)

DIFFERENCES = [0.0203, 0.0311, -0.0042, 0.0124, 0.0071, 0.0256, -0.0137]


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def ranked(table: NDArray[Any], groups: Sequence[Hashable] | None = None) -> Ranks:
    """Ranks a table (tasks, inits) of one score per cell."""
    return rank([[[score] for score in column] for column in table.T.tolist()], rng=rng(), groups=groups, draws=1)


def cells(seeds: NDArray[Any]) -> list[list[list[float] | None]]:
    """Gives scores (inits, tasks, seeds) as rows of cells."""
    return [list(row) for row in seeds.tolist()]


def with_means(means: Sequence[float], n: int) -> Ranks:
    return Ranks(tasks=tuple(range(n)), groups=tuple(range(n)), ranks=(), mean=tuple(means), confidence=0.95, draws=1)


def test_ranks_by_hand() -> None:
    # Task 0: .9 > .8 > .7. Task 1: the first two tie and share places 1 and 2.
    result = rank([[[0.9, 0.9], [0.5, 0.7]], [[0.8, 0.8], [0.7, 0.5]], [[0.7, 0.7], [0.1, 0.2]]], rng=rng())
    assert result.ranks == ((1, 2, 3), (1.5, 1.5, 3))
    assert result.mean == (1.25, 1.75, 3)
    assert (result.tasks, result.n, result.note) == ((0, 1), 2, "")


def test_means_that_differ_by_rounding_tie() -> None:
    assert ranked(np.array([[0.1 + 0.2, 0.3, 0.2]])).ranks == ((1.5, 1.5, 3),)


def test_tasks_that_share_images_are_averaged_first() -> None:
    # The first init wins tasks 0 and 1 (one group) and loses task 2: 1 and 2, not 1, 1 and 2.
    result = ranked(np.array([[2, 1], [2, 1], [1, 2]]), groups=["x-ray", "x-ray", "ct"])
    assert result.groups == ("x-ray", "ct")
    assert result.mean == (1.5, 1.5)


def test_ranks_are_taken_on_the_common_tasks_alone() -> None:
    result = rank([[[0.9], [0.1], [0.5]], [[0.8], None, [0.6]]], rng=rng())
    assert (result.tasks, result.mean) == ((0, 2), (1.5, 1.5))


def test_no_common_task_is_said_and_passed_on() -> None:
    result = rank([[[0.9], None], [None, [0.8]], [[0.7], [0.7]]], rng=rng())
    assert (result.mean, result.low, result.tasks) == ((), None, ())
    assert "no task is shared by all 3" in result.note
    assert friedman(result).p is None


def test_a_single_seed_gives_no_interval() -> None:
    result = rank([[[0.9, 0.8], [0.1]], [[0.8, 0.7], [0.2]]], rng=rng())
    assert (result.low, result.high, result.mean) == (None, None, (1.5, 1.5))
    assert result.note == "no interval: a single seed on task 1"


def test_far_apart_initializations_have_intervals_of_no_width() -> None:
    seeds = np.arange(3)[:, None, None] + rng().normal(0, 1e-3, (3, 4, 5))
    result = rank(cells(seeds), rng=rng(), draws=200)
    assert result.low == result.high == result.mean == (3, 2, 1)


def test_paired_draws_keep_a_constant_difference_and_independent_ones_do_not() -> None:
    # The seeds vary much, but b is above a under each.
    a = rng().normal(0, 1, (1, 1, 5))
    seeds = np.concatenate([a, a + 0.1])
    paired = rank(cells(seeds), rng=rng(), draws=500)
    alone = rank(cells(seeds), rng=rng(), draws=500, paired=False)
    assert paired.low == paired.high == (2, 1)
    assert (alone.low, alone.high) == ((1, 1), (2, 2))


def test_intervals_against_all_possible_draws() -> None:
    seeds = rng().normal(0, 1, (3, 1, 3))
    every = []
    for draw in product(range(3), repeat=3):
        mean = seeds[:, 0].mean(axis=1)
        drawn = mean + 1.5**0.5 * (seeds[:, 0][:, draw].mean(axis=1) - mean)
        every.append(stats.rankdata(-drawn.round(9)))
    low, high = np.quantile(every, [0.15, 0.85], axis=0)
    result = rank(cells(seeds), rng=rng(), confidence=0.7, draws=20_000)
    assert result.low == pytest.approx(low)
    assert result.high == pytest.approx(high)


def test_ranks_do_not_change_with_level_unit_or_order() -> None:
    seeds = rng().normal(0.8, 0.02, (4, 6, 3))
    result = rank(cells(seeds), rng=rng(), draws=300)
    assert rank(cells(100 * seeds + 7), rng=rng(), draws=300) == result
    order = [2, 0, 3, 1]
    moved = rank(cells(seeds[order]), rng=rng(), draws=300)
    assert moved.mean == pytest.approx([result.mean[i] for i in order])
    assert moved.low == pytest.approx([(result.low or ())[i] for i in order])
    worst_first = rank(cells(-seeds), rng=rng(), draws=300)
    assert worst_first.mean == pytest.approx([5 - mean for mean in result.mean])


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        ([], {}, "one and the same number of tasks"),
        ([[[1.0]], [[1.0], [2.0]]], {}, "one and the same number of tasks"),
        ([[[1.0]], [[float("nan")]]], {}, "init 1, task 0"),
        ([[[1.0]], [[]]], {}, "init 1, task 0"),
        ([[[1.0, 2.0]], [[1.0]]], {}, "differ on tasks .0."),
        ([[[1.0]], [[1.0]]], {"groups": ["a", "b"]}, "a label per task"),
        ([[[1.0]], [[1.0]]], {"confidence": 1.0}, "confidence"),
        ([[[1.0]], [[1.0]]], {"draws": 0}, "draws"),
    ],
)
def test_bad_scores_are_refused(scores: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        rank(scores, rng=rng(), **options)


@pytest.mark.parametrize("table", [TABLE, BLOCKS, rng().normal(size=(8, 5))])
def test_friedman_against_scipy(table: NDArray[Any]) -> None:
    ours, theirs = friedman(ranked(table)), stats.friedmanchisquare(*table.T)
    assert (ours.chi2, ours.chi2_p) == pytest.approx((theirs.statistic, theirs.pvalue))


def test_friedman_is_an_analysis_of_variance_of_ranks() -> None:
    # Iman and Davenport's F is the two-way F of the ranks: inits against the rest, tasks taken out.
    ranks = stats.rankdata(-TABLE, axis=1)
    n, k = ranks.shape
    between = n * ((ranks.mean(axis=0) - ranks.mean()) ** 2).sum()
    rest = ((ranks - ranks.mean(axis=0) - ranks.mean(axis=1, keepdims=True) + ranks.mean()) ** 2).sum()
    assert friedman(ranked(TABLE)).f == pytest.approx((between / (k - 1)) / (rest / ((n - 1) * (k - 1))))


def test_friedman_by_hand() -> None:
    # Rank sums 6, 10, 14: chi2 = 12 / (5 * 3 * 4) * (36 + 100 + 196) - 3 * 5 * 4 = 6.4, F = 4 * 6.4 / (10 - 6.4).
    table = -np.array([[1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 3, 2], [2, 1, 3]])
    result = friedman(ranked(table))
    assert (result.chi2, result.f) == pytest.approx((6.4, 64 / 9))
    assert (result.n, result.inits) == (5, 3)
    assert result.separated(0.05) is True


def test_friedman_where_all_groups_agree_counts_orderings() -> None:
    result = friedman(ranked(np.tile([3.0, 2.0, 1.0], (5, 1))))
    assert (result.p, result.chi2) == pytest.approx((6**-4, 10))
    assert result.f is None
    assert "permutation" in result.note


def test_friedman_where_all_tie_finds_nothing() -> None:
    result = friedman(ranked(np.ones((5, 3))))
    assert (result.p, result.chi2, result.separated(0.05)) == (1.0, None, False)


@pytest.mark.parametrize(
    ("table", "groups", "reason"),
    [
        (BLOCKS[:4], None, "4 of the 5"),
        (BLOCKS, [0, 0, 1, 1, 2, 3], "4 of the 5"),
        (BLOCKS[:, :2], None, "2 of the 3 init"),
    ],
)
def test_too_little_gives_no_test_and_says_so(table: NDArray[Any], groups: list[int] | None, reason: str) -> None:
    ranks = ranked(table, groups)
    first, second = friedman(ranks), nemenyi(ranks, alpha=0.05)
    assert (first.p, first.separated(0.05), second.p, second.cliques) == (None, None, None, None)
    assert reason in first.note
    assert reason in second.note


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (BLOCKS, [0.14553487, 0.83222922, 0.03760991]),
        (TABLE, [0.08867271, 0.97168647, 0.06168326, 0.22669689, 0.99888234, 0.17005164]),
    ],
)
def test_nemenyi_against_scikit_posthocs(table: NDArray[Any], expected: list[float]) -> None:
    # Computed once with posthoc_nemenyi_friedman of scikit-posthocs 0.17.1.
    p = nemenyi(ranked(table), alpha=0.05).p
    assert p is not None
    assert [p[i][j] for i, j in combinations(range(len(p)), 2)] == pytest.approx(expected, abs=1e-7)
    assert np.array_equal(p, np.transpose(p))


# Demsar (JMLR 2006), table 5(a): q at alpha .05 and .10.
@pytest.mark.parametrize(("k", "q05", "q10"), [(3, 2.343, 2.052), (4, 2.569, 2.291), (10, 3.164, 2.920)])
def test_critical_difference_against_the_published_table(k: int, q05: float, q10: float) -> None:
    unit = (k * (k + 1) / (6 * 14)) ** 0.5
    for alpha, q in [(0.05, q05), (0.10, q10)]:
        result = nemenyi(with_means(range(1, k + 1), 14), alpha=alpha)
        assert result.critical_difference == pytest.approx(q * unit, abs=1e-3 * unit)


def test_cliques_overlap_and_none_lies_within_another() -> None:
    # 14 tasks, 4 inits: critical difference 1.25. The order of the inits is 1, 3, 0, 2.
    result = nemenyi(with_means([3.0, 1.2, 3.5, 2.3], 14), alpha=0.05)
    assert result.cliques == ((1, 3), (3, 0, 2))
    assert nemenyi(with_means([1.0, 2.4, 3.8], 50), alpha=0.05).cliques == ()


def test_nemenyi_says_when_no_pair_can_be_separated() -> None:
    result = nemenyi(ranked(BLOCKS[:5]), alpha=0.001)
    assert "no pair can be separated" in result.note
    assert result.cliques is not None
    assert [set(c) for c in result.cliques] == [{0, 1, 2}]


def test_nemenyi_refuses_an_alpha_that_is_none() -> None:
    with pytest.raises(UserError, match="alpha"):
        nemenyi(ranked(BLOCKS), alpha=5)


# Computed once with SignedRankTest of baycomp, prior 0.5, 200,000 draws: below, within, above.
@pytest.mark.parametrize(
    ("shift", "rope", "expected"),
    [(0.0, 0.01, (0.00058, 0.43954, 0.55988)), (0.01, 0.005, (0.28788, 0.19997, 0.51215))],
)
def test_signed_rank_against_baycomp(shift: float, rope: float, expected: tuple[float, ...]) -> None:
    result = signed_rank(np.array(DIFFERENCES) - shift, rope=rope, rng=rng(), draws=50_000)
    assert (result.worse, result.within, result.better) == pytest.approx(expected, abs=0.01)


def test_signed_rank_against_the_closed_form_of_its_prior() -> None:
    # All above twice the region: a pair is above unless both are the prior's, so w0^2 < 1/2 with w0 ~ Beta(s, n).
    for n in (5, 7, 10):
        result = signed_rank([1.0] * n, rope=0.1, rng=rng(), draws=50_000)
        assert result.better == pytest.approx(stats.beta.cdf(0.5**0.5, PRIOR_STRENGTH, n), abs=0.005)
        assert result.worse == 0


def test_signed_rank_swaps_with_its_sides_and_ignores_order_and_unit() -> None:
    result = signed_rank(DIFFERENCES, rope=0.01, rng=rng())
    other = signed_rank([-d for d in DIFFERENCES], rope=0.01, rng=rng())
    assert (other.worse, other.within, other.better) == (result.better, result.within, result.worse)
    assert signed_rank([64 * d for d in DIFFERENCES], rope=0.64, rng=rng()).better == result.better
    turned = signed_rank(DIFFERENCES[::-1], rope=0.01, rng=rng())
    assert turned.better == pytest.approx(result.better, abs=0.02)
    assert sum((result.worse or 0, result.within or 0, result.better or 0)) == pytest.approx(1)


def test_signed_rank_counts_a_group_once_and_says_when_there_are_too_few() -> None:
    grouped = signed_rank([0.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0], rope=0.1, rng=rng(), groups=[0, 0, 1, 2, 3, 3, 4])
    alone = signed_rank([1.0] * 5, rope=0.1, rng=rng())
    assert grouped == alone
    few = signed_rank([1.0, 1.0, 1.0], rope=0.1, rng=rng(), groups=[0, 0, 1])
    assert (few.n, few.worse, few.within, few.better) == (2, None, None, None)
    assert "2 of the 5 groups" in few.note


@pytest.mark.parametrize(
    ("differences", "rope", "draws"),
    [([], 1, 9), ([0.1, float("nan")], 1, 9), ([0.1] * 5, 0, 9), ([0.1] * 5, float("nan"), 9), ([0.1] * 5, 1, 0)],
)
def test_signed_rank_refuses_bad_input(differences: list[float], rope: float, draws: int) -> None:
    with pytest.raises(UserError):
        signed_rank(differences, rope=rope, rng=rng(), draws=draws)


@pytest.mark.slow
@pytest.mark.parametrize("n", [5, 10])
@pytest.mark.parametrize("inits", [4, 8])
def test_error_rates_over_tasks(n: int, inits: int) -> None:
    draw = np.random.default_rng(n * inits)
    results = [ranked(draw.normal(size=(n, inits))) for _ in range(2000)]
    rate = np.mean([friedman(r).separated(0.05) for r in results])
    assert rate == pytest.approx(0.05, abs=0.02)
    critical = nemenyi(results[0], alpha=0.05).critical_difference
    assert critical is not None
    assert np.mean([np.ptp(r.mean) >= critical for r in results]) <= 0.07


def coverage_of_true_ranks(gap: float, n: int) -> float:
    """Simulates 4 inits, `gap` std apart, on 7 tasks: the share of 95% intervals with the rank of the true mean."""
    draw, levels = np.random.default_rng(n), gap * np.arange(4)[:, None, None]
    truth = stats.rankdata(-levels[:, 0, 0])
    covered = []
    for _ in range(400):
        result = rank(cells(levels + draw.normal(size=(4, 7, n))), rng=draw, draws=300)
        covered.append((np.array(result.low) <= truth) & (truth <= np.array(result.high)))
    return float(np.mean(covered))


@pytest.mark.slow
@pytest.mark.parametrize(("gap", "n"), [(0, 3), (0, 5), (0, 10), (1, 5), (1, 10), (2, 3)])
def test_intervals_hold_the_ranks_of_true_means_that_tie_or_lie_far_apart(gap: float, n: int) -> None:
    assert coverage_of_true_ranks(gap, n) >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize(("gap", "n"), [(0.25, 3), (0.25, 5), (0.5, 3)])
def test_intervals_miss_the_ranks_of_true_means_that_are_close_as_the_docstring_says(gap: float, n: int) -> None:
    assert coverage_of_true_ranks(gap, n) < 0.7
