from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
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


# By hand


def cohort(seed: int = 0, count: int = 400) -> tuple[list[str], np.ndarray[Any, np.dtype[np.int8]]]:
    rng = np.random.default_rng(seed)
    patients = [f"p{number}" for number in rng.integers(0, count // 2, count)]
    return patients, (rng.random((count, 4)) < [0.4, 0.2, 0.08, 0.03]).astype(np.int8)


def test_draw_keeps_patients_together_and_labels_in_proportion() -> None:
    patients, labels = cohort()
    splits = draw_split(patients, labels, {"val": 0.1, "test": 0.2}, seed=0)
    table = pd.DataFrame({"patient": patients, "split": splits})
    assert table.groupby("patient")["split"].nunique().max() == 1
    people = table.drop_duplicates().groupby("split").size()
    total = people.sum()
    assert people["val"] == round(0.1 * total)
    assert people["test"] == round(0.2 * total)
    by_patient = pd.DataFrame(labels).groupby(patients).max()
    split_of = table.drop_duplicates().set_index("patient")["split"].loc[by_patient.index]
    for label in range(4):
        positives = by_patient[label].groupby(split_of.to_numpy()).sum()
        for split, share in (("val", 0.1), ("test", 0.2)):
            assert abs(positives[split] - share * positives.sum()) <= 1.5


def test_draw_ignores_row_order_and_follows_the_seed() -> None:
    patients, labels = cohort()
    order = np.random.default_rng(1).permutation(len(patients))
    splits = draw_split(patients, labels, {"val": 0.2}, seed=3)
    shuffled = draw_split(np.array(patients)[order], labels[order], {"val": 0.2}, seed=3)
    np.testing.assert_array_equal(splits[order], shuffled)
    assert (splits != draw_split(patients, labels, {"val": 0.2}, seed=4)).any()


def test_draw_without_labels_gives_each_split_a_patient() -> None:
    splits = draw_split(["a", "a", "b", "c"], np.zeros((4, 0), dtype=np.int8), {"val": 0.1, "test": 0.1}, seed=0)
    assert set(splits) == {"train", "val", "test"}
    assert splits[0] == splits[1]


def test_draw_is_what_it_was() -> None:
    patients = [f"{number}" for number in range(12)]
    labels = np.array([[number % 2] for number in range(12)], dtype=np.int8)
    splits = draw_split(patients, labels, {"val": 0.25}, seed=0)
    assert np.flatnonzero(splits == "val").tolist() == [0, 2, 7]
