from typing import Literal

import numpy as np
import pytest
from scipy import stats

from medtransfer.core.errors import UserError
from medtransfer.statistics.randomization import permutation_test, wilcoxon_test
from medtransfer.statistics.t_tests import (
    Alternative,
    Summary,
    Test,
    corrected_t_test,
    summary,
    t_test,
    t_test_from_summary,
)

RNG = np.random.default_rng(0)
A, B = RNG.normal(0.8, 0.01, 6), RNG.normal(0.81, 0.03, 6)

SCRATCH, IMAGENET, CXR14, CHEXPERT, BOTH_CXR14, BOTH_CHEXPERT = (
    "Scratch", "ImageNet", "ChestX-ray14", "CheXpert", "ImageNet->ChestX-ray14", "ImageNet->CheXpert",
)  # fmt: skip

# Mean and std as printed in the continual pre-training table of the 2021 paper.
PUBLISHED = {
    "DXC14": {
        SCRATCH: (80.31, 0.10), IMAGENET: (81.70, 0.15), CHEXPERT: (81.99, 0.08), BOTH_CHEXPERT: (82.25, 0.18),
    },
    "DXC5": {
        SCRATCH: (86.60, 0.17), IMAGENET: (87.10, 0.36), CXR14: (87.40, 0.26), BOTH_CXR14: (87.09, 0.44),
    },
    "TXC": {
        SCRATCH: (89.03, 1.82), IMAGENET: (95.62, 0.63), CXR14: (96.32, 0.65), CHEXPERT: (97.07, 0.95),
        BOTH_CXR14: (98.47, 0.26), BOTH_CHEXPERT: (97.33, 0.26),
    },
    "PXS": {
        SCRATCH: (67.54, 0.60), IMAGENET: (67.93, 1.45), CXR14: (68.92, 0.98), CHEXPERT: (69.30, 0.50),
        BOTH_CXR14: (69.52, 0.38), BOTH_CHEXPERT: (69.36, 0.49),
    },
    "LXS": {
        SCRATCH: (97.55, 0.36), IMAGENET: (98.19, 0.13), CXR14: (98.18, 0.06), CHEXPERT: (98.25, 0.04),
        BOTH_CXR14: (98.27, 0.03), BOTH_CHEXPERT: (98.31, 0.05),
    },
}  # fmt: skip

# Cells that the table highlights as p > 0.05 against the best of their column, without the best itself.
HIGHLIGHTED = {
    "DXC14": set[str](),
    "DXC5": {IMAGENET, BOTH_CXR14},
    "TXC": set[str](),
    "PXS": {CXR14, CHEXPERT, BOTH_CHEXPERT},
    "LXS": {IMAGENET, CHEXPERT, BOTH_CXR14},
}


def disagreements(n: int, ddof: Literal[0, 1]) -> set[tuple[str, str]]:
    """Lists the published cells whose highlight differs from our pooled test against the best."""
    wrong = set()
    for task, column in PUBLISHED.items():
        sides = {init: Summary(mean=mean, std=std, n=n) for init, (mean, std) in column.items()}
        best = max(sides, key=lambda init: sides[init].mean)
        for init in column.keys() - {best}:
            result = t_test_from_summary(sides[init], sides[best], test="pooled", ddof=ddof)
            if (init in HIGHLIGHTED[task]) == result.separated(0.05):
                wrong.add((task, init))
    return wrong


def test_published_highlights_are_consistent_with_five_runs() -> None:
    assert sum(len(column) - 1 for column in PUBLISHED.values()) == 21
    assert disagreements(n=5, ddof=1) == set()
    assert disagreements(n=5, ddof=0) == {("PXS", IMAGENET)}
    ten = {("DXC5", IMAGENET), ("LXS", IMAGENET), ("LXS", CHEXPERT), ("LXS", BOTH_CXR14)}
    assert disagreements(n=10, ddof=1) == ten
    assert len(disagreements(n=4, ddof=1)) == 1


