"""Progress of long work: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

log = logging.getLogger("medtransfer")

TICK = 0.1
"""seconds between two changes of the bar, which would else cost the work some of its speed"""

SILENCE = 30.0
"""seconds between two lines where there is no terminal"""


@contextlib.contextmanager
def bar(words: str, total: int, unit: str = "images") -> Iterator[Callable[[], None]]:
    """Shows how far work is; yields what the work calls after each item."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(words, total=total, rate="")
        start = shown = said = time.monotonic()
        done = 0

        def advance() -> None:
            nonlocal done, shown, said
            done += 1
            now = time.monotonic()
            if now - shown < TICK and done < total:
                return
            shown, rate = now, _rate(done, now - start, unit)
            progress.update(task, completed=done, rate=rate)
            if not console.is_terminal and now - said > SILENCE:
                said = now
                log.info("%s: %d of %d, %s", words, done, total, rate)

        yield advance


def _rate(done: int, seconds: float, unit: str) -> str:
    each = seconds / done
    return f"{1 / max(each, 1e-9):.0f} {unit}/s" if each < 0.5 else f"{each:.1f} s each"


class Meters:
    """Several bars at once, each with words of its own; elsewhere than on a terminal a line now and then."""

    def __init__(self, unit: str) -> None:
        console = Console(stderr=True)
        self.live = console.is_terminal
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %  {task.fields[words]}"),
        )
        self.bars = Progress(*columns, console=console, disable=not self.live)
        self.unit, self.rows, self.said = unit, dict[str, TaskID](), dict[str, float]()

    def __enter__(self) -> Meters:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def show(self, name: str, total: int, words: str) -> None:
        """Writes what is done beside a bar."""
        if name not in self.rows:
            self.rows[name] = self.bars.add_task(name, total=total, words=words)
        self.bars.update(self.rows[name], words=words)

    def move(self, name: str, done: int) -> None:
        """Moves a bar."""
        if name in self.rows:
            self.bars.update(self.rows[name], completed=done)
        now = time.monotonic()
        if not self.live and now - self.said.get(name, 0.0) > SILENCE:
            self.said[name] = now
            log.info("%s: %s %s", name, f"{done:,}", self.unit)
