"""Measures what a cell costs in a warm worker beyond its training: identity, MLflow, artifacts, curves, locks.

Settings: phantoms of Shenzhen at 32 px, a small ResNet, 3 epochs, one thread, this process as the worker, MLflow on
SQLite. The bare loop is the same Trainer without a tracker: model, loader, fit and test. The first two cells warm the
process up; after that the two are measured in turns.

`--realistic` takes ResNet-50 at 224 px, one epoch of some fifty images, and a val and test that are read by ten views.
After each cell some bare steps and forwards are taken on batches that are there already; times their number in a cell
they are what the protocol orders. More epochs come nearer to that sum: what is beyond it comes once a cell.

    PYTHONPATH=src:. python benchmarks/execution.py [--realistic] [--cells 12]
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tests.support import workspace

from medtransfer import params as parameters
from medtransfer.data.phantoms import write
from medtransfer.runs import building, finetune
from medtransfer.runs.execution import pull
from medtransfer.runs.run import Run, plan

WARM = 2
TOP = Path(__file__).parent.parent
IMAGES, STEPS = 80, 2
REALISTIC = {
    "model.backbone": "resnet50", "tasks.shenzhen.cache_size": "256", "tasks.shenzhen.image_size": "224",
    "classification.batch_size": "16", "classification.max_epochs": "1", "classification.test_views": "10",
    "execution.checkpoint_seconds": "30",
}  # fmt: skip


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


def orders(run: Run) -> tuple[float, float]:
    """Measures what the protocol orders of a cell: CPU seconds of its bare steps, and of the bare forwards."""
    trainer, views = building.trainer(run)[0], 10
    rows, protocol = trainer.rows, trainer.protocol
    trained = len(rows["train"]) * protocol.max_epochs  # the last batch of an epoch is a short one
    images = len(rows["val"]) * (protocol.max_epochs + views) + len(rows["test"]) * views
    batch = next(iter(trainer.loader.train(rows["train"], protocol.augmentation, 0, 0, 1)))
    trainer.model.train()
    start = time.process_time()
    for _ in range(STEPS):
        trainer.step(batch)
    stepped = time.process_time() - start
    batch = next(iter(trainer.loader.evaluate(rows["test"], views)))
    trainer.model.eval()
    with torch.inference_mode():
        start = time.process_time()
        for _ in range(STEPS):
            trainer.forward(batch.inputs)
        passed = time.process_time() - start
    return stepped / STEPS / protocol.batch_size * trained, passed / STEPS / len(batch.inputs) * images


def realistic(cells: int) -> None:
    """Prints the sum of some realistic cells against what the protocol orders of them."""
    with tempfile.TemporaryDirectory() as folder:
        root = workspace.make(Path(folder), TOP)
        write.write("shenzhen", root / "data/phantoms/shenzhen", images=IMAGES, size=300, seed=0, contrast=1.0)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{root}/mlflow.db"
        params = parameters.load(root / "params.yaml")
        pull.set_threads(params.execution.threads_per_run)
        tracked(plan(params, root, ["random"], ["shenzhen"], [0])[0])  # a small one warms the process up
        planned = plan(parameters.load(root / "params.yaml", REALISTIC), root, ["random"], ["shenzhen"], range(cells))
        other = [dataclasses.replace(run, seed=run.seed + 1000) for run in planned]
        found = [(seconds(tracked, one)[1], *orders(two)) for one, two in zip(planned, other, strict=True)]
    for each in found:
        print(*(f"{value:.2f}" for value in each), "CPU s: cell, its steps, its forwards")
    whole, steps, forwards = (sum(column) for column in zip(*found, strict=True))
    print(
        f"{cells} cells: {whole:.1f} CPU s, their bare steps {steps:.1f} s, bare forwards of val and test "
        f"{forwards:.1f} s; ratio to the steps {whole / steps:.3f}, to steps and forwards "
        f"{whole / (steps + forwards):.3f}, beyond these {(whole - steps - forwards) / cells:.2f} s a cell"
    )


def main() -> None:
    """Prints the seconds per cell with and without what the benchmark adds, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--realistic", action="store_true")
    parser.add_argument("--cells", type=int, default=12)
    options = parser.parse_args()
    if options.realistic:
        realistic(options.cells)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = workspace.make(Path(folder), TOP, "shenzhen")
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{root}/mlflow.db"
        params = parameters.load(root / "params.yaml")
        pull.set_threads(params.execution.threads_per_run)
        planned = plan(params, root, ["random"], ["shenzhen"], range(options.cells + WARM))
        other = [dataclasses.replace(run, seed=run.seed + 1000) for run in planned]
        pairs = [(seconds(tracked, one), seconds(bare, two)) for one, two in zip(planned, other, strict=True)]
    for name, column in (("clock", 0), ("processor", 1)):
        whole, alone = (statistics.median(pair[side][column] for pair in pairs[WARM:]) for side in (0, 1))
        print(
            f"{name}, median of {options.cells} cells: whole {whole:.3f} s, bare loop {alone:.3f} s, "
            f"added {whole - alone:.3f} s, ratio {whole / alone:.2f}"
        )


if __name__ == "__main__":
    main()
