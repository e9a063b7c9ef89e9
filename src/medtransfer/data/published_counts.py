"""What was published about a task against what its files hold: counts in, words out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medtransfer.data.cache import Facts
from medtransfer.data.overlap import SPLITS, Strings
from medtransfer.data.tasks import Task

NAMED = 6
"""differences from the published counts that a message names"""


def published(task: Task) -> Facts:
    """Lays out the counts of a task's record."""
    return Facts(counts=dict(task.counts), positives={name: list(row) for name, row in task.positives.items()})


def found(task: Task, pools: Strings, labels: NDArray[np.int8]) -> Facts:
    """Counts as the record does: its `trainval` takes in a given train and val, its `all` every split."""
    takes = {"trainval": ("train", "val", "trainval"), "all": (*SPLITS, "trainval", "all")}
    members = {name: np.isin(pools, takes.get(name, (name,))) for name in task.counts}
    covered = np.any(list(members.values()), axis=0) if members else np.zeros(len(pools), dtype=bool)
    members |= {str(name): pools == name for name in np.unique(pools[~covered])}
    return Facts(
        counts={name: int(rows.sum()) for name, rows in members.items()},
        positives={name: _positives(row, labels[members[name]]) for name, row in task.positives.items()},
    )


def _positives(wanted: tuple[int | None, ...], labels: NDArray[np.int8]) -> list[int | None]:
    """Counts the positives of the labels whose number is published."""
    totals = (labels == 1).sum(axis=0).tolist()
    return [None if number is None else total for number, total in zip(wanted, totals, strict=True)]


def differences(task: Task, expected: Facts, counted: Facts) -> str:
    """Spells out the first counts that differ from the published ones, and how many more do; empty if none.

    A task of one's own without counts has nothing to differ from.
    """
    if not task.counts:
        return ""
    wanted, ours = _numbers(task, expected), _numbers(task, counted)
    words = [
        f"{name}: published {wanted.get((name, unit), 0)}{unit}, found {ours.get((name, unit), 0)}"
        for name, unit in wanted | ours
        if wanted.get((name, unit)) != ours.get((name, unit))
    ]
    more = [f"and {len(words) - NAMED} more"] if len(words) > NAMED else []
    return "; ".join(words[:NAMED] + more)


def _numbers(task: Task, facts: Facts) -> dict[tuple[str, str], int]:
    """Lists facts one by one: (what is counted, its unit) -> how many."""
    numbers = {(name, " images"): count for name, count in facts["counts"].items()}
    for name, row in facts["positives"].items():
        pairs = zip(task.labels, row, strict=True)
        numbers |= {(f"{name} {label} positives", ""): n for label, n in pairs if n is not None}
    return numbers
