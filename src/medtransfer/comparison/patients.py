"""Test predictions of a task -> what each patient adds to each run's score, and intervals over patients.

A run's predictions must give its score: where they do not, the files do not belong together, and nothing is compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medtransfer.comparison import calibration
from medtransfer.comparison.calibration import Calibration, calibrate
from medtransfer.comparison.subgroups import Grouping, subgroups
from medtransfer.core.errors import UserError, quantity
from medtransfer.core.progress import Tell, between, untold
from medtransfer.data.tasks import GROUP
from medtransfer.results.result import ELSEWHERE, PREDICTIONS, Result, predictions
from medtransfer.statistics import bootstrap, delong, metrics
from medtransfer.statistics.bootstrap import Interval
from medtransfer.statistics.contributions import Parts, Predictions
from medtransfer.statistics.metrics import Metric
from medtransfer.statistics.t_tests import Array

TOLERANCE = 1e-6
"""between a logged score and the one that its predictions give"""
ADDED, CALIBRATED, GROUPED = 150, 150, 200
"""resamples that cost about as much as what patients add, as calibration, and as a column of groups"""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the test predictions of a task say beyond one score per run."""

    task: str
    unit: str
    """what is resampled: patient, study or image"""
    images: int = 0
    patients: int = 0
    contributions: Mapping[str, Array] = field(default_factory=dict)
    """init -> seeds (or folds) x patients: a score is the mean of its row; without the inits that have none"""
    coarseness: float = 0.0
    """variance of a difference that the contributions do not show"""
    cases: int = 0
    """patients of the smaller class, of the label that has most of them; without classes all patients"""
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    """init -> interval over patients of its mean score over seeds"""
    note: str = ""
    """why there are no contributions or no intervals"""
    calibration: Calibration | None = None
    """None: the task has no probabilities, or each run test images of its own"""
    subgroups: tuple[Grouping, ...] = ()
    """one for each column of groups that the predictions carry"""


def gather(
    results: Sequence[Result], folder: Path, *, resamples: int, level: float, rng: np.random.Generator,
    tasks: int = 1, tell: Tell = untold,
) -> Evidence:  # fmt: skip
    """Reads the predictions of a task's runs, those of one initialization in the order of its seeds.

    Args:
        results: runs of complete initializations of one task, one split.
        folder: of the finished runs, `<task>/<digest>/predictions.parquet`.
        resamples: of the patients; 0: no intervals of single scores.
        level: of the intervals.
        rng: draws the resamples, the same ones for all initializations.
        tasks: that are looked at together, for whose groups of patients the gaps are corrected.
        tell: called with what is done.

    Raises:
        UserError: predictions are missing or damaged, are of other images than another run's, or do not give the
            score that the run logged.
    """
    first = results[0]
    blank = Evidence(task=first.task, unit=first.unit)
    metric = metrics.METRICS.get(first.metric)
    if metric is None or metric.per_patient is None:
        return replace(blank, note=f"{first.metric} has no interval over patients here; seeds alone count")
    if first.fold is not None and not locked(results, folder):
        unit = ("drawn split", "splits") if first.drawn else ("fold of a cross-validation", "folds")
        return replace(blank, note="each {} has test images of its own; {} alone count".format(*unit))
    table = table_of(first, folder)
    patients = table["patient"].to_numpy()
    blank = replace(blank, images=len(patients), patients=len(np.unique(patients)))
    if blank.patients < 2:
        return replace(blank, note=f"a single {first.unit} in test; seeds alone count")
    grouped = _grouped(results, folder, table)
    columns = sum(str(name).startswith(GROUP) for name in grouped.columns)
    ends = np.cumsum([0, ADDED, CALIBRATED, columns * GROUPED, resamples])
    steps = [between(tell, low, high) for low, high in itertools.pairwise((ends / ends[-1]).tolist())]
    steps[0](f"reading {quantity(len(results), 'run')}", 0.0)
    answered = predictions_of(results, folder, table, metric)
    steps[0](f"what each {first.unit} adds", 0.0)
    parts = metric.per_patient(answered)
    if isinstance(parts, str):
        return replace(blank, note=f"{parts}; seeds alone count")
    _check_scores(results, parts.statistic)
    units = by_unit(results)
    values = {init: np.stack([parts.values[k].mean(axis=0) for k in runs]) for init, runs in units.items()}
    note = f"{', '.join(parts.thin)}: a class from a single {first.unit}, which adds no spread" if parts.thin else ""
    found = replace(blank, contributions=values, coarseness=parts.coarseness, cases=parts.cases, note=note)
    if metric.of != "mask":
        found = replace(found, calibration=calibrate(results, answered, units, level, steps[1]))
    found = replace(found, subgroups=subgroups(grouped, answered, metric, units, level, tasks, steps[2]))
    if not resamples:
        words = "comparison.resamples is 0: no intervals of single scores"
        return replace(found, note="; ".join(filter(None, [note, words])))
    groups = {init: [place for run in runs for place in run] for init, runs in units.items()}
    drawing = between(steps[3], 0.0, 1.0, f"bootstrap of {quantity(len(answered.labels), 'label')}")
    return _with_intervals(found, parts, patients[parts.rows], groups, resamples, level, rng, drawing)


