import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, recall_score

from medtransfer.core.errors import UserError
from medtransfer.statistics import metrics
from medtransfer.statistics.metrics import (
    classification_scores,
    dice_scores,
    exam_scores,
    mask_scores,
    multiclass_scores,
)

Array = npt.NDArray[Any]

TARGETS = np.array([[1, 0], [0, 0], [1, 1], [0, 1], [0, 0]])
PROBABILITIES = np.array([[0.9, 0.2], [0.8, 0.2], [0.7, 0.9], [0.1, 0.3], [0.3, 0.1]])
SLUGS = ["Mass", "Nodule"]


def brute_force_auc(target: Array, probability: Array) -> float:
    """Counts how often a positive stands above a negative, a tie as half."""
    pairs = itertools.product(probability[target == 1], probability[target == 0])
    return float(np.mean([1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs]))


def test_auc_by_hand() -> None:
    scores = metrics.classification_scores(TARGETS, PROBABILITIES, SLUGS)
    assert scores["auc.Mass"] == pytest.approx(5 / 6)  # of six pairs, only .7 against .8 is wrong
    assert scores["auc.Nodule"] == 1.0
    assert scores["auc"] == pytest.approx((5 / 6 + 1) / 2)
    assert scores["average_precision.Mass"] == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)
    assert scores["prevalence.Mass"] == pytest.approx(0.4)
    assert scores["brier.Mass"] == pytest.approx((0.01 + 0.64 + 0.09 + 0.01 + 0.09) / 5)
    assert scores["labels_defined"] == 2
    assert "prevalence" not in scores


def test_scores_against_second_implementations() -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, (60, 3))
    probabilities = rng.random((60, 3)).round(1)  # with ties
    thresholds = np.array([0.3, 0.5, 0.7])
    slugs = ["a", "b", "c"]
    scores = metrics.classification_scores(targets, probabilities, slugs, thresholds)
    for column, slug in enumerate(slugs):
        target, probability = targets[:, column], probabilities[:, column]
        called = probability >= thresholds[column]
        assert scores[f"auc.{slug}"] == pytest.approx(brute_force_auc(target, probability))
        assert scores[f"average_precision.{slug}"] == pytest.approx(average_precision_score(target, probability))
        assert scores[f"brier.{slug}"] == pytest.approx(brier_score_loss(target, probability))
        assert scores[f"sensitivity.{slug}"] == pytest.approx(recall_score(target, called))
        assert scores[f"specificity.{slug}"] == pytest.approx(recall_score(target, called, pos_label=0))
    for name in ("auc", "average_precision", "brier", "sensitivity", "specificity"):
        assert scores[name] == pytest.approx(np.mean([scores[f"{name}.{slug}"] for slug in slugs]))


def test_row_order_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    targets, probabilities = rng.integers(0, 2, (50, 2)), rng.random((50, 2))
    order = rng.permutation(50)
    thresholds = metrics.youden_thresholds(targets, probabilities)
    assert np.array_equal(thresholds, metrics.youden_thresholds(targets[order], probabilities[order]))
    one = metrics.classification_scores(targets, probabilities, SLUGS, thresholds)
    two = metrics.classification_scores(targets[order], probabilities[order], SLUGS, thresholds)
    assert one == pytest.approx(two)


def test_relabelling_classes_keeps_auc() -> None:
    flipped = metrics.classification_scores(1 - TARGETS, 1 - PROBABILITIES, SLUGS)
    assert flipped["auc"] == pytest.approx(metrics.classification_scores(TARGETS, PROBABILITIES, SLUGS)["auc"])


@pytest.mark.parametrize("only", [0, 1])
def test_label_without_both_classes_has_no_auc(only: int) -> None:
    targets = np.array([[1, only], [0, only]])
    probabilities = np.array([[0.8, 0.1], [0.2, 0.6]])
    scores = metrics.classification_scores(targets, probabilities, SLUGS, np.array([0.5, 0.5]))
    assert not {f"{name}.Nodule" for name in ("auc", "average_precision", "sensitivity", "specificity")} & set(scores)
    assert scores["auc"] == 1.0
    assert scores["labels_defined"] == 1
    assert scores["prevalence.Nodule"] == only
    assert metrics.undefined_labels(targets, SLUGS) == ["Nodule"]


def test_no_label_defined_leaves_no_auc() -> None:
    scores = metrics.classification_scores(np.zeros((3, 1)), np.full((3, 1), 0.5), ["Mass"])
    found = dict.fromkeys(("brier", "brier.Mass"), 0.25) | dict.fromkeys(("ece", "ece.Mass"), 0.5)
    assert scores == found | {"prevalence.Mass": 0.0, "labels_defined": 0.0}


