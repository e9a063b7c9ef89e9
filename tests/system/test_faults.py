"""What goes wrong on a machine in the middle of a run: nothing finished is lost, and the same command goes on."""

from __future__ import annotations

import itertools
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from medtransfer import params as parameters
from medtransfer import tracking
from medtransfer.core.errors import UserError
from medtransfer.runs import benchmark, finetune
from medtransfer.runs.run import Run
from medtransfer.runs.run import plan as plan_runs
from medtransfer.training.trainer import Progress
from tests.support import workspace

LIMIT = 20_000
"""bytes: less than a checkpoint of the tests' backbone, more than a journal"""


@pytest.fixture
def root(tmp_path: Path, top: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.chdir(tmp_path)
    return workspace.make(tmp_path, top, "shenzhen")


def plan(root: Path, *seeds: int) -> list[Run]:
    return plan_runs(parameters.load(root / "params.yaml"), root, ["random"], ["shenzhen"], seeds)


def history(cell: dict[str, Any], name: str = "val_loss") -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in MlflowClient().get_metric_history(cell["mlflow_run_id"], name)]


def at_epoch(epoch: int, act: Callable[[], object]) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.epoch == epoch:
            act()

    return report


class Interrupted(Exception):
    pass


def stop() -> None:
    raise Interrupted


def undisturbed(root: Path, run: Run) -> dict[str, Any]:
    """Trains the same run from its start in another place, and forgets it."""
    cell = finetune.execute(run, lambda progress: None)
    MlflowClient().delete_run(cell["mlflow_run_id"])
    run.folder.rename(run.folder.with_suffix(".undisturbed"))
    return cell


@pytest.mark.slow
def test_a_disk_that_fills_up_in_the_middle_of_a_run_costs_no_finished_epoch(root: Path) -> None:
    finished, run = plan(root, 0, 1)
    (kept,) = benchmark.run_all([finished])
    expected = undisturbed(root, run)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    full = at_epoch(1, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard)))  # MLflow's database, too
    try:
        with pytest.raises(UserError, match=r"could not write the checkpoint of epoch 1 .*epoch 0 is intact"):
            finetune.execute(run, full)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert benchmark.run_all([finished]) == [kept]
    (cell,) = benchmark.run_all([run])
    assert cell["scores"] == expected["scores"]
    assert [step for step, _ in history(cell)] == [0, 1, 2]
    states = tracking.connect(root).search_runs([MlflowClient().get_run(cell["mlflow_run_id"]).info.experiment_id])
    assert [state.info.status for state in states] == ["FINISHED", "FINISHED"]


def test_a_truncated_checkpoint_starts_the_run_over_and_no_metric_is_there_twice(root: Path) -> None:
    (run,) = plan(root, 0)
    expected = undisturbed(root, run)
    with pytest.raises(Interrupted):
        finetune.execute(run, at_epoch(2, stop))
    checkpoint = run.folder / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[: checkpoint.stat().st_size // 2])
    (cell,) = benchmark.run_all([run])
    assert cell["scores"] == expected["scores"]
    for name in ("train_loss", "val_loss", "val_auc"):
        assert [step for step, _ in history(cell, name)] == [0, 1, 2]


@pytest.mark.slow
def test_a_cache_that_was_cut_off_stops_the_run_and_is_prepared_again(root: Path) -> None:
    (run,) = plan(root, 0)
    images = run.prepared / "images.npy"
    images.write_bytes(images.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"no usable prepared cache|is damaged"):
        benchmark.run_all([run])
    (again,) = plan(root, 0)
    assert again.digest == run.digest
    (cell,) = benchmark.run_all([again])
    assert MlflowClient().get_run(cell["mlflow_run_id"]).info.status == "FINISHED"


@pytest.mark.slow
def test_a_clock_that_is_set_back_changes_no_order_and_no_number(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = plan(root, 0)
    expected = undisturbed(root, run)
    back, now = itertools.count(), time.time()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now - 3600 * next(back))  # an hour at each look
        with pytest.raises(Interrupted):
            finetune.execute(run, at_epoch(2, stop))
    (cell,) = benchmark.run_all([run])
    assert cell["scores"] == expected["scores"]
    points = history(cell)
    assert sorted(step for step, _ in points) == [0, 1, 2]
    latest = MlflowClient().get_run(cell["mlflow_run_id"]).data.metrics["val_loss"]
    assert latest == dict(points)[2]
