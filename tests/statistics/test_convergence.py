"""Times to a score: crossings by hand, bounds where a run never gets there, coverage of a planted ratio."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medtransfer.core.errors import UserError
from medtransfer.statistics.convergence import Crossing, Times, crossing, goal, mean_time, ratio
from medtransfer.statistics.t_tests import t_test

AT = ("at",) * 3
OURS, THEIRS = [2.0, 4.0, 3.0], [6.0, 8.0, 7.0]


def test_the_goal_is_a_share_of_the_mean_best_and_below_it_also_where_that_is_negative() -> None:
    assert goal([0.8, 0.9]) == pytest.approx(0.95 * 0.85)
    assert goal([-0.2]) == pytest.approx(-0.21)


def epochs(scores: list[float], target: float) -> float:
    found = crossing(scores, target)
    assert found is not None
    assert found.kind == "at"
    return found.epochs


def test_a_crossing_is_linear_between_epochs() -> None:
    assert epochs([0.5, 0.7, 0.9, 0.6], 0.75) == pytest.approx(2.25)
    assert epochs([0.5, 0.7, 0.9], 0.7) == pytest.approx(2.0)


def test_the_first_crossing_counts_and_ends_are_said() -> None:
    assert epochs([0.5, 0.8, 0.6, 0.9], 0.65) == pytest.approx(1.5)
    assert crossing([0.5, 0.6], 0.7) == Crossing(epochs=2.0, kind="late")
    assert crossing([0.8, 0.6], 0.7) == Crossing(epochs=1.0, kind="early")
    assert crossing([], 0.7) is None


def test_a_ratio_is_the_paired_t_interval_of_logs() -> None:
    found = ratio(OURS, AT, THEIRS, AT)
    test = t_test([math.log(value) for value in OURS], [math.log(value) for value in THEIRS], test="paired")
    assert test.low is not None
    assert test.high is not None
    ends = (math.exp(test.difference), math.exp(test.low), math.exp(test.high))
    assert (found.estimate, found.low, found.high) == pytest.approx(ends)
    assert (found.note, found.bound) == ("", "")
    turned = ratio(THEIRS, AT, OURS, AT)
    assert (turned.low, turned.high) == pytest.approx((1 / ends[2], 1 / ends[1]))


def test_a_mean_time_is_geometric() -> None:
    assert mean_time([2.0, 8.0], ("at", "at")).estimate == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("kinds", "their_kinds", "bound", "ends"),
    [
        (("late", "at", "at"), AT, "at least", (True, False)),
        (AT, ("late", "at", "at"), "at most", (False, True)),
        (("early", "at", "at"), AT, "at most", (False, True)),
        (AT, ("at", "early", "at"), "at least", (True, False)),
        (("late", "early", "at"), AT, "", (False, False)),
        (("late", "at", "at"), ("late", "at", "at"), "", (False, False)),
        (("early", "at", "at"), ("at", "late", "at"), "at most", (False, True)),
    ],
)
def test_a_time_that_is_not_known_leaves_one_end_or_none(
    kinds: tuple[str, ...], their_kinds: tuple[str, ...], bound: str, ends: tuple[bool, bool]
) -> None:
    found, whole = ratio(OURS, kinds, THEIRS, their_kinds), ratio(OURS, AT, THEIRS, AT)
    assert found.bound == bound
    assert (found.low is not None, found.high is not None) == ends
    assert found.low in (None, whole.low)
    assert found.high in (None, whole.high)
    assert "seeds" in found.note


def test_a_bound_on_one_seed_is_a_bound_on_the_mean() -> None:
    cut = ratio([2.0, 4.0, 3.0], ("at", "late", "at"), THEIRS, AT)
    later = ratio([2.0, 9.0, 3.0], AT, THEIRS, AT)
    assert cut.estimate < later.estimate


def test_one_seed_and_equal_seeds_have_no_interval() -> None:
    assert ratio([2.0], ("at",), [4.0], ("at",)) == Times(estimate=0.5, level=0.95, seeds=1, note="one seed")
    assert ratio([2.0, 2.0], ("at", "at"), [4.0, 4.0], ("at", "at")).note == "no spread over seeds"


def test_bad_input_is_refused() -> None:
    with pytest.raises(UserError, match="per seed"):
        ratio([1.0], ("at",), [1.0, 2.0], ("at", "at"))
    with pytest.raises(UserError, match="above 0"):
        ratio([1.0], ("at",), [0.0], ("at",))


# Planted truth: an init that learns twice as fast.


def timed(rng: np.random.Generator, seeds: int, epochs: int) -> Times:
    """Draws learning curves, of which one initialization's rises twice as fast, and finds the ratio of times."""
    found = []
    for pace in (2.0, 1.0):
        speeds = pace * np.exp(rng.normal(0, 0.25, (seeds, 1)))
        curves = 0.9 - 0.3 * np.exp(-speeds * np.arange(1, epochs + 1) / 6)
        found.append([one for run in curves if (one := crossing(list(run), goal([0.9]))) is not None])
    ours, theirs = found
    return ratio(
        [one.epochs for one in ours], [one.kind for one in ours],
        [one.epochs for one in theirs], [one.kind for one in theirs],
    )  # fmt: skip


def covered(rounds: int, seeds: int, epochs: int = 30) -> tuple[float, float]:
    """Gives the share of simulations whose interval holds the truth, and that of intervals with both ends."""
    rng = np.random.default_rng(5)
    found = [timed(rng, seeds, epochs) for _ in range(rounds)]
    held = [(one.low or 0.0) <= 0.5 <= (math.inf if one.high is None else one.high) for one in found]
    return float(np.mean(held)), float(np.mean([one.low is not None and one.high is not None for one in found]))


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_interval_covers_the_planted_ratio(seeds: int) -> None:
    held, closed = covered(1500, seeds)
    assert closed > 0.95
    assert 0.93 <= held <= 0.97


def test_runs_that_end_too_early_do_not_make_the_interval_wrong() -> None:
    held, closed = covered(1500, 5, epochs=11)
    assert closed < 0.9
    assert held >= 0.93
