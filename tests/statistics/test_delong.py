from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import roc_auc_score

from medtransfer.core.errors import UserError
from medtransfer.statistics import delong

Array = npt.NDArray[Any]


def drawn(rng: np.random.Generator, images: int = 60, labels: int = 2, models: int = 3) -> tuple[Array, Array]:
    targets = rng.integers(0, 2, (images, labels))
    return targets, np.round(rng.normal(size=(models, images, labels)) + targets, 1)  # rounded: ties


def brute(positives: Array, negatives: Array) -> tuple[Array, Array]:
    psi = np.array([[1.0 if x > y else 0.5 if x == y else 0.0 for y in negatives] for x in positives])
    return psi.mean(axis=1), psi.mean(axis=0)


def obuchowski(target: Array, scores: Array, patients: Array) -> float:
    """The variance of one area as the paper of 1997 writes it."""
    v10, v01 = brute(scores[target == 1], scores[target == 0])
    auc, with_it, without = v10.mean(), patients[target == 1], patients[target == 0]
    ids = np.unique(patients)
    a = np.array([(v10[with_it == i] - auc).sum() for i in ids])
    b = np.array([(v01[without == i] - auc).sum() for i in ids])
    m, n, k10, k01, k = len(v10), len(v01), len(set(with_it)), len(set(without)), len(ids)
    s10, s01 = k10 / ((k10 - 1) * m) * (a**2).sum(), k01 / ((k01 - 1) * n) * (b**2).sum()
    return float(s10 / m + s01 / n + 2 * k / (k - 1) * (a * b).sum() / (m * n))


def covariance(parts: delong.Placements) -> np.ndarray:
    """Computes the covariance of all areas: (models * labels) squared, model by model; nan where it is undefined.

    Obuchowski's factors k / (k - 1) count the patients with the finding, without it, and of either kind; between two
    labels each is the geometric mean of the labels' factors. With one image per patient it is DeLong's covariance.
    """
    positives, negatives = delong._scaled(parts, 0, parts.positives), delong._scaled(parts, 1, parts.negatives)
    mixed = _flat(delong._scaled(parts, 2, parts.positives)) @ _flat(delong._scaled(parts, 2, parts.negatives)).T
    return np.asarray(_flat(positives) @ _flat(positives).T + _flat(negatives) @ _flat(negatives).T + mixed + mixed.T)


def _flat(sums: np.ndarray) -> np.ndarray:
    return sums.reshape(-1, sums.shape[2])


def test_area_and_error_by_hand() -> None:
    # Positives 3, 1 and negatives 2, 0: placements 1, .5 and .5, 1; both variances 1/8, so 1/8/2 + 1/8/2 = 1/8.
    parts = delong.placements([[1], [1], [0], [0]], [[[3.0], [1.0], [2.0], [0.0]]])
    result = delong.area(parts, 0)
    assert (result.estimate, result.error) == pytest.approx((0.75, 0.125**0.5))
    assert result.z == pytest.approx(0.25 / 0.125**0.5)
    assert result.method == "DeLong"


def test_covariance_equals_that_of_all_pairs() -> None:
    targets, scores = drawn(np.random.default_rng(0), labels=1)
    target = targets[:, 0]
    pairs = [brute(model[target == 1, 0], model[target == 0, 0]) for model in scores]
    v10, v01 = (np.array(side) for side in zip(*pairs, strict=True))
    expected = np.cov(v10) / v10.shape[1] + np.cov(v01) / v01.shape[1]
    parts = delong.placements(targets, scores)
    np.testing.assert_allclose(covariance(parts), expected, rtol=1e-12)
    np.testing.assert_allclose(parts.auc[:, 0], [roc_auc_score(target, model[:, 0]) for model in scores])
    result = delong.difference(parts, 0, 1)
    assert result.error == pytest.approx(float(expected[0, 0] + expected[1, 1] - 2 * expected[0, 1]) ** 0.5)


def test_mean_over_labels_uses_the_covariance_between_labels() -> None:
    parts = delong.placements(*drawn(np.random.default_rng(1), labels=3))
    weights = np.concatenate([np.full(3, 1 / 3), np.full(3, -1 / 3), np.zeros(3)])
    expected = weights @ covariance(parts) @ weights
    assert delong.difference(parts, 0, 1).error == pytest.approx(expected**0.5)


def test_clustered_form_equals_the_published_formula_and_delong_for_single_images() -> None:
    rng = np.random.default_rng(2)
    targets, scores = drawn(rng, images=80, labels=1)
    patients = rng.integers(0, 25, 80)
    clustered = delong.placements(targets, scores, patients)
    expected = [obuchowski(targets[:, 0], model[:, 0], patients) for model in scores]
    np.testing.assert_allclose(np.diag(covariance(clustered)), expected, rtol=1e-12)
    assert delong.area(clustered, 0).method == "Obuchowski"
    single = delong.placements(targets, scores, rng.permutation(80))
    np.testing.assert_allclose(covariance(single), covariance(delong.placements(targets, scores)), rtol=1e-12)


def test_error_is_larger_where_the_images_of_a_patient_are_alike() -> None:
    targets, scores = drawn(np.random.default_rng(3))
    thrice, patients = np.repeat(scores, 3, axis=1), np.repeat(np.arange(60), 3)
    images = delong.placements(np.repeat(targets, 3, axis=0), thrice)
    clustered = delong.placements(np.repeat(targets, 3, axis=0), thrice, patients)
    assert delong.area(clustered, 0).error == pytest.approx(delong.area(delong.placements(targets, scores), 0).error)
    wide, narrow = delong.area(clustered, 0).error, delong.area(images, 0).error
    assert wide is not None
    assert narrow is not None
    assert wide > 1.7 * narrow


