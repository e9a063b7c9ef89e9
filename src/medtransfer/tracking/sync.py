"""Sends what runs left unsent: those of dead processes, and those that ended while MLflow was away."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from medtransfer.core.errors import Held, UserError
from medtransfer.tracking import outbox, store
from medtransfer.tracking.outbox import Outbox
from medtransfer.tracking.run import TrackedRun
from medtransfer.tracking.store import masked

log = logging.getLogger("medtransfer")

Claim = Callable[[Path, str], AbstractContextManager[Callable[[], None]]]


@dataclass
class Outcome:
    """What became of the runs that were found unsent: their names."""

    sent: list[str] = field(default_factory=list)
    working: list[str] = field(default_factory=list)
    """another process is at them, and sends them itself"""
    left: list[str] = field(default_factory=list)
    """with what stood in the way"""
    away: bool = False
    """MLflow does not answer"""


def sync(root: Path, claim: Claim, *, finished: bool = False) -> Outcome:
    """Sends what is unsent of every run that no process is at; what MLflow has already is stored once.

    A run that its process did not end is KILLED, until it is started again.

    Args:
        root: the repository's top folder.
        claim: holds a run, by its folder and digest, while the block works at it; yields a check that raises once it
            is another's. Raises `Held` where another process has it.
        finished: whether only runs that finished are sent.
    """
    outcome = Outcome()
    for path in outbox.waiting(root):
        try:
            entry = outbox.read(path)
        except FileNotFoundError:  # sent in this moment
            continue
        except UserError as damage:
            outcome.left.append(f"{path.stem} ({damage})")
            continue
        if finished and entry.status != "FINISHED":
            continue
        if outcome.away:
            outcome.left.append(entry.name)
        else:
            _send(entry, root, claim, outcome)
    return outcome


def sweep(root: Path, claim: Claim) -> None:
    """Ends what dead processes left RUNNING, and sends what they left; where MLflow is away, nothing happens.

    Args:
        root: the repository's top folder.
        claim: holds a run, by its folder and digest, while the block works at it; yields a check that raises once it
            is another's. Raises `Held` where another process has it.
    """
    try:
        client = store.connect(root)
        sync(root, claim)
        store.reap(client)
    except UserError as error:
        log.debug("what dead processes left is not looked at: %s", masked(error))


def _send(entry: Outbox, root: Path, claim: Claim, outcome: Outcome) -> None:
    try:
        with claim(root / entry.folder, entry.digest) as check:
            if not entry.path(root).is_file():
                return
            entry = outbox.read(entry.path(root))  # as its owner left it
            entry.tags["lock"] = str((root / entry.folder / "lock").resolve())  # of a study that was moved, too
            run = TrackedRun(root, entry, check)
            run.late = True
            if not entry.status:
                lines = run.journal.lines()
                entry.status, entry.end = "KILLED", lines[-1]["time"] if lines else entry.start
            error: Exception | None = run.settle(0)
    except Held:
        outcome.working.append(entry.name)
        return
    except (UserError, OSError) as refusal:
        error = refusal
    else:
        outcome.away = error is not None
    (outcome.left if error else outcome.sent).append(f"{entry.name} ({masked(error)})" if error else entry.name)
