"""What promotion requires: what is measured, and when a bound counts as kept."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from medtransfer import params
from medtransfer.comparison import away, findings, requirements
from medtransfer.comparison.judged import judge
from medtransfer.comparison.requirements import Measured
from medtransfer.core.errors import UserError
from medtransfer.report.sections import requirements as section
from medtransfer.statistics.dice import dice
from medtransfer.statistics.seeds_and_patients import JointInterval, joint_interval
from tests.support import results

ROOT = Path(__file__).parents[2]
INITS = {"imagenet@resnet50": 0.5, "swav@resnet50": 1.5}
TASKS = ("shenzhen", "montgomery")


def find(folder: Path, require: str, seeds: range = range(3)) -> findings.Findings:
    changes = {"comparison.resamples": "0", "comparison.against": "[]", "promotion.require": require}
    here = params.load(ROOT / "params.yaml", changes)
    benchmark = params.Benchmark(inits=tuple(INITS), tasks=TASKS, seeds=tuple(seeds), recipes=("fixed",))
    return findings.find(folder, benchmark, here, ROOT, next(iter(INITS)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("cells")
    results.write(where, INITS, TASKS, range(3), cases=160, marks=[])
    for path in where.glob("shenzhen/*/predictions.parquet"):
        table = pd.read_parquet(path)
        table["group.sex"] = np.where(np.arange(len(table)) % 2 == 0, "F", "M")
        table.to_parquet(path, index=False)
    score(where, "shenzhen", "test_brier", 0.0)
    return where


def score(folder: Path, task: str, name: str, values: float) -> None:
    """Adds a score to every run of a task."""
    for path in folder.glob(f"{task}/*/cell.json"):
        cell = json.loads(path.read_text())
        path.write_text(json.dumps(cell | {"scores": cell["scores"] | {name: values}}))


def of(found: findings.Findings, init: str) -> dict[tuple[str, str], Measured]:
    return {(one.condition, one.place): one for one in found.required if one.init == init}


def interval(estimate: float, error: float, df: float = 30.0) -> JointInterval:
    return JointInterval(
        method="", estimate=estimate, level=0.95, seeds=31, patients=0, patient_error=0.0, seed_error=error, df=df
    )


def measured(estimate: float, bound: float, error: float = 0.01, at_most: bool = True) -> Measured:
    return Measured(
        condition="c", task="t", init="i", bound=bound, at_most=at_most, interval=interval(estimate, error)
    )  # fmt: skip


def test_each_condition_is_measured_as_the_findings_have_it(folder: Path) -> None:
    found = find(folder, "{calibration: 0.1, brier: 0.2, auc: 0.8, dice: 0.8, dice_pooled: 0.8, worst_group_drop: 0.2}")
    for init in INITS:
        mine = of(found, init)
        calibrated = found.evidence["shenzhen"].calibration
        assert calibrated is not None
        own = next(one for one in calibrated.inits if one.init == init)
        rows = {row.task: row for row in found.rows if row.init == init}
        groups = {one.group: one for one in found.evidence["shenzhen"].subgroups[0].scores if one.init == init}
        expected = {
            ("calibration", "shenzhen"): own.ece.estimate,
            ("brier", "shenzhen"): own.brier.estimate,
            ("auc", "shenzhen"): np.mean(rows["shenzhen"].scores),
            ("dice", "montgomery"): np.mean(rows["montgomery"].scores),
            ("worst_group_drop", "shenzhen, sex F"): np.mean(rows["shenzhen"].scores) - groups["F"].estimate,
            ("worst_group_drop", "shenzhen, sex M"): np.mean(rows["shenzhen"].scores) - groups["M"].estimate,
        }
        for place, value in expected.items():
            one = mine.pop(place)
            assert one.interval is not None
            assert one.interval.estimate == pytest.approx(value), place
            assert one.interval.patients == 160, place
        assert {place for place, one in mine.items() if one.interval is None} == {
            ("dice_pooled", "montgomery"), ("worst_group_drop", "montgomery"),
        }  # fmt: skip
    assert {one.condition: one.at_most for one in found.required} == {
        "calibration": True, "brier": True, "auc": False, "dice": False, "dice_pooled": False,
        "worst_group_drop": True,
    }  # fmt: skip


def test_the_drop_at_another_site_is_a_condition(folder: Path) -> None:
    found = find(folder, "{}")
    task, init = found.rows[0].task, found.rows[0].init
    joint = joint_interval(0.04 + 0.1 * np.random.default_rng(0).standard_normal((4, 200)))
    blank = away.Measured(estimate=0.0, low=None, high=None)
    score = away.AwayScore(init=init, home=blank, away=blank, drop=blank, joint=joint, barred="")
    seen = dataclasses.replace(score, joint=None, barred="its weights saw images of that site")
    for one, verdict, words in (
        (score, "within", "away_drop on shenzhen, at far: within, 0.0"),
        (seen, "no data", "away_drop on shenzhen, at far: no data, its weights saw images of that site; at most"),
    ):
        sites = {task: (away.AwayTask(task="far", images=9, marks=(), inits=(one,)),)}
        measured = requirements.measure({"away_drop": 0.2}, found.results, found.rows, found.evidence, folder, sites)
        mine = [one for one in measured if one.init == init and one.task == task]
        (judged,) = judge(mine, 0.05)
        assert judged.verdict == verdict
        assert judged.words.startswith(words)
    none = requirements.measure({"away_drop": 0.2}, found.results, found.rows, found.evidence, folder, {})
    assert none[0].note == f"its networks were read at no other site, see tasks.{none[0].task}.external"


def test_another_metric_of_the_predictions_has_its_patients_too(tmp_path: Path) -> None:
    results.write(tmp_path, INITS, TASKS, range(2), cases=80, marks=[])
    score(tmp_path, "montgomery", "test_dice_pooled", 0.0)
    found = find(tmp_path, "{dice_pooled: 0.5}", range(2))
    one = of(found, "swav@resnet50")["dice_pooled", "montgomery"]
    pooled = []
    for path in sorted(tmp_path.glob("montgomery/*/predictions.parquet")):
        run = next(r for r in found.results if r.digest == path.parent.name)
        if run.init == "swav@resnet50":
            terms = pd.read_parquet(path)[["intersection", "predicted", "target"]].to_numpy(dtype=float)
            pooled.append(float(dice(terms.sum(axis=0))))
    assert one.interval is not None
    assert one.interval.estimate == pytest.approx(np.mean(pooled), abs=0.002)
    assert one.interval.patients == 80


def test_a_metric_without_patients_says_so(tmp_path: Path) -> None:
    results.write(tmp_path, INITS, TASKS, range(3), cases=60, marks=[])
    score(tmp_path, "shenzhen", "test_sensitivity", 0.9)
    one = of(find(tmp_path, "{sensitivity: 0.8}"), "swav@resnet50")["sensitivity", "shenzhen"]
    assert (one.note, one.at_most) == ("over seeds alone", False)
    assert judge([one], 0.05)[0].verdict == "not shown"  # equal scores have no spread to measure by


@pytest.mark.parametrize(
    ("name", "near"),
    [("calibratoin", "calibration"), ("worst_group", "worst_group_drop"), ("surfacedice", "surface_dice")],
)
def test_an_unknown_condition_is_refused_with_the_nearest(folder: Path, name: str, near: str) -> None:
    with pytest.raises(UserError, match=rf"promotion\.require: unknown condition '{name}'.*{near}"):
        find(folder, f"{{{name}: 0.1}}")


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("auc: 70", "auc is a number from 0 to 1, where 0.05 is 5 points; got 70"),
        ("calibration: -1", "calibration is a number from 0 to 1"),
        ("away_drop: 5", "away_drop is a number from -1 to 1"),
        ("hd95_px: -2", "hd95_px is a number from 0 or more; got -2"),
    ],
)
def test_a_bound_that_everything_or_nothing_would_keep_is_refused(condition: str, words: str) -> None:
    name, _, bound = condition.partition(": ")
    with pytest.raises(UserError, match=f"promotion.require: {words}"):
        requirements.check({name: float(bound)})
    requirements.check({"hd95_px": 12.0, "kappa": -0.1, "away_drop": 0.0, "auc": 1.0})


def test_a_condition_that_no_task_can_be_asked_is_refused_and_not_left_out(folder: Path) -> None:
    with pytest.raises(UserError, match=r"balanced_accuracy is measured of multiclass tasks, and no task of the .*bin"):
        find(folder, "{balanced_accuracy: 0.7}")


def test_who_lacks_runs_on_a_task_is_not_said_to_keep_all_on_all_tasks(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "cells")
    for path in (tmp_path / "cells/montgomery").glob("*/cell.json"):
        if json.loads(path.read_text())["init"] == "swav@resnet50":
            shutil.rmtree(path.parent)
    one = section.requirements(find(tmp_path / "cells", "{auc: 0.01}"))
    assert one is not None
    assert one.notes[0] == (
        "Shown to keep all conditions on all tasks: imagenet. Without all its runs on a task: swav."
    )


def test_a_bound_is_kept_where_the_whole_interval_is_within() -> None:
    half = stats.t.isf(0.025, 30) * 0.01
    cases = {0.05 + half + 1e-6: "within", 0.05 + half - 1e-4: "not shown", 0.05 - half - 1e-6: "violated"}
    for bound, verdict in cases.items():
        one = judge([measured(0.05, bound)], 0.05)[0]
        assert one.verdict == verdict
        assert (one.low, one.high) == pytest.approx((0.05 - half, 0.05 + half))
    turned: Mapping[float, str] = {0.05 - half - 1e-6: "within", 0.05: "not shown", 0.05 + half + 1e-6: "violated"}
    for bound, verdict in turned.items():
        assert judge([measured(0.05, bound, at_most=False)], 0.05)[0].verdict == verdict


def test_several_conditions_share_the_level_by_holm() -> None:
    """At .05 alone both would be kept; together the second needs all that the first leaves."""
    far, near = measured(0.0, 0.1), measured(0.05, 0.05 + stats.t.isf(0.025, 30) * 0.01 + 1e-6)
    assert [one.verdict for one in judge([near, far], 0.05)] == ["within", "within"]
    both = judge([near, near], 0.05)
    assert [one.verdict for one in both] == ["not shown", "not shown"]
    assert both[0].high == pytest.approx(0.05 + stats.t.isf(0.0125, 30) * 0.01)


def test_verdict_and_interval_never_disagree() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        every = [measured(rng.normal(0.05, 0.03), 0.05) for _ in range(int(rng.integers(1, 6)))]
        for one in judge(every, 0.05):
            assert one.low is not None
            assert one.high is not None
            side = "within" if one.high <= 0.05 else "violated" if one.low > 0.05 else "not shown"
            assert one.verdict == side


def test_an_interval_of_a_share_is_shown_within_its_ends() -> None:
    wide = dataclasses.replace(measured(0.98, 0.5, error=0.02, at_most=False), condition="auc")
    assert judge([wide], 0.05)[0].words.startswith("auc on t: within, 0.980 (0.939 to 1.000)")
    drop = dataclasses.replace(measured(-0.01, 0.5, error=0.02), condition="worst_group_drop")
    assert "(-0.051 to 0.031)" in judge([drop], 0.05)[0].words
    drop = dataclasses.replace(measured(0.033, 0.05, error=2.0), condition="away_drop", metric="auc")
    assert "(-1.000 to 1.000)" in judge([drop], 0.05)[0].words
    millimetres = dataclasses.replace(measured(3.0, 9.0, error=1.0), condition="hd95_mm")
    assert "(0.958 to 5.042)" in judge([millimetres], 0.05)[0].words


def test_an_interval_at_another_level_is_that_of_the_contributions() -> None:
    values = np.random.default_rng(1).normal(size=(4, 30)) + np.random.default_rng(2).normal(size=30)
    for level in (0.8, 0.99):
        one = joint_interval(values, level=level)
        assert joint_interval(values).ends(level) == pytest.approx((one.low, one.high))
    p = joint_interval(values - 0.3).p
    assert joint_interval(values).p_of(0.3) == pytest.approx(p)


def test_the_report_shows_every_condition_with_its_verdict(folder: Path) -> None:
    found = find(folder, "{calibration: 0.9, auc: 0.999, hd95_mm: 5}")
    one = section.requirements(found)
    assert one is not None
    assert one.grid is not None
    lines = {(row[0].text, row[1].text): [entry.text for entry in row] for row in one.grid.rows}
    assert lines["swav@resnet50", "calibration"][5:7] == ["at most 0.9", "within"]
    assert lines["swav@resnet50", "auc"][6] == "violated"
    assert lines["swav@resnet50", "hd95_mm"][6:] == ["no data", "no run of the task has test_hd95_mm"]
    assert one.notes[0] == "Shown to keep all conditions on all tasks: none. Shown to violate one: imagenet and swav."
    assert section.requirements(dataclasses.replace(found, required=())) is None
    assert requirements.measure({}, found.results, found.rows, found.evidence, folder, {}) == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "patients", "of_seeds"), [(3, 60, 0.2), (3, 60, 0.02), (5, 200, 0.1), (10, 200, 0.02)]
)
def test_how_often_a_verdict_is_wrong_where_every_value_is_at_its_bound(
    seeds: int, patients: int, of_seeds: float
) -> None:
    """Three conditions whose true values are their bounds: whatever is said of one is wrong."""
    rng, wrong, number = np.random.default_rng(seeds), 0, 2000
    for _ in range(number):
        every = []
        for _ in range(3):
            values = of_seeds * rng.standard_normal((seeds, 1)) + rng.standard_normal(patients)
            values = values + 0.5 * rng.standard_normal((seeds, patients))
            every.append(dataclasses.replace(measured(0.0, 0.0), interval=joint_interval(values)))
        wrong += any(one.verdict != "not shown" for one in judge(every, 0.05))
    print(seeds, patients, of_seeds, f"{wrong / number:.3f}")
    assert wrong / number < 0.06
