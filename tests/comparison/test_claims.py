from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats

from medtransfer.comparison import claims, findings, published
from medtransfer.comparison.claims import Part, TaskScores, Verdict, on_published, on_runs
from medtransfer.comparison.published import Published
from medtransfer.core.errors import UserError
from medtransfer.params import Benchmark, Claim, load
from tests.support import results

ROOT = Path(__file__).parents[2]
SWAV, BYOL, IMAGENET = "swav@resnet50", "byol@resnet50", "imagenet@resnet50"
BETTER, WORSE = (0.90, 0.92, 0.94), (0.80, 0.84, 0.82)


def claim(better: str = "swav", than: Sequence[str] = ("imagenet",), tasks: str = "all", minus: str = "") -> Claim:
    return Claim(says="says", better=better, than=tuple(than), tasks=(tasks,), minus=(minus,) if minus else ())


def runs(
    task: str, scores: Mapping[str, Sequence[float]], *, segmentation: bool = False, group: str = "", **other: Any
) -> TaskScores:
    tuples = {name: tuple(values) for name, values in scores.items()}
    return TaskScores(task=task, segmentation=segmentation, group=group or task, scores=tuples, **other)


def row(init: str, task: str, mean: float, std: float | None = 0.01, n: int = 5, **other: Any) -> Published:
    known: dict[str, Any] = {"paper": "A", "name": init, "metric": "AUC %", "n_stated": True, "digitised": False}
    known |= {"source": "", "line": 2, "init": init, "task": task, "mean": mean, "std": std, "n": n}
    return Published(**known | other)


def only(verdicts: Sequence[Verdict]) -> Part:
    [verdict] = verdicts
    [part] = verdict.parts
    assert verdict.verdict == part.verdict
    return part


def weigh(stated: Claim, *tasks: TaskScores, alpha: float = 0.05) -> Part:
    return only(on_runs(stated, tasks, alpha=alpha))


def read(stated: Claim, *rows: Published, alpha: float = 0.05) -> Part:
    return only([on_published(stated, rows, alpha=alpha)])


def interval(part: Part) -> tuple[float, float]:
    assert part.low is not None
    assert part.high is not None
    return part.low, part.high


def test_one_task_is_the_paired_t_test() -> None:
    part = weigh(claim(), runs("a", {SWAV: BETTER, IMAGENET: WORSE}), alpha=0.1)
    expected = stats.ttest_rel(BETTER, WORSE).confidence_interval(0.9)
    assert part.estimate == pytest.approx(0.1)
    assert interval(part) == pytest.approx((expected.low, expected.high))
    assert part.verdict == "supported"
    [one] = part.differences
    assert (one.better, one.than, one.n, one.method, one.weight) == ((SWAV,), (IMAGENET,), 3, "seeds", 1.0)
    assert (one.low, one.high) == pytest.approx((expected.low, expected.high))


def test_an_interval_ends_where_a_difference_of_two_scores_can() -> None:
    far = {SWAV: (0.9, 0.1), IMAGENET: (0.1, 0.8)}  # two seeds: t is 12.7 at one degree of freedom
    assert interval(weigh(claim(), runs("a", far))) == (-1.0, 1.0)
    assert interval(weigh(claim(), runs("a", far, least=-1.0))) == (-2.0, 2.0)


def test_two_tasks_by_hand() -> None:
    # Differences a: .10 .08 .12 (mean .10, variance of the mean .0004 / 3), b: .01 .04 .01 (mean .02, .0003 / 3).
    a = runs("a", {SWAV: BETTER, IMAGENET: WORSE})
    b = runs("b", {SWAV: (0.71, 0.74, 0.71), IMAGENET: (0.70, 0.70, 0.70)})
    part = weigh(claim(), a, b)
    va, vb = 0.0004 / 3 / 4, 0.0003 / 3 / 4
    df = (va + vb) ** 2 / (va**2 / 2 + vb**2 / 2)
    half = stats.t.ppf(0.975, df) * (va + vb) ** 0.5
    assert part.estimate == pytest.approx(0.06)
    assert part.df == pytest.approx(df)
    assert interval(part) == pytest.approx((0.06 - half, 0.06 + half))
    assert (part.verdict, part.groups) == ("supported", 2)


def test_an_interaction_subtracts_the_mean_over_the_other_tasks() -> None:
    a = runs("a", {SWAV: BETTER, IMAGENET: WORSE}, segmentation=True)
    b = runs("b", {SWAV: (0.71, 0.74, 0.71), IMAGENET: (0.70, 0.70, 0.70)})
    c = runs("c", {SWAV: WORSE, IMAGENET: BETTER})
    part = weigh(claim(tasks="segmentation", minus="classification"), a, b, c)
    assert part.estimate == pytest.approx(0.10 - (0.02 - 0.10) / 2)
    assert {one.task: one.weight for one in part.differences} == {"a": 1.0, "b": -0.5, "c": -0.5}
    variance = 0.0004 / 3 + (0.0003 / 3 + 0.0004 / 3) / 4
    low, high = interval(part)
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, part.df) * variance**0.5)


