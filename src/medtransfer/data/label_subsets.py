"""Which images of train have labels where a fraction of them is asked for: nested, by unit, stratified."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medtransfer.core import rng
from medtransfer.core.errors import UserError
from medtransfer.data.cache import Prepared
from medtransfer.data.tasks import Task
from medtransfer.params import Fraction

if TYPE_CHECKING:
    import pandas as pd


def subset(prepared: Prepared, task: Task, fraction: Fraction, seed: int, of: str) -> Prepared:
    """Gives the cache with a part of train, and of val where `of` is `train_and_val`; the other rows have no split.

    The units of a split (patients, studies) are put into one order by a named stream of the seed, and a fraction takes
    its beginning, so a smaller one is part of a larger one, for all initializations. The order is stratified by the
    rarest label that a unit has: every beginning holds each label about as often as the whole (systematic sampling
    within strata, as in Cochran, Sampling Techniques, 1977, ch. 8). A unit has all its images or none, so the share is
    that of images up to one unit's, and never less. Shots take single images, of each class the first ones in that
    order; without classes the first ones at all.

    Args:
        prepared: the cache, of one fold or drawn split.
        task: whose labels these are.
        fraction: of train; test always stays whole.
        seed: of the run.
        of: `benchmark.fractions_of`.

    Raises:
        UserError: there are more shots than images of a class, or a label without both classes is left in train.
    """
    if fraction.whole:
        return prepared
    samples = prepared.samples
    splits = samples["split"].to_numpy(object).copy()
    kept = {"train": _chosen(samples, task, fraction, seed, "train", strict=True)}
    if of == "train_and_val":
        kept["val"] = _chosen(samples, task, fraction, seed, "val", strict=False)
    for split, rows in kept.items():
        taken = np.isin(np.arange(len(splits)), rows)
        splits[(splits == split) & ~taken] = ""
    found = replace(prepared, read_samples=lambda: samples.assign(split=splits))
    _refuse_one_sided(found, task, fraction, _one_sided(samples[samples["split"] == "train"], task))
    return found


def _chosen(
    samples: pd.DataFrame, task: Task, fraction: Fraction, seed: int, split: str, strict: bool
) -> NDArray[np.int64]:
    rows = np.flatnonzero(samples["split"].to_numpy() == split).astype(np.int64)
    order = _order(samples.iloc[rows], task, seed, split)
    if not fraction.shots:
        return rows[order[: _whole_units(samples["patient"].to_numpy()[rows[order]], fraction.share)]]
    return rows[_shots(samples.iloc[rows], task, order, fraction.shots, strict)]


def _order(table: pd.DataFrame, task: Task, seed: int, split: str) -> NDArray[np.int64]:
    """Orders the places of a split's rows, a unit's together, so that every beginning is stratified."""
    units, index = np.unique(table["patient"].to_numpy(), return_inverse=True)
    labels = table[list(task.labels)].to_numpy() == 1
    rarity = labels.sum(0)
    strata = np.full(len(units), len(task.labels))
    for label in np.argsort(-rarity, kind="stable"):  # the rarest one last, so that it is the one that stays
        strata[np.unique(index[labels[:, label]])] = label
    draw = np.random.default_rng(rng.seed_of(seed, "fraction", int(split == "val")))
    luck = draw.random(len(units))
    places = np.empty(len(units))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        shuffled = members[np.argsort(luck[members], kind="stable")]
        places[shuffled] = (np.arange(len(members)) + draw.random()) / len(members)
    ties = np.lexsort((luck, places))
    rank = np.empty(len(units), dtype=np.int64)
    rank[ties] = np.arange(len(units))
    return np.argsort(rank[index], kind="stable").astype(np.int64)


def _whole_units(units: NDArray[np.object_], share: float) -> int:
    """Counts the images that whole units of an order have until they are a share of all."""
    wanted = max(1, int(np.ceil(share * len(units) - 1e-9)))
    while wanted < len(units) and units[wanted] == units[wanted - 1]:
        wanted += 1
    return wanted


def _shots(table: pd.DataFrame, task: Task, order: NDArray[np.int64], shots: int, strict: bool) -> NDArray[np.int64]:
    """Takes so many images of each class in an order; a binary or multilabel task has one class more: no label."""
    if task.segmentation:
        classes = {"train": np.ones(len(table), dtype=bool)}
    else:
        labels = table[list(task.labels)].to_numpy() == 1
        classes = {name: labels[:, column] for column, name in enumerate(task.labels)}
        if task.kind != "multiclass":
            classes["no label"] = ~labels.any(1)
    taken: list[NDArray[np.int64]] = []
    for name, members in classes.items():
        found = order[members[order]][:shots]
        if strict and len(found) < shots:
            what = "images in train" if task.segmentation else f"images of `{name}` in train"
            raise UserError(
                f"{shots}-shot asks for {shots} images of each class of task {task.name}, which has {len(found)} "
                f"{what}; take {len(found)}-shot or fewer"
            )
        taken.append(found)
    return np.unique(np.concatenate(taken))


def _one_sided(train: pd.DataFrame, task: Task) -> dict[str, list[str]]:
    """Lists the labels that are never, or always, there."""
    labels = train[list(task.labels)].to_numpy() == 1
    without = [name for column, name in enumerate(task.labels) if not labels[:, column].any()]
    always = [name for column, name in enumerate(task.labels) if labels[:, column].all()]
    return {"without": without, "always": always}


def _refuse_one_sided(prepared: Prepared, task: Task, fraction: Fraction, before: dict[str, list[str]]) -> None:
    """Refuses a part of train in which a label is never, or always, there: nothing can be learnt of it.

    A label of which the whole of train says nothing either is not the fraction's fault: `prepare` names it.
    """
    if task.segmentation:
        return
    train = prepared.samples[prepared.samples["split"] == "train"]
    now = _one_sided(train, task)
    without, always = ([name for name in now[key] if name not in before[key]] for key in ("without", "always"))
    if without or always:
        words = [f"no positive of {', '.join(without)}"] if without else []
        words += [f"nothing but positives of {', '.join(always)}"] if always else []
        raise UserError(
            f"fraction {fraction} of task {task.name} leaves {' and '.join(words)} among its {len(train)} images of "
            "train; take a larger fraction, or shots, which take images of each class"
        )
