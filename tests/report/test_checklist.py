"""The checklist: what it fills in is what the findings say, and it claims nothing that they do not."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtransfer import params
from medtransfer.comparison import findings
from medtransfer.comparison.away import AwayScore, AwayTask
from medtransfer.comparison.away import Measured as Fall
from medtransfer.comparison.controls import Controls
from medtransfer.comparison.degradation import Degradation
from medtransfer.comparison.findings import Findings
from medtransfer.comparison.wording import first_lines
from medtransfer.report import checklist_facts, write
from medtransfer.report.checklist import AUTHORS, ITEMS, OF_AUTHORS, UNKNOWN, render
from tests.support import results

ROOT = Path(__file__).parents[2]
INITS = {"imagenet@resnet50": 0.5, "random@resnet50": 0.0}
TASKS = ("shenzhen", "montgomery")


def find(folder: Path) -> Findings:
    here = params.load(ROOT / "params.yaml", {"comparison.resamples": "50", "comparison.against": "[]"})
    benchmark = params.Benchmark(inits=tuple(INITS), tasks=TASKS, seeds=(0, 1, 2), recipes=("fixed",))
    return findings.find(folder, benchmark, here, ROOT, next(iter(INITS)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("cells")
    results.write(where, INITS, TASKS, range(3), cases=160)
    return where


@pytest.fixture(scope="module")
def found(folder: Path) -> Findings:
    return find(folder)


def line(words: list[str], begins: str) -> str:
    return next(one for one in words if one.startswith(begins))


def test_data_splits_and_numbers_are_those_of_the_runs(found: Findings) -> None:
    first = next(one for one in found.results if one.task == "shenzhen")
    source = line(checklist_facts.data_sources(found), "shenzhen")
    assert f"dataset {first.dataset}," in source
    assert ("SYNTHETIC" in source) == ("synthetic" in first.marks)
    counted = line(checklist_facts.numbers(found), "shenzhen")
    for split, number in first.counts.items():
        assert f"{split} {number:,}" in counted
    assert f"test patients: {found.evidence['shenzhen'].patients:,}" in counted
    assert f"split {first.split}; unit {first.unit}; no leak" in line(checklist_facts.partitions(found), "shenzhen")


def test_robustness_names_what_test_images_were_worsened_by_and_the_controls(found: Findings) -> None:
    worse = Degradation(metric="auc", kinds=("blur", "noise"), severities=(1, 5), chance=0.5, seeds=3, inits=())
    asked = Controls(
        asked=("prior",), points=(), against=(), alarms=(), missing=(), runs=(), level=0.95, alpha=0.03, masks=()
    )  # fmt: skip
    words = checklist_facts.robustness(dataclasses.replace(found, degradations={"shenzhen": worse}, controls=asked))
    assert words[1:] == ["shenzhen: test images made worse by blur, noise (severity 1, 5 of 5)", "controls: prior"]
    single = dataclasses.replace(found, benchmark=dataclasses.replace(found.benchmark, seeds=(0,)))
    assert checklist_facts.robustness(single)[0].startswith("1 seed, one split")


def test_marks_of_a_leak_are_told(found: Findings) -> None:
    leaking = [dataclasses.replace(one, marks=(*one.marks, "leak-report")) for one in found.results]
    words = checklist_facts.partitions(dataclasses.replace(found, results=tuple(leaking)))
    assert all(one.endswith("marked leak-report") for one in words)


def test_scores_metrics_and_uncertainty_are_those_of_the_findings(found: Findings) -> None:
    row = next(row for row in found.rows if (row.task, row.init) == ("montgomery", "imagenet@resnet50"))
    assert row.summary is not None
    interval = found.evidence["montgomery"].intervals["imagenet@resnet50"]
    assert interval.low is not None
    score = line(checklist_facts.performance(found), "montgomery, imagenet@resnet50")
    assert f"{100 * row.summary.mean:.2f} ± " in score
    assert f"over 3 seeds ({100 * interval.low:.2f} to " in score
    assert line(checklist_facts.measures(found), "montgomery").startswith(
        "montgomery: Dice, margin 0.5 points: overlap"
    )
    sure = checklist_facts.uncertainty(found)[0]
    assert f"{len(found.contrasts)} comparisons at once at {found.alpha:.4g}" in sure


def test_calibration_is_that_of_the_findings_and_masks_have_none(found: Findings) -> None:
    words = checklist_facts.calibration(found)
    measured = found.evidence["shenzhen"].calibration
    assert measured is not None
    for one in measured.inits:
        assert one.slope is not None
        told = line(words, f"shenzhen, {one.init}")
        assert f"expected calibration error {one.ece.estimate:.3f} (" in told
        assert f"slope {one.slope.estimate:.3f} (" in told
    assert "montgomery: not measured (segmentation)" in words


def test_a_study_without_subgroups_says_so_and_with_them_names_them(found: Findings, tmp_path: Path) -> None:
    assert checklist_facts.subgroups(found) == [
        "no subgroup was scored: the predictions carry no groups of patients"
    ]  # fmt: skip
    results.write(tmp_path, INITS, TASKS, range(3), cases=160)
    for path in tmp_path.glob("shenzhen/*/predictions.parquet"):
        table = pd.read_parquet(path)
        table["group.sex"] = np.where(np.arange(len(table)) % 2 == 0, "F", "M")
        table.to_parquet(path, index=False)
    grouped = find(tmp_path)
    [told] = checklist_facts.subgroups(grouped)
    patients = grouped.evidence["shenzhen"].subgroups[0].patients
    assert (
        told == f"shenzhen, sex: scored in F {patients['F']}, M {patients['M']} (patients of test), over Tuberculosis"
    )


def test_another_site_is_told_with_its_drops_and_its_absence_too(found: Findings) -> None:
    assert checklist_facts.external(found) == []
    fell = Fall(estimate=0.0312, low=None, high=None)
    one = AwayScore(init="imagenet@resnet50", home=fell, away=fell, drop=fell, joint=None, barred="")
    seen = dataclasses.replace(one, init="swav@resnet50", barred="its weights saw images of that site")
    site = AwayTask(
        task="far",
        metric="auc",
        labels=("Tuberculosis",),
        images=1200,
        patients=800,
        marks=("partial",),
        inits=(one, seen),
    )
    none = AwayTask(task="near", images=3, marks=(), note="fewer than 10 patients of a class in one of the two tests")
    assert checklist_facts.external(dataclasses.replace(found, away={"shenzhen": (site, none)})) == [
        "shenzhen, read on 1,200 test images of far (partial), 800 patients: AUC over Tuberculosis, home minus "
        "there in "
        "points: imagenet@resnet50 +3.12",
        "shenzhen, read on 3 test images of near: not compared, fewer than 10 patients of a class in one of the "
        "two tests",
    ]


def test_training_software_and_seeds_are_those_of_the_runs(found: Findings) -> None:
    first = found.results[0]
    assert "seeds: 0, 1, 2" in checklist_facts.training(found)
    words = " ".join(checklist_facts.training(found) + checklist_facts.selection(found))
    for name, value in first.params.items():
        field = name.partition(".")[2]
        if field in ("lr", "batch_size", "monitor"):
            assert f"{field} {value}" in words
    assert all(f"{name} {version}" in checklist_facts.software(found)[0] for name, version in first.versions.items())
    assert f"devices: {first.device}; {len(found.results)} runs" in checklist_facts.hardware(found)[0]
    drawn = [dataclasses.replace(one, weights_sha256="random") for one in found.results if "random" in one.init]
    told = checklist_facts.initialization(dataclasses.replace(found, results=tuple(drawn)))
    assert told == ["random@resnet50: drawn from the seed"]
    hashed = line(checklist_facts.initialization(found), "imagenet@resnet50")
    assert str(next(one.weights_sha256 for one in found.results if "imagenet" in one.init))[:12] in hashed


def test_missing_runs_are_told(folder: Path, tmp_path: Path) -> None:
    results.write(tmp_path, INITS, TASKS, range(3), cases=40)
    benchmark = params.Benchmark(inits=tuple(INITS), tasks=TASKS, seeds=(0, 1, 2, 3), recipes=("fixed",))
    here = params.load(ROOT / "params.yaml", {"comparison.resamples": "0", "comparison.against": "[]"})
    few = findings.find(tmp_path, benchmark, here, ROOT, next(iter(INITS)))
    assert "shenzhen imagenet@resnet50: 1 missing, 0 without a score" in checklist_facts.missing(few)[0]
    assert checklist_facts.missing(find(folder))[0] == "runs: none of the benchmark is missing"


def test_nothing_is_claimed_that_the_runs_do_not_show(found: Findings) -> None:
    text = render(found, ["Synthetic."])
    assert text.startswith("Synthetic.\n\n# Checklist")
    rows = {row.split(" | ")[0].removeprefix("| "): row for row in text.splitlines() if row.startswith("| ")}
    for item in ITEMS:
        assert (UNKNOWN in rows[item.asks]) == (not item.known(found)), item.asks
        if item.rest and item.known(found):
            assert f"{AUTHORS} To add: {item.rest}." in rows[item.asks]
    for asks, tripod, claim in OF_AUTHORS:
        assert rows[asks] == f"| {asks} | {tripod} | {claim} | {AUTHORS} |"
    assert UNKNOWN in rows["test on data of another place"]
    assert not re.search(r"\b(fulfilled|complies|compliant|satisfied|yes)\b|[✓✔☑]", text)


def test_every_item_of_both_lists_is_somewhere() -> None:
    def numbers(texts: list[str]) -> set[str]:
        found = set[str]()
        for part in ", ".join(texts).split(", "):
            first, _, last = part.partition(" to ")
            heads = [re.match(r"\d+", one) for one in (first, last or first)]
            if heads[0] and heads[1]:
                found |= {str(k) for k in range(int(heads[0][0]), int(heads[1][0]) + 1)}
        return found

    tripod = numbers([item.tripod for item in ITEMS] + [one for _, one, _ in OF_AUTHORS])
    claim = numbers([item.claim for item in ITEMS] + [one for _, _, one in OF_AUTHORS])
    assert claim == {str(k) for k in range(1, 45)}
    assert tripod == {str(k) for k in range(1, 28)}


def test_it_is_written_with_the_report_and_linked_on_its_page(
    found: Findings, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "_draw", lambda findings, images, folder: {})
    write.write(found, params.load(ROOT / "presets/paper.yaml"), folder, tmp_path)
    text = (tmp_path / "report/checklist.md").read_text()
    assert text == render(found, first_lines(found.results))
    assert '<a href="checklist.md">' in (tmp_path / "report/index.html").read_text()