def test_a_task_on_both_sides_counts_with_both_its_weights() -> None:
    a = runs("a", {SWAV: BETTER, IMAGENET: WORSE}, segmentation=True)
    b = runs("b", {SWAV: WORSE, IMAGENET: BETTER})
    part = weigh(claim(tasks="all", minus="classification"), a, b)
    assert {one.task: one.weight for one in part.differences} == {"a": 0.5, "b": -0.5}
    assert part.estimate == pytest.approx(0.1)


def test_tasks_of_one_group_count_once() -> None:
    a = runs("a", {SWAV: BETTER, IMAGENET: WORSE}, group="g")
    b = runs("b", {SWAV: (0.71, 0.74, 0.71), IMAGENET: (0.70, 0.70, 0.70)}, group="g")
    c = runs("c", {SWAV: (0.5, 0.6, 0.7), IMAGENET: (0.5, 0.7, 0.6)})
    part = weigh(claim(), a, b, c)
    assert part.estimate == pytest.approx(((0.10 + 0.02) / 2 + 0.0) / 2)
    assert part.groups == 2


def crossed(seed: int, *, shift: float = 0.0, seeds: int = 3, patients: int = 40) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    parts = rng.normal(0, 0.1, (1, patients)) + rng.normal(0, 0.02, (seeds, 1))
    return np.asarray(0.8 + shift + parts + rng.normal(0, 0.05, (seeds, patients)))


def with_patients(task: str, better: NDArray[Any], than: NDArray[Any]) -> TaskScores:
    tables = {SWAV: better, IMAGENET: than}
    return runs(task, {name: table.mean(axis=1) for name, table in tables.items()}, contributions=tables)


def test_patients_widen_the_interval_by_their_own_variance() -> None:
    x = crossed(0, shift=0.1) - crossed(1)
    part = weigh(
        claim(), with_patients("a", crossed(0, shift=0.1), crossed(1)), runs("b", {SWAV: BETTER, IMAGENET: WORSE})
    )
    seeds, patients = x.shape
    # Two-way analysis of variance by its sums of squares, apart from `joint`.
    rows, columns = x.mean(1, keepdims=True), x.mean(0, keepdims=True)
    noise = ((x - rows - columns + x.mean()) ** 2).sum() / (seeds - 1) / (patients - 1)
    between_seeds = ((rows - x.mean()) ** 2).sum() / (seeds - 1) / seeds
    between_patients = (((columns - x.mean()) ** 2).sum() * seeds / (patients - 1) - noise) / seeds / patients
    variance, other = between_seeds + between_patients, 0.0004 / 3
    df = variance**2 / (between_seeds**2 / (seeds - 1) + between_patients**2 / (patients - 1))
    whole = (variance + other) / 4
    whole_df = whole**2 / ((variance / 4) ** 2 / df + (other / 4) ** 2 / 2)
    half = stats.t.ppf(0.975, whole_df) * whole**0.5
    assert interval(part) == pytest.approx(((x.mean() + 0.1) / 2 - half, (x.mean() + 0.1) / 2 + half))
    assert [one.method for one in part.differences] == ["seeds and patients", "seeds"]


def test_a_claim_on_one_task_has_that_tasks_own_interval() -> None:
    part = weigh(claim(), with_patients("a", crossed(2), crossed(3)))
    [one] = part.differences
    assert interval(part) == (one.low, one.high)


def test_contributions_that_one_side_lacks_are_not_used() -> None:
    task = with_patients("a", crossed(0), crossed(1))
    for contributions in ({SWAV: crossed(0)}, {SWAV: crossed(0), IMAGENET: crossed(1)[:2]}):
        [one] = weigh(claim(), replace(task, contributions=contributions)).differences
        assert one.method == "seeds"


def test_the_order_of_seeds_tasks_and_inits_changes_nothing() -> None:
    tables = [crossed(seed) for seed in range(4)]
    first = weigh(claim(), with_patients("a", *tables[:2]), with_patients("b", *tables[2:]))
    turned = [table[[2, 0, 1]] for table in tables]
    a, b = with_patients("a", *turned[:2]), with_patients("b", *turned[2:])
    second = weigh(claim(), b, replace(a, scores=dict(reversed(list(a.scores.items())))))
    assert interval(first) == pytest.approx(interval(second))


