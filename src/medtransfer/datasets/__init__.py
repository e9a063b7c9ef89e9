"""Raw datasets on disk, one module per dataset, each with one function `read(root)`.

A reader yields a `Sample` for every image of the official layout, in a fixed order, without decoding pixels:
`Sample.image` and `Sample.mask` are opened by `preparation`, in parallel. Readers refuse bad input with what
was looked for, where, what was found and what to do (`UserError`).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medtransfer.errors import UserError
from medtransfer.tasks import TASKS

Split = Literal["train", "val", "trainval", "test", "all"]
"""What the official layout says of a sample; `trainval` and `all` are divided by our own seeded draw."""

DATASETS = ("chestxray14", "drive", "montgomery", "shenzhen")
"""Names of the datasets that have a reader; each is also the folder name under `data/raw`."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image of a dataset, its patient, its official split and its target."""

    id: str
    """unique within the dataset: the image's file stem"""
    patient: str
    """the statistical unit and what splits keep together; hashed before it enters the cache"""
    split: Split
    image: Path
    labels: tuple[int, ...] = ()
    """0 or 1 per label in the task's official order; empty for segmentation"""
    masks: tuple[Path, ...] = ()
    """mask files whose union is the target; empty for classification"""


def read(dataset: str, root: Path) -> Iterator[Sample]:
    """Yields every sample of a dataset in its official layout under `root`.

    Raises:
        UserError: the folder or something that it must contain is missing or malformed.
    """
    if not root.is_dir():
        raise UserError(
            f"dataset {dataset}: looked for the folder {root}, found nothing there; put the official files in it"
        )
    module = importlib.import_module(f"medtransfer.datasets.{dataset}")
    samples: Iterator[Sample] = module.read(root)
    return samples


def refuse(dataset: str, wanted: str, where: Path, found: str) -> UserError:
    """Words the refusal of a layout that lacks something."""
    homes = ", ".join(sorted({task.source for task in TASKS.values() if task.dataset == dataset}))
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
