"""Which split every image is in: given ones are kept, others drawn: seeded, patient-disjoint, stratified by labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtransfer.core import rng
from medtransfer.core.errors import UserError
from medtransfer.data.overlap import SPLITS, Strings
from medtransfer.data.tasks import Task


@dataclass
class Assignment:
    """The split of every image of a task, and of every fold where there are folds."""

    task: Task
    seed: int
    pools: Strings
    """what the files say: a split, or `trainval` or `all`, which are divided"""
    splits: Strings
    """train, val or test; empty for an image that was left out; with folds test where it is locked, else train"""
    folds: Strings
    """(n, num_folds): the same in every fold, or in every drawn split; no columns without either"""
    numbers: tuple[int, ...] = ()
    """of the drawn splits, which `folds` then holds; `splits` is what `seed` draws"""

    @property
    def columns(self) -> list[Strings]:
        """Lists the splits that runs use."""
        return list(self.folds.T) if self.task.folds else [self.splits, *self.folds.T]

    @property
    def names(self) -> tuple[int, ...]:
        """Names the columns of `folds`."""
        return self.numbers or tuple(range(self.folds.shape[1]))

    def one(self, number: int | None = None) -> Assignment:
        """Gives what it would be with one split alone: what a number draws; None: what `seed` draws."""
        splits = self.splits if number is None else self.folds[:, self.numbers.index(number)]
        return Assignment(self.task, self.seed if number is None else number, self.pools, splits, self.folds[:, :0])

    @property
    def locked(self) -> bool:
        """Says whether there are folds and one test for all of them."""
        return bool(self.task.folds) and bool((self.splits == "test").any())

    @property
    def tested(self) -> NDArray[np.bool_]:
        """Marks the images that are test in any run."""
        tested: NDArray[np.bool_] = (self.splits == "test") | (self.folds == "test").any(axis=1)
        return tested

    def parts(self) -> list[Strings]:
        """Gives what must not share an image: the splits, or the folds of each repeat and a locked test."""
        if not self.task.folds:
            return self.columns
        parts, count = [], self.task.folds.count
        for start in range(0, self.folds.shape[1], count):
            names = np.where(self.splits == "test", "test", "").astype("<U8")
            for fold in range(count):
                held = self.folds[:, start + fold] == ("val" if self.locked else "test")
                names[held & (names == "")] = f"fold {fold}"
            parts.append(names)
        return parts

    def apart(self) -> Strings:
        """Names each image's parts, so that two differ where any drawn split puts them apart; of folds one repeat's."""
        if not self.numbers:
            return self.parts()[0]
        names = np.array([",".join(row) for row in zip(*(column.tolist() for column in self.columns), strict=True)])
        return np.where(self.splits == "", "", names)

    def leave_out(self, rows: NDArray[np.bool_]) -> None:
        """Takes images out of every split.

        Raises:
            UserError: a split is empty then.
        """
        self.splits[rows], self.folds[rows] = "", ""
        self.check()

    def check(self) -> None:
        """Refuses an empty split.

        Raises:
            UserError: train, val or test has no image, in some fold.
        """
        for splits in self.columns:
            counts = {split: int((splits == split).sum()) for split in SPLITS}
            if not all(counts.values()):
                raise UserError(
                    f"task {self.task.name}: each of train, val and test must have an image, got {counts}; add images"
                    + (" or correct the split column" if self.task.layout else "")
                )

    def lines(self, ids: Strings) -> list[str]:
        """Writes every image's splits as a line, for digests."""
        rows = zip(ids.tolist(), self.splits.tolist(), self.folds.tolist(), strict=True)
        return [" ".join([name, split, *folds]) for name, split, folds in rows]

    def recipe(self) -> str:
        """Words how the splits came about."""
        given = [str(pool) for pool in np.unique(self.pools) if pool in SPLITS]
        drawn = [str(pool) for pool in np.unique(self.pools) if pool not in SPLITS]
        words = (
            [f"{', '.join(given)}: {'official' if self.task.split_source == 'official' else 'given'}"] if given else []
        )
        shares = ", ".join(f"{name} {share}" for name, share in self.task.draw.items())
        how = f"by {self.task.unit}, stratified by label, seed {self.seed}"
        if self.task.folds:
            folds = self.task.folds
            use = "each is val once" if self.locked else f"each is test once, {shares} of the rest"
            return "; ".join([*words, f"{folds.count} folds, {folds.repeats} times, drawn {how}, {use}"])
        return "; ".join([*words, *(f"{pool}: drawn {how}, shares {shares}" for pool in drawn)])


