"""How long each initialization trains until val is close to the reference's final score, from histories alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medtransfer.comparison.cells import WHOLE, Cell
from medtransfer.params import FROZEN
from medtransfer.results.result import Result
from medtransfer.statistics import convergence
from medtransfer.statistics.convergence import Crossing, Times


@dataclass(frozen=True, kw_only=True)
class TrainingTime:
    """The time of an initialization to the goal on a task, and its ratio to the reference's."""

    task: str
    init: str
    against: str
    protocol: str
    goal: float
    """score on val: `convergence.SHARE` of the reference's final one"""
    reached: int
    """runs that reached it"""
    runs: int
    epochs: Times
    images: Times | None
    seconds: Times | None
    """of the GPU where there is one; None: not recorded"""
    ratio: Times | None
    """of epochs; None for the reference itself"""
    seconds_ratio: Times | None


def training_times(cells: Sequence[Cell], reference: str, level: float) -> tuple[TrainingTime, ...]:
    """Measures the complete initializations with all labels on tasks where the reference is one of them.

    Runs are paired by seed; folds share training images and have no interval.

    Args:
        cells: complete ones.
        reference: canonical name.
        level: of each interval by itself.
    """
    whole = [cell for cell in cells if cell.fraction == WHOLE]
    found = []
    for base in whole:
        if base.init != reference:
            continue
        curves = [_curve(run) for run in base.runs]
        if not all(curves):
            continue
        goal = convergence.goal([max(curve) for curve in curves])
        for cell in whole:
            if (cell.task, cell.protocol) == (base.task, base.protocol):
                found += _time(cell, base, goal, level)
    return tuple(found)


def learning(run: Result) -> tuple[Mapping[str, float], ...]:
    """Takes a run's history where it is one of training; that of a frozen protocol is over what val chose from."""
    return () if run.protocol in FROZEN else run.history


def _time(cell: Cell, base: Cell, goal: float, level: float) -> list[TrainingTime]:
    ours, theirs = _crossings(cell, goal), _crossings(base, goal)
    if ours.keys() != theirs.keys():
        return []  # a run without a score on val
    keys = sorted(ours, key=str)
    kinds, their_kinds = ([side[key].kind for key in keys] for side in (ours, theirs))
    runs, their_runs = ({(run.seed, run.fold): run for run in side.runs} for side in (cell, base))
    epochs, their_epochs = ([side[key].epochs for key in keys] for side in (ours, theirs))
    images = [_per_epoch(runs[key], "images") * epochs[place] for place, key in enumerate(keys)]
    seconds = [_seconds(runs[key]) * epochs[place] for place, key in enumerate(keys)]
    their_seconds = [_seconds(their_runs[key]) * their_epochs[place] for place, key in enumerate(keys)]

    def known(times: list[float]) -> bool:
        return all(time > 0 for time in times)

    def mean(times: list[float]) -> Times:
        return _of_seeds(cell, convergence.mean_time(times, kinds, level=level))

    def ratio(mine: list[float], other: list[float]) -> Times:
        return _of_seeds(cell, convergence.ratio(mine, kinds, other, their_kinds, level=level))

    timed, other = known(seconds) and known(their_seconds), cell is not base
    one = TrainingTime(
        task=cell.task, init=cell.init, against=base.init, protocol=cell.protocol, goal=goal,
        reached=sum(kind != "late" for kind in kinds), runs=len(keys), epochs=mean(epochs),
        images=mean(images) if known(images) else None, seconds=mean(seconds) if known(seconds) else None,
        ratio=ratio(epochs, their_epochs) if other else None,
        seconds_ratio=ratio(seconds, their_seconds) if other and timed else None,
    )  # fmt: skip
    return [one]


def _crossings(cell: Cell, goal: float) -> dict[tuple[int, Any], Crossing]:
    """Finds when each run first reached the goal; without the runs that have no score on val."""
    found = {(run.seed, run.fold): convergence.crossing(_curve(run), goal) for run in cell.runs}
    return {key: one for key, one in found.items() if one is not None}


def _curve(run: Result) -> list[float]:
    """Reads the primary metric on val, epoch by epoch; an epoch without it ends the curve."""
    curve = []
    for epoch in learning(run):
        if f"val_{run.metric}" not in epoch:
            break
        curve.append(epoch[f"val_{run.metric}"])
    return curve


def _per_epoch(run: Result, name: str) -> float:
    return run.cost.get(name, 0.0) / len(run.history)


def _seconds(run: Result) -> float:
    """Computes the seconds of an epoch, of the GPU where there is one; all of a run are taken as equally long."""
    return _per_epoch(run, "gpu_seconds") or _per_epoch(run, "seconds")


def _of_seeds(cell: Cell, times: Times) -> Times:
    """Takes the interval off times of folds."""
    if cell.row.unit == "seed":
        return times
    words = f"{cell.row.unit}s share training images: no interval"
    return replace(times, low=None, high=None, note="; ".join(filter(None, [times.note, words])))
