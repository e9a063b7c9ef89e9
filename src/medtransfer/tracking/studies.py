"""Studies in MLflow: one parent run per study, its trials below it, in the experiment `medtransfer/tuning`."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunStatus, RunTag
from mlflow.exceptions import MlflowException

from medtransfer.tracking import CHUNK, PREFIX, connect, experiment
from medtransfer.tracking.store import brief, temporary

log = logging.getLogger("medtransfer")

EXPERIMENT = PREFIX + "tuning"


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
    """The run of a study; it is found again by the study's name and lock, and goes on."""

    def __init__(self, root: Path, study: str, lock: Path, tags: Mapping[str, str], params: Mapping[str, Any]) -> None:
        self.client = connect(root)
        self.place = experiment(self.client, EXPERIMENT)
        every = {**tags, "study": study, "host": socket.gethostname(), "lock": str(lock)}
        found = self.client.search_runs([self.place], f"tags.study = '{study}' and tags.verb = 'tune'")
        if found:
            self.run_id = found[0].info.run_id
            self.client.update_run(self.run_id, status="RUNNING")
            self.client.log_batch(self.run_id, tags=[RunTag(k, v) for k, v in every.items()])
        else:
            name = f"{tags['init']} on {tags['task']}"
            self.run_id = self.client.create_run(self.place, tags=every, run_name=name).info.run_id
            self._params(self.run_id, params)
        self.recorded = self._recorded()
        self.waiting: list[Entry] = []

    def _recorded(self) -> set[str]:
        """Lists the keys of the trials that are in MLflow whole; one that a kill cut off is written again."""
        children = self.client.search_runs(
            [self.place], f"tags.`mlflow.parentRunId` = '{self.run_id}'", max_results=5000
        )
        for child in children:
            if child.info.status == "RUNNING":
                self.client.delete_run(child.info.run_id)
        return {child.data.tags.get("trial", "") for child in children if child.info.status != "RUNNING"}

    def _params(self, run_id: str, params: Mapping[str, Any]) -> None:
        entries = [Param(key, str(value)) for key, value in params.items()]
        for i in range(0, len(entries), CHUNK):
            self.client.log_batch(run_id, params=entries[i : i + CHUNK])

    def record(self, entries: Iterable[Entry]) -> None:
        """Writes trials that are not in MLflow; where it is away they wait for the next call."""
        self.waiting += [entry for entry in entries if entry.key not in self.recorded]
        while self.waiting:
            try:
                with brief():
                    self._write(self.waiting[0])
            except MlflowException as error:
                log.warning("MLflow did not take trial %s, it waits: %s", self.waiting[0].name, error)
                return
            self.recorded.add(self.waiting.pop(0).key)

    def _write(self, entry: Entry) -> None:
        tags = {**entry.tags, "trial": entry.key, "mlflow.parentRunId": self.run_id}
        made = self.client.create_run(self.place, start_time=entry.start, tags=tags, run_name=entry.name)
        run_id = made.info.run_id
        lines = [*enumerate(entry.history), (max(0, len(entry.history) - 1), entry.scores)]
        metrics = [Metric(key, value, entry.end, step) for step, line in lines for key, value in line.items()]
        self._params(run_id, entry.params)
        for i in range(0, len(metrics), 10 * CHUNK):
            self.client.log_batch(run_id, metrics=metrics[i : i + 10 * CHUNK])
        self.client.set_terminated(run_id, entry.status, entry.end)

    def end(self, status: str, scores: Mapping[str, float], note: str, files: Iterable[Path]) -> None:
        """Shows what the study has found, and closes its run."""
        try:
            for path in files:
                self.client.log_artifact(self.run_id, str(path))
            now = int(time.time() * 1000)
            self.client.log_batch(self.run_id, metrics=[Metric(k, v, now, 0) for k, v in scores.items()])
            self.client.set_tag(self.run_id, "mlflow.note.content", note)
            self.client.set_terminated(self.run_id, RunStatus.to_string(RunStatus.from_string(status)))
        except Exception as error:
            if not temporary(error):
                raise
            log.warning("MLflow did not take the end of study run %s: %s; run `tune` again", self.run_id, error)
