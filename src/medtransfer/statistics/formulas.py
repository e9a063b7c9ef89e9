"""What a record of `metrics.py` computes: one number of a label, of classes or of masks; None where it is undefined."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medtransfer.statistics.dice import dice

Array = npt.NDArray[Any]


def has_both_classes(target: Array) -> bool:
    """Says whether there is a positive and a negative, without which no curve is defined."""
    return bool(np.any(target == 1) and np.any(target == 0))


def sklearn() -> Any:
    """Loads scikit-learn when there is something to score: who reads names and titles does not wait for it."""
    from sklearn import metrics

    return metrics


def auc(target: Array, probability: Array, threshold: float | None) -> float | None:
    """Computes the area under the ROC curve."""
    return float(sklearn().roc_auc_score(target, probability)) if has_both_classes(target) else None


def average_precision(target: Array, probability: Array, threshold: float | None) -> float | None:
    """Computes the mean precision over the steps of recall."""
    return float(sklearn().average_precision_score(target, probability)) if has_both_classes(target) else None


def brier(target: Array, probability: Array, threshold: float | None) -> float | None:
    """Averages the squared error of the probabilities."""
    return float(np.mean((np.asarray(probability, dtype=np.float64) - target) ** 2))


def ece(target: Array, probability: Array, threshold: float | None) -> float | None:
    """Computes how far probabilities are from shares, on average."""
    from medtransfer.statistics import calibration  # needs scipy

    return calibration.expected_error(target, np.asarray(probability, dtype=np.float64))


def sensitivity(target: Array, probability: Array, threshold: float | None) -> float | None:
    """Computes the share of the positives at or above the threshold."""
    if threshold is None or not has_both_classes(target):
        return None
    return float(np.mean((probability >= threshold)[target == 1]))


def specificity(target: Array, probability: Array, threshold: float | None) -> float | None:
    """Computes the share of the negatives below the threshold."""
    if threshold is None or not has_both_classes(target):
        return None
    return float(np.mean(~(probability >= threshold)[target == 0]))


def accuracy(truth: Array, answer: Array, classes: int) -> float | None:
    """Computes the share of right answers."""
    return float((truth == answer).mean())


def recalls(truth: Array, answer: Array, classes: int) -> dict[int, float]:
    """Computes the recall of each class that occurs."""
    return {k: float((answer[truth == k] == k).mean()) for k in range(classes) if (truth == k).any()}


def balanced_accuracy(truth: Array, answer: Array, classes: int) -> float | None:
    """Averages the recalls of the classes that occur."""
    return float(np.mean(list(recalls(truth, answer, classes).values())))


def kappa(truth: Array, answer: Array, classes: int) -> float | None:
    """Computes Cohen's kappa with quadratic weights."""
    if len(np.union1d(truth, answer)) < 2:
        return None
    labels = list(range(classes))
    return float(sklearn().cohen_kappa_score(truth, answer, labels=labels, weights="quadratic"))


def dice_positives(terms: Array) -> float | None:
    """Averages Dice over the images with a target."""
    positive = terms[:, 2] > 0
    return float(dice(terms)[positive].mean()) if positive.any() else None


def false_positive_rate(terms: Array) -> float | None:
    """Computes the share of the images without a target that have a predicted pixel."""
    empty = terms[:, 2] == 0
    return float((terms[empty, 1] > 0).mean()) if empty.any() else None


def mean(values: Array) -> float | None:
    """Averages one number per image over the images that have it."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def lesion_sensitivity(lesions: Array) -> float | None:
    """Computes the share of all lesions that were found."""
    found, _, there = lesions.sum(axis=0)
    return float(found / there) if there else None
