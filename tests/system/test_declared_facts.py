"""What is declared of tasks and weights arrives in the comparison without training; results hold what was measured."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from sklearn.metrics import average_precision_score

from medtransfer import params
from medtransfer.comparison import findings, published, selection
from medtransfer.core.errors import UserError
from medtransfer.data import catalog
from medtransfer.data.catalog import TASKS
from medtransfer.data.tasks import applicable, contaminated, image_groups, origins
from medtransfer.params import OwnInit
from medtransfer.registry import decision
from medtransfer.results import result
from medtransfer.runs import benchmark
from medtransfer.runs import run as runs
from medtransfer.training.trainer import Trainer
from medtransfer.weights.names import parse, seen
from tests.conftest import TOP
from tests.support import fakes, results, workspace

RANDOM, IMAGENET, CONTINUED = "random@resnet50", "imagenet@resnet50", "imagenet@resnet50+chestxray14"
OWN = {
    "kind": "binary", "labels": ["Sick"], "arrays": "mine.npz", "patient": "none", "split": "official",
    "image_size": 32, "metric": "auc", "margin": 0.02,
}  # fmt: skip


@pytest.fixture(autouse=True)
def as_released(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "look_up", results.LOOK_UP)


def describe(root: Path, name: str = "mine", **changes: Any) -> None:
    folder = root / "data/raw" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.yaml").write_text(yaml.safe_dump(OWN | changes))


def measured_on_mine(root: Path, tmp: Path) -> Path:
    """Writes runs of shenzhen's, renamed to a task of one's own, with average precision beside AUC."""
    results.write(tmp / "made", {RANDOM: 0.0, IMAGENET: 0.5}, ("shenzhen",), range(3), cases=40)
    (tmp / "made/shenzhen").rename(tmp / "made/mine")
    for path in (tmp / "made").rglob("cell.json"):
        cell = json.loads(path.read_text())
        cell |= {"task": "mine", "dataset": "mine", "manifest_digest": "m-mine"}
        table = pd.read_parquet(path.parent / "predictions.parquet")
        precision = average_precision_score(table["target.Tuberculosis"], table["probability.Tuberculosis"])
        cell["scores"] |= {"test_average_precision": float(precision), "best_val_average_precision": 0.5}
        path.write_text(json.dumps(cell))
    return tmp / "made"


def compared(folder: Path, root: Path, inits: tuple[str, ...] = (RANDOM, IMAGENET), task: str = "mine") -> Any:
    base = params.load(TOP / "params.yaml", {"comparison.resamples": "0", "comparison.against": "[]"})
    wanted = params.Benchmark(inits=inits, tasks=(task,), seeds=(0, 1, 2), recipes=("fixed",))
    return findings.find(folder, wanted, base, root, IMAGENET)


def test_a_result_holds_no_fact(tmp_path: Path) -> None:
    results.write(tmp_path, {RANDOM: 0.0}, ("siim",), (0,), cases=40)
    (path,) = tmp_path.rglob("cell.json")
    assert not {"metric", "margin", "derived_from", "group"} & set(json.loads(path.read_text()))
    (cell,) = selection.collect(tmp_path, tmp_path)
    assert (cell.metric, cell.margin, cell.images) == ("dice_positives", 0.01, ("chestxray14", "siim"))


def test_a_margin_and_a_metric_that_are_changed_arrive_at_once(tmp_path: Path) -> None:
    folder = measured_on_mine(tmp_path, tmp_path)
    describe(tmp_path)
    before = compared(folder, tmp_path)
    assert {c.margin for c in before.contrasts} == {0.02}
    describe(tmp_path, margin=0.3)
    wider = compared(folder, tmp_path)
    assert {c.margin for c in wider.contrasts} == {0.3}
    describe(tmp_path, metric="average_precision")
    other = compared(folder, tmp_path)
    for found, metric in ((wider, "auc"), (other, "average_precision")):
        row = found.rows[1]
        own = [cell.scores[f"test_{metric}"] for cell in found.results if cell.init == row.init]
        assert row.scores == tuple(own)
    assert other.rows[1].val == 0.5


def benchmark_of(task: str) -> params.Benchmark:
    return params.Benchmark(inits=(RANDOM, IMAGENET), tasks=(task,), seeds=(0, 1, 2), recipes=("fixed",))


def test_a_metric_that_was_not_measured_is_named_with_what_to_run(tmp_path: Path) -> None:
    folder = measured_on_mine(tmp_path, tmp_path)
    for path in folder.rglob("cell.json"):
        cell = json.loads(path.read_text())
        path.write_text(json.dumps(cell | {"kind": "multiclass", "measured": ["auc", "average_precision"]}))
    describe(tmp_path, kind="multiclass", labels=["a", "b"], ordinal=True, metric="kappa")
    words = r"task mine: its metric is kappa, which 6 of its 6 runs did not measure: .*Run `benchmark`.*auc, average"
    with pytest.raises(UserError, match=words):
        selection.select(selection.collect(folder, tmp_path), benchmark_of("mine"))


def test_a_file_of_an_earlier_version_is_read_and_its_facts_are_not(tmp_path: Path) -> None:
    folder = measured_on_mine(tmp_path, tmp_path)
    for path in folder.rglob("cell.json"):
        cell = json.loads(path.read_text())
        del cell["measured"], cell["spared"]
        frozen = {"metric": "dice", "margin": 9.0, "derived_from": ["drive"], "marks": ["synthetic", "contaminated"]}
        path.write_text(json.dumps(cell | frozen))
    describe(tmp_path)
    for cell in selection.collect(folder, tmp_path):
        assert (cell.metric, cell.margin, cell.images, cell.marks) == ("auc", 0.02, ("mine",), ("synthetic",))
        assert cell.measured == ("auc", "average_precision")


def test_an_earlier_file_s_search_for_patients_is_kept(tmp_path: Path) -> None:
    results.write(tmp_path, {CONTINUED: 0.0}, ("siim",), (0, 1), cases=40)
    for path in tmp_path.rglob("cell.json"):
        cell = json.loads(path.read_text())
        del cell["measured"], cell["spared"]
        marks = ["synthetic"] if cell["seed"] else ["synthetic", "contaminated"]
        path.write_text(json.dumps(cell | {"derived_from": ["chestxray14"], "marks": marks}))
    marked = {cell.seed: (cell.marks, cell.spared) for cell in selection.collect(tmp_path, tmp_path)}
    assert marked == {0: (("synthetic", "contaminated"), ()), 1: (("synthetic",), ("chestxray14",))}


def test_datasets_that_an_init_is_later_said_to_have_seen_arrive_in_tests_ranks_and_gate(tmp_path: Path) -> None:
    ours = f"ours@{fakes.BACKBONE}"
    results.write(tmp_path / "cells", {IMAGENET: 0.0, ours: 1.0}, ("siim",), range(3), cases=60)

    def find(*datasets: str) -> findings.Findings:
        parse("ours", "x", {"ours": OwnInit(file="w.pth", backbone=fakes.BACKBONE, datasets=datasets)})
        found: findings.Findings = compared(tmp_path / "cells", tmp_path, (IMAGENET, ours), "siim")
        return found

    clean = find()
    assert [row.compared for row in clean.rows] == [True, True]
    assert {one.init for one in decision.select(clean)} == {ours}
    seen_before = find("chestxray14")
    assert [(row.marks, row.compared) for row in seen_before.rows][1] == (("contaminated", "synthetic"), False)
    assert {one.init for one in decision.select(seen_before)} == {IMAGENET}
    assert [row.applicable for row in find("siim").rows] == [True, False]
    assert [row.compared for row in find().rows] == [True, True]


def test_facts_of_a_task_that_is_not_described_here_are_read_beside_its_runs(tmp_path: Path) -> None:
    folder = measured_on_mine(tmp_path, tmp_path)
    with pytest.raises(UserError, match=r"looked for its metric and margin in data/raw/mine/task.yaml and beside"):
        compared(folder, tmp_path)
    describe(tmp_path, margin=0.07, derived_from=["drive"])
    result.write_facts(catalog.lookup("mine", tmp_path), folder / "mine")
    shutil.rmtree(tmp_path / "data")
    found = compared(folder, tmp_path)
    assert {c.margin for c in found.contrasts} == {0.07}
    assert found.results[0].group == "drive"


# Trained


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return workspace.make(tmp_path, TOP, "shenzhen")


def trained(root: Path, task: str = "shenzhen") -> list[dict[str, Any]]:
    here = fakes.load_params(root)
    planned = runs.plan(here, root, here.benchmark.inits, (task,), (0,))
    found = benchmark.run_all(planned)
    benchmark.write_results(planned, root / "data/results/cells" / task)
    return found


def test_every_metric_of_the_kind_is_measured_at_every_epoch_and_another_one_needs_no_training(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cell,) = trained(root)
    assert {"test_auc", "best_val_auc", "test_average_precision", "best_val_average_precision"} <= set(cell["scores"])
    assert all({"val_auc", "val_average_precision"} <= set(epoch) for epoch in cell["history"])
    monkeypatch.setitem(TASKS, "shenzhen", dataclasses.replace(TASKS["shenzhen"], metric="average_precision"))
    monkeypatch.setattr(Trainer, "run", lambda *_: pytest.fail("trained again"))
    assert trained(root) == [cell]
    (found,) = selection.collect(root / "data/results/cells", root)
    assert found.score == cell["scores"]["test_average_precision"]


def test_a_run_that_did_not_measure_the_metric_is_done_again(root: Path) -> None:
    (cell,) = trained(root)
    path = root / "data/runs" / cell["digest"] / "cell.json"
    path.write_text(json.dumps(cell | {"measured": ["average_precision"]}))
    (again,) = trained(root)
    assert (again["digest"], again["scores"]) == (cell["digest"], cell["scores"])
    assert again["measured"] == ["auc", "average_precision"]


# One rule each


def test_a_task_has_the_name_of_its_dataset() -> None:
    assert all(task.name == task.dataset for task in TASKS.values())


@pytest.mark.parametrize(
    ("before", "dataset", "found"),
    [
        ({"chestxray14"}, "siim", True),  # the task re-releases what was seen
        ({"siim"}, "chestxray14", True),  # what was seen re-releases the task
        ({"chestmnist"}, "siim", True),  # both are taken from a third
        ({"copy"}, "chestxray14", True),  # at two removes
        ({"chestxray14"}, "chestxray14", False),  # not applicable, which is another word
        ({"chexpert"}, "siim", False),
        (set(), "siim", False),
    ],
)
def test_contamination_looks_in_every_direction(before: set[str], dataset: str, found: bool) -> None:
    derived = {"siim": ("chestxray14",), "chestmnist": ("chestxray14",), "copy": ("chestmnist",)}
    assert contaminated(before, dataset, derived) is found
    assert applicable(before, dataset) is (dataset not in before)


def test_tasks_that_share_images_have_one_group_whichever_of_their_sources_comes_first() -> None:
    derived = {"one": ("b", "a"), "two": ("a",), "three": ("b", "c"), "loop": ("loop",)}
    names = ("one", "two", "three", "alone", "loop")
    assert image_groups({name: origins(name, derived) for name in names}) == {
        "one": "a", "two": "a", "three": "a", "alone": "alone", "loop": "loop",
    }  # fmt: skip
    assert image_groups({"two": origins("two", derived), "c": origins("c", derived)}) == {"two": "a", "c": "c"}


def test_runs_comparison_claims_and_papers_agree_on_who_saw_what(tmp_path: Path) -> None:
    describe(tmp_path, "copy", derived_from=["montgomery", "drive"])
    name = f"random@{fakes.BACKBONE}+copy"
    assert seen(name) == {"copy"}
    results.write(tmp_path / "cells", {name: 0.0, IMAGENET: 0.1}, ("montgomery",), range(3), cases=40, spared=[])
    found = compared(tmp_path / "cells", tmp_path, (name, IMAGENET), "montgomery")
    assert found.rows[0].marks == ("contaminated", "synthetic")
    here = fakes.load_params(TOP)
    run = runs.Run(
        init=parse(name, "x"), task="montgomery", seed=0, params=here, device="cpu", prepared=tmp_path,
        manifest_digest="m", marks=(), weights_sha256="w", root=tmp_path,
    )  # fmt: skip
    assert run.marked == ("contaminated",)
    shared = {cell.group for cell in found.results}
    assert shared == {"montgomery"}
    siim = [row for row in published.read(TOP / "presets/paper_results.csv", n=10) if row.task == "siim"]
    assert {row.group for row in siim} == {"chestxray14"}


def test_an_own_dataset_that_re_releases_a_task_contaminates_claims_too(tmp_path: Path) -> None:
    describe(tmp_path, "copy", derived_from=["montgomery"])
    name = "imagenet@resnet50+copy"
    effects = {name: 0.5, IMAGENET: 0.0, RANDOM: -0.5}
    results.write(tmp_path / "cells", effects, ("montgomery",), range(3), cases=40, spared=[])
    base = params.load(
        TOP / "params.yaml",
        {"comparison.resamples": "0", "comparison.against": "[]", "comparison.as_published": "true"},
    )
    claim = params.Claim(says="says", better="imagenet+X", than=("imagenet",), tasks=("all",), minus=())
    base = dataclasses.replace(base, claims={"mine": claim})
    wanted = params.Benchmark(inits=(name, IMAGENET), tasks=("montgomery",), seeds=(0, 1, 2), recipes=("fixed",))
    verdicts = findings.find(tmp_path / "cells", wanted, base, tmp_path, IMAGENET).claims["mine"]
    assert [part.contaminated for verdict in verdicts for part in verdict.parts] == [True]
