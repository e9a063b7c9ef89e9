"""Where a task's raw files lie, and whether they changed: links are followed, which DVC does not do."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medtransfer.core import files
from medtransfer.core.errors import UserError, quantity
from medtransfer.core.progress import bar
from medtransfer.data import catalog
from medtransfer.data.tasks import Task
from medtransfer.params import Data

log = logging.getLogger("medtransfer")

SETTLED = 2_000_000_000
"""nanoseconds after which a file's time tells a later change: the coarsest file systems count in 2 s"""


@dataclass(frozen=True)
class Source:
    """Where a task's raw files lie."""

    dataset: str
    synthetic: bool
    root: Path
    """the repository's top folder"""

    @property
    def folder(self) -> Path:
        """Holds the files."""
        return self.root / "data" / self.kind / self.dataset

    @property
    def hashes(self) -> Path:
        """Keeps the hashes of the files' contents, each with the size and times that it was taken at."""
        return self.root / "data/runs/raw" / f"{self.kind}-{self.dataset}.json"

    @property
    def kind(self) -> Literal["raw", "phantoms"]:
        """Names the folder under `data` that the files come from."""
        return "phantoms" if self.synthetic else "raw"


def source(task: Task, data: Data, root: Path) -> Source:
    """Finds a task's raw files under the repository root: real ones, else phantoms where they are allowed.

    Raises:
        UserError: neither is there.
    """
    raw, phantoms = (Source(task.dataset, synthetic, root) for synthetic in (False, True))
    if holds_files(raw.folder):
        return raw
    if data.phantoms and holds_files(phantoms.folder):
        return phantoms
    state = "found nothing in either" if data.phantoms else "which data.phantoms=false rules out, found nothing"
    raise UserError(
        f"task {task.name}: looked for the {task.dataset} files in {raw.folder} and for phantoms in {phantoms.folder},"
        f" {state}; get the files from {task.source}, or make phantoms with `python -m medtransfer phantoms "
        f"{task.dataset}` and data.phantoms=true"
    )


def holds_files(folder: Path) -> bool:
    """Says whether a folder is there with anything in it that is not hidden."""
    return folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir())


def fingerprint(source: Source, *, whole: bool = False, keep: bool = True) -> str:
    """Hashes the names and contents of all raw files but the task's description, which decides by its fields.

    A content is hashed once, and again where size or times of its file changed: 1 GB takes about a second of a core, or
    as long as the disk needs to give it. The hashes stay beside `data/runs`, never among the raw files.

    Args:
        source: whose files.
        whole: hashes every content again, also where nothing says that it changed.
        keep: writes the hashes down for the next time.
    """
    former = {} if whole else _known(source.hashes)
    folders = source.folder, *catalog.outside(source.folder)
    paths = {Path(os.path.relpath(path, source.folder)).as_posix(): path for path in _walk(*folders)}
    paths = {name: paths[name] for name in sorted(paths) if name != catalog.FILE}
    states = {name: _state(path) for name, path in paths.items()}
    changed = [name for name in paths if former.get(name, {}).get("state") != states[name]]
    found = {name: former[name]["sha256"] for name in paths.keys() - set(changed)} | _hash(paths, changed, files.sha256)
    if whole:
        _say_unseen(source, states, found)
    if keep and changed:
        # A file that was written a moment ago may change once more without another time: it is hashed again.
        old = time.time_ns() - SETTLED
        notes = {n: {"state": states[n], "sha256": found[n]} for n in paths if max(states[n][1:]) < old}
        files.write_text(source.hashes, json.dumps(notes, indent=0) + "\n")
    lines = (f"{name}\0{found[name]}\n" for name in paths)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def hashed(source: Source, paths: Sequence[Path], algorithm: str) -> list[str]:
    """Hashes the contents of some raw files, each once for as long as nothing says that it changed.

    Args:
        source: whose files; what `fingerprint` keeps of them serves for sha256.
        paths: of the files.
        algorithm: as `hashlib` names it.
    """
    kept = source.hashes if algorithm == "sha256" else source.hashes.with_suffix(f".{algorithm}.json")
    known = _known(kept)
    names = {path: Path(os.path.relpath(path, source.folder)).as_posix() for path in paths}
    states = {path: _state(path) for path in names}
    changed = [path for path, name in names.items() if known.get(name, {}).get("state") != states[path]]
    hashing = functools.partial(files.hashed, algorithm=algorithm)
    new = _hash({names[path]: path for path in changed}, [names[path] for path in changed], hashing)
    if new and algorithm != "sha256":
        old = time.time_ns() - SETTLED
        settled = {path: states[path] for path in changed if max(states[path][1:]) < old}
        notes = {names[path]: {"state": state, algorithm: new[names[path]]} for path, state in settled.items()}
        files.write_text(kept, json.dumps({**known, **notes}, indent=0) + "\n")
    return [new.get(names[path]) or str(known[names[path]][algorithm]) for path in paths]


def _known(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):  # none yet, or damaged: then all is hashed again
        return {}
    return found


def _state(path: Path) -> list[int]:
    """Says by what a change of a file is noticed; the second time changes also where a copy keeps the first."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _hash(paths: Mapping[str, Path], names: Sequence[str], hashing: Callable[[Path], str]) -> dict[str, str]:
    with ThreadPoolExecutor() as pool, bar("reading raw files", len(names), "files") as advance:
        found = {}
        for name, digest in zip(names, pool.map(lambda name: hashing(paths[name]), names), strict=True):
            found[name] = digest
            advance()
    return found


def _say_unseen(source: Source, states: Mapping[str, list[int]], found: Mapping[str, str]) -> None:
    """Names files whose contents are not what they were, though size and times say so."""
    before = _known(source.hashes)
    same = [name for name in found if before.get(name, {}).get("state") == states[name]]
    changed = [name for name in same if before[name]["sha256"] != found[name]]
    if changed:
        words = "%s under %s changed without another size or time, e.g. %s: is the disk sound?"
        log.warning(words, quantity(len(changed), "file"), source.folder, ", ".join(changed[:3]))


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


def write(root: Path, external: Mapping[str, Sequence[str]] | None = None) -> None:
    """Writes `data/sources/<task>.json`, what DVC takes for raw files and description: changed only when they are.

    DVC would not follow links, and would hash all again after a copy.

    Args:
        root: the study's folder.
        external: task -> other tasks on whose test images its networks are read: what is noted of them is noted of it.
    """
    found = dict[str, dict[str, Any]]()
    for name in catalog.names(root):  # a task has the name of its dataset's folder
        raw, described = Source(name, synthetic=False, root=root), root / "data/raw" / name / catalog.FILE
        found[name] = {
            "raw": fingerprint(raw) if holds_files(raw.folder) else None,
            "task": files.sha256(described) if described.is_file() else None,
        }
    for name, noted in found.items():
        others = [one for one in (external or {}).get(name, ()) if one in found]  # `benchmark` refuses unknown ones
        own = noted | ({"external": {other: found[other] for other in others}} if others else {})
        files.write_text(root / "data/sources" / f"{name}.json", json.dumps(own) + "\n")
