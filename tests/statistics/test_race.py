from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from medtransfer.core.errors import UserError
from medtransfer.statistics import race
from medtransfer.statistics.all_pairs import over_seeds
from medtransfer.statistics.race import Race, Rules, drift_of, look, probability_within, start, withdraw
from tests.support import races
from tests.support.races import World

Array = NDArray[Any]
RULES = Rules(rounds=3, margin=1.0, error=0.05)


def scores(means: list[float], seeds: int = 4, noise: float = 0.1, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    rest = rng.normal(size=(len(means), seeds))
    rest -= rest.mean(axis=1, keepdims=True)
    return np.array(means)[:, None] + noise * rest + rng.normal(size=seeds)


def test_an_interval_is_that_of_the_difference_at_its_share_of_the_error() -> None:
    values = scores([0.0, -1.2, -5.0, 0.3], noise=0.5)
    after = look(start(4, RULES), values)
    pairs = over_seeds(values)
    assert pairs is not None
    half = stats.t.isf(0.05 / 3 / 3, pairs.seed_df) * pairs.seed_error[1, 3]
    stands = after.standings[1]
    assert stands.low == pytest.approx(-1.5 - half)
    assert stands.high == pytest.approx(-1.5 + half)
    assert after.leader == 3


def test_who_is_far_behind_is_dropped_and_who_is_equal_is_level() -> None:
    after = look(start(4, RULES), scores([0.0, -0.2, -5.0, -1.1]))
    assert [stands.status for stands in after.standings] == ["leads", "level", "dropped", "dropped"]
    assert after.decided
    worse = after.standings[2]
    assert (worse.reason, worse.dropped_in, after.left) == ("worse", 1, (0, 1))
    assert worse.words.startswith("worse than the leader by 5, at least by 4.")
    assert worse.words.endswith("(4 seeds, round 1 of 3)")


def test_a_rival_is_out_of_reach_when_the_budget_ends_and_not_before() -> None:
    values = scores([0.0, -1.5, -0.9], seeds=3, noise=0.9)
    on_the_way, at_the_end = (look(start(3, RULES), values, more_seeds=more) for more in (7, 0))
    assert [stands.status for stands in on_the_way.standings] == ["leads", "races", "races"]
    assert [stands.reason for stands in at_the_end.standings] == [None, "out of reach", None]
    stands = at_the_end.standings[1]
    assert stands.high is not None
    assert 0 < stands.high < 1
    assert "not better by the margin of 1: what is left of the budget can make it 1.5 behind at best" in stands.words


def test_what_epochs_may_still_do_keeps_a_rival_in_the_race() -> None:
    values = scores([0.0, -2.0])
    assert look(start(2, RULES), values).left == (0,)
    assert look(start(2, RULES), values, drift=2.0).left == (0, 1)


def test_one_seed_drops_nobody() -> None:
    after = look(start(3, RULES), [[0.0], [-100.0], [-1.0]])
    assert (after.left, after.leader, after.decided) == ((0, 1, 2), 0, False)
    assert after.against(0)[0].tolist() == []


def test_with_two_seeds_an_interval_is_twice_as_wide() -> None:
    values = scores([0.0, -1.2, -5.0], seeds=2)
    pairs, stands = over_seeds(values), look(start(3, RULES), values).standings[1]
    assert pairs is not None
    assert stands.difference is not None
    assert stands.high == pytest.approx(stands.difference + 2 * pairs.reach(2 * RULES.share(3))[1, 0])


def test_patients_make_an_interval_wider() -> None:
    values = scores([0.0, -0.5])
    rng = np.random.default_rng(1)
    patients = rng.normal(size=(2, 1, 50)) * 5
    contributions = values[:, :, None] + patients - patients.mean(axis=2, keepdims=True)
    alone, both = look(start(2, RULES), values), look(start(2, RULES), contributions)
    assert alone.standings[1].difference == pytest.approx(both.standings[1].difference)
    assert (alone.standings[1].status, both.standings[1].status) == ("level", "races")


def test_what_a_seed_does_to_all_changes_nothing() -> None:
    values = scores([0.0, -1.2, -0.3])
    moved = look(start(3, RULES), values + np.array([5.0, -3.0, 0.0, 9.0]))
    for one, other in zip(look(start(3, RULES), values).standings, moved.standings, strict=True):
        assert one.low == pytest.approx(other.low)
        assert one.status == other.status


def test_candidates_may_stand_in_any_order() -> None:
    values, order = scores([0.0, -1.2, -0.3, -4.0]), [2, 0, 3, 1]
    one, other = look(start(4, RULES), values), look(start(4, RULES), values[order])
    assert [one.standings[place].status for place in order] == [stands.status for stands in other.standings]


def test_a_race_goes_on_with_those_that_are_left() -> None:
    first = look(start(4, RULES), scores([0.0, -9.0, -0.5, 0.1], noise=0.6), more_seeds=4)
    assert first.left == (0, 2, 3)
    second = look(first, scores([0.0, -0.1, -7.0], noise=0.3))
    assert [stands.status for stands in second.standings] == ["leads", "dropped", "level", "dropped"]
    assert [stands.dropped_in for stands in second.standings] == [None, 1, None, 2]
    differences, errors, df = second.against(0)
    assert differences.tolist() == pytest.approx([-9.0, -0.1, -7.0])  # each as it was last seen
    assert errors[0] > errors[1]
    assert len(df) == 3


def test_the_pick_is_the_cheapest_of_the_equal_ones() -> None:
    after = look(start(4, RULES), scores([0.0, -0.1, -5.0, -0.2]))
    assert after.pick([3, 2, 1, 2]) == 1
    assert after.pick([3, 4, 1, 5]) == 0
    with pytest.raises(UserError, match="4 costs must be there"):
        after.pick([1])


def test_a_withdrawn_candidate_is_named_and_its_lead_passes_on() -> None:
    before = withdraw(start(3, RULES), 1, "its weights cannot be read")
    after = look(before, scores([0.0, -0.1]))
    assert (after.leader, after.left) == (0, (0, 2))
    gone = withdraw(after, 0, "training diverged")
    assert (gone.leader, gone.left) == (2, (2,))
    assert (gone.standings[1].reason, gone.standings[1].words) == ("withdrawn", "its weights cannot be read")
    assert look(gone, [[1.0, 2.0]]).decided
    with pytest.raises(UserError, match=r"candidate 1 is not in the race, there are \[2\]"):
        withdraw(gone, 1, "again")


def refused() -> Race:
    return start(2, RULES)


@pytest.mark.parametrize(
    ("call", "law"),
    [
        (lambda: Rules(rounds=0, margin=1, error=0.1), "rounds >= 1"),
        (lambda: Rules(rounds=1, margin=0, error=0.1), "margin > 0"),
        (lambda: Rules(rounds=1, margin=1, error=0.5), "error < 0.5"),
        (lambda: start(0, RULES), "candidates >= 1"),
        (lambda: look(refused(), [[1.0, 2.0]]), "2 are left, got shape"),
        (lambda: look(refused(), [[1.0, 2.0], [1.0, np.nan]]), r"withdraw candidates \[1\]"),
        (lambda: look(refused(), [[1.0, 2.0], [1.0, 1.0]], drift=-1), "drift >= 0"),
        (lambda: drift_of([[1.0]], [[1.0]]), "at least 2 candidates"),
        (lambda: refused().pick([1, 1]), "a round"),
        (lambda: probability_within([1.0], [0.0], df=3, margin=1, rng=np.random.default_rng(0)), "errors > 0"),
        (lambda: probability_within([1.0], [1.0, 2.0], df=3, margin=1, rng=np.random.default_rng(0)), "of one number"),
    ],
)
def test_bad_input_is_refused_with_its_law(call: Callable[[], object], law: str) -> None:
    with pytest.raises(UserError, match=law):
        call()


def test_no_more_looks_than_planned() -> None:
    state = start(2, Rules(rounds=1, margin=1.0, error=0.05))
    with pytest.raises(UserError, match="shared among 1 rounds"):
        look(look(state, scores([0.0, 0.0])), scores([0.0, 0.0]))


def test_drift_is_the_std_of_a_difference_of_changes() -> None:
    rng = np.random.default_rng(0)
    before, change = rng.normal(size=(2000, 3)), rng.normal(size=(2000, 1)) * 2
    assert drift_of(before, before + change + 7) == pytest.approx(2 * 2**0.5, rel=0.05)


# the probability


def within(differences: Any, errors: Any, df: Any = 1e6, **options: Any) -> float:
    rng = np.random.default_rng(0)
    return probability_within(differences, errors, df=df, margin=1.0, rng=rng, draws=20_000, **options)


def test_without_shrinkage_two_candidates_are_the_normal_distribution() -> None:
    assert within([0.5], [1.0], shrunk=False) == pytest.approx(stats.norm.cdf(0.5), abs=0.01)
    assert within([-1.0], [2.0], df=3, shrunk=False) == pytest.approx(stats.t.cdf(1.0, 3), abs=0.015)


def test_the_posterior_is_that_of_an_integral_over_spread_and_mean() -> None:
    # A second way: the truths of all candidates are drawn from the prior and weighed by their likelihood.
    rng = np.random.default_rng(1)
    values, error = np.array([-0.5, -1.0, -2.0, 0.0]), 0.8
    spread = rng.uniform(0, race.WIDEST * values.std(ddof=1), 400_000)
    mean = rng.uniform(-8, 7, len(spread))
    truths = mean[:, None] + spread[:, None] * rng.normal(size=(len(spread), 4))
    weights = np.exp(-((values - truths) ** 2).sum(axis=1) / 2 / error**2)
    expected = np.average(truths[:, -1] >= truths.max(axis=1) - 1, weights=weights)
    assert within(values[:-1], np.full(3, error * 2**0.5)) == pytest.approx(expected, abs=0.015)


def test_the_probability_rises_with_the_lead_and_with_precision() -> None:
    assert within([-3.0, -3.5], [1.0, 1.0]) > within([-0.5, -0.6], [1.0, 1.0]) > within([-0.5, -0.6], [3.0, 3.0])
    assert within([-90.0, -80.0], [1.0, 1.0]) == 1.0
    assert within([], []) == 1.0


def test_scores_that_happen_to_be_equal_are_not_known_to_be() -> None:
    assert within([0.0], [1.0]) < 0.96


def test_who_is_far_behind_does_not_hide_that_the_others_are_equal() -> None:
    equal = within(np.linspace(-2, 0, 10), np.full(10, 1.0), df=40)
    assert within(np.append(np.linspace(-2, 0, 10), [-30, -50]), np.full(12, 1.0), df=40) == pytest.approx(equal)


def test_the_same_seed_gives_the_same_probability() -> None:
    assert within([-0.5, -0.6], [1.0, 1.0]) == within([-0.5, -0.6], [1.0, 1.0])


# simulations: quick ones, and the tables of benchmarks/race.py


@pytest.mark.parametrize("candidates", [5, 20])
def test_the_best_by_a_margin_is_hardly_ever_dropped(candidates: int) -> None:
    found = races.lost(World(candidates, seed_std=0.5), races.best_by_a_margin, 40, 0)
    assert found[:, 0].mean() <= 0.05
    assert found[:, 1].mean() < 0.9


def test_what_is_stated_is_so() -> None:
    found = races.stated(World(20, seeds=(2, 3)), races.spread(2.0), 60, 0)
    assert abs(found[:, 1].mean() - found[:, 2].mean()) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("candidates", [5, 20, 50])
@pytest.mark.parametrize("world", races.HARD)
def test_the_best_by_a_margin_is_dropped_at_most_as_often_as_stated(candidates: int, world: str) -> None:
    found = races.lost(races.HARD[world](candidates), races.best_by_a_margin, 1000, 1)
    assert found[:, 0].mean() <= 0.05


@pytest.mark.slow
def test_the_stated_probability_is_calibrated() -> None:
    whole = []
    for candidates in (5, 20, 50):
        for std, truths in races.SPREADS.values():
            for seeds in races.FEW:
                found = races.stated(World(candidates, seeds=seeds, seed_std=std), truths, 200, 1)
                assert abs(found[:, 1].mean() - found[:, 2].mean()) <= 0.12  # .1, and a part of what 200 races vary by
                whole.append(found)
    for _, said, so, count in races.bins(np.concatenate(whole), 1):
        assert count < 100 or abs(said - so) <= 0.1


def test_a_drift_that_was_seen_counts_beside_what_was_believed() -> None:
    before, after = np.array([[0.5], [0.6], [0.7]]), np.array([[0.6], [0.6], [0.9]])
    seen = drift_of(before, after)
    assert race.drift_with(0.04, before, after) == pytest.approx(((2 * 0.04**2 + 2 * seen**2) / 4) ** 0.5)
    assert race.drift_with(0.0, before, before) == 0.0
    with pytest.raises(UserError, match="believed >= 0"):
        race.drift_with(-1.0, before, after)


@pytest.mark.slow
@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("candidates", [5, 20, 50])
def test_a_race_as_the_verb_runs_it_states_what_is_so_and_drops_the_best_as_seldom_as_stated(
    candidates: int, share: float
) -> None:
    whole = []
    for drift in (0.0, 1.0):  # up to what is believed
        for name, truths, std in races.OURS:
            found = races.recommended(World(candidates, seed_std=std, drift=drift), truths, share, 100, 1)
            assert found[:, 0].mean() <= 0.05, (name, drift)
            assert found[:, 1].mean() - found[:, 2].mean() <= 0.1, (name, drift)
            whole.append(found)
    joined = np.concatenate(whole)
    for _, said, so, count in races.bins(joined, 1):
        assert count < 50 or said - so <= 0.1
