"""Measures what a cell costs in a warm worker beyond its training: identity, MLflow, artifacts, curves, locks.

Settings: phantoms of Shenzhen at 32 px, a small ResNet, 3 epochs, one thread, this process as the worker, MLflow on
SQLite. The bare loop is the same Trainer without a tracker: model, loader, fit and test. The first two cells warm the
process up; after that the two are measured in turns.

    PYTHONPATH=src:. python benchmarks/execution.py
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.support import workspace

from medtransfer import params as parameters
from medtransfer.runs import building, finetune
from medtransfer.runs.execution import pull
from medtransfer.runs.run import Run, plan

CELLS, WARM = 12, 2
TOP = Path(__file__).parent.parent


def bare(run: Run) -> None:
    """Trains and tests without a tracker."""
    run.folder.mkdir(parents=True)
    trainer, _ = building.trainer(run)
    trainer.run(lambda metrics, epoch: None, lambda progress: None)
    trainer.test()


def tracked(run: Run) -> None:
    """Executes a run as a worker does."""
    finetune.execute(run, lambda progress: None)


def seconds(function: Callable[[Run], None], run: Run) -> tuple[float, float]:
    """Measures (seconds by the clock, seconds of the processor, those of other threads too)."""
    wall, processor = time.perf_counter(), time.process_time()
    function(run)
    return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    """Prints the seconds per cell with and without what the benchmark adds, and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        root = workspace.make(Path(folder), TOP, "shenzhen")
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{root}/mlflow.db"
        params = parameters.load(root / "params.yaml")
        pull.set_threads(params.execution.threads_per_run)
        planned = plan(params, root, ["random"], ["shenzhen"], range(CELLS + WARM))
        other = [dataclasses.replace(run, seed=run.seed + 1000) for run in planned]
        pairs = [(seconds(tracked, one), seconds(bare, two)) for one, two in zip(planned, other, strict=True)]
    for name, column in (("clock", 0), ("processor", 1)):
        whole, alone = (statistics.median(pair[side][column] for pair in pairs[WARM:]) for side in (0, 1))
        print(
            f"{name}, median of {CELLS} cells: whole {whole:.3f} s, bare loop {alone:.3f} s, "
            f"added {whole - alone:.3f} s, ratio {whole / alone:.2f}"
        )


if __name__ == "__main__":
    main()
