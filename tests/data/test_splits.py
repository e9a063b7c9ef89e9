from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from medtransfer.data.splits import draw_split

Rows = tuple[list[str], NDArray[np.int8]]
UNHURRIED = settings(deadline=None)  # a busy machine is no failure
FRACTIONS = st.sampled_from([{"val": 0.1}, {"val": 0.5}, {"val": 0.1, "test": 0.2}, {"val": 0.02, "test": 0.02}])
SEEDS = st.integers(0, 2**31)


@st.composite
def tables(draw: st.DrawFn) -> Rows:
    """Images of few patients, with 0, 1 and uncertain labels."""
    patients = draw(st.lists(st.integers(0, 25).map("p{}".format), min_size=1, max_size=60))
    labels = draw(st.integers(0, 4))
    values = draw(st.lists(st.sampled_from([0, 0, 1, -1]), min_size=len(patients) * labels))
    return patients, np.resize(np.array([*values, 0], dtype=np.int8), (len(patients), labels))


def units(patients: list[str], splits: NDArray[Any], split: str) -> set[str]:
    return {patient for patient, place in zip(patients, splits, strict=True) if place == split}


@UNHURRIED
@given(tables(), FRACTIONS, SEEDS)
def test_no_unit_is_in_two_splits(rows: Rows, fractions: dict[str, float], seed: int) -> None:
    patients, labels = rows
    splits = draw_split(patients, labels, fractions, seed)
    assert len(splits) == len(patients)
    assert len(set(zip(patients, splits.tolist(), strict=True))) == len(set(patients))
    assert set(splits.tolist()) <= {"train", *fractions}


@UNHURRIED
@given(tables(), FRACTIONS, SEEDS)
def test_a_draw_is_the_same_again(rows: Rows, fractions: dict[str, float], seed: int) -> None:
    first, again = (draw_split(*rows, fractions, seed).tolist() for _ in range(2))
    assert first == again


@UNHURRIED
@given(tables(), FRACTIONS, SEEDS, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows: Rows, fractions: dict[str, float], seed: int, random: Any) -> None:
    patients, labels = rows
    order = list(range(len(patients)))
    random.shuffle(order)
    splits = draw_split(patients, labels, fractions, seed)
    shuffled = draw_split([patients[row] for row in order], labels[order], fractions, seed)
    assert splits[order].tolist() == shuffled.tolist()


@UNHURRIED
@given(tables(), FRACTIONS, SEEDS)
def test_shares_are_kept_within_one_unit_and_no_split_is_empty(
    rows: Rows, fractions: dict[str, float], seed: int
) -> None:
    patients, labels = rows
    total = len(set(patients))
    assume(total > 2 * len(fractions))
    splits = draw_split(patients, labels, fractions, seed)
    for split, share in fractions.items():
        drawn = len(units(patients, splits, split))
        assert drawn >= 1
        assert abs(drawn - share * total) <= 1
    assert units(patients, splits, "train")


@UNHURRIED
@given(tables(), SEEDS)
def test_one_label_is_shared_out_in_proportion_within_one_unit(rows: Rows, seed: int) -> None:
    patients, labels = rows
    one = np.resize(labels, (len(patients), 1))
    splits = draw_split(patients, one, {"val": 0.3}, seed)
    positive = {patient for patient, value in zip(patients, one[:, 0], strict=True) if value > 0}
    room = len(units(patients, splits, "val")) / len(set(patients))
    assert abs(len(positive & units(patients, splits, "val")) - room * len(positive)) <= 1


@UNHURRIED
@given(tables(), FRACTIONS, SEEDS)
def test_uncertain_counts_as_negative(rows: Rows, fractions: dict[str, float], seed: int) -> None:
    patients, labels = rows
    certain = draw_split(patients, np.maximum(labels, 0), fractions, seed)
    assert draw_split(patients, labels, fractions, seed).tolist() == certain.tolist()
