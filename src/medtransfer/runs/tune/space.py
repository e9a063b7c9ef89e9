"""The search space: which values a study may try, in Optuna's distributions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from medtransfer.core import rng
from medtransfer.core.errors import UserError
from medtransfer.params import Dimension
from medtransfer.results.study import NEAR

Point = dict[str, Any]
"""tuned field -> value"""

MEANING = ("loss", "class_weights", "uncertain")
"""fields that change what the validation loss is"""


def of_kind(space: Mapping[str, Dimension], fields: Mapping[str, Any]) -> dict[str, Dimension]:
    """Keeps the dimensions that a kind's protocol has, given its fields (dotted name -> value)."""
    return {name: dimension for name, dimension in space.items() if name in fields}


def check(space: Mapping[str, Dimension], task: str, monitor: str) -> None:
    """Refuses a space whose trials could not be compared by the monitored score, and an empty one.

    Raises:
        UserError: with the repair.
    """
    if not space:
        raise UserError(f"tuning.space has no field that task {task} reads; name one, such as lr")
    odd = [name for name in space if name in MEANING]
    if monitor == "val_loss" and odd:
        raise UserError(
            f"tuning.space.{odd[0]} changes what val_loss means, which is the monitor of task {task}: trials could not "
            "be compared. Set the monitor to the task's metric, such as val_auc, or take the field out"
        )


def distributions(space: Mapping[str, Dimension], fields: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """Makes Optuna's distributions; a field that is a whole number in the protocol stays one."""
    found: dict[str, BaseDistribution] = {}
    for name, d in space.items():
        if d.choices:
            found[name] = CategoricalDistribution(tuple(_like(choice, fields[name]) for choice in d.choices))
        elif isinstance(fields[name], int):
            found[name] = IntDistribution(int(d.low or 0), int(d.high or 0), log=d.log, step=int(d.step or 1))
        else:
            found[name] = FloatDistribution(float(d.low or 0), float(d.high or 0), log=d.log, step=d.step)
    return found


def _like(choice: Any, value: Any) -> Any:
    """Writes 0 as 0.0 where the field is a number with a fraction: one value, one point."""
    return float(choice) if isinstance(value, float) and not isinstance(choice, bool) else choice


def recipe(space: Mapping[str, Dimension], fields: Mapping[str, Any]) -> Point:
    """Reads the fixed recipe's values of the tuned fields."""
    return {name: fields[name] for name in space}


def holds(ranges: Mapping[str, BaseDistribution], point: Point) -> bool:
    """Says whether a point lies in the space."""
    for name, distribution in ranges.items():
        try:
            if not distribution._contains(distribution.to_internal_repr(point[name])):  # Optuna has no public question
                return False
        except (ValueError, TypeError):
            return False
    return True


def grid(ranges: Mapping[str, BaseDistribution], seed: int) -> list[Point]:
    """Lists every point of a finite space in a random order that the seed fixes."""
    axes = [_values(distribution) for distribution in ranges.values()]
    points = [dict(zip(ranges, values, strict=True)) for values in itertools.product(*axes)]
    order = np.random.default_rng(rng.seed_of(seed, "grid")).permutation(len(points))
    return [points[place] for place in order]


def _values(distribution: BaseDistribution) -> Sequence[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        return range(distribution.low, distribution.high + 1, distribution.step)
    if isinstance(distribution, FloatDistribution) and distribution.step is not None:
        count = round((distribution.high - distribution.low) / distribution.step) + 1
        return [round(distribution.low + place * distribution.step, 12) for place in range(count)]
    raise UserError("sampler grid needs choices or a step in every dimension")


def size(ranges: Mapping[str, BaseDistribution]) -> float:
    """Counts the points of a space; infinite where a field takes any value of a range."""
    endless = any(isinstance(d, FloatDistribution) and d.step is None for d in ranges.values())
    return math.inf if endless else math.prod(len(_values(d)) for d in ranges.values())


def near_ends(space: Mapping[str, Dimension], point: Point, whole: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names the ends that a best point is close to: the space may be too narrow there.

    Args:
        space: the dimensions.
        point: the best values.
        whole: field -> the least and greatest value that it can take at all; there no better one lies outside.
    """
    flags = []
    for name, d in space.items():
        if d.choices or d.low is None or d.high is None:
            continue
        scale = math.log if d.log else float
        place = (scale(point[name]) - scale(d.low)) / (scale(d.high) - scale(d.low))
        least, greatest = whole.get(name, (-math.inf, math.inf))
        for close, end, limit in ((place <= NEAR, d.low, least), (place >= 1 - NEAR, d.high, greatest)):
            if close and end != limit:
                flags.append(f"space too narrow: the best {name}, {point[name]:.3g}, is near the end {end:g}")
    return flags
