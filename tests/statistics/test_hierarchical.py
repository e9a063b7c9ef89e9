"""Probabilities over tasks: a brute-force grid, limits by hand, and how often they are right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from medtransfer.core.errors import UserError
from medtransfer.statistics import hierarchical as statistics
from medtransfer.statistics.hierarchical import Hierarchical, hierarchical

Array = np.ndarray
WORDS = ("worse", "equivalent", "better")


def found(differences: Any, errors: Any, **options: float) -> Hierarchical:
    one = hierarchical(differences, errors, **options)
    assert one is not None
    return one


def by_grid(seen: Array, error: Array, times: float = 1.0) -> tuple[Array, Array, Array]:
    """Adds up over mean x spread, with densities of SciPy and no closed form: mean, next task, each task."""
    spread = np.exp(np.linspace(np.log(1e-4), np.log(1e4), 300))[:, None]
    mean = -80.04 + 0.08 * (np.arange(2000) + 0.5)[None]
    logs = stats.norm.logpdf(mean, 0, 10 * times) + stats.halfcauchy.logpdf(spread, scale=2 * times) + np.log(spread)
    for one, of_one in zip(seen, error, strict=True):
        logs = logs + stats.norm.logpdf(one, mean, np.hypot(of_one, spread))
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    of_mean = [(weights * part).sum() for part in (mean < -1, np.abs(mean) <= 1, mean > 1)]
    below, above = stats.norm.cdf(-1, mean, spread), stats.norm.sf(1, mean, spread)
    of_next = [(weights * part).sum() for part in (below, 1 - below - above, above)]
    each = []
    for one, of_one in zip(seen, error, strict=True):
        pull = of_one**2 / (of_one**2 + spread**2)
        each.append((weights * ((1 - pull) * one + pull * mean)).sum())
    return np.array(of_mean), np.array(of_next), np.array(each)


@pytest.mark.parametrize(
    ("seen", "error"),
    [([1.5, 0.2], [0.5, 0.4]), ([1.5, 0.2, 2.0, 1.1], [0.5, 0.4, 1.0, 0.3]), ([-3.0, -9.0, -4.0], [1.0, 2.0, 0.5])],
)
def test_it_is_what_a_grid_over_mean_and_spread_finds(seen: list[float], error: list[float]) -> None:
    one = found(seen, error)
    of_mean, of_next, each = by_grid(np.array(seen), np.array(error))
    assert [getattr(one.of_mean, word) for word in WORDS] == pytest.approx(of_mean, abs=1e-3)
    assert [getattr(one.of_next, word) for word in WORDS] == pytest.approx(of_next, abs=1e-3)
    assert [belief.estimate for belief in one.each] == pytest.approx(each, abs=2e-3)


def test_so_it_is_under_half_and_twice_the_prior() -> None:
    seen, error = np.array([1.5, 0.2]), np.array([0.5, 0.4])
    for chances, times in zip(found(seen, error).other, (0.5, 2.0), strict=True):
        of_mean, of_next, _ = by_grid(seen, error, times)
        assert [getattr(chances[0], word) for word in WORDS] == pytest.approx(of_mean, abs=1e-3)
        assert [getattr(chances[1], word) for word in WORDS] == pytest.approx(of_next, abs=1e-3)


def test_the_prior_alone_says_what_normal_and_cauchy_say() -> None:
    mean, following = found([0.0, 0.0], [1.0, 1.0]).before
    assert mean.better == pytest.approx(stats.norm.sf(0.1), abs=1e-9)
    assert mean.better + mean.equivalent + mean.worse == pytest.approx(1, abs=1e-12)
    assert following.better == pytest.approx(following.worse, abs=1e-9)
    assert following.equivalent < mean.equivalent


def test_with_many_exact_tasks_it_is_their_mean_and_their_spread() -> None:
    seen = 3 + 2 * stats.norm.ppf((np.arange(400) + 0.5) / 400)
    one = found(seen, np.full(400, 1e-3))
    assert one.mean.estimate == pytest.approx(3, abs=0.01)
    assert (one.mean.low, one.mean.high) == pytest.approx((3 - 0.196, 3 + 0.196), abs=0.02)
    assert one.spread == pytest.approx(seen.std(), abs=0.03)
    assert one.of_next.better == pytest.approx(stats.norm.sf(1, 3, 2), abs=0.01)
    assert [belief.estimate for belief in one.each] == pytest.approx(seen, abs=1e-3)


def test_a_task_that_says_little_is_drawn_to_the_mean_of_the_others() -> None:
    one = found([2.0, 2.1, 1.9, -4.0], [0.2, 0.2, 0.2, 5.0])
    assert abs(one.each[3].estimate - 2) < 0.5
    assert one.each[3].high - one.each[3].low < 2 * 1.96 * 5
    assert [belief.estimate for belief in one.each[:3]] == pytest.approx([2.0, 2.1, 1.9], abs=0.06)


def test_turned_round_it_says_the_opposite_and_other_units_change_nothing() -> None:
    one, turned = found([1.5, 0.2, 2.0], [0.5, 0.4, 1.0]), found([-1.5, -0.2, -2.0], [0.5, 0.4, 1.0])
    assert turned.of_mean.worse == pytest.approx(one.of_mean.better, abs=1e-12)
    assert turned.mean.low == pytest.approx(-one.mean.high, abs=1e-9)
    scaled = found([0.015, 0.002, 0.02], [0.005, 0.004, 0.01], rope=0.01)
    assert scaled.of_next.better == pytest.approx(one.of_next.better, abs=1e-12)
    assert scaled.each[2].low == pytest.approx(one.each[2].low / 100, abs=1e-9)


def test_one_task_is_none_and_what_does_not_fit_is_refused() -> None:
    assert hierarchical([1.0], [0.5]) is None
    for seen, error in (([1.0, 2.0], [0.5]), ([1.0, np.nan], [0.5, 0.5]), ([1.0, 2.0], [0.5, 0.0])):
        with pytest.raises(UserError, match="errors > 0"):
            hierarchical(seen, error)
    with pytest.raises(UserError, match="rope"):
        hierarchical([1.0, 2.0], [0.5, 0.5], rope=0)


def simulated(scales: tuple[float, float] | None, tasks: int, number: int) -> dict[str, tuple[float, float, int]]:
    """Counts, where the likeliest word has .90 to .97: mean probability, share of right ones, number; and coverage."""
    rng, df = np.random.default_rng(tasks), 4
    rows: dict[str, list[tuple[float, bool]]] = {"mean": [], "next": [], "each": [], "of mean": []}
    for _ in range(number):
        spread = abs(2 * rng.standard_cauchy()) if scales is None else scales[1] * abs(rng.standard_normal())
        mean = (10 if scales is None else scales[0]) * rng.standard_normal()
        true, error = mean + spread * rng.standard_normal(tasks), rng.uniform(0.2, 1.5, tasks)
        estimated = error * np.sqrt(rng.chisquare(df, tasks) / df) * stats.t.isf(0.025, df) / stats.norm.isf(0.025)
        one = found(true + error * rng.standard_normal(tasks), estimated)
        values = {"mean": (one.of_mean, mean), "next": (one.of_next, mean + spread * rng.standard_normal())}
        for kind, (chances, value) in values.items():
            said = [getattr(chances, word) for word in WORDS]
            place = int(np.argmax(said))
            if 0.9 <= said[place] < 0.97:
                rows[kind].append((said[place], place == int(value > -1) + int(value > 1)))
        rows["each"] += [
            (0.95, belief.low <= value <= belief.high) for belief, value in zip(one.each, true, strict=True)
        ]
        rows["of mean"].append((0.95, one.mean.low <= mean <= one.mean.high))
    return {name: (*np.mean(found_, axis=0), len(found_)) for name, found_ in rows.items()}


@pytest.mark.slow
@pytest.mark.parametrize("scales", [None, (3.0, 2.0), (1.5, 1.0)])
@pytest.mark.parametrize("tasks", [2, 4, 7])
def test_probabilities_are_right_as_often_as_they_say(
    scales: tuple[float, float] | None, tasks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "POINTS", 1000)
    counted = simulated(scales, tasks, 2000)
    print(scales, tasks, {name: f"{right:.3f} ({said:.3f}) n={n}" for name, (said, right, n) in counted.items()})
    for kind, bound in (("mean", 0.04), ("next", 0.06)):
        said, right, number = counted[kind]
        assert right > said - bound - 2 * np.sqrt(0.06 / number) * (number < 200)
    assert counted["each"][1] > 0.94
    assert counted["of mean"][1] > 0.93
