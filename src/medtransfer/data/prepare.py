"""The verb `prepare`: raw files -> prepared cache, built where there is none that still holds."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medtransfer.core import files
from medtransfer.core.errors import UserError
from medtransfer.data import cache, duplicates, published_counts
from medtransfer.data.cache import Prepared, load
from medtransfer.data.cache_build import NOTES, Build
from medtransfer.data.cache_fields import fields as fields_of
from medtransfer.data.checks import check_labels
from medtransfer.data.raw import Source, source
from medtransfer.data.raw import fingerprint as fingerprint_of
from medtransfer.data.tasks import Task
from medtransfer.params import Data, Params

log = logging.getLogger("medtransfer")


def current(task: Task, params: Params, root: Path) -> Prepared | None:
    """Returns a task's cache if it is there and still holds; builds nothing.

    Raises:
        UserError: there are no raw files to compare it with.
    """
    origin = source(task, params.data, root)
    folder = _folder(task, origin, root)
    fingerprint = functools.partial(fingerprint_of, origin, keep=False)
    return _current(folder, task, params.data, fields_of(task, params, origin), fingerprint)


def _folder(task: Task, origin: Source, root: Path) -> Path:
    return root / "data" / "prepared" / task.name / ("phantoms" if origin.synthetic else "real")


def prepare(task: Task, params: Params, root: Path, *, workers: int = 0, check: bool = False) -> Prepared:
    """Returns a task's cache, built first where there is none or where its source or its fields changed.

    A build that was killed, or that met files it could not decode, goes on from what it had done.

    Args:
        task: what to prepare.
        params: `data` and the task's sizes are read.
        root: the repository's top folder.
        workers: threads that decode; 0 = one per core. Changes no byte.
        check: hash every raw file again, also where size and times say that nothing changed.

    Raises:
        UserError: the raw files are missing, unreadable, not what was published, or leak between splits.
    """
    check_labels(task)
    origin = source(task, params.data, root)
    folder = _folder(task, origin, root)
    fields = fields_of(task, params, origin)
    fingerprint = functools.cache(functools.partial(fingerprint_of, origin, whole=check))
    found = _current(folder, task, params.data, fields, fingerprint)
    if found is not None:
        return found
    # Lock and temporary folders lie outside data/prepared/<task>, which DVC deletes before it runs the stage.
    stem = str(folder.parents[1] / f".{task.name}-{folder.name}")
    with files.lock(Path(f"{stem}.lock")):
        cache.clean(folder, Path(f"{stem}.old"))
        found = _current(folder, task, params.data, fields, fingerprint)  # another process may have built it
        if found is not None:
            return found
        log.info("task %s: preparing the %s files of %s", task.name, origin.kind, origin.folder)
        temporary = Path(f"{stem}.new")
        try:
            if any((temporary / name).exists() for name in NOTES) or not _current(
                temporary, task, params.data, fields, fingerprint
            ):  # else a kill came between the end of a build and its place
                Build(task, params, origin, fields, fingerprint(), temporary, workers or os.cpu_count() or 1).run()
            cache.put(folder, temporary, Path(f"{stem}.old"))
            Path(f"{stem}.bad.txt").unlink(missing_ok=True)
            Path(f"{stem}.near_duplicates.png").unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"task {task.name}: could not build the cache {folder}: {error}; what is decoded is kept, the same "
                "command goes on from there"
            ) from error
    return load(folder)


def _current(
    folder: Path, task: Task, data: Data, fields: dict[str, Any], fingerprint: Callable[[], str]
) -> Prepared | None:
    try:
        prepared = load(folder)
    except UserError as error:
        if (folder / "manifest.json").is_file():
            log.warning("task %s: %s", task.name, error)
        return None
    manifest = prepared.manifest
    same = (
        "parts" in manifest
        and manifest["fields"] == fields
        and manifest["expected"] == published_counts.published(task)
    )
    # Look-alikes of an earlier rule are none of today's.
    same = same and manifest["audit"]["near_threshold"] == duplicates.NEAR
    same = same and manifest["fingerprint"] == fingerprint()
    # What was left out, or is a sample, must be accepted each time.
    same = same and len(manifest["skipped"]) <= data.skip_bad
    sampled = "synthetic" not in manifest["marks"] and published_counts.differences(
        task, manifest["expected"], manifest["found"]
    )
    return prepared if same and (data.partial or not sampled) else None
