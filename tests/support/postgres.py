"""A PostgreSQL server of the tests' own, on a socket in a temporary folder; Debian's programs, found on the path."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def programs() -> Path:
    """Finds PostgreSQL's programs, or skips the test."""
    found = shutil.which("initdb") or next(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), None)
    if found is None:
        pytest.skip("PostgreSQL is not installed here")
    return Path(found).resolve().parent


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """Runs a server while the block runs."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # not in tmp_path: a socket's name may be 107 characters long
    started = Server(folder)
    try:
        started.start()
        yield started
    finally:
        started.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)


class Server:
    """A database cluster in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.programs = folder, programs()
        self.user: dict[str, Any] = {}
        if os.getuid() == 0:  # PostgreSQL refuses to be root
            shutil.chown(folder, "postgres", "postgres")
            self.user = {"user": "postgres", "group": "postgres"}
        self._run("initdb", "-D", folder / "data", "-U", "medtransfer", "--auth=trust", "--no-sync")

    @property
    def address(self) -> str:
        """Says where the server is, as libpq reads it."""
        return f"postgresql://medtransfer@/postgres?host={self.folder}"

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        options = f"-k {self.folder} -c listen_addresses='' -c fsync=off"
        self._run("pg_ctl", "-D", self.folder / "data", "-w", "-l", self.folder / "log", "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        """Stops the server."""
        self._run("pg_ctl", "-D", self.folder / "data", "-w", "-m", mode, "stop", check=False)

    def _run(self, program: str, *words: object, check: bool = True) -> None:
        command = [str(self.programs / program), *map(str, words)]
        subprocess.run(command, cwd="/", stdout=subprocess.DEVNULL, check=check, timeout=60, **self.user)


def wait_until(law: Any, seconds: float) -> None:
    """Waits until a law holds."""
    end = time.monotonic() + seconds
    while not law():
        assert time.monotonic() < end
        time.sleep(0.02)
