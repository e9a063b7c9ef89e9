"""Test predictions of a classification task -> how the probabilities of each initialization are calibrated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medtransfer.core.cores import spread
from medtransfer.core.progress import Tell, untold
from medtransfer.results.result import Result
from medtransfer.statistics import calibration as statistics
from medtransfer.statistics.contributions import Predictions
from medtransfer.statistics.delong import patient_index
from medtransfer.statistics.seeds_and_patients import JointInterval, joint_interval
from medtransfer.statistics.t_tests import Array

VALUES = 15_000_000
"""probabilities that are looked at in a task: of more, the first seeds of each initialization"""
LEAST = 3
"""seeds that are looked at in any case"""
CAUTION = 0.5
"""part of the level at which something is said: with few patients errors are a little short (docs/statistics.md)"""
RIGHT = {"slope": 1.0, "intercept": 0.0}
"""what calibrated probabilities have"""
PARTS = ("reliability", "resolution", "uncertainty")
"""of the Brier score: the first minus the second plus the third"""

UNTEMPERED = "in a run val shows none to be best, or it was trained before they were kept, or by other code"
"""why an initialization has no temperature"""
MEASURED = ("ece", "brier")
"""metrics whose contributions of patients are measured here"""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A mean over seeds, with its interval over seeds and patients."""

    estimate: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    """two-sided, of what calibrated probabilities have; None: there is no such value, or nothing to measure it by"""
    joint: JointInterval | None = None
    """of what has no right value, for other levels"""


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """The calibration of an initialization on a task: means over labels and seeds."""

    init: str
    seeds: int
    """of which it was measured"""
    ece: Measure
    chance: float
    """what `ece` would be on average if every probability were right and images independent of each other"""
    tempered: Measure | None
    """`ece` with the temperatures that val decided; None: a run has none"""
    temperature: float | None
    """geometric mean over labels and seeds; None: as of `tempered`"""
    brier: Measure
    parts: Mapping[str, float]
    """of `brier`, see `PARTS`"""
    slope: Measure | None
    """None: in a run a label's classes are separated, or it has no spread"""
    intercept: Measure | None
    shares: Array
    """bins x (probability, share that is positive, its low and high end)"""
    benefit: Array
    """net benefit at `THRESHOLDS`"""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How the probabilities of a task's initializations are calibrated."""

    labels: tuple[str, ...]
    """that means are over: with both classes in test"""
    rare: tuple[str, ...]
    """of these, with fewer than `EVENTS` patients of one class"""
    all_positive: Array
    """net benefit at `THRESHOLDS` of calling every image positive"""
    level: float
    inits: tuple[Calibrated, ...]


@dataclass(frozen=True, kw_only=True)
class _Run:
    """Means over the labels of one run."""

    added: Mapping[str, Array]
    """measure -> patients: what each adds to it, which is their mean"""
    chance: float
    parts: tuple[float, ...]
    shares: Array
    """bins x (probability, share)"""
    spread: Array
    """patients x bins: what each adds to the share beyond it"""
    benefit: Array


def calibrate(
    results: Sequence[Result], predictions: Predictions, units: Mapping[str, Sequence[Sequence[int]]], level: float,
    tell: Tell = untold,
) -> Calibration | None:  # fmt: skip
    """Measures every initialization of a task; None where what was predicted are no probabilities.

    Args:
        results: runs of complete initializations.
        predictions: of these runs, in their order.
        units: init -> places of the runs of each of its seeds, or folds.
        level: of the intervals.
        tell: called with what is done.
    """
    truth, answers = predictions.truth, predictions.answers
    kept = [k for k, column in enumerate(truth.T) if {0, 1} <= set(column.tolist())]
    if not kept or answers.min() < 0 or answers.max() > 1:
        return None
    index, number = patient_index(predictions.patients, len(truth))
    labels = tuple(predictions.labels[k] for k in kept)
    fewest = [min(len(np.unique(index[truth[:, k] == one])) for one in (0, 1)) for k in kept]
    runs = sum(map(len, units.values()))
    share = VALUES / (answers[0].size * runs)
    found = list[Calibrated]()

    def of_run(place: int) -> _Run:
        return _measured(truth, answers[place], predictions.labels, kept, results[place], index, number)

    for init, places in units.items():
        tell(f"calibration, {len(found) + 1} of {len(units)}", len(found) / len(units))
        chosen = [place for unit in places[: max(LEAST, int(share * len(places)))] for place in unit]
        every = spread(of_run, chosen, numbers=truth.size)
        found.append(_over_seeds(init, every, [results[place] for place in chosen], labels, level))
    prevalence = np.mean([truth[truth[:, k] >= 0, k].mean() for k in kept])
    odds = statistics.THRESHOLDS / (1 - statistics.THRESHOLDS)
    return Calibration(
        labels=labels,
        rare=tuple(label for label, few in zip(labels, fewest, strict=True) if few < statistics.EVENTS),
        all_positive=np.asarray(prevalence - (1 - prevalence) * odds),
        level=level,
        inits=tuple(found),
    )


def added(
    results: Sequence[Result], predictions: Predictions, units: Mapping[str, Sequence[Sequence[int]]], name: str
) -> dict[str, Array] | str:
    """Gives what each patient adds to one of `MEASURED`: init -> seeds x patients; else why there is none.

    Args:
        results: runs of complete initializations.
        predictions: of these runs, in their order.
        units: init -> places of the runs of each of its seeds, or folds.
        name: of the metric.
    """
    truth, answers = predictions.truth, predictions.answers
    kept = [k for k, column in enumerate(truth.T) if {0, 1} <= set(column.tolist())]
    if not kept:
        return "no label has both classes in test"
    index, number = patient_index(predictions.patients, len(truth))

    def of_run(place: int) -> Array:
        run = _measured(truth, answers[place], predictions.labels, kept, results[place], index, number)
        return run.added[name]

    return {
        init: np.stack([np.mean([of_run(place) for place in unit], axis=0) for unit in places])
        for init, places in units.items()
    }