def test_pooled_by_hand() -> None:
    # Means 2 and 4, both variances 1: standard error sqrt(1 * (1/3 + 1/3)), t = -2 / .8165, df 4.
    result = t_test([1, 2, 3], [3, 4, 5], test="pooled")
    assert result.difference == -2
    assert result.statistic == pytest.approx(-2.449490, abs=1e-6)
    assert result.df == 4
    assert result.p == pytest.approx(0.070484, abs=1e-6)
    assert result.separated(0.05) is False
    assert result.separated(0.10) is True


def test_paired_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, std 1, t = 2 / (1 / sqrt 3), df 2.
    result = t_test([2, 4, 6], [1, 2, 3], test="paired")
    assert result.statistic == pytest.approx(2 * 3**0.5)
    assert (result.df, result.difference) == (2, 2)
    assert result.p == pytest.approx(0.074180, abs=1e-6)


def test_welch_by_hand() -> None:
    # Variances 1 and 4 over n = 3: error sqrt(5/3), df (5/3)^2 / ((1/3)^2 / 2 + (4/3)^2 / 2) = 50/17.
    result = t_test([1, 2, 3], [2, 4, 6], test="welch")
    assert result.statistic == pytest.approx(-2 / (5 / 3) ** 0.5)
    assert result.df == pytest.approx(50 / 17)


@pytest.mark.parametrize(("test", "equal"), [("pooled", True), ("welch", False)])
@pytest.mark.parametrize("n", [2, 6])
def test_independent_tests_against_scipy(test: Test, equal: bool, n: int) -> None:
    ours, theirs = t_test(A, B[:n], test=test), stats.ttest_ind(A, B[:n], equal_var=equal)
    assert ours.statistic == pytest.approx(theirs.statistic)
    assert ours.p == pytest.approx(theirs.pvalue)
    assert ours.df == pytest.approx(theirs.df)


def test_paired_test_against_scipy() -> None:
    ours, theirs = t_test(A, B, test="paired"), stats.ttest_rel(A, B)
    assert (ours.statistic, ours.p, ours.df) == pytest.approx((theirs.statistic, theirs.pvalue, theirs.df))


@pytest.mark.parametrize("test", ["pooled", "welch"])
def test_population_std_gives_the_same_test(test: Literal["pooled", "welch"]) -> None:
    population = [Summary(mean=float(x.mean()), std=float(x.std()), n=len(x)) for x in (A, B[:4])]
    from_summary = t_test_from_summary(*population, test=test, ddof=0)
    assert from_summary.p == pytest.approx(t_test(A, B[:4], test=test).p)


@pytest.mark.parametrize("test", ["pooled", "welch", "paired"])
def test_invariances(test: Test) -> None:
    result, order = t_test(A, B, test=test), RNG.permutation(6)
    assert t_test(A[order], B[order], test=test).p == pytest.approx(result.p)
    assert t_test(100 * A + 7, 100 * B + 7, test=test).p == pytest.approx(result.p)
    swapped = t_test(B, A, test=test)
    assert swapped.p == pytest.approx(result.p)
    assert swapped.difference == pytest.approx(-result.difference)


@pytest.mark.parametrize("test", ["pooled", "welch", "paired"])
def test_no_test_with_one_run(test: Test) -> None:
    result = t_test([0.9], [0.8], test=test)
    assert (result.p, result.statistic, result.separated(0.05)) == (None, None, None)
    assert "fewer than two" in result.note
    assert result.difference == pytest.approx(0.1)


@pytest.mark.parametrize("test", ["pooled", "welch", "paired"])
def test_zero_variance(test: Test) -> None:
    # Three times 0.1 + 0.2 has a mean that is one rounding off: no variance all the same.
    level = 0.1 + 0.2
    same = t_test([level] * 3, [0.3] * 3, test=test)
    assert same.p == 1
    assert same.note == "no variance and no difference"
    apart = t_test([level] * 3, [0.4] * 3, test=test)
    assert apart.p is None
    assert apart.note == "no variance on either side"


def test_summary() -> None:
    assert summary([1, 2, 3]) == Summary(mean=2, std=1, n=3)
    assert summary([0.5]) == Summary(mean=0.5, std=None, n=1)


