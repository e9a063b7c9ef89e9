"""Predictions of another task's test images -> how far scores fall there, and whether one init is better there."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medtransfer.comparison.calibration import CAUTION
from medtransfer.comparison.patients import by_unit, locked, predictions_of, table_of
from medtransfer.core.progress import Tell, untold
from medtransfer.data.tasks import slug
from medtransfer.results.away import Away, file_of
from medtransfer.results.result import CONTAMINATED, Result
from medtransfer.statistics import all_pairs, metrics
from medtransfer.statistics.contributions import Parts, Predictions
from medtransfer.statistics.metrics import Metric
from medtransfer.statistics.multiplicity import holm
from medtransfer.statistics.seeds_and_patients import JointInterval, joint_interval, of_two_sets
from medtransfer.statistics.t_tests import Array

CASES = 10
"""patients of each class, in either test set, of a label that is scored; of masks patients"""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A number with its interval over seeds and patients; that of a difference is corrected for all (Bonferroni)."""

    estimate: float
    low: float | None
    high: float | None
    p: float | None = None
    """two-sided, of no difference"""
    adjusted: float | None = None
    """likewise, by Holm, over all of its kind that are looked at, whatever the task"""


@dataclass(frozen=True, kw_only=True)
class AwayScore:
    """An initialization at home and at the other site, both on the shared labels."""

    init: str
    home: Measured
    away: Measured
    drop: Measured
    """home minus away"""
    joint: JointInterval | None
    """the same over seeds and patients of both, for other levels; None: its weights knew one of the sets"""
    barred: str
    """why it is compared with no other there; empty: it is"""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The difference of two initializations at the other site."""

    init: str
    against: str
    away: Measured
    home: float
    """the difference at home"""


@dataclass(frozen=True, kw_only=True)
class AwayTask:
    """Another task, and what was read there."""

    task: str
    metric: str = ""
    labels: tuple[str, ...] = ()
    """that the score is over, in the own task's words"""
    few: tuple[str, ...] = ()
    """shared labels that are left out, for want of cases in one of the two tests"""
    images: int
    patients: int = 0
    marks: tuple[str, ...]
    seeds: int = 0
    inits: tuple[AwayScore, ...] = ()
    pairs: tuple[Pair, ...] = ()
    note: str = ""
    """why nothing is scored"""


def sites(
    runs: Mapping[str, Sequence[Result]], folder: Path, reference: str, level: float, tell: Tell = untold
) -> dict[str, tuple[AwayTask, ...]]:
    """Scores every initialization of each task on the test images of each other task that all its runs were read on.

    Args:
        runs: task -> those of complete initializations.
        folder: of the finished runs.
        reference: canonical name of the init that is on the right in its pairs.
        level: of the intervals.
        tell: called with what is done.

    Returns:
        Task -> what was read there, corrected for all tasks together.

    Raises:
        UserError: predictions are missing or damaged, or of other images than another run's.
    """
    read_on = {task: _read_on(own) for task, own in runs.items()}
    pairs = [(task, one) for task, each in read_on.items() for one in each]
    found = []
    for place, (task, one) in enumerate(pairs):
        tell(f"networks of {task} on {one.task}", place / len(pairs))
        found.append(_away_task(one, runs[task], folder, reference, level, len(pairs)))
    corrected = iter(adjusted(found))
    return {task: tuple(next(corrected) for _ in each) for task, each in read_on.items()}


def adjusted(found: Sequence[AwayTask]) -> tuple[AwayTask, ...]:
    """Corrects for all drops, and for all pairs, at all the tasks that networks were read on."""
    drops = iter(_adjusted([one.drop.p for each in found for one in each.inits]))
    pairs = iter(_adjusted([pair.away.p for each in found for pair in each.pairs]))
    return tuple(
        replace(
            each,
            inits=tuple(replace(one, drop=replace(one.drop, adjusted=next(drops))) for one in each.inits),
            pairs=tuple(replace(pair, away=replace(pair.away, adjusted=next(pairs))) for pair in each.pairs),
        )
        for each in found
    )


def _adjusted(p: Sequence[float | None]) -> list[float | None]:
    """Corrects p-values; None where there is no test, which counts for nothing."""
    raised = iter(holm([one for one in p if one is not None]).tolist())
    return [None if one is None else next(raised) for one in p]


def _read_on(results: Sequence[Result]) -> list[Away]:
    """Lists, by task, what any run was read on."""
    found = {one.task: one for result in results for one in result.away}
    return [found[task] for task in sorted(found)]


def _away_task(
    one: Away, results: Sequence[Result], folder: Path, reference: str, level: float, tasks: int
) -> AwayTask:  # fmt: skip
    blank = AwayTask(task=one.task, metric=results[0].metric, images=one.images, marks=one.marks)
    same = [[(read.manifest_digest, dict(read.labels)) for read in result.away if read.task == one.task]
            for result in results]  # fmt: skip
    if any(read != same[0] for read in same) or not same[0]:
        return replace(blank, note="not all runs were read there, on the same labels and images; run `benchmark`")
    metric = metrics.METRICS.get(results[0].metric)
    if metric is None or metric.per_patient is None:
        return replace(blank, note=f"{results[0].metric} has no interval over patients")
    if results[0].fold is not None and not locked(results, folder):
        return replace(blank, note="each run has test images of its own at home")
    shared = tuple(slug(label) for label in one.labels)
    known = [replace(results[0], tested=shared), *results[1:]]
    home = predictions_of(known, folder, table_of(results[0], folder), metric)
    name = file_of(one.task)
    away = predictions_of(known, folder, table_of(results[0], folder, name=name), metric, name)
    home, away = replace(home, labels=shared), replace(away, labels=shared)
    units = by_unit(results)
    barred = {init: _barred(init, one.task, results) for init in units}
    return compared(blank, home, away, metric, units, barred, reference, level, tasks)