@pytest.mark.parametrize("factor", [1e-6, 10.0])
def test_scaling_every_score_scales_the_claim(factor: float) -> None:
    tables = [crossed(seed) for seed in range(4)]
    first = weigh(claim(), with_patients("a", *tables[:2]), with_patients("b", *tables[2:]))
    scaled = [factor * table for table in tables]
    second = weigh(claim(), with_patients("a", *scaled[:2]), with_patients("b", *scaled[2:]))
    assert np.array(interval(second)) / factor == pytest.approx(np.array(interval(first)))


def test_turning_the_claim_round_turns_the_verdict() -> None:
    tasks = [runs("a", {SWAV: BETTER, IMAGENET: WORSE}), runs("b", {SWAV: BETTER, IMAGENET: WORSE})]
    first, second = weigh(claim(), *tasks), weigh(claim("imagenet", ["swav"]), *tasks)
    assert (first.verdict, second.verdict) == ("supported", "contradicted")
    low, high = interval(second)
    assert interval(first) == pytest.approx((-high, -low))


def test_an_interval_with_zero_in_it_is_undecided() -> None:
    assert weigh(claim(), runs("a", {SWAV: (0.8, 0.9, 0.85), IMAGENET: (0.85, 0.8, 0.9)})).verdict == "undecided"


def test_the_member_that_is_best_on_val_stands_for_a_family_and_not_the_best_on_test() -> None:
    scores = {SWAV: WORSE, BYOL: BETTER, IMAGENET: (0.85, 0.86, 0.87)}
    a = runs("a", scores, val={SWAV: 0.9, BYOL: 0.8, IMAGENET: 0.99})
    b = runs("b", scores, val={SWAV: 0.7, BYOL: 0.8, IMAGENET: 0.99})
    part = weigh(claim("self-supervised"), a, b)
    assert len({one.better for one in part.differences}) == 1  # one for all tasks, though val differs by task
    third = runs("c", scores, val={SWAV: 0.9, BYOL: 0.7, IMAGENET: 0.99})
    part = weigh(claim("self-supervised"), a, b, third)
    assert {one.task: one.better for one in part.differences} == dict.fromkeys("abc", (SWAV,))
    assert part.estimate == pytest.approx(0.82 - 0.86)
    assert part.alpha == 0.05 / 2
    assert part.better == "self-supervised"
    assert part.notes[0] == "swav@resnet50 against imagenet is chosen among 2 by val, so the level is 0.05 / 2"


def test_a_family_can_stand_on_the_other_side_and_leaves_out_what_it_is_compared_with() -> None:
    task = runs("a", {SWAV: BETTER, BYOL: WORSE}, val={SWAV: 0.9, BYOL: 0.8})
    [one] = weigh(claim("swav", ["self-supervised"]), task).differences
    assert (one.better, one.than) == ((SWAV,), (BYOL,))


def test_a_family_of_several_without_val_scores_is_not_testable() -> None:
    part = weigh(claim("self-supervised"), runs("a", {SWAV: BETTER, BYOL: BETTER, IMAGENET: WORSE}))
    assert (part.verdict, part.estimate) == ("not testable", None)
    assert "no val scores of self-supervised and imagenet, by which a member could be chosen" in part.notes
    assert weigh(claim("self-supervised"), runs("a", {SWAV: BETTER, IMAGENET: WORSE})).verdict == "supported"


def test_x_is_averaged_over_the_datasets_that_both_sides_have() -> None:
    names = {"imagenet@resnet50+d": 0.9, "imagenet@resnet50+e": 0.7, "random@resnet50+e": 0.6, "random@resnet50+f": 0.1}
    noise = np.array([-0.01, 0.0, 0.02])
    scores = {name: tuple(mean + noise * (i + 1)) for i, (name, mean) in enumerate(names.items())}
    scores |= {IMAGENET: (0.5, 0.5, 0.5)}
    verdict = on_runs(claim("imagenet+X", ["imagenet", "random+X"]), [runs("a", scores)], alpha=0.05)[0]
    [first], [second] = (part.differences for part in verdict.parts)
    assert first.better == ("imagenet@resnet50+d", "imagenet@resnet50+e")
    assert first.estimate == pytest.approx(0.3 + noise.mean() * 1.5)
    assert (second.better, second.than) == (("imagenet@resnet50+e",), ("random@resnet50+e",))
    assert second.estimate == pytest.approx(0.1 - noise.mean())


def test_x_without_a_dataset_of_both_sides_is_not_testable() -> None:
    scores = {"imagenet@resnet50+d": BETTER, "random@resnet50+e": WORSE}
    part = weigh(claim("imagenet+X", ["random+X"]), runs("a", scores))
    assert "no dataset X of both imagenet+X and random+X on a" in part.notes


