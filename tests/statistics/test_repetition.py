"""How alike a repetition's ranking is expected to be: hand-worked values, and the truth by simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from medtransfer.statistics import all_pairs
from medtransfer.statistics.repetition import ENOUGH, repetition

Array = np.ndarray


def test_values_follow_from_the_gaps_in_standard_errors() -> None:
    pairs = all_pairs.over_summaries([0.5, 0.6, 0.7], [0.05, 0.05, 0.05], [5, 5, 5])
    assert pairs is not None
    error = 0.05 * math.sqrt(2 / 5)
    half = np.mean([4 * stats.norm.cdf(gap / error) - 3 for gap in (0.1, 0.1, 0.2)])
    of_half = math.sin(math.pi / 2 * half)
    whole = 2 * of_half / (1 + of_half)
    found = repetition(pairs)
    assert found is not None
    assert found.tau == pytest.approx(2 / math.pi * math.asin(whole), rel=1e-12)
    assert found.ceiling == pytest.approx(2 / math.pi * math.asin(math.sqrt(whole)), rel=1e-12)
    assert found.reliability == pytest.approx(1 - error**2 / ((0.1**2 + 0.1**2 + 0.2**2) / 3), rel=1e-12)
    assert found.inits == 3


def test_the_number_of_seeds_is_the_first_that_is_enough() -> None:
    means = np.linspace(0.6, 0.9, 6)
    pairs = all_pairs.over_summaries(means, [0.1] * 6, [4] * 6)
    assert pairs is not None
    found = repetition(pairs)
    assert found is not None
    assert found.tau < ENOUGH
    assert found.seeds is not None
    rho = math.sin(math.pi / 2 * found.tau)
    for seeds, enough in ((found.seeds, True), (found.seeds - 1, False)):
        factor = seeds / 4  # of equal errors that all come from seeds
        longer = factor * rho / (1 + (factor - 1) * rho)
        assert (2 / math.pi * math.asin(longer) >= ENOUGH) is enough


def test_what_patients_add_no_seeds_take_away() -> None:
    rng = np.random.default_rng(0)
    effects = np.array([0.0, 0.1, 0.2, 0.3])[:, None, None]
    values = effects + 0.02 * rng.normal(size=(4, 5, 1)) + 1.0 * rng.normal(size=(4, 1, 30)) + np.zeros((4, 5, 30))
    pairs = all_pairs.over_seeds_and_patients(values)
    assert pairs is not None
    found = repetition(pairs)
    assert found is not None
    assert found.seeds is None


def test_two_initializations_or_no_spread_are_no_ranking() -> None:
    two = all_pairs.over_seeds([[0.1, 0.2], [0.3, 0.5]])
    still = all_pairs.over_seeds([[0.1, 0.1], [0.3, 0.3], [0.4, 0.4]])
    assert two is not None
    assert still is not None
    assert repetition(two) is None
    assert repetition(still) is None


def agreement(one: Array, two: Array) -> float:
    upper = np.triu_indices(len(one), 1)
    return float((np.sign(one[:, None] - one)[upper] * np.sign(two[:, None] - two)[upper]).mean())


def effects(shape: str, inits: int, rng: np.random.Generator) -> Array:
    if shape == "normal":
        return 0.6 * rng.normal(size=inits)
    return np.zeros(inits) if shape == "equal" else np.concatenate([[-2.0], np.zeros(inits - 1)])


def drawn(truth: Array, seeds: int, rng: np.random.Generator) -> Array:
    inits, patients = len(truth), 40
    seed, patient = 0.8 * rng.normal(size=(inits, seeds, 1)), 2 * rng.normal(size=(inits, 1, patients))
    return truth[:, None, None] + seed + patient + rng.normal(size=(inits, seeds, patients))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "scale", "low", "high"),
    [
        ("normal", 2.0, -0.05, 0.03),
        ("normal", 0.5, -0.08, 0.03),
        ("equal", 1.0, -0.08, 0.08),
        ("one worse", 1.0, -0.12, 0.1),
    ],
)
@pytest.mark.parametrize("inits", [5, 10, 20])
def test_a_repetition_is_as_alike_as_was_predicted(
    shape: str, scale: float, low: float, high: float, inits: int
) -> None:
    rng, predicted, realised = np.random.default_rng(7), [], []
    for _ in range(1000):
        truth = scale * effects(shape, inits, rng)
        first, second = (drawn(truth, 10, rng) for _ in range(2))
        pairs = all_pairs.over_seeds_and_patients(first)
        assert pairs is not None
        found = repetition(pairs)
        assert found is not None
        predicted.append(found.tau)
        realised.append(agreement(first.mean(axis=(1, 2)), second.mean(axis=(1, 2))))
    bias = float(np.mean(predicted) - np.mean(realised))
    print(f"\n{shape} x {scale}, {inits} inits: realised {np.mean(realised):.3f}, predicted minus realised {bias:+.3f}")
    assert low <= bias <= high


def test_agreement_counts_pairs() -> None:
    first = np.array([1.0, 2.0, 3.0, 4.0])
    for order in itertools.permutations(range(4)):
        second = first[list(order)]
        assert agreement(first, second) == pytest.approx(stats.kendalltau(first, second).statistic)
