"""Fewer labels, training times and agreement of protocols, from runs whose effects are known."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medtransfer import params
from medtransfer.comparison import findings, label_curves, record
from medtransfer.comparison.cells import Cell
from medtransfer.comparison.findings import Findings
from medtransfer.core.errors import UserError
from medtransfer.report.figures import cost, curves
from medtransfer.statistics.seeds_and_patients import joint_interval
from tests.support import results

ROOT = Path(__file__).parents[2]
RANDOM, IMAGENET, SWAV = "random@resnet50", "imagenet@resnet50", "swav@resnet50"
EFFECTS = {RANDOM: -0.8, IMAGENET: 0.0, SWAV: 0.6}
FRACTIONS = ("0.02", "0.05", "0.1", "0.25", "1")
TASK = "montgomery"


def compared(
    folder: Path, *, protocols: Any = ("finetune", "linear"), fractions: Any = FRACTIONS, **changes: Any
) -> Findings:
    benchmark = params.Benchmark(
        inits=tuple(EFFECTS), tasks=(TASK,), seeds=(0, 1, 2), recipes=("fixed",), protocols=protocols,
        fractions=fractions,
    )  # fmt: skip
    here = params.load(ROOT / "params.yaml")
    settings = dataclasses.replace(here.comparison, **{"resamples": 0} | changes)
    return findings.find(
        folder, benchmark, dataclasses.replace(here, comparison=settings, benchmark=benchmark), ROOT, IMAGENET
    )


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curves") / "cells"
    protocols = {"finetune": 0.0, "linear": -0.3}
    results.write_curves(folder, EFFECTS, (TASK,), range(3), protocols, FRACTIONS, cases=80)
    return folder


@pytest.fixture(scope="module")
def found(cells: Path) -> Findings:
    return compared(cells)


def test_every_complete_cell_is_a_point_of_its_protocol(found: Findings) -> None:
    keys = [(point.protocol, point.init, point.fraction) for point in found.points]
    assert keys == [(p, i, f) for p in ("finetune", "linear") for i in EFFECTS for f in FRACTIONS]
    assert [point.labels for point in found.points[:5]] == [8, 20, 40, 100, 400]
    assert all(point.low is not None and point.high is not None for point in found.points)
    assert {(point.n, point.patients) for point in found.points} == {(3, 80)}


def test_a_point_is_the_mean_of_its_own_runs_with_the_joint_interval(found: Findings) -> None:
    point = next(p for p in found.points if (p.protocol, p.init, p.fraction) == ("linear", SWAV, "0.1"))
    own = [c.score for c in found.beside if (c.protocol, c.init, c.fraction) == ("linear", SWAV, "0.1")]
    assert point.mean == pytest.approx(np.mean([score for score in own if score is not None]))
    whole = next(p for p in found.points if (p.protocol, p.init, p.fraction) == ("finetune", SWAV, "1"))
    joint = joint_interval(found.evidence[TASK].contributions[SWAV])
    assert (whole.mean, whole.low, whole.high) == pytest.approx((joint.estimate, joint.low, joint.high))


def test_an_interval_ends_where_scores_do(found: Findings) -> None:
    spread = np.array([[0.1], [0.9]])
    scores: dict[str, Any] = {"scores": (0.1, 0.9)}
    (point,) = label_curves.points([cell_of(found, spread, **scores)], 0.95)
    assert (point.low, point.high) == (0.0, 1.0)
    (kappa,) = label_curves.points([cell_of(found, spread, metric="kappa", **scores)], 0.95)
    assert (kappa.low, kappa.high) == (-1.0, 1.0)


def cell_of(found: Findings, values: Any, metric: str = "dice", **row: Any) -> Cell:
    run = dataclasses.replace(found.results[0], metric=metric)
    return Cell(
        task=TASK, init=SWAV, protocol="linear", fraction="1", labels=400, values=values, runs=(run,),
        row=dataclasses.replace(found.rows[0], **row),
    )  # fmt: skip


def test_tables_and_tests_rest_on_the_compared_protocol_with_all_labels(found: Findings, cells: Path) -> None:
    assert {(c.protocol, c.fraction) for c in found.results} == {("finetune", "1")}
    assert len(found.results) == 9
    assert len(found.beside) == 9 * 9
    linear = compared(cells, protocol="linear")
    assert {(c.protocol, c.fraction) for c in linear.results} == {("linear", "1")}
    assert {(p.protocol, p.init, p.fraction, p.mean) for p in linear.points} == {
        (p.protocol, p.init, p.fraction, p.mean) for p in found.points
    }


def test_a_saving_is_within_a_protocol_and_in_its_order(found: Findings) -> None:
    by = {(one.protocol, one.init): one.found for one in found.savings}
    assert set(by) == {(p, i) for p in ("finetune", "linear") for i in (RANDOM, SWAV)}
    for protocol in ("finetune", "linear"):
        better = by[protocol, SWAV]
        assert better.labels == 400
        assert better.equal is not None
        assert better.equal < 40  # 0.6 is the rise of 1.5 decades of labels: 400 / 10 ** 1.5 = 13
        assert by[protocol, RANDOM].outcome == "not reached"
        assert by[protocol, RANDOM].equal_high is None
    assert by["finetune", SWAV] != by["linear", SWAV]


def test_a_benchmark_of_one_fraction_has_no_savings_but_times(cells: Path) -> None:
    found = compared(cells, protocols=("finetune",), fractions=("1",))
    assert found.savings == ()
    assert found.agreements == ()
    assert [(one.init, one.ratio is None) for one in found.times] == [(RANDOM, False), (IMAGENET, True), (SWAV, False)]
    assert len(found.points) == 3


def test_frozen_protocols_have_no_training_time(found: Findings) -> None:
    assert {one.protocol for one in found.times} == {"finetune"}
    base = next(one for one in found.times if one.init == IMAGENET)
    runs = [c for c in found.results if c.init == IMAGENET]
    best = [max(epoch["val_dice"] for epoch in run.history) for run in runs]
    assert base.goal == pytest.approx(0.95 * np.mean(best))
    assert base.images is not None
    assert base.images.estimate == pytest.approx(base.epochs.estimate * 1000 / results.EPOCHS)
    late = next(one for one in found.times if one.init == RANDOM)
    assert late.reached == 0
    assert late.epochs.bound == "at least"
    assert late.ratio is not None
    assert late.ratio.high is None


def test_what_a_frozen_protocol_chose_from_is_no_learning_curve(cells: Path) -> None:
    """Their history is over strengths or neighbours, with the keys of a training's."""
    found = compared(cells, protocol="linear")
    runs = [dataclasses.replace(c, history=({"val_dice": 0.5}, {"val_dice": 0.6})) for c in found.results]
    assert record.curves(runs) == []
    assert record.curves([dataclasses.replace(c, protocol="partial") for c in runs])
    assert curves.draw(dataclasses.replace(found, results=tuple(runs))) is None
    assert {cost.seconds(run) for run in runs} == {None}
    assert not any(one.protocol == "linear" for one in found.times)