def redraws(task: Task) -> bool:
    """Says whether `benchmark.splits` draws train and val anew, and test where we draw it."""
    return task.folds is None and bool(task.draw)


def drawn_numbers(task: Task, numbers: tuple[int, ...]) -> tuple[int, ...]:
    """Lists the drawn splits that a task has of `benchmark.splits`; none where its files or its folds say all."""
    return numbers if redraws(task) else ()


def words(task: Task, numbers: Sequence[int]) -> str:
    """Says what `benchmark.splits` makes of a task."""
    if task.folds:
        return "cross-validated, its folds stay the ones of data.split_seed"
    if not task.draw:
        return "one split, its files say which image is train, val and test"
    return f"{len(numbers)} drawn splits" + ("" if "test" in task.draw else " of train and val, one given test")


def assign(
    task: Task, units: Strings, pools: Strings, labels: NDArray[Any], seed: int, numbers: Sequence[int] = ()
) -> Assignment:
    """Keeps given splits and divides `trainval` and `all`, or all but a locked test into folds.

    Args:
        task: its `draw` and `folds` say how.
        units: what stays together, one per image, (n,).
        pools: what the files say of each image.
        labels: (n, num_labels), above 0 for a positive.
        seed: `data.split_seed`.
        numbers: `benchmark.splits`: each draws one more split, as the seed of that number would.

    Raises:
        UserError: a split has no image, or there are fewer units than folds.
    """
    if task.folds is None:
        splits, *more = (_divide(task, units, pools, labels, number) for number in (seed, *numbers))
        folds = np.stack(more, axis=1) if more else np.empty((len(pools), 0), dtype="<U8")
    else:
        splits, folds = _fold(task, units, pools, labels, seed)
    assignment = Assignment(task, seed, pools, splits, folds, tuple(numbers))
    assignment.check()
    return assignment


def _divide(task: Task, units: Strings, pools: Strings, labels: NDArray[Any], seed: int) -> Strings:
    splits = pools.astype("<U8")
    for pool, names in (("trainval", ("val",)), ("all", ("val", "test"))):
        rows = pools == pool
        if rows.any():
            fractions = {name: task.draw[name] for name in names}
            splits[rows] = draw_split(units[rows], labels[rows], fractions, seed)
    return splits


def _fold(task: Task, units: Strings, pools: Strings, labels: NDArray[Any], seed: int) -> tuple[Strings, Strings]:
    assert task.folds is not None
    locked = pools == "test"
    free, count = np.flatnonzero(~locked), task.folds.count
    found = len(np.unique(units[free]))
    if found < count:
        raise UserError(f"task {task.name}: {count} folds need as many {task.unit}s, found {found}")
    drawn = draw_folds(units[free], labels[free], count, task.folds.repeats, seed)
    columns = []
    for number in task.folds.numbers:
        held = np.zeros(len(pools), dtype=bool)
        held[free] = drawn[:, number // count] == number % count
        if locked.any():
            columns.append(np.where(locked, "test", np.where(held, "val", "train")))
        else:  # the fold is the test, and val comes out of the rest
            rest = np.where(held, "test", "trainval")
            columns.append(_divide(task, units, rest, labels, rng.seed_of(seed, "fold", number)))
    return np.where(locked, "test", "train").astype("<U8"), np.stack(columns, axis=1).astype("<U8")


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
    chosen = _stratify(positive, _room(fractions, len(names)), _order(names, rng.seed_of(seed, "split")))
    drawn: Strings = np.array(["train", *fractions])[chosen][number]
    return drawn


def draw_folds(
    patients: Sequence[str] | Strings, labels: NDArray[Any], folds: int, repeats: int, seed: int
) -> NDArray[np.int64]:
    """Cuts the patients into equal folds, stratified like `draw_split`, several times over.

    Returns:
        the fold of every image in every repeat: (n, repeats), 0 to folds - 1.
    """
    names, number = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)
    positive = np.zeros((len(names), labels.shape[1]), dtype=bool)
    np.logical_or.at(positive, number, labels > 0)
    room = np.array([len(range(fold, len(names), folds)) for fold in range(folds)], dtype=np.int64)
    orders = [_order(names, rng.seed_of(seed, "folds", repeat)) for repeat in range(repeats)]
    drawn = [_stratify(positive, room.copy(), order) for order in orders]
    return np.stack(drawn, axis=1)[number]


def _order(names: Strings, stream: int) -> NDArray[np.intp]:
    keys = rng.sample_keys(names.tolist())
    return np.argsort(rng.uniforms(stream, keys, 1)[:, 0], kind="stable")


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
