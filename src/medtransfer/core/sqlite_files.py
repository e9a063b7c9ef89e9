"""SQLite files that a library fills with its tables: made whole or not at all, and looked at before it opens them.

A library makes its tables in many steps, and what a kill leaves of them it can often neither finish nor open.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from medtransfer.core.errors import UserError

log = logging.getLogger("medtransfer")

SETTLE = 3.0
"""seconds for which a half-made file must lie still before it counts as left by a dead process"""
ENDS = ("-journal", "-wal", "-shm")
"""files that SQLite keeps beside a database"""


def path_of(address: str) -> Path | None:
    """Finds the file of a `sqlite:///` address; None for any other address."""
    scheme, _, place = address.partition(":///")
    place = place.partition("?")[0]
    return Path(place) if scheme.partition("+")[0] == "sqlite" and place else None


def ready(
    path: Path, make: Callable[[Path], None], whole: Callable[[sqlite3.Connection], bool], work: str, advice: str
) -> None:
    """Makes a database where there is none, or in the place of one that was cut off in the making.

    It is built beside its place and renamed, so that a kill at any moment leaves none. Whoever calls holds a lock.

    Args:
        path: of the file.
        make: fills a new file at a path, and lets go of it.
        whole: says whether a database has all that `make` gives it; asked of one without work only.
        work: the table whose rows are what a person would miss.
        advice: what to do with a damaged file, the end of a sentence.

    Raises:
        UserError: the file is damaged, or no database.
    """
    if path.is_file() and _holds(path, whole, work, advice):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f"{path.name}.*.new*"):
        left.unlink(missing_ok=True)
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")  # a name of its own: libraries keep what they open
    try:
        make(new)
        if path.exists():
            _set_aside(path)
        os.replace(new, path)
    finally:
        for left in (new, *(Path(f"{new}{end}") for end in ENDS)):
            left.unlink(missing_ok=True)


def _holds(path: Path, whole: Callable[[sqlite3.Connection], bool], work: str, advice: str) -> bool:
    """Says whether a file is to be opened as it is; one that another program is making gets the time to be."""
    while True:
        try:
            with contextlib.closing(opened(path, "rw")) as database:
                tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
                if work in tables and database.execute(f"SELECT 1 FROM {work} LIMIT 1").fetchone():
                    return True
                if whole(database):
                    return True
        except sqlite3.OperationalError as error:
            if not tables_missing(error):
                raise UserError(f"{path} cannot be opened ({error}); {advice}") from error
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path} is damaged or no SQLite database ({error}); {advice}") from error
        beside = [path, *(Path(f"{path}{end}") for end in ENDS)]
        age = time.time() - max(one.stat().st_mtime for one in beside if one.exists())
        if not 0 <= age < SETTLE:
            return False
        time.sleep(0.2)


def opened(path: Path, mode: str) -> sqlite3.Connection:
    """Opens a file that is there, to read it (`ro`) or to change it (`rw`)."""
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True, timeout=60)


def tables_missing(error: sqlite3.OperationalError) -> bool:
    """Says whether a question failed because a table that it asks for is not made."""
    return "no such" in str(error)


def _set_aside(path: Path) -> None:
    """Renames a half-made file, with what SQLite keeps beside it."""
    aside = path.with_name(f"{path.name}.half-made")
    log.warning("%s was cut off in the making and holds nothing; it is made anew (the old: %s)", path, aside.name)
    for end in ("", *ENDS):
        one = Path(f"{path}{end}")
        if one.exists():
            os.replace(one, f"{aside}{end}")


def intact(path: Path) -> str:
    """Says what SQLite finds wrong with a database's pages; empty where nothing."""
    try:
        with contextlib.closing(opened(path, "ro")) as database:
            found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if found == "ok" else str(found).splitlines()[-1]
