"""How much of what a score has above chance is lost: arrays in, numbers out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medtransfer.statistics.bootstrap import Array
from medtransfer.statistics.seeds_and_patients import joint_interval

NOTHING = ("kappa",)
"""metrics beside those of masks for which chance comes to 0"""


@dataclass(frozen=True, kw_only=True)
class Lost:
    """The share that is lost, with its interval over seeds and patients."""

    estimate: float | None
    """0: nothing, 1: all that was above chance, below 0: better than before; None: not defined"""
    low: float | None = None
    high: float | None = None


def chance(metric: str, truth: Array) -> float:
    """Gives what a network comes to, in the mean, that knows nothing of the images.

    Args:
        metric: its name.
        truth: images x labels: 1, 0, or -1 for uncertain.
    """
    if metric == "auc":
        return 0.5
    if metric == "average_precision":
        both = [column[column >= 0] for column in truth.T if {0, 1} <= set(column.tolist())]
        return float(np.mean([column.mean() for column in both]))
    if metric == "balanced_accuracy":
        return 1 / int((truth == 1).any(axis=0).sum())
    return 0.0


def lost(clean: Array, changed: Array, least: float, level: float) -> Lost:
    """Computes (clean - changed) / (clean - chance), over seeds and patients at once (delta method).

    Not defined where the clean score is not shown to be above chance: its interval reaches down to there, or one seed
    gives none.

    Args:
        clean: seeds x patients: what each adds to a seed's score, which is the mean.
        changed: the same of the same patients' images after a change, or the mean over several.
        least: the score by chance.
        level: of the intervals.
    """
    room = clean - least
    above = joint_interval(room, level=level)
    unknown = above.seed_error is None  # of one seed
    if above.estimate <= 0 or unknown or (above.low is not None and above.low <= 0):
        return Lost(estimate=None)
    share = float((clean - changed).mean() / room.mean())
    linear = share + (clean - changed - share * room) / room.mean()
    found = joint_interval(linear, level=level)
    return Lost(estimate=share, low=found.low, high=found.high)
