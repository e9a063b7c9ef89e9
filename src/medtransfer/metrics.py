"""Metrics: arrays in, numbers out.

Shapes: `targets` and `probabilities` are images x labels, `terms` is images x 3. A score that is undefined is
absent from the result, never a stand-in number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from medtransfer.errors import UserError

Array = npt.NDArray[Any]


def classification_scores(
    targets: Array, probabilities: Array, slugs: Sequence[str], thresholds: Array | None = None
) -> dict[str, float]:
    """Scores probabilities against 0/1 targets, per label (`auc.<slug>`) and as plain means (`auc`).

    AUC, average precision, sensitivity and specificity need both classes: a label that has only one has none of
    these keys, and a mean is over the labels that have the score (`labels_defined` of them for AUC). Brier score
    and prevalence exist for every label. A single label has its own keys too, so that every task has one shape.

    Args:
        targets: images x labels, 0 or 1.
        probabilities: images x labels.
        slugs: one name per label, as in score names.
        thresholds: one per label, fixed on val; a probability at or above it is a positive. nan: none.

    Raises:
        UserError: a probability is not finite.
    """
    _require_finite(probabilities, slugs)
    scores: dict[str, dict[str, float]] = {}
    for column, slug in enumerate(slugs):
        threshold = None if thresholds is None else float(thresholds[column])
        scores[slug] = _label_scores(targets[:, column], probabilities[:, column], threshold)
    flat = _means(scores) | {f"{name}.{slug}": value for slug in slugs for name, value in scores[slug].items()}
    return flat | {"labels_defined": float(sum("auc" in label for label in scores.values()))}


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
        if _has_both_classes(targets[:, column]):
            false_rate, true_rate, candidates = roc_curve(
                targets[:, column], probabilities[:, column], drop_intermediate=False
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


def _label_scores(target: Array, probability: Array, threshold: float | None) -> dict[str, float]:
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
