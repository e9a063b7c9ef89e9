from __future__ import annotations

import ast
import importlib
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from timm.data import resolve_model_data_config

import medtransfer as mt
from medtransfer import params as parameters
from medtransfer.cli import data as data_verbs
from medtransfer.comparison import findings, record
from medtransfer.comparison.selection import collect
from medtransfer.core import extras, rng
from medtransfer.runs import finetune
from medtransfer.statistics import t_tests
from medtransfer.weights import backbones, store
from medtransfer.weights.names import parse
from medtransfer.weights.zoo import RECORDS
from tests.support import fakes, results, workspace

RANDOM, IMAGENET = "random@resnet50", "imagenet@resnet50"
CHOSEN: dict[str, Any] = {
    "benchmark.inits": [RANDOM, IMAGENET],
    "benchmark.tasks": ["shenzhen"],
    "benchmark.seeds": [0, 1, 2],
    "comparison.resamples": 100,
}
LR: dict[str, Any] = {"classification.lr": 3e-4}


@pytest.fixture
def root(tmp_path: Path, top: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return workspace.make(tmp_path, top, "shenzhen")


def test_importing_it_imports_nothing_heavy(top: Path) -> None:
    code = "import sys; before = set(sys.modules); import medtransfer; print(sorted(set(sys.modules) - before))"
    answer = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=top,
        env={"PYTHONPATH": "src"},
        capture_output=True,
        text=True,
        check=True,
    )
    new = set(re.findall(r"'([\w.]+)'", answer.stdout))
    assert {name for name in new if name.startswith("medtransfer")} == {"medtransfer"}
    assert {name.split(".")[0] for name in new} - {"medtransfer"} <= sys.stdlib_module_names


def test_tasks_import_no_network_and_no_tracker(top: Path) -> None:
    code = "import sys, medtransfer as mt; mt.tasks(); print({'torch', 'mlflow', 'scipy'} & set(sys.modules))"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=top, env={"PYTHONPATH": "src"}, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "set()"


@pytest.mark.parametrize("module", ["medtransfer", "medtransfer.statistics"])
def test_every_name_that_is_offered_is_there(module: str) -> None:
    offered = importlib.import_module(module)
    assert all(getattr(offered, name) is not None for name in offered.__all__)
    assert set(offered.__all__) <= set(dir(offered))
    with pytest.raises(AttributeError, match="no attribute 'finetine'; it has"):
        offered.finetine  # noqa: B018  # asking is what is tested


def test_statistics_are_those_of_the_tables() -> None:
    assert mt.statistics.t_test is t_tests.t_test
    assert mt.statistics.t_test([1.0, 2.0, 4.0], [0.0, 1.0, 2.0], test="paired").difference == pytest.approx(4 / 3)


# Backbones


def test_a_backbone_holds_the_tensors_of_the_store(root: Path) -> None:
    drawn = backbones.bare_state(fakes.BACKBONE, 5, "one")
    torch.save({"state_dict": drawn}, root / "mine.pth")
    name = f"file:{root / 'mine.pth'}@{fakes.BACKBONE}"
    network, mean, std = mt.backbone(name, root=root)
    kept = store.state(parse(name, fakes.BACKBONE), root, 0, "one")
    assert all(torch.equal(tensor, kept[key]) for key, tensor in network.state_dict().items())
    assert all(torch.equal(kept[key], tensor) for key, tensor in drawn.items())
    assert mean == std == (0.5, 0.5, 0.5)  # what timm says of it


def test_a_random_backbone_is_that_of_a_run_with_its_seed(root: Path) -> None:
    found = mt.backbone("random", seed=3, root=root).network.state_dict()
    wanted = backbones.bare_state(fakes.BACKBONE, rng.seed_of(3, "backbone"), "one")
    assert all(torch.equal(found[key], tensor) for key, tensor in wanted.items())


def test_a_transformer_is_fitted_to_the_side(root: Path) -> None:
    network = mt.backbone("random@test_vit", image_size=96, root=root).network.eval()
    assert network(torch.zeros(1, 3, 96, 96)).shape == (1, 64)


def test_a_model_is_the_backbone_with_a_classifier(root: Path) -> None:
    bare = mt.backbone("random@test_vit", seed=4, image_size=96, root=root)
    model: Any = mt.create_model("random@test_vit", num_classes=14, seed=4, image_size=96, root=root)
    images = torch.randn(2, 3, 96, 96)
    assert model(images).shape == (2, 14)
    again: Any = mt.create_model("random@test_vit", num_classes=14, seed=4, image_size=96, root=root)
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in model.state_dict().items())
    assert resolve_model_data_config(model)["mean"] == bare.mean
    model.reset_classifier(0)
    with torch.inference_mode():
        assert torch.equal(model.eval()(images), bare.network.eval()(images))