def test_results_depend_neither_on_order_nor_on_a_growing_change_of_scores() -> None:
    rng = np.random.default_rng(4)
    targets, scores = drawn(rng)
    patients, order = rng.integers(0, 20, 60), rng.permutation(60)
    base = delong.difference(delong.placements(targets, scores, patients), 0, 1)
    moved = delong.placements(targets[order], np.exp(3 * scores[:, order]), patients[order] + 7)
    other = delong.difference(moved, 0, 1)
    back = delong.difference(moved, 1, 0)
    assert (other.estimate, other.error, other.p) == pytest.approx((base.estimate, base.error, base.p))
    assert (back.low, back.high) == pytest.approx((-other.high, -other.low))  # type: ignore[operator] # both numbers


def test_equal_models_have_p_1_and_no_width() -> None:
    targets, scores = drawn(np.random.default_rng(5))
    result = delong.difference(delong.placements(targets, scores[[0, 0]]), 0, 1)
    assert (result.p, result.low, result.high, result.note) == (1.0, 0.0, 0.0, "no variance and no difference")


def test_perfect_ranking_gives_no_p() -> None:
    result = delong.area(delong.placements([[0], [0], [1], [1]], [[[0.0], [0.1], [0.8], [0.9]]]), 0)
    assert (result.estimate, result.p, result.low, result.note) == (1.0, None, None, "no variance over patients")


def test_a_label_with_one_class_is_named_and_left_out() -> None:
    targets, scores = drawn(np.random.default_rng(6))
    targets[:, 1] = 0
    parts = delong.placements(targets, scores)
    both, gone = delong.area(parts, 0), delong.area(parts, 0, label=1)
    assert (both.undefined, both.labels, both.estimate) == ((1,), 1, parts.auc[0, 0])
    assert (gone.estimate, gone.p, gone.note) == (None, None, "no label has both classes")
    assert np.isnan(covariance(parts)[1]).all()


def test_a_class_of_a_single_patient_has_no_error() -> None:
    targets = [[1], [1], [0], [0], [0]]
    scores = np.arange(5.0).reshape(1, 5, 1)
    result = delong.area(delong.placements(targets, scores, [0, 0, 1, 2, 3]), 0)
    assert (result.error, result.p) == (None, None)
    assert "single patient: labels [0]" in result.note
    parts = delong.placements(targets, scores, [0, 0, 1, 2, 3])
    assert np.ptp(delong.contributions(parts)) == 0  # it shows no spread; what stands for it is its coarseness
    assert delong.coarseness(parts) == 0.25**2


def test_an_uncertain_target_leaves_the_image_out_for_that_label() -> None:
    targets, scores = drawn(np.random.default_rng(7))
    unsure = targets.copy()
    unsure[:10, 0] = -1
    ours = delong.area(delong.placements(unsure, scores), 0, label=0)
    theirs = delong.area(delong.placements(targets[10:], scores[:, 10:]), 0, label=0)
    assert (ours.estimate, ours.error) == pytest.approx((theirs.estimate, theirs.error))


def test_contributions_carry_mean_and_variance_of_delong() -> None:
    targets, scores = drawn(np.random.default_rng(8), labels=1)
    parts = delong.placements(targets, scores)
    numbers = delong.contributions(parts)
    np.testing.assert_allclose(numbers.mean(axis=1), parts.auc.mean(axis=1))
    gap = numbers[0] - numbers[1]
    assert gap.std(ddof=1) / 60**0.5 == pytest.approx(delong.difference(parts, 0, 1).error)


@pytest.mark.parametrize(
    ("targets", "scores", "patients", "message"),
    [
        ([[0], [1]], [[[0.0], [np.nan]]], None, "finite"),
        ([[0], [2]], [[[0.0], [1.0]]], None, "-1"),
        ([[0], [1]], [[[0.0]]], None, "models x images x labels"),
        ([[0], [1]], [[[0.0], [1.0]]], [1], "one id per image"),
    ],
)
def test_bad_input_is_refused(targets: Any, scores: Any, patients: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        delong.placements(targets, scores, patients)


@pytest.mark.parametrize(("models", "level"), [((0, 0), 0.95), ((0, 9), 0.95), ((0, 1), 1.0)])
def test_a_bad_choice_is_refused(models: tuple[int, int], level: float) -> None:
    parts = delong.placements(*drawn(np.random.default_rng(9)))
    with pytest.raises(UserError, match="got"):
        delong.difference(parts, *models, level=level)


@pytest.mark.slow
def test_clustered_interval_covers_and_the_image_level_one_does_not() -> None:
    rng, truth, hits = np.random.default_rng(10), 0.760250, {"patient": 0, "image": 0}
    patients = np.repeat(np.arange(100), 4)
    for _ in range(1500):
        targets = np.repeat(rng.integers(0, 2, 100), 4)
        scores = np.repeat(rng.normal(size=100), 4) * 0.9 + rng.normal(size=400) * 0.19**0.5 + targets
        for name, ids in {"patient": patients, "image": None}.items():
            result = delong.area(delong.placements(targets[:, None], scores[None, :, None], ids), 0)
            assert result.low is not None
            assert result.high is not None
            hits[name] += result.low <= truth <= result.high
    assert hits["patient"] / 1500 == pytest.approx(0.95, abs=0.02)
    assert hits["image"] / 1500 < 0.80
