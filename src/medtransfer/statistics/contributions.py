"""What each patient adds to a score: the per-patient side of a metric's record, arrays in, numbers out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from medtransfer.statistics import bootstrap, delong, seeds_and_patients
from medtransfer.statistics.bootstrap import Array
from medtransfer.statistics.dice import dice as of_masks


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What some runs, or models, answer on the same test images."""

    patients: Array
    """images: whose image it is"""
    labels: tuple[str, ...]
    """that the score is averaged over; all classes of a multiclass task"""
    truth: Array
    """images x labels: 1, 0, or -1 for uncertain; of masks whether the image has a target"""
    answers: Array
    """runs x images x labels: probabilities; of masks runs x images x labels x the metric's `terms`"""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a metric makes of the predictions of some runs."""

    values: Array
    """runs x patients: what a patient adds to a run's score, which is the mean of its row"""
    statistic: bootstrap.Statistic
    rows: Array
    """test images that the score is over"""
    cases: int
    """patients of the smaller class, of the label that has most of them; without classes all patients"""
    coarseness: float = 0.0
    """variance of a difference that these numbers do not show"""
    thin: tuple[str, ...] = ()
    """labels that have a class from a single patient, which is not in the variance"""
    sizes: tuple[int, int] | None = None
    """patients with and without the finding, where the score is one area under a ROC curve"""


def auc(predictions: Predictions) -> Parts | str:
    """Takes the placements of each patient's images, see `delong.contributions`."""
    found = _of_both_classes(predictions)
    if isinstance(found, str):
        return found
    labels, truth, scores = found.labels, found.truth, found.answers
    placed = delong.placements(truth, scores, found.patients)
    smaller = placed.counts[:, :2].min(axis=1)
    return Parts(
        values=delong.contributions(placed),
        statistic=bootstrap.mean_auc(truth, scores),
        rows=np.arange(len(truth)),
        cases=int(smaller.max()),
        coarseness=delong.coarseness(placed),
        thin=tuple(labels[k] for k in delong.thin(placed)),
        sizes=(int(placed.counts[0, 0]), int(placed.counts[0, 1])) if len(labels) == 1 else None,
    )


def average_precision(predictions: Predictions) -> Parts | str:
    """Leaves each patient out in turn, see `bootstrap.contributions`."""
    found = _of_both_classes(predictions)
    if isinstance(found, str):
        return found
    held = [[len(np.unique(found.patients[column == kind])) for kind in (0, 1)] for column in found.truth.T]
    smaller = np.array(held, dtype=np.float64).min(axis=1)
    return replace(
        _jackknifed(bootstrap.average_precision(found.truth, found.answers), found.patients),
        cases=int(smaller.max()),
        coarseness=float(((0.25 / smaller) ** 2).sum() / len(smaller) ** 2),
        thin=tuple(label for label, size in zip(found.labels, smaller, strict=True) if size < 2),
    )


def balanced_accuracy(predictions: Predictions) -> Parts | str:
    """Leaves each patient out in turn."""
    truth, answers = _classes(predictions)
    return _classified(bootstrap.balanced_accuracy(truth, answers), truth, predictions.patients)


def kappa(predictions: Predictions) -> Parts | str:
    """Leaves each patient out in turn."""
    truth, answers = _classes(predictions)
    statistic = bootstrap.quadratic_kappa(truth, answers, len(predictions.labels))
    return _classified(statistic, truth, predictions.patients)


def dice(predictions: Predictions) -> Parts | str:
    """Averages each patient's images, of the mean over labels."""
    patients = predictions.patients
    values = of_masks(predictions.answers).mean(axis=2)
    return _averaged(values, patients, np.arange(len(patients)), "mean Dice")


def dice_positives(predictions: Predictions) -> Parts | str:
    """Averages each patient's images with a target."""
    positive = predictions.truth == 1
    if positive.shape[1] > 1 or not positive.any():
        return "Dice on positives needs one label, with a target in test"
    rows = np.flatnonzero(positive[:, 0])
    values = of_masks(predictions.answers)[:, rows, 0]
    return _averaged(values, predictions.patients[rows], rows, "mean Dice on positives")


def dice_pooled(predictions: Predictions) -> Parts | str:
    """Leaves each patient out in turn."""
    return _jackknifed(bootstrap.pooled_dice(predictions.answers), predictions.patients)


def mean_share(predictions: Predictions, name: str) -> Parts | str:
    """Averages each patient's images, of the mean over labels of one share per image."""
    patients = predictions.patients
    values = predictions.answers[..., 0].mean(axis=2)
    return _averaged(values, patients, np.arange(len(patients)), name)


def lesion_f1(predictions: Predictions) -> Parts | str:
    """Leaves each patient out in turn: F1 is to lesions found, predicted and there what pooled Dice is to pixels."""
    statistic = replace(bootstrap.pooled_dice(predictions.answers), name="lesion-wise F1")
    return _jackknifed(statistic, predictions.patients)


def _of_both_classes(predictions: Predictions) -> Predictions | str:
    """Keeps the labels that have both classes."""
    kept = [k for k, column in enumerate(predictions.truth.T) if {0, 1} <= set(column.tolist())]
    if not kept:
        return "no label has both classes in test"
    return replace(
        predictions,
        labels=tuple(predictions.labels[k] for k in kept),
        truth=predictions.truth[:, kept],
        answers=np.ascontiguousarray(predictions.answers[:, :, kept]),
    )


def _classes(predictions: Predictions) -> tuple[Array, Array]:
    """Reads the true class of each image, and the most probable one by each run: runs x images."""
    return predictions.truth.argmax(axis=1), predictions.answers.argmax(axis=2)


def _classified(statistic: bootstrap.Statistic, truth: Array, patients: Array) -> Parts | str:
    """Takes what each patient adds to a score of answers; an answer on one patient is a step of a recall."""
    if not statistic.defined(np.ones((statistic.images, 1))).all():
        return f"{statistic.name} is undefined in test"
    sizes = np.array([len(np.unique(patients[truth == one])) for one in np.unique(truth)], dtype=np.float64)
    coarse = float(((0.25 / sizes) ** 2).sum() / len(sizes) ** 2)
    return replace(_jackknifed(statistic, patients), cases=int(sizes.min()), coarseness=coarse)


def _jackknifed(statistic: bootstrap.Statistic, patients: Array) -> Parts:
    values = bootstrap.contributions(statistic, patients)
    return Parts(values=values, statistic=statistic, rows=np.arange(len(patients)), cases=len(np.unique(patients)))


def _averaged(values: Array, patients: Array, rows: Array, name: str) -> Parts:
    return Parts(
        values=seeds_and_patients.per_patient(values, patients),
        statistic=bootstrap.mean(values, name),
        rows=rows,
        cases=len(np.unique(patients)),
    )
