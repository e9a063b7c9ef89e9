"""Scores on another task's images: against scores of these images alone, and how often something is said wrongly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import special, stats
from sklearn.metrics import roc_auc_score

from medtransfer import params
from medtransfer.comparison import away, findings
from medtransfer.comparison.away import AwayTask
from medtransfer.comparison.selection import collect
from medtransfer.report.sections import away as section
from medtransfer.report.sections import degradation
from medtransfer.results.away import CORRUPTED
from medtransfer.statistics.contributions import Predictions
from medtransfer.statistics.metrics import METRICS
from tests.support import results

Array = NDArray[Any]

ROOT = Path(__file__).parents[2]
INITS = {"imagenet@resnet50": 0.0, "swav@resnet50": 0.2}


def drawn(
    rng: np.random.Generator, *, inits: int = 3, seeds: int = 4, home: int = 150, there: int = 150, drop: float = 0.0,
    ahead: float = 0.0, labels: int = 1,
) -> tuple[Predictions, Predictions, dict[str, list[list[int]]]]:  # fmt: skip
    """Draws what networks answer on two tests; away the truth counts `drop` less, the last init is `ahead` there."""
    luck = 0.1 * rng.standard_normal((inits, seeds, 1, 1))
    units = {f"init{k}": [[k * seeds + s] for s in range(seeds)] for k in range(inits)}
    known = []
    for patients, less, more in ((home, 0.0, 0.0), (there, drop, ahead)):
        images = 2 * patients
        whose = np.arange(images) // 2
        truth = (rng.random((images, labels)) < 0.35).astype(np.int8)
        hard = rng.standard_normal((images, labels)) + 0.5 * rng.standard_normal((patients, labels))[whose]
        own = 0.4 * rng.standard_normal((inits, 1, images, labels))
        noise = 0.6 * rng.standard_normal((inits, seeds, images, labels))
        strength = 1.5 - less + luck + more * (np.arange(inits) == inits - 1)[:, None, None, None]
        answers = special.expit(strength * truth + hard + own + noise).reshape(-1, images, labels)
        names = tuple(f"l{k}" for k in range(labels))
        known.append(Predictions(patients=whose, labels=names, truth=truth, answers=answers))
    return known[0], known[1], units


def found(rng: np.random.Generator, barred: str = "", **how: Any) -> AwayTask:
    home, there, units = drawn(rng, **how)
    blank = AwayTask(task="other", images=len(there.truth), marks=())
    why = {init: "contaminated at home" if init == barred else "" for init in units}
    (one,) = away.adjusted([away.compared(blank, home, there, METRICS["auc"], units, why, "init0", 0.95)])
    return one


def said(one: AwayTask) -> str:
    settings = params.load(ROOT / "params.yaml").comparison
    benchmark: Any = type("Benchmark", (), {"inits": tuple(each.init for each in one.inits)})
    held: Any = type("Held", (), {"settings": settings, "benchmark": benchmark})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(section, "labels", lambda inits: {init: init for init in inits})
        return section.sentence(held, "home", one)


ORDER = "At other, no initialization is shown to be better than another"
NOTHING = f"{ORDER}; against home, no score is shown to fall or to rise."


def test_scores_are_those_of_each_tests_images_and_the_drop_is_between_them() -> None:
    home, there, units = drawn(np.random.default_rng(0), labels=2, there=90)
    one = found(np.random.default_rng(0), labels=2, there=90)
    assert (one.labels, one.few, one.patients, one.images, one.seeds) == (("l0", "l1"), (), 90, 180, 4)
    for score in one.inits:
        areas = {
            side: np.mean([roc_auc_score(known.truth[:, k], known.answers[place][:, k])
                           for (place,) in units[score.init] for k in (0, 1)])
            for side, known in (("home", home), ("away", there))
        }  # fmt: skip
        assert score.home.estimate == pytest.approx(areas["home"])
        assert score.away.estimate == pytest.approx(areas["away"])
        assert score.drop.estimate == pytest.approx(areas["home"] - areas["away"])
        widths = [each.high - each.low for each in (score.home, score.away, score.drop)]  # type: ignore[operator]  # not None
        assert widths[2] < widths[0] + widths[1]
        assert widths[2] > max(widths[:2])
    assert [(pair.init, pair.against) for pair in one.pairs] == [
        ("init1", "init2"), ("init1", "init0"), ("init2", "init0")
    ]  # fmt: skip


def test_rare_labels_are_named_and_left_out_and_barred_inits_are_not_compared() -> None:
    home, there, units = drawn(np.random.default_rng(3), labels=2)
    there.truth[:, 1] = 0
    there.truth[:18, 1] = 1  # 9 patients
    blank = AwayTask(task="other", images=1, marks=())
    one = away.compared(blank, home, there, METRICS["auc"], units, dict.fromkeys(units, ""), "init0", 0.95)
    assert (one.labels, one.few) == (("l0",), ("l1",))
    there.truth[:, 0] = there.truth[:, 1]
    one = away.compared(blank, home, there, METRICS["auc"], units, dict.fromkeys(units, ""), "init0", 0.95)
    assert (one.inits, one.note) == ((), "fewer than 10 patients of a class in one of the two tests")
    barred = found(np.random.default_rng(3), barred="init1")
    assert [(pair.init, pair.against) for pair in barred.pairs] == [("init2", "init0")]
    assert [each.drop.p is None for each in barred.inits] == [False, True, False]


def test_one_sentence_says_what_these_data_carry() -> None:
    assert said(found(np.random.default_rng(1))) == NOTHING
    fallen = said(found(np.random.default_rng(1), drop=1.2))
    assert fallen.endswith("against home, scores are shown to fall for init0, init1 and init2.")
    ahead = said(found(np.random.default_rng(1), ahead=1.5))
    assert "init2 is shown to be better than init1" in ahead
    assert "with one seed nothing is tested" in said(found(np.random.default_rng(1), seeds=1))
    alone = found(np.random.default_rng(1), inits=1, barred="init0")
    assert said(alone) == "Read at other; nothing is tested, because no initialization may be compared there."


def write(folder: Path, cases: int = 160) -> None:
    """Writes finished runs that were read on another task, and on images made worse by severity."""
    results.write(folder, INITS, ("shenzhen", "montgomery"), range(2), cases=cases)
    for path in folder.glob("shenzhen/*/cell.json"):
        cell, table = json.loads(path.read_text()), pd.read_parquet(path.with_name("predictions.parquet"))
        cell["away"] = [
            {"task": "other", "labels": {"Tuberculosis": "TB"}, "manifest_digest": "m", "marks": ["synthetic"],
             "unit": "patient", "images": len(table), "seen": cell["init"].startswith("never")}
        ]  # fmt: skip
        cell["params"] |= {"corruptions.kinds": ["blur", "noise"], "corruptions.severities": [1, 5]}
        path.write_text(json.dumps(cell))
        column, truth = "probability.Tuberculosis", table["target.Tuberculosis"]
        far = table.assign(**{column: stats.rankdata(special.logit(table[column]) - 0.8 * truth) / len(table)})
        far.assign(patient=far["patient"] + "x").to_parquet(path.with_name("away-other.parquet"), index=False)
        worse = [
            table.assign(kind=kind, severity=severity, **{column: (table[column] if kind == "blur" else 0.5)})
            for kind in ("blur", "noise") for severity in (1, 5)
        ]  # fmt: skip
        pd.concat(worse).to_parquet(path.with_name(CORRUPTED), index=False)


def test_the_report_tabulates_what_was_read_elsewhere_and_what_was_lost(tmp_path: Path) -> None:
    write(tmp_path / "cells")
    here = params.load(ROOT / "params.yaml", {"comparison.resamples": "0"})
    benchmark = params.Benchmark(inits=tuple(INITS), tasks=("shenzhen", "montgomery"), recipes=("fixed",), seeds=(0, 1))
    both = findings.find(tmp_path / "cells", benchmark, here, ROOT, "imagenet@resnet50")
    assert {task: len(found) for task, found in both.away.items()} == {"shenzhen": 1, "montgomery": 0}
    head, table, pairs = section.away(both)
    assert (head.slug, table.slug, pairs.slug) == ("away", "away-shenzhen-other", "away-shenzhen-other-pairs")
    assert table.title == "At another site: shenzhen read on other (synthetic)"
    assert table.grid is not None
    assert [row[0].text for row in table.grid.rows] == list(INITS)
    assert pairs.grid is not None
    assert [row[1].text for row in pairs.grid.rows] == ["imagenet@resnet50"]
    first, lost = degradation.degradation(both)
    assert (first.slug, lost.slug) == ("shift", "shift-shenzhen")
    assert lost.grid is not None
    assert lost.grid.header == ("init", "AUC as they are", "lost, %", "blur", "noise")
    for row in lost.grid.rows:  # blur changed nothing, noise left chance alone: half of what is above chance
        assert row[2].text == "50.0"
        assert [entry.text for entry in row[3:]] == ["0.0", "100.0"]


def test_runs_that_were_not_all_read_there_are_not_compared(tmp_path: Path) -> None:
    write(tmp_path / "cells")
    path = next((tmp_path / "cells").glob("shenzhen/*/cell.json"))
    cell = json.loads(path.read_text())
    path.write_text(json.dumps({**cell, "away": []}))
    runs = [collect(tmp_path / "cells", ROOT)[k] for k in range(8)]
    chosen = {"shenzhen": [run for run in runs if run.task == "shenzhen"]}
    (one,) = away.sites(chosen, tmp_path / "cells", "", 0.95)["shenzhen"]
    assert one.note.startswith("not all runs were read there")


def test_sites_of_several_tasks_are_corrected_for_one_another(tmp_path: Path) -> None:
    write(tmp_path / "cells")
    runs = [run for run in collect(tmp_path / "cells", ROOT) if run.task == "shenzhen"]
    (alone,) = away.sites({"shenzhen": runs}, tmp_path / "cells", "", 0.95)["shenzhen"]
    twice = away.sites({"shenzhen": runs, "again": runs}, tmp_path / "cells", "", 0.95)
    assert list(twice) == ["shenzhen", "again"]
    smallest = min(alone.inits, key=lambda one: one.drop.p or 1.0)
    (same,) = [one for one in twice["again"][0].inits if one.init == smallest.init]
    assert smallest.drop.adjusted == pytest.approx(min(1.0, 2 * (smallest.drop.p or 0)))
    assert same.drop.adjusted == pytest.approx(min(1.0, 4 * (smallest.drop.p or 0)))
    assert smallest.drop.low is not None
    assert same.drop.low is not None
    assert same.drop.low < smallest.drop.low


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inits", "patients", "there"), [(2, 150, 150), (5, 300, 60), (8, 100, 300)], ids=["2 inits", "5 inits", "8 inits"]
)
def test_equal_inits_and_sites_raise_few_alarms(inits: int, patients: int, there: int) -> None:
    rng, repeats = np.random.default_rng(31), 200
    wrong = sum(said(found(rng, inits=inits, home=patients, there=there)) != NOTHING for _ in range(repeats))
    print(f"\n{inits} inits, {patients} patients at home, {there} there: {wrong} of {repeats} benchmarks say something")
    assert wrong <= 0.05 * repeats


@pytest.mark.slow
@pytest.mark.parametrize(("patients", "drop", "power"), [(150, 0.6, 0.4), (150, 1.0, 0.9), (400, 0.6, 0.9)])
def test_a_planted_drop_is_found(patients: int, drop: float, power: float) -> None:
    rng, hits, points, ahead = np.random.default_rng(32), 0, [], 0
    for _ in range(100):
        one = found(rng, home=patients, there=patients, drop=drop)
        text = said(one)
        hits += "shown to fall for init0, init1 and init2" in text
        ahead += "no initialization is shown" not in text
        points.append(np.mean([score.drop.estimate for score in one.inits]))
    print(f"\n{patients} patients, {100 * np.mean(points):.1f} points: all three found {hits} of 100, order {ahead}")
    assert hits >= 100 * power
    assert ahead <= 5
