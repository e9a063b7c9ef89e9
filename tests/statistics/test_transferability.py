from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize, stats
from sklearn.covariance import LedoitWolf

from medtransfer.core.errors import UserError
from medtransfer.statistics.transferability import h_score, leep, logme, nleep

Array = NDArray[Any]


def seeded_nleep(features: Any, labels: Any) -> float:
    return nleep(features, labels, rng=np.random.default_rng(0))


SCORES: tuple[Callable[[Any, Any], float], ...] = (logme, h_score, seeded_nleep)


def drawn(images: int, width: int, signal: float = 1.0, classes: int = 3, seed: int = 0) -> tuple[Array, Array]:
    """Features whose first columns depend on the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    features = rng.normal(size=(images, width)) * rng.uniform(0.5, 2, width)
    features[:, : min(classes, width)] += signal * np.eye(classes)[labels][:, : min(classes, width)]
    return features, labels


def evidence(features: Array, target: Array, alpha: float, beta: float) -> float:
    """The paper's p(y | F) without any algebra: y is normal with covariance 1 / beta + F F' / alpha."""
    covariance = np.eye(len(target)) / beta + features @ features.T / alpha
    return float(stats.multivariate_normal(np.zeros(len(target)), covariance).logpdf(target)) / len(target)


@pytest.mark.parametrize(("images", "width"), [(40, 5), (20, 50)])
def test_logme_is_the_largest_evidence_that_a_search_finds(images: int, width: int) -> None:
    features, labels = drawn(images, width)
    found = []
    for column in np.eye(3)[labels].T:
        searched = optimize.minimize(
            lambda logs, y=column: -evidence(features, y, *np.exp(logs)), (0.0, 0.0), method="Nelder-Mead",
            options={"xatol": 1e-6, "fatol": 1e-10},
        )  # fmt: skip
        found.append(-searched.fun)
    # Where features outnumber images the misfit goes to 0, and what the authors add to it is felt.
    assert logme(features, labels) == pytest.approx(np.mean(found), abs=5e-4 if width > images else 2e-5)


def test_logme_by_the_fixed_point_as_the_paper_writes_it() -> None:
    # Algorithm 1 of the paper, with matrices instead of eigenvalues.
    features, labels = drawn(60, 7)
    found = []
    for y in np.eye(3)[labels].T:
        alpha = beta = 1.0
        for _ in range(300):
            a = alpha * np.eye(7) + beta * features.T @ features
            m = beta * np.linalg.solve(a, features.T @ y)
            gamma = 7 - alpha * np.trace(np.linalg.inv(a))
            alpha, beta = gamma / (m @ m), (60 - gamma) / ((features @ m - y) ** 2).sum()
        a = alpha * np.eye(7) + beta * features.T @ features
        m = beta * np.linalg.solve(a, features.T @ y)
        found.append(
            60 / 2 * np.log(beta) + 7 / 2 * np.log(alpha) - 60 / 2 * np.log(2 * np.pi)
            - beta / 2 * ((features @ m - y) ** 2).sum() - alpha / 2 * m @ m - np.linalg.slogdet(a)[1] / 2
        )  # fmt: skip
    assert logme(features, labels) == pytest.approx(np.mean(found) / 60, abs=1e-4)


def test_labels_that_are_fitted_without_error_have_a_finite_logme() -> None:
    labels = np.arange(20) % 2
    assert np.isfinite(logme(np.eye(2)[labels], labels))


def test_h_score_by_the_papers_formula() -> None:
    features, labels = drawn(60, 5)
    between = np.array([features[labels == k].mean(axis=0) for k in range(3)])[labels]
    expected = np.trace(np.linalg.inv(np.cov(features.T, bias=True)) @ np.cov(between.T, bias=True))
    assert h_score(features, labels) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("images", "width"), [(20, 50), (60, 5)])
def test_the_regularized_h_score_by_its_papers_formula(images: int, width: int) -> None:
    features, labels = drawn(images, width)
    between = np.array([features[labels == k].mean(axis=0) for k in range(3)])[labels]
    shrunk = LedoitWolf().fit(features)
    expected = np.trace(np.linalg.inv(shrunk.covariance_) @ np.cov(between.T, bias=True)) * (1 - shrunk.shrinkage_)
    assert h_score(features, labels, regularized=True) == pytest.approx(expected, rel=1e-9)
    assert (h_score(features, labels) == pytest.approx(expected, rel=1e-9)) == (width > images)


def test_h_score_leaves_features_out_that_are_constant_or_copies() -> None:
    features, labels = drawn(60, 5)
    more = np.hstack([features, np.ones((60, 2)), features[:, :1]])
    assert h_score(more, labels) == pytest.approx(h_score(features, labels), rel=1e-9)


def test_leep_by_its_papers_sums() -> None:
    rng = np.random.default_rng(0)
    assigned, labels = rng.dirichlet(np.ones(4), 30), np.arange(30) % 3
    total = 0.0
    for i in range(30):
        likelihood = 0.0
        for z in range(4):
            joint = sum(assigned[j, z] for j in range(30) if labels[j] == labels[i]) / 30
            likelihood += joint / (sum(assigned[j, z] for j in range(30)) / 30) * assigned[i, z]
        total += np.log(likelihood)
    assert leep(assigned, np.eye(3)[labels]) == pytest.approx(total / 30, rel=1e-12)


def test_nleep_of_clusters_that_are_the_classes_is_0_and_of_noise_is_the_labels_entropy() -> None:
    labels = np.arange(300) % 3
    apart = np.eye(3)[labels] * 1000 + np.random.default_rng(0).normal(size=(300, 3))
    assert seeded_nleep(apart, labels) == pytest.approx(0, abs=1e-6)
    noise = seeded_nleep(np.random.default_rng(0).normal(size=(3000, 3)), np.arange(3000) % 3)
    assert noise == pytest.approx(-np.log(3), abs=0.02)


@pytest.mark.parametrize("score", SCORES)
def test_features_that_tell_more_score_higher(score: Callable[[Any, Any], float]) -> None:
    found = [score(*drawn(200, 10, signal)) for signal in (0, 2, 5)]
    assert found == sorted(found)
    assert found[0] < found[2]


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("width", [5, 90])
def test_scores_do_not_change_with_order_turn_scale_or_the_classes_names(
    score: Callable[[Any, Any], float], width: int
) -> None:
    features, labels = drawn(60, width, 3.0)
    rng = np.random.default_rng(1)
    expected, turn = score(features, labels), np.linalg.qr(rng.normal(size=(width, width)))[0]
    same = [(features @ turn, labels), (features * 20, labels), (features, 9 - 2 * labels)]
    if score is not seeded_nleep:  # the mixture is started at random, from images by their places
        order = rng.permutation(60)
        same.append((features[order], labels[order]))
    for other in same:
        assert score(*other) == pytest.approx(expected, rel=5e-4, abs=1e-4)


@pytest.mark.parametrize("score", [h_score, seeded_nleep])
def test_moving_all_features_changes_nothing(score: Callable[[Any, Any], float]) -> None:
    features, labels = drawn(60, 5, 3.0)
    assert score(features + 7, labels) == pytest.approx(score(features, labels), rel=1e-6)


@pytest.mark.parametrize("score", SCORES)
def test_several_labels_are_the_mean_and_one_column_is_two_classes(score: Callable[[Any, Any], float]) -> None:
    features, _ = drawn(60, 5)
    labels = np.random.default_rng(2).integers(0, 2, (60, 3))
    alone = [score(features, labels[:, k]) for k in range(3)]
    assert score(features, labels) == pytest.approx(np.mean(alone), rel=1e-9)
    assert score(features, labels[:, :1]) == pytest.approx(alone[0], rel=1e-12)
    assert score(features.astype(np.float32), labels.astype(float)) == pytest.approx(np.mean(alone), rel=1e-4)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    ("features", "labels", "law"),
    [
        (np.ones((1, 3)), [0], "at least 2 images"),
        (np.ones(3), [0, 1, 1], "images x features"),
        ([["a"], ["b"]], [0, 1], "must be numbers"),
        ([[0.0], [np.nan]], [0, 1], "nan or infinity in 1 of 2"),
        (np.ones((10, 3)), np.arange(10) % 2, "must vary"),
        ([[0.0], [1.0]], [0, 1, 1], "for 2 images"),
        ([[0.0], [1.0]], [0, 0.5], "whole numbers"),
        ([[0.0], [1.0]], [0, np.nan], "without nan"),
        ([[0.0], [1.0]], [[0], [2]], "0 or 1"),
        ([[0.0], [1.0]], [1, 1], r"at least 2 classes .* the labels has \[1\]"),
        ([[0.0], [1.0]], [[0, 1], [1, 1]], "label 1 has"),
    ],
)
def test_bad_input_is_refused_with_its_law(
    score: Callable[[Any, Any], float], features: Any, labels: Any, law: str
) -> None:
    with pytest.raises(UserError, match=law):
        score(features, labels)


@pytest.mark.parametrize("score", SCORES)
def test_two_images_are_enough(score: Callable[[Any, Any], float]) -> None:
    assert np.isfinite(score([[0.0, 1.0], [1.0, 3.0]], [0, 1]))


@pytest.mark.slow
def test_5000_images_of_1280_features_take_a_few_seconds() -> None:
    features, _ = drawn(5000, 1280)
    labels = np.random.default_rng(0).integers(0, 2, (5000, 14))
    for score in SCORES:
        start = time.process_time()
        score(np.maximum(features, 0).astype(np.float16), labels)
        assert time.process_time() - start < 30, score  # 1 to 7 on one core; the rest is for a busy machine