def test_an_init_is_not_compared_on_the_dataset_that_it_was_trained_on() -> None:
    scores = {"imagenet@resnet50+chexpert": BETTER, IMAGENET: WORSE}
    part = weigh(claim("imagenet+X"), runs("chexpert", scores), runs("shenzhen", scores))
    assert [one.task for one in part.differences] == ["shenzhen"]
    assert "no imagenet+X on chexpert" in part.notes


def test_images_that_a_task_shares_with_the_pre_training_are_marked() -> None:
    scores = {"imagenet@resnet50+chestxray14": BETTER, IMAGENET: WORSE}
    siim = runs("siim", scores, segmentation=True, contaminated=("imagenet@resnet50+chestxray14",))
    marked = weigh(claim("imagenet+X"), siim, runs("shenzhen", scores))
    assert {one.task: one.contaminated for one in marked.differences} == {"siim": True, "shenzhen": False}
    assert marked.contaminated
    assert not weigh(claim("imagenet+X"), runs("shenzhen", scores)).contaminated


def test_a_claim_is_weighed_for_each_backbone_that_has_both_sides() -> None:
    scores = {f"{init}@{b}": s for b in ("resnet18", "resnet50") for init, s in (("swav", BETTER), ("imagenet", WORSE))}
    scores |= {"swav@vit": BETTER, "imagenet@convnext": BETTER}
    verdicts = on_runs(claim(), [runs("a", scores)], alpha=0.05)
    assert [verdict.backbone for verdict in verdicts] == ["resnet18", "resnet50"]
    assert [verdict.parts[0].differences[0].than for verdict in verdicts] == [
        ("imagenet@resnet18",), ("imagenet@resnet50",),
    ]  # fmt: skip


def test_canonical_names_compare_across_backbones() -> None:
    part = weigh(claim("swav@vit", ["imagenet@resnet50"]), runs("a", {"swav@vit": BETTER, IMAGENET: WORSE}))
    assert part.verdict == "supported"


@pytest.mark.parametrize(
    ("stated", "tasks", "note"),
    [
        (claim("byol"), [runs("a", {SWAV: BETTER, IMAGENET: WORSE})], "no byol on a"),
        (claim("byol", ["random"]), [runs("a", {SWAV: BETTER})], "no byol and no random on a"),
        (claim(), [runs("a", {SWAV: BETTER[:1], IMAGENET: WORSE[:1]})], "a single seed on a"),
        (
            claim(tasks="segmentation"),
            [runs("a", {SWAV: BETTER, IMAGENET: WORSE})],
            "no task of segmentation has both swav and imagenet",
        ),
        (claim(tasks="drive"), [runs("a", {SWAV: BETTER, IMAGENET: WORSE})], "no numbers on drive"),
        (claim(), [runs("a", {"swav@vit": BETTER, IMAGENET: WORSE})], "no imagenet of backbone vit on a"),
        (claim(minus="b"), [runs("a", {SWAV: BETTER, IMAGENET: WORSE})], "no task of b has both swav and imagenet"),
        (claim(), [], "no task of all has both swav and imagenet"),
    ],
)
def test_what_is_missing_for_a_claim_is_named(stated: Claim, tasks: list[TaskScores], note: str) -> None:
    part = weigh(stated, *tasks)
    assert (part.verdict, part.estimate, part.low, part.differences) == ("not testable", None, None, ())
    assert note in part.notes


def test_a_task_that_lacks_a_side_is_left_out_and_named() -> None:
    part = weigh(claim(), runs("a", {SWAV: BETTER, IMAGENET: WORSE}), runs("b", {SWAV: BETTER}))
    assert (part.verdict, part.notes) == ("supported", ("no imagenet on b",))


@pytest.mark.parametrize(
    ("byol", "random", "overall"),
    [
        (WORSE, WORSE, "supported"),
        (WORSE, (0.9, 0.93, 0.93), "undecided"),
        (WORSE, None, "not testable"),
        ((0.99, 0.98, 0.99), None, "contradicted"),
        ((0.99, 0.98, 0.99), WORSE, "contradicted"),
    ],
)
def test_a_claim_holds_if_it_holds_against_each(
    byol: tuple[float, ...], random: tuple[float, ...] | None, overall: str
) -> None:
    scores = {SWAV: BETTER, BYOL: byol} | ({} if random is None else {"random@resnet50": random})
    [verdict] = on_runs(claim(than=["byol", "random"]), [runs("a", scores), runs("b", scores)], alpha=0.05)
    assert verdict.verdict == overall
    assert [part.than for part in verdict.parts] == ["byol", "random"]


def test_equal_weights_under_two_names_are_undecided() -> None:
    part = weigh(claim(), runs("a", {SWAV: BETTER, IMAGENET: BETTER}))
    assert (part.verdict, part.estimate, part.low, part.high) == ("undecided", 0.0, None, None)
    assert part.notes == ("nothing varies on a",)


