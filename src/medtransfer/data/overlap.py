"""Leaks between splits: patients and identical images that several have; see `duplicates` for changed copies.

Arrays in, findings out; what a leak leads to is decided by `leaks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

Strings = NDArray[np.str_]

SPLITS = ("train", "val", "test")
"""in the order in which a leak is dropped: a row gives way to a clashing row of a later split"""

EXAMPLES = 20
"""pairs that a finding names"""


class Pair(TypedDict):
    """Two samples in different splits, or of different tasks."""

    a: str
    b: str
    splits: str
    correlation: NotRequired[float]


class Finding(TypedDict):
    """How many patients, images or pairs are in more than one split, and some of them."""

    count: int
    examples: list[Pair]


def _presence(keys: Strings, splits: Strings, names: Sequence[str]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Gives each row's key number, and which splits each key occurs in: (num_keys, num_splits)."""
    unique, number = np.unique(keys, return_inverse=True)
    present = np.zeros((len(unique), len(names)), dtype=bool)
    for column, split in enumerate(names):
        present[number[splits == split], column] = True
    return number, present


def split_names(splits: Strings) -> list[str]:
    """Lists the splits of a table (train, val and test, or folds); a row that was left out has none."""
    names = {str(name) for name in np.unique(splits) if name}
    return [name for name in SPLITS if name in names] + sorted(names - set(SPLITS))


def clashing(keys: Strings, splits: Strings) -> NDArray[np.bool_]:
    """Marks the rows whose key (a patient, an image's content) occurs in more than one split."""
    number, present = _presence(keys, splits, split_names(splits))
    clash: NDArray[np.bool_] = (present.sum(axis=1) > 1)[number]
    return clash


def giving_way(keys: Strings, splits: Strings) -> NDArray[np.bool_]:
    """Marks the rows that a drop takes out: train rows that clash with val or test, val rows that clash with test."""
    number, present = _presence(keys, splits, SPLITS)
    last = len(SPLITS) - 1 - np.argmax(present[:, ::-1], axis=1)
    own = np.array([SPLITS.index(split) if split else len(SPLITS) for split in splits], dtype=np.intp)
    drop: NDArray[np.bool_] = last[number] > own
    return drop


def shared(keys: Strings, splits: Strings, ids: Strings) -> Finding:
    """Counts the keys that occur in more than one split."""
    number, present = _presence(keys, splits, split_names(splits))
    clashes = np.flatnonzero(present.sum(axis=1) > 1)
    examples = []
    for key in clashes[:EXAMPLES]:
        rows = np.flatnonzero((number == key) & (splits != ""))
        other = rows[splits[rows] != splits[rows[0]]][0]
        examples.append(_pair(int(rows[0]), int(other), splits, ids))
    return Finding(count=len(clashes), examples=examples)


def _pair(a: int, b: int, splits: Strings, ids: Strings) -> Pair:
    return Pair(a=str(ids[a]), b=str(ids[b]), splits=f"{splits[a]}/{splits[b]}")
