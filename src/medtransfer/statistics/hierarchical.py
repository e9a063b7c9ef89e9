"""One difference on several tasks: its mean over tasks like these, and what a next task would show. No sampling.

The normal hierarchical model (Gelman et al., Bayesian Data Analysis, 3rd ed., section 5.4): what is measured on a task
is normal around the task's own difference, and those are normal around their mean. Given the spread over tasks all is
known in closed form; over the spread a grid adds up. Differences within the region of practical equivalence count as
equivalent (Benavoli, Corani, Demsar and Zaffalon, JMLR 2017; Corani et al., Machine Learning 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from medtransfer.core.errors import UserError

Array = npt.NDArray[Any]

FEWEST = 2
"""tasks, of which those that share images are one"""
MEAN_SCALE = 10.0
"""standard deviation of the mean over tasks before anything is seen, normal around 0, in half-widths of the region"""
SPREAD_SCALE = 2.0
"""median of the spread over tasks before anything is seen, half-Cauchy (Gelman, Bayesian Analysis 2006), likewise"""
OTHER_PRIORS = (0.5, 2.0)
"""times both scales: what the probabilities would be under a tighter and a wider prior"""
POINTS = 4000
"""of the grid over the spread: equally likely before anything is seen"""


@dataclass(frozen=True, kw_only=True)
class Chances:
    """Probabilities that a difference lies above, within and below the region; they sum to 1."""

    better: float
    equivalent: float
    worse: float


@dataclass(frozen=True, kw_only=True)
class Belief:
    """A difference as it is believed to be: posterior mean and central interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Hierarchical:
    """What the differences on some tasks say of tasks like them."""

    mean: Belief
    """of the mean over tasks"""
    spread: float
    """posterior median of the standard deviation over tasks"""
    of_mean: Chances
    of_next: Chances
    """of the true difference on a next task"""
    each: tuple[Belief, ...]
    """of the tasks' own differences, drawn towards their mean"""
    other: tuple[tuple[Chances, Chances], ...]
    """of the mean and of a next task under `OTHER_PRIORS`"""
    before: tuple[Chances, Chances]
    """likewise before anything is seen: what the prior alone says"""


@dataclass(frozen=True)
class _Posterior:
    """Weights of the grid over the spread, and per point the normal of the mean."""

    weights: Array
    spread: Array
    center: Array
    variance: Array


def hierarchical(
    differences: Sequence[float], errors: Sequence[float], *, rope: float = 1.0, level: float = 0.95
) -> Hierarchical | None:
    """Weighs what the differences of two initializations on some tasks say of their mean and of a next task.

    Args:
        differences: one per task, in units that are commensurable, such as the task's margin.
        errors: standard error of each, as of a normal: where degrees of freedom are few, that of the normal that has
            the same 95 % interval.
        rope: half-width of the region of practical equivalence.
        level: of the intervals.

    Returns:
        None: fewer than `FEWEST` tasks.

    Raises:
        UserError: the numbers do not fit together, are not finite, or an error is not above 0.
    """
    seen, error = np.asarray(differences, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    if seen.ndim != 1 or seen.shape != error.shape or not np.isfinite([seen, error]).all() or not (error > 0).all():
        raise UserError(f"differences and errors must be finite, one each per task, errors > 0, got {seen}, {error}")
    if not (0 < rope < np.inf and 0 < level < 1):
        raise UserError(f"`0 < rope` (finite) and `0 < level < 1` must hold, got {rope}, {level}")
    if len(seen) < FEWEST:
        return None
    found = _posterior(seen, error, rope, 1.0)
    pull = error[:, None] ** 2 / (error[:, None] ** 2 + found.spread**2)
    centers = (1 - pull) * seen[:, None] + pull * found.center
    variances = (1 - pull) * error[:, None] ** 2 + pull**2 * found.variance
    nothing = np.zeros(0)
    return Hierarchical(
        mean=_belief(found.weights, found.center, found.variance, level),
        spread=float(found.spread[np.searchsorted(found.weights.cumsum(), 0.5)]),
        of_mean=_of_mean(found, rope),
        of_next=_of_next(found, rope),
        each=tuple(_belief(found.weights, *one, level) for one in zip(centers, variances, strict=True)),
        other=tuple(_both(_posterior(seen, error, rope, times), rope) for times in OTHER_PRIORS),
        before=_both(_posterior(nothing, nothing, rope, 1.0), rope),
    )


def _posterior(seen: Array, error: Array, rope: float, times: float) -> _Posterior:
    """Weighs the spreads by how likely they make what was seen, the mean integrated out."""
    spread = times * SPREAD_SCALE * rope * np.tan(np.pi / 2 * (np.arange(POINTS) + 0.5) / POINTS)
    own = error[:, None] ** 2 + spread**2
    prior = (times * MEAN_SCALE * rope) ** 2
    precision = 1 / prior + (1 / own).sum(axis=0)
    center = (seen[:, None] / own).sum(axis=0) / precision
    logs = -0.5 * (
        np.log(own).sum(axis=0) + np.log(precision) + (seen[:, None] ** 2 / own).sum(axis=0) - center**2 * precision
    )
    weights = np.exp(logs - logs.max())
    return _Posterior(weights / weights.sum(), spread, center, 1 / precision)


def _both(found: _Posterior, rope: float) -> tuple[Chances, Chances]:
    return _of_mean(found, rope), _of_next(found, rope)


def _of_mean(found: _Posterior, rope: float) -> Chances:
    return _chances(found.weights, found.center, found.variance, rope)


def _of_next(found: _Posterior, rope: float) -> Chances:
    return _chances(found.weights, found.center, found.variance + found.spread**2, rope)


def _chances(weights: Array, center: Array, variance: Array, rope: float) -> Chances:
    std = np.sqrt(variance)
    better = float(weights @ special.ndtr((center - rope) / std))
    worse = float(weights @ special.ndtr((-rope - center) / std))
    return Chances(better=better, equivalent=max(0.0, 1 - better - worse), worse=worse)


def _belief(weights: Array, center: Array, variance: Array, level: float) -> Belief:
    """Takes mean and central interval of a mixture of normals."""
    std = np.sqrt(variance)

    def end(share: float) -> float:
        far = -special.ndtri(min(share, 1 - share) / 2) + 1
        low, high = float((center - far * std).min()), float((center + far * std).max())
        return float(optimize.brentq(lambda x: float(weights @ special.ndtr((x - center) / std)) - share, low, high))

    return Belief(estimate=float(weights @ center), low=end((1 - level) / 2), high=end((1 + level) / 2))
