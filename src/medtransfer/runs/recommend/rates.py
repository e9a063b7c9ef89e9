"""How long trainings take: measured here, else by finished runs of the same kind, else by the pass of the features."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from medtransfer.data.cache import load
from medtransfer.runs import costs
from medtransfer.runs.recommend.jobs import Probed, Trained
from medtransfer.runs.run import Run

TRAINING_PASS = 3.0
"""passes of features that a forward and a backward pass cost"""
BEYOND = 1.5
"""times that, for augmentation, checkpoints and what a network has behind its backbone; until it is measured"""
AROUND = 1.5
"""seconds of a stretch around its epochs; until it is measured"""
UNKNOWN = 10.0
"""seconds of an epoch of which nothing is known"""


@dataclass
class Rates:
    """Seconds of one worker per epoch, by init."""

    guesses: dict[str, float] = field(default_factory=dict)
    """by finished runs or features"""
    measured: dict[str, float] = field(default_factory=dict)
    around: list[float] = field(default_factory=list)

    def know(self, runs: Mapping[str, Run]) -> None:
        """Takes what finished runs of the same kind took."""
        found = costs.measured(next(iter(runs.values())).root)
        for init, run in runs.items():
            if (kind := costs.kind(run)) in found and run.training.max_epochs:
                self.guesses[init] = found[kind].seconds / run.training.max_epochs

    def probed(self, init: str, run: Run, probe: Probed) -> None:
        """Takes what the pass of its features took, where no finished run says more."""
        prepared = load(run.prepared)
        train, val = (len(prepared.of_fold(run.fold).rows(split)) for split in ("train", "val"))
        steps = max(train, run.training.min_steps * run.training.batch_size)
        own = probe.pass_seconds / max(len(prepared.images), 1) * (TRAINING_PASS * steps + val)
        self.guesses.setdefault(init, own * BEYOND)

    def trained(self, init: str, result: Trained, epochs: int) -> None:
        """Takes what a stretch of so many epochs took."""
        self.measured[init] = result.seconds / max(result.epochs, 1)
        self.around.append(max(result.wall - epochs * self.measured[init], 0.0))

    def epoch(self, init: str) -> float:
        """Estimates the seconds of an epoch."""
        if init in self.measured:
            return self.measured[init]
        both = [self.measured[one] / self.guesses[one] for one in self.measured if self.guesses.get(one)]
        if init in self.guesses:
            return self.guesses[init] * (statistics.median(both) if both else 1.0)
        known: Sequence[float] = [*self.measured.values(), *self.guesses.values()]
        return statistics.median(known) if known else UNKNOWN

    def stretch(self, init: str, epochs: int) -> float:
        """Estimates the seconds of a stretch."""
        around = statistics.median(self.around) if self.around else AROUND
        return around + epochs * self.epoch(init) if epochs else 0.0


def enter(ranked: Sequence[str], cost: Mapping[str, float], budget: float, always: str = "") -> list[str]:
    """Chooses who enters a rung: in order of their ranks as many as the budget reaches for; none where not even two.

    Args:
        ranked: the most promising first.
        cost: seconds of one worker for the rung, by init.
        budget: in the same seconds.
        always: an init that enters first.
    """
    order = sorted(ranked, key=lambda init: init != always)
    entered, total = list[str](), 0.0
    for init in order:
        if total + cost[init] <= budget:
            entered.append(init)
            total += cost[init]
    return [init for init in ranked if init in entered] if len(entered) > 1 else []
