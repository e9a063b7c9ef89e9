"""The servers of `medtransfer services` in a folder of their own, to be interrupted; skips where they are missing."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from mlflow import MlflowClient

from medtransfer.core.errors import UserError
from medtransfer.services import daemons, database, servers


def missing() -> str:
    """Says what the servers lack here; empty where nothing."""
    try:
        database.programs()
        servers.rclone()
    except UserError as error:
        return str(error)
    found = importlib.util.find_spec("flask_wtf")
    return "" if found else "Flask-WTF, which MLflow's basic auth needs, is not installed; pip install Flask-WTF"


def free_port() -> int:
    """Finds three free ports in a row."""
    for port in range(20000 + os.getpid() % 1000 * 20, 60000, 3):
        if not any(daemons.listens(port + k) for k in range(3)):
            return port
    raise RuntimeError("no three free ports in a row")


class Servers:
    """Servers that can be taken away and brought back."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.environment = self.start()

    def start(self) -> dict[str, str]:
        return servers.start(self.folder, self.port)

    def stop(self, name: str) -> None:
        assert daemons.stop(name, self.folder.resolve(), servers.NAMES[name])

    def command(
        self, top: Path, root: Path, *words: str, output: int | IO[str] = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        """Starts a verb as a process of its own that uses the servers."""
        own = {"PYTHONPATH": str(top / "src"), "OMP_NUM_THREADS": "1", **self.environment}
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_RUN_ID"} | own
        return subprocess.Popen(
            [sys.executable, "-m", "medtransfer", *words],
            cwd=root, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip


@contextlib.contextmanager
def running() -> Iterator[Servers]:
    """Runs the servers while the block runs."""
    if reason := missing():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="services-"))  # not in tmp_path, which PostgreSQL's account may not enter
    folder.chmod(0o755)
    try:
        yield Servers(folder / "services")
    finally:
        servers.stop(folder / "services")
        shutil.rmtree(folder, ignore_errors=True)


Point = tuple[str, str, int, int, float]
"""digest, key, step, milliseconds, value"""


def journaled(root: Path) -> Counter[Point]:
    """Counts the metrics that the journals hold."""
    found: Counter[Point] = Counter()
    for path in sorted((root / "data/runs").glob("*/journal.jsonl")):
        for line in map(json.loads, path.read_text().splitlines()):
            found.update((path.parent.name, k, line["step"], line["time"], v) for k, v in line["metrics"].items())
    return found


def tracked(client: MlflowClient, task: str) -> tuple[Counter[Point], Counter[str]]:
    """Counts the metrics that MLflow holds of a task's runs, without those of the machine, and the runs by status."""
    found: Counter[Point] = Counter()
    states: Counter[str] = Counter()
    place = client.get_experiment_by_name(f"medtransfer/{task}")
    for run in client.search_runs([place.experiment_id]) if place else []:
        states[run.info.status] += 1
        for key in run.data.metrics:
            if not key.startswith("system/"):
                points = client.get_metric_history(run.info.run_id, key)
                found.update((run.data.tags["digest"], key, p.step, p.timestamp, p.value) for p in points)
    return found, states
