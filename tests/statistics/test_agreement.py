"""Agreement of two rankings: tau against scipy's, the interval and the ceiling of planted rankings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from medtransfer.core.errors import UserError
from medtransfer.statistics.agreement import agree, ceiling, kendall, over_tasks

Array = NDArray[Any]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def runs(means: list[float], noise: float, seed: int, *, seeds: int = 5, patients: int = 60) -> Array:
    drawn = rng(seed)
    table = drawn.normal(0, noise, (len(means), seeds, patients)) + drawn.normal(0, 10 * noise, (1, 1, patients))
    return np.asarray(np.array(means)[:, None, None] + table)


MEANS = [0.6, 0.7, 0.75, 0.8, 0.9]


def test_tau_is_scipy_s_with_and_without_ties() -> None:
    drawn = rng()
    one, two = drawn.integers(0, 4, (50, 6)).astype(float), drawn.normal(size=(50, 6))
    expected = [stats.kendalltau(a, b).statistic for a, b in zip(one, two, strict=True)]
    np.testing.assert_allclose(kendall(one, two), expected)
    assert np.isnan(kendall(np.ones((1, 3)), np.arange(3.0)[None]))[0]


def test_equal_rankings_agree_and_turned_ones_do_not() -> None:
    same = agree(runs(MEANS, 0.01, 1), runs(MEANS, 0.01, 2), rng=rng()).found
    turned = agree(runs(MEANS[::-1], 0.01, 1), runs(MEANS, 0.01, 2), rng=rng()).found
    assert (same.tau, same.low, same.high, same.ceiling) == pytest.approx((1, 1, 1, 1))
    assert (turned.tau, turned.high) == pytest.approx((-1, -1))
    assert (same.inits, same.seeds, same.patients) == (5, 5, 60)


def test_noise_widens_the_interval_and_lowers_the_ceiling() -> None:
    found = agree(runs(MEANS, 0.01, 1), runs(MEANS, 0.8, 2), rng=rng()).found
    assert found.ceiling is not None
    assert found.low is not None
    assert found.high is not None
    assert 0 < found.ceiling < 0.95
    assert found.low < found.high
    assert agree(runs(MEANS, 0.01, 1), runs(MEANS, 0.8, 2), rng=rng()).found == found


def test_the_ceiling_is_near_the_tau_with_the_truth() -> None:
    """Over many tables of one design the estimate is on average the tau that those tables have with the truth."""
    drawn, estimated, real = rng(4), [], []
    for _ in range(200):
        truth = drawn.normal(0, 0.03, 8)
        table = truth[:, None, None] + drawn.normal(0, 0.05, (8, 5, 1))
        estimated.append(ceiling(table, rng=drawn, draws=200))
        real.append(kendall(truth[None], table.mean(axis=(1, 2))[None])[0])
    assert np.mean([value for value in estimated if value is not None]) == pytest.approx(np.mean(real), abs=0.05)
    assert 0.4 < np.mean(real) < 0.8


def test_what_all_inits_have_in_common_does_not_lower_the_ceiling() -> None:
    shared = rng(1).normal(0, 1, (1, 5, 60))  # a hard seed, a hard patient: no rank moves
    quiet = runs(MEANS, 0.01, 2)
    assert ceiling(quiet + shared, rng=rng()) == pytest.approx(ceiling(quiet, rng=rng()), abs=1e-6)


def test_nothing_but_noise_has_a_ceiling_of_nothing_and_one_seed_none() -> None:
    values = [ceiling(runs([0.7] * 5, 0.1, seed), rng=rng()) for seed in range(20)]
    assert sum(value == 0 for value in values) >= 8
    assert ceiling(runs(MEANS, 0.1, 1, seeds=1), rng=rng()) is None


def test_protocols_without_chance_are_drawn_over_patients() -> None:
    cheap = np.repeat(runs(MEANS, 0.5, 1)[:, :1], 5, axis=1)
    found = agree(cheap, runs(MEANS, 0.01, 2), rng=rng()).found
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.high


def test_scores_alone_are_drawn_over_seeds() -> None:
    found = agree(runs(MEANS, 0.1, 1, patients=1), runs(MEANS, 0.1, 2, patients=1), rng=rng()).found
    assert found.patients == 0
    assert found.tau is not None


def test_few_inits_or_equal_ones_have_no_tau_and_say_so() -> None:
    few = agree(runs(MEANS[:2], 0.01, 1), runs(MEANS[:2], 0.01, 2), rng=rng()).found
    assert (few.tau, few.note) == (None, "2 initializations, and a ranking needs 3")
    equal = agree(np.full((3, 2, 1), 0.5), runs(MEANS[:3], 0.01, 2, seeds=2, patients=1), rng=rng()).found
    assert (equal.tau, equal.note) == (None, "all of one protocol are equal")


def test_tasks_are_averaged() -> None:
    one = agree(runs(MEANS, 0.01, 1), runs(MEANS, 0.01, 2), rng=rng())
    two = agree(runs(MEANS[::-1], 0.01, 1), runs(MEANS, 0.01, 2), rng=rng())
    pooled = over_tasks([one, two])
    assert pooled is not None
    assert (pooled.tau, pooled.low, pooled.high, pooled.tasks) == pytest.approx((0, 0, 0, 2))
    assert over_tasks([one]) is None


def test_bad_input_is_refused() -> None:
    with pytest.raises(UserError, match="equal inits and patients"):
        agree(runs(MEANS, 0.1, 1), runs(MEANS[:3], 0.1, 1), rng=rng())
    with pytest.raises(UserError, match="finite"):
        agree(runs([*MEANS[:4], float("nan")], 0.1, 1), runs(MEANS, 0.1, 1), rng=rng())
