"""Progress of long work: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

log = logging.getLogger("medtransfer")

TICK = 0.1
"""seconds between two changes of the bar, which would else cost the work some of its speed"""

SILENCE = 30.0
"""seconds between two lines where there is no terminal"""

Tell = Callable[[str, float], None]
"""what work of unequal parts calls with what it is at, and the share of the whole that is done"""


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
    with Progress(*columns, console=console, disable=not (console.is_terminal and total)) as progress:
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


@contextlib.contextmanager
def parts(words: str) -> Iterator[Tell]:
    """Shows how far work of unequal parts is, what it is at and how long the rest will take; nothing if untold."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=10), TextColumn("{task.fields[text]}"))
    progress = Progress(*columns, console=console, disable=not console.is_terminal)
    task: TaskID | None = None
    start = said = time.monotonic()

    def tell(part: str, share: float) -> None:
        nonlocal task, said
        if task is None:
            progress.start()
            task = progress.add_task(words, total=1.0, text="")
        now = time.monotonic()
        text = f"{100 * share:.0f} %{time_left(now - start, share)}"
        progress.update(task, description=part, completed=share, text=text)
        if not console.is_terminal and now - said > SILENCE:
            said = now
            log.info("%s: %s, %s", words, part, text)

    try:
        yield tell
        if task is not None:
            progress.update(task, description=words, completed=1.0, text="100 %")
    finally:
        progress.stop()


def between(tell: Tell, low: float, high: float, name: str = "") -> Tell:
    """Gives what a part of the work calls, which is from one share of the whole to another and may have a name."""
    named = f"{name}: " if name else ""
    return lambda words, share: tell(named + words, low + (high - low) * share)


def each(tell: Tell, sizes: Mapping[str, float]) -> Iterator[tuple[str, Tell]]:
    """Gives the parts of work by name, each with what it calls; their shares are those of their sizes."""
    whole, done = sum(sizes.values()), 0.0
    for name, size in sizes.items():
        yield name, between(tell, done / whole, (done + size) / whole, name)
        done += size


def untold(words: str, share: float) -> None:
    """Stands where nobody is told."""


def time_left(seconds: float, share: float) -> str:
    """Says how long the rest will take if it goes on as until now; nothing before there is anything to go by."""
    if not 0 < share < 1:
        return ""
    rest = seconds * (1 - share) / share
    return f"; about {rest:.0f} s left" if rest < 100 else f"; about {rest / 60:.0f} min left"


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
