"""Error rates and coverage by simulation; those of DeLong, the bootstrap, joint intervals and ranks stand with them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from medtransfer.statistics.effects import standardized, upper_std
from medtransfer.statistics.randomization import permutation_test, wilcoxon_test
from medtransfer.statistics.t_tests import Test, corrected_t_test, t_test

Array = npt.NDArray[Any]
ROUNDS = 3000

RUNS = pytest.mark.parametrize("n", [3, 5, 10])


def share(happens: Callable[[np.random.Generator], bool | None], seed: int) -> float:
    generator = np.random.default_rng(seed)
    return float(np.mean([bool(happens(generator)) for _ in range(ROUNDS)]))


def holds(result: Any, truth: float) -> bool:
    assert result.low is not None
    assert result.high is not None
    return bool(result.low <= truth <= result.high)


def worst(rate: float) -> float:
    """Gives the highest share that a simulation at this rate can be expected to show: four standard errors above."""
    return rate + 4 * float(np.sqrt(rate * (1 - rate) / ROUNDS))


DIFFERENCES = [
    [1, 2, 3, 4, 5],
    [1, -1, 2, 2, -2, 3],  # ties
    [0, 0, 1, -2, 3, 4],  # zeros
    [0, 0, 1, 1, -1, 2, 2, 0, -3],  # both
    [0, 0, 0, 0, 5],
    [-1, -1, -1, -1, 0, 2, 2, 1],
    [0.5, 0.5, 1],
]


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize("difference", DIFFERENCES)
def test_wilcoxon_with_ties_and_zeros_is_exact_over_all_signs(difference: list[float], alternative: Any) -> None:
    # Pratt: zeros are ranked with all others, then left out; the signs of the others are all equally likely.
    size = np.abs(np.array(difference, dtype=float))
    ranks, moved = stats.rankdata(size), size > 0
    observed = float((ranks * np.sign(difference)).sum())
    drawn = [float((np.array(signs) * ranks[moved]).sum()) for signs in product((-1, 1), repeat=int(moved.sum()))]
    extreme = {
        "two-sided": [abs(value) >= abs(observed) for value in drawn],
        "greater": [value >= observed for value in drawn],
        "less": [value <= observed for value in drawn],
    }[alternative]
    found = wilcoxon_test(difference, [0.0] * len(difference), alternative=alternative)
    assert found.p == pytest.approx(np.mean(extreme))


@pytest.mark.slow
@RUNS
@pytest.mark.parametrize("test", ["pooled", "paired", "welch"])
def test_t_tests_reject_equal_means_at_their_level(test: Test, n: int) -> None:
    rate = share(lambda g: t_test(g.normal(size=n), g.normal(size=n), test=test).separated(0.05), n)
    if test == "welch" and n == 3:
        assert 0.02 <= rate <= 0.05  # on the safe side: 0.038
    else:
        assert rate == pytest.approx(0.05, abs=0.02)


@pytest.mark.slow
@RUNS
@pytest.mark.parametrize("test", ["pooled", "welch"])
def test_at_stds_of_1_to_5_welch_keeps_its_level_and_the_pooled_test_of_few_runs_does_not(test: Test, n: int) -> None:
    rate = share(lambda g: t_test(g.normal(size=n), 5 * g.normal(size=n), test=test).separated(0.05), n)
    # Student's test takes the variances as one: 0.10 at n = 3, 0.07 at 5, 0.06 at 10. Welch's: 0.065, 0.05, 0.045.
    if test == "pooled" and n < 10:
        assert rate > (0.08 if n == 3 else 0.06)
    else:
        assert rate == pytest.approx(0.05, abs=0.02)


@pytest.mark.slow
@RUNS
@pytest.mark.parametrize("test", ["wilcoxon", "sign-flip", "label"])
def test_randomization_tests_reject_no_more_than_their_level(test: str, n: int) -> None:
    def separated(g: np.random.Generator) -> bool | None:
        a, b = g.exponential(size=(2, n))
        if test == "wilcoxon":
            return wilcoxon_test(a, b).separated(0.05)
        return permutation_test(a, b, paired=test == "sign-flip", generator=g, draws=199).separated(0.05)

    rate = share(separated, n)
    assert rate <= worst(0.05)


def of_equal_learners(g: np.random.Generator, held_out: Array) -> Array:
    """Gives rounds x splits differences in score of two equally good learners: lines through one of two features.

    Args:
        g: draws the data, anew in each round.
        held_out: splits x samples, true where a sample is tested on.
    """
    features = g.normal(size=(2, ROUNDS, held_out.shape[1]))
    target = features.sum(axis=0) + g.normal(size=features.shape[1:])
    columns = []
    for test in held_out:
        x, y = features[:, :, ~test], target[:, ~test]
        slope = (x * y).sum(axis=-1, keepdims=True) / (x * x).sum(axis=-1, keepdims=True)
        error = ((features[:, :, test] * slope - target[:, test]) ** 2).mean(axis=-1)
        columns.append(error[1] - error[0])
    return np.stack(columns, axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("samples", [50, 500])
@pytest.mark.parametrize("splits", ["5 folds", "10 folds", "15 drawn"])
def test_the_corrected_test_rejects_no_more_than_its_level_over_splits_that_share_images(
    splits: str, samples: int
) -> None:
    g, number = np.random.default_rng(samples), int(splits.split()[0])
    drawn = g.permuted(np.tile(np.arange(samples) % 5 == 0, (number, 1)), axis=1)
    folds = np.arange(samples) % number == np.arange(number)[:, None]
    held_out = folds if "folds" in splits else drawn
    found, zeros = of_equal_learners(g, held_out), np.zeros(number)
    ratio = held_out[0].sum() / (~held_out[0]).sum()
    corrected = np.mean([corrected_t_test(row, zeros, ratio=ratio).separated(0.05) for row in found])
    plain = np.mean([t_test(row, zeros, test="paired").separated(0.05) for row in found])
    if "folds" in splits:
        assert 0 < corrected < 0.03  # far on the safe side: 0.014 with 5 folds, 0.008 with 10
    else:
        assert corrected == pytest.approx(0.05, abs=0.02)
        assert plain > 0.3  # 0.36: the test sets overlap too


def drawn_pair(g: np.random.Generator, n: int, effect: float, paired: bool) -> tuple[Array, Array]:
    """Draws scores of an effect in std: of the differences if paired (the std is then 1), else of one side."""
    if not paired:
        return effect + g.normal(size=n), g.normal(size=n)
    seeds = 3 * g.normal(size=n)
    return seeds + effect + g.normal(size=n), seeds


@pytest.mark.slow
@RUNS
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("effect", [0.0, 1.0, 4.0])
def test_intervals_of_effects_cover(effect: float, paired: bool, n: int) -> None:
    rate = share(lambda g: holds(standardized(*drawn_pair(g, n, effect, paired), paired=paired), effect), n)
    assert rate == pytest.approx(0.95, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "paired"), [(3, False), (5, True), (5, False), (10, True)])
def test_hedges_g_is_right_on_average_and_cohens_d_too_large(n: int, paired: bool) -> None:
    g = np.random.default_rng(n)
    found = [standardized(*drawn_pair(g, n, 1.5, paired), paired=paired) for _ in range(2 * ROUNDS)]
    corrected, plain = np.array([[e.g, e.d] for e in found], dtype=float).T
    error = corrected.std() / len(found) ** 0.5
    assert corrected.mean() == pytest.approx(1.5, abs=4 * error)
    assert plain.mean() > 1.5 + 4 * error


@pytest.mark.slow
@RUNS
def test_the_upper_bound_of_a_std_covers(n: int) -> None:
    rate = share(lambda g: upper_std(float(g.normal(size=n).std(ddof=1)), n, level=0.8) >= 1, n)
    assert rate == pytest.approx(0.8, abs=0.03)
