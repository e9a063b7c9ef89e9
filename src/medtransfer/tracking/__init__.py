"""MLflow: open, record, finish, find. With promotion the only importer of mlflow.

A metric goes first to a journal in the run's folder, with its timestamp, and is sent from there: what is sent
twice is stored once, and nothing past a checkpoint is sent before the checkpoint is on disk.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from medtransfer import files
from medtransfer.errors import UserError

log = logging.getLogger("medtransfer")

PREFIX = "medtransfer/"
"""experiments are `medtransfer/<task>`"""
CHUNK = 100
"""MLflow's limit of params and tags in one request"""
SYSTEM_METRICS_SECONDS = 5


def uri(root: Path) -> str:
    """Says where MLflow's server or database is: MLFLOW_TRACKING_URI, else `mlflow.db` in the repository."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve()}/mlflow.db"


def connect(root: Path) -> MlflowClient:
    """Opens the tracking store, initialising a new database under a lock: two first touches would corrupt it.

    Raises:
        UserError: the store cannot be reached.
    """
    try:
        with files.lock(root / "data/runs/.database.lock"):
            client = MlflowClient(uri(root))
            client.search_experiments(max_results=1)
    except (MlflowException, OSError) as error:
        raise UserError(
            f"MLflow's store {uri(root)} cannot be opened: {error}. Set MLFLOW_TRACKING_URI or start it"
        ) from error
    return client


class Journal:
    """Append-only record of a run's metrics on disk: one JSON line per call; `check` raises if the run is another's."""

    def __init__(self, path: Path, check: Callable[[], None] = lambda: None) -> None:
        self.path, self.check = path, check
        self.before: dict[int, int] = {}
        """step -> time at which it was logged before it was cut; MLflow may have it, and stores a repeat once"""
        path.parent.mkdir(parents=True, exist_ok=True)

    def append(self, metrics: Mapping[str, float], step: int) -> None:
        """Adds one line and makes it durable."""
        self.check()
        now = self.before.pop(step, int(time.time() * 1000))
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
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

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


class TrackedRun:
    """One run in MLflow, fed from its journal."""

    def __init__(self, client: MlflowClient, run_id: str, journal: Journal) -> None:
        self.client, self.run_id, self.journal = client, run_id, journal
        self._sent = 0
        logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)  # says start and stop of each run
        self._monitor = SystemMetricsMonitor(
            run_id, sampling_interval=SYSTEM_METRICS_SECONDS, samples_before_logging=1, resume_logging=True,
            tracking_uri=client.tracking_uri,
        )  # fmt: skip
        self._monitored = False

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Sends what is behind the last checkpoint, then puts these metrics into the journal."""
        self.send()
        self.journal.append(metrics, step)

    def send(self) -> None:
        """Sends the journal's unsent lines; where the store is away they wait for the next call."""
        lines = self.journal.lines()
        metrics = [
            Metric(key, value, line["time"], line["step"])
            for line in lines[self._sent :]
            for key, value in line["metrics"].items()
        ]
        try:
            for i in range(0, len(metrics), 10 * CHUNK):
                self.client.log_batch(self.run_id, metrics=metrics[i : i + 10 * CHUNK])
            self._sent = len(lines)
            if metrics and not self._monitored:  # after the first scores: MLflow's comparison shows the first metric
                self._monitor.start()
                self._monitored = True
        except MlflowException as error:
            log.warning(
                "MLflow did not take metrics of run %s, they wait in %s: %s", self.run_id, self.journal.path, error
            )

    def artifacts(self, folder: Path, names: Iterable[str]) -> None:
        """Copies files of the run's folder to its artifacts."""
        self.journal.check()
        for name in names:
            self.client.log_artifact(self.run_id, str(folder / name))

    def dataset(self, name: str, digest: str, source: str, profile: Mapping[str, Any]) -> None:
        """Links the prepared data that the run reads, found again by `datasets.digest`."""
        entry = Dataset(
            name=name,
            digest=digest[:16],
            source_type="local",
            source=json.dumps({"uri": source}),
            profile=json.dumps(dict(profile)),
        )
        inputs = [DatasetInput(entry, [InputTag("mlflow.data.context", "training")])]
        try:
            self.client.log_inputs(self.run_id, inputs)
        except MlflowException:  # another worker stored the same dataset at the same moment: now it is found
            self.client.log_inputs(self.run_id, inputs)

    def leave(self) -> None:
        """Stops to watch the machine; the last metrics need no monitor."""
        if self._monitored:
            self._monitor.finish()
        self._monitored = True

    def end(self, status: str, message: str = "") -> None:
        """Closes the run as FINISHED, FAILED or KILLED.

        Raises:
            UserError: some metrics could not be sent; they are kept, and the run is not called finished.
        """
        self.leave()
        self.journal.check()
        self.send()
        if self._sent < len(self.journal.lines()) and status == "FINISHED":
            raise UserError(
                f"MLflow did not take all metrics; {self.journal.path} keeps them: start the same run again"
            )
        if message:
            self.client.set_tag(self.run_id, "error", message[:5000])
        elif "error" in self.client.get_run(self.run_id).data.tags:  # of an earlier attempt
            self.client.delete_tag(self.run_id, "error")
        self.client.set_terminated(self.run_id, status)


