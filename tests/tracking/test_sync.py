from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE, UNAUTHENTICATED
from sqlalchemy.exc import OperationalError

from medtransfer import params as parameters
from medtransfer import tracking
from medtransfer.cli import services as verbs
from medtransfer.core import files
from medtransfer.core.errors import UserError
from medtransfer.runs import benchmark, finetune, finished
from medtransfer.runs.execution import leases
from medtransfer.runs.run import Run, plan
from medtransfer.tracking import TrackedRun, store, sync
from medtransfer.tracking.launcher import Launcher
from tests.support import servers, workspace

AWAY = "http://127.0.0.1:9"
"""nobody listens there"""


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, which take seconds to make."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, empty: Path) -> None:
    shutil.copyfile(empty, tmp_path / "mlflow.db")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "PATIENCE", 0.1)
    come_back(monkeypatch, tmp_path)


def come_back(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")


def go_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", AWAY)


def identity(root: Path, digest: str = "d1") -> tracking.Identity:
    return tracking.Identity(
        name=f"imagenet@x-{digest}", task="drive", digest=digest, tags={"init": "imagenet@x"},
        params={f"p{n}": n for n in range(120)}, folder=root / "data/runs" / digest,
    )  # fmt: skip


def train(run: TrackedRun, epochs: int) -> None:
    for epoch in range(epochs):
        run.log({"val_loss": 1.0 / (epoch + 1), "val_auc": 0.5}, epoch)


def runs(root: Path, task: str = "drive") -> list[Any]:
    client = MlflowClient()
    place = client.get_experiment_by_name(f"medtransfer/{task}")
    return list(client.search_runs([place.experiment_id])) if place else []


def test_a_run_that_never_reached_mlflow_is_sent_whole_later_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_away(monkeypatch)
    run = tracking.open_run(tmp_path, identity(tmp_path), later=True)
    run.dataset("drive", "abc" * 10, "data/prepared/drive", {"train": 16})
    train(run, 3)
    cell = run.folder / "cell.json"
    files.write_text(cell, json.dumps({"mlflow_run_id": run.run_id, "score": 0.5}))
    run.artifacts(run.folder, ["cell.json", "journal.jsonl"])
    run.end("FINISHED")
    come_back(monkeypatch, tmp_path)
    assert sync.sync(tmp_path, leases.claims("")).sent == ["imagenet@x-d1"]
    assert sync.sync(tmp_path, leases.claims("")) == sync.Outcome()
    (found,) = runs(tmp_path)
    assert found.info.status == "FINISHED"
    assert found.info.start_time == run.outbox.start
    assert found.info.end_time == run.outbox.end
    assert len(found.data.params) == 120
    assert found.inputs.dataset_inputs[0].dataset.digest == ("abc" * 10)[:16]
    assert servers.tracked(MlflowClient(), "drive")[0] == servers.journaled(tmp_path)
    assert {f.path for f in MlflowClient().list_artifacts(found.info.run_id)} == {"cell.json", "journal.jsonl"}
    assert json.loads(cell.read_text()) == {"mlflow_run_id": found.info.run_id, "score": 0.5}


def test_what_a_dead_process_left_is_sent_up_to_its_checkpoint_and_its_resume_doubles_nothing(tmp_path: Path) -> None:
    dead = tracking.open_run(tmp_path, identity(tmp_path))
    train(dead, 3)  # killed here: the last epoch has no checkpoint yet
    dead.leave()
    assert sync.sync(tmp_path, leases.claims("")).sent == ["imagenet@x-d1"]
    client = MlflowClient()
    killed = client.get_run(dead.run_id)
    assert killed.info.status == "KILLED"
    assert [m.step for m in client.get_metric_history(dead.run_id, "val_loss")] == [0, 1]
    again = tracking.open_run(tmp_path, identity(tmp_path))
    assert again.run_id == dead.run_id
    again.journal.cut(2)
    again.log({"val_loss": 0.25, "val_auc": 0.5}, 2)
    again.end("FINISHED")
    assert len(runs(tmp_path)) == 1
    assert servers.tracked(client, "drive")[0] == servers.journaled(tmp_path)


def test_a_run_at_work_is_left_to_its_process(tmp_path: Path) -> None:
    run = tracking.open_run(tmp_path, identity(tmp_path))
    with files.lock(run.folder / "lock"):
        assert sync.sync(tmp_path, leases.claims("")).working == ["imagenet@x-d1"]
    assert MlflowClient().get_run(run.run_id).info.status == "RUNNING"


def test_a_run_that_another_process_finished_meanwhile_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_away(monkeypatch)
    late = tracking.open_run(tmp_path, identity(tmp_path), later=True)
    come_back(monkeypatch, tmp_path)
    other = tracking.open_run(tmp_path, identity(tmp_path))
    other.end("FINISHED")
    late.end("FINISHED")
    assert len(runs(tmp_path)) == 1
    assert late.run_id == other.run_id
    assert not tracking.unsent(tmp_path, "d1")


def test_what_failed_while_mlflow_was_away_is_said_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tracking.open_run(tmp_path, identity(tmp_path))
    go_away(monkeypatch)
    monkeypatch.setattr(run, "run_id", "")
    run.end("FAILED", "ZeroDivisionError: on purpose")
    come_back(monkeypatch, tmp_path)
    assert len(sync.sync(tmp_path, leases.claims(""), finished=True).sent) == 0
    assert len(sync.sync(tmp_path, leases.claims("")).sent) == 1
    (found,) = runs(tmp_path)
    assert (found.info.status, found.data.tags["error"]) == ("FAILED", "ZeroDivisionError: on purpose")


def test_an_outage_costs_training_a_tenth_of_its_time_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "medtransfer")
    run = tracking.open_run(tmp_path, identity(tmp_path))
    run.log({"val_loss": 3.0}, 0)
    clock, tries = [1000.0], list[float]()
    monkeypatch.setattr("medtransfer.tracking.run.time.monotonic", lambda: clock[0])

    def hang(*_: Any, **__: Any) -> None:
        tries.append(clock[0])
        clock[0] += 5
        raise MlflowException("timeout")

    with monkeypatch.context() as patch:
        patch.setattr(run.client, "log_batch", hang)
        for epoch in range(1, 101):
            clock[0] += 1
            run.log({"val_loss": 2.0}, epoch)
    lost = 5 * len(tries)
    assert len(tries) == 2
    assert lost <= (clock[0] - 1000) / 10
    assert caplog.text.count("they wait on disk") == 1
    clock[0] += 100
    run.log({"val_loss": 1.0}, 101)
    assert "MLflow has all that waited" in caplog.text
    assert len(MlflowClient().get_metric_history(run.run_id, "val_loss")) == 101
    run.leave()


