"""What readers of raw datasets share: a module per dataset, with its record `TASK` and one function `read(root)`.

A reader yields a `Sample` for every image of the official layout, in a fixed order, without decoding pixels: image
and masks are opened by `decode`, in parallel. Readers refuse bad input with what was looked for, where, what was found
and what to do (`UserError`).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Literal

from medtransfer.core.errors import UserError
from medtransfer.data.tasks import Layout, Task

Split = Literal["train", "val", "trainval", "test", "all"]
"""What the official layout says of a sample; `trainval` and `all` are divided by our own seeded draw."""


@dataclass(frozen=True)
class Archive:
    """A dataset published as one zip file."""

    url: str
    bound: int
    """most bytes that are unpacked: about twice the published archive, for its images are compressed already"""


@dataclass(frozen=True, slots=True)
class Marking:
    """Which pixels of a mask are the region; what is left open is settled by a look at all masks: see `masks`."""

    values: tuple[int | str, ...] = ()
    """those of these stored values (a palette's indices) or colours, `#rrggbb`; empty: all but the background"""
    background: tuple[int | str, ...] = (0,)
    """what belongs to no label; without `values` one"""
    threshold: float | None = None
    """without `values`: the share of the largest difference from the background above which a pixel counts"""
    cut: float = 0.0
    """that difference itself"""
    alpha: bool = False
    """the values are those of the transparency"""
    align: Literal["space", "pixels"] = "space"
    """whether a mask that says where it lies is laid there, or on its image pixel by pixel"""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image or a mask: a file, or a part of one."""

    path: Path
    frame: int | None = None
    """of a multi-frame file, a volume's slices (last axis) or an array's rows, from 0; None: the only one"""
    member: str = ""
    """name of the array in a `.npz` file"""
    marking: Marking = Marking()
    """of a mask"""


@dataclass(frozen=True, slots=True)
class Runs:
    """A mask as run lengths on its image's own canvas: see `run_lengths`."""

    text: str


Mask = Picture | Runs


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One image of a dataset, its patient, its official split and its target."""

    id: str
    """unique within the dataset: the image's file stem"""
    patient: str
    """the task's statistical unit, which splits keep together; hashed before it enters the cache"""
    split: Split
    image: Picture
    labels: tuple[int, ...] = ()
    """0, 1 or, where the task allows it, -1 for uncertain, per label in the task's order; of a multiclass task 1 for
    the class; of segmentation whether the mask has a pixel, or empty where only decoding can tell"""
    masks: tuple[tuple[Mask, ...], ...] = ()
    """per label, the parts whose union is the target, none for an empty mask; empty for classification"""
    extras: Mapping[str, Picture] = field(default_factory=dict)
    """of a test image: further masks by name, those of `Task.extras` that are on disk"""
    groups: Mapping[str, str] = field(default_factory=dict)
    """name, such as `sex` -> the group that the table puts it in, see `subgroups`; empty: not known"""


def module_of(dataset: str) -> ModuleType:
    """Gives the module of a dataset: its record `TASK`, how to get it, and its function `read`."""
    return importlib.import_module(f"medtransfer.data.readers.{dataset}")


def read(task: Task, root: Path) -> Iterator[Sample]:
    """Yields every sample of a task's dataset in its official layout, or in that of its `task.yaml`, under `root`.

    Raises:
        UserError: the folder or something that it must contain is missing or malformed.
    """
    if not root.is_dir():
        raise UserError(
            f"dataset {task.dataset}: looked for the folder {root}, found nothing there; put the official files in it"
        )
    samples: Iterator[Sample]
    if task.layout is None:
        samples = module_of(task.dataset).read(root)
    else:
        module = importlib.import_module(f"medtransfer.data.readers.own_{'table' if task.layout.table else 'arrays'}")
        samples = module.read(task, root)
    return samples


def marking_of(layout: Layout, label: str) -> Marking:
    """Gives what a `task.yaml` says of a label's masks."""
    return Marking(
        values=tuple(layout.values.get(label, ())),
        background=layout.background or (0,),
        threshold=layout.threshold,
        align=layout.align,
    )


def inside(root: Path, layout: Layout, text: str) -> Path:
    """Gives the path of a file that lies, links followed, in the task's folder or in one that `outside` names.

    Raises:
        UserError: it lies elsewhere.
    """
    path = root / text
    real = Path(os.path.realpath(path))
    homes = [Path(os.path.realpath(root / home)) for home in (".", *layout.outside)]
    if not any(real.is_relative_to(home) for home in homes):
        place = os.path.dirname(real)
        raise UserError(
            f"{text!r} leads out of the task's folder, to {real}; copy the file into it, or allow its folder by name in"
            f" task.yaml: `outside: [{place}]`"
        )
    return path


def refuse(dataset: str, wanted: str, where: Path, found: str) -> UserError:
    """Words the refusal of a layout that lacks something."""
    homes = module_of(dataset).TASK.source
    return UserError(
        f"dataset {dataset}: looked for {wanted} at {where}, found {found}; get the official files: {homes}"
    )


def require_folder(dataset: str, folder: Path) -> Path:
    """Returns a folder that must be there."""
    if not folder.is_dir():
        raise refuse(dataset, "the folder", folder, "none")
    return folder


def find_folder(dataset: str, root: Path, *names: str) -> Path:
    """Returns the first of several places where archives keep a folder."""
    found = next((root / name for name in names if (root / name).is_dir()), None)
    if found is None:
        raise refuse(
            dataset, " or ".join(names), root, ", ".join(sorted(p.name for p in root.iterdir())[:5]) or "nothing"
        )
    return found


def list_files(dataset: str, folder: Path, pattern: str, name: str) -> list[Path]:
    """Returns a folder's files in order of their names, hidden ones left out (macOS puts `._x.png` beside `x.png`).

    Raises:
        UserError: there are none; `name` says how they are called officially.
    """
    files = sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
    if not files:
        raise refuse(dataset, name, folder, "none")
    return files
