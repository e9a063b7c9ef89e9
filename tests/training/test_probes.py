from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medtransfer.core.errors import UserError
from medtransfer.training import probes

STRENGTHS = (0.1, 1.0, 10.0)


def data(count: int, features: int, classes: int = 1) -> tuple[NDArray[Any], NDArray[Any]]:
    draw = np.random.default_rng(0)
    x = draw.normal(2, draw.uniform(0.1, 3, features), (count, features)).astype(np.float16)
    score = np.asarray(x, np.float64) @ draw.normal(0, 0.4, (features, classes)) + draw.normal(0, 2, (count, classes))
    if classes == 1:
        return x, (score > np.median(score)).astype(np.float32)
    return x, np.eye(classes, dtype=np.float32)[score.argmax(1)]


def theirs(x: NDArray[Any], y: NDArray[Any], strength: float, **options: Any) -> Any:
    """Fits scikit-learn's own pipeline to a tighter tolerance."""
    model = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=100_000)
    return make_pipeline(StandardScaler(), model).fit(np.asarray(x, np.float64), y, **options)


@pytest.mark.parametrize(("count", "features"), [(120, 20), (40, 90)])
def test_the_linear_probe_is_scikit_learns(count: int, features: int) -> None:
    x, y = data(count, features)
    layers = probes.linear(x, y, STRENGTHS)
    for strength, layer in zip(STRENGTHS, layers, strict=True):
        expected = theirs(x, y[:, 0], strength).predict_proba(np.asarray(x, np.float64))[:, 1]
        np.testing.assert_allclose(1 / (1 + np.exp(-layer.logits(x)[:, 0])), expected, atol=1e-6)


def test_so_it_is_with_several_classes() -> None:
    x, y = data(150, 12, 4)
    (layer,) = probes.linear(x, y, [1.0], multiclass=True)
    logits = layer.logits(x)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    expected = theirs(x, y.argmax(1), 1.0).predict_proba(np.asarray(x, np.float64))
    np.testing.assert_allclose(shares / shares.sum(1, keepdims=True), expected, atol=1e-6)


def test_a_soft_target_is_both_with_its_share_and_an_unknown_one_is_nothing() -> None:
    x, y = data(60, 5)
    soft = y.copy()
    soft[:10] = 0.7
    soft[10:20] = -1
    (layer,) = probes.linear(x, soft, [1.0])
    values = (np.asarray(x, np.float64)[np.r_[0:10, 20:60]], np.asarray(x, np.float64)[:10])
    scaler = StandardScaler().fit(np.asarray(x, np.float64))
    model = LogisticRegression(C=1.0, tol=1e-10, max_iter=100_000)
    truth = np.concatenate([np.ones(10), y[20:, 0], np.zeros(10)])
    shares = np.concatenate([np.full(10, 0.7), np.ones(40), np.full(10, 0.3)])
    model.fit(scaler.transform(np.concatenate(values)), truth, sample_weight=shares)
    expected = model.decision_function(scaler.transform(np.asarray(x, np.float64)))
    np.testing.assert_allclose(layer.logits(x)[:, 0], expected, atol=1e-5)


def test_weights_count_a_positive_several_times() -> None:
    x, y = data(80, 6)
    (layer,) = probes.linear(x, y, [1.0], weights=np.array([3.0]))
    weights = np.where(y[:, 0] == 1, 3.0, 1.0)
    expected = theirs(x, y[:, 0], 1.0, logisticregression__sample_weight=weights)
    np.testing.assert_allclose(layer.logits(x)[:, 0], expected.decision_function(np.asarray(x, np.float64)), atol=1e-5)


def test_a_feature_that_never_changes_changes_nothing() -> None:
    x, y = data(60, 5)
    more = np.concatenate([x, np.full((60, 1), 3.0, np.float16)], axis=1)
    one, two = (probes.linear(values, y, [1.0])[0] for values in (x, more))
    np.testing.assert_allclose(one.logits(x), two.logits(more), atol=1e-6)


def test_a_label_of_one_kind_has_no_weights_and_a_class_without_images_is_refused() -> None:
    x, y = data(30, 4)
    none, both = probes.linear(x, np.concatenate([0 * y, y], axis=1), [1.0, 2.0])
    assert not none.weight[0].any()
    assert none.weight[1].any()
    assert both.bias[0] == none.bias[0] == np.log(0.5 / 30.5)
    with pytest.raises(UserError, match="3 classes, of which train has 2"):
        probes.linear(x, np.concatenate([y, 1 - y, 0 * y], axis=1), [1.0], multiclass=True)