def test_protocols_agree_on_the_ranking(found: Findings) -> None:
    (one,) = found.agreements
    assert (one.task, one.protocol, one.inits) == (TASK, "linear", tuple(EFFECTS))
    assert one.found.tau == 1
    assert one.found.ceiling is not None
    assert one.found.ceiling > 0.8


def test_an_incomplete_cell_is_left_out(cells: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(cells, tmp_path / "cells")
    for path in list(folder.rglob("cell.json")):
        cell = json.loads(path.read_text())
        if (cell["init"], cell["protocol"], cell["fraction"], cell["seed"]) == (SWAV, "finetune", "0.1", 1):
            shutil.rmtree(path.parent)
    found = compared(folder)
    assert (SWAV, "finetune", "0.1") not in {(p.init, p.protocol, p.fraction) for p in found.points}
    assert len(found.points) == 29
    assert len(found.savings) == 4


def test_runs_on_other_data_are_refused(cells: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(cells, tmp_path / "cells")
    for path in folder.rglob("cell.json"):
        cell = json.loads(path.read_text())
        if cell["fraction"] == "0.1":
            path.write_text(json.dumps(cell | {"manifest_digest": "another"}))
    with pytest.raises(UserError, match=r"by finetune with fraction 0\.1 .* one manifest digest"):
        compared(folder)


def test_contaminated_inits_have_no_curve(cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(cells, tmp_path / "cells")
    results.declare(monkeypatch)
    for path in folder.rglob("cell.json"):
        cell = json.loads(path.read_text())
        if cell["init"] == SWAV:
            path.write_text(json.dumps(cell | {"marks": ["synthetic", "contaminated"]}))
    found = compared(folder)
    assert SWAV not in {point.init for point in found.points}
    assert SWAV not in {one.init for one in found.savings}
    assert SWAV not in {one.init for one in found.times}
