"""A recommendation in MLflow: a parent run, below it a run for each stage and the trainings themselves."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from medtransfer.core import files
from medtransfer.core.errors import UserError
from medtransfer.tracking import Identity, open_run, recorded
from medtransfer.tracking.store import masked

log = logging.getLogger("medtransfer")


class ParentRun:
    """The run of a recommendation, found again by its digest; whoever makes it holds the folder's lock."""

    def __init__(
        self, root: Path, digest: str, task: str, folder: Path, params: Mapping[str, Any], parent: str | None
    ) -> None:
        """Takes what is asked; `parent` is the launcher's run."""
        self.root, self.digest, self.task, self.folder = root, digest, task, folder
        identity = Identity(
            name=f"recommend · {task}", task=task, digest=digest, tags={"verb": "recommend", "task": task},
            params=params, folder=folder, parent=parent, again=True,
        )  # fmt: skip
        self.run = open_run(root, identity, later=True)

    @property
    def run_id(self) -> str:
        """Is MLflow's name of the run; empty where it does not answer."""
        return self.run.run_id

    def stage(self, name: str, metrics: Mapping[str, float], text: str) -> None:
        """Writes what a stage came to as a run of its own; what MLflow does not take waits on disk."""
        digest = hashlib.sha256(f"{self.digest} {name}".encode()).hexdigest()[:32]
        folder = self.root.resolve() / "data/runs" / digest
        identity = Identity(
            name=f"{name} · {self.task}", task=self.task, digest=digest,
            tags={"verb": "recommend", "stage": name, "mlflow.note.content": text}, params={}, folder=folder,
            parent=self.run_id or None, again=True,
        )  # fmt: skip
        with files.lock(folder / "lock"):
            try:
                with recorded(self.root, identity, later=True) as run:
                    run.sum_up({_metric(key): value for key, value in metrics.items()})
            except (MlflowException, UserError, OSError) as error:
                log.warning("MLflow did not take the stage %s: %s", name, masked(error))

    def end(self, metrics: Mapping[str, float], tags: Mapping[str, str], text: str, paths: Iterable[Path]) -> None:
        """Shows the answer and closes the run."""
        self.run.sum_up(metrics)
        self.run.tag(**{"mlflow.note.content": text, **tags})
        self.run.outbox.add(paths, self.folder)
        self.run.outbox.whole = True
        self.run.end("FINISHED")

    def fail(self, error: BaseException) -> None:
        """Closes the run as what an exception makes of it."""
        self.run.fail(error)


def _metric(name: str) -> str:
    """Makes a name that MLflow takes for a metric."""
    return re.sub(r"[^A-Za-z0-9_\-./ ]", "_", name)[:250]
