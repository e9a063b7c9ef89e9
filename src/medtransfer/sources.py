"""Where a task's raw files lie, and whether they changed: links are followed, which DVC does not do."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medtransfer import catalog, files
from medtransfer.errors import UserError
from medtransfer.params import Data
from medtransfer.tasks import Task


@dataclass(frozen=True)
class Source:
    """Where a task's raw files lie."""

    folder: Path
    synthetic: bool

    @property
    def kind(self) -> Literal["raw", "phantoms"]:
        """Names the folder under `data` that the files come from."""
        return "phantoms" if self.synthetic else "raw"


def source(task: Task, data: Data, root: Path) -> Source:
    """Finds a task's raw files under the repository root: real ones, else phantoms where they are allowed.

    Raises:
        UserError: neither is there.
    """
    raw, phantoms = (root / "data" / kind / task.dataset for kind in ("raw", "phantoms"))
    if holds_files(raw):
        return Source(raw, synthetic=False)
    if data.phantoms and holds_files(phantoms):
        return Source(phantoms, synthetic=True)
    state = "found nothing in either" if data.phantoms else "which data.phantoms=false rules out, found nothing"
    raise UserError(
        f"task {task.name}: looked for the {task.dataset} files in {raw} and for phantoms in {phantoms}, {state}; get"
        f" the files from {task.source}, or make phantoms with `python -m medtransfer phantoms` and data.phantoms=true"
    )


def holds_files(folder: Path) -> bool:
    """Says whether a folder is there with anything in it that is not hidden."""
    return folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir())


def fingerprint(folder: Path) -> str:
    """Hashes the names and sizes of all files and the contents of the lists, tables and descriptions among them."""
    entries = sorted((os.path.relpath(path, folder), path) for path in _walk(folder, *catalog.outside(folder)))
    digest = hashlib.sha256()
    for name, path in entries:
        digest.update(f"{name}\0{path.stat().st_size}\n".encode())
        if path.suffix.lower() in (".csv", ".txt", ".yaml"):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _walk(*roots: Path) -> Iterator[Path]:
    """Yields all files below some folders, links followed, each real folder entered once so that a loop ends."""
    entered: set[str] = set()
    for root in roots:
        if os.path.realpath(root) in entered:
            continue
        for top, folders, names in os.walk(root, followlinks=True):
            entered.add(os.path.realpath(top))
            folders[:] = sorted(name for name in folders if os.path.realpath(os.path.join(top, name)) not in entered)
            yield from (path for path in (Path(top, name) for name in names) if path.is_file())


def write(root: Path) -> None:
    """Writes `data/sources/<task>.json`, what DVC takes for the raw files: changed only when they are.

    Hashing a big dataset is left out, and a linked folder counts as much as a copied one.
    """
    for name in catalog.names(root):  # a task has the name of its dataset's folder
        raw = root / "data/raw" / name
        found = fingerprint(raw) if holds_files(raw) else None
        files.write_text(root / "data/sources" / f"{name}.json", json.dumps({"raw": found}) + "\n")
