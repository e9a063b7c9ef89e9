"""Test predictions of a task -> what each patient adds to each run's score, and intervals over patients.

A run's predictions must give its score: where they do not, the files do not belong together, and nothing is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from medtransfer import delong, joint, resampling
from medtransfer.cells import Cell, predictions
from medtransfer.errors import UserError
from medtransfer.resampling import Interval
from medtransfer.statistics import Array

TERMS = ("intersection", "predicted", "target")
TOLERANCE = 1e-6
"""between a logged score and the one that its predictions give"""
Parts = tuple[Array | None, resampling.Statistic, Array]
"""runs x patients: what a patient adds to a run's score, None where it is no sum; the statistic; the rows it is over"""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the test predictions of a task say beyond one score per run."""

    task: str
    unit: str
    """what is resampled: patient, study or image"""
    images: int = 0
    patients: int = 0
    contributions: Mapping[str, Array] = field(default_factory=dict)
    """init -> seeds x patients: a run's score is the mean of its row; without the inits that have none"""
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    """init -> interval over patients of its mean score over seeds"""
    note: str = ""
    """why there are no contributions or no intervals"""


def gather(cells: Sequence[Cell], folder: Path, *, resamples: int, level: float, rng: np.random.Generator) -> Evidence:
    """Reads the predictions of a task's runs, those of one initialization in the order of its seeds.

    Args:
        cells: runs of complete initializations of one task, one split.
        folder: of the finished runs, `<task>/<digest>/predictions.parquet`.
        resamples: of the patients; 0: no intervals of single scores.
        level: of the intervals.
        rng: draws the resamples, the same ones for all initializations.

    Raises:
        UserError: predictions are missing or damaged, are of other images than another run's, or do not give the
            score that the run logged.
    """
    first = cells[0]
    blank = Evidence(task=first.task, unit=first.unit)
    if first.metric not in _METRICS:
        return replace(blank, note=f"{first.metric} has no interval over patients here; seeds alone count")
    if first.folds:
        return replace(blank, note="the folds of a cross-validation have no test images in common; folds alone count")
    table = _table(first, folder)
    patients = table["patient"].to_numpy()
    blank = replace(blank, images=len(patients), patients=len(np.unique(patients)))
    parts = _METRICS[first.metric](cells, folder, table)
    if isinstance(parts, str):
        return replace(blank, note=f"{parts}; seeds alone count")
    values, statistic, rows = parts
    _check_scores(cells, statistic)
    groups, found = _by_init(cells), blank
    if values is None:
        found = replace(blank, note=f"{first.metric} is no sum over patients; in differences seeds alone count")
    else:
        found = replace(blank, contributions={init: values[places] for init, places in groups.items()})
    if not resamples:
        return replace(found, note=found.note or "comparison.resamples is 0: no intervals of single scores")
    return _with_intervals(found, statistic, patients[rows], groups, resamples, level, rng)


def _with_intervals(
    found: Evidence,
    statistic: resampling.Statistic,
    patients: Array,
    groups: Mapping[str, list[int]],
    resamples: int,
    level: float,
    rng: np.random.Generator,
) -> Evidence:
    try:
        drawn = resampling.bootstrap(statistic, rng, patients=patients, resamples=resamples)
    except UserError as error:
        return replace(found, note=f"no intervals of single scores: {error}")
    intervals = {init: resampling.interval(drawn, places, level=level) for init, places in groups.items()}
    return replace(found, intervals=intervals)


