"""Win rates over tasks: how often an initialization scores higher than another; arrays in, numbers out.

On one task the win rate of k initializations is (k - rank) / (k - 1), so that over the same tasks it orders them as the
mean rank does. What differs is the interval: this one is over tasks and seeds, that of `ranks.rank` over seeds alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from medtransfer.core.errors import UserError
from medtransfer.statistics.ranks import MIN_GROUPS, Array, by_group, drawn_means, task_ranks
from medtransfer.statistics.t_tests import Scores, finite


@dataclass(frozen=True, kw_only=True)
class WinRates:
    """The share of comparisons that each initialization wins, ties half, averaged within groups and then over them."""

    rate: tuple[float, ...]
    """per init"""
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    groups: int
    """of tasks: those that share images are one"""
    confidence: float
    draws: int
    note: str = ""
    """why there is no interval"""


def win_rates(
    scores: Sequence[Sequence[Scores]],
    *,
    rng: np.random.Generator,
    groups: Sequence[Hashable] | None = None,
    paired: bool = True,
    confidence: float = 0.95,
    draws: int = 2000,
) -> WinRates:
    """Counts on every task how many others an initialization beats by its mean score; equal means are half a win.

    The interval is over tasks and seeds: percentiles over draws of groups of tasks, and of seeds within each task as in
    `ranks.rank`. It is for the win rate among these initializations over tasks like these, each with this number of
    seeds. The seeds' luck is in it twice, as it is a part of what differs between tasks, so that it is rather too wide:
    95% intervals held the win rate in 89 to 100% of simulations, 5 to 12 tasks, 3 to 10 seeds, 5 and 20 inits; draws of
    tasks alone held it in 12 to 94%.

    Args:
        scores: one row per init, of one cell per task, each of which has its scores, one per seed.
        rng: draws tasks and seeds.
        groups: label per task, one for tasks that share images. None: each task is its own group.
        paired: scores of a task stand in the same order of seeds, so that all inits get the same draw.
        confidence: share of the draws within an interval.
        draws: number of bootstrap draws.

    Raises:
        UserError: there are fewer than two inits or no task, rows differ in length, or a score is not finite.
    """
    if len(scores) < 2 or not scores[0] or len({len(row) for row in scores}) > 1:
        raise UserError(f"win rates need two inits or more with scores on equal tasks, got {[len(s) for s in scores]}")
    tasks = [[finite(row[place], "scores") for row in scores] for place in range(len(scores[0]))]
    labels = list(range(len(tasks))) if groups is None else list(groups)
    count = len(dict.fromkeys(labels))
    observed = by_group(np.stack([_wins(np.array([[v.mean() for v in task]])) for task in tasks]), labels)[:, 0]
    rate = observed.mean(axis=0)
    single = any(len(values) < 2 for task in tasks for values in task)
    note = f"{count} of the {MIN_GROUPS} groups of tasks that it needs" if count < MIN_GROUPS else ""
    found = WinRates(
        rate=tuple(rate.tolist()), groups=count, confidence=confidence, draws=draws,
        note="a single seed on a task" if single else note,
    )  # fmt: skip
    if found.note:
        return found
    drawn = by_group(np.stack([_wins(drawn_means(task, rng, paired, draws)) for task in tasks]), labels)
    chosen = rng.integers(count, size=(draws, count))
    means = drawn[chosen, np.arange(draws)[:, None]].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0).tolist()
    return WinRates(rate=found.rate, low=tuple(low), high=tuple(high), groups=count, confidence=confidence, draws=draws)


def _wins(means: Array) -> Array:
    """Gives the win rates (rows, inits) of each row of mean scores."""
    inits = means.shape[1]
    return np.asarray((inits - task_ranks(means)) / (inits - 1))
