"""What people see while runs are trained: a bar per run on a terminal, elsewhere a line per finished run."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from medtransfer.core.progress import time_left
from medtransfer.runs.execution.pull import WorkerLost
from medtransfer.runs.run import Run

if TYPE_CHECKING:
    from medtransfer.runs.side_by_side import Gang
    from medtransfer.training.trainer import Progress

log = logging.getLogger("medtransfer")


class Display:
    """One line for all runs and one for each that is being trained, with the place where it is."""

    def __init__(self, total: int) -> None:
        """Takes the number of runs that are to end."""
        self.live = sys.stderr.isatty()
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not self.live,
        )
        self.total, self.ended, self.failed = total, 0, 0
        self.all = self.bars.add_task("all runs", total=total, text="runs")
        self.rows: dict[str, TaskID] = {}
        self.places: dict[str, str] = {}
        self.parts: dict[str, float] = {}
        """digest -> share of its epochs that is done, of runs at work"""
        self.start = time.monotonic()
        self.elsewhere: set[str] = set()
        """digests of runs that another process had"""

    def __enter__(self) -> Display:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def started(self, gang: Gang, place: str) -> None:
        """Shows that runs have begun, and where."""
        for run in gang:
            self._forget(run)
            self.places[run.digest] = place
            total, text = run.training.max_epochs, f"epochs  on {place}"
            self.rows[run.digest] = self.bars.add_task(f"{run.task} {run.name}", total=total, text=text)

    def update(self, run: Run, progress: Progress) -> None:
        """Moves a run's bar: epoch, images/s, val score, time left, place."""
        text = (
            f"epochs  {progress.images_per_second:.0f} images/s  {progress.monitor} {progress.value:.4f}  "
            f"{progress.seconds_left:.0f} s left  on {self.places[run.digest]}"
        )
        self.bars.update(self.rows[run.digest], completed=progress.epoch, text=text)
        self.parts[run.digest] = progress.epoch / progress.max_epochs
        self._all()

    def back(self, run: Run, why: object) -> None:
        """Says that a run is put back, for later; of one that another process has only once."""
        self._forget(run)
        if isinstance(why, WorkerLost):
            self._say(f"{run.task} {run.name}: {why}; it is started again from its checkpoint", logging.WARNING)
        elif run.digest not in self.elsewhere:
            self.elsewhere.add(run.digest)
            self._say(f"{run.task} {run.name}: {why}; it is looked at again later", logging.INFO)

    def done(self, run: Run, outcome: dict[str, Any] | Exception) -> None:
        """Says how a run ended."""
        self._forget(run)
        self.ended += 1
        where = f"[{self.ended}/{self.total}] {run.task} {run.name}"
        if isinstance(outcome, Exception):
            self.failed += 1
            self._say(f"{where} failed: {outcome}", logging.ERROR)
        else:
            score = outcome["scores"].get(f"test_{run.record.metric}")
            shown = "undefined" if score is None else f"{score:.4f}"
            took = f"{outcome['cost']['seconds']:.0f} s"
            self._say(f"{where}: test {run.record.metric} {shown}, {took}{self._left()}", logging.INFO)
        self._all()

    def _all(self) -> None:
        """Moves the bar of all runs."""
        failed = f", {self.failed} failed" if self.failed else ""
        self.bars.update(self.all, completed=self.ended, text=f"runs{failed}{self._left()}")

    def _left(self) -> str:
        """Says how long the rest will take if it goes on as until now."""
        done = self.ended + sum(self.parts.values())
        return time_left(time.monotonic() - self.start, done / max(1, self.total))

    def _forget(self, run: Run) -> None:
        self.parts.pop(run.digest, None)
        if run.digest in self.rows:
            self.bars.remove_task(self.rows.pop(run.digest))

    def _say(self, words: str, level: int) -> None:
        """Writes a line above the bars where there are some."""
        if self.live:
            self.bars.console.print(words, highlight=False, markup=False, soft_wrap=True)
        else:
            log.log(level, words)
