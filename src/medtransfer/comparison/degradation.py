"""Predictions of test images made worse on purpose -> what of the score above chance each initialization loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from medtransfer.comparison.patients import by_unit, locked, predictions_of, table_of
from medtransfer.core.errors import UserError, quantity
from medtransfer.core.progress import Tell, untold
from medtransfer.results.away import CORRUPTED
from medtransfer.results.result import Result
from medtransfer.statistics import metrics
from medtransfer.statistics.contributions import Predictions
from medtransfer.statistics.degradation import Lost, chance, lost
from medtransfer.statistics.metrics import Metric
from medtransfer.statistics.t_tests import Array

ALL = "all"
"""in place of a kind: the mean over all kinds and severities"""


@dataclass(frozen=True, kw_only=True)
class Degraded:
    """What an initialization loses."""

    init: str
    clean: float
    """its score on the images as they are"""
    lost: Mapping[str, Lost]
    """`ALL`, then kind: the mean over severities"""


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """What the initializations of a task lose on test images made worse."""

    metric: str
    kinds: tuple[str, ...]
    severities: tuple[int, ...]
    chance: float
    seeds: int
    inits: tuple[Degraded, ...]
    note: str = ""
    """why nothing is measured"""


def degradation(results: Sequence[Result], folder: Path, level: float, tell: Tell = untold) -> Degradation | None:
    """Measures every initialization of a task; None where no run was read on such images.

    Args:
        results: runs of complete initializations of one task.
        folder: of the finished runs.
        level: of the intervals.
        tell: called with what is done.

    Raises:
        UserError: predictions are missing or damaged, or of other images than another run's.
    """
    asked = [{n: v for n, v in one.params.items() if n.startswith("corruptions.")} for one in results]
    if not any(asked):
        return None
    kinds, severities = (tuple(asked[0].get(f"corruptions.{name}", ())) for name in ("kinds", "severities"))
    blank = Degradation(metric=results[0].metric, kinds=kinds, severities=severities, chance=0.0, seeds=0, inits=())
    metric = metrics.METRICS.get(results[0].metric)
    note = ""
    if any(one != asked[0] for one in asked):
        note = "not all runs were read on the same images; run `benchmark`"
    elif metric is None or metric.per_patient is None:
        note = f"{results[0].metric} has no interval over patients"
    elif results[0].fold is not None and not locked(results, folder):
        note = "each run has test images of its own"
    if note or metric is None:
        return replace(blank, note=note)
    tell(f"reading {quantity(len(results), 'run')}", 0.0)
    known = predictions_of(results, folder, table_of(results[0], folder), metric)
    units = by_unit(results)
    clean = _values(known, metric)
    tables = [table_of(result, folder, name=CORRUPTED) for result in results]
    worse: dict[str, Array] = {}
    for place, kind in enumerate(kinds):
        of_kind = []
        for number, severity in enumerate(severities):
            tell(f"{kind} at severity {severity}", (place + number / len(severities)) / len(kinds))
            of_kind.append(_values(_changed(known, tables, kind, severity, metric, results), metric))
        worse[kind] = _mean(of_kind)
    worse = {ALL: _mean(list(worse.values())), **worse}
    least = chance(metric.name, known.truth)
    inits = []
    for init, runs in units.items():
        own = _by_seed(clean, runs)
        found = {kind: lost(own, _by_seed(values, runs), least, level) for kind, values in worse.items()}
        inits.append(Degraded(init=init, clean=float(own.mean()), lost=found))
    return replace(blank, chance=least, seeds=min(map(len, units.values())), inits=tuple(inits))


def _changed(
    known: Predictions, tables: Sequence[pd.DataFrame], kind: str, severity: int, metric: Metric,
    results: Sequence[Result],
) -> Predictions:  # fmt: skip
    """Puts in the place of what the runs answered on images as they are what they did on those of one severity."""
    answers = []
    for table, result in zip(tables, results, strict=True):
        own = table[(table["kind"] == kind) & (table["severity"] == severity)]
        if len(own) != len(known.truth):
            raise UserError(
                f"{result.label}: {CORRUPTED} has {len(own)} images of {kind} at severity {severity}, its test "
                f"{len(known.truth)}: remove the run's folder and run `benchmark` again"
            )
        if metric.of == "mask":
            suffixes = [""] if "target" in own else [f".{label}" for label in known.labels]
            values = np.stack([own[[f"{term}{end}" for end in suffixes]].to_numpy() for term in metric.terms], axis=-1)
        else:
            values = own[[f"probability.{label}" for label in known.labels]].to_numpy()
        answers.append(values)
    return Predictions(patients=known.patients, labels=known.labels, truth=known.truth, answers=np.stack(answers))


def _values(known: Predictions, metric: Metric) -> Array:
    assert metric.per_patient is not None  # looked at before
    parts = metric.per_patient(known)
    if isinstance(parts, str):
        raise UserError(parts)
    return parts.values


def _mean(values: Sequence[Array]) -> Array:
    return np.asarray(np.mean(values, axis=0))


def _by_seed(values: Array, runs: Sequence[Sequence[int]]) -> Array:
    return np.stack([values[list(places)].mean(axis=0) for places in runs])
