"""What can be known of candidates before any training, as one ranking: places from 0, the worst, to 1, the best.

A fixed ranking by results on other tasks is hard to beat by scores of features, so it is one of what is combined.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from medtransfer.core.errors import UserError

Array = npt.NDArray[Any]

MIDDLE = 0.5
"""place of a candidate of which nothing is known"""
PRIOR_TASKS = 1.0
"""tasks that each candidate is taken to have stood in the middle of: one lucky task is not a record"""


@dataclass(frozen=True, kw_only=True)
class CheapRanking:
    """Candidates in the order in which they look promising, and what made it."""

    order: tuple[int, ...]
    """places of the candidates, the most promising first; of equal ones the first first"""
    values: tuple[float, ...]
    """one per candidate: the weighted mean of its places, 0 to 1"""
    places: Mapping[str, tuple[float, ...]]
    """by score: one per candidate"""
    weights: Mapping[str, float]
    """by score; they add up to 1"""


def places(scores: Any) -> Array:
    """Places candidates between 0, the lowest score, and 1, the highest; equal ones share, nan is in the middle.

    Raises:
        UserError: the scores are not one row of numbers, or one is infinite.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not len(values) or np.isinf(values).any():
        raise UserError(f"scores must be one finite number per candidate, or nan, got {values.tolist()}")
    known = ~np.isnan(values)
    found = np.full(len(values), MIDDLE)
    if known.sum() > 1:
        found[known] = (stats.rankdata(values[known]) - 1) / (known.sum() - 1)
    return found


def static_prior(scores: Any, groups: Sequence[Hashable] | None = None) -> Array:
    """Gives each candidate's mean place over other tasks, with a task in the middle added.

    Scores of different tasks need no common unit. Only candidates that have a score on a task are placed in it, and a
    task with a single one of them says nothing.

    Args:
        scores: tasks x candidates, higher is better; nan where there is none. The task that is asked about is left out
            by the caller.
        groups: one label per task: tasks that share images are averaged first and count once.

    Raises:
        UserError: the shape does not fit, or a score is infinite.
    """
    table = np.asarray(scores, dtype=np.float64)
    labels = list(range(len(table))) if groups is None else list(groups)
    if table.ndim != 2 or table.shape[1] < 1 or len(labels) != len(table):
        raise UserError(
            f"scores must be tasks x candidates, with one group per task, got shape {table.shape} and "
            f"{len(labels)} groups"
        )
    placed = [places(row) for row in table]
    known = [~np.isnan(row) & ((~np.isnan(row)).sum() > 1) for row in table]
    total, count = np.full(table.shape[1], MIDDLE * PRIOR_TASKS), np.full(table.shape[1], PRIOR_TASKS)
    for group in dict.fromkeys(labels):
        rows = [row for row, label in enumerate(labels) if label == group]
        times = np.sum([known[row] for row in rows], axis=0)
        summed = np.sum([np.where(known[row], placed[row], 0.0) for row in rows], axis=0)
        total += np.divide(summed, times, out=np.zeros_like(total), where=times > 0)
        count += times > 0
    return np.asarray(total / count)


def combined(scores: Mapping[str, Any], weights: Mapping[str, float]) -> CheapRanking:
    """Combines scores of candidates into one ranking: the weighted mean of their places.

    Places, because the scores have no common unit and one candidate far away must not decide over the others. A score
    counts by the share of candidates that have it: the last of two that were looked at is not the last of twenty.

    Args:
        scores: by name, such as `prior`, `logme`, `linear`: one per candidate, higher is better, nan where there is
            none.
        weights: by the same names; 0 leaves a score out.

    Raises:
        UserError: names, numbers of candidates or weights do not fit.
    """
    if not scores or set(scores) != set(weights):
        raise UserError(f"each score needs a weight: scores are {sorted(scores)}, weights {sorted(weights)}")
    shares = np.array([weights[name] for name in scores], dtype=np.float64)
    if not np.isfinite(shares).all() or (shares < 0).any() or shares.sum() <= 0:
        raise UserError(f"weights must be finite, `>= 0` and not all 0, got {dict(weights)}")
    placed = {name: places(values) for name, values in scores.items()}
    if len({len(values) for values in placed.values()}) > 1:
        counts = {name: len(values) for name, values in placed.items()}
        raise UserError(f"scores must be of the same candidates, got numbers of them {counts}")
    known = {name: ~np.isnan(np.asarray(values, dtype=np.float64)) for name, values in scores.items()}
    shares *= [one.mean() for one in known.values()]
    if shares.sum() <= 0:  # nothing is known of anybody
        shares[:] = 1.0
    shares /= shares.sum()
    values = shares @ np.stack(list(placed.values()))
    order = np.argsort(-values.round(12), kind="stable")
    return CheapRanking(
        order=tuple(order.tolist()),
        values=tuple(values.tolist()),
        places={name: tuple(row.tolist()) for name, row in placed.items()},
        weights=dict(zip(scores, shares.tolist(), strict=True)),
    )