@pytest.mark.parametrize("scores", [[], [0.5, float("nan")], [float("inf")]])
def test_scores_that_are_not_numbers_are_refused(scores: list[float]) -> None:
    with pytest.raises(UserError, match="must be one or more finite numbers"):
        summary(scores)
    with pytest.raises(UserError, match="b must be one or more finite numbers"):
        t_test([0.5], scores, test="pooled")


def test_unequal_pairs_are_refused() -> None:
    with pytest.raises(UserError, match="got 2 and 1"):
        t_test([0.5, 0.6], [0.5], test="paired")


def test_impossible_summaries_are_refused() -> None:
    good = Summary(mean=1, std=1, n=3)
    with pytest.raises(UserError, match="std >= 0"):
        t_test_from_summary(good, Summary(mean=1, std=-1, n=3), test="pooled")
    with pytest.raises(UserError, match="finite"):
        t_test_from_summary(good, Summary(mean=1, std=float("nan"), n=3), test="pooled")


def test_corrected_resampled_t_by_hand() -> None:
    a, b = np.array([0.82, 0.85, 0.80, 0.86]), np.array([0.80, 0.82, 0.79, 0.81])
    d = a - b  # .02 .03 .01 .05: mean .0275, sample variance .000291667
    found = corrected_t_test(a, b, ratio=0.25)
    assert found.statistic == pytest.approx(0.0275 / np.sqrt((1 / 4 + 0.25) * 0.00087500 / 3))
    assert found.df == 3
    assert found.test == "corrected"
    plain = t_test(a, b, test="paired")
    assert plain.p is not None
    assert found.p is not None
    assert found.p > plain.p
    assert found.p == pytest.approx(2 * stats.t.sf(d.mean() / np.sqrt(0.5 * d.var(ddof=1)), 3))


def test_corrected_resampled_t_refuses_what_is_not_paired_by_fold() -> None:
    assert corrected_t_test([0.5], [0.6], ratio=0.1).note == "fewer than two folds"
    with pytest.raises(UserError, match="ratio > 0"):
        corrected_t_test([0.5, 0.6], [0.6, 0.7], ratio=0)
    with pytest.raises(UserError, match="len"):
        corrected_t_test([0.5, 0.6], [0.6], ratio=0.2)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize("n", [3, 5, 8])
def test_every_alternative_against_scipy(alternative: Alternative, n: int) -> None:
    generator = np.random.default_rng(n)
    a, b = generator.normal(0.80, 0.01, n), generator.normal(0.81, 0.02, n)
    theirs = {
        "pooled": stats.ttest_ind(a, b, alternative=alternative),
        "welch": stats.ttest_ind(a, b, alternative=alternative, equal_var=False),
        "paired": stats.ttest_rel(a, b, alternative=alternative),
    }
    tests: tuple[Test, ...] = ("pooled", "welch", "paired")
    for test in tests:
        ours, interval = t_test(a, b, test=test, alternative=alternative), theirs[test].confidence_interval(0.95)
        assert (ours.p, ours.low, ours.high) == pytest.approx((theirs[test].pvalue, interval.low, interval.high))
    signed = stats.wilcoxon(a, b, alternative=alternative, method="exact").pvalue
    assert wilcoxon_test(a, b, alternative=alternative).p == pytest.approx(signed)
    flipped = stats.permutation_test((a - b,), np.mean, permutation_type="samples", alternative=alternative).pvalue
    ours_flipped = permutation_test(a, b, paired=True, generator=generator, alternative=alternative)
    assert ours_flipped.p == pytest.approx(flipped)


def test_a_test_that_cannot_reach_alpha_says_so() -> None:
    ranked = wilcoxon_test([2, 4, 6, 9, 11], [1, 2, 3, 4, 5])
    assert (ranked.p, ranked.least) == (0.0625, 0.0625)
    assert "no outcome can reach alpha=0.05" in ranked.note
    labelled = permutation_test([1, 2, 3], [4, 5, 6.5], paired=False, generator=np.random.default_rng(0))
    assert labelled.p == pytest.approx(2 / 20)
    assert "no outcome can reach" in labelled.note
