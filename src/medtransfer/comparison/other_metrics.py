"""Scores of a metric that is not the task's own, of finished runs: seed by seed, and what patients add to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medtransfer.comparison import patients
from medtransfer.core.errors import UserError
from medtransfer.results.result import Result
from medtransfer.statistics import metrics


def scored_as(name: str, results: Sequence[Result]) -> str:
    """Finds the name under which runs of a task have a metric: at the network's size, else at the images' own.

    Args:
        name: of the metric.
        results: of one task.

    Returns:
        The name with its prefix; empty: no run has it.
    """
    scored = {key for one in results for key in one.scores}
    prefixes = dict.fromkeys(("", *metrics.METRICS[name].prefixes))
    return next((f"{prefix}{name}" for prefix in prefixes if f"test_{prefix}{name}" in scored), "")


def by_seed(score: str, results: Sequence[Result]) -> dict[str, tuple[float, ...]]:
    """Lists, for each init whose runs all have it, the score of each seed, or of each fold with its seeds."""
    found = {}
    for init, units in patients.by_unit(results).items():
        values = [[results[place].scores.get(f"test_{score}", np.nan) for place in unit] for unit in units]
        means = tuple(float(np.mean(unit)) for unit in values)
        if not np.isnan(means).any():
            found[init] = means
    return found


def contributions(name: str, score: str, results: Sequence[Result], folder: Path) -> dict[str, Any]:
    """Reads what patients add to the scores: init -> seeds x patients; empty where that is not known.

    Args:
        name: of the metric.
        score: its name with a prefix, see `scored_as`.
        results: runs of complete initializations of one task, one split.
        folder: of the finished runs.
    """
    try:
        found = patients.contributions(results, folder, metrics.METRICS[name], score.removesuffix(name))
    except UserError:  # predictions of before the metric was measured lack its columns
        return {}
    return {} if isinstance(found, str) else found
