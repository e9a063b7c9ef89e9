"""The run that `mlflow run` opened before this code started."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

from medtransfer import tracking
from medtransfer.core import files

log = logging.getLogger("medtransfer")


class Launcher:
    """The run that `mlflow run` opened before this code started; where there is none, nothing happens.

    Its lock is held while the block runs, so that a launcher whose process was killed is found.
    """

    def __init__(self, root: Path) -> None:
        self.run_id = os.environ.get("MLFLOW_RUN_ID")
        self.root = root
        self.lock = root.resolve() / "data/runs/launchers" / f"{self.run_id}.lock"
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Launcher:
        if self.run_id:
            self._held.enter_context(files.lock(self.lock))
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def start(self, name: str, tags: Mapping[str, str]) -> None:
        """Names and tags the launcher."""
        if self.run_id:
            from mlflow.entities import RunTag

            client = tracking.connect(self.root)
            client.update_run(self.run_id, name=name)
            own = {"host": socket.gethostname(), "lock": str(self.lock)}
            client.log_batch(self.run_id, tags=[RunTag(k, v) for k, v in {**tags, **own}.items()])

    def table(self, markdown: str, digests: str) -> None:
        """Shows a table of the children as the launcher's description and artifact, and tags their digests."""
        if self.run_id:
            self._tell(functools.partial(self._table, markdown, digests), patient=True)

    def _table(self, markdown: str, digests: str) -> None:
        client = tracking.connect(self.root)
        client.set_tag(self.run_id, "mlflow.note.content", markdown)
        client.set_tag(self.run_id, "digests", digests[:5000])
        client.log_text(self.run_id, markdown, "runs.md")

    def fail(self, name: str, message: str) -> None:
        """Tags the launcher with what went wrong; `mlflow run` ends it FAILED by our exit code."""
        if self.run_id:
            self._tell(functools.partial(self._fail, name, message), patient=False)

    def _fail(self, name: str, message: str) -> None:
        client = tracking.connect(self.root)
        client.set_tag(self.run_id, "error", message[:5000])
        if "verb" not in client.get_run(self.run_id).data.tags:  # refused before it was named
            client.update_run(self.run_id, name=name)

    def _tell(self, action: Callable[[], None], *, patient: bool) -> None:
        """Does without MLflow where it is away: the work itself is done and kept."""
        from medtransfer.tracking import store

        error = store.patiently(action, store.PATIENCE if patient else 0)
        if error:
            log.warning("MLflow was not told what came of its run %s: %s", self.run_id, store.masked(error))