def open_run(root: Path, identity: Identity, check: Callable[[], None] = lambda: None) -> TrackedRun:
    """Opens the run of a digest: the unfinished one if there is one, else a new one.

    Args:
        root: the repository's top folder.
        identity: what the run is called and found by.
        check: raises where the run is another's by now; called before anything is written.
    """
    client = connect(root)
    place = experiment(client, PREFIX + identity.task)
    tags = {
        **identity.tags,
        "digest": identity.digest,
        "host": socket.gethostname(),
        "lock": str(identity.folder / "lock"),
    }
    if identity.parent:
        tags["mlflow.parentRunId"] = identity.parent
    former = [run for run in find(client, identity.task, identity.digest) if run.info.status != "FINISHED"]
    if former:
        run_id = former[0].info.run_id
        client.update_run(run_id, status="RUNNING", name=identity.name)
        client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])
    else:
        run_id = client.create_run(place, tags=tags, run_name=identity.name).info.run_id
        params = [Param(k, str(v)) for k, v in identity.params.items()]
        for i in range(0, len(params), CHUNK):
            client.log_batch(run_id, params=params[i : i + CHUNK])
    return TrackedRun(client, run_id, Journal(identity.folder / "journal.jsonl", check))


def experiment(client: MlflowClient, name: str) -> str:
    """Finds or makes an experiment; another worker may make it at the same moment."""
    for _ in range(2):
        found = client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(client.create_experiment(name, tags={"mlflow.experimentKind": "custom_model_development"}))
        except MlflowException:
            continue
    raise UserError(f"MLflow's experiment {name} can be neither found nor made; was it deleted? Restore it in the UI")


def find(client: MlflowClient, task: str, digest: str) -> list[Run]:
    """Finds the runs of a digest, newest first."""
    found = client.get_experiment_by_name(PREFIX + task)
    if found is None:
        return []
    return list(client.search_runs([found.experiment_id], f"tags.digest = '{digest}'"))


def finished(client: MlflowClient, task: str, digest: str) -> Run | None:
    """Returns the finished run of a digest."""
    return next((run for run in find(client, task, digest) if run.info.status == "FINISHED"), None)


def download(client: MlflowClient, run: Run, names: list[str], folder: Path) -> None:
    """Brings a finished run's artifacts back to its folder."""
    for name in names:
        client.download_artifacts(run.info.run_id, name, str(folder))


def reap(client: MlflowClient) -> int:
    """Ends, as KILLED, every RUNNING run of this host whose process is gone; returns how many.

    A living owner holds the run's lock, which the kernel frees when the process dies.
    """
    experiments = [
        e.experiment_id for e in client.search_experiments() if e.name.startswith(PREFIX) or e.experiment_id == "0"
    ]
    gone = 0
    here = f"attributes.status = 'RUNNING' and tags.host = '{socket.gethostname()}'"
    for run in client.search_runs(experiments, here) if experiments else []:
        path = Path(run.data.tags.get("lock", ""))
        held = files.lock(path, wait=False) if path.parent.is_dir() else contextlib.nullcontext(True)
        with held as free:
            if free:
                client.set_terminated(run.info.run_id, "KILLED")
                gone += 1
    return gone