def test_a_difference_without_variance_never_supports_a_claim() -> None:
    fixed = runs("a", {SWAV: (0.9, 0.9, 0.9), IMAGENET: (0.8, 0.8, 0.8)})
    part = weigh(claim(), fixed, runs("b", {SWAV: BETTER, IMAGENET: WORSE}))
    assert (part.verdict, part.low) == ("undecided", None)
    assert part.notes == ("nothing varies on a",)


def test_a_task_with_equal_weights_counts_as_no_difference_beside_others() -> None:
    part = weigh(claim(), runs("a", {SWAV: BETTER, IMAGENET: BETTER}), runs("b", {SWAV: BETTER, IMAGENET: WORSE}))
    alone = weigh(claim(), runs("b", {SWAV: BETTER, IMAGENET: WORSE}))
    assert np.array(interval(part)) == pytest.approx(np.array(interval(alone)) / 2)


def test_a_task_whose_seeds_are_not_all_finished_is_left_out_and_named() -> None:
    part = weigh(claim(), runs("a", {SWAV: BETTER, IMAGENET: WORSE}), runs("b", {SWAV: BETTER, IMAGENET: WORSE[:2]}))
    assert [one.task for one in part.differences] == ["a"]
    assert part.notes == ("not all seeds of both sides on b",)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 5.0])
def test_a_level_outside_of_0_and_1_is_refused(alpha: float) -> None:
    with pytest.raises(UserError, match="0 < alpha < 1"):
        on_runs(claim(), [], alpha=alpha)
    with pytest.raises(UserError, match="0 < alpha < 1"):
        on_published(claim(), [row("swav", "a", 0.9)], alpha=alpha)


def test_words_that_mean_nothing_are_refused_before_work() -> None:
    tasks = ["shenzhen", "mine"]
    claims.check({"a": claim("self-supervised", ["imagenet+X", "own"], "mine", "classification")}, tasks, ["own"])
    with pytest.raises(UserError, match=r"claims\.a: unknown task 'shenzen'; the nearest valid name is shenzhen"):
        claims.check({"a": claim(tasks="shenzen")}, tasks)
    with pytest.raises(UserError, match=r"claims\.a: unknown task 'classificaton'; .* classification"):
        claims.check({"a": claim(minus="classificaton")}, tasks)
    with pytest.raises(UserError, match=r"claims\.a: unknown init or family 'self-supervise'; .* self-supervised"):
        claims.check({"a": claim(than=["imagenet", "self-supervise"])}, tasks)


