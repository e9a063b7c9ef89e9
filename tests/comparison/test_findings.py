"""What the comparison says of runs whose effects are known."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from medtransfer import params
from medtransfer.comparison import findings
from medtransfer.comparison.findings import Findings
from medtransfer.core.errors import UserError
from medtransfer.core.progress import Tell
from medtransfer.data import catalog
from medtransfer.report import write
from medtransfer.report.sections import answers, contrasts
from medtransfer.report.sections.scores import score_notes
from tests.support import results

ROOT = Path(__file__).parents[2]
RANDOM, IMAGENET, SWAV, TWIN = "random@resnet50", "imagenet@resnet50", "swav@resnet50", "barlow-twins@resnet50"
TASKS = ("shenzhen", "montgomery")


def compared(
    folder: Path,
    effects: Mapping[str, float],
    *,
    tasks: Sequence[str] = TASKS,
    seeds: Sequence[int] = range(5),
    reference: str = IMAGENET,
    resamples: int = 100,
    make: bool = True,
    as_published: bool = False,
    **options: Any,
) -> Findings:
    if make:
        results.write(folder, effects, tasks, seeds, **options)
    changes = {"comparison.resamples": str(resamples), "comparison.as_published": str(as_published).lower()}
    here = params.load(ROOT / "params.yaml", changes)
    benchmark = params.Benchmark(inits=tuple(effects), tasks=tuple(tasks), seeds=tuple(seeds), recipes=("fixed",))
    return findings.find(folder, benchmark, here, ROOT, reference)


def contrast(found: Findings, task: str, init: str) -> Any:
    return next(c for c in found.against_reference(task) if c.init == init)


# What is said


def test_one_that_is_much_better_is_said_to_be(tmp_path: Path) -> None:
    found = compared(tmp_path, {RANDOM: 0.0, IMAGENET: 0.5, SWAV: 1.5})
    for task in TASKS:
        assert contrast(found, task, SWAV).word == "better by more than the margin"
        assert contrast(found, task, SWAV).estimate > 0 > contrast(found, task, RANDOM).estimate
    assert [(answer.scope, answer.verdict, answer.chosen) for answer in found.answers] == [
        ("all tasks", "decided", SWAV), ("shenzhen", "decided", SWAV), ("montgomery", "decided", SWAV),
    ]  # fmt: skip
    assert found.answers[0].text.startswith("Start from swav: better than random and imagenet by more than the tasks'")
    assert found.answers[1].text.startswith("Start from swav: better than random and imagenet by more than 1 point.")
    assert found.columns["shenzhen"].candidates == found.answers[1].candidates == (SWAV,)
    verdict = found.claims["self-supervision"][0]
    assert (verdict.verdict, verdict.backbone) == ("supported", "resnet50")


def test_it_tells_which_task_and_part_it_is_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = list[tuple[str, str, float]]()

    @contextlib.contextmanager
    def parts(words: str) -> Iterator[Tell]:
        yield lambda part, share: told.append((words, part, share))

    monkeypatch.setattr("medtransfer.core.progress.parts", parts)
    compared(tmp_path, {RANDOM: 0.3, IMAGENET: 0.3}, seeds=range(2))
    assert {words for words, _, _ in told} == {"intervals over patients"}  # nothing else is there to do
    assert [part for _, part, _ in told] == [
        f"{task}: {part}"
        for task in TASKS
        for part in (
            "reading 4 runs", "what each patient adds",
            *(("calibration, 1 of 2", "calibration, 2 of 2") if task == "shenzhen" else ()),
            "bootstrap of 1 label: 100 of 100 resamples",
            *(("bootstrap of 1 label: without each patient",) if task == "shenzhen" else
              ("bootstrap of 1 label: without each patient, 200 of 200",)),
        )
    ]  # fmt: skip
    shares = [share for _, _, share in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1] <= 1.0) == (0.0, True)


def test_what_nothing_was_shown_of_is_said_without_a_table_of_it(tmp_path: Path) -> None:
    found = compared(tmp_path, {RANDOM: 0.3, IMAGENET: 0.3}, seeds=range(2), resamples=0)
    (words, *_) = score_notes(found)
    assert "All that were compared are bold: of none was it shown that another is better;" in words
    section = answers.claims(found)
    assert section is not None
    assert section.folded
    assert section.lead == (
        "No claim can be tested on these runs (granularity, self-supervision and continual pre-training): why, and "
        "what published numbers say of them, is below.",
    )
    (_, table) = contrasts.against_reference(found)[:2]
    ends = [entry.text for entry in (table.grid.rows[0][2], table.grid.rows[0][4])] if table.grid else []
    assert all(-100 <= float(end) <= 100 for text in ends for end in text.split(" to "))
    assert "ends where a difference of two scores can" in contrasts.against_reference(found)[0].notes[0]


@pytest.mark.slow
def test_equal_weights_under_two_names_are_never_separated(tmp_path: Path) -> None:
    effects = {RANDOM: 0.0, IMAGENET: 0.5, SWAV: 0.5}
    found = compared(
        tmp_path, effects, alike={SWAV: IMAGENET}, tasks=(*TASKS, "chestxray14", "chexpert", "drive", "siim")
    )
    for task in found.benchmark.tasks:
        twin = contrast(found, task, SWAV)
        assert (twin.estimate, twin.p, twin.better, twin.worse) == (0, 1, False, False)
        assert {IMAGENET, SWAV} <= {*found.columns[task].candidates}
        rows = {row.init: row for row in found.of_task(task)}
        assert (rows[IMAGENET].best, rows[SWAV].separated) == (True, False)
        answer = next(a for a in found.answers if a.scope == task)
        assert {IMAGENET, SWAV} <= {*answer.candidates}
        assert "On val imagenet and swav tie" in answer.text or answer.verdict == "decided" or answer.chosen == RANDOM
    places = {init: found.ranks.mean[k] for k, init in enumerate(found.ranked)}
    assert places[IMAGENET] == places[SWAV] == 1.5
    assert found.claims["self-supervision"][0].verdict == "undecided"
    write.write(found, params.load(ROOT / "presets/paper.yaml"), tmp_path, tmp_path / "out")
    lines = [
        line for line in (tmp_path / "out/contrasts.csv").read_text().splitlines() if SWAV in line and IMAGENET in line
    ]
    assert len(lines) == 7  # six tasks, and all of them
    assert all(",1.0,1.0," in line for line in lines)  # p and adjusted p


def test_what_cannot_be_told_is_undecided(tmp_path: Path) -> None:
    found = compared(tmp_path, {IMAGENET: 0.5, SWAV: 0.5}, cases=60, seeds=range(3))
    answer = found.answers[1]
    assert answer.verdict == "undecided"
    assert answer.text.startswith("These data do not choose between the two: imagenet and swav.")
    assert "seeds in total" in answer.text or "takes more test patients" in answer.text
    assert answer.text.endswith("This rests on 3 seeds and 60 test patients, for these training images.")


def test_the_choice_is_made_on_val(tmp_path: Path) -> None:
    results.write(tmp_path, {IMAGENET: 0.5, SWAV: 1.5}, TASKS, range(5))
    for path in tmp_path.glob("*/*/cell.json"):
        cell = json.loads(path.read_text())
        cell["scores"][f"best_val_{catalog.TASKS[cell['task']].metric}"] = 0.9 if cell["init"] == IMAGENET else 0.8
        path.write_text(json.dumps(cell))
    found = compared(tmp_path, {IMAGENET: 0.5, SWAV: 1.5}, seeds=range(5), make=False)
    # What was shown to be worse on test is no pick, however good it is on val.
    assert {answer.chosen for answer in found.answers} == {SWAV}
    assert found.columns["shenzhen"].candidates == (SWAV,)
    # The rule "take the best on val" took imagenet, so its score is printed.
    rows = {row.init: row for row in found.of_task("shenzhen")}
    assert found.answers[1].score == pytest.approx(np.mean(rows[IMAGENET].scores))


def test_few_patients_widen_the_interval(tmp_path: Path) -> None:
    wide = compared(tmp_path / "few", {IMAGENET: 0.5, SWAV: 0.6}, cases=50, tasks=("montgomery",))
    narrow = compared(tmp_path / "many", {IMAGENET: 0.5, SWAV: 0.6}, cases=2000, tasks=("montgomery",))
    few, many = contrast(wide, "montgomery", SWAV), contrast(narrow, "montgomery", SWAV)
    assert few.patient_error > 3 * many.patient_error
    assert "that takes more test patients" in wide.answers[-1].text
    assert (few.patients, many.patients) == (50, 2000)


def test_images_of_one_patient_are_not_independent(tmp_path: Path) -> None:
    single = compared(tmp_path / "one", {IMAGENET: 0.5}, cases=400, tasks=("shenzhen",), resamples=500)
    several = compared(
        tmp_path / "ten", {IMAGENET: 0.5}, cases=400, images_per_patient=10, tasks=("shenzhen",), resamples=500
    )
    assert (single.evidence["shenzhen"].patients, several.evidence["shenzhen"].patients) == (400, 40)
    assert several.evidence["shenzhen"].images == 400


def test_the_bootstrap_interval_holds_the_score(tmp_path: Path) -> None:
    found = compared(tmp_path, {RANDOM: 0.0, IMAGENET: 0.5})
    for row in found.rows:
        interval = found.evidence[row.task].intervals[row.init]
        assert row.summary is not None
        assert interval.estimate == pytest.approx(row.summary.mean, abs=1e-6)
        assert interval.low is not None
        assert interval.high is not None
        assert interval.low < row.summary.mean < interval.high


def test_without_resamples_there_are_no_intervals_of_single_scores(tmp_path: Path) -> None:
    found = compared(tmp_path, {RANDOM: 0.0, IMAGENET: 0.5}, resamples=0)
    assert not found.evidence["shenzhen"].intervals
    assert "comparison.resamples is 0" in found.evidence["shenzhen"].note
    assert contrast(found, "shenzhen", RANDOM).basis == "seeds and patients"


def test_an_init_without_all_its_runs_is_in_no_test(tmp_path: Path) -> None:
    results.write(tmp_path, {RANDOM: 0.0, IMAGENET: 0.5, SWAV: 1.5}, TASKS, range(3))
    for path in tmp_path.glob("shenzhen/*/cell.json"):
        cell = json.loads(path.read_text())
        if (cell["init"], cell["seed"]) == (SWAV, 1):
            path.unlink()
    found = compared(tmp_path, {RANDOM: 0.0, IMAGENET: 0.5, SWAV: 1.5}, seeds=range(3), make=False)
    row = next(row for row in found.of_task("shenzhen") if row.init == SWAV)
    assert (row.summary, row.missing) == (None, (1,))
    assert all(SWAV not in (c.init, c.against) for c in found.contrasts if c.task == "shenzhen")
    assert found.columns["shenzhen"].inits == (RANDOM, IMAGENET)
    assert found.ranks.tasks == (1,)  # the task that all share


def test_the_reference_may_have_no_runs(tmp_path: Path) -> None:
    found = compared(tmp_path, {RANDOM: 0.0, SWAV: 0.5})
    assert not found.against_reference("shenzhen")
    assert [(c.init, c.against) for c in found.contrasts if c.task == "shenzhen"] == [(SWAV, RANDOM)]
    assert found.claims["self-supervision"][0].verdict == "not testable"


def test_tasks_that_share_images_count_once(tmp_path: Path) -> None:
    found = compared(tmp_path, {RANDOM: 0.0, IMAGENET: 0.5}, tasks=("chestxray14", "siim", "shenzhen"), seeds=range(3))
    assert found.ranks.groups == ("chestxray14", "shenzhen")


def test_every_claim_is_weighed_on_published_numbers_too(tmp_path: Path) -> None:
    found = compared(tmp_path, {RANDOM: 0.0, IMAGENET: 0.5})
    assert set(found.claims) == set(params.load(ROOT / "params.yaml").claims)
    for verdicts in found.claims.values():
        assert verdicts[-1].paper.startswith("2021")


# Contaminated runs

ALL = (*TASKS, "siim")
CONTINUED = "imagenet@resnet50+chestxray14"
EFFECTS = {RANDOM: 0.0, IMAGENET: 0.5, CONTINUED: 1.5}


def contaminated(folder: Path, *inits: str, **options: Any) -> Findings:
    """Compares on three tasks, of which SIIM has runs with the mark."""
    clean = {init: effect for init, effect in EFFECTS.items() if init not in inits}
    results.write(folder, EFFECTS, TASKS, range(5))
    results.write(folder, clean, ("siim",), range(5))
    marked = {init: EFFECTS[init] for init in inits}
    results.write(folder, marked, ("siim",), range(5), marks=["synthetic", "contaminated"])
    return compared(folder, EFFECTS, tasks=ALL, make=False, **options)


def test_a_contaminated_run_is_shown_and_in_no_comparison(tmp_path: Path) -> None:
    found = contaminated(tmp_path, CONTINUED)
    random, imagenet, continued = found.of_task("siim")
    assert continued.summary is not None
    assert continued.summary.mean > max(row.summary.mean for row in (random, imagenet) if row.summary)
    assert (continued.barred, continued.compared, continued.best) == (True, False, False)
    assert (continued.difference, continued.test, continued.separated) == (None, None, None)
    assert imagenet.best
    assert CONTINUED in found.evidence["siim"].intervals
    own = [contrast for contrast in found.contrasts if contrast.task == "siim"]
    assert own
    assert all(CONTINUED not in (contrast.init, contrast.against) for contrast in own)
    assert found.columns["siim"].inits == found.columns["all tasks"].inits == (RANDOM, IMAGENET)
    assert found.ranks.tasks == found.val_ranks.tasks == (0, 1)  # the tasks that all share
    verdict = found.claims["continual pre-training"][0]
    assert {one.task for part in verdict.parts for one in part.differences} == set(TASKS)
    answer = found.answers[-1]
    assert (answer.scope, answer.chosen) == ("siim", IMAGENET)
    assert answer.text.endswith("Not compared, because contaminated: imagenet+chestxray14.")


def test_on_the_other_tasks_the_same_init_is_compared(tmp_path: Path) -> None:
    found = contaminated(tmp_path, CONTINUED)
    assert all(contrast(found, task, CONTINUED).better for task in TASKS)
    assert all(found.columns[task].inits == tuple(EFFECTS) for task in TASKS)
    assert found.answers[1].chosen == CONTINUED


def test_as_published_the_contaminated_run_is_compared(tmp_path: Path) -> None:
    found = contaminated(tmp_path, CONTINUED, as_published=True)
    row = found.of_task("siim")[2]
    assert (row.marks, row.barred, row.best) == (("contaminated", "synthetic"), False, True)
    assert contrast(found, "siim", CONTINUED).better
    assert found.columns["siim"].inits == tuple(EFFECTS)
    assert found.ranks.tasks == (0, 1, 2)
    assert (found.answers[-1].chosen, "contaminated" in found.answers[-1].text) == (CONTINUED, False)


def test_with_a_contaminated_reference_nothing_is_compared_with_it(tmp_path: Path) -> None:
    found = contaminated(tmp_path, IMAGENET)
    assert not found.against_reference("siim")
    assert [(c.init, c.against) for c in found.contrasts if c.task == "siim"] == [(CONTINUED, RANDOM)]


def test_a_task_of_contaminated_runs_alone_has_no_answer(tmp_path: Path) -> None:
    found = contaminated(tmp_path, *EFFECTS)
    assert [row.best for row in found.of_task("siim")] == [False] * 3
    assert (found.answers[-1].verdict, found.answers[-1].chosen) == ("none", "")
    assert "no initialization free of contamination has all its runs" in found.answers[-1].text
    assert "siim" not in found.columns
    assert found.ranks.tasks == (0, 1)
    ranks = contrasts.over_tasks(found)
    assert ranks is not None
    assert "1 = best; over shenzhen, montgomery." in ranks.notes[0]


def test_of_a_benchmark_of_contaminated_runs_nothing_is_ranked(tmp_path: Path) -> None:
    results.write(tmp_path, EFFECTS, ("siim",), range(3), marks=["contaminated"])
    found = compared(tmp_path, EFFECTS, tasks=("siim",), seeds=range(3), make=False)
    assert (found.ranked, found.ranks.mean, found.contrasts) == ((), (), ())
    assert found.of_task("siim")[0].summary is not None


# Predictions that do not belong


def predictions(folder: Path, number: int = 1) -> Path:
    return sorted(folder.glob("shenzhen/*/predictions.parquet"))[number]


def test_missing_predictions_are_refused_by_name(tmp_path: Path) -> None:
    results.write(tmp_path, {RANDOM: 0.0, IMAGENET: 0.5}, TASKS, range(2))
    predictions(tmp_path).unlink()
    with pytest.raises(UserError, match=r"looked for the test predictions of shenzhen .* found none"):
        compared(tmp_path, {RANDOM: 0.0, IMAGENET: 0.5}, seeds=range(2), make=False)


def test_damaged_predictions_are_refused_by_name(tmp_path: Path) -> None:
    results.write(tmp_path, {RANDOM: 0.0, IMAGENET: 0.5}, TASKS, range(2))
    predictions(tmp_path).write_bytes(predictions(tmp_path).read_bytes()[:500])
    with pytest.raises(UserError, match=r"predictions\.parquet is damaged"):
        compared(tmp_path, {RANDOM: 0.0, IMAGENET: 0.5}, seeds=range(2), make=False)


def test_predictions_of_other_images_are_refused(tmp_path: Path) -> None:
    results.write(tmp_path, {RANDOM: 0.0, IMAGENET: 0.5}, TASKS, range(2))
    table = pd.read_parquet(predictions(tmp_path))
    table["id"] = table["id"].to_numpy()[::-1]
    table.to_parquet(predictions(tmp_path))
    with pytest.raises(UserError, match="were tested on other images, or in another order"):
        compared(tmp_path, {RANDOM: 0.0, IMAGENET: 0.5}, seeds=range(2), make=False)


def test_predictions_that_do_not_give_the_score_are_refused(tmp_path: Path) -> None:
    results.write(tmp_path, {RANDOM: 0.0, IMAGENET: 0.5}, TASKS, range(2))
    table = pd.read_parquet(predictions(tmp_path))
    table["probability.Tuberculosis"] = 1 - table["probability.Tuberculosis"]
    table.to_parquet(predictions(tmp_path))
    with pytest.raises(UserError, match=r"its predictions give auc .* its cell\.json says"):
        compared(tmp_path, {RANDOM: 0.0, IMAGENET: 0.5}, seeds=range(2), make=False)


def test_a_metric_without_patients_parts_rests_on_seeds(tmp_path: Path) -> None:
    found = compared(tmp_path, {RANDOM: 0.0, IMAGENET: 0.5}, tasks=("shenzhen",), metric="kappa", **SCORED)
    assert contrast(found, "shenzhen", RANDOM).basis == "seeds"
    assert "seeds alone count" in found.evidence["shenzhen"].note


def test_average_precision_rests_on_patients_too(tmp_path: Path) -> None:
    results.write(tmp_path, {RANDOM: 0.0, IMAGENET: 0.5}, ("shenzhen",), range(3))
    for path in tmp_path.glob("*/*/cell.json"):
        table = pd.read_parquet(path.parent / "predictions.parquet")
        score = average_precision_score(table["target.Tuberculosis"], table["probability.Tuberculosis"])
        names = {"test_average_precision": score, "best_val_average_precision": score}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"metric": "average_precision", "scores": names}))
    found = compared(tmp_path, {RANDOM: 0.0, IMAGENET: 0.5}, tasks=("shenzhen",), seeds=range(3), make=False)
    interval = found.evidence["shenzhen"].intervals[IMAGENET]
    assert interval.low is not None
    assert interval.low < interval.estimate
    assert contrast(found, "shenzhen", RANDOM).basis == "seeds and patients"
    scores = {row.init: row.scores for row in found.of_task("shenzhen")}
    assert found.evidence["shenzhen"].contributions[IMAGENET].mean(axis=1) == pytest.approx(scores[IMAGENET])


def test_the_answer_over_tasks_has_a_posterior(tmp_path: Path) -> None:
    tasks = ("shenzhen", "montgomery", "drive", "rsna_pe", "chexpert")
    found = compared(tmp_path, {IMAGENET: 0.5, SWAV: 1.5}, tasks=tasks, seeds=range(3))
    few = compared(tmp_path, {IMAGENET: 0.5, SWAV: 1.5}, tasks=tasks[:4], seeds=range(3)).posterior
    assert few is not None
    assert few.better is None
    assert found.posterior is not None
    assert found.posterior.better is not None
    assert found.posterior.better > 0.9
    assert compared(tmp_path, {IMAGENET: 0.5, RANDOM: 0.1}, tasks=tasks, seeds=range(3)).posterior is None


SCORED: dict[str, Any] = {"scores": {"test_kappa": 0.5, "best_val_kappa": 0.5}}


# Power


@pytest.mark.slow
def test_a_difference_is_found_end_to_end(tmp_path: Path) -> None:
    """A difference of four joint standard errors is found in nearly every benchmark, none in about 5 % of them."""
    hits = {0.0: 0, 0.4: 0}
    for effect in hits:
        for repeat in range(40):
            folder = tmp_path / f"{effect}-{repeat}"
            task = ("shenzhen", "montgomery", "drive", "siim")[repeat % 4]
            effects = {IMAGENET: 0.5 + repeat * 1e-9, SWAV: 0.5 + effect}
            results.write(folder, effects, (task,), range(repeat * 100, repeat * 100 + 5), cases=300)
            found = compared(
                folder, effects, tasks=(task,), seeds=range(repeat * 100, repeat * 100 + 5), resamples=0, make=False
            )
            hits[effect] += contrast(found, task, SWAV).better
    assert hits[0.4] >= 34
    assert hits[0.0] <= 5


@functools.cache
def small() -> params.Params:
    return params.load(ROOT / "params.yaml")


def test_a_claim_with_a_mistake_is_refused_before_work(tmp_path: Path) -> None:
    results.write(tmp_path, {RANDOM: 0.0, IMAGENET: 0.5}, TASKS, range(2))
    claim = dataclasses.replace(small().claims["granularity"], tasks=("segmentaton",))
    here = dataclasses.replace(small(), claims={"odd": claim})
    benchmark = params.Benchmark(inits=(RANDOM, IMAGENET), tasks=TASKS, seeds=(0, 1), recipes=("fixed",))
    with pytest.raises(UserError, match=r"segmentaton.*segmentation"):
        findings.find(tmp_path, benchmark, here, ROOT, IMAGENET)
