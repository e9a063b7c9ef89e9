"""An own task's images in one `.npz` file, as MedMNIST publishes its sets (Yang et al., Scientific Data 2023)."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.errors import UserError
from medtransfer.data.readers.reading import Mask, Picture, Sample, Split, inside, marking_of
from medtransfer.data.tasks import Task

SPLITS: tuple[Split, ...] = ("train", "val", "test")


def read(task: Task, root: Path) -> Iterator[Sample]:
    """Yields the rows of `train_images`, `val_images` and `test_images`, with `*_labels` or `*_masks`.

    Labels are (n, 1) class numbers for binary and multiclass tasks, (n, labels) of 0 and 1 for multilabel ones; masks
    are (n, height, width), 0 or 1 for one label, else the label's number from 1 on or what `values` says. Rows without
    a split of their own may all stand in `images` and `labels`.

    Raises:
        UserError: an array is missing or its shape or values are wrong.
    """
    assert task.layout is not None
    path = inside(root, task.layout, task.layout.arrays)
    if not path.is_file():
        found = ", ".join(sorted(p.name for p in root.glob("*.npz"))) or "no .npz"
        raise UserError(f"looked for the arrays {path}, found {found} in that folder; correct `arrays` in task.yaml")
    try:
        with np.load(path, allow_pickle=False) as content:
            names = set(content.files)
            groups = [(split, f"{split}_") for split in SPLITS if f"{split}_images" in names]
            groups = groups or ([("all", "")] if "images" in names else [])
            if not groups:
                raise UserError(f"{path} must hold train_images, val_images and test_images, holds {sorted(names)}")
            kind = "masks" if task.segmentation else "labels"
            absent = [f"{prefix}{kind}" for _, prefix in groups if f"{prefix}{kind}" not in names]
            if absent:
                raise UserError(f"{path} has no array {absent[0]}; it holds {', '.join(sorted(names))}")
            targets = {prefix: None if task.segmentation else content[f"{prefix}labels"] for _, prefix in groups}
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as an .npz file of arrays: {error}; get it again") from error
    for split, prefix in groups:
        count, labels = _count(path, f"{prefix}images"), targets[prefix]
        rows = None if labels is None else _labels(task, path, f"{prefix}labels", labels, count)
        yield from (_sample(task, path, _pool(task, split), prefix, row, rows) for row in range(count))


def _pool(task: Task, split: Split) -> Split:
    return "trainval" if split in ("train", "val") and (task.draw or task.folds) else split


def _count(path: Path, name: str) -> int:
    """Reads an array's length from its header, without its pixels."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, _ = read_header(stream)
    return int(shape[0]) if shape else 0


def _labels(task: Task, path: Path, name: str, values: NDArray[np.generic], count: int) -> NDArray[np.int64]:
    """Checks an array of labels; returns 0 or 1 per row and label."""
    if values.dtype.kind not in "iub" or len(values) != count:
        raise UserError(f"{path}: {name} must be {count} rows of whole numbers, is {values.shape} {values.dtype}")
    flat = values.reshape(count, -1).astype(np.int64)
    width = len(task.labels) if task.kind == "multilabel" else 1
    top = len(task.labels) - 1 if task.kind == "multiclass" else 1
    if flat.shape[1] != width:
        raise UserError(f"{path}: {name} has {flat.shape[1]} columns, the {task.kind} task {width}; correct `labels`")
    outside = np.flatnonzero(((flat < 0) | (flat > top)).any(axis=1))
    if len(outside):
        row = int(outside[0])
        raise UserError(f"{path}: {name} must hold 0 to {top}, row {row} holds {flat[row].tolist()}")
    return np.eye(top + 1, dtype=np.int64)[flat[:, 0]] if task.kind == "multiclass" else flat


def _sample(task: Task, path: Path, split: Split, prefix: str, row: int, labels: NDArray[np.int64] | None) -> Sample:
    name = f"{prefix}{row}"
    return Sample(
        id=name,
        patient=name,
        split=split,
        image=Picture(path, frame=row, member=f"{prefix}images"),
        labels=() if labels is None else tuple(labels[row].tolist()),
        masks=tuple(_masks(task, path, prefix, row)) if task.segmentation else (),
    )


def _masks(task: Task, path: Path, prefix: str, row: int) -> Iterator[tuple[Mask, ...]]:
    assert task.layout is not None
    for number, label in enumerate(task.labels, 1):
        marking = marking_of(task.layout, label)
        if not marking.values and len(task.labels) > 1:
            marking = replace(marking, values=(number,))
        yield (Picture(path, frame=row, member=f"{prefix}masks", marking=marking),)
