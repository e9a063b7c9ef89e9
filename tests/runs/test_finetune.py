from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch._dynamo
from mlflow import MlflowClient

from medtransfer import params as parameters
from medtransfer import tracking
from medtransfer.core import arithmetic
from medtransfer.core.errors import UserError
from medtransfer.results.result import read_result
from medtransfer.runs import benchmark, finetune
from medtransfer.runs.run import Run
from medtransfer.runs.run import plan as plan_runs
from medtransfer.tracking import run as tracked
from medtransfer.training.trainer import Trainer
from tests.support import workspace


@pytest.fixture
def root(tmp_path: Path, top: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.chdir(tmp_path)
    return workspace.make(tmp_path, top, "shenzhen", "montgomery")


def plan(root: Path, task: str = "shenzhen", seed: int = 0, **overrides: str) -> Run:
    params = parameters.load(root / "params.yaml", {k.replace("__", "."): v for k, v in overrides.items()})
    (run,) = plan_runs(params, root, ["random"], [task], [seed])
    return run


def client(root: Path) -> MlflowClient:
    return tracking.connect(root)


def runs(root: Path, task: str = "shenzhen") -> list[Any]:
    experiment = client(root).get_experiment_by_name(f"medtransfer/{task}")
    return list(client(root).search_runs([experiment.experiment_id])) if experiment else []


def test_a_digest_follows_what_the_run_reads_and_nothing_else(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medtransfer.runs.run.check_engine", lambda params, device: None)  # not every CPU has bf16
    base = {task: plan(root, task).digest for task in ("shenzhen", "montgomery")}
    changes: tuple[Any, ...] = (
        {"classification__lr": "1.0e-3"},
        {"classification__lr": '"1e-3"'},
        {"execution__workers": "2"},
        {"comparison__alpha": "0.01"},
        {"benchmark__seeds": "[5]"},
        {"data__partial": "true"},
        {"engine__portable": "false"},
        {"engine__graphs": "false"},
    )
    for change in changes:
        assert {task: plan(root, task, **change).digest for task in base} == base
    assert plan(root, "montgomery", classification__lr="3e-4").digest == base["montgomery"]
    assert plan(root, "shenzhen", segmentation__loss="bce").digest == base["shenzhen"]
    others = [
        plan(root, classification__lr="3e-4").digest,
        plan(root, seed=1).digest,
        plan(root, engine__precision="bf16").digest,
        plan(root, engine__portable="true").digest,
        plan(root, engine__compile="true").digest,
        plan(root, engine__compile="true", engine__graphs="true").digest,
        plan(root, execution__threads_per_run="2").digest,
        plan(root, tasks__shenzhen__changes__lr="3e-3").digest,
        plan(root, model__random_last_bn="zero").digest,
        plan(root, classification__normalization="none").digest,
        plan(root, tasks__shenzhen__cache_size="40").digest,
    ]  # fmt: skip
    assert len({*others, *base.values()}) == len(others) + 2


def test_a_change_spelt_for_the_task_is_the_same_run(root: Path) -> None:
    assert plan(root, classification__lr="3e-4").digest == plan(root, tasks__shenzhen__changes__lr="3e-4").digest


@pytest.mark.slow
def test_a_run_that_compiles_says_what_that_took_and_the_next_of_its_worker_that_it_took_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medtransfer.training.compiled.BACKEND", "aot_eager")
    torch._dynamo.reset()
    eager, *cells = benchmark.run_all([plan(root), *(plan(root, seed=seed, engine__compile="true") for seed in (0, 1))])
    assert "compile_seconds" not in eager["cost"]
    spent = [cell["cost"]["compile_seconds"] for cell in cells]
    assert max(spent) > min(spent) == 0  # whichever of them went first
    logged = {run.data.tags["digest"]: run.data.metrics for run in runs(root)}
    assert [logged[cell["digest"]].get("cost_compile_seconds") for cell in (eager, *cells)] == [None, *spent]
    first = cells[spent.index(max(spent))]
    assert first["cost"]["seconds"] > first["cost"]["compile_seconds"]
    assert read_result(root / "data/runs" / first["digest"] / "cell.json").cost == first["cost"]


def test_a_finished_run_is_logged_whole_and_costs_no_training_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracked, "SYSTEM_METRICS_SECONDS", 0.02)
    (cell,) = benchmark.run_all([plan(root)])
    (run,) = runs(root)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "random · shenzhen · s0 · test_resnet"
    assert (run.data.params["from"], run.data.params["init"]) == ("random", "random@test_resnet")
    assert run.data.metrics["score"] == cell["scores"]["test_auc"]
    assert run.data.tags["mlflow.user"]
    assert run.data.tags["mlflow.source.name"] == "medtransfer finetune"
    assert "cost_gpu_seconds" not in run.data.metrics  # a CPU has none
    assert cell["cost"]["gpu_seconds"] == 0
    assert run.data.params["classification.lr"] == "0.001"
    assert run.data.params["tasks.shenzhen.cache_size"] == "36"
    assert {"init", "task", "seed", "verb", "digest", "manifest_digest"} <= set(run.data.tags)
    assert run.data.tags["arithmetic"] == arithmetic.kind(cell["arithmetic"]) != arithmetic.UNKNOWN
    assert "engine.portable" not in cell["params"]
    assert "drawn from the seed" in run.data.tags["mlflow.note.content"]
    assert run.data.metrics["test_auc"] == cell["scores"]["test_auc"]
    assert {"train_loss", "val_loss", "val_auc", "images_per_second", "cost_epochs"} <= set(run.data.metrics)
    assert any(name.startswith("system/") for name in run.data.metrics)
    assert len(client(root).get_metric_history(run.info.run_id, "val_loss")) == 3
    kept = {f.path for f in client(root).list_artifacts(run.info.run_id)}
    assert {"cell.json", "predictions.parquet", "params.yaml", "curves.png"} <= kept
    assert run.inputs.dataset_inputs[0].dataset.name == "shenzhen"
    assert cell["marks"] == ["synthetic"]

    def fail(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(Trainer, "run", fail)
    assert benchmark.run_all([plan(root)]) == [cell]
    shutil.rmtree(root / "data/runs" / cell["digest"])
    assert benchmark.run_all([plan(root)]) == [cell]  # brought back from MLflow
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/another.db")
    assert benchmark.run_all([plan(root)])[0]["scores"] == cell["scores"]  # sent again from the run's folder
    (again,) = runs(root)
    assert again.data.metrics["test_auc"] == cell["scores"]["test_auc"]
    assert len(client(root).get_metric_history(again.info.run_id, "val_loss")) == 3


def test_segmentation_runs_through_and_one_failure_keeps_the_rest(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = [plan(root, "montgomery"), plan(root, "shenzhen")]
    (planned[1].folder / "predictions.parquet").mkdir(parents=True)  # cannot be replaced by a file
    with pytest.raises(UserError, match="1 of 2 runs failed, the others are kept"):
        benchmark.run_all(planned)
    (run,) = runs(root, "montgomery")
    assert run.info.status == "FINISHED"
    assert {"test_dice", "test_native_dice", "test_dice_pooled", "test_dice_positives"} <= set(run.data.metrics)
    (failed,) = runs(root)
    assert failed.info.status == "FAILED"
    assert failed.data.tags["error"]


def test_a_run_that_another_process_trains_is_refused(root: Path) -> None:
    from medtransfer.core import files

    run = plan(root)
    with files.lock(run.folder / "lock"), pytest.raises(UserError, match="being trained by another process"):
        finetune.execute(run, lambda progress: None)


def history(root: Path) -> list[tuple[str, int, float]]:
    (run,) = runs(root)
    names = ("train_loss", "val_loss", "val_auc", "lr")
    return [(n, m.step, m.value) for n in names for m in client(root).get_metric_history(run.info.run_id, n)]


@pytest.mark.slow
def test_killed_and_started_again_it_gives_the_numbers_of_an_uninterrupted_run(
    tmp_path: Path, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("finetune", "--init", "random", "--task", "shenzhen", "--seed", "0", "--classification.max_epochs", "30")
    cells, logged = [], []
    for name in ("whole", "killed"):
        root = tmp_path / name
        root.mkdir()
        workspace.make(root, top, "shenzhen")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
        if name == "killed":
            kill_midway(root, top, words)
        code, output = workspace.run(top, root, *words)
        assert code == 0, output
        assert ("1 run of dead processes RUNNING in MLflow" in output) == (name == "killed")
        (run,) = runs(root)
        assert run.info.status == "FINISHED"
        (path,) = (root / "data/runs").glob("*/cell.json")
        cells.append(json.loads(path.read_text()))
        logged.append(history(root))
    whole, resumed = cells
    assert resumed["digest"] == whole["digest"]
    assert resumed["scores"] == whole["scores"]
    assert resumed["best"] == whole["best"]
    assert logged[0] == logged[1]
    assert len(logged[0]) == 4 * 30


def kill_midway(root: Path, top: Path, words: tuple[str, ...]) -> None:
    process = workspace.command(top, root, *words)
    end = time.monotonic() + 120
    while sum(len(p.read_text().splitlines()) for p in (root / "data/runs").glob("*/journal.jsonl")) < 8:
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(list((root / "data/runs").glob("*/checkpoint.pt"))) == 1
    assert not list((root / "data/runs").glob("*/cell.json"))
    (run,) = runs(root)
    assert run.info.status == "RUNNING"
    assert tracking.finished(client(root), "shenzhen", run.data.tags["digest"]) is None