def _by_init(cells: Sequence[Cell]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for place, cell in sorted(enumerate(cells), key=lambda pair: pair[1].seed):
        groups.setdefault(cell.init, []).append(place)
    return groups


def _read(cells: Sequence[Cell], folder: Path, columns: Sequence[str]) -> Array:
    """Reads these columns of every run: runs x images x columns."""
    tables = []
    ids = None
    for cell in cells:
        table = _table(cell, folder, ["id", *columns])
        ids = table["id"] if ids is None else ids
        if not table["id"].equals(ids):
            raise UserError(
                f"{cell.label} and {cells[0].label} were tested on other images, or in another order; "
                "runs of one manifest digest have the same: remove the folder of the odd one and run it again"
            )
        tables.append(table[list(columns)].to_numpy())
    return np.stack(tables)


def _table(cell: Cell, folder: Path, columns: list[str] | None = None) -> pd.DataFrame:
    path = predictions(cell, folder)
    try:
        return pd.read_parquet(path, columns=columns)
    except (OSError, ValueError) as error:  # how pyarrow says that a file is damaged or lacks a column
        raise UserError(f"{path} is damaged ({error}); remove its folder and run `benchmark` again") from error


def _auc(cells: Sequence[Cell], folder: Path, table: pd.DataFrame) -> Parts | str:
    found = _labels(cells, folder, table)
    if isinstance(found, str):
        return found
    truth, scores = found
    parts = delong.placements(truth, scores, table["patient"].to_numpy())
    if parts.counts[:, :2].min() < 2:
        return "a label has all its images of one class from a single patient"
    return delong.contributions(parts), resampling.mean_auc(truth, scores), np.arange(len(truth))


def _average_precision(cells: Sequence[Cell], folder: Path, table: pd.DataFrame) -> Parts | str:
    found = _labels(cells, folder, table)
    if isinstance(found, str):
        return found
    return None, resampling.average_precision(*found), np.arange(len(table))


def _labels(cells: Sequence[Cell], folder: Path, table: pd.DataFrame) -> tuple[Array, Array] | str:
    """Reads targets (images x labels) and probabilities (runs x images x labels) of the labels with both classes."""
    names = [name.removeprefix("target.") for name in map(str, table.columns) if name.startswith("target.")]
    labels = [label for label in cells[0].tested or names if {0, 1} <= set(table[f"target.{label}"])]
    if not labels:
        return "no label has both classes in test"
    truth = table[[f"target.{label}" for label in labels]].to_numpy()
    return truth, _read(cells, folder, [f"probability.{label}" for label in labels])


def _dice(cells: Sequence[Cell], folder: Path, table: pd.DataFrame) -> Parts | str:
    scores, _ = _image_dice(cells, folder, table)
    values = scores.mean(axis=2)
    patients = table["patient"].to_numpy()
    return joint.per_patient(values, patients), resampling.mean(values, "mean Dice"), np.arange(len(patients))


def _dice_positives(cells: Sequence[Cell], folder: Path, table: pd.DataFrame) -> Parts | str:
    scores, positive = _image_dice(cells, folder, table)
    if positive.shape[1] > 1 or not positive.any():
        return "Dice on positives needs one label, with a target in test"
    rows = np.flatnonzero(positive[:, 0])
    values, patients = scores[:, rows, 0], table["patient"].to_numpy()[rows]
    return joint.per_patient(values, patients), resampling.mean(values, "mean Dice on positives"), rows


def _image_dice(cells: Sequence[Cell], folder: Path, table: pd.DataFrame) -> tuple[Array, Array]:
    """Computes Dice per image (runs x images x labels), and whether the image has a target (images x labels)."""
    labels = cells[0].tested if "target" not in table else ("",)
    suffixes = [f".{label}" if label else "" for label in labels]
    overlap, predicted, target = (_read(cells, folder, [f"{term}{s}" for s in suffixes]) for term in TERMS)
    total = predicted + target
    return np.where(total == 0, 1.0, 2 * overlap / np.maximum(total, 1)), target[0] > 0


def _check_scores(cells: Sequence[Cell], statistic: resampling.Statistic) -> None:
    whole = statistic.score(np.ones((statistic.images, 1), dtype=np.float32))[:, 0]
    for cell, own in zip(cells, whole, strict=True):
        if cell.score is None or abs(cell.score - own) > TOLERANCE:
            raise UserError(
                f"{cell.label}: its predictions give {cell.metric} {own:.6f}, its cell.json says {cell.score}; "
                "the files do not belong together: remove the folder and run `benchmark` again"
            )


_METRICS: Mapping[str, Callable[[Sequence[Cell], Path, pd.DataFrame], Parts | str]] = {
    "auc": _auc,
    "average_precision": _average_precision,
    "dice": _dice,
    "dice_positives": _dice_positives,
}
