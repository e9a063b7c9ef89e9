"""Every task record from phantom to test score, and tasks of one's own as the README describes them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from medtransfer import params, tracking
from medtransfer.data import catalog, prepare
from medtransfer.data.catalog import TASKS
from medtransfer.data.phantoms import write
from medtransfer.data.readers import reading as datasets
from medtransfer.params import Params
from medtransfer.runs import benchmark, finished
from medtransfer.runs import run as runs
from tests.support import workspace
from tests.support.quick import quick

EXTRA = {
    "rsna_pe": ("exam_auc", "exams"),
    "siim": ("dice_positives", "false_positive_rate", "dice_pooled", "native_dice_positives"),
    "drive": ("native_dice", "fov_dice", "observer2_dice"),
    "chexpert": ("auc.Edema", "auc.Fracture", "labels_defined", "ece", "ece_tempered", "calibration_intercept"),
}
"""scores that a task has beside its primary one"""


@pytest.fixture(scope="module")
def root(top: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with phantoms of every dataset and one MLflow database."""
    return workspace.make(tmp_path_factory.mktemp("contract"), top, *TASKS)


def load(root: Path, **changes: str) -> Params:
    short = {"classification.max_epochs": "1", "segmentation.max_epochs": "1", "execution.workers": "1"}
    return params.load(root / "params.yaml", short | changes, catalog.sizes(root))


def train(root: Path, task: str, **changes: str) -> list[dict[str, Any]]:
    """Fine-tunes random weights on a task for one epoch."""
    return benchmark.run_all(runs.plan(load(root, **changes), root, ["random"], [task], [0]))


