from __future__ import annotations

import pytest

from medtransfer.comparison import wording


@pytest.mark.parametrize(
    ("low", "high", "metric", "text"),
    [
        (-2.73, 1.46, "auc", "66.60 (0.00 to 100.00)"),
        (0.5, 0.8, "dice", "66.60 (50.00 to 80.00)"),
        (-0.25, 1.46, "kappa", "66.60 (-25.00 to 100.00)"),
        (-1.5, 0.8, "kappa", "66.60 (-100.00 to 80.00)"),
        (None, None, "auc", "66.60"),
    ],
)
def test_an_interval_ends_where_its_metric_does(low: float | None, high: float | None, metric: str, text: str) -> None:
    assert wording.scored(0.666, low, high, metric) == text


@pytest.mark.parametrize(
    ("metric", "text"),
    [("auc", "-100.00 to +100.00"), ("kappa", "-200.00 to +162.00"), (None, "-481.20 to +162.00")],
)
def test_the_interval_of_a_difference_ends_where_two_scores_can_differ(metric: str | None, text: str) -> None:
    assert wording.interval(-4.812, 1.62, metric) == text
