from __future__ import annotations

import os
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from medtransfer.core.errors import UserError
from medtransfer.statistics import bootstrap, delong, ranked, seeds_and_patients

Array = npt.NDArray[Any]


def drawn(seed: int, images: int = 80, labels: int = 2, models: int = 3) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, (images, labels))
    return targets, np.round(rng.normal(size=(models, images, labels)) + targets, 1)  # rounded: ties


@pytest.mark.parametrize(
    ("make", "theirs"),
    [(bootstrap.mean_auc, roc_auc_score), (bootstrap.average_precision, average_precision_score)],
)
def test_weighted_scores_equal_those_of_sklearn_on_repeated_images(make: Any, theirs: Any) -> None:
    targets, scores = drawn(0)
    weights = np.random.default_rng(1).integers(0, 4, (80, 5)).astype(np.float32)
    ours = make(targets, scores).score(weights)
    for column in range(5):
        taken = np.repeat(np.arange(80), weights[:, column].astype(int))
        expected = [np.mean([theirs(targets[taken, k], m[taken, k]) for k in range(2)]) for m in scores]
        np.testing.assert_allclose(ours[:, column], expected, rtol=1e-6)


def test_an_uncertain_target_is_left_out() -> None:
    targets, scores = drawn(2)
    unsure = np.where(np.arange(80)[:, None] < 9, -1, targets)
    ours = bootstrap.mean_auc(unsure, scores).score(np.ones((80, 1), dtype=np.float32))
    short = bootstrap.mean_auc(targets[9:], scores[:, 9:]).score(np.ones((71, 1), dtype=np.float32))
    np.testing.assert_allclose(ours, short)


def test_a_patient_brings_all_images_with_multiplicity() -> None:
    # Three patients with means 0, 1, 2 of unequal image counts: 27 resamples, each a weighted mean.
    values, patients = np.array([[0.0, 1.0, 1.0, 2.0, 2.0, 2.0]]), list("abbccc")
    found = bootstrap.bootstrap(bootstrap.mean(values), np.random.default_rng(3), patients=patients, resamples=2000)
    possible = {
        (b * 2 + c * 6) / (a + b * 2 + c * 3)
        for a in range(4) for b in range(4) for c in range(4) if a + b + c == 3
    }  # fmt: skip
    assert {round(float(x), 9) for x in found.values[0]} == {round(x, 9) for x in possible}
    np.testing.assert_allclose(found.jackknife[0], [8 / 5, 6 / 4, 2 / 3])


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_interval_agrees_with_scipy(method: Any) -> None:
    values = np.random.default_rng(4).exponential(size=40)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=40_000, method=method, rng=np.random.default_rng(5)
    ).confidence_interval
    found = bootstrap.bootstrap(bootstrap.mean(values[None]), np.random.default_rng(6), resamples=40_000)
    ours = bootstrap.interval(found, [0], method=method)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.012)


def test_bootstrap_spread_of_auc_agrees_with_delong_where_patients_repeat() -> None:
    rng = np.random.default_rng(7)
    truth = rng.integers(0, 2, (150, 1)).repeat(2, axis=0)
    scores = rng.normal(size=(2, 150, 1)).repeat(2, axis=1) + truth + 0.3 * rng.normal(size=(2, 300, 1))
    patients = np.repeat(np.arange(150), 2)
    found = bootstrap.bootstrap(bootstrap.mean_auc(truth, scores), rng, patients=patients, resamples=4000)
    test = delong.difference(delong.placements(truth, scores, patients), 0, 1)
    assert (found.values[0] - found.values[1]).std() == pytest.approx(test.error, rel=0.06)
    assert bootstrap.interval(found, [0], [1]).low == pytest.approx(test.low, abs=0.012)


@pytest.mark.parametrize("make", [bootstrap.mean_auc, bootstrap.average_precision])
def test_the_number_of_cores_changes_no_digit(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    targets, scores = drawn(17, images=3000)
    patients, told = np.arange(3000) // 2, list[tuple[str, float]]()
    found, threads = [], []
    for number in (1, 2):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, number=number: set(range(number)))
        statistic, seen = make(targets, scores), set[str]()

        def score(weights: Array, whole: Any = statistic.score, seen: set[str] = seen) -> Array:
            seen.add(threading.current_thread().name)
            return np.asarray(whole(weights))

        watched = replace(statistic, score=score)
        found.append(
            bootstrap.bootstrap(
                watched, np.random.default_rng(18), patients=patients, resamples=1200,
                tell=lambda words, share: told.append((words, share)),
            )
        )  # fmt: skip
        threads.append(seen)
    assert len(threads[0]) == 1 < len(threads[1])
    for name in ("values", "point", "jackknife"):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(found[1], name))
    half = len(told) // 2
    assert told[:half] == told[half:]
    assert told[0][0] == "500 of 1,200 resamples"
    assert "without each patient" in told[half - 1][0]
    assert all(0 < share <= 1 for _, share in told)