@pytest.mark.parametrize("name", quick(TASKS, "chexpert", "drive"))
def test_every_task_goes_from_phantom_to_test_score(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = TASKS[name]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
    assert task.metric in task.measured
    (cell,) = train(root, task.name)
    scores = cell["scores"]
    assert 0 <= scores[f"test_{task.metric}"] <= 1
    assert {f"test_{name}" for name in EXTRA.get(task.name, ())} <= set(scores)
    assert cell["labels"] == len(task.tested or task.labels)
    assert cell["unit"] == task.unit
    prepared = root / "data/prepared" / task.name / "phantoms"
    manifest = json.loads((prepared / "manifest.json").read_text())
    assert manifest["marks"] == ["synthetic"]
    assert (prepared / "samples.png").stat().st_size > 10_000
    table = pd.read_parquet(prepared / "samples.parquet")
    assert table.groupby("patient")["split"].nunique().max() == 1
    named = {sample.id for sample in datasets.read(task, root / "data/phantoms" / task.dataset)}
    assert bool(named & set(table["id"])) is not task.hashed_ids
    predictions = pd.read_parquet(next(root.glob(f"data/runs/{cell['digest']}/predictions.parquet")))
    assert len(predictions) == manifest["counts"]["test"]
    groups = ["group.age", "group.sex", "group.view"] if task.name in ("chexpert", "chestxray14") else []
    assert sorted(name for name in map(str, predictions) if name.startswith("group.")) == groups


def test_the_means_of_chexpert_are_over_five_labels_of_which_none_is_uncertain(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
    (cell,) = train(root, "chexpert")
    scores = cell["scores"]
    five = [scores[f"test_auc.{label.replace(' ', '_')}"] for label in TASKS["chexpert"].tested]
    assert scores["test_auc"] == pytest.approx(np.mean(five))
    table = pd.read_parquet(root / "data/prepared/chexpert/phantoms/samples.parquet")
    labels = table[list(TASKS["chexpert"].labels)]
    assert (labels[table["split"] == "train"] == -1).any(axis=None)
    assert (labels[table["split"] == "test"] >= 0).all(axis=None)
    assert "classification.uncertain" in cell["params"]


def test_only_a_task_with_uncertain_labels_depends_on_their_policy(root: Path) -> None:
    def digests(task: str, policy: str) -> list[str]:
        planned = runs.plan(load(root, **{"classification.uncertain": policy}), root, ["random"], [task], [0])
        return [run.digest for run in planned]

    assert digests("chexpert", "ones") != digests("chexpert", "zeros")
    assert digests("shenzhen", "ones") == digests("shenzhen", "zeros")


def readme_blocks(top: Path) -> tuple[str, str]:
    """Gives the table and the description that the README shows."""
    section = (top / "README.md").read_text().split("## Your own data")[1].split("\n## ")[0]
    blocks = re.findall(r"```\w*\n(# \S*(?:images\.csv|task\.yaml)\n.*?)```", section, flags=re.DOTALL)
    table, description = (block.split("\n", 1)[1] for block in blocks)
    return table, description


def test_the_readme_s_own_task_works_as_written(top: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
    table, description = readme_blocks(top)
    folder = root / "data/raw/tb_screening"
    write.write("shenzhen", root / "drawn", images=40, size=40, seed=3, contrast=1.0)
    (folder / "scans").mkdir(parents=True)
    (folder / "task.yaml").write_text(description)
    header = table.splitlines()[0].split(",")
    rows = []
    for number, path in enumerate(sorted((root / "drawn/CXR_png").iterdir())):
        name = f"scans/{number:04d}.png"
        Image.open(path).save(folder / name)
        rows.append(dict(zip(header, [name, f"P{number // 2:03d}", path.stem[-1]], strict=True)))
    with open(folder / "images.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, header)
        writer.writeheader()
        writer.writerows(rows)
    small = {"tasks.tb_screening.image_size": "32", "tasks.tb_screening.cache_size": "36"}
    cells = train(root, "tb_screening", **small)
    assert [cell["fold"] for cell in cells] == list(range(10))
    assert len({cell["digest"] for cell in cells}) == 10
    assert all(cell["folds"] == 10 and cell["marks"] == [] for cell in cells)
    again = runs.plan(load(root, **small), root, ["random"], ["tb_screening"], [0])
    assert all(finished.finished(run) for run in again)
    client = tracking.connect(root)
    run = client.get_run(cells[3]["mlflow_run_id"])
    assert " · s0 fold 3 · " in run.info.run_name
    assert run.data.params["fold"] == "3"


@pytest.mark.parametrize(
    ("kind", "labels", "settings", "metric"),
    [
        ("multiclass", ["a", "b", "c"], {"ordinal": True, "metric": "kappa"}, "kappa"),
        ("multilabel", ["a", "b"], {}, "auc"),
        ("segmentation", ["top", "disc"], {}, "dice"),
    ],
)
def test_arrays_of_one_s_own(
    root: Path, kind: str, labels: list[str], settings: dict[str, Any], metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
    name = f"arrays-{kind}"
    folder = root / "data/raw" / name
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    content: dict[str, Any] = {}
    for split, count in (("train", 24), ("val", 12), ("test", 12)):
        grades = np.arange(count) % 3
        content[f"{split}_images"] = rng.integers(0, 80, (count, 28, 28, 3), dtype=np.uint8) + grades[
            :, None, None, None
        ].astype(np.uint8) * np.uint8(60)
        content[f"{split}_labels"] = (
            np.stack([grades > 0, grades > 1], axis=1).astype(np.uint8) if kind == "multilabel" else grades[:, None]
        )
        masks = np.zeros((count, 28, 28), dtype=np.uint8)
        masks[:, :10], masks[:, 15:25, 5:20] = 1, 2
        content[f"{split}_masks"] = masks
    np.savez_compressed(folder / "images.npz", **content)
    tree = {"kind": kind, "labels": labels, "arrays": "images.npz", "patient": "none", "split": "official"}
    (folder / "task.yaml").write_text(yaml.safe_dump(tree | {"image_size": 32} | settings))
    (cell,) = train(root, name)
    assert f"test_{metric}" in cell["scores"]
    assert cell["marks"] == ["patients unknown"]
    if kind == "segmentation":
        assert {"test_dice.top", "test_native_dice.disc"} <= set(cell["scores"])


def test_a_split_that_is_left_empty_is_refused(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data/raw/mine"
    folder.mkdir(parents=True)
    Image.new("L", (40, 40)).save(folder / "a.png")
    Image.new("L", (40, 40), 9).save(folder / "b.png")
    (folder / "t.csv").write_text("image,who,part,ill\na.png,1,train,0\nb.png,2,test,1\n")
    tree = {"kind": "binary", "labels": ["ill"], "table": "t.csv", "patient": "who", "split": "part", "image_size": 32}
    (folder / "task.yaml").write_text(yaml.safe_dump(tree))
    loaded = params.load(root / "params.yaml", {}, catalog.sizes(tmp_path))
    with pytest.raises(Exception, match=r"'val': 0, .*correct the split column"):
        prepare.prepare(catalog.lookup("mine", tmp_path), loaded, tmp_path)
