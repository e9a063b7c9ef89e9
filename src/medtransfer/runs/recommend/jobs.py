"""What a worker does for a recommendation: scores of frozen features, a stretch of a training, the test of a run.

Features, probes and stretches read train and val alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medtransfer.core import files
from medtransfer.core.errors import UserError
from medtransfer.data.tasks import slug
from medtransfer.runs import building, finetune
from medtransfer.runs.run import Run
from medtransfer.statistics import metrics
from medtransfer.statistics.contributions import Predictions

if TYPE_CHECKING:
    from medtransfer.data.tasks import Task
    from medtransfer.training.checkpoint import Fit
    from medtransfer.training.objectives import Prediction

Array = NDArray[Any]

PIXELS = 4000
"""of train that cheap scores of dense features are computed on"""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Scores a candidate's frozen features."""

    run: Run
    """of the protocol linear"""

    @property
    def init(self) -> str:
        """Names the candidate."""
        return self.run.init.canonical


@dataclass(frozen=True, kw_only=True)
class Probed:
    """What frozen features are worth on val; None where a score does not exist for the task."""

    scores: dict[str, float | None]
    pass_seconds: float
    """of the features, all images"""
    seconds: float
    """of everything"""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Trains a run up to an epoch."""

    run: Run
    epochs: int
    until: float
    """time after which no epoch begins, in seconds since 1970"""
    values: Path
    """file that gets what each val patient adds to the score"""

    @property
    def init(self) -> str:
        """Names the candidate."""
        return self.run.init.canonical


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Where a training stands after a stretch."""

    epochs: int
    score: float
    """on val, with the model of the best epoch so far"""
    seconds: float
    """that its epochs took, of all stretches"""
    wall: float
    """that this stretch took, with all around it"""
    complete: bool
    coarseness: float = 0.0
    """see `contributions.Parts`"""
    device: str = ""


@dataclass(frozen=True, kw_only=True)
class Test:
    """Reads test once with a run that is trained."""

    run: Run

    @property
    def init(self) -> str:
        """Names the candidate."""
        return self.run.init.canonical


Job = Probe | Stretch | Test


def work(job: Job, report: Callable[[Any], None]) -> Probed | Trained | dict[str, Any]:
    """Does a job in a worker."""
    if isinstance(job, Probe):
        return probe(job)
    if isinstance(job, Stretch):
        return train(job, report)
    return finetune.execute(job.run, report)


def probe(job: Probe) -> Probed:
    """Computes features, unless they are here, and scores them by linear, knn, LogME and H-score.

    Raises:
        UserError: the backbone gives no features that a probe can read.
    """
    from medtransfer.runs import feature_cache, frozen
    from medtransfer.training.trainer import choose_kernels

    begun, run = time.perf_counter(), job.run
    choose_kernels(run.params.engine)
    prepared, features = building.labelled(run), feature_cache.ready(run)
    scores, notes = dict[str, float | None](), list[str]()
    for name, score in frozen.on_val(run, prepared, features).items():
        scores[name] = score
    rows = prepared.rows("train")
    try:
        scores |= _transferability(run, features, rows, prepared)
    except UserError as error:
        notes.append(str(error))
    return Probed(scores=scores, pass_seconds=features.seconds, seconds=time.perf_counter() - begun, notes=tuple(notes))


def _transferability(run: Run, features: Any, rows: Array, prepared: Any) -> dict[str, float | None]:
    """Gives LogME and the H-score on train."""
    from medtransfer.statistics import transferability
    from medtransfer.training import objectives

    if run.record.segmentation:
        bits = features.targets[rows].reshape(-1, 1) >> np.arange(len(run.record.labels), dtype=np.uint8) & 1
        values = features.values[rows].reshape(len(bits), -1)
        step = max(1, -(-len(bits) // PIXELS))
        values, labels = values[::step].astype(np.float64), bits[::step]
    else:
        labels = objectives.targets(run.record, prepared)[rows]
        known = (labels >= 0).all(axis=1)
        values, labels = features.values[rows][known].astype(np.float64), labels[known]
    labels = labels[:, (labels.min(axis=0) < labels.max(axis=0))].astype(np.int64)
    if not labels.shape[1]:
        return {"logme": None, "h_score": None}
    return {
        "logme": transferability.logme(values, labels),
        "h_score": transferability.h_score(values, labels, regularized=True),
    }


def train(job: Stretch, report: Callable[[Any], None]) -> Trained:
    """Trains a run up to the epoch, or until the time is over, and scores val with its best model so far."""
    begun = time.perf_counter()
    fit, val, complete = finetune.advance(job.run, job.epochs, lambda: time.time() >= job.until, report)
    task = job.run.record
    values, coarseness = contributions(task, val)
    score = val.scores.get(task.metric)
    if score is None:
        raise UserError(f"{task.metric} is undefined on val: does a label have both classes there?")
    former = _score_then(fit, task.metric, job.run.training.monitor, job.epochs)
    if former is not None:  # it had gone on before: what it was worth then, with the patients of the model it has now
        values, score = (None if values is None else values - values.mean() + former), former
    if values is not None:
        job.values.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(job.values) as temporary, open(temporary, "wb") as stream:
            np.save(stream, values)
    return Trained(
        epochs=min(fit.epoch, job.epochs), score=score, seconds=fit.seconds - fit.compile_seconds,
        wall=time.perf_counter() - begun, complete=complete, coarseness=coarseness, device=job.run.device,
    )  # fmt: skip


def _score_then(fit: Fit, metric: str, monitor: str, epochs: int) -> float | None:
    """Reads what the best model of the first epochs scored, where a training has a better one since; else None."""
    if fit.best_epoch < epochs:
        return None
    lines = [line for line in fit.history[:epochs] if f"val_{metric}" in line]
    best = (max if metrics.rises(monitor) else min)(lines, key=lambda line: line[monitor], default=None)
    return None if best is None else best[f"val_{metric}"]


def contributions(task: Task, val: Prediction) -> tuple[Array | None, float]:
    """Gives what each val patient adds to the score, their mean, and the coarseness; None: nothing is known."""
    metric, table = metrics.METRICS[task.metric], val.table
    if metric.per_patient is None:
        return None, 0.0
    labels = tuple(slug(label) for label in task.tested or task.labels)
    if metric.of == "mask":
        suffixes = [f".{label}" for label in labels] if len(task.labels) > 1 else [""]
        columns = [table[[f"{term}{s}" for s in suffixes]].to_numpy() for term in metric.terms]
        answers = np.stack(columns, axis=-1)
        truth = (table[[f"target{s}" for s in suffixes]].to_numpy() > 0).astype(np.int8)
    else:
        truth = table[[f"target.{label}" for label in labels]].to_numpy()
        answers = table[[f"probability.{label}" for label in labels]].to_numpy()
    found = metric.per_patient(
        Predictions(patients=table["patient"].to_numpy(), labels=labels, truth=truth, answers=answers[None])
    )
    return (None, 0.0) if isinstance(found, str) else (found.values[0], found.coarseness)
