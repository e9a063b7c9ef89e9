"""Calibration of initializations: against the scores of single runs, and how often a sentence is wrong."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import special

from medtransfer import params
from medtransfer.comparison import calibration, findings
from medtransfer.comparison.calibration import Calibration, calibrate
from medtransfer.comparison.findings import Findings
from medtransfer.comparison.patients import Evidence
from medtransfer.report.sections import calibration as section
from medtransfer.results.result import Result, read_result
from medtransfer.statistics import metrics
from medtransfer.statistics.contributions import Predictions
from tests.support import results as made

Array = NDArray[Any]

ROOT = Path(__file__).parents[2]
INITS = {"imagenet@resnet50": 0.0, "swav@resnet50": 0.1}


def compared(folder: Path, tasks: tuple[str, ...], seeds: int = 2, **changes: Any) -> Findings:
    made.write(folder, INITS, tasks, range(seeds), cases=90, images_per_patient=2, **changes)
    return again(folder, tasks, seeds)


def again(folder: Path, tasks: tuple[str, ...], seeds: int = 2) -> Findings:
    here = params.load(ROOT / "params.yaml", {"comparison.resamples": "0"})
    benchmark = params.Benchmark(inits=tuple(INITS), tasks=tasks, recipes=("fixed",), seeds=tuple(range(seeds)))
    return findings.find(folder, benchmark, here, ROOT, "imagenet@resnet50")


def of(found: Findings, task: str) -> Calibration:
    one = found.evidence[task].calibration
    assert one is not None
    return one


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibration") / "cells"
    made.write(folder, INITS, ("chestxray14", "montgomery"), range(2), cases=90, images_per_patient=2)
    return folder


def answers(cells: Path, init: str) -> list[tuple[Array, Array, Path]]:
    found = []
    for path in sorted(cells.glob("chestxray14/*/cell.json")):
        if read_result(path).init == init:
            table = pd.read_parquet(path.with_name("predictions.parquet"))
            names = [name.removeprefix("target.") for name in map(str, table) if name.startswith("target.")]
            both = (table[[f"{kind}.{name}" for name in names]].to_numpy() for kind in ("target", "probability"))
            found.append((*both, path))
    return found  # type: ignore[return-value]  # two arrays and a path


def test_means_are_those_of_the_runs_scores(cells: Path) -> None:
    found = of(again(cells, ("chestxray14", "montgomery")), "chestxray14")
    assert [one.init for one in found.inits] == list(INITS)
    names = [str(k) for k in range(14)]
    for one in found.inits:
        scores = [metrics.classification_scores(t, p, names) for t, p, _ in answers(cells, one.init)]
        assert one.ece.estimate == pytest.approx(np.mean([score["ece"] for score in scores]), abs=1e-12)
        assert one.brier.estimate == pytest.approx(np.mean([score["brier"] for score in scores]), abs=1e-12)
        parts = one.parts
        assert parts["reliability"] - parts["resolution"] + parts["uncertainty"] == pytest.approx(one.brier.estimate)
        assert one.tempered is None
        assert one.slope is not None
        assert one.slope.low is not None
        assert one.slope.high is not None
        assert one.slope.low < one.slope.estimate < one.slope.high
        assert one.shares.shape == (15, 4)
        assert (one.shares[:, 2] <= one.shares[:, 1]).all()
        assert (one.shares[:, 1] <= one.shares[:, 3]).all()


def test_masks_have_no_calibration_and_rare_labels_are_named(cells: Path) -> None:
    found = again(cells, ("chestxray14", "montgomery"))
    assert found.evidence["montgomery"].calibration is None
    assert of(found, "chestxray14").rare == of(found, "chestxray14").labels  # 45 patients in all
    head, table, brier = section.calibration(found)
    assert (head.slug, table.slug, brier.slug) == ("calibration", "calibration-chestxray14", "brier-chestxray14")
    assert brier.grid is not None
    assert brier.grid.header == ("init", "Brier score", "reliability", "resolution", "uncertainty")
    assert "of these with fewer than 100 patients of one class: Atelectasis" in table.notes[0]
    assert "Lower is better: ECE, Brier score, reliability." in head.notes[0]
    assert table.grid is not None
    assert len(table.grid.header) == 7  # as many as stand side by side on a page
    assert table.grid.rows[0][3].text == "-"


def test_a_temperature_of_val_is_applied(cells: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cells"
    shutil.copytree(cells, folder)
    for path in folder.glob("chestxray14/*/cell.json"):
        cell = json.loads(path.read_text())
        cell["scores"] |= {f"temperature.{name}": 2.0 for name in cell["tested"]}
        path.write_text(json.dumps(cell))
    one = of(again(folder, ("chestxray14", "montgomery")), "chestxray14").inits[0]
    names = [str(k) for k in range(14)]
    halved = [special.expit(special.logit(p) / 2) for _, p, _ in answers(folder, one.init)]
    truths = [t for t, _, _ in answers(folder, one.init)]
    errors = [metrics.classification_scores(t, p, names)["ece"] for t, p in zip(truths, halved, strict=True)]
    assert one.tempered is not None
    assert one.tempered.estimate == pytest.approx(np.mean(errors), abs=1e-9)
    assert one.temperature == pytest.approx(2.0)
    path = next(path for path in sorted(folder.glob("chestxray14/*/cell.json")) if f'"{one.init}"' in path.read_text())
    cell = json.loads(path.read_text())
    cell["scores"] = {name: value for name, value in cell["scores"].items() if not name.startswith("temperature.")}
    path.write_text(json.dumps(cell))
    cold = next(
        each for each in of(again(folder, ("chestxray14", "montgomery")), "chestxray14").inits if each.init == one.init
    )
    assert (cold.tempered, cold.temperature) == (None, None)  # no mean over the seeds that have one


def run(seed: int, template: Result) -> Result:
    return dataclasses.replace(template, seed=seed, init="a")


@pytest.fixture(scope="module")
def template(cells: Path) -> Result:
    return read_result(next(iter(sorted(cells.glob("chestxray14/*/cell.json")))))


def simulated(
    rng: np.random.Generator, template: Result, *, seeds: int = 5, images: int = 600, labels: int = 1,
    slope: float = 1.0, shift: float = 0.0,
) -> tuple[list[Result], Predictions]:  # fmt: skip
    """Draws seeds whose probabilities are each right, given what the seed sees; then moves their logits.

    What is seen of a positive is one normal number, of a negative another, a part of it common to all seeds: then log
    odds are linear in it.
    """
    number = images // 2
    truth = (rng.random((images, labels)) < 0.3).astype(np.int8)
    apart, common = 1.5, 0.7
    hard = np.sqrt(common) * rng.standard_normal((images, labels))
    seen = apart * (truth - 0.5) + hard + np.sqrt(1 - common) * rng.standard_normal((seeds, images, labels))
    odds = np.log(0.3 / 0.7) + apart * seen
    given = (odds - shift) / slope  # then the truth has this slope and, with it, this shift
    predictions = Predictions(
        patients=np.arange(images) % number, labels=tuple(map(str, range(labels))), truth=truth,
        answers=special.expit(given),
    )  # fmt: skip
    return [run(seed, template) for seed in range(seeds)], predictions


def measured(rng: np.random.Generator, template: Result, inits: int = 1, **how: Any) -> Findings:
    """Compares nothing but the calibration of some inits, which is all that its sentence reads."""
    every = list[calibration.Calibrated]()
    for number in range(inits):
        runs, predictions = simulated(rng, template, **how)
        found = calibrate(runs, predictions, {f"init{number}": [[k] for k in range(len(runs))]}, 0.95)
        assert found is not None
        every.extend(found.inits)
        whole = found
    evidence = Evidence(task="t", unit="patient", calibration=dataclasses.replace(whole, inits=tuple(every)))
    settings = params.load(ROOT / "params.yaml").comparison
    held: Any = type("Held", (), {"evidence": {"t": evidence}, "settings": settings})
    return held  # type: ignore[no-any-return]  # two fields of findings, and no other is read


def test_the_order_of_images_and_of_labels_decides_nothing(template: Result) -> None:
    runs, known = simulated(np.random.default_rng(0), template, images=200, labels=3)
    order, columns = np.random.default_rng(1).permutation(200), [2, 0, 1]
    other = Predictions(
        patients=known.patients[order], labels=tuple(known.labels[k] for k in columns),
        truth=known.truth[order][:, columns], answers=known.answers[:, order][:, :, columns],
    )  # fmt: skip
    units = {"a": [[k] for k in range(5)]}
    one, two = (calibrate(runs, each, units, 0.95) for each in (known, other))
    assert one is not None
    assert two is not None
    for name in ("ece", "brier", "slope", "intercept"):
        first, second = (dataclasses.astuple(getattr(each.inits[0], name))[:-1] for each in (one, two))  # no `joint`
        assert [x for x in first if x is not None] == pytest.approx([x for x in second if x is not None], abs=1e-9)
    assert one.inits[0].shares == pytest.approx(two.inits[0].shares)
    assert one.inits[0].benefit == pytest.approx(two.inits[0].benefit)


def test_an_image_whose_label_is_not_known_counts_for_nothing_there(template: Result) -> None:
    runs, known = simulated(np.random.default_rng(2), template, images=200)
    kept = known.patients < 60
    truth = np.where(kept[:, None], known.truth, -1)
    units = {"a": [[k] for k in range(5)]}
    part = Predictions(
        patients=known.patients[kept], labels=known.labels, truth=known.truth[kept], answers=known.answers[:, kept]
    )
    one = calibrate(runs, dataclasses.replace(known, truth=truth), units, 0.95)
    two = calibrate(runs, part, units, 0.95)
    assert one is not None
    assert two is not None
    assert one.inits[0].ece.estimate == pytest.approx(two.inits[0].ece.estimate)
    slopes = one.inits[0].slope, two.inits[0].slope
    assert slopes[0] is not None
    assert slopes[1] is not None
    assert slopes[0].low == pytest.approx(slopes[1].low, rel=0.02)  # other degrees of freedom


def test_of_a_large_test_set_the_first_seeds_are_measured(template: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, known = simulated(np.random.default_rng(3), template, images=100)
    units = {"a": [[k] for k in range(5)]}
    monkeypatch.setattr(calibration, "VALUES", 400)
    found = calibrate(runs, known, units, 0.95)
    assert found is not None
    assert found.inits[0].seeds == 4
    monkeypatch.setattr(calibration, "VALUES", 1)
    least = calibrate(runs, known, units, 0.95)
    assert least is not None
    assert least.inits[0].seeds == calibration.LEAST


def test_scores_that_are_no_probabilities_are_not_calibrated(template: Result) -> None:
    runs, known = simulated(np.random.default_rng(4), template, images=100)
    units = {"a": [[k] for k in range(5)]}
    assert calibrate(runs, dataclasses.replace(known, answers=8 * known.answers), units, 0.95) is None


@pytest.mark.slow
@pytest.mark.parametrize(("images", "labels", "seeds"), [(200, 1, 3), (600, 1, 10), (600, 4, 5)])
def test_calibrated_probabilities_raise_few_alarms(template: Result, images: int, labels: int, seeds: int) -> None:
    rng, wrong = np.random.default_rng(11), 0
    repeats = 400
    for _ in range(repeats):
        found = measured(rng, template, inits=4, images=images, labels=labels, seeds=seeds)
        wrong += bool(section.miscalibrated(found)[0])
    print(f"\n{images} images, {labels} labels, {seeds} seeds: {wrong} of {repeats} benchmarks of 4 inits")
    assert wrong <= 0.05 * repeats


@pytest.mark.slow
@pytest.mark.parametrize(
    ("images", "slope", "shift", "power"),
    [(600, 0.5, 0.0, 0.95), (200, 0.5, 0.0, 0.5), (600, 1.0, 0.5, 0.95), (600, 1.0, -0.5, 0.95)],
)
def test_planted_miscalibration_is_found(
    template: Result, images: int, slope: float, shift: float, power: float
) -> None:
    rng, alarms, means = np.random.default_rng(12), 0, []
    for _ in range(100):
        found = measured(rng, template, images=images, slope=slope, shift=shift, seeds=5)
        alarms += bool(section.miscalibrated(found)[0])
        one = of(found, "t").inits[0]
        assert one.slope is not None
        means.append(one.slope.estimate)
    print(f"\n{images} images, slope {slope}, shift {shift}: found {alarms} of 100, mean slope {np.mean(means):.3f}")
    assert alarms >= 100 * power
    assert np.mean(means) == pytest.approx(slope, abs=0.04)