def test_diverged_probabilities_are_refused_by_label() -> None:
    with pytest.raises(UserError, match=r"1 of 5 images .*labels: Nodule"):
        metrics.classification_scores(TARGETS, np.where(PROBABILITIES == 0.9, [0.9, np.nan], PROBABILITIES), SLUGS)


def test_youden_against_brute_force() -> None:
    rng = np.random.default_rng(2)
    targets = rng.integers(0, 2, (40, 1))
    probabilities = rng.random((40, 1)).round(1)

    def youden(threshold: float) -> float:
        called = probabilities >= threshold
        return float(called[targets == 1].mean() + (~called[targets == 0]).mean() - 1)

    best = max(np.unique(probabilities), key=lambda t: (youden(t), t))
    assert metrics.youden_thresholds(targets, probabilities) == pytest.approx([best])


def test_youden_is_nan_where_undefined_and_such_a_threshold_gives_no_score() -> None:
    targets = np.array([[1, 0], [0, 0]])
    thresholds = metrics.youden_thresholds(targets, np.array([[0.8, 0.1], [0.2, 0.6]]))
    assert thresholds[0] == 0.8
    assert np.isnan(thresholds[1])
    scores = metrics.classification_scores(TARGETS, PROBABILITIES, SLUGS, thresholds)
    assert "sensitivity.Mass" in scores
    assert "sensitivity.Nodule" not in scores
    assert scores["sensitivity"] == scores["sensitivity.Mass"]


def test_youden_is_finite_when_the_order_is_upside_down() -> None:
    assert metrics.youden_thresholds(np.array([[1], [0]]), np.array([[0.1], [0.9]])) == pytest.approx([0.1])


def test_dice_by_hand() -> None:
    terms = np.array([[2, 4, 4], [0, 0, 0], [0, 3, 0], [5, 5, 5]])
    assert metrics.dice_scores(terms) == pytest.approx(
        {
            "dice": (0.5 + 1 + 0 + 1) / 4,
            "dice_positives": 0.75,
            "dice_pooled": 14 / 21,
            "empty_targets": 2,
            "false_positive_rate": 0.5,
        }
    )


def test_dice_without_empty_or_without_positive_targets() -> None:
    positives = metrics.dice_scores(np.array([[1, 2, 2]]), prefix="native_")
    assert set(positives) == {"native_dice", "native_dice_positives", "native_dice_pooled", "native_empty_targets"}
    empties = metrics.dice_scores(np.zeros((2, 3), dtype=np.int64))
    assert empties == {"dice": 1.0, "dice_pooled": 1.0, "empty_targets": 2.0, "false_positive_rate": 0.0}


def test_dice_against_f1_of_pixels() -> None:
    rng = np.random.default_rng(3)
    targets, predictions = rng.integers(0, 2, (2, 6, 40))
    terms = np.stack([(targets * predictions).sum(1), predictions.sum(1), targets.sum(1)], axis=1)
    scores = metrics.dice_scores(terms)
    pairs = zip(targets, predictions, strict=True)
    assert scores["dice"] == pytest.approx(np.mean([f1_score(target, prediction) for target, prediction in pairs]))
    assert scores["dice_pooled"] == pytest.approx(f1_score(targets.ravel(), predictions.ravel()))
    assert metrics.dice_scores(terms[::-1]) == pytest.approx(scores)


def test_pooled_dice_does_not_overflow() -> None:
    terms = np.full((3, 3), 2**30, dtype=np.int32)
    assert metrics.dice_scores(terms)["dice_pooled"] == 1.0


# Uncertain labels, classes, exams, several regions


def test_uncertain_targets_are_left_out_of_their_label_alone() -> None:
    targets = np.array([[1, 0], [-1, 1], [0, 1], [1, -1]])
    probabilities = np.array([[0.9, 0.2], [0.1, 0.8], [0.3, 0.6], [0.8, 0.1]])
    scores = classification_scores(targets, probabilities, ["a", "b"], np.array([0.5, 0.5]))
    assert scores["auc.a"] == scores["auc.b"] == 1.0
    assert scores["prevalence.a"] == pytest.approx(2 / 3)
    assert scores["sensitivity.a"] == 1.0
    assert scores["brier.b"] == pytest.approx((0.04 + 0.04 + 0.16) / 3)


def test_means_are_over_the_tested_labels() -> None:
    targets = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1]])
    probabilities = np.array([[0.9, 0.2, 0.1], [0.1, 0.8, 0.9], [0.7, 0.3, 0.8], [0.3, 0.4, 0.3]])
    scores = classification_scores(targets, probabilities, ["a", "b", "c"], tested=["a", "b"])
    assert scores["auc"] == pytest.approx((scores["auc.a"] + scores["auc.b"]) / 2)
    assert scores["auc.c"] == 0.0
    assert scores["labels_defined"] == 2