def fitted(result: Result, labels: Sequence[str]) -> list[float | None] | None:
    """Reads the temperatures of a run's labels, which val decided; None: it has none."""
    if "temperature" in result.scores:
        return [result.scores["temperature"]] * len(labels)
    found = [result.scores.get(f"temperature.{label}") for label in labels]
    return found if any(one is not None for one in found) else None


def _measured(
    truth: Array, answers: Array, names: Sequence[str], kept: Sequence[int], result: Result, index: Array, number: int
) -> _Run:
    """Measures a run: label by label, then their mean."""
    own = fitted(result, names)
    after = None if own is None else statistics.tempered(answers, own, result.kind == "multiclass")
    added: dict[str, list[Array]] = {}
    lines, shares, spread, benefits = [], [], [], []
    for k in kept:
        known = truth[:, k] >= 0
        target, probability, whose = truth[known, k].astype(np.float64), answers[known, k], index[known]
        groups = statistics.grouped(target, probability)
        each = {"ece": _gaps(groups, target, probability), "brier": (probability - target) ** 2}
        if after is not None:
            warmer = after[known, k]
            each["tempered"] = _gaps(statistics.grouped(target, warmer), target, warmer)
        fit = statistics.recalibration(target, probability)
        each |= {"slope": fit.of_slope, "intercept": fit.of_intercept} if fit else {}
        for name, values in each.items():
            mean = float(values.mean())
            sums = np.bincount(whose, weights=values - mean, minlength=number)
            added.setdefault(name, []).append(mean + sums * number / len(values))
        parts = statistics.brier_parts(groups, target, probability)
        lines.append((statistics.chance_error(groups, probability), *parts))
        benefits.append(statistics.net_benefit(target, probability))
        if len(groups.counts) == statistics.BINS:  # of few or tied images there are fewer, which no mean is over
            share = groups.truth / groups.counts
            shares.append(np.stack([groups.expected / groups.counts, share], axis=1))
            off = (target - share[groups.places]) / groups.counts[groups.places]
            cells = whose * statistics.BINS + groups.places
            spread.append(np.bincount(cells, weights=off, minlength=number * statistics.BINS).reshape(number, -1))
    chance, *parts_of = np.mean(lines, axis=0).tolist()
    nothing = np.zeros((0, 2)), np.zeros((number, 0))
    return _Run(
        added={name: np.mean(values, axis=0) for name, values in added.items() if len(values) == len(kept)},
        chance=chance,
        parts=tuple(parts_of),
        shares=np.mean(shares, axis=0) if len(shares) == len(kept) else nothing[0],
        spread=np.mean(spread, axis=0) if len(shares) == len(kept) else nothing[1],
        benefit=np.mean(benefits, axis=0),
    )


def _gaps(groups: statistics.Groups, target: Array, probability: Array) -> Array:
    """Gives what each image adds to the expected calibration error, which is their mean."""
    return np.asarray(np.sign(groups.truth - groups.expected)[groups.places] * (target - probability))


def _over_seeds(
    init: str, runs: Sequence[_Run], results: Sequence[Result], labels: Sequence[str], level: float
) -> Calibrated:
    units: dict[int, list[int]] = {}
    for place, result in enumerate(results):
        units.setdefault(result.seed if result.fold is None else result.fold, []).append(place)

    def measure(name: str) -> Measure | None:
        if any(name not in run.added for run in runs):
            return None
        values = np.stack([np.mean([runs[k].added[name] for k in places], axis=0) for places in units.values()])
        joint = joint_interval(values - RIGHT.get(name, 0.0), level=level)
        right = RIGHT.get(name, 0.0)
        ends = None if joint.low is None or joint.high is None else (joint.low + right, joint.high + right)
        return Measure(
            estimate=joint.estimate + right, low=ends[0] if ends else None, high=ends[1] if ends else None,
            p=joint.p if name in RIGHT else None, joint=None if name in RIGHT else joint,
        )  # fmt: skip

    ece, brier, tempered = measure("ece"), measure("brier"), measure("tempered")
    assert ece is not None  # every run has them
    assert brier is not None
    logs = [math.log(one) for result in results for one in fitted(result, labels) or () if one is not None]
    return Calibrated(
        init=init,
        seeds=len(units),
        ece=ece,
        chance=float(np.mean([run.chance for run in runs])),
        tempered=tempered,
        temperature=math.exp(float(np.mean(logs))) if logs and tempered else None,
        brier=brier,
        parts=dict(zip(PARTS, np.mean([run.parts for run in runs], axis=0).tolist(), strict=True)),
        slope=measure("slope"),
        intercept=measure("intercept"),
        shares=_with_ends(runs, level),
        benefit=np.mean([run.benefit for run in runs], axis=0),
    )


def _with_ends(runs: Sequence[_Run], level: float) -> Array:
    """Gives the bins of the runs' mean their intervals: of a share of as many as have the patients' variance."""
    if any(not len(run.shares) for run in runs):
        return np.zeros((0, 4))
    mean = np.mean([run.shares for run in runs], axis=0)
    spread = np.mean([run.spread for run in runs], axis=0)
    variance = (spread**2).sum(axis=0)
    patients = (spread != 0).sum(axis=0)
    ends = []
    for share, of_bin, most in zip(mean[:, 1], variance, patients, strict=True):
        number = share * (1 - share) / of_bin if of_bin > 0 else float(max(most, 1))
        ends.append(statistics.wilson(float(share), number, level))
    return np.concatenate([mean, np.array(ends)], axis=1)
