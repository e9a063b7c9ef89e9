"""What people see while candidates race: a live table on a terminal, elsewhere a line per event."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from medtransfer.statistics.race import Race

if TYPE_CHECKING:
    from medtransfer.runs.recommend.ledger import Rung

log = logging.getLogger("medtransfer")

TICK = 0.5
"""seconds between two drawings"""


class Board:
    """Who leads, who is out and why, what is at work, and the time that is left."""

    def __init__(self, metric: str, minutes: float) -> None:
        self.metric, self.minutes = metric, minutes
        self.console = Console(stderr=True)
        self.live = Live(console=self.console, auto_refresh=False, transient=True) if sys.stderr.isatty() else None
        self.rows: list[tuple[str, str, str, str]] = []
        self.at_work: dict[str, str] = {}
        self.until = 0.0
        self._drawn = 0.0

    def __enter__(self) -> Board:
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()

    def say(self, words: str, level: int = logging.INFO) -> None:
        """Writes a line, above the table where there is one."""
        if self.live and self.live.is_started:
            self.console.print(words, highlight=False, markup=False, soft_wrap=True)
        else:
            log.log(level, "%s", words)

    def started(self, job: str, init: str) -> None:
        """Shows that a job has begun."""
        self.at_work[job] = f"{init}: features and probes" if job.startswith("probe") else init
        self._draw()

    def moved(self, job: str, init: str, progress: Any) -> None:
        """Shows how far a training is."""
        self.at_work[job] = f"{init}: epoch {progress.epoch}, {progress.monitor} {progress.value:.4f}"
        self._draw()

    def ended(self, job: str) -> None:
        """Takes a job away."""
        self.at_work.pop(job, None)
        self._draw()

    def probed(self, init: str, done: int, of: int) -> None:
        """Says that the features of a candidate are scored."""
        self.say(f"features and probes {done} of {of}: {init}")

    def standings(self, state: Race, inits: Sequence[str], means: Mapping[str, tuple[float, Rung]], rung: Rung) -> None:
        """Says how the candidates stand after a look."""
        leader = None if state.leader is None else inits[state.leader]
        self.rows = []
        for standing in sorted(state.standings, key=lambda one: (one.status == "dropped", -(one.difference or 0.0))):
            init = inits[standing.place]
            mean, seen = means.get(init, (None, None))
            shown = "" if mean is None else f"{mean:.4f}"
            trained = "" if seen is None else f"{len(seen.seeds)} x {seen.epochs}"
            words = {"leads": "leads", "level": "level with the leader"}.get(standing.status, "")
            self.rows.append((init, shown, trained, standing.words or words))
        gone = [s for s in state.standings if s.dropped_in == len(state.rounds) and s.words]
        for standing in gone:
            self.say(f"  out: {inits[standing.place]}: {standing.words}")
        left = ", ".join(inits[place] for place in state.left if inits[place] != leader) or "nobody"
        mean = means[leader][0] if leader is not None and leader in means else float("nan")
        self.say(f"  after {rung.minutes:.1f} min {leader} leads, {self.metric} {mean:.4f} on val; still in: {left}")
        self._draw(now=True)

    def _draw(self, now: bool = False) -> None:
        if not self.live or (time.monotonic() - self._drawn < TICK and not now):
            return
        self._drawn = time.monotonic()
        grid = Table(expand=False, pad_edge=False)
        for title in ("candidate", self.metric, "seeds x epochs", "how it stands"):
            grid.add_column(title, overflow="fold", justify="right" if title == self.metric else "left")
        for row in self.rows:
            grid.add_row(*map(Text, row))
        lines = [Text(f"at work: {words}", overflow="ellipsis", no_wrap=True) for words in self.at_work.values()]
        left = max(self.until - time.time(), 0.0)
        clock = [] if math.isinf(left) else [Text(f"{left / 60:.1f} of {self.minutes:g} min left")]
        parts: list[RenderableType] = [
            *([grid] if self.rows else []),
            *lines,
            *clock,
        ]
        self.live.update(Group(*parts), refresh=True)