@pytest.mark.parametrize(
    ("metric", "tasks", "words"),
    [
        ("brierr", "all", r"claims\.a: unknown metric 'brierr'; the nearest valid name is brier"),
        ("dice", "shenzhen", r"claims\.a: dice is a score of masks, which shenzhen has none of \(binary\)"),
        ("ece", "segmentation", r"ece is a score of labels, which segmentation has none of"),
        ("kappa", "shenzhen", r"kappa is a score of classes"),
    ],
)
def test_a_metric_that_the_tasks_of_a_claim_cannot_have_is_refused(metric: str, tasks: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        claims.check({"a": replace(claim(tasks=tasks), metric=metric)}, ["shenzhen"])
    claims.check({"a": replace(claim(tasks="all"), metric="brier")}, ["shenzhen"])


def weighed(folder: Path, better: str, than: str, metric: str, tasks: str = "all") -> Verdict:
    changes = {"comparison.resamples": "0", "comparison.against": "[]"}
    here = load(ROOT / "params.yaml", changes)
    stated = replace(claim(better, [than], tasks), metric=metric)
    here = replace(here, claims={"c": stated})
    benchmark = Benchmark(inits=(IMAGENET, SWAV), tasks=("shenzhen", "montgomery"), seeds=(0, 1, 2), recipes=("fixed",))
    found = findings.find(folder, benchmark, here, ROOT, IMAGENET)
    [verdict] = found.claims["c"]
    return verdict


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of which swav discriminates better, and says too low probabilities, so that its Brier score is better."""
    where = tmp_path_factory.mktemp("cells")
    results.write(where, {IMAGENET: 0.0, SWAV: 2.0}, ("shenzhen", "montgomery"), range(3), cases=300, marks=[])
    for path in where.glob("*/*/cell.json"):
        cell = json.loads(path.read_text())
        table = pd.read_parquet(path.with_name("predictions.parquet"))
        more = {"test_native_hd95_mm": (3.0 if cell["init"] == SWAV else 9.0) + 0.1 * cell["seed"]}
        if cell["task"] == "shenzhen":
            label = next(name.removeprefix("target.") for name in map(str, table) if name.startswith("target."))
            more = {"test_brier": float(((table[f"probability.{label}"] - table[f"target.{label}"]) ** 2).mean())}
        path.write_text(json.dumps(cell | {"scores": cell["scores"] | more}))
    return where


def test_of_a_metric_whose_lower_values_are_better_the_lower_one_supports_the_claim(folder: Path) -> None:
    scores: dict[str, list[float]] = {}
    for path in folder.glob("shenzhen/*/cell.json"):
        cell = json.loads(path.read_text())
        scores.setdefault(cell["init"], []).append(cell["scores"]["test_brier"])
    swav, imagenet = np.mean(scores[SWAV]), np.mean(scores[IMAGENET])
    better = "swav" if swav < imagenet else "imagenet"
    verdict = weighed(folder, better, "imagenet" if better == "swav" else "swav", "brier")
    [part] = verdict.parts
    assert part.verdict == "supported"
    assert part.estimate == pytest.approx(abs(swav - imagenet), abs=1e-9)
    assert part.differences[0].method == "seeds and patients"
    assert verdict.notes == ("lower Brier score is better: a positive difference is a lower one",)
    turned = weighed(folder, "imagenet" if better == "swav" else "swav", better, "brier")
    assert turned.verdict == "contradicted"


def test_a_claim_on_a_distance_is_counted_in_its_unit_over_the_tasks_that_have_it(folder: Path) -> None:
    verdict = weighed(folder, "swav", "imagenet", "hd95_mm")
    [part] = verdict.parts
    assert (verdict.unit, part.verdict) == ("mm", "undecided")  # equal seeds: the difference does not vary
    assert part.estimate == pytest.approx(6.0)
    assert [one.task for one in part.differences] == ["montgomery"]


def test_a_claim_without_a_metric_is_on_each_tasks_own(folder: Path) -> None:
    verdict = weighed(folder, "swav", "imagenet", "")
    assert [one.task for one in verdict.parts[0].differences] == ["shenzhen", "montgomery"]
    assert (verdict.verdict, verdict.notes, verdict.unit) == ("supported", (), "")


def test_published_numbers_of_a_claim_are_those_of_its_metric() -> None:
    rows = [
        row("swav", "a", 0.9),
        row("swav", "b", 0.2, metric="Brier score %"),
        row("swav", "c", 0.8, metric="Dice %"),
    ]
    assert claims.about(claim(), rows) == rows
    assert [one.task for one in claims.about(replace(claim(), metric="dice"), rows)] == ["c"]
    assert [(one.task, one.mean) for one in claims.about(replace(claim(), metric="brier"), rows)] == [("b", -0.2)]


@pytest.mark.parametrize("name", ["params.yaml", "presets/paper.yaml"])
def test_the_claims_of_the_parameter_files_pass(top: Path, name: str) -> None:
    parameters = load(top / name)
    claims.check(parameters.claims, list(parameters.tasks))


def test_published_means_are_compared_by_welch() -> None:
    part = read(claim(), row("swav", "shenzhen", 0.9, 0.02, 4), row("imagenet", "shenzhen", 0.8, 0.03, 9))
    va, vb = 0.02**2 / 4, 0.03**2 / 9
    df = (va + vb) ** 2 / (va**2 / 3 + vb**2 / 8)
    half = stats.t.ppf(0.975, df) * (va + vb) ** 0.5
    assert interval(part) == pytest.approx((0.1 - half, 0.1 + half))
    [one] = part.differences
    assert (one.n, one.method) == (4, "published means")


def test_a_published_family_is_one_member_for_all_tasks_at_a_corrected_level() -> None:
    rows = [row("imagenet", "a", 0.8), row("imagenet", "b", 0.8)]
    rows += [row("swav", "a", 0.90), row("swav", "b", 0.86), row("byol", "a", 0.84), row("byol", "b", 0.89)]
    part = read(claim("self-supervised"), *rows)
    alone = read(claim("swav"), *rows, alpha=0.05 / 2)
    assert [one.better for one in part.differences] == [("swav",), ("swav",)]  # byol is the best on b
    assert part.alpha == 0.05 / 2
    assert interval(part) == interval(alone)
    assert "chosen among 2 by the published test scores, so the level is 0.05 / 2" in part.notes[0]


def test_the_hardest_member_of_a_published_family_is_the_opponent() -> None:
    rows = [row("imagenet", "a", 0.8), row("swav", "a", 0.7), row("byol", "a", 0.75)]
    [one] = read(claim("imagenet", ["self-supervised"]), *rows).differences
    assert one.than == ("byol",)


def test_a_member_with_fewer_tasks_does_not_stand_for_a_published_family() -> None:
    rows = [row("imagenet", "a", 0.8), row("imagenet", "b", 0.8)]
    rows += [row("swav", "a", 0.99), row("byol", "a", 0.85), row("byol", "b", 0.85)]
    part = read(claim("self-supervised"), *rows)
    assert [one.better for one in part.differences] == [("byol",), ("byol",)]


@pytest.mark.parametrize(
    ("rows", "note"),
    [
        ([row("imagenet", "a", 0.8)], "no self-supervised on a"),
        ([row("swav", "a", 0.8)], "no imagenet on a"),
        ([row("swav", "a", 0.8, None), row("imagenet", "a", 0.8)], "no published std of swav on a"),
    ],
)
def test_what_a_published_table_lacks_is_named(rows: list[Published], note: str) -> None:
    part = read(claim("self-supervised"), *rows)
    assert part.verdict == "not testable"
    assert note in part.notes


def test_published_differences_are_no_scores() -> None:
    rows = [row("swav", "a", 0.1, metric="AUC difference"), row("imagenet", "a", 0.1, metric="AUC difference")]
    assert read(claim(), *rows).verdict == "not testable"


def test_numbers_of_two_papers_are_refused() -> None:
    with pytest.raises(UserError, match="one paper, got 2"):
        on_published(claim(), [row("swav", "a", 0.9), row("swav", "a", 0.9, paper="B")], alpha=0.05)
    with pytest.raises(UserError, match="one paper, got 0"):
        on_published(claim(), [], alpha=0.05)


def test_an_assumed_n_and_a_digitised_number_are_said() -> None:
    rows = [row("swav", "a", 0.9, n_stated=False), row("imagenet", "a", 0.8), row("imagenet", "b", 0.8)]
    verdict = on_published(claim(), [*rows, row("swav", "b", 0.9, digitised=True)], alpha=0.05)
    assert verdict.notes == ("n = 5 runs per mean is assumed, not stated",)
    assert verdict.paper == "A"
    assert {one.task: one.digitised for one in verdict.parts[0].differences} == {"a": False, "b": True}
    assert verdict.parts[0].digitised


# The three claims of the 2021 paper, worked out a second time from the printed file, in percent and cell by cell.

GROUPS = {"DXC14": "nih", "PXS": "nih", "DXC5": "chexpert", "TXC": "shenzhen", "ECC": "pe", "LXS": "lung", "VFS": "eye"}
Cells = dict[tuple[str, str], tuple[float, float]]


def cells(top: Path) -> Cells:
    """Mean and std of each name and task: the printed ones, else the first."""
    with (top / "presets/paper_results.csv").open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda line: line["source"].startswith("DIGITISED"))
    found: Cells = {}
    for line in rows:
        key = line["initialization"].removesuffix(" baseline line of SSL figure"), line["task"]
        found.setdefault(key, (float(line["mean"]), float(line["std"])))
    return found


def by_hand(found: Cells, weights: Mapping[tuple[str, str], float], alpha: float = 0.05) -> tuple[float, float, float]:
    """Estimate and ends of the interval of a weighted sum of means at n = 5; errors of tasks of a group add up."""
    estimate = sum(weight * found[cell][0] for cell, weight in weights.items())
    errors: dict[str, tuple[float, float]] = {}
    for task in {task for _, task in weights}:
        variances = [weight**2 * found[cell][1] ** 2 / 5 for cell, weight in weights.items() if cell[1] == task]
        df = sum(variances) ** 2 / sum(variance**2 / 4 for variance in variances)
        error, least = errors.get(GROUPS[task], (0.0, float("inf")))
        errors[GROUPS[task]] = error + sum(variances) ** 0.5, min(least, df)
    whole = sum(error**2 for error, _ in errors.values())
    df = whole**2 / sum(error**4 / own for error, own in errors.values())
    half = stats.t.ppf(1 - alpha / 2, df) * whole**0.5
    return estimate / 100, (estimate - half) / 100, (estimate + half) / 100


def shares(tasks: Sequence[str]) -> dict[str, float]:
    labels = [GROUPS[task] for task in tasks]
    return {task: 1 / len(set(labels)) / labels.count(GROUPS[task]) for task in tasks}


def paper(top: Path, name: str) -> Verdict:
    rows = published.read(top / "presets/paper_results.csv", n=5)
    return on_published(load(top / "presets/paper.yaml").claims[name], rows, alpha=0.05)


def numbers(part: Part) -> tuple[float, float, float]:
    assert part.estimate is not None
    return part.estimate, *interval(part)


BASE = "ImageNet (supervised)"


def test_published_claim_1_granularity(top: Path) -> None:
    found = cells(top)
    parts = dict.fromkeys(("PXS", "LXS", "VFS"), 1 / 3) | dict.fromkeys(("DXC14", "DXC5", "TXC", "ECC"), -1 / 4)
    weights = {("iNat2021 (supervised)", task): weight for task, weight in parts.items()}
    weights |= {(BASE, task): -weight for task, weight in parts.items()}
    verdict = paper(top, "granularity")
    [part] = verdict.parts
    assert numbers(part) == pytest.approx(by_hand(found, weights))
    assert numbers(part) == pytest.approx((0.00695, -0.00013, 0.01403), abs=1e-5)
    assert (verdict.verdict, part.digitised, part.contaminated, part.groups) == ("undecided", True, False, 6)


def test_published_claim_2_self_supervision(top: Path) -> None:
    found = cells(top)
    methods = sorted(
        {name for name, task in found if (name, "ECC") in found} - {BASE, "Scratch", "iNat2021 (supervised)"}
    )
    assert len(methods) == 14
    tried = {}
    for name in methods:
        weights = {(name, task): share for task, share in shares(list(GROUPS)).items()}
        weights |= {(BASE, task): -share for task, share in shares(list(GROUPS)).items()}
        tried[name] = by_hand(found, weights, alpha=0.05 / 14)
    verdict = paper(top, "self-supervision")
    [part] = verdict.parts
    assert max(tried, key=lambda name: tried[name][0]) == "SeLa-v2"
    assert {one.better for one in part.differences} == {("sela-v2",)}
    assert numbers(part) == pytest.approx(tried["SeLa-v2"])
    assert numbers(part) == pytest.approx((0.00575, 0.00199, 0.00951), abs=1e-5)
    assert (verdict.verdict, part.digitised, part.contaminated) == ("supported", True, False)
    assert part.alpha == pytest.approx(0.05 / 14)


def test_published_claim_3_continual_pre_training(top: Path) -> None:
    found = cells(top)
    per_task = shares(["DXC14", "DXC5", "TXC", "PXS", "LXS"])
    trained = {task: ["ChestX-ray14", "CheXpert"] for task in per_task} | {
        "DXC14": ["CheXpert"],
        "DXC5": ["ChestX-ray14"],
        "PXS": ["CheXpert"],  # its images are ChestX-ray14's
    }
    better = {(f"ImageNet->{x}", t): s / len(trained[t]) for t, s in per_task.items() for x in trained[t]}
    medical = {(f"{x} (in-domain)", t): -s / len(trained[t]) for t, s in per_task.items() for x in trained[t]}
    verdict = paper(top, "continual pre-training")
    first, second = verdict.parts
    assert numbers(first) == pytest.approx(by_hand(found, better | {(BASE, t): -s for t, s in per_task.items()}))
    assert numbers(first) == pytest.approx((0.00840, 0.00541, 0.01139), abs=1e-5)
    assert numbers(second) == pytest.approx(by_hand(found, better | medical))
    assert numbers(second) == pytest.approx((0.00282, 0.00070, 0.00495), abs=1e-5)
    assert [part.verdict for part in verdict.parts] == ["supported", "supported"] == [verdict.verdict] * 2
    assert not first.digitised
    assert not first.contaminated
    assert any(
        "left out on siim, because contaminated:" in note and "imagenet+chestxray14" in note for note in verdict.notes
    )
    assert first.notes == ("no imagenet+X on drive, rsna_pe",)


def simulated(rng: np.random.Generator, tasks: int, seeds: int) -> list[TaskScores]:
    """Draws runs of two equal inits: patients and seeds are random and crossed, images add noise."""
    drawn = []
    for task in range(tasks):
        patients, per_seed = rng.normal(0, 0.2, (2, 1, 60)), rng.normal(0, 0.02, (2, seeds, 1))
        table = 0.8 + patients + per_seed + rng.normal(0, 0.3, (2, seeds, 60))
        drawn.append(with_patients(f"t{task}", table[0], table[1]))
    return drawn


@pytest.mark.slow
@pytest.mark.parametrize(("tasks", "seeds"), [(1, 3), (2, 3), (2, 5), (6, 3)])
def test_the_interval_over_tasks_covers_the_truth(tasks: int, seeds: int) -> None:
    rng = np.random.default_rng(tasks * 10 + seeds)
    ends = [interval(weigh(claim(), *simulated(rng, tasks, seeds))) for _ in range(1000)]
    assert 0.93 < np.mean([low <= 0 <= high for low, high in ends]) < 0.985


@pytest.mark.slow
def test_a_published_family_of_equals_is_seldom_called_better() -> None:
    rng = np.random.default_rng(0)
    family = ["swav", "byol", "moco-v1", "moco-v2", "pirl", "insdis", "infomin", "sela-v2"]
    wrong = 0
    for _ in range(300):
        draws = {(init, task): rng.normal(0.8, 0.01, 5) for init in [*family, "imagenet"] for task in "abcdef"}
        rows = [row(init, task, float(d.mean()), float(d.std(ddof=1))) for (init, task), d in draws.items()]
        wrong += read(claim("self-supervised"), *rows).verdict == "supported"
    assert wrong / 300 < 0.05  # 0.025 is the law; the best member of each task would come to 0.4