def test_weights_that_are_not_those_of_the_receipt_are_refused(root: Path) -> None:
    torch.save(backbones.bare_state(fakes.BACKBONE, 5, "one"), root / "mine.pth")
    name = f"file:{root / 'mine.pth'}@{fakes.BACKBONE}"
    mt.backbone(name, root=root)
    (kept,) = (root / "data/weights/adhoc").glob("*.safetensors")
    data = bytearray(kept.read_bytes())
    data[-1] ^= 1
    kept.write_bytes(data)
    with pytest.raises(mt.UserError, match="differs from its receipt"):
        mt.backbone(name, root=root)


# Fine-tuning


def test_a_fine_tuning_is_the_run_of_the_verb(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medtransfer.cli import training

    result = mt.finetune("random", "shenzhen", 1, root=root, **LR)
    folder = root / "data/runs" / result.digest
    written = (folder / "cell.json").read_text()
    monkeypatch.setattr(finetune, "_train", None)  # whatever the verb trains again fails
    params = parameters.load(root / "params.yaml", {"classification.lr": "3e-4"})
    training.finetune(params, root, "random", "shenzhen", "1")
    assert (folder / "cell.json").read_text() == written
    assert yaml.safe_load(written)["scores"]["test_auc"] == result.score == result.scores["test_auc"]
    assert (result.metric, result.seed, result.params["classification.lr"]) == ("auc", 1, 3e-4)
    as_text: dict[str, Any] = {"classification.lr": "3e-4"}
    assert mt.finetune("random", "shenzhen", 1, root=root, **as_text) == result


def test_a_mistake_is_named_before_work_starts(root: Path) -> None:
    misspelt: dict[str, Any] = {"classification.rl": 1}
    with pytest.raises(mt.UserError, match=r"unknown parameter classification\.rl.*classification\.lr"):
        mt.finetune("random", "shenzhen", root=root, **misspelt)
    with pytest.raises(mt.UserError, match="fold must be one of those of task shenzhen, which has no folds; got 2"):
        mt.finetune("random", "shenzhen", fold=2, root=root)
    with pytest.raises(mt.UserError, match="looked for the parameter file"):
        mt.inits(root=root / "data")
    with pytest.raises(mt.UserError, match=r"found none; run `finetune` first"):
        mt.scores(root=root)


# Preparing


def test_what_is_prepared_is_the_cache_that_a_verb_finds_current(root: Path) -> None:
    small: dict[str, Any] = {"tasks.shenzhen.image_size": 24, "tasks.shenzhen.cache_size": 24}
    prepared = mt.prepare("shenzhen", root=root, **small)
    assert isinstance(prepared, mt.Prepared)
    assert prepared.images.shape == (40, 24, 24)
    assert prepared.samples["split"].value_counts().to_dict() == {"train": 28, "test": 8, "val": 4}
    assert (prepared.folder, prepared.marks) == (root / "data/prepared/shenzhen/phantoms", ("synthetic",))
    built = {path: path.stat().st_mtime_ns for path in prepared.folder.iterdir()}
    texts = {name: str(value) for name, value in small.items()}
    data_verbs.prepare(parameters.load(root / "params.yaml", texts), root, "shenzhen")
    assert {path: path.stat().st_mtime_ns for path in prepared.folder.iterdir()} == built
    with pytest.raises(mt.UserError, match="unknown task 'shenzen'; did you mean shenzhen"):
        mt.prepare("shenzen", root=root)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("backbone", ["random"]),
        ("create_model", ["random"]),
        ("prepare", ["shenzhen"]),
        ("finetune", ["random", "shenzhen"]),
        ("recommend", ["shenzhen"]),
    ],
)
def test_what_needs_an_extra_says_so_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: list[str]
) -> None:
    monkeypatch.setattr(extras, "installed", lambda module: module != "timm")
    with pytest.raises(mt.UserError) as refusal:
        getattr(mt, name)(*words, root=tmp_path)
    needs = f"mt.{name} needs what is not installed here (timm): pip install 'medtransfer[train]'"
    assert str(refusal.value) == needs


# Results


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    results.write(folder / "cells", {RANDOM: 0.0, IMAGENET: 0.5}, ["shenzhen"], range(3), cases=60)
    return folder


def test_scores_are_one_row_per_run_and_metric(top: Path, compared: Path) -> None:
    table = mt.scores(compared, root=top)
    runs = collect(compared / "cells", top)
    assert len(table) == sum(len(run.scores) + len(run.cost) for run in runs)
    found = table[(table.metric == "test_auc") & (table.init == IMAGENET)].set_index("seed").value.to_dict()
    assert found == {run.seed: run.score for run in runs if run.init == IMAGENET}
    assert mt.scores(compared / "cells", root=top).equals(table)


