"""What MLflow must hear of a run, kept on disk until MLflow has all of it: the journal of metrics, and the rest.

A metric goes first to the journal in the run's folder, with its timestamp, and is sent from there. All else that
makes the run in MLflow is in one file under `data/runs/unsent`, so that any process can send what another has left.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtransfer.core import files
from medtransfer.core.addresses import scrub
from medtransfer.core.errors import UserError

FOLDER = Path("data/runs/unsent")
"""one file per run that MLflow does not have whole, named by its digest"""


class Journal:
    """Append-only record of a run's metrics on disk: one JSON line per call; `check` raises if the run is another's."""

    def __init__(self, path: Path, check: Callable[[], None] = lambda: None) -> None:
        self.path, self.check = path, check
        self.before: dict[int, int] = {}
        """step -> time at which it was logged before it was cut; MLflow may have it, and stores a repeat once"""
        path.parent.mkdir(parents=True, exist_ok=True)

    def append(self, metrics: Mapping[str, float], step: int, at: int = 0) -> None:
        """Adds one line and makes it durable; `at` is its time, 0: now."""
        self.check()
        now = self.before.pop(step, at or int(time.time() * 1000))
        line = json.dumps({"time": now, "step": step, "metrics": dict(metrics)})
        with open(self.path, "a") as stream:
            stream.write(line + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def lines(self) -> list[dict[str, Any]]:
        """Reads every whole line; a line cut off by a kill is not one."""
        if not self.path.is_file():
            return []
        text = self.path.read_text()
        try:
            return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        except ValueError as error:
            raise UserError(
                f"{self.path} is damaged ({error}): it holds a run's metrics. Remove the folder {self.path.parent} and "
                "start the command that made the run again; a finished one comes back from MLflow"
            ) from error

    def cut(self, step: int) -> None:
        """Forgets the steps from `step` on: they come after the checkpoint that a resume starts from."""
        lines = self.lines()
        kept = [line for line in lines if line["step"] < step]
        self.before = {line["step"]: line["time"] for line in lines if line["step"] >= step}
        files.write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a tracked run is called and found by."""

    name: str
    task: str
    digest: str
    tags: Mapping[str, str]
    params: Mapping[str, Any]
    folder: Path
    """holds journal and lock"""
    parent: str | None = None
    verb: str = ""
    """that made the run; empty: its tag says it"""
    start: int = 0
    """when the work began, in milliseconds; 0: now"""
    again: bool = False
    """whether a run that finished is opened again, as that of a study whose budget grew"""


@dataclass(kw_only=True)
class Outbox:
    """All of a run but its metrics, as it stands on disk."""

    name: str
    task: str
    digest: str
    tags: dict[str, str]
    params: dict[str, str]
    folder: str
    """of the run, seen from the repository's top folder"""
    start: int
    """milliseconds since 1970"""
    data: dict[str, str] | None = None
    """the prepared data that the run reads"""
    artifacts: list[str] = dataclasses.field(default_factory=list)
    """files and folders, seen from the run's folder"""
    status: str = ""
    """how the run ended; empty: it did not"""
    message: str = ""
    """why it failed"""
    end: int = 0
    again: bool = False
    """as in `Identity`"""
    kept: int | None = None
    """steps that the run's checkpoint holds; None: nobody spoke of one"""
    whole: bool = False
    """whether all of its journal counts, however it ended: nothing of it is trained again"""

    def add(self, paths: Iterable[Path], folder: Path) -> None:
        """Notes files and folders of the run."""
        names = [os.path.relpath(path, folder) for path in paths]
        self.artifacts = list(dict.fromkeys([*self.artifacts, *names]))

    def close(self, status: str, message: str) -> None:
        """Notes how the run ended."""
        self.status, self.message, self.end = status, scrub(message), int(time.time() * 1000)

    def path(self, root: Path) -> Path:
        """Says where it is kept."""
        return root / FOLDER / f"{self.digest}.json"

    def save(self, root: Path) -> None:
        """Writes it, whole or not at all."""
        files.write_text(self.path(root), json.dumps(dataclasses.asdict(self)))

    def remove(self, root: Path) -> None:
        """Forgets a run that MLflow has whole."""
        self.path(root).unlink(missing_ok=True)


def read(path: Path) -> Outbox:
    """Reads what one run left."""
    text = path.read_bytes()  # a file that is gone was sent in this moment
    try:
        return Outbox(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path} is no whole record of a run that MLflow lacks ({error}). Remove it and start the command that "
            "made the run again: what is whole under data/runs is sent without training"
        ) from error


def waiting(root: Path) -> list[Path]:
    """Lists the files of the runs that MLflow does not have whole, those at work among them."""
    return sorted((root / FOLDER).glob("*.json"))


def unsent(root: Path, digest: str) -> bool:
    """Says whether MLflow lacks something of a run."""
    return (root / FOLDER / f"{digest}.json").is_file()
