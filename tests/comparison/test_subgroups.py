"""Scores in groups of patients: against the scores of the groups alone, and how often a gap is said wrongly."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import special
from sklearn.metrics import roc_auc_score

from medtransfer import params
from medtransfer.comparison import findings, subgroups
from medtransfer.comparison.patients import Evidence
from medtransfer.comparison.subgroups import Grouping
from medtransfer.report.sections import subgroups as section
from medtransfer.statistics.contributions import Predictions
from medtransfer.statistics.metrics import METRICS
from tests.support import results

Array = NDArray[Any]

ROOT = Path(__file__).parents[2]
INITS = {"imagenet@resnet50": 0.0, "swav@resnet50": 0.2}


def drawn(
    rng: np.random.Generator, *, images: int = 600, inits: int = 2, seeds: int = 4, labels: int = 1, gap: float = 0.0,
    groups: int = 2,
) -> tuple[pd.DataFrame, Predictions, dict[str, list[list[int]]]]:  # fmt: skip
    """Draws predictions; in the last group of `sex` the truth counts `gap` less. `view` is another column."""
    patients = np.arange(images) // 2
    sex = rng.integers(0, groups, images // 2)[patients]
    view = rng.integers(0, 2, images)
    truth = (rng.random((images, labels)) < 0.35).astype(np.int8)
    hard = rng.standard_normal((images, labels)) + 0.5 * rng.standard_normal((images // 2, labels))[patients]
    strength = 1.5 - gap * (sex == groups - 1)[:, None]
    own = 0.4 * rng.standard_normal((inits, 1, images, labels))
    noise = 0.6 * rng.standard_normal((inits, seeds, images, labels))
    answers = special.expit(strength * truth + hard + own + noise).reshape(-1, images, labels)
    table = pd.DataFrame({"group.sex": [f"s{k}" for k in sex], "group.view": [f"v{k}" for k in view]})
    known = Predictions(patients=patients, labels=tuple(f"l{k}" for k in range(labels)), truth=truth, answers=answers)
    units = {f"init{k}": [[k * seeds + s] for s in range(seeds)] for k in range(inits)}
    return table, known, units


def found(rng: np.random.Generator, **how: Any) -> tuple[Grouping, ...]:
    table, known, units = drawn(rng, **how)
    return subgroups.subgroups(table, known, METRICS["auc"], units, 0.95)


def alarms(groupings: tuple[Grouping, ...]) -> list[tuple[str, str]]:
    held: Any = type("Held", (), {"settings": params.load(ROOT / "params.yaml").comparison})
    return [pair for grouping in groupings for pair in section.behind(held, "t", grouping)]


def test_a_groups_score_is_that_of_its_images_and_a_gap_their_difference() -> None:
    table, known, units = drawn(np.random.default_rng(0), labels=2, groups=3)
    sex, view = subgroups.subgroups(table, known, METRICS["auc"], units, 0.95)
    assert (sex.name, view.name) == ("sex", "view")
    assert sex.labels == ("l0", "l1")
    assert sex.looked == view.looked == 2 * 3 + 2 * 1  # of two groups one gap is the other
    expected = {}
    for group in ("s0", "s1", "s2"):
        here = (table["group.sex"] == group).to_numpy()
        assert sex.patients[group] == len(np.unique(known.patients[here]))
        for init, places in units.items():
            areas = [
                roc_auc_score(known.truth[here][:, k], known.answers[place][here][:, k])
                for (place,) in places
                for k in (0, 1)
            ]
            expected[init, group] = np.mean(areas)
    for one in sex.scores:
        others = [value for (init, group), value in expected.items() if init == one.init and group != one.group]
        assert one.estimate == pytest.approx(expected[one.init, one.group])
        assert one.gap == pytest.approx(one.estimate - np.mean(others))
        assert one.gap_low is not None
        assert one.gap_high is not None
        assert one.low is not None
        assert one.gap_low < one.gap < one.gap_high
        assert one.low < one.estimate


def test_gaps_of_several_tasks_share_the_level() -> None:
    table, known, units = drawn(np.random.default_rng(0))
    alone, three = (subgroups.subgroups(table, known, METRICS["auc"], units, 0.95, tasks)[0] for tasks in (1, 3))
    assert alone.share == pytest.approx(0.025)
    assert three.share == pytest.approx(0.025 / 3)
    for one, other in zip(alone.scores, three.scores, strict=True):
        assert (one.gap, one.p) == (other.gap, other.p)
        assert one.gap_low is not None
        assert other.gap_low is not None
        assert other.gap_low < one.gap_low
    named = next(one for one in alone.scores if one.gap < 0)
    for p, shown in ((0.99 * three.share / three.looked, True), (1.01 * three.share / three.looked, False)):
        changed = dataclasses.replace(three, scores=(dataclasses.replace(named, p=p),))
        assert bool(alarms((changed,))) == shown


def test_the_order_of_images_decides_nothing() -> None:
    table, known, units = drawn(np.random.default_rng(1))
    order = np.random.default_rng(2).permutation(len(table))
    other = dataclasses.replace(
        known, patients=known.patients[order], truth=known.truth[order], answers=known.answers[:, order]
    )
    one = subgroups.subgroups(table, known, METRICS["auc"], units, 0.95)
    two = subgroups.subgroups(table.iloc[order], other, METRICS["auc"], units, 0.95)
    assert [dataclasses.astuple(s)[2:-1] for g in one for s in g.scores] == [
        pytest.approx(dataclasses.astuple(s)[2:-1], abs=1e-9) for g in two for s in g.scores
    ]


def test_a_drop_is_the_score_of_all_minus_that_of_the_group() -> None:
    table, known, units = drawn(np.random.default_rng(5), gap=1.0)
    sex, _ = subgroups.subgroups(table, known, METRICS["auc"], units, 0.95)
    for one in sex.scores:
        places = [place for (place,) in units[one.init]]
        whole = np.mean([roc_auc_score(known.truth[:, 0], known.answers[place][:, 0]) for place in places])
        assert one.drop is not None
        assert one.drop.estimate == pytest.approx(whole - one.estimate)
        assert one.drop.low is not None
        assert (one.drop.low > 0) == (one.group == "s1")  # shown: the planted gap is large


def test_where_all_patients_are_too_many_groups_are_scored_and_have_no_drop(monkeypatch: pytest.MonkeyPatch) -> None:
    table, known, units = drawn(np.random.default_rng(6))
    added = subgroups._added

    def limited(known: Predictions, here: Array, *rest: Any) -> Any:
        return "patients are too many" if here.all() else added(known, here, *rest)

    monkeypatch.setattr(subgroups, "_added", limited)
    for grouping in subgroups.subgroups(table, known, METRICS["auc"], units, 0.95):
        assert {one.group for one in grouping.scores} == set(grouping.patients)
        assert all(one.drop is None for one in grouping.scores)


def test_small_groups_are_named_and_left_out() -> None:
    table, known, units = drawn(np.random.default_rng(3))
    table.loc[known.patients < 12, "group.sex"] = "rare"
    table.loc[known.patients > 290, "group.sex"] = ""
    sex, _ = subgroups.subgroups(table, known, METRICS["auc"], units, 0.95)
    assert sex.small == {"rare": 12}
    assert set(sex.patients) == {"s0", "s1"}
    table["group.sex"] = "s0"
    sex, _ = subgroups.subgroups(table, known, METRICS["auc"], units, 0.95)
    assert sex.scores == ()
    assert "fewer than two groups" in sex.note


def test_the_report_tabulates_groups_that_predictions_carry(tmp_path: Path) -> None:
    folder = tmp_path / "cells"
    results.write(folder, INITS, ("shenzhen", "montgomery"), range(2), cases=160)
    for path in folder.rglob("predictions.parquet"):
        table = pd.read_parquet(path)
        table["group.sex"] = np.where(np.arange(len(table)) % 2, "F", "M")
        table.to_parquet(path, index=False)
    here = params.load(ROOT / "params.yaml", {"comparison.resamples": "0"})
    benchmark = params.Benchmark(inits=tuple(INITS), tasks=("shenzhen", "montgomery"), recipes=("fixed",), seeds=(0, 1))
    both = findings.find(folder, benchmark, here, ROOT, "imagenet@resnet50")
    head, *tables = section.subgroups(both)
    assert [part.slug for part in tables] == ["subgroups-shenzhen-sex", "subgroups-montgomery-sex"]
    assert head.slug == "subgroups"
    for part in tables:
        assert part.grid is not None
        assert part.grid.header == ("init", "F (80 patients)", "M (80 patients)", "behind", "by, points")
        assert len(part.grid.rows) == 2
    assert json.dumps([note for part in tables for note in part.notes]).count("shown to fall behind") == 2


def test_no_groups_no_section() -> None:
    held: Any = type("Held", (), {"evidence": {"t": Evidence(task="t", unit="patient")}})
    assert section.subgroups(held) == []


@pytest.mark.slow
@pytest.mark.parametrize(("images", "groups", "inits"), [(600, 2, 5), (1200, 4, 3), (300, 2, 2)])
def test_equal_groups_raise_few_alarms(images: int, groups: int, inits: int) -> None:
    rng, repeats = np.random.default_rng(21), 200
    wrong = sum(bool(alarms(found(rng, images=images, groups=groups, inits=inits))) for _ in range(repeats))
    print(f"\n{images} images, {groups} groups, {inits} inits: {wrong} of {repeats} benchmarks")
    assert wrong <= 0.05 * repeats


@pytest.mark.slow
@pytest.mark.parametrize(("images", "gap", "power"), [(1200, 1.0, 0.9), (600, 1.0, 0.6)])
def test_a_planted_gap_is_found(images: int, gap: float, power: float) -> None:
    rng, hits, other = np.random.default_rng(22), 0, 0
    for _ in range(100):
        pairs = alarms(found(rng, images=images, gap=gap, inits=2))
        hits += any(group == "s1" for _, group in pairs)
        other += any(group != "s1" for _, group in pairs)
    print(f"\n{images} images, gap {gap}: found {hits} of 100, another group {other}")
    assert hits >= 100 * power
    assert other <= 5