def compared(
    blank: AwayTask, home: Predictions, away: Predictions, metric: Metric, units: Mapping[str, Sequence[Sequence[int]]],
    barred: Mapping[str, str], reference: str, level: float, tasks: int = 1,
) -> AwayTask:  # fmt: skip
    """Compares the predictions of the same networks on two tests; p-values are not corrected yet.

    Args:
        blank: what is known of the other task.
        home: of all runs, of the shared labels.
        away: of the same runs and labels.
        metric: the task's, one with contributions of patients.
        units: init -> places of the runs of each of its seeds, or folds.
        barred: init -> why it is compared with no other; empty: it is.
        reference: the init that is on the right in its pairs.
        level: of the intervals; drops, and differences, share half of what it leaves.
        tasks: that the networks were read on.
    """
    usable = [_usable(side, metric) for side in (home, away)]
    kept = [k for k in range(len(home.labels)) if all(k in side for side in usable)]
    blank = replace(
        blank, patients=len(np.unique(away.patients)), labels=tuple(home.labels[k] for k in kept),
        few=tuple(label for k, label in enumerate(home.labels) if k not in kept),
    )  # fmt: skip
    if not kept or (metric.of != "label" and len(kept) < len(home.labels)):
        return replace(blank, note=f"fewer than {CASES} patients of a class in one of the two tests")
    parts = [_parts(_of(side, kept), metric) for side in (home, away)]
    sides, coarse = list[dict[str, Array]](), 0.0
    for part in parts:
        if isinstance(part, str):
            return replace(blank, note=part)
        sides.append({init: _by_seed(part, runs) for init, runs in units.items()})
        coarse = part.coarseness
    at_home, there = sides
    free = [init for init in units if not barred[init]]
    share = CAUTION * (1 - level) / tasks
    inits = tuple(
        AwayScore(
            init=init, home=_measured(at_home[init], level), away=_measured(there[init], level),
            drop=_drop(at_home[init], there[init], share / max(1, len(free)), bool(barred[init])), barred=barred[init],
            joint=None if barred[init] else joint_interval(of_two_sets(at_home[init], there[init])),
        )
        for init in units
    )  # fmt: skip
    return replace(
        blank, seeds=min(map(len, units.values())), inits=inits,
        pairs=_pairs(free, at_home, there, coarse, reference, share),
    )  # fmt: skip


def _usable(known: Predictions, metric: Metric) -> set[int]:
    """Finds the labels with enough patients: of both classes, or of masks at all."""
    if metric.of == "mask":
        enough = len(np.unique(known.patients)) >= CASES
        return set(range(len(known.labels))) if enough else set()
    return {
        k for k, column in enumerate(known.truth.T)
        if min(len(np.unique(known.patients[column == one])) for one in (0, 1)) >= CASES
    }  # fmt: skip


def _of(known: Predictions, kept: Sequence[int]) -> Predictions:
    return replace(
        known, labels=tuple(known.labels[k] for k in kept), truth=known.truth[:, kept],
        answers=np.ascontiguousarray(known.answers[:, :, kept]),
    )  # fmt: skip


def _parts(known: Predictions, metric: Metric) -> Parts | str:
    assert metric.per_patient is not None  # looked at before
    return metric.per_patient(known)


def _by_seed(parts: Parts, runs: Sequence[Sequence[int]]) -> Array:
    return np.stack([parts.values[list(places)].mean(axis=0) for places in runs])


def _barred(init: str, task: str, results: Sequence[Result]) -> str:
    own = [result for result in results if result.init == init]
    if any(read.seen for result in own for read in result.away if read.task == task):
        return "its weights saw images of that site"
    return "contaminated at home" if any(CONTAMINATED in result.marks for result in own) else ""


def _drop(home: Array, away: Array, share: float, barred: bool) -> Measured:
    """Measures the fall; of weights that knew one of the two sets beforehand nothing is tested."""
    found = _measured(of_two_sets(home, away), 1 - share)
    return replace(found, p=None) if barred else found


def _measured(values: Array, level: float) -> Measured:
    joint = joint_interval(values, level=level)
    return Measured(estimate=joint.estimate, low=joint.low, high=joint.high, p=joint.p)


def _pairs(
    inits: Sequence[str], home: Mapping[str, Array], away: Mapping[str, Array], coarse: float, reference: str,
    share: float,
) -> tuple[Pair, ...]:  # fmt: skip
    """Compares every two inits at the other site, the reference on the right."""
    ordered = [*(init for init in inits if init != reference), *(init for init in inits if init == reference)]
    if len(ordered) < 2:
        return ()
    pairs = all_pairs.over_seeds_and_patients(np.stack([away[init] for init in ordered]), coarseness=coarse)
    if pairs is None:
        return ()
    p, reach, found = pairs.p(), pairs.reach(share / pairs.number), []
    for one, two in itertools.combinations(range(len(ordered)), 2):
        estimate, half = float(pairs.estimate[one, two]), float(reach[one, two])
        tested = not np.isnan(half)
        there = Measured(
            estimate=estimate, low=estimate - half if tested else None, high=estimate + half if tested else None,
            p=None if np.isnan(p[one, two]) else float(p[one, two]),
        )  # fmt: skip
        at_home = float(home[ordered[one]].mean() - home[ordered[two]].mean())
        found.append(Pair(init=ordered[one], against=ordered[two], away=there, home=at_home))
    return tuple(found)
