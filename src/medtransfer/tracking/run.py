"""One run in MLflow, fed from what is on disk of it: MLflow may be away at any moment, and hears all of it later.

What is sent twice is stored once, because a metric keeps its first timestamp. Nothing past a checkpoint is sent before
the checkpoint is on disk.
"""

from __future__ import annotations

import functools
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import requests
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from medtransfer.core import files
from medtransfer.core.errors import UserError
from medtransfer.tracking import store
from medtransfer.tracking.address import PREFIX
from medtransfer.tracking.outbox import Journal, Outbox
from medtransfer.tracking.store import CHUNK, brief, connect, experiment, find, masked, temporary

log = logging.getLogger("medtransfer")

SHARE = 10.0
"""a try that failed is followed by a pause of so many times its length: an outage costs training a tenth at most"""
UPLOAD = 120
"""seconds in which MLflow must have passed a file on to its object store"""
SYSTEM_METRICS_SECONDS = 5
PARTING = 5.0
"""seconds for which the watch over the machine may hold up the end of a run"""


class TrackedRun:
    """A run that this process works at, or that a dead one left."""

    def __init__(
        self, root: Path, outbox: Outbox, check: Callable[[], None] = lambda: None, *, watch: bool = False
    ) -> None:
        """Takes what is on disk of a run.

        Args:
            root: the repository's top folder.
            outbox: what MLflow must hear of the run.
            check: raises where the run is another's by now.
            watch: whether the machine is watched while the run lasts.
        """
        self.root, self.outbox, self.folder = root, outbox, root / outbox.folder
        self.journal = Journal(self.folder / "journal.jsonl", check)
        self.client: MlflowClient
        self.run_id = ""
        """MLflow's; empty until MLflow was reached"""
        self.late = self._over = False
        self._sent = 0
        self._data_sent = False
        self._uploaded: set[str] = set()
        self._untold = dict[str, str]()
        """tags that were added since the run was opened"""
        self._next = 0.0
        self._watch = watch
        self._monitor: SystemMetricsMonitor | None = None

    def open(self) -> None:
        """Finds the run in MLflow, or makes it.

        Raises:
            Away: MLflow does not answer.
        """
        self.client = connect(self.root)
        place = experiment(self.client, PREFIX + self.outbox.task)
        runs = find(self.client, self.outbox.task, self.outbox.digest)
        whole = [run for run in runs if run.info.status == "FINISHED"]
        if self.late and whole and not self.outbox.again:  # another process did it all meanwhile, to the same numbers
            self.run_id, self._over = whole[0].info.run_id, True
            return
        former = next((run for run in runs if self.outbox.again or run.info.status != "FINISHED"), None)
        run = former or self.client.create_run(
            place, start_time=self.outbox.start, tags=self.outbox.tags, run_name=self.outbox.name
        )
        self._describe(run, former is not None)
        self.run_id = run.info.run_id

    def _describe(self, run: Run, known: bool) -> None:
        run_id = run.info.run_id
        if known:
            self.client.update_run(run_id, status="RUNNING", name=self.outbox.name)
            self.client.log_batch(run_id, tags=[RunTag(k, v) for k, v in self.outbox.tags.items()])
        params = [Param(k, v) for k, v in self.outbox.params.items() if k not in run.data.params]
        for i in range(0, len(params), CHUNK):
            self.client.log_batch(run_id, params=params[i : i + CHUNK])

    def open_later(self, error: Exception) -> None:
        """Lets the run go on without MLflow."""
        log.warning("run %s goes on without MLflow: %s", self.outbox.name, masked(error))
        self.late, self._next = True, time.monotonic() + 1

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Sends what is behind the last checkpoint, then puts these metrics into the journal."""
        self.send()
        self.journal.append(metrics, step)

    def resumed(self, steps: int) -> None:
        """Goes on from a checkpoint of so many steps: what the journal has beyond them is measured again."""
        self.journal.cut(steps)
        self.outbox.kept = steps
        self.outbox.save(self.root)

    def kept(self, steps: int) -> None:
        """Is told that a checkpoint holds so many steps by now; sends what they measured."""
        self.outbox.kept = steps
        self.outbox.save(self.root)
        self.send()

    def _behind(self) -> list[dict[str, Any]]:
        """Lists the steps that a checkpoint holds, those that the journal has where none is spoken of."""
        lines, kept = self.journal.lines(), self.outbox.kept
        return lines if kept is None else [line for line in lines if line["step"] < kept]

    def send(self) -> None:
        """Sends what the journal holds; where MLflow is away it waits for a later call."""
        start = time.monotonic()
        if start < self._next:
            return
        try:
            with brief():
                self._deliver(self._behind())
        except Exception as error:
            if not (temporary(error) or isinstance(error, MlflowException)):
                raise
            self._miss(error, time.monotonic() - start)
        else:
            if self._next:
                log.info("run %s: MLflow has all that waited", self.outbox.name)
            self._next = 0.0

    def _miss(self, error: Exception, seconds: float) -> None:
        if not self._next:
            log.warning("MLflow did not take metrics of run %s, they wait on disk: %s", self.outbox.name, masked(error))
        self._next = time.monotonic() + SHARE * seconds
        self._stop_watch()  # it does not outlive an outage; the next send starts another

    def _deliver(self, lines: list[dict[str, Any]]) -> None:
        """Opens the run where it is not open yet, and sends its data's name and the journal's lines."""
        if not self.run_id:
            self.open()
        if self._over:
            return
        if self.outbox.data and not self._data_sent:
            self._send_data(self.outbox.data)
            self._data_sent = True
        metrics = [
            Metric(key, value, line["time"], line["step"])
            for line in lines[self._sent :]
            for key, value in line["metrics"].items()
        ]
        for i in range(0, len(metrics), 10 * CHUNK):
            self.client.log_batch(self.run_id, metrics=metrics[i : i + 10 * CHUNK])
        self._sent = len(lines)
        if metrics and self._watch and self._monitor is None:
            self._start_watch()  # after the first scores: MLflow's comparison shows the first metric

    def _start_watch(self) -> None:
        logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)  # says start, stop and each outage
        self._monitor = SystemMetricsMonitor(
            self.run_id, sampling_interval=SYSTEM_METRICS_SECONDS, samples_before_logging=1, resume_logging=True,
            tracking_uri=self.client.tracking_uri,
        )  # fmt: skip
        self._monitor.start()

    def _stop_watch(self) -> None:
        """Stops to watch the machine, without waiting for a server that is away."""
        if self._monitor is not None:
            parting = threading.Thread(target=self._monitor.finish, daemon=True)
            parting.start()
            parting.join(PARTING)
        self._monitor = None

    def _send_data(self, data: Mapping[str, str]) -> None:
        entry = Dataset(source_type="local", **data)
        inputs = [DatasetInput(entry, [InputTag("mlflow.data.context", "training")])]
        try:
            self.client.log_inputs(self.run_id, inputs)
        except MlflowException:  # another worker stored the same dataset at the same moment: now it is found
            self.client.log_inputs(self.run_id, inputs)

    def dataset(self, name: str, digest: str, source: str, profile: Mapping[str, Any]) -> None:
        """Links the prepared data that the run reads, found again by MLflow by `datasets.digest`."""
        self.journal.check()
        source, profile_text = json.dumps({"uri": source}), json.dumps(dict(profile))
        self.outbox.data = {"name": name, "digest": digest[:16], "source": source, "profile": profile_text}
        self.outbox.save(self.root)
        self._data_sent = False

    def artifacts(self, folder: Path, names: Iterable[str]) -> None:
        """Names files and folders for the run's artifacts; `end` copies them."""
        self.journal.check()
        self.outbox.add([folder / name for name in names], self.folder)
        self.outbox.save(self.root)

    def tag(self, **tags: str) -> None:
        """Adds what is known of the run only now; `end` sends it."""
        self.journal.check()
        self.outbox.tags |= tags
        self._untold |= tags
        self.outbox.save(self.root)

    def sum_up(self, metrics: Mapping[str, float]) -> None:
        """Notes the numbers of a run without steps, in the place of those of an attempt before."""
        self.journal.cut(0)
        self.journal.append(metrics, 0)

    def hand_over(self) -> None:
        """Sends all that there is to say but how the run ends: what is done next can then be traced to it.

        Raises:
            Away: MLflow does not take it in time.
            UserError: MLflow refuses something.
        """
        if error := self._try(functools.partial(self._send_all, whole=True), store.PATIENCE):
            raise store.Away(f"MLflow does not take run {self.outbox.name}: {masked(error)}") from error

    def leave(self) -> None:
        """Stops to watch the machine; the last metrics need no watch."""
        self._stop_watch()
        self._watch = False

    def end(self, status: str, message: str = "") -> None:
        """Closes the run as FINISHED, FAILED or KILLED; what MLflow does not take in time waits on disk for `sync`.

        Raises:
            UserError: MLflow refuses what a finished run has to say.
        """
        self.leave()
        self.journal.check()
        self.outbox.close(status, message)
        self.outbox.save(self.root)
        error = self.settle(store.PATIENCE if status == "FINISHED" else 0)
        if error:
            log.warning(
                "MLflow does not have all of run %s, which is whole on disk; `medtransfer sync` sends the rest: %s",
                self.outbox.name, masked(error),
            )  # fmt: skip

    def fail(self, error: BaseException) -> None:
        """Closes the run as what an exception makes of it: FAILED, or KILLED where it was stopped.

        What goes wrong in that hides not the failure itself. A run that had ended, and is stopped while MLflow hears
        of it, stays as it ended: the rest waits on disk.
        """
        self.leave()
        stopped = not isinstance(error, Exception)
        if self.outbox.status == "FINISHED" and stopped:
            return
        try:
            self.journal.check()
        except Exception:  # the run is another's by now, who says how it ends
            return
        try:
            self.end("KILLED" if stopped else "FAILED", f"{type(error).__name__}: {error}")
        except Exception as second:
            log.warning("MLflow was not told that run %s failed: %s", self.outbox.name, masked(second))

    def settle(self, seconds: float) -> Exception | None:
        """Sends all that waits and closes the run, within so many seconds; returns what stood in the way.

        Raises:
            UserError: MLflow refuses something.
        """
        return self._try(self._settle, seconds)

    def _try(self, action: Callable[[], None], seconds: float) -> Exception | None:
        try:
            return store.patiently(action, seconds)
        except (MlflowException, requests.RequestException) as error:
            raise UserError(
                f"MLflow refuses what run {self.outbox.name} ({self.outbox.digest}) has to say: {masked(error)}. "
                f"It is all in {self.folder}; mend the cause and start the same run again"
            ) from error

    def _settle(self) -> None:
        self._send_all(whole=self.outbox.whole or self.outbox.status == "FINISHED")
        if not self._over:
            self._close()
        self.outbox.remove(self.root)

    def _send_all(self, *, whole: bool) -> None:
        """Sends all but the end; of a run cut off without the steps that a resume trains again."""
        self.journal.check()
        lines = self.journal.lines() if whole else self._behind()
        open_ = not whole and self.outbox.kept is None  # the last step's checkpoint may not be there
        self._deliver([line for line in lines if line["step"] < lines[-1]["step"]] if open_ else lines)
        if self._over:
            return
        if self._untold:
            self.client.log_batch(self.run_id, tags=[RunTag(k, v) for k, v in self._untold.items()])
            self._untold = {}
        self._upload(whole=whole)

    def _upload(self, *, whole: bool) -> None:
        for name in self.outbox.artifacts:
            path = self.folder / name
            if name in self._uploaded:
                continue
            if not path.exists() and not whole:
                continue
            _sign(path, self.run_id)
            with brief(UPLOAD):
                if path.is_dir():
                    self.client.log_artifacts(self.run_id, str(path), path.name)
                else:
                    self.client.log_artifact(self.run_id, str(path))
            self._uploaded.add(name)

    def _close(self) -> None:
        if self.outbox.message:
            self.client.set_tag(self.run_id, "error", self.outbox.message[:5000])
        elif "error" in self.client.get_run(self.run_id).data.tags:  # of an earlier attempt
            self.client.delete_tag(self.run_id, "error")
        self.client.set_terminated(self.run_id, self.outbox.status, self.outbox.end)


def _sign(path: Path, run_id: str) -> None:
    """Writes MLflow's name of a run into its results where they were written before MLflow was reached."""
    if path.suffix != ".json":
        return
    content = json.loads(path.read_text())
    if content.get("mlflow_run_id") == "":
        files.write_text(path, json.dumps(content | {"mlflow_run_id": run_id}, indent=1))
