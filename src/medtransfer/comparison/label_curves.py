"""Scores over the number of labels, and the labels that an initialization saves at the reference's score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medtransfer.comparison.cells import WHOLE, Cell
from medtransfer.statistics import metrics
from medtransfer.statistics.label_savings import LabelSaving, saving
from medtransfer.statistics.seeds_and_patients import ends_of_mean


@dataclass(frozen=True, kw_only=True)
class Point:
    """An initialization's score on a task, by one protocol with one share of the labels."""

    task: str
    init: str
    protocol: str
    fraction: str
    labels: float
    """images of train, on average over its runs"""
    unit: str
    n: int
    """seeds (or folds)"""
    patients: int
    """0: not in the interval"""
    mean: float
    low: float | None
    """of the interval of this score alone, over seeds and patients; None: a single seed, or nothing varies"""
    high: float | None
    level: float
    metric: str = ""


@dataclass(frozen=True, kw_only=True)
class Saving:
    """The labels that an initialization saves on a task by one protocol."""

    task: str
    init: str
    against: str
    protocol: str
    found: LabelSaving


def points(cells: Sequence[Cell], level: float) -> tuple[Point, ...]:
    """Gives every cell's score with its interval, which ends where scores do: from 0 (agreement: -1) to 1.

    Args:
        cells: complete ones.
        level: of each interval by itself.
    """
    found = []
    for cell in cells:
        least = metrics.least(cell.runs[0].metric)
        ends = ends_of_mean(cell.values, level=level, ratio=cell.ratio)
        found.append(
            Point(
                task=cell.task, init=cell.init, protocol=cell.protocol, fraction=cell.fraction, labels=cell.labels,
                unit=cell.row.unit, n=len(cell.values), mean=float(cell.scores.mean()),
                patients=0 if cell.values.shape[1] == 1 else cell.values.shape[1],
                low=max(ends[0], least) if ends else None, high=min(ends[1], 1.0) if ends else None, level=level,
                metric=cell.runs[0].metric,
            )
        )  # fmt: skip
    return tuple(found)


def savings(cells: Sequence[Cell], reference: str, level: float) -> tuple[Saving, ...]:
    """Finds what each initialization saves against the reference with all labels, within a protocol.

    Left out are those that were trained with a single amount, and tasks and protocols on which the reference has not
    all its runs with all labels.

    Args:
        cells: complete ones.
        reference: canonical name.
        level: of each interval by itself.
    """
    bases = {(c.task, c.protocol): c for c in cells if c.init == reference and c.fraction == WHOLE}
    curves: dict[tuple[str, str, str], dict[float, Cell]] = {}
    for cell in cells:
        if cell.init != reference and (cell.task, cell.protocol) in bases:
            curves.setdefault((cell.task, cell.protocol, cell.init), {}).setdefault(cell.labels, cell)
    found = []
    for (task, protocol, init), curve in curves.items():
        base, own = bases[task, protocol], list(curve.values())
        if len(own) < 2:
            continue
        every = [*own, base]
        alike = len({cell.values.shape for cell in every}) == 1 and len({cell.row.seeds for cell in every}) == 1
        *ours, theirs = [cell.values if alike else cell.scores for cell in every]
        if len({len(values) for values in (*ours, theirs)}) > 1:
            continue  # folds of unequal number: not paired
        ratio = max(cell.ratio for cell in every)
        one = saving(ours, list(curve), theirs, base.labels, level=level, ratio=ratio)
        found.append(Saving(task=task, init=init, against=reference, protocol=protocol, found=one))
    return tuple(found)


def curved(every: Sequence[Point], task: str) -> list[Point]:
    """Takes the points of a task whose initialization and protocol have more than one amount of labels."""
    own = [point for point in every if point.task == task]
    numbers = Counter((point.protocol, point.init) for point in own)
    return [point for point in own if numbers[point.protocol, point.init] > 1]


def amounts(points_: Sequence[Point]) -> list[tuple[str, float]]:
    """Lists fractions with their numbers of labels, the mean over initializations, fewest first."""
    labels: dict[str, list[float]] = {}
    for point in points_:
        labels.setdefault(point.fraction, []).append(point.labels)
    return sorted(((fraction, float(np.mean(found))) for fraction, found in labels.items()), key=lambda pair: pair[1])