def test_rows_are_summed_in_groups_as_one_by_one() -> None:
    for number, width in ((1, 3), (7, 64), (50, 3), (3, 50), (64, 64)):
        sums = np.random.default_rng(number).integers(0, 9, (number, width)).astype(np.float32)
        expected = sums.cumsum(axis=0)
        assert (ranked.running(sums) == expected).all()
        assert (sums == expected).all()


def test_equal_models_have_exactly_no_width() -> None:
    targets, scores = drawn(8)
    same = scores[[0, 1, 0, 1]]
    for made in (bootstrap.mean_auc(targets, same), bootstrap.mean(same[:, :, 0])):
        found = bootstrap.bootstrap(made, np.random.default_rng(9), resamples=300)
        result = bootstrap.interval(found, [0, 1], [2, 3])
        assert (result.estimate, result.low, result.high, result.note) == (0, 0, 0, "no variance over patients")


def test_resamples_without_both_classes_are_redrawn_and_counted() -> None:
    # Two of ten images are positive: a resample has none with probability .8 ** 10 = .107, so 1 in 8.3 kept ones.
    targets = np.array([[1], [1], *[[0]] * 8])
    made = bootstrap.mean_auc(targets, np.random.default_rng(10).normal(size=(1, 10, 1)))
    found = bootstrap.bootstrap(made, np.random.default_rng(11), resamples=5000)
    assert found.values.shape == (1, 5000)
    assert np.isfinite(found.values).all()
    assert found.redrawn / 5000 == pytest.approx(0.8**10 / (1 - 0.8**10), rel=0.15)
    assert bootstrap.interval(found, [0]).redrawn == found.redrawn


def test_a_single_positive_patient_has_a_percentile_interval_but_no_bca() -> None:
    made = bootstrap.mean_auc([[1], [0], [0], [0]], np.array([[[1.0], [0.0], [2.0], [3.0]]]))
    found = bootstrap.bootstrap(made, np.random.default_rng(12), resamples=200)
    result = bootstrap.interval(found, [0])
    assert (result.low, result.note) == (None, "no BCa interval: a class comes from a single patient")
    assert bootstrap.interval(found, [0], method="percentile").low is not None


