from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from medtransfer import tracking
from medtransfer.core import files
from medtransfer.core.errors import UserError
from medtransfer.tracking import store
from medtransfer.tracking.launcher import Launcher


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)


def identity(root: Path, digest: str = "d1", parent: str | None = None) -> tracking.Identity:
    return tracking.Identity(
        name="imagenet@x-s0", task="drive", digest=digest, tags={"init": "imagenet@x", "seed": "0"},
        params={"classification.lr": 0.0003}, folder=root / "data/runs" / digest, parent=parent,
    )  # fmt: skip


def history(client: MlflowClient, run_id: str, key: str) -> list[tuple[int, float]]:
    return sorted((m.step, m.value) for m in client.get_metric_history(run_id, key))


def test_a_run_is_logged_and_found_by_its_digest(tmp_path: Path) -> None:
    run = tracking.open_run(tmp_path, identity(tmp_path))
    run.log({"val_loss": 0.5}, 0)
    run.dataset("drive", "abc" * 10, "data/prepared/drive", {"train": 16})
    run.end("FINISHED")
    client = tracking.connect(tmp_path)
    found = tracking.finished(client, "drive", "d1")
    assert found is not None
    assert found.info.run_name == "imagenet@x-s0"
    assert found.data.params == {"classification.lr": "0.0003"}
    assert found.data.tags["init"] == "imagenet@x"
    assert found.data.metrics["val_loss"] == 0.5
    assert found.inputs.dataset_inputs[0].dataset.digest == ("abc" * 10)[:16]
    assert tracking.finished(client, "drive", "d2") is None
    assert tracking.finished(client, "shenzhen", "d1") is None


def test_nothing_past_a_checkpoint_is_sent_and_repeats_are_stored_once(tmp_path: Path) -> None:
    run = tracking.open_run(tmp_path, identity(tmp_path))
    client = tracking.connect(tmp_path)
    run.log({"val_loss": 3.0}, 0)
    assert history(client, run.run_id, "val_loss") == []  # its checkpoint is not on disk yet
    run.log({"val_loss": 2.0}, 1)
    assert history(client, run.run_id, "val_loss") == [(0, 3.0)]
    run.leave()
    # Killed here, with the checkpoint of epoch 0: epoch 1 is trained and logged again.
    again = tracking.open_run(tmp_path, identity(tmp_path))
    assert again.run_id == run.run_id
    again.journal.cut(1)
    again.log({"val_loss": 1.5}, 1)
    again.end("FINISHED")
    assert history(client, run.run_id, "val_loss") == [(0, 3.0), (1, 1.5)]
    assert len(client.search_runs([client.get_experiment_by_name("medtransfer/drive").experiment_id])) == 1


def test_a_journal_line_cut_off_by_a_kill_is_no_line(tmp_path: Path) -> None:
    journal = tracking.Journal(tmp_path / "run/journal.jsonl")
    journal.append({"a": 1.0}, 0)
    with open(journal.path, "a") as stream:
        stream.write('{"time": 1, "st')
    assert [line["metrics"] for line in journal.lines()] == [{"a": 1.0}]
    journal.cut(5)
    journal.append({"a": 2.0}, 1)
    assert [line["metrics"]["a"] for line in journal.lines()] == [1.0, 2.0]


def _hold(path: str, ready: Any) -> None:
    with files.lock(Path(path)):
        ready.set()
        import time

        time.sleep(60)


def test_running_runs_of_dead_processes_are_ended_living_ones_are_not(tmp_path: Path) -> None:
    dead = tracking.open_run(tmp_path, identity(tmp_path, "dead"))
    alive = tracking.open_run(tmp_path, identity(tmp_path, "alive"))
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(str(tmp_path / "data/runs/alive/lock"), ready))
    holder.start()
    assert ready.wait(300)
    client = tracking.connect(tmp_path)
    assert tracking.reap(client) == 1
    assert client.get_run(dead.run_id).info.status == "KILLED"
    assert client.get_run(alive.run_id).info.status == "RUNNING"
    holder.kill()
    holder.join()
    assert tracking.reap(client) == 1


def test_a_store_that_is_away_keeps_the_metrics_and_the_run_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow.exceptions import MlflowException

    monkeypatch.setattr(store, "PATIENCE", 0.1)
    run = tracking.open_run(tmp_path, identity(tmp_path))

    def away(*_: Any, **__: Any) -> None:
        raise MlflowException("connection refused")

    with monkeypatch.context() as patch:
        patch.setattr(run.client, "log_batch", away)
        run.log({"val_loss": 3.0}, 0)
        run.log({"val_loss": 2.0}, 1)
        run.end("FINISHED")
    client = tracking.connect(tmp_path)
    assert "`medtransfer sync` sends the rest" in caplog.text
    assert client.get_run(run.run_id).info.status == "RUNNING"
    assert tracking.unsent(tmp_path, "d1")
    run.end("FINISHED")
    assert history(client, run.run_id, "val_loss") == [(0, 3.0), (1, 2.0)]
    assert client.get_run(run.run_id).info.status == "FINISHED"
    assert not tracking.unsent(tmp_path, "d1")


def test_a_launcher_is_named_tagged_and_gets_the_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = tracking.connect(tmp_path)
    run_id = client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    launcher = Launcher(tmp_path)
    with launcher:
        launcher.start("finetune swav", {"verb": "finetune"})
        launcher.table("| a |", json.dumps(["d1"]))
        assert tracking.reap(client) == 0
    launcher.fail("refused", "swav cannot be had")
    run = client.get_run(run_id)
    assert run.info.run_name == "finetune swav"
    assert run.data.tags["error"] == "swav cannot be had"
    assert run.data.tags["mlflow.note.content"] == "| a |"
    assert run.data.params == {}
    child = tracking.open_run(tmp_path, identity(tmp_path, parent=run_id))
    child.end("FINISHED")
    assert client.get_run(child.run_id).data.tags["mlflow.parentRunId"] == run_id


def _open(root: str, number: int) -> str:
    run = tracking.open_run(Path(root), identity(Path(root), f"d{number}"))
    run.dataset("drive", "abc", "data/prepared/drive", {"train": 16})
    run.end("FINISHED")
    return run.run_id


@pytest.mark.slow
def test_many_first_touches_at_once_leave_a_whole_database(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(3) as pool:
        ids = pool.starmap(_open, [(str(tmp_path), n) for n in range(3)])
    client = tracking.connect(tmp_path)
    assert {client.get_run(i).info.status for i in ids} == {"FINISHED"}


def test_an_unreachable_store_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:////{os.devnull}/no/mlflow.db")
    with pytest.raises(UserError, match="cannot be opened"):
        tracking.connect(tmp_path)
