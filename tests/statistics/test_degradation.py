"""What is lost of a score, several tests at one level, and scores on two test sets: against numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest

from medtransfer.core.errors import UserError
from medtransfer.statistics import degradation, seeds_and_patients


@pytest.mark.parametrize(
    ("metric", "value"), [("auc", 0.5), ("dice", 0.0), ("kappa", 0.0), ("balanced_accuracy", 1 / 3)]
)
def test_chance(metric: str, value: float) -> None:
    assert degradation.chance(metric, np.eye(3, dtype=np.int8)) == value
    labels = np.array([[1, 0], [0, 0], [0, 1], [-1, 1]])
    assert degradation.chance("average_precision", labels) == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_the_share_that_is_lost_of_what_is_above_chance() -> None:
    rng = np.random.default_rng(0)
    clean = 0.9 + 0.05 * rng.standard_normal((3, 400))
    clean += 0.9 - clean.mean()
    changed = clean - 0.1
    found = degradation.lost(clean, changed, 0.5, 0.95)
    assert found.estimate == pytest.approx(0.25)  # .1 of .4
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.25 < found.high
    assert degradation.lost(clean, clean - (clean.mean() - 0.5), 0.5, 0.95).estimate == pytest.approx(1.0)
    assert degradation.lost(clean, clean, 0.5, 0.95).estimate == 0
    assert degradation.lost(clean - 0.4, clean - 0.5, 0.5, 0.95).estimate is None  # it is at chance
    assert degradation.lost(clean - 0.6, clean - 0.7, 0.5, 0.95).estimate is None
    assert degradation.lost(clean[:1], clean[:1], 0.5, 0.95).estimate is None  # one seed shows nothing


@pytest.mark.slow
def test_the_interval_of_a_share_holds_it() -> None:
    rng, inside = np.random.default_rng(1), 0
    for _ in range(400):
        people, seeds = 0.3 * rng.standard_normal((2, 1, 150)), 0.02 * rng.standard_normal((2, 4, 1))
        clean, changed = np.array([0.85, 0.78])[:, None, None] + people + seeds + 0.1 * rng.standard_normal((2, 4, 150))
        found = degradation.lost(clean, changed, 0.5, 0.95)
        inside += bool(found.low is not None and found.high is not None and found.low <= 0.2 <= found.high)
    print(f"\nof 400 intervals of 95 % {inside} hold the share of .2")
    assert 0.92 <= inside / 400 <= 0.98


def test_two_test_sets_add_their_variances() -> None:
    rng = np.random.default_rng(2)
    home, away = 0.9 + 0.3 * rng.standard_normal((1, 80)), 0.8 + 0.4 * rng.standard_normal((1, 50))
    joined = seeds_and_patients.of_two_sets(home, away)
    assert joined.shape == (1, 130)
    assert joined.mean() == pytest.approx(home.mean() - away.mean())
    expected = home.var() / 80 + away.var() / 50
    assert joined.var() / 130 == pytest.approx(expected)
    with pytest.raises(UserError, match="same seeds, got 1 and 2"):
        seeds_and_patients.of_two_sets(home, np.zeros((2, 5)))
