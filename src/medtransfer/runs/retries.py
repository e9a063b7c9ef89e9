"""Which run is given out next, and which again: after a worker's death, or while another launch has it."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from medtransfer.core.errors import Held
from medtransfer.runs.execution import leases, pull
from medtransfer.runs.run import Run
from medtransfer.runs.side_by_side import Gang

AGAIN = 3.0
"""seconds after which a run that another process has is looked at again"""


class Work:
    """The runs that are still to do, and the rules by which a run is given out again: alone, whatever it was beside."""

    def __init__(self, gangs: Sequence[Gang], retries: int) -> None:
        """Takes the runs as they are to be done together, in the order in which they are to start."""
        self.waiting, self.retries = deque(gangs), retries
        self.held: deque[tuple[float, Run]] = deque()
        """(time from which on it may be looked at again, run that another process has)"""
        self.running = 0
        self.lost: Counter[str] = Counter()

    def take(self) -> Gang | None:
        """Gives the next runs; one that another process has only where nothing else is left, and after a pause."""
        if not self.waiting and self.held:
            pause = self.held[0][0] - time.monotonic()
            if pause > 0 and self.running:
                return None
            time.sleep(max(0.0, pause))
            self.waiting.append((self.held.popleft()[1],))
        if not self.waiting:
            return None
        gang = self.waiting.popleft()
        self.running += len(gang)
        return gang

    def back(self, run: Run, outcome: Any) -> bool:
        """Takes a run's outcome; says whether the run will be given out again."""
        self.running -= 1
        if isinstance(outcome, Held | leases.Lost):
            self.held.append((time.monotonic() + AGAIN, run))
            return True
        if isinstance(outcome, pull.WorkerLost) and self.lost[run.digest] < self.retries:
            self.lost[run.digest] += 1
            self.waiting.appendleft((run,))
            return True
        return False