def test_a_comparison_is_that_of_the_verb(top: Path, compared: Path) -> None:
    whole = mt.compare(compared, root=top, **CHOSEN)
    found = whole.findings
    assert whole.answer == found.answers[0].text
    here = parameters.load(top / "params.yaml", {"comparison.resamples": "100"})
    seeds, recipes = (0, 1, 2), here.benchmark.recipes
    benchmark = parameters.Benchmark(inits=(RANDOM, IMAGENET), tasks=("shenzhen",), seeds=seeds, recipes=recipes)
    wanted = findings.find(compared / "cells", benchmark, here, top, found.reference, found.look)
    assert record.comparison_run(found) == record.comparison_run(wanted)
    assert [row.summary and row.summary.mean for row in found.rows] == [
        pytest.approx(sum(row.scores) / 3) for row in wanted.rows
    ]


def test_records_are_those_behind_the_names(root: Path, top: Path) -> None:
    assert mt.tasks(top)["drive"].labels == ("Vessel",)
    tree = yaml.safe_load((root / "params.yaml").read_text())
    tree["inits"] = {"mine": {"backbone": "resnet18", "file": "mine.pth"}}
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    found = mt.inits(root)
    assert {*found} == {*RECORDS, "mine"}
    assert found["mine"].sources["resnet18"].url == "mine.pth"


# Texts that show it


def test_the_page_on_python_can_be_followed(root: Path, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    tree = yaml.safe_load((root / "params.yaml").read_text())
    tree["benchmark"] |= {"inits": ["random", "imagenet"], "tasks": ["shenzhen"], "seeds": [0, 1, 2]}
    tree["model"]["backbone"] = "resnet50"
    tree["comparison"]["resamples"] = 100
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    results.write(root / "data/results/cells", {RANDOM: 0.0, IMAGENET: 0.5}, ["shenzhen"], range(3), cases=60)
    blocks = re.findall(r"```python\n(.*?)```", (top / "docs/python.md").read_text(), re.DOTALL)
    assert len(blocks) == 8
    names: dict[str, Any] = {}
    for block in blocks:  # from the net nothing is brought: published weights are stood in for by random ones
        exec(re.sub(r'"imagenet"', f'"random@{fakes.BACKBONE}"', block), names)
    assert names["result"].init == f"random@{fakes.BACKBONE}"
    assert names["mean"] == (0.5, 0.5, 0.5)
    assert len(names["prepared"].samples) == 40
    assert {*names["comparison"].table().init} == {RANDOM, IMAGENET}


def example(top: Path, name: str) -> dict[str, Any]:
    return runpy.run_path(str(top / "examples" / f"{name}.py"))


def test_a_loop_of_ones_own_learns(root: Path, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    for number in range(16):
        folder = root / f"images/{'light' if number % 2 else 'dark'}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (90 + 90 * (number % 2) + number,) * 3).save(folder / f"{number}.png")
    torch.manual_seed(0)
    model, losses = example(top, "own_training_loop")["train"]("random", str(root / "images"), 4, side=32)
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 2)


def test_fine_tuning_and_looking(root: Path, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    table = example(top, "finetune_and_look")["look"]("shenzhen", ["random"])
    (row,) = table.to_dict("records")
    assert row["init"] == f"random@{fakes.BACKBONE}"
    assert row["marks"] == "synthetic"
    assert (root / str(row["folder"]) / "cell.json").is_file()
    assert 0 <= row["lowest val loss at"] < row["epochs"] == 3


def test_comparing_two_folders(root: Path, top: Path, compared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    tree = yaml.safe_load((root / "params.yaml").read_text())
    tree["benchmark"] |= {"inits": [RANDOM, IMAGENET], "tasks": ["shenzhen"], "seeds": [0, 1, 2]}
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    results.write(root / "other", {RANDOM: 0.0, IMAGENET: 0.0}, ["shenzhen"], range(3), cases=60)
    table = example(top, "compare_two_folders")["compare"](str(compared), "other")
    assert table.loc[("shenzhen", RANDOM), "difference"] == 0
    assert table.loc[("shenzhen", IMAGENET), "difference"] > 0.01


def test_the_notebook_goes_from_scores_to_a_figure_in_ten_lines(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(top / "examples")
    cells = json.loads(Path("compare.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert sum(bool(line.strip()) for cell in code for line in cell.splitlines()) <= 10
    names: dict[str, Any] = {}
    shown = []
    for cell in code:
        *before, last = ast.parse(cell).body
        exec(compile(ast.Module(before, []), "compare.ipynb", "exec"), names)
        assert isinstance(last, ast.Expr)
        shown.append(eval(compile(ast.Expression(last.value), "compare.ipynb", "eval"), names))
    comparison, figure, contrasts = shown
    assert "Start from logistic" in comparison.answer
    assert "Start from logistic" in comparison._repr_html_()
    assert figure._repr_svg_().startswith("<?xml")
    assert list(contrasts.columns) == ["init", "against", "estimate", "low", "high", "verdict"]
