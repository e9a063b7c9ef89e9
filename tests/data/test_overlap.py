from __future__ import annotations

import numpy as np

from medtransfer.data import overlap


def test_clashing_and_giving_way_by_hand() -> None:
    keys = np.array(["a", "a", "b", "b", "c", "c", "d", "d", "e"])
    splits = np.array(["train", "test", "train", "val", "val", "test", "test", "test", "train"])
    assert overlap.clashing(keys, splits).tolist() == [True] * 6 + [False] * 3
    assert overlap.giving_way(keys, splits).tolist() == [True, False, True, False, True, False, False, False, False]


def test_shared_counts_keys_and_names_a_pair_of_each() -> None:
    keys = np.array(["a", "a", "a", "b", "b"])
    splits = np.array(["train", "train", "test", "val", "val"])
    finding = overlap.shared(keys, splits, np.array(list("vwxyz")))
    assert finding == {"count": 1, "examples": [{"a": "v", "b": "x", "splits": "train/test"}]}


def test_examples_are_limited() -> None:
    keys = np.array([f"p{n}" for n in range(50)] * 2)
    splits = np.array(["train"] * 50 + ["test"] * 50)
    finding = overlap.shared(keys, splits, keys)
    assert finding["count"] == 50
    assert len(finding["examples"]) == overlap.EXAMPLES


def test_a_row_without_a_split_is_in_no_finding() -> None:
    splits = np.array(["train", "", "test", "val"])
    keys = np.array(["a", "a", "b", "b"])
    ids = np.array(["0", "1", "2", "3"])
    assert overlap.shared(keys, splits, ids)["count"] == 1
    assert overlap.clashing(keys, splits).tolist() == [False, False, True, True]
    assert overlap.giving_way(keys, splits).tolist() == [False, False, False, True]
