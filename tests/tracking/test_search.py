from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from medtransfer import tracking
from medtransfer.tracking import search
from medtransfer.tracking.search import State


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    client = tracking.connect(tmp_path)
    for task in ("shenzhen", "drive"):
        place = tracking.experiment(client, tracking.PREFIX + task)
        for number, (status, verb) in enumerate(
            [("FAILED", "finetune"), ("FINISHED", "finetune"), ("RUNNING", "finetune"), ("FINISHED", "pretrain")]
        ):
            tags = {"verb": verb, "digest": f"{task}{number % 3}", "lock": f"/l/{number}", "host": "here"}
            tags |= {"error": "broke"} if status == "FAILED" else {}
            run = client.create_run(place, start_time=100 + number, tags=tags)
            client.update_run(run.info.run_id, status)
    again = client.create_run(place, start_time=200, tags={"verb": "finetune", "digest": "drive1"})
    gone = client.create_run(place, start_time=300, tags={"verb": "finetune", "digest": "drive9"})
    client.delete_run(gone.info.run_id)
    client.update_run(again.info.run_id, "FAILED")
    return client


def test_the_database_read_as_it_lies_says_what_mlflow_says(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = ["shenzhen", "drive", "never"]
    read = search.states(tmp_path, tasks)
    monkeypatch.setattr(search, "_read", lambda *_: None)
    assert read == search.states(tmp_path, tasks)
    assert read["drive0"] == State("FAILED", "broke", "/l/0", "here")
    assert read["drive1"].status == "FINISHED"  # above the newer attempt
    assert read["drive2"].status == "RUNNING"
    assert "drive9" not in read


def test_another_layout_of_the_tables_is_left_to_mlflow(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "RUNS", "SELECT nothing FROM nowhere")
    assert search.states(tmp_path, ["drive"])["drive0"].status == "FAILED"


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert search.states(tmp_path, ["drive"]) == {}
    assert not list(tmp_path.iterdir())
