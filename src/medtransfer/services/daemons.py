"""Programs that go on after the command that started them: started, found again, waited for, stopped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from medtransfer.core import files, schema
from medtransfer.core.errors import UserError

START = 180.0
"""seconds in which a program must answer; MLflow's first start makes its tables"""
STOP = 30.0
"""seconds after which one that was told to stop is killed"""
SHOWN = 15
"""lines of its log that a message shows"""


@dataclass(frozen=True, kw_only=True)
class Daemon:
    """A program that listens on a port of loopback."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    port: int
    answers: Callable[[], bool]
    """says whether it does its work by now"""
    account: str | None = None
    """of the machine, whose rights it has; None: our own"""
    farewell: signal.Signals = signal.SIGTERM
    """asks it to stop at once, but in good order"""


def running(name: str, folder: Path) -> psutil.Process | None:
    """Finds the process that was started under a name, if it lives."""
    note = folder / f"{name}.json"
    if not note.is_file():
        return None
    with contextlib.suppress(psutil.NoSuchProcess):
        advice = f"it named the process of {name}: end that by hand where it runs, and remove the file"
        said = schema.read_json(note, dict[str, float], "note of a process", advice)
        process = psutil.Process(int(said["pid"]))
        # A number is given to other processes later, a number with its time of birth is not.
        if process.create_time() == said["created"] and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def start(daemon: Daemon, folder: Path) -> bool:
    """Starts a program and waits until it answers; returns False where it runs already.

    Raises:
        UserError: its port is taken, or it does not come up.
    """
    if running(daemon.name, folder):
        return False
    _refuse_taken(daemon)
    log = folder / f"{daemon.name}.log"
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as output:
        child = subprocess.Popen(
            daemon.command, env=dict(daemon.environment), cwd=folder, stdin=subprocess.DEVNULL, stdout=output,
            stderr=output, start_new_session=True, user=daemon.account, group=daemon.account,
        )  # fmt: skip
    process = psutil.Process(child.pid)
    note = {"pid": child.pid, "created": process.create_time()}
    files.write_text(folder / f"{daemon.name}.json", json.dumps(note))
    _wait(daemon, process, log)
    return True


def _refuse_taken(daemon: Daemon) -> None:
    if listens(daemon.port):
        raise UserError(
            f"port {daemon.port} of this machine, which {daemon.name} is to listen on, is taken by another program; "
            "choose others: medtransfer services start --port 5600"
        )


def _wait(daemon: Daemon, process: psutil.Process, log: Path) -> None:
    end = time.monotonic() + START
    while not daemon.answers():
        gone = not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        if gone or time.monotonic() > end:
            stop(daemon.name, log.parent, daemon.farewell)
            said = "\n  ".join(log.read_text(errors="replace").splitlines()[-SHOWN:])
            raise UserError(
                f"{daemon.name} {'ended' if gone else f'did not answer in {START:.0f} s'}; {log}:\n  {said}"
            )
        time.sleep(0.1)


def stop(name: str, folder: Path, farewell: signal.Signals) -> bool:
    """Stops a program and all that it started; returns False where it does not run."""
    process = running(name, folder)
    if process is None:
        return False
    group = [process, *process.children(recursive=True)]
    os.killpg(process.pid, farewell)  # it leads a group of its own
    _, alive = psutil.wait_procs(group, timeout=STOP)
    for left in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    psutil.wait_procs(alive, timeout=STOP)
    (folder / f"{name}.json").unlink(missing_ok=True)
    return True


def listens(port: int) -> bool:
    """Says whether a program listens on a port of loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
