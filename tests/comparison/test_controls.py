"""What is said of controls: of null benchmarks nearly never an alarm, of planted leaks one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from medtransfer import params
from medtransfer.comparison import controls, findings, record
from medtransfer.comparison.answers import Answer
from medtransfer.comparison.cells import Cell
from medtransfer.comparison.controls import Controls
from medtransfer.comparison.findings import Findings
from medtransfer.comparison.patients import Evidence
from medtransfer.report.sections.controls import _alarm_notes, _bare_notes
from medtransfer.report.sections.controls import controls as sections
from medtransfer.results.result import read_result
from medtransfer.statistics.contributions import Predictions
from medtransfer.statistics.metrics import METRICS
from medtransfer.training import probes
from tests import simulated
from tests.support import results

ROOT = Path(__file__).parents[2]
HERE = params.load(ROOT / "params.yaml")
RANDOM, IMAGENET, SWAV = "random@resnet50", "imagenet@resnet50", "swav@resnet50"
TASKS = ("shenzhen", "montgomery")
ALL = ("prior", "permuted", "random-frozen", "texture")
Array = npt.NDArray[Any]


def compared(folder: Path, asked: Any, seeds: Any = (0, 1, 2), inits: Any = (RANDOM, IMAGENET, SWAV)) -> Findings:
    benchmark = params.Benchmark(inits=inits, tasks=TASKS, seeds=seeds, recipes=("fixed",), controls=asked)
    model = dataclasses.replace(HERE.model, backbone="resnet50")
    settings = dataclasses.replace(HERE.comparison, resamples=0)
    here = dataclasses.replace(HERE, comparison=settings, benchmark=benchmark, model=model)
    return findings.find(folder, benchmark, here, ROOT, IMAGENET)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("controls") / "cells"
    results.write(folder, {RANDOM: -1.0, IMAGENET: 0.0, SWAV: 1.5}, TASKS, range(3))
    results.write(folder, {"none": -1.5}, TASKS, range(3), protocol="prior", seed_std=0.0)
    results.write(folder, {"none": 0.3}, TASKS, range(3), protocol="texture", seed_std=0.0)
    results.write(folder, {RANDOM: -1.2}, TASKS, range(3), protocol="linear")
    results.write(folder, {IMAGENET: 2.0}, TASKS, range(3), protocol="permuted")
    return folder


@pytest.fixture(scope="module")
def found(cells: Path) -> Findings:
    return compared(cells, ALL)


def test_tables_ranks_and_contrasts_hold_no_control(cells: Path, found: Findings) -> None:
    without = compared(cells, ())
    assert without.controls is None
    assert {one.protocol for one in (*found.results, *found.beside)} == {"finetune"}
    for name in ("rows", "results", "beside", "ranks", "points", "agreements", "contrasts"):
        assert repr(getattr(found, name)) == repr(getattr(without, name)), name
    assert (found.left_out, without.left_out) == (0, 24)
    assert "benchmark.controls" not in record.comparison_run(without)["params"]
    listed = {(r["init"], r["protocol"]) for r in record.runs(record.every_run(found))}
    assert {("none", "prior"), ("none", "texture"), (RANDOM, "linear"), (IMAGENET, "permuted")} < listed


def test_each_control_has_its_score_of_a_task(cells: Path, found: Findings) -> None:
    assert found.controls is not None
    said = {(point.task, control): point.mean for control, point in found.controls.points}
    assert list(said) == [(task, control) for task in TASKS for control in ALL]
    own = [read_result(path) for path in sorted(cells.glob("shenzhen/*/cell.json"))]
    mean = np.mean([one.scores["test_auc"] for one in own if one.protocol == "texture"])
    assert said["shenzhen", "texture"] == pytest.approx(float(mean))


def test_the_answer_names_what_is_not_shown_to_beat_the_best_control(found: Findings) -> None:
    text = {answer.scope: answer.text for answer in found.answers}
    assert "imagenet on shenzhen is not shown to be better than texture features." in text["shenzhen"]
    assert "imagenet on montgomery is not shown to be better than texture features." in text["all tasks"]
    assert "swav on" not in "".join(text.values())
    assert found.controls is not None
    assert {(one.task, one.init) for one in found.controls.against} == {(t, i) for t in TASKS for i in (IMAGENET, SWAV)}
    assert {one.control for one in found.controls.against} == {"texture"}


def test_what_labels_drawn_anew_find_stands_before_the_answer(found: Findings) -> None:
    text = {answer.scope: answer.text for answer in found.answers}
    assert text["shenzhen"].startswith("Alarm: Labels drawn anew among patients were still predicted on shenzhen (AUC ")
    assert text["montgomery"].startswith("Alarm: Masks drawn anew among patients were still met on montgomery (Dice ")
    assert "nothing is 50.00): the pipeline leaks." in text["shenzhen"]


def test_the_report_has_a_line_for_each(found: Findings) -> None:
    head, against = sections(found)
    assert head.grid is not None
    assert [(row[0].text, row[1].text) for row in head.grid.rows] == [(t, c) for t in TASKS for c in ALL]
    assert against.grid is not None
    shown = {(row[0].text, row[1].text): row[6].text for row in against.grid.rows}
    assert shown["shenzhen", SWAV] == "all"
    assert shown["shenzhen", IMAGENET] == "not shown: texture features"


def test_masks_have_no_alarm_without_the_mean_mask_and_what_is_missing_is_named(cells: Path) -> None:
    one = compared(cells, ("permuted",))
    assert one.controls is not None
    alarms = {alarm.task: alarm for alarm in one.controls.alarms}
    assert alarms["shenzhen"].raised
    assert not alarms["montgomery"].raised
    assert "which is not there" in alarms["montgomery"].note
    more = compared(cells, ALL, seeds=(0, 1, 2, 3), inits=(IMAGENET,))
    assert more.controls is not None
    assert "texture on shenzhen: no run of seed 3" in more.controls.missing


# Simulations


def cell(task: str, control: str, init: str, values: Array, kind: str = "binary", metric: str = "auc") -> Cell:
    row = simulated._row(task, init, values.mean(axis=1), values.mean(axis=1))
    run: Any = type("Run", (), {"metric": metric, "kind": kind, "labels": 1, "undefined": ()})()
    return Cell(
        task=task, init=init, protocol=control, fraction="1", labels=60, row=row, values=values, runs=(run,)
    )  # fmt: skip


def said(main: list[Cell], kept: dict[str, list[Cell]], tasks: list[str], coarse: float = 0.0) -> Controls:
    benchmark = dataclasses.replace(HERE.benchmark, tasks=tuple(tasks), inits=(IMAGENET,), controls=tuple(kept))  # type: ignore[arg-type]  # names of controls
    evidence = {task: Evidence(task=task, unit="patient", coarseness=coarse, patients=60, cases=24) for task in tasks}
    return controls.weigh(benchmark, main, kept, evidence, 0.05, 0.95)


def learnt(rng: np.random.Generator, seeds: int, truly: float = 0.0, patients: int = 60) -> Array:
    """Learns labels drawn anew, `truly` of which are not, from features that predict the true ones well.

    So each permutation has luck of its own, which test patients do not show: it lies in the seeds.
    """
    truth = rng.random(2 * patients) < 0.4
    features = rng.standard_normal((2 * patients, 4)) + 1.5 * truth[:, None] * np.array([1, 1, 0, 0])
    train, test = np.arange(patients), np.arange(patients, 2 * patients)
    answers = []
    for _ in range(seeds):
        labels = np.where(rng.random(patients) < truly, truth[train], rng.permutation(truth[train]))
        (layer,) = probes.linear(features[train], labels[:, None].astype(np.float32), [1.0])
        answers.append(1 / (1 + np.exp(-layer.logits(features[test]))))
    given = Predictions(
        patients=test, labels=("x",), truth=truth[test, None].astype(np.int8), answers=np.stack(answers)
    )
    take = METRICS["auc"].per_patient
    assert take is not None
    parts = take(given)
    assert not isinstance(parts, str)
    return np.asarray(parts.values)


@pytest.mark.parametrize(
    ("seeds", "truly", "least", "most"),
    [
        (3, 0.0, 0, 5),
        pytest.param(3, 0.6, 50, 100, marks=pytest.mark.slow),
        pytest.param(5, 0.6, 90, 100, marks=pytest.mark.slow),
    ],
)
def test_null_benchmarks_raise_an_alarm_in_at_most_five_of_a_hundred(
    seeds: int, truly: float, least: int, most: int
) -> None:
    raised = 0
    for number in range(100):
        rng = np.random.default_rng([number, 1])
        tasks = ["a", "b"]
        kept = {"permuted": [cell(task, "permuted", IMAGENET, learnt(rng, seeds, truly)) for task in tasks]}
        raised += any(alarm.raised for alarm in said([], kept, tasks).alarms)
    print(f"{seeds} seeds, {truly:g} of the labels true: {raised} of 100 raise an alarm")
    assert least <= raised <= most


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "tasks"), [(2, 1), (3, 3), (5, 3), (10, 1)])
def test_null_alarms_by_seeds_and_tasks(seeds: int, tasks: int) -> None:
    raised = 0
    for number in range(400):
        rng = np.random.default_rng([number, seeds, tasks])
        names = [f"t{k}" for k in range(tasks)]
        kept = {"permuted": [cell(task, "permuted", IMAGENET, learnt(rng, seeds)) for task in names]}
        raised += any(alarm.raised for alarm in said([], kept, names).alarms)
    print(f"{seeds} seeds, {tasks} tasks: {raised / 400:.3f}")
    assert raised / 400 <= 0.05


def test_masks_are_weighed_against_the_mean_mask() -> None:
    raised = []
    for gain in (0.0, 0.05):
        count = 0
        for number in range(100):
            rng = np.random.default_rng([number, 2])
            mean = 0.8 + 0.05 * rng.standard_normal(40)
            prior = cell("m", "prior", "none", np.tile(mean, (3, 1)), "segmentation", "dice")
            drawn = mean + gain - 0.01 + 0.01 * rng.standard_normal((3, 1)) + 0.01 * rng.standard_normal((3, 40))
            permuted = cell("m", "permuted", IMAGENET, drawn, "segmentation", "dice")
            count += said([], {"prior": [prior], "permuted": [permuted]}, ["m"]).alarms[0].raised
        raised.append(count)
    assert raised[0] <= 5
    assert raised[1] >= 80


def test_an_init_that_is_no_better_than_a_control_is_nearly_never_said_to_be() -> None:
    """Four inits on two tasks, as good as the best of two controls: all of them are named in 95 of 100."""
    wrong = 0
    for number in range(100):
        rng = np.random.default_rng([number, 3])
        main, kept = [], dict[str, list[Cell]]({"prior": [], "texture": []})
        for task in ("a", "b"):
            hard = 0.1 * rng.standard_normal(60)
            for init in (IMAGENET, SWAV, "moco@resnet50", "dino@resnet50"):
                own = 0.8 + hard + 0.2 * rng.standard_normal(60)
                luck = 0.02 * rng.standard_normal((3, 1)) + 0.05 * rng.standard_normal((3, 60))
                main.append(cell(task, "finetune", init, own + luck))
            still = 0.8 + hard + 0.2 * rng.standard_normal(60)
            kept["texture"].append(cell(task, "texture", "none", np.tile(still, (3, 1))))
            kept["prior"].append(cell(task, "prior", "none", np.full((3, 60), 0.5)))
        found = said(main, kept, ["a", "b"])
        wrong += any(not one.unbeaten for one in found.against)
    assert wrong <= 5


def test_of_a_chosen_best_control_nothing_is_gained_and_one_seed_shows_nothing() -> None:
    rng = np.random.default_rng(5)
    own = cell("a", "finetune", IMAGENET, 0.9 + 0.01 * rng.standard_normal((3, 50)))
    kept = {"texture": [cell("a", "texture", "none", np.tile(0.5 + 0.01 * rng.standard_normal(50), (3, 1)))]}
    (one,) = said([own], kept, ["a"]).against
    assert one.unbeaten == ()
    assert one.low is not None
    assert one.low < one.estimate < 0.45
    alone = cell("a", "finetune", IMAGENET, own.values[:1])
    still = {"texture": [cell("a", "texture", "none", kept["texture"][0].values[:1])]}
    (one,) = said([alone], still, ["a"]).against
    assert (one.p, one.unbeaten) == (None, ("texture",))


def test_sentences_name_inits_of_one_fate_together() -> None:
    rng = np.random.default_rng(6)
    values = 0.6 + 0.1 * rng.standard_normal((3, 50))
    main = [cell("a", "finetune", init, values) for init in (IMAGENET, SWAV)]
    kept = {"texture": [cell("a", "texture", "none", values + 0.01)], "prior": [cell("a", "prior", "none", values)]}
    found = said(main, kept, ["a"])
    (answer,) = controls.told(found, [Answer(scope="a", verdict="none", text="No.")], (IMAGENET, SWAV))
    assert answer.text == (
        "No. imagenet and swav on a are not shown to be better than texture features or the label prior."
    )


def test_two_seeds_of_few_patients_say_that_they_can_raise_no_alarm() -> None:
    right = np.ones((2, 60))
    two = said([], {"permuted": [cell("a", "permuted", IMAGENET, right)]}, ["a"])
    (alarm,) = two.alarms
    assert (alarm.mean, alarm.raised) == (1.0, False)
    assert alarm.best_p == pytest.approx(alarm.p)  # it is the highest score that there is
    notes = _alarm_notes(two)
    assert "2 seeds can raise no alarm on a: even 100 in each would have p 0.069" in notes[1]
    three = said([], {"permuted": [cell("a", "permuted", IMAGENET, np.ones((3, 60)))]}, ["a"])
    assert three.alarms[0].raised
    assert not any("can raise no alarm" in note for note in _alarm_notes(three))


def test_a_score_without_an_interval_has_its_reason() -> None:
    rng = np.random.default_rng(7)
    kept = {
        "prior": [cell("a", "prior", "none", np.full((3, 50), 0.5))],
        "texture": [cell("a", "texture", "none", np.ones((3, 50)))],
        "random-frozen": [cell("a", "linear", RANDOM, 0.7 + 0.1 * rng.standard_normal((3, 50)))],
    }
    (note,) = _bare_notes(said([], kept, ["a"]))
    assert note.startswith("prior and texture on a: no interval, because all seeds have the same score")
    alone = {"texture": [cell("a", "texture", "none", rng.standard_normal((1, 50)))]}
    assert _bare_notes(said([], alone, ["a"])) == ["A single seed has no interval."]
