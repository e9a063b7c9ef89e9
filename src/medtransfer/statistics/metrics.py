"""Metrics: arrays in, numbers out.

Shapes: `targets` and `probabilities` are images x labels, `terms` is images x 3. A score that is undefined is
absent from the result, never a stand-in number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, cohen_kappa_score, roc_auc_score, roc_curve

from medtransfer.core.errors import UserError

Array = npt.NDArray[Any]


def classification_scores(
    targets: Array,
    probabilities: Array,
    slugs: Sequence[str],
    thresholds: Array | None = None,
    tested: Sequence[str] = (),
) -> dict[str, float]:
    """Scores probabilities against 0/1 targets, per label (`auc.<slug>`) and as plain means (`auc`).

    AUC, average precision, sensitivity and specificity need both classes: a label that has only one has none of
    these keys, and a mean is over the labels that have the score (`labels_defined` of them for AUC). Brier score
    and prevalence exist for every label. A single label has its own keys too, so that every task has one shape.
    An uncertain target is no truth to score against: its image is left out for that label.

    Args:
        targets: images x labels, 0 or 1, or -1 for uncertain.
        probabilities: images x labels.
        slugs: one name per label, as in score names.
        thresholds: one per label, fixed on val; a probability at or above it is a positive. nan: none.
        tested: the labels that the means are over; empty: all.

    Raises:
        UserError: a probability is not finite.
    """
    _require_finite(probabilities, slugs)
    scores: dict[str, dict[str, float]] = {}
    for column, slug in enumerate(slugs):
        threshold = None if thresholds is None else float(thresholds[column])
        known = targets[:, column] >= 0
        scores[slug] = _label_scores(targets[known, column], probabilities[known, column], threshold)
    averaged = {slug: scores[slug] for slug in tested or slugs}
    flat = _means(averaged) | {f"{name}.{slug}": value for slug in slugs for name, value in scores[slug].items()}
    return flat | {"labels_defined": float(sum("auc" in label for label in averaged.values()))}


def multiclass_scores(
    targets: Array, probabilities: Array, slugs: Sequence[str], ordinal: bool = False
) -> dict[str, float]:
    """Scores class probabilities: each class against the rest, and the most probable class as the answer.

    `auc` is the macro one-vs-rest mean over the classes that have it. `balanced_accuracy` is the mean recall over the
    classes that occur (Brodersen et al., ICPR 2010), `kappa` Cohen's with quadratic weights (Psychological Bulletin
    1968), for ordinal classes, undefined where truth and answers are all of one class.

    Args:
        targets: images x classes, one 1 in each row.
        probabilities: images x classes.
        slugs: one name per class, as in score names.
        ordinal: the classes stand in an order.

    Raises:
        UserError: a probability is not finite.
    """
    scores = classification_scores(targets, probabilities, slugs)
    truth, answer = targets.argmax(axis=1), probabilities.argmax(axis=1)
    recalls = {slug: float((answer[truth == k] == k).mean()) for k, slug in enumerate(slugs) if (truth == k).any()}
    scores |= {"accuracy": float((truth == answer).mean()), "balanced_accuracy": float(np.mean(list(recalls.values())))}
    if ordinal and len(np.union1d(truth, answer)) > 1:
        classes = list(range(len(slugs)))
        scores["kappa"] = float(cohen_kappa_score(truth, answer, labels=classes, weights="quadratic"))
    return scores | {f"recall.{slug}": value for slug, value in recalls.items()}


def exam_scores(units: Sequence[str], targets: Array, probabilities: Array) -> dict[str, float]:
    """Scores exams by their slices: one is positive if a slice is, and as probable as its most probable slice.

    Args:
        units: each slice's exam.
        targets: slices x 1, 0 or 1.
        probabilities: slices x 1.

    Returns:
        `exam_auc`, `exam_average_precision` (undefined ones are absent) and `exams`, their number.
    """
    names, number = np.unique(np.asarray(units, dtype=np.str_), return_inverse=True)
    truth, highest = np.zeros(len(names)), np.full(len(names), -np.inf)
    np.maximum.at(truth, number, targets[:, 0])
    np.maximum.at(highest, number, probabilities[:, 0])
    scores = {"exams": float(len(names))}
    if _has_both_classes(truth):
        scores["exam_auc"] = float(roc_auc_score(truth, highest))
        scores["exam_average_precision"] = float(average_precision_score(truth, highest))
    return scores


def undefined_labels(targets: Array, slugs: Sequence[str]) -> list[str]:
    """Lists the labels that lack one of the two classes, for which AUC is undefined."""
    return [slug for column, slug in enumerate(slugs) if not _has_both_classes(targets[:, column])]


def youden_thresholds(targets: Array, probabilities: Array) -> Array:
    """Finds each label's threshold that maximises sensitivity + specificity - 1; nan where undefined.

    Candidates are the probabilities themselves; of equally good ones the largest is taken. Meant for val: scores
    at a threshold chosen on the same images are too good.

    Youden, Index for rating diagnostic tests, Cancer 1950.
    """
    thresholds = np.full(targets.shape[1], np.nan)
    for column in range(targets.shape[1]):
        known = targets[:, column] >= 0
        if _has_both_classes(targets[:, column]):
            false_rate, true_rate, candidates = roc_curve(
                targets[known, column], probabilities[known, column], drop_intermediate=False
            )
            # The first candidate of roc_curve is infinity (nothing is positive), which no one can use.
            thresholds[column] = candidates[1:][np.argmax((true_rate - false_rate)[1:])]
    return thresholds


def dice_scores(terms: Array, prefix: str = "") -> dict[str, float]:
    """Scores masks from per-image pixel counts in every form of Dice that papers report.

    `dice` is the mean per image, in which an image whose target and prediction are both empty counts 1.0;
    `dice_positives` the mean over images with a target; `dice_pooled` one Dice over all pixels; `empty_targets`
    the number of images without a target; `false_positive_rate` the share of these with any predicted pixel.

    Args:
        terms: images x (intersection, predicted, target) in pixels.
        prefix: put before every name, such as `native_`.
    """
    counts = np.asarray(terms, dtype=np.float64)  # counts of one image fit 32 bits, sums may not
    dice = _dice(counts)
    empty = counts[:, 2] == 0
    scores = {
        "dice": float(dice.mean()),
        "dice_pooled": float(_dice(counts.sum(axis=0, keepdims=True))[0]),
        "empty_targets": float(empty.sum()),
    }
    if not empty.all():
        scores["dice_positives"] = float(dice[~empty].mean())
    if empty.any():
        scores["false_positive_rate"] = float((counts[empty, 1] > 0).mean())
    return {f"{prefix}{name}": value for name, value in scores.items()}


def mask_scores(terms: Array, slugs: Sequence[str], prefix: str = "") -> dict[str, float]:
    """Scores masks of several labels: every score of `dice_scores` per label (`dice.<slug>`) and as their mean.

    Args:
        terms: images x labels x (intersection, predicted, target) in pixels.
        slugs: one name per label.
        prefix: put before every name.
    """
    if len(slugs) == 1:
        return dice_scores(terms[:, 0], prefix)
    each = {slug: dice_scores(terms[:, column], prefix) for column, slug in enumerate(slugs)}
    names = sorted({name for scores in each.values() for name in scores})
    means = {name: float(np.mean([scores[name] for scores in each.values() if name in scores])) for name in names}
    return means | {f"{name}.{slug}": value for slug, scores in each.items() for name, value in scores.items()}


def _label_scores(target: Array, probability: Array, threshold: float | None) -> dict[str, float]:
    if not len(target):
        return {}
    scores = {
        "prevalence": float(np.mean(target)),
        "brier": float(np.mean((np.asarray(probability, dtype=np.float64) - target) ** 2)),
    }
    if not _has_both_classes(target):
        return scores
    scores["auc"] = float(roc_auc_score(target, probability))
    scores["average_precision"] = float(average_precision_score(target, probability))
    if threshold is not None and not np.isnan(threshold):
        called = probability >= threshold
        scores["sensitivity"] = float(np.mean(called[target == 1]))
        scores["specificity"] = float(np.mean(~called[target == 0]))
    return scores


def _means(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Averages each score over the labels that have it; a mean prevalence would say nothing."""
    means: dict[str, float] = {}
    for name in ("auc", "average_precision", "brier", "sensitivity", "specificity"):
        values = [label[name] for label in scores.values() if name in label]
        if values:
            means[name] = float(np.mean(values))
    return means


def _dice(counts: Array) -> Array:
    total = counts[:, 1] + counts[:, 2]
    return np.where(total == 0, 1.0, 2 * counts[:, 0] / np.maximum(total, 1))


def _has_both_classes(target: Array) -> bool:
    return bool(np.any(target == 1) and np.any(target == 0))


def _require_finite(probabilities: Array, slugs: Sequence[str]) -> None:
    bad = ~np.isfinite(probabilities)
    if bad.any():
        labels = ", ".join(slug for column, slug in enumerate(slugs) if bad[:, column].any())
        raise UserError(
            f"probabilities must be finite, got {int(bad.any(axis=1).sum())} of {len(probabilities)} images with "
            f"nan or infinity (labels: {labels}): the training diverged; lower the learning rate"
        )
