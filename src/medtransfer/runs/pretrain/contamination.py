"""Images that a pre-training source shares with what a target is chosen and tested on, and what to leave out for it.

Re-released sets change ids, sizes and encodings: patients are matched by their images, and by identity only where both
tasks have the ids of one dataset.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.errors import UserError
from medtransfer.data import duplicates
from medtransfer.data.cache import Prepared
from medtransfer.data.overlap import EXAMPLES, Pair, Strings

log = logging.getLogger("medtransfer")

Bools = NDArray[np.bool_]

MOST = 0.5
"""share of the source's train images above which what is left is no longer that source"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Matches:
    """What of a source must not be trained on before a target is tested."""

    source: str
    """task, as is `target`"""
    target: str
    rows: Bools
    """of the source's samples, (num_samples,): every image of a matched patient"""
    patients: Strings
    """matched patients (studies, images: the source's unit), as in its samples"""
    by_content: int
    """patients of whom an image looks like one in the target's val or test"""
    by_identity: int
    """patients who are in the target's val or test; a patient may count in both"""
    examples: tuple[Pair, ...]
    """an image of the source and one of the target, the most alike first"""
    note: str
    """what could not be compared"""


def shared(source: Prepared, target: Prepared) -> Matches:
    """Finds the source's patients whose images, or who themselves, are in the target's val or test.

    Every image is compared with all, see `duplicates`; identical ones count too. Of folds every one is taken.

    Args:
        source: what is pre-trained on.
        target: what is fine-tuned and tested.
    """
    held = _held_out(target)
    names, units = _column(source, "id"), _column(source, "patient")
    same, pairs = _look_alikes(source, names, target, held)
    known = np.zeros(len(units), dtype=bool)
    if _one_dataset(source, target):
        known = np.isin(units, _column(target, "patient")[held])
        pairs += _same_patients(source, target, known & ~same, held)
    patients = np.unique(units[same | known])
    return Matches(
        source=source.manifest["task"],
        target=target.manifest["task"],
        rows=np.isin(units, patients),
        patients=patients,
        by_content=len(np.unique(units[same])),
        by_identity=len(np.unique(units[known])),
        examples=tuple(pairs[:EXAMPLES]),
        note="; ".join(_limits(source, target)),
    )


def drop(source: Prepared, targets: Sequence[Prepared]) -> Bools:
    """Marks the source's samples that pre-training leaves out for any of the targets, (num_samples,).

    Raises:
        UserError: most of the source's train images go for one target, as its own test list would, or all for several.
    """
    train, rows = _column(source, "split") == "train", np.zeros(len(source.samples), dtype=bool)
    total = int(train.sum())
    for target in targets:
        matches = shared(source, target)
        rows |= matches.rows
        taken, left = int((train & matches.rows).sum()), int((train & ~rows).sum())
        words = f"{len(matches.patients)} {_units(source)} with {taken} of {total} train images"
        note = f" ({matches.note})" if matches.note else ""
        log.info("pre-training on %s leaves out %s for %s%s", matches.source, words, matches.target, note)
        if taken > MOST * total or not left:
            raise UserError(_refusal(matches, words, left))
    return rows


def _refusal(matches: Matches, words: str, left: int) -> str:
    pairs = ", ".join(f"{pair['a']} and {pair['b']}" for pair in matches.examples[:3])
    return (
        f"{matches.source} is no source for {matches.target}: looked for its images in val and test of"
        f" {matches.target}, found {words} (e.g. {pairs}), which leaves {left} for pre-training; pre-train on another"
        f" dataset, or take {matches.target} out of benchmark.tasks"
    )


def _units(source: Prepared) -> str:
    return {"study": "studies"}.get(source.manifest["unit"], f"{source.manifest['unit']}s")


def _column(prepared: Prepared, name: str) -> Strings:
    return prepared.samples[name].to_numpy(dtype=np.str_)


def _held_out(target: Prepared) -> Bools:
    """Marks what a run is chosen or tested on: val and test, of any fold or drawn split."""
    columns = [name for name in target.samples if name == "split" or str(name).startswith("split.")]
    held: Bools = np.isin(target.samples[columns].to_numpy(dtype=np.str_), ("val", "test")).max(axis=1)
    return held


def _look_alikes(source: Prepared, names: Strings, target: Prepared, held: Bools) -> tuple[Bools, list[Pair]]:
    """Marks the source's images that look like one that is held out, and names the closest pairs."""
    thumbnails = [np.load(prepared.folder / "thumbnails.npy", mmap_mode="r") for prepared in (source, target)]
    thumbnails[1] = thumbnails[1][held]
    count, total = len(names), len(names) + int(held.sum())
    ids = np.concatenate([names, _column(target, "id")[held]])
    # What could not be decoded is black, and a row that was left out for another reason still shows a patient.
    left = np.flatnonzero(~np.isin(names, [skipped["id"] for skipped in source.manifest["skipped"]]))
    splits = f"{source.manifest['task']}/{target.manifest['task']}"
    first, second, likeness = duplicates.Looks(*thumbnails).alike(left, np.arange(count, total))
    same = np.zeros(count, dtype=bool)
    same[first] = True
    return same, duplicates.closest([], first, second, likeness, ids, splits)


def _one_dataset(source: Prepared, target: Prepared) -> bool:
    """Says whether equal hashes mean equal patients: a hash is salted with the dataset, and phantoms are nobody."""
    return all(source.manifest[key] == target.manifest[key] for key in ("dataset", "source"))


def _same_patients(source: Prepared, target: Prepared, rows: Bools, held: Bools) -> list[Pair]:
    """Names a pair of images for the first of the patients who are known by identity alone."""
    units, names = _column(source, "patient"), _column(source, "id")
    theirs = dict(zip(_column(target, "patient")[held], _column(target, "id")[held], strict=True))
    splits = f"{source.manifest['task']}/{target.manifest['task']}"
    return [
        Pair(a=str(names[row]), b=str(theirs[units[row]]), splits=splits) for row in np.flatnonzero(rows)[:EXAMPLES]
    ]


def _limits(source: Prepared, target: Prepared) -> list[str]:
    unit, notes = source.manifest["unit"], []
    if not _one_dataset(source, target):
        notes.append("by image alone: hashes of patients are salted with the dataset, so equal ones say nothing")
    if unit != "patient":
        notes.append(f"by {unit}, as the source's patients are not known: their other images may stay")
    return notes
