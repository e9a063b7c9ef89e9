"""A study whose folder was moved or copied: MLflow keeps absolute addresses, and they must be this folder's.

Without this a copy would go on writing into the study that it was copied from, and a moved one into a folder that is
gone. Asked each time that the database is opened.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shlex
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from mlflow.utils.file_utils import local_file_uri_to_path

from medtransfer.core import sqlite_files
from medtransfer.core.errors import UserError

log = logging.getLogger("medtransfer")

ARTIFACTS = "mlruns"
"""MLflow's folder of artifacts, beside a database that is a file"""
COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""where MLflow's database keeps addresses of artifacts"""
_ADDRESS = re.compile(rf"(?P<folder>/.*)/{ARTIFACTS}/(?P<rest>\d+(/.*)?)")
_LOCK = re.compile(r"(?P<folder>/.*)/(?P<rest>data/runs/.*)")


@dataclass(frozen=True)
class _Change:
    """One address that is another folder's."""

    table: str
    column: str
    row: int
    old: str
    new: str
    folder: Path
    """that it names"""


def settle(path: Path, root: Path) -> None:
    """Gives the addresses in MLflow's database to the folder in which it lies by now, all or none.

    Only a database below the folder, and only addresses as MLflow makes them there (`FOLDER/mlruns/NUMBER/...`), are
    changed: an experiment that was given a place of its own keeps it.

    Args:
        path: of the database.
        root: the repository's top folder.

    Raises:
        UserError: artifacts lie in the old folder alone.
    """
    root = root.resolve()
    if not path.resolve().is_relative_to(root):
        return  # several folders may share it, each with its own artifacts
    with contextlib.closing(sqlite_files.opened(path, "ro")) as database:
        if not _changes(database, root):
            return
    with contextlib.closing(sqlite_files.opened(path, "rw")) as database, database:
        database.execute("BEGIN IMMEDIATE")
        changes = _changes(database, root)
        _refuse_missing(path, changes, root)
        for change in changes:
            database.execute(f"UPDATE {change.table} SET {change.column} = ? WHERE rowid = ?", (change.new, change.row))
    for folder in sorted({change.folder for change in changes}):
        log.warning(
            "this study was at %s, and is at %s by now: what MLflow keeps of it (%s) points here from now on%s",
            folder, root, path.name, "; the old folder stays as it is" if folder.is_dir() else "",
        )  # fmt: skip


def _changes(database: sqlite3.Connection, root: Path) -> list[_Change]:
    """Lists the addresses that are another folder's."""
    found = []
    for table, column in COLUMNS:
        for row, address in database.execute(f"SELECT rowid, {column} FROM {table} WHERE {column} LIKE '%/mlruns/%'"):
            known = _ADDRESS.fullmatch(_path_of(address))
            if known and (folder := _elsewhere(known["folder"], root)):
                new = root / ARTIFACTS / known["rest"]
                text = new.as_uri() if address.startswith("file:") else str(new)
                found.append(_Change(table, column, row, address, text, folder))
    for row, lock in database.execute("SELECT rowid, value FROM tags WHERE key = 'lock'"):
        known = _LOCK.fullmatch(lock)
        if known and (folder := _elsewhere(known["folder"], root)):
            found.append(_Change("tags", "value", row, lock, str(root / known["rest"]), folder))
    return found


def _path_of(address: str) -> str:
    return str(local_file_uri_to_path(address)) if address.startswith("file:") else address


def _elsewhere(folder: str, root: Path) -> Path | None:
    """Returns the folder that an address names, where that is neither this one nor below it."""
    named = Path(folder)
    return None if named.resolve().is_relative_to(root) else named


def _refuse_missing(path: Path, changes: list[_Change], root: Path) -> None:
    """Refuses a copy without its artifacts: they would be found no more."""
    for change in changes:
        if change.table in ("experiments", "tags"):
            continue  # an experiment's own folder holds what its runs' have
        old, new = Path(_path_of(change.old)), Path(_path_of(change.new))
        if not new.exists() and (old.is_file() or (old.is_dir() and any(old.iterdir()))):
            here, there = shlex.quote(f"{root / ARTIFACTS}/"), shlex.quote(f"{change.folder / ARTIFACTS}/.")
            raise UserError(
                f"this study's MLflow database {path} was copied from {change.folder} without all of its artifacts: "
                f"looked for {new}, which is at {old} alone. Nothing was changed. Copy them, then start the same "
                f"command again: mkdir -p {here} && cp -a {there} {here}"
            )
