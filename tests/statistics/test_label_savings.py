"""Labels saved at equal score: known crossings, open ends, and coverage of a planted truth."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medtransfer.core.errors import UserError
from medtransfer.statistics.label_savings import LabelSaving, saving
from medtransfer.statistics.seeds_and_patients import joint_interval

Array = NDArray[Any]
AMOUNTS = (20.0, 50.0, 100.0, 250.0, 400.0)
LABELS = 400.0
FACTOR = 2.0
TRUTH = LABELS / FACTOR
"""labels at which both scores are equal by construction; none of the amounts"""
FIVE = (20.0, 50.0, 100.0, 200.0, 400.0)


def tables(means: list[float], spread: float = 0.02, seeds: int = 5, patients: int = 40) -> list[Array]:
    """Makes tables of exactly these means, with noise that has no mean over seeds and none over patients."""
    rng = np.random.default_rng(3)
    found = []
    for mean in means:
        noise = rng.normal(0, 1, (seeds, 1)) + rng.normal(0, 3, (1, patients)) + rng.normal(0, 1, (seeds, patients))
        found.append(mean + spread * (noise - noise.mean()))
    return found


def found(means: list[float], reference: float, **options: Any) -> LabelSaving:
    *ours, base = tables([*means, reference], **options)
    return saving(ours, FIVE[: len(means)], base, 400.0)


def test_the_crossing_is_linear_in_log_labels() -> None:
    one = found([0.60, 0.65, 0.70, 0.80, 0.85], 0.75)
    assert one.outcome == "reached"
    assert one.equal == pytest.approx(math.sqrt(100 * 200))  # halfway between 0.70 and 0.80
    assert one.factor == pytest.approx(400 / math.sqrt(100 * 200))
    assert one.equal_low is not None
    assert one.equal_high is not None
    assert one.equal is not None
    assert one.equal_low < one.equal < one.equal_high
    assert one.factor_low == 400 / one.equal_high
    assert one.factor_high == 400 / one.equal_low


def test_the_ends_are_where_the_test_of_no_difference_turns() -> None:
    *ours, base = tables([0.60, 0.65, 0.70, 0.80, 0.85, 0.75])
    one = saving(ours, FIVE, base, 400.0)
    for end, side in ((one.equal_low, "high"), (one.equal_high, "low")):
        assert end is not None
        right = next(k for k in range(5) if end <= FIVE[k])
        share = math.log(end / FIVE[right - 1]) / math.log(FIVE[right] / FIVE[right - 1])
        difference = joint_interval((1 - share) * ours[right - 1] + share * ours[right] - base)
        assert getattr(difference, side) == pytest.approx(0, abs=1e-6)


def test_the_order_of_the_amounts_and_a_constant_change_nothing() -> None:
    *ours, base = tables([0.60, 0.65, 0.70, 0.80, 0.85, 0.75])
    one, two = saving(ours, FIVE, base, 400.0), saving(ours[::-1], FIVE[::-1], base, 400.0)
    moved = saving([table - 0.3 for table in ours], FIVE, base - 0.3, 400.0)
    assert one == two
    assert (moved.equal, moved.equal_low, moved.equal_high) == pytest.approx((one.equal, one.equal_low, one.equal_high))


@pytest.mark.parametrize(
    ("means", "spread", "ends", "words"),
    [
        ([0.60, 0.65, 0.70, 0.80, 0.85], 0.01, (True, True), r"reaches the reference's score of 400 labels with "
         r"about 141 labels \(1[23]\d to 1[56]\d, 95 %\): saves about 65 % \(6\d to 6\d %\)"),
        ([0.85, 0.86, 0.87, 0.88, 0.89], 0.01, (False, True), "reaches the reference's score of 400 labels already "
         "with the 20 labels that were the fewest: saves at least 95 %"),
        ([0.50, 0.51, 0.52, 0.53, 0.54], 0.01, (True, False), "did not reach the reference's score of 400 labels with "
         "all 400 labels"),
        ([0.745, 0.80, 0.81, 0.82, 0.83], 0.01, (False, True), r".* with about 2\d labels \(at most \d+, 95 %\): saves "
         r"at least \d+ %"),
        ([0.60, 0.65, 0.70, 0.72, 0.755], 0.01, (True, False), r".* about 3\d\d labels \(at least \d+, 95 %\): saves "
         r"at most \d+ %, if any"),
        ([0.60, 0.65, 0.70, 0.72, 0.745], 0.01, (True, False), r"did not reach .* on average with all 400 labels \(at "
         r"least \d+, 95 %\): saves at most \d+ %, if any"),
        ([0.60, 0.65, 0.70, 0.80, 0.85], 1.0, (False, False), "these data do not say how many labels it needs for the "
         "reference's score of 400 labels: the fewest are not told apart, it is not shown to reach it with all"),
    ],
)  # fmt: skip
def test_open_ends_are_said(means: list[float], spread: float, ends: tuple[bool, bool], words: str) -> None:
    one = found(means, 0.75, spread=spread)
    assert (one.equal_low is not None, one.equal_high is not None) == ends
    assert bool(one.why_low) == (one.equal_low is None)
    assert bool(one.why_high) == (one.equal_high is None)
    assert re.fullmatch(words, one.sentence)


def test_never_reached_has_no_estimate_and_more_than_all_as_its_lower_end() -> None:
    one = found([0.50, 0.51, 0.52, 0.53, 0.54], 0.75, spread=0.01)
    assert (one.outcome, one.equal, one.equal_low, one.equal_high) == ("not reached", None, 400.0, None)
    at_once = found([0.85, 0.86, 0.87, 0.88, 0.89], 0.75, spread=0.01)
    assert (at_once.outcome, at_once.equal, at_once.equal_low, at_once.equal_high) == (
        "at the fewest",
        None,
        None,
        20.0,
    )
    assert at_once.factor_low == 20


def test_protocols_without_chance_rest_on_patients() -> None:
    *ours, base = (np.repeat(table[:1], 5, axis=0) for table in tables([0.60, 0.65, 0.70, 0.80, 0.85, 0.75]))
    one = saving(ours, FIVE, base, 400.0)
    assert one.equal_low is not None
    assert one.equal_high is not None
    assert one.equal_high - one.equal_low > 1


def test_without_patients_and_without_chance_nothing_is_told_apart() -> None:
    ours = [np.full((5, 1), mean) for mean in (0.60, 0.65, 0.70, 0.80, 0.85)]
    one = saving(ours, FIVE, np.full((5, 1), 0.75), 400.0)
    assert one.equal == pytest.approx(math.sqrt(100 * 200))
    assert (one.equal_low, one.equal_high, one.patients) == (None, None, 0)
    assert "do not say" in one.sentence


def test_scores_alone_give_a_t_interval_and_folds_a_wider_one() -> None:
    *ours, base = tables([0.60, 0.65, 0.70, 0.80, 0.85, 0.75], patients=1, spread=0.005)
    seeds, folds = saving(ours, FIVE, base, 400.0), saving(ours, FIVE, base, 400.0, ratio=0.25)
    assert seeds.equal == folds.equal
    assert seeds.equal_low is not None
    assert folds.equal_low is not None
    assert seeds.equal_high is not None
    assert folds.equal_high is not None
    assert folds.equal_low < seeds.equal_low < seeds.equal_high < folds.equal_high


def test_a_single_amount_and_a_single_seed_are_no_error() -> None:
    (ours, base) = tables([0.85, 0.75], spread=0.01)
    assert saving([ours], [400], base, 400).outcome == "at the fewest"
    assert not saving([ours[:1]], [400], base[:1], 400).decided


@pytest.mark.parametrize(
    "change", [{"amounts": (20, 20)}, {"amounts": (0, 20)}, {"amounts": (20,)}, {"labels": 0}, {"level": 1.0}]
)
def test_bad_input_is_refused(change: dict[str, Any]) -> None:
    *ours, base = tables([0.6, 0.8, 0.7])
    given: dict[str, Any] = {"amounts": (20, 400), "labels": 400, "level": 0.95} | change
    with pytest.raises(UserError):
        saving(ours, given["amounts"], base, given["labels"], level=given["level"])


def test_tables_of_other_shapes_are_refused() -> None:
    *ours, base = tables([0.6, 0.8, 0.7])
    with pytest.raises(UserError, match="reference's shape"):
        saving(ours, (20, 400), base[:4], 400)


# Planted truth: an init whose score at n labels is the reference's at twice as many.


def simulated(
    rng: np.random.Generator, seeds: int, patients: int, *, chance: bool = True, noise: float = 1.0
) -> LabelSaving:
    """Draws one benchmark of two initializations and finds the saving.

    Args:
        rng: draws.
        seeds: of both.
        patients: in test; 1: scores alone.
        chance: whether a seed's luck and its residual are drawn; False: all seeds are equal, as of a linear probe.
        noise: multiplies all that is drawn.
    """
    alone = patients == 1
    hard = rng.normal(0, 0.3, patients)
    own = rng.normal(0, 0.1, (2, patients))

    def table(init: int, labels: float) -> Array:
        values = np.zeros((seeds, patients))
        if not alone:
            values += hard + own[init] + rng.normal(0, 0.1, patients)
        if chance:
            values += rng.normal(0, 0.01, (seeds, 1)) + (0 if alone else rng.normal(0, 0.15, (seeds, patients)))
        return np.asarray(0.6 + 0.05 * np.log(labels) + noise * values)

    tables = [table(1, FACTOR * amount) for amount in AMOUNTS]
    return saving(tables, AMOUNTS, table(0, LABELS), LABELS)


def holds(found: LabelSaving) -> bool:
    """Says whether the interval, open ends included, holds the truth."""
    low, high = found.equal_low or 0.0, float("inf") if found.equal_high is None else found.equal_high
    return low <= TRUTH <= high


def covered(rounds: int, seeds: int, patients: int, chance: bool) -> float:
    rng = np.random.default_rng(11)
    return float(np.mean([holds(simulated(rng, seeds, patients, chance=chance)) for _ in range(rounds)]))


def test_the_planted_truth_is_what_the_simulation_says_it_is() -> None:
    rng = np.random.default_rng(0)
    one = simulated(rng, 5, 200, chance=True, noise=1e-4)
    assert one.equal == pytest.approx(TRUTH, rel=1e-2)
    assert TRUTH == LABELS / 2
    assert TRUTH not in AMOUNTS


def test_the_interval_covers_the_planted_saving_quick() -> None:
    assert covered(30, 5, 50, True) >= 0.83


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "patients", "chance"), [(5, 200, True), (10, 200, True), (5, 200, False), (5, 1, True), (10, 1, True)]
)
def test_the_interval_covers_the_planted_saving(seeds: int, patients: int, chance: bool) -> None:
    assert 0.93 <= covered(1500, seeds, patients, chance) <= 0.97
