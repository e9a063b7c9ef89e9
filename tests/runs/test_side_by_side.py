"""Runs that one worker trains in threads of its own: the same results as one after the other."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from medtransfer import params as parameters
from medtransfer import tracking
from medtransfer.core.errors import UserError
from medtransfer.results.result import PREDICTIONS
from medtransfer.runs import benchmark, building, finetune, finished, side_by_side
from medtransfer.runs.execution import leases, pull
from medtransfer.runs.run import Run
from medtransfer.runs.run import plan as plan_runs
from medtransfer.tracking import sync
from medtransfer.training import loader
from medtransfer.training.trainer import Trainer
from tests.support import workspace


@pytest.fixture
def root(tmp_path: Path, top: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.chdir(tmp_path)
    return workspace.make(tmp_path, top, "shenzhen", "montgomery")


def plan(root: Path, tasks: tuple[str, ...] = ("shenzhen",), seeds: tuple[int, ...] = (0,), **overrides: str) -> Any:
    params = parameters.load(root / "params.yaml", {k.replace("__", "."): v for k, v in overrides.items()})
    kinds, fast = ("finetune", "partial"), "random@test_resnet"
    return [
        *plan_runs(params, root, [fast], tasks, seeds, protocols=kinds),
        *plan_runs(params, root, ["random@test_vit"], tasks, seeds),
    ]


def on_gpu(runs: list[Run]) -> list[Run]:
    """Makes runs look as they are planned where there is a GPU."""
    return [dataclasses.replace(run, device="cuda") for run in runs]


def names(gangs: list[tuple[Run, ...]]) -> list[list[str]]:
    return [[f"{run.task[0]}{run.seed} {run.init.backbone[5:]} {run.protocol}" for run in gang] for gang in gangs]


def test_runs_of_equal_batches_go_together_and_others_do_not(root: Path) -> None:
    runs = plan(root, ("shenzhen", "montgomery"), (0, 1), execution__side_by_side="2")
    assert [len(gang) for gang in side_by_side.gangs(runs)] == [1] * len(runs)  # on a CPU
    found = names(side_by_side.gangs(on_gpu(runs)))
    two = [[f"{where} resnet finetune", f"{where} resnet partial"] for where in ("s0", "s1", "m0", "m1")]
    assert found == [*two, *([f"{where} vit finetune"] for where in ("s0", "s1", "m0", "m1"))]
    assert side_by_side.gangs([]) == []
    controls = [dataclasses.replace(run, protocol="permuted") for run in on_gpu(runs)[:2]]
    knn = [dataclasses.replace(run, protocol="knn", seed=seed) for seed, run in enumerate(on_gpu(runs)[:2])]
    assert [len(gang) for gang in side_by_side.gangs([*controls, *knn])] == [1, 1, 1, 1]
    other = dataclasses.replace(runs[0].params.classification, batch_size=3)
    tuned = dataclasses.replace(runs[0], params=dataclasses.replace(runs[0].params, classification=other))
    assert [len(gang) for gang in side_by_side.gangs(on_gpu([runs[0], tuned]))] == [1, 1]
    compiled = plan(root, execution__side_by_side="2", engine__compile="true")
    with pytest.raises(UserError, match=r"set execution.side_by_side=1 or engine.compile=false"):
        side_by_side.gangs(on_gpu(compiled))


def gang_of(root: Path, epochs: int = 3) -> tuple[Run, ...]:
    return tuple(plan(root, classification__max_epochs=str(epochs)))


def numbers(run: Run) -> Any:
    result = finished.read_finished(run)
    history = [{k: v for k, v in line.items() if k != "images_per_second"} for line in result["history"]]
    return result["scores"], result["best"], history, (run.folder / PREDICTIONS).read_bytes()


@pytest.mark.slow
def test_a_gang_gets_what_each_gets_alone_reads_batches_once_and_one_that_breaks_takes_none_along(
    root: Path, tmp_path: Path, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    other = workspace.make(tmp_path / "other", top, "shenzhen")
    with monkeypatch.context() as there:
        there.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other}/mlflow.db")
        alone = [_alone(run) for run in gang_of(other)]
    gang = gang_of(root)
    assert len({run.init.backbone for run in gang}) == 2
    made, told = list[int](), list[tuple[int, Any]]()
    inner, step = loader.Loader._augmented, Trainer.step

    def counted(self: Any, rows: Any, visit: Any, augmentation: Any, seed: int, epoch: int) -> Any:
        made.append(epoch)
        return inner(self, rows, visit, augmentation, seed, epoch)

    def breaks(self: Trainer, *parts: Any) -> torch.Tensor:
        if self.folder == gang[1].folder and self.fit.epoch == 1:
            raise ValueError("this one breaks")
        return step(self, *parts)

    monkeypatch.setattr(loader.Loader, "_augmented", counted)
    monkeypatch.setattr(Trainer, "step", breaks)
    first, broken, third = side_by_side.execute(gang, told.append)
    assert isinstance(broken, ValueError)
    assert "this one breaks" in (gang[1].folder / finetune.FAILURE).read_text()
    assert [first, third] == [finished.read_finished(gang[0]), finished.read_finished(gang[2])]
    assert [numbers(gang[0]), numbers(gang[2])] == [alone[0], alone[2]]
    steps = -(-len(building.labelled(gang[0]).rows("train")) // 8)
    assert made == [epoch for epoch in range(3) for _ in range(steps)]
    assert {place for place, _ in told} == {0, 1, 2}
    assert states(root) == ["FAILED", "FINISHED", "FINISHED"]
    monkeypatch.setattr(Trainer, "step", step)
    benchmark.run_all(gang)
    assert numbers(gang[1]) == alone[1]


def _alone(run: Run) -> Any:
    finetune.execute(run, lambda progress: None)
    return numbers(run)


def states(root: Path) -> list[str]:
    """Lists how the runs stand in MLflow, once what waited on disk was sent."""
    sync.sync(root, leases.claims(""))
    client = tracking.connect(root)
    experiment = client.get_experiment_by_name("medtransfer/shenzhen")
    assert experiment is not None
    return sorted(run.info.status for run in client.search_runs([experiment.experiment_id]))


def test_what_memory_did_not_hold_beside_others_is_done_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gang, step, tries = gang_of(root, 1)[:2], Trainer.step, list[bool]()

    def short(self: Trainer, *parts: Any) -> torch.Tensor:
        if self.folder == gang[0].folder and self.seat:
            tries.append(True)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, *parts)

    monkeypatch.setattr(Trainer, "step", short)
    found = side_by_side.execute(gang, lambda told: None)
    assert found == [finished.read_finished(run) for run in gang]
    assert tries == [True]


@pytest.mark.slow
def test_a_worker_of_the_pool_does_a_gang_and_tells_of_each_of_its_runs(root: Path) -> None:
    first, second, third = gang_of(root, 2)
    waiting, told = [(first, second), (third,)], list[tuple[int, int, int]]()
    outcomes = pull.pull(
        side_by_side.execute,
        lambda: waiting.pop(0) if waiting else None,
        settings=first.params.execution,
        device="cpu",
        workers=2,
        report=lambda gang, said: told.append((len(gang), said[0], said[1].epoch)),
    )
    found = {len(gang): said for gang, said in outcomes}
    one, two, three = (finished.read_finished(run) for run in (first, second, third))
    assert found == {2: [one, two], 1: [three]}
    assert sorted(set(told)) == [(1, 0, 1), (1, 0, 2), (2, 0, 1), (2, 0, 2), (2, 1, 1), (2, 1, 2)]


@pytest.mark.slow
def test_an_interruption_stops_all_and_is_passed_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import _thread

    gang = gang_of(root, 200)[:2]
    sent = list[bool]()

    def interrupt(told: tuple[int, Any]) -> None:
        if not sent:
            sent.append(True)
            _thread.interrupt_main()

    with pytest.raises(KeyboardInterrupt):
        side_by_side.execute(gang, interrupt)
    assert states(root) == ["KILLED", "KILLED"]
