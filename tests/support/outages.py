"""A benchmark of tiny cells whose servers go away in the middle, and what is lost by it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medtransfer import tracking
from tests.support import servers, workspace
from tests.support.servers import Servers

OUTAGES = ("mlflow", "postgresql", "s3", "mlflow")
"""what goes away, one after the other"""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What came of an interrupted benchmark."""

    outages: int
    """of OUTAGES, those that ended while the benchmark was at work"""
    seconds: float
    away: float
    """seconds in which one of the servers was away, starting it included"""
    trained: int
    """epochs that were trained while one of the servers was away"""
    points: int
    """metrics in the journals: a key, step, time and value each"""
    lost: int
    """of them, not in MLflow"""
    doubled: int
    """in MLflow more often than in the journals"""
    synced: int
    """runs that `medtransfer sync` had to send after the benchmark"""
    states: dict[str, int]


def make(root: Path, top: Path, cells: int, epochs: int) -> None:
    """Makes a repository of so many cells."""
    workspace.make(root, top, "shenzhen")
    tree: dict[str, Any] = yaml.safe_load((root / "params.yaml").read_text())
    tree["benchmark"] |= {"tasks": ["shenzhen"], "seeds": list(range(cells))}
    tree["classification"] |= {"max_epochs": epochs, "patience": epochs}
    tree["execution"] |= {"workers": 2}
    (root / "params.yaml").write_text(yaml.safe_dump(tree))


def epochs_of(root: Path) -> int:
    """Counts the lines of all journals."""
    return sum(path.read_text().count("\n") for path in (root / "data/runs").glob("*/journal.jsonl"))


def interrupt(up: Servers, top: Path, root: Path, *, seconds: float, cells: int, epochs: int) -> Figures:
    """Runs the benchmark of `cells` cells while each server of OUTAGES is away for so many seconds and its start."""
    make(root, top, cells, epochs)
    start = time.monotonic()
    with open(root / "log", "w") as log:
        process = up.command(top, root, "benchmark", output=log)
        outages, away, trained = 0, 0.0, 0
        for name in OUTAGES:
            _wait_for(root, epochs_of(root) + 20, process)
            before, since = epochs_of(root), time.monotonic()
            up.stop(name)
            time.sleep(seconds)
            trained += epochs_of(root) - before
            up.start()
            away += time.monotonic() - since
            outages += process.poll() is None
        code = process.wait(timeout=1800)
    assert code == 0, (root / "log").read_text()
    unsent = len(tracking.waiting(root))
    syncing = up.command(top, root, "sync")
    output, _ = syncing.communicate(timeout=600)
    assert syncing.returncode == 0, output
    ended = time.monotonic() - start
    kept = servers.journaled(root)
    held, states = servers.tracked(tracking.connect(root), "shenzhen")
    return Figures(
        outages=outages, seconds=ended, away=away, trained=trained, points=kept.total(), lost=(kept - held).total(),
        doubled=(held - kept).total(), synced=unsent, states=dict(states),
    )  # fmt: skip


def _wait_for(root: Path, epochs: int, process: Any) -> None:
    while epochs_of(root) < epochs and process.poll() is None:
        time.sleep(0.2)