def contributions(results: Sequence[Result], folder: Path, metric: Metric, prefix: str = "") -> dict[str, Array] | str:
    """Reads what patients add to another metric than the task's own: init -> seeds x patients; else why there is none.

    Args:
        results: runs of complete initializations of one task, one split.
        folder: of the finished runs.
        metric: which.
        prefix: of a mask's score, see `metrics.PREFIXES`.

    Raises:
        UserError: predictions are missing or damaged, or do not have what the metric is made of.
    """
    of_probabilities = metric.name in calibration.MEASURED
    if (metric.per_patient is None and not of_probabilities) or (
        results[0].fold is not None and not locked(results, folder)
    ):
        return f"{metric.name} has no interval over patients here"
    table = table_of(results[0], folder)
    if table["patient"].nunique() < 2:
        return f"a single {results[0].unit} in test"
    answered = predictions_of(results, folder, table, metric, prefix=prefix)
    if metric.per_patient is None:
        return calibration.added(results, answered, by_unit(results), metric.name)
    parts = metric.per_patient(answered)
    if isinstance(parts, str):
        return parts
    return {init: np.stack([parts.values[k].mean(axis=0) for k in runs]) for init, runs in by_unit(results).items()}


def _grouped(results: Sequence[Result], folder: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Gives the predictions that know groups: of a cache of before there were any they know none."""
    if any(str(name).startswith(GROUP) for name in table.columns):
        return table
    last = table_of(max(results, key=lambda result: result.finished), folder)
    return last if last["id"].equals(table["id"]) else table


def locked(results: Sequence[Result], folder: Path) -> bool:
    """Says whether the folds, or splits, of a task have one test for all: then they are no more than seeds are.

    Args:
        results: of one task.
        folder: of the finished runs.
    """
    folds = {result.fold: result for result in results if result.fold is not None}
    if len(folds) < 2:
        return False
    one, two = (table_of(result, folder, ["id"])["id"] for result in [*folds.values()][:2])
    return bool(one.equals(two))


def _with_intervals(
    found: Evidence, parts: Parts, patients: Array, groups: Mapping[str, list[int]], resamples: int, level: float,
    rng: np.random.Generator, tell: Tell,
) -> Evidence:  # fmt: skip
    try:
        drawn = bootstrap.bootstrap(parts.statistic, rng, patients=patients, resamples=resamples, tell=tell)
    except UserError as error:
        return replace(found, note="; ".join(filter(None, [found.note, f"no intervals of single scores: {error}"])))
    intervals = {init: bootstrap.interval(drawn, places, level=level) for init, places in groups.items()}
    if parts.sizes is not None:
        intervals = {init: _below_the_ceiling(one, *parts.sizes) for init, one in intervals.items()}
    return replace(found, intervals=intervals)


def _below_the_ceiling(interval: Interval, positives: int, negatives: int) -> Interval:
    """Gives an area whose interval has no width, or reaches 1 within a step, that of its score equation."""
    step = 1 / min(positives, negatives)
    if interval.low is not None and interval.high is not None and interval.low < interval.high < 1 - step:
        return interval
    low, high = delong.score_interval(interval.estimate, positives, negatives, level=interval.level)
    return replace(interval, method="score", low=low, high=high, note="near 1: by the score equation")


def by_unit(results: Sequence[Result]) -> dict[str, list[list[int]]]:
    """Lists, for each init, the places of the runs of each seed, or of each fold with its seeds, in order."""
    groups: dict[str, dict[int, list[int]]] = {}
    for place, result in sorted(enumerate(results), key=lambda pair: (pair[1].fold or 0, pair[1].seed)):
        unit = result.seed if result.fold is None else result.fold
        groups.setdefault(result.init, {}).setdefault(unit, []).append(place)
    return {init: list(runs.values()) for init, runs in groups.items()}


def _read(results: Sequence[Result], folder: Path, columns: Sequence[str], name: str) -> Array:
    """Reads these columns of every run: runs x images x columns."""
    tables = []
    ids = None
    for result in results:
        table = _columns(result, folder, ["id", *columns], name)
        ids = table["id"] if ids is None else ids
        if not table["id"].equals(ids):
            own = "; runs of one manifest digest have the same: remove the folder of the odd one and run it again"
            raise UserError(
                f"{result.label} and {results[0].label} were tested on other images, or in another order"
                f"{'' if result.verb == ELSEWHERE else own}"
            )
        tables.append(np.column_stack([table[column].to_numpy() for column in columns]))
    return np.stack(tables)


def _columns(result: Result, folder: Path, columns: Sequence[str], name: str) -> Any:
    """Reads columns as Arrow has them, which is several times quicker than a data frame of each of many runs."""
    from pyarrow.parquet import ParquetFile

    path = predictions(result, folder, name)
    try:
        with ParquetFile(path, memory_map=True) as opened:
            if lacking := [column for column in columns if column not in opened.schema_arrow.names]:
                raise ValueError(f"it has no column {lacking[0]}")
            return opened.read(columns=list(columns), use_threads=False)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is damaged ({error}); remove its folder and run `benchmark` again")


def table_of(result: Result, folder: Path, columns: list[str] | None = None, name: str = PREDICTIONS) -> pd.DataFrame:
    """Reads the predictions of a run.

    Args:
        result: of the run.
        folder: of the finished runs.
        columns: that are wanted; None: all.
        name: of the file.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = predictions(result, folder, name)
    try:
        return pd.read_parquet(path, columns=columns)
    except (OSError, ValueError) as error:  # how pyarrow says that a file is damaged or lacks a column
        raise _damaged(path, error) from error


def predictions_of(
    results: Sequence[Result], folder: Path, table: pd.DataFrame, metric: Metric, name: str = PREDICTIONS,
    prefix: str = "",
) -> Predictions:  # fmt: skip
    """Reads what a metric is made of; all runs have the truth of the first, whose table is given.

    Args:
        results: of the runs; the labels are those that the first is tested on.
        folder: of the finished runs.
        table: of the first.
        metric: that is scored.
        name: of the file.
        prefix: of the columns of masks.
    """
    if metric.of == "mask":
        labels = results[0].tested if "target" not in table else ("",)
        suffixes = [f".{label}" if label else "" for label in labels]
        columns = [[f"{prefix}{term}{suffix}" for suffix in suffixes] for term in metric.terms]
        answers = np.stack([_read(results, folder, names, name) for names in columns], axis=-1)
        truth = (table[[f"{prefix}target{suffix}" for suffix in suffixes]].to_numpy() > 0).astype(np.int8)
    else:
        names = [one.removeprefix("target.") for one in map(str, table.columns) if one.startswith("target.")]
        labels = results[0].tested or tuple(names)
        truth = table[[f"target.{label}" for label in labels]].to_numpy()
        answers = _read(results, folder, [f"probability.{label}" for label in labels], name)
    return Predictions(patients=table["patient"].to_numpy(), labels=labels, truth=truth, answers=answers)


def _check_scores(results: Sequence[Result], statistic: bootstrap.Statistic) -> None:
    whole = statistic.score(np.ones((statistic.images, 1), dtype=np.float32))[:, 0]
    for result, own in zip(results, whole, strict=True):
        if result.score is None or abs(result.score - own) > TOLERANCE:
            said = (
                f"cell.json says {result.score}; the files do not belong together: remove the folder and run it again"
            )
            if result.verb == ELSEWHERE:
                said = f"row says {result.score}; the file is another run's, or the score was computed otherwise"
            raise UserError(f"{result.label}: its predictions give {result.metric} {own:.6f}, its {said}")