def test_pooled_dice_by_hand() -> None:
    terms = np.array([[[5, 10, 10], [0, 0, 0], [0, 3, 0]]])[:, :, None]
    weights = np.array([[1.0, 2.0], [1.0, 1.0], [1.0, 0.0]])
    assert bootstrap.pooled_dice(terms).score(weights) == pytest.approx(np.array([[10 / 23, 0.5]]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bootstrap.mean_auc([[1], [1]], np.zeros((1, 2, 1))), "lack a class"),
        (lambda: bootstrap.mean([[np.nan]]), "finite"),
        (lambda: bootstrap.mean(np.zeros((0, 0))), "finite"),
        (lambda: bootstrap.pooled_dice(np.zeros((2, 3))), "x 3"),
        (
            lambda: bootstrap.bootstrap(bootstrap.mean([[1.0]]), np.random.default_rng(0), resamples=9),
            "patients >= 2",
        ),
        (lambda: seeds_and_patients.joint_interval([[1.0]]), "patients >= 2"),
        (lambda: seeds_and_patients.joint_interval([[1.0, np.inf]]), "finite"),
        (lambda: seeds_and_patients.joint_interval([[1.0, 2.0]], margin=0.0), "margin > 0"),
    ],
)
def test_bad_input_is_refused(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_joint_interval_by_hand() -> None:
    # Mean squares of [[1, 13], [2, 18]]: seeds 9, patients 196, residual 4; seeds and patients add (9 + 192) / 4.
    result = seeds_and_patients.joint_interval([[1.0, 13.0], [2.0, 18.0]])
    assert result.seed_error == pytest.approx((9 / 4) ** 0.5)
    assert result.patient_error == pytest.approx((192 / 4) ** 0.5)
    assert result.df == pytest.approx(201**2 / (9**2 + 192**2))
    assert result.low == pytest.approx(8.5 - stats.t.ppf(0.975, 201**2 / (9**2 + 192**2)) * (201 / 4) ** 0.5)


def test_joint_interval_is_never_narrower_than_that_of_the_seeds() -> None:
    # Seed means 2 and 5: 3.5 +- t(1 df) * 1.5, wider than t(441 / 225 df) * (21 / 4) ** .5.
    result = seeds_and_patients.joint_interval([[1.0, 3.0], [2.0, 8.0]])
    assert result.low == pytest.approx(3.5 - stats.t.ppf(0.975, 1) * 1.5)


def test_joint_interval_is_shifted_scaled_and_order_free() -> None:
    rng = np.random.default_rng(13)
    numbers = rng.normal(size=(4, 30)) + rng.normal(size=(4, 1)) + rng.normal(size=30)
    base = seeds_and_patients.joint_interval(numbers)
    moved = seeds_and_patients.joint_interval(5 - 2 * numbers[::-1, rng.permutation(30)])
    assert base.low is not None
    assert base.high is not None
    assert (moved.low, moved.high, moved.df) == pytest.approx((5 - 2 * base.high, 5 - 2 * base.low, base.df))


def test_one_seed_has_no_joint_interval_and_says_so() -> None:
    numbers = np.random.default_rng(14).normal(size=(1, 30))
    result = seeds_and_patients.joint_interval(numbers, margin=0.1)
    assert (result.low, result.seed_error, result.verdict) == (None, None, "unknown")
    assert result.note == "one seed: its part is unknown"
    assert result.patient_error == pytest.approx(numbers.std(ddof=1) / 30**0.5)


def test_verdict_names_seeds_or_patients() -> None:
    rng = np.random.default_rng(15)
    seeds = rng.normal(size=(3, 1)) + 0.01 * rng.normal(size=(3, 200))
    patients = rng.normal(size=200) + 0.01 * rng.normal(size=(3, 200))
    few = seeds_and_patients.joint_interval(patients, margin=0.05)
    assert (few.verdict, few.more_seeds) == ("needs more test patients", None)
    many = seeds_and_patients.joint_interval(seeds, margin=0.2)
    assert many.verdict == "needs more seeds"
    assert many.more_seeds is not None
    n, spread = 3 + many.more_seeds, float(seeds.mean(axis=1).std(ddof=1))
    assert stats.t.ppf(0.975, n - 1) * spread / n**0.5 < 0.2
    assert stats.t.ppf(0.975, n - 2) * spread / (n - 1) ** 0.5 >= 0.2
    assert seeds_and_patients.joint_interval(patients, margin=9.0).verdict == "enough"


def test_numbers_per_patient_keep_the_mean_over_images() -> None:
    gathered = seeds_and_patients.per_patient([[1.0, 2.0, 6.0]], ["a", "a", "b"])
    np.testing.assert_allclose(gathered, [[3 - 3 * 2 / 3, 3 + 3 * 2 / 3]])
    assert gathered.mean() == pytest.approx(3.0)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize(("of_seed", "of_patient"), [(1.0, 1.0), (0.1, 1.0), (1.0, 7.0), (0.0, 0.0)])
def test_joint_interval_covers(seeds: int, of_seed: float, of_patient: float) -> None:
    rng, hits, rounds = np.random.default_rng(seeds), 0, 4000
    for _ in range(rounds):
        numbers = (
            of_seed * rng.normal(size=(seeds, 1)) + of_patient * rng.normal(size=50) + rng.normal(size=(seeds, 50))
        )
        result = seeds_and_patients.joint_interval(numbers)
        assert result.low is not None
        assert result.high is not None
        hits += result.low <= 0 <= result.high
    assert hits / rounds == pytest.approx(0.95, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_joint_interval_of_auc_covers(seeds: int) -> None:
    rng, hits, rounds = np.random.default_rng(seeds), 0, 1500
    for _ in range(rounds):
        targets = (rng.random((200, 1)) < 0.3).astype(int)
        shared, own = rng.normal(size=(2, 1, 200)), 0.5 * rng.normal(size=(2, seeds, 200))
        skill = 1.0 + 0.15 * rng.normal(size=(2, seeds, 1))
        scores = (skill * targets[:, 0] + shared + own).reshape(2 * seeds, 200, 1)
        numbers = delong.contributions(delong.placements(targets, scores))
        result = seeds_and_patients.joint_interval(numbers[:seeds] - numbers[seeds:])
        assert result.low is not None
        assert result.high is not None
        hits += result.low <= 0 <= result.high
    assert hits / rounds == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(("images", "patients", "labels"), [(60, 20, 2), (60, 60, 1), (400, 250, 3)])
def test_areas_without_each_patient_are_those_of_the_images_weighed_anew(
    images: int, patients: int, labels: int
) -> None:
    rng = np.random.default_rng(images + labels)
    targets = (rng.random((images, labels)) < 0.2).astype(int)
    targets[rng.random((images, labels)) < 0.05] = -1  # uncertain: no image of that label
    targets[:4], targets[4:8] = 1, 0
    scores = np.round(rng.normal(size=(3, images, labels)) + targets, 1)  # with ties
    owners = rng.integers(0, patients, images)
    whole = bootstrap.mean_auc(targets, scores)
    assert whole.without is not None
    one, two = (
        bootstrap.bootstrap(each, np.random.default_rng(0), patients=owners, resamples=20)
        for each in (whole, replace(whole, without=None))
    )
    assert np.array_equal(np.isnan(one.jackknife), np.isnan(two.jackknife))
    assert np.allclose(one.jackknife, two.jackknife, rtol=0, atol=1e-12, equal_nan=True)


def test_an_area_without_the_only_patient_of_a_class_is_undefined() -> None:
    targets, scores = np.array([[1], [1], [0], [0]]), np.array([[[0.9], [0.4], [0.3], [0.5]]])
    found = bootstrap.mean_auc(targets, scores).without
    assert found is not None
    left = found(np.array([0, 0, 1, 2]), 3)
    assert np.isnan(left[0, 0])
    assert left[0, 1:].tolist() == [0.5, 1.0]
