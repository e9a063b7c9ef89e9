"""Which runs exist, which are finished, do the rest; shows where each stands."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars

from medtransfer import examples, execution, finetuning, tracking
from medtransfer.errors import UserError
from medtransfer.finetuning import RESULTS
from medtransfer.params import Execution
from medtransfer.runs import Run
from medtransfer.training import Progress

log = logging.getLogger("medtransfer")


class Display:
    """One progress bar per run that is being trained, on a terminal; elsewhere a line per finished run."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.live = sys.stderr.isatty()
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs  {task.fields[text]}"),
            console=Console(stderr=True),
            disable=not self.live,
        )
        self.rows: dict[int, Any] = {}

    def __enter__(self) -> Display:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def update(self, index: int, progress: Progress) -> None:
        """Moves a run's bar: epoch, images/s, val score and time left."""
        text = (
            f"{progress.images_per_second:.0f} images/s  {progress.monitor} {progress.value:.4f}  "
            f"{progress.seconds_left:.0f} s left"
        )
        if index not in self.rows:
            run = self.runs[index]
            self.rows[index] = self.bars.add_task(f"{run.task} {run.name}", total=progress.max_epochs, text=text)
        self.bars.update(self.rows[index], completed=progress.epoch, text=text)

    def done(self, index: int, outcome: dict[str, Any] | Exception, number: int) -> None:
        """Says how a run ended."""
        run = self.runs[index]
        if index in self.rows:
            self.bars.remove_task(self.rows.pop(index))
        where = f"[{number}/{len(self.runs)}] {run.task} {run.name}"
        if isinstance(outcome, Exception):
            self._say(f"{where} failed: {outcome}", logging.ERROR)
            return
        score = outcome["scores"].get(f"test_{outcome['metric']}")
        shown = "undefined" if score is None else f"{score:.4f}"
        self._say(f"{where}: test {outcome['metric']} {shown}, {outcome['cost']['seconds']:.0f} s", logging.INFO)

    def _say(self, words: str, level: int) -> None:
        """Writes a line above the bars where there are some."""
        if self.live:
            self.bars.console.print(words, highlight=False, markup=False, soft_wrap=True)
        else:
            log.log(level, words)


def run_all(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Executes the runs that are not finished, in parallel; returns the cell of every run, in order.

    Raises:
        UserError: some runs failed; what finished is kept.
    """
    if not runs:
        return []
    params, root = runs[0].params, runs[0].root
    reaped = tracking.reap(tracking.connect(root))
    if reaped:
        log.info("%d runs of dead processes were RUNNING in MLflow; they are KILLED now, or resumed", reaped)
    open_runs = [run for run in runs if not finetuning.finished(run)]
    log.info("%d runs: %d finished before, %d to do", len(runs), len(runs) - len(open_runs), len(open_runs))
    failures = _execute(open_runs, params.execution)
    if failures:
        raise UserError(f"{len(failures)} of {len(runs)} runs failed, the others are kept:\n  " + "\n  ".join(failures))
    return [finetuning.read_cell(run) for run in runs]


def _execute(runs: Sequence[Run], settings: Execution) -> list[str]:
    if not runs:
        return []
    workers = execution.worker_count(settings, runs[0].device, len(runs))
    failures = []
    with Display(runs) as display:
        outcomes = execution.map_items(
            finetuning.execute, runs, workers=workers, threads=settings.threads_per_run, report=display.update
        )
        for number, (index, outcome) in enumerate(outcomes, 1):
            display.done(index, outcome, number)
            if isinstance(outcome, Exception):
                failures.append(f"{runs[index].task} {runs[index].name}: {outcome}")
                if not isinstance(outcome, UserError):
                    log.debug("traceback", exc_info=outcome)
    return failures


def write_cells(runs: Sequence[Run], folder: Path) -> None:
    """Copies the results of finished runs to the output of the DVC stage; what else was there is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    for run in runs:
        target = folder / run.digest
        target.mkdir(parents=True)
        for name in RESULTS:
            shutil.copyfile(run.folder / name, target / name)
        if (run.folder / examples.FILE).is_file():  # a run that was restored from MLflow has none
            shutil.copyfile(run.folder / examples.FILE, target / examples.FILE)


def markdown_table(cells: Sequence[dict[str, Any]]) -> str:
    """Lists runs for the launcher's description."""
    lines = ["| task | init | seed | test score | epochs | seconds | run |", "|---|---|---|---|---|---|---|"]
    for cell in cells:
        score = cell["scores"].get(f"test_{cell['metric']}")
        shown = "undefined" if score is None else f"{cell['metric']} {score:.4f}"
        cost = cell["cost"]
        lines.append(
            f"| {cell['task']} | {cell['init']} | {cell['seed']} | {shown} | {cost['epochs']} "
            f"| {cost['seconds']:.0f} | {cell['mlflow_run_id']} |"
        )
    marks = sorted({mark for cell in cells for mark in cell["marks"]})
    head = f"Marks: {', '.join(marks)}. Synthetic data says nothing about weights.\n\n" if "synthetic" in marks else ""
    return head + "\n".join(lines) + "\n"


def digests(cells: Sequence[dict[str, Any]]) -> str:
    """Lists the digests of runs, for the launcher's tag."""
    return json.dumps([cell["digest"] for cell in cells])
