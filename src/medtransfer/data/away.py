"""Another task's test images, on which a task's networks are read: the labels that both have, and who is in both."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.errors import UserError, some
from medtransfer.data import duplicates, overlap, pixel_sizes
from medtransfer.data.cache import Prepared
from medtransfer.data.overlap import Pair, Strings
from medtransfer.data.tasks import Task

if TYPE_CHECKING:
    import pandas as pd

ONE_BY_ONE = ("binary", "multilabel")
"""kinds whose labels each have a probability of their own, so that some of them may be read"""


def shared_labels(home: Task, away: Task, said: Mapping[str, str]) -> dict[str, str]:
    """Pairs the labels that two tasks share: home's label -> the other task's, in home's order.

    Args:
        home: whose networks are read.
        away: on whose images.
        said: such pairs by the user; empty: those that both records call alike, of labels that both score.

    Raises:
        UserError: the kinds differ, a label is in neither record, or none is shared.
    """
    kinds = f"{home.name} is a {home.kind} task, {away.name} a {away.kind} one"
    if home.kind != away.kind and not {home.kind, away.kind} <= {*ONE_BY_ONE}:
        raise UserError(
            f"tasks.{home.name}.external: the networks of {home.name} cannot be read on {away.name}: {kinds}. Name a "
            f"task of its kind, such as one that a task.yaml describes on the same images"
        )
    for label, other in said.items():
        for name, task in ((label, home), (other, away)):
            if name not in task.labels:
                raise UserError(
                    f"tasks.{home.name}.external: looked for the label {name!r} of {task.name}, which has "
                    f"{', '.join(task.labels)}; `labels` are pairs of a label of {home.name} and one of {away.name}"
                )
    scored = {task.name: task.tested or task.labels for task in (home, away)}
    theirs = {away.findings.get(label, label): label for label in scored[away.name]}
    known = {one: theirs[name] for one in scored[home.name] if (name := home.findings.get(one, one)) in theirs}
    chosen = said or known
    found = {label: chosen[label] for label in home.labels if label in chosen}
    if not found:
        raise UserError(
            f"tasks.{home.name}.external: no label of {home.name} ({', '.join(scored[home.name])}) is one of "
            f"{away.name} ({', '.join(scored[away.name])}); if some mean the same, say so: `labels: {{<label of "
            f"{home.name}>: <label of {away.name}>}}`"
        )
    if home.kind == "multiclass" and (len(found) < len(home.labels) or len(found) < len(away.labels)):
        raise UserError(
            f"tasks.{home.name}.external: classes exclude each other, so that all of {', '.join(home.labels)} must be "
            f"those of {away.name} ({', '.join(away.labels)}); paired are {', '.join(found)}"
        )
    return found


def seen_as(home: Task, away: Task, prepared: Prepared, labels: Mapping[str, str]) -> tuple[Task, Prepared]:
    """Gives the other task's test images as those of a task that has the shared labels, by home's names and metric.

    Raises:
        UserError: the metric is of distances in mm, which the other images have not.
    """
    task = replace(
        home, labels=tuple(labels), tested=(), uncertain=home.kind in ONE_BY_ONE, extras=(), measures=(), counts={},
        positives={}, unit=away.unit, spacing=away.spacing, spacing_side=away.spacing_side,
    )  # fmt: skip
    places = [away.labels.index(label) for label in labels.values()]

    def read() -> pd.DataFrame:
        table = prepared.samples
        rest = table[[name for name in table.columns if name not in away.labels]]
        own = table[list(labels.values())].set_axis(list(labels), axis=1)
        return rest.join(own)

    seen = replace(prepared, read_samples=read)
    if prepared.masks is not None:
        rows, masks = prepared.rows("test"), np.zeros(prepared.masks.shape, dtype=np.uint8)
        bits = [prepared.masks[rows] >> place & 1 for place in places]
        masks[rows] = sum((plane << number for number, plane in enumerate(bits)), np.zeros_like(bits[0]))
        seen = replace(seen, masks=masks)
        pixel_sizes.ruler(task, seen)
    return task, seen


def check(home: Prepared, away: Prepared, related: bool) -> None:
    """Refuses a test on images or patients that home is trained or chosen on, in any fold or drawn split.

    Args:
        home: the task's cache.
        away: the other task's.
        related: their images may be of one source, so that all that look alike count, and not identical ones alone.

    Raises:
        UserError: with some of them; or the other task has no test images that are the same for all.
    """
    names = [str(prepared.manifest["task"]) for prepared in (home, away)]
    rows = _learnt(home), away.rows("test")
    if not len(rows[1]) or away.manifest["folds"]:
        raise UserError(
            f"tasks.{names[0]}.external: {names[1]} has no test images of its own ({away.manifest['folds']} folds): "
            "name a task whose `split` has a test"
        )
    both = tuple(zip((home, away), rows, strict=True))
    splits = np.repeat(["home", "away"], [len(part) for part in rows])
    ids = np.concatenate([_column(prepared, "id")[part] for prepared, part in both])
    found: dict[str, Sequence[Pair]] = {}
    if all(home.manifest[key] == away.manifest[key] for key in ("dataset", "source")):  # hashes hold the dataset
        patients = np.concatenate([_column(prepared, "patient")[part] for prepared, part in both])
        found["patients"] = overlap.shared(patients, splits, ids)["examples"]
    thumbnails = [np.load(prepared.folder / "thumbnails.npy", mmap_mode="r") for prepared, _ in both]
    if related:
        everyone = np.concatenate([_column(prepared, "id") for prepared in (home, away)])
        first, second, likeness = duplicates.Looks(*thumbnails).alike(rows[0], rows[1] + len(thumbnails[0]))
        found["images that look alike"] = duplicates.closest([], first, second, likeness, everyone, "/".join(names))
    else:
        every = (pictures[row] for pictures, places in zip(thumbnails, rows, strict=True) for row in places)
        content = np.array([hashlib.sha256(picture.tobytes()).hexdigest() for picture in every], dtype=np.str_)
        found["identical images"] = overlap.shared(content, splits, ids)["examples"]
    for what, pairs in found.items():
        if pairs:
            shown = some([f"{pair['a']} and {pair['b']}" for pair in pairs])
            raise UserError(
                f"tasks.{names[0]}.external: {what} are in train or val of {names[0]} and in the test of {names[1]} "
                f"{shown}: that would be no test elsewhere. Take {names[1]} out, or those images out of one of them; "
                f"`medtransfer audit --task {names[0]} --against {names[1]}` lists what looks alike"
            )


def _learnt(prepared: Prepared) -> NDArray[np.intp]:
    """Lists the rows that are trained or chosen on, of any fold or drawn split."""
    columns = [name for name in prepared.samples if name == "split" or str(name).startswith("split.")]
    held = np.isin(prepared.samples[columns].to_numpy(dtype=np.str_), ("train", "val")).max(axis=1)
    return np.flatnonzero(held)


def _column(prepared: Prepared, name: str) -> Strings:
    return prepared.samples[name].to_numpy(dtype=np.str_)
