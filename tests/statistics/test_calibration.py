"""Calibration: hand-worked values, second implementations, invariances."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize, special
from sklearn.metrics import brier_score_loss, log_loss

from medtransfer.statistics import calibration

Array = NDArray[Any]


def drawn(n: int = 400, slope: float = 1.0, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    odds = rng.normal(-1, 1.5, n)
    return (rng.random(n) < special.expit(slope * odds)).astype(np.float64), special.expit(odds)


def naive_error(target: Array, probability: Array, bins: int) -> float:
    """Goes through sorted images without ties, a bin at a time."""
    order = sorted(range(len(target)), key=lambda k: probability[k])
    total = 0.0
    for b in range(bins):
        members = order[b * len(order) // bins : (b + 1) * len(order) // bins]
        total += abs(sum(target[k] - probability[k] for k in members))
    return total / len(order)


def test_the_expected_error_by_hand() -> None:
    target, probability = np.array([0.0, 1, 1, 1]), np.array([0.1, 0.3, 0.6, 0.8])
    groups = calibration.grouped(target, probability, 2)
    assert groups.counts.tolist() == [2, 2]
    gaps = abs(groups.truth - groups.expected) / groups.counts
    assert gaps == pytest.approx([abs(1 / 2 - 0.2), abs(1 - 0.7)])
    assert calibration.expected_error(target, probability) == pytest.approx((0.1 + 0.7 + 0.4 + 0.2) / 4)  # a bin each


def test_the_expected_error_against_a_loop() -> None:
    target, probability = drawn(1000)
    assert calibration.expected_error(target, probability) == pytest.approx(naive_error(target, probability, 15))


def test_equal_probabilities_are_in_one_bin_and_the_order_of_images_decides_nothing() -> None:
    target, probability = drawn(300)
    probability = probability.round(1)
    groups = calibration.grouped(target, probability)
    assert all(len(np.unique(groups.places[probability == one])) == 1 for one in np.unique(probability))
    order = np.random.default_rng(1).permutation(300)
    assert calibration.expected_error(target[order], probability[order]) == pytest.approx(
        calibration.expected_error(target, probability), abs=1e-14
    )
    assert calibration.expected_error(np.zeros(5), np.full(5, 0.25)) == 0.25


@pytest.mark.parametrize("rate", [-1.0, -6.0])
def test_what_chance_alone_shows_is_what_simulated_truths_show(rate: float) -> None:
    rng = np.random.default_rng(2)
    probability = special.expit(rng.normal(rate, 1.5, 600))
    truths = rng.random((1500, 600)) < probability
    groups = calibration.grouped(truths[0].astype(np.float64), probability)
    found = [np.abs(np.bincount(groups.places, weights=t - probability)).sum() / 600 for t in truths]
    assert calibration.chance_error(groups, probability) == pytest.approx(np.mean(found), rel=0.04)


@pytest.mark.parametrize("digits", [1, 12])
def test_the_parts_of_the_brier_score_add_up(digits: int) -> None:
    target, probability = drawn()
    probability = probability.round(digits)
    groups = calibration.grouped(target, probability)
    reliability, resolution, uncertainty = calibration.brier_parts(groups, target, probability)
    assert reliability - resolution + uncertainty == pytest.approx(brier_score_loss(target, probability), abs=1e-14)
    assert uncertainty == pytest.approx(target.var())
    assert min(reliability, resolution) > 0


def test_the_parts_by_hand() -> None:
    target, probability = np.array([0.0, 1, 1, 1]), np.array([0.2, 0.2, 0.9, 0.9])
    groups = calibration.grouped(target, probability)
    parts = calibration.brier_parts(groups, target, probability)
    assert parts == pytest.approx(((0.3**2 + 0.1**2) / 2, 0.25**2, 3 / 16))


@pytest.mark.parametrize(("slope", "scale"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.01)])
def test_recalibration_against_a_general_minimizer(slope: float, scale: float) -> None:
    target, probability = drawn(500, slope)
    odds = scale * calibration.logits(probability)
    found = calibration.recalibration(target, special.expit(odds))
    assert found is not None

    def loss(line: Array) -> float:
        at = line[0] + line[1] * odds / scale
        return float(np.mean(np.logaddexp(0, at) - target * at))

    best = optimize.minimize(loss, np.array([0.0, 1.0]), tol=1e-10).x
    assert found.slope == pytest.approx(best[1] / scale, rel=1e-4)
    shift = optimize.minimize_scalar(lambda a: float(np.mean(np.logaddexp(0, a + odds) - target * (a + odds)))).x
    assert found.intercept == pytest.approx(shift, abs=1e-5)
    assert found.of_slope.mean() == pytest.approx(found.slope)
    assert found.of_intercept.mean() == pytest.approx(found.intercept)


def test_what_images_add_has_the_spread_of_repeated_fits() -> None:
    fits = [calibration.recalibration(*drawn(800, 0.6, seed)) for seed in range(300)]
    assert all(fits)
    for name, added in (("slope", "of_slope"), ("intercept", "of_intercept")):
        real = np.std([getattr(fit, name) for fit in fits])
        said = np.mean([getattr(fit, added).std() / math.sqrt(800) for fit in fits])
        assert said == pytest.approx(real, rel=0.12)


@pytest.mark.parametrize(
    ("target", "probability"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.7]),
        ([0, 0, 0, 0], [0.1, 0.2, 0.6, 0.7]),
        ([0, 1, 0, 1], [0.3, 0.3, 0.3, 0.3]),
    ],
    ids=["separated", "one class", "one probability"],
)
def test_where_there_is_no_slope_there_is_none(target: list[float], probability: list[float]) -> None:
    assert calibration.recalibration(np.array(target, dtype=np.float64), np.array(probability)) is None


def test_probabilities_of_zero_and_one_have_a_slope() -> None:
    target, probability = drawn()
    found = calibration.recalibration(np.append(target, [0, 1, 1]), np.append(probability, [0.0, 1.0, 0.0]))
    assert found is not None
    assert math.isfinite(found.slope)


def test_a_temperature_is_found_again_and_is_best() -> None:
    rng = np.random.default_rng(3)
    odds = rng.normal(-0.5, 2, 3000)
    target = (rng.random(3000) < special.expit(odds)).astype(np.int64)
    hot = special.expit(2.5 * odds)
    found = calibration.temperatures(target[:, None], hot[:, None], multiclass=False)
    assert found[0] is not None
    best = found[0]
    assert best == pytest.approx(2.5, rel=0.15)
    losses = [log_loss(target, special.expit(calibration.logits(hot) / (best * by))) for by in (0.98, 1, 1.02)]
    assert losses[1] == min(losses)
    after = calibration.tempered(hot[:, None], found, multiclass=False)[:, 0]
    error = calibration.expected_error(target, hot)
    assert calibration.expected_error(target, after) < error / 2


def test_a_temperature_of_classes_is_one_for_all() -> None:
    rng = np.random.default_rng(4)
    odds = rng.normal(0, 1.5, (3000, 3))
    truth = np.array([rng.choice(3, p=row) for row in special.softmax(odds, axis=1)])
    hot = special.softmax(2 * odds, axis=1)
    found = calibration.temperatures(np.eye(3, dtype=np.int64)[truth], hot, multiclass=True)
    assert len(set(found)) == 1
    assert found[0] == pytest.approx(2, rel=0.1)
    after = calibration.tempered(hot, found, multiclass=True)
    assert after.sum(axis=1) == pytest.approx(1)
    assert (after.argmax(axis=1) == hot.argmax(axis=1)).all()


def test_a_label_without_both_classes_on_val_keeps_its_probabilities() -> None:
    target, probability = drawn(50)
    targets = np.stack([target, np.zeros(50), np.where(np.arange(50) < 25, -1, target)], axis=1).astype(np.int64)
    found = calibration.temperatures(targets, np.stack([probability] * 3, axis=1), multiclass=False)
    assert found[1] is None
    assert found[2] == calibration.temperatures(targets[25:, 2:], probability[25:, None], multiclass=False)[0]
    after = calibration.tempered(np.stack([probability] * 3, axis=1), found, multiclass=False)
    assert np.array_equal(after[:, 1], probability)


def test_net_benefit_by_hand_and_against_a_loop() -> None:
    target, probability = np.array([1.0, 0, 1, 0]), np.array([0.9, 0.5, 0.3, 0.1])
    found = calibration.net_benefit(target, probability)
    assert found[49] == pytest.approx(1 / 4 - 1 / 4)  # at .5: one true, one false
    assert found[24] == pytest.approx(2 / 4 - 1 / 4 / 3)
    target, probability = drawn(200)
    for value, threshold in zip(calibration.net_benefit(target, probability), calibration.THRESHOLDS, strict=True):
        called = probability >= threshold
        true, false = int((called & (target == 1)).sum()), int((called & (target == 0)).sum())
        assert value == pytest.approx(true / 200 - false / 200 * threshold / (1 - threshold))
    everyone = calibration.net_benefit(target, np.ones(200))
    mean, odds = target.mean(), calibration.THRESHOLDS / (1 - calibration.THRESHOLDS)
    assert everyone == pytest.approx(mean - (1 - mean) * odds)


def test_the_interval_of_a_share() -> None:
    assert calibration.wilson(0.1, 20, 0.95) == pytest.approx((0.027866, 0.301034), abs=1e-5)
    assert calibration.wilson(0.0, 10, 0.95) == pytest.approx((0, 0.277533), abs=1e-5)


def test_what_a_run_keeps() -> None:
    val, test = (np.stack([drawn(300, 0.5, seed)[0] for seed in seeds], axis=1) for seeds in ((1, 2), (3, 4)))
    of_val, of_test = (np.stack([drawn(300, 0.5, seed)[1] for seed in seeds], axis=1) for seeds in ((1, 2), (3, 4)))
    val, test = val.astype(np.int64), test.astype(np.int64)
    test[:10, 1] = -1
    scores = calibration.scores_of_run((val, of_val), (test, of_test), ["a", "b"], [], multiclass=False)
    assert set(scores) == {
        f"{name}{label}"
        for name in ("test_ece_tempered", "test_calibration_slope", "test_calibration_intercept", "temperature")
        for label in ("", ".a", ".b")
    } - {"temperature"}
    warm = special.expit(calibration.logits(of_test[10:, 1]) / scores["temperature.b"])
    assert scores["test_ece_tempered.b"] == pytest.approx(calibration.expected_error(test[10:, 1], warm))
    slopes = scores["test_calibration_slope.a"], scores["test_calibration_slope.b"]
    assert scores["test_calibration_slope"] == pytest.approx(np.mean(slopes))
    other = calibration.scores_of_run((val, of_val), (1 - test.clip(0), of_test), ["a", "b"], [], multiclass=False)
    assert other["temperature.a"] == scores["temperature.a"], "test decides no temperature"
    first = calibration.scores_of_run(
        (val[:, ::-1], of_val[:, ::-1]), (test[:, ::-1], of_test[:, ::-1]), ["b", "a"], ["a"], multiclass=False
    )
    assert first["test_ece_tempered.b"] == pytest.approx(scores["test_ece_tempered.b"])
    assert first["test_ece_tempered"] == pytest.approx(scores["test_ece_tempered.a"])