def test_multiclass_scores_by_hand() -> None:
    targets = np.eye(3, dtype=int)[[0, 0, 1, 1, 2, 2]]
    answers = [0, 1, 1, 1, 2, 0]
    probabilities = np.full((6, 3), 0.1)
    probabilities[np.arange(6), answers] = 0.8
    scores = multiclass_scores(targets, probabilities, ["a", "b", "c"], ordinal=True)
    assert scores["accuracy"] == pytest.approx(4 / 6)
    assert scores["balanced_accuracy"] == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert scores["recall.b"] == 1.0
    # class a: .8 wins three pairs and ties one, .1 ties three and loses one
    assert scores["auc.a"] == pytest.approx((3 + 0.5 + 3 * 0.5) / 8)
    assert scores["auc"] == pytest.approx(np.mean([scores[f"auc.{name}"] for name in "abc"]))
    # quadratic kappa: 1 - sum(w o) / sum(w e), w = squared distance; errors: 0->1 (1) and 2->0 (4)
    observed, truth, answer = 5.0, np.array([2, 2, 2]), np.bincount(answers, minlength=3)
    expected = sum((i - j) ** 2 * truth[i] * answer[j] / 6 for i in range(3) for j in range(3))
    assert scores["kappa"] == pytest.approx(1 - observed / expected)
    assert "kappa" not in multiclass_scores(targets, probabilities, ["a", "b", "c"])


def test_classes_that_are_absent_are_not_counted_as_wrong() -> None:
    targets = np.eye(3, dtype=int)[[0, 0, 1]]
    scores = multiclass_scores(targets, np.eye(3)[[0, 1, 1]], ["a", "b", "c"], ordinal=True)
    assert scores["balanced_accuracy"] == pytest.approx(0.75)
    assert "recall.c" not in scores
    assert scores["labels_defined"] == 2
    alone = multiclass_scores(targets[:2], np.eye(3)[[0, 0]], ["a", "b", "c"], ordinal=True)
    assert "kappa" not in alone
    assert "auc" not in alone


def test_an_exam_is_as_ill_as_its_worst_slice() -> None:
    units = ["x", "x", "y", "y", "z"]
    targets = np.array([[0], [1], [0], [0], [0]])
    probabilities = np.array([[0.1], [0.6], [0.7], [0.2], [0.3]])
    scores = exam_scores(units, targets, probabilities)
    assert scores["exams"] == 3
    assert scores["exam_auc"] == 0.5  # x at .6 is above z at .3 and below y at .7
    assert exam_scores(units[2:], targets[2:], probabilities[2:]) == {"exams": 2.0}


def test_regions_have_their_own_dice_and_a_mean() -> None:
    terms = np.array([[[5, 10, 10], [0, 0, 0]], [[10, 10, 10], [2, 4, 4]]])
    scores = mask_scores(terms, ["Lung", "Heart"], "native_")
    assert scores["native_dice.Lung"] == pytest.approx(0.75)
    assert scores["native_dice.Heart"] == pytest.approx(0.75)
    assert scores["native_dice_positives.Heart"] == pytest.approx(0.5)
    assert scores["native_dice"] == pytest.approx(0.75)
    assert mask_scores(terms[:, :1], ["Lung"]) == dice_scores(terms[:, 0])


def test_which_of_two_scores_is_better_is_in_the_record() -> None:
    falls = {name for name in metrics.METRICS if not metrics.rises(f"val_{name}")}
    distances = {f"{name}_{unit}" for name in ("hd95", "surface_distance") for unit in ("mm", "px")}
    assert falls == {"brier", "ece", "false_positive_rate", "lesion_false_positives", *distances}
    assert not metrics.rises("val_loss")
    assert metrics.rises("val_probe")


def test_a_training_is_steered_by_what_val_scores_of_every_network() -> None:
    assert metrics.monitors("binary", False, False) == ("auc", "average_precision", "brier", "ece")
    assert metrics.monitors("binary", False, True)[-2:] == ("exam_auc", "exam_average_precision")
    assert "kappa" in metrics.monitors("multiclass", True, False)
    assert "kappa" not in metrics.monitors("multiclass", False, False)
    masks = metrics.monitors("segmentation", False, False)
    assert {"dice", "cldice", "lesion_false_positives"} <= set(masks)
    assert not {"hd95_mm", "surface_distance_px", "brier"} & set(masks)