def test_mlflow_away_at_the_start_is_said_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", AWAY.replace("//", "//me:secret@"))
    with pytest.raises(tracking.Away, match=r"http://127.* cannot be opened"):
        tracking.open_run(tmp_path, identity(tmp_path))
    assert tracking.waiting(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (MlflowException("no route"), True),
        (MlflowException("database", TEMPORARILY_UNAVAILABLE), True),
        (MlflowException("its users are away", UNAUTHENTICATED), True),
        (MlflowException("a parenthesis", INVALID_PARAMETER_VALUE), False),
        (requests.ConnectionError(), True),
        (OperationalError("select", {}, Exception()), True),
        (ConnectionResetError(), True),
        (OSError(28, "No space left on device"), False),
        (ZeroDivisionError(), False),
    ],
)
def test_what_may_pass_is_tried_again_and_nothing_else(error: Exception, passes: bool) -> None:
    assert store.temporary(error) is passes


def test_what_mlflow_refuses_ends_the_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PATIENCE", 1000.0)
    run = tracking.open_run(tmp_path, identity(tmp_path))
    run.journal.append({"val_auc (mean)": 1.0}, 0)
    with pytest.raises(UserError, match="MLflow refuses what run imagenet@x-d1"):
        run.end("FINISHED")


def test_the_verb_says_what_it_sent_and_what_it_could_not(
    tmp_path: Path, top: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "medtransfer")
    params = parameters.load(top / "params.yaml")
    verbs.sync(params, tmp_path)
    assert "nothing was unsent" in caplog.text
    for digest in ("good", "bad"):
        tracking.open_run(tmp_path, identity(tmp_path, digest))
    for step in (0, 1):
        tracking.Journal(tmp_path / "data/runs/bad/journal.jsonl").append({"a (b)": 1.0}, step)
    with pytest.raises(UserError, match=r"1 run could not be sent, still waiting:\n  imagenet@x-bad \(MLflow refuses"):
        verbs.sync(params, tmp_path)
    assert "1 run sent to MLflow: imagenet@x-good" in caplog.text
    go_away(monkeypatch)
    with pytest.raises(UserError, match="cannot be opened"):
        verbs.sync(params, tmp_path)


def test_a_launcher_is_given_up_where_mlflow_is_away_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "abc")
    go_away(monkeypatch)
    launcher = Launcher(tmp_path)
    launcher.table("| a |", "[]")
    launcher.fail("refused", "why")
    assert caplog.text.count("MLflow was not told what came of its run abc") == 2


def test_training_goes_on_without_mlflow_and_the_next_run_sends_both(
    tmp_path: Path, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.make(tmp_path, top, "shenzhen")
    params = parameters.load(tmp_path / "params.yaml", {"classification.max_epochs": "2"})
    first, second = plan(params, tmp_path, ["random"], ["shenzhen"], [0, 1])

    def execute(run: Run) -> dict[str, Any]:
        return finetune.execute(run, lambda _: None)

    go_away(monkeypatch)
    with pytest.raises(UserError, match="cannot be opened"):
        benchmark.run_all([first])
    assert not (first.folder / "journal.jsonl").exists()
    cell = execute(first)
    assert cell["mlflow_run_id"] == ""
    assert tracking.unsent(tmp_path, first.digest)
    come_back(monkeypatch, tmp_path)
    execute(second)
    found = runs(tmp_path, "shenzhen")
    assert [run.info.status for run in found] == ["FINISHED", "FINISHED"]
    assert {finished.read_finished(run)["mlflow_run_id"] for run in (first, second)} == {r.info.run_id for r in found}
    points, _ = servers.tracked(MlflowClient(), "shenzhen")
    assert points == servers.journaled(tmp_path)
    assert set(points.values()) == {1}
    go_away(monkeypatch)
    assert execute(second) == finished.read_finished(second)  # what is here whole and sent needs no MLflow
    assert tracking.waiting(tmp_path) == []
