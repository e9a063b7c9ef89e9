"""Our own splits: seeded, patient-disjoint, stratified by labels. Arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtransfer import streams
from medtransfer.audit import Strings


def draw_split(
    patients: Sequence[str] | Strings, labels: NDArray[Any], fractions: Mapping[str, float], seed: int
) -> Strings:
    """Draws a patient-disjoint split, stratified by labels; what no fraction takes is train.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011) over patients, of whom each has the
    labels of any of its images: the rarest label's patients go first, each to the split that lacks it most. A
    patient's place depends on the seed and its name, not on the order of rows.

    Args:
        patients: one per image, (n,).
        labels: 0 or 1, (n, num_labels); no columns for none.
        fractions: split -> share of the patients, at least one patient each.
        seed: `data.split_seed`.
    """
    names, number = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)
    positive = np.zeros((len(names), labels.shape[1]), dtype=bool)
    np.logical_or.at(positive, number, labels > 0)
    chosen = _stratify(positive, _room(fractions, len(names)), _order(names, seed))
    drawn: Strings = np.array(["train", *fractions])[chosen][number]
    return drawn


def _order(names: Strings, seed: int) -> NDArray[np.intp]:
    keys = streams.sample_keys(names.tolist())
    return np.argsort(streams.uniforms(streams.seed_of(seed, "split"), keys, 1)[:, 0], kind="stable")


def _room(fractions: Mapping[str, float], total: int) -> NDArray[np.int64]:
    """Gives the number of patients of train and of each drawn split."""
    room, left = [], total
    for share in fractions.values():
        room.append(min(left, max(1, round(share * total))))
        left -= room[-1]
    return np.array([left, *room], dtype=np.int64)


def _stratify(positive: NDArray[np.bool_], room: NDArray[np.int64], order: NDArray[np.intp]) -> NDArray[np.int64]:
    """Chooses a split for every patient: `positive` is (num_patients, num_labels), `room` (num_splits,)."""
    chosen = np.full(len(positive), -1, dtype=np.int64)
    wanted = np.outer(room / max(1, len(positive)), positive.sum(axis=0))
    while (left := positive[chosen < 0].sum(axis=0)).any():
        label = int(np.argmin(np.where(left > 0, left, len(positive) + 1)))
        for patient in order[(chosen[order] < 0) & positive[order, label]]:
            split = max(range(len(room)), key=lambda s: (room[s] > 0, wanted[s, label], room[s], -s))
            chosen[patient] = split
            room[split] -= 1
            wanted[split, positive[patient]] -= 1
    chosen[order[chosen[order] < 0]] = np.repeat(np.arange(len(room)), room)
    return chosen
