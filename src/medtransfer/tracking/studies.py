"""Studies in MLflow: one parent run per study, its trials below it, in the experiment `medtransfer/tuning`."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtransfer.core import files
from medtransfer.core.errors import UserError
from medtransfer.tracking import PREFIX, Identity, TrackedRun, experiment, open_run
from medtransfer.tracking.opening import outbox_of
from medtransfer.tracking.store import masked

log = logging.getLogger("medtransfer")

TASK = "tuning"
"""the experiment `medtransfer/tuning`"""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A trial as MLflow shows it."""

    key: str
    """names it within its study"""
    name: str
    status: str
    """FINISHED, FAILED or KILLED"""
    tags: Mapping[str, str]
    params: Mapping[str, Any]
    history: tuple[Mapping[str, float], ...]
    """metrics, epoch by epoch"""
    scores: Mapping[str, float]
    start: int
    """milliseconds since 1970"""
    end: int


class StudyRun:
    """The run of a study; it is found again by the study's name, and goes on. Whoever makes it holds the folder's lock.

    What MLflow does not take of it, or a kill cuts off, waits on disk for `sync`, a trial as well as the study itself.
    """

    def __init__(
        self, root: Path, study: str, folder: Path, tags: Mapping[str, str], params: Mapping[str, Any]
    ) -> None:
        self.root, self.study, self.folder = root, study, folder
        identity = Identity(
            name=f"{tags['init']} on {tags['task']}", task=TASK, digest=_digest(study), tags={**tags, "study": study},
            params=params, folder=folder, again=True,
        )  # fmt: skip
        self.run = open_run(root, identity)
        self.recorded = self._recorded()

    @property
    def run_id(self) -> str:
        """Is MLflow's name of the run."""
        return self.run.run_id

    def _recorded(self) -> set[str]:
        """Lists the keys of the trials that are in MLflow whole; one that a kill cut off is written again."""
        client = self.run.client
        children = client.search_runs(
            [experiment(client, PREFIX + TASK)], f"tags.`mlflow.parentRunId` = '{self.run_id}'", max_results=5000
        )
        return {child.data.tags.get("trial", "") for child in children if child.info.status != "RUNNING"}

    def record(self, entry: Entry) -> None:
        """Writes a trial that is not in MLflow; where it is away the trial waits on disk."""
        if entry.key in self.recorded:
            return
        digest = _digest(f"{self.study} {entry.key}")
        folder = self.folder / "trials" / digest
        identity = Identity(
            name=entry.name, task=TASK, digest=digest, tags={**entry.tags, "trial": entry.key}, params=entry.params,
            folder=folder, parent=self.run_id, verb="tune",
        )  # fmt: skip
        with files.lock(folder / "lock"):
            outbox = outbox_of(self.root, identity)
            outbox.start, outbox.end, outbox.status, outbox.whole = entry.start, entry.end, entry.status, True
            child = TrackedRun(self.root, outbox)
            child.late = True  # a process that syncs may have sent it
            child.journal.cut(0)
            *steps, last = entry.history or ({},)
            for step, metrics in enumerate((*steps, {**last, **entry.scores})):
                child.journal.append(metrics, step, entry.end)
            outbox.save(self.root)
            self.recorded.add(entry.key)
            try:
                error: Exception | None = child.settle(0)
            except UserError as refusal:
                error = refusal
            if error:
                log.warning("MLflow did not take %s of %s, it waits: %s", entry.name, self.study, masked(error))
            else:
                shutil.rmtree(folder)

    def end(self, status: str, scores: Mapping[str, float], note: str, paths: Iterable[Path]) -> None:
        """Shows what the study has found, and closes its run."""
        self.run.sum_up(scores)
        self.run.tag(**{"mlflow.note.content": note})
        self.run.outbox.add(paths, self.folder)
        self.run.outbox.whole = True
        self.run.end(status)


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]
