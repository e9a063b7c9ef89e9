"""Addresses of MLflow's pages, and what its tables show of a run."""

from __future__ import annotations

import dataclasses
import getpass
import json
from pathlib import Path

import pytest

from medtransfer import tracking
from medtransfer.comparison.selection import collect
from medtransfer.core.addresses import scrub
from medtransfer.tracking import opening, outbox, store
from medtransfer.tracking.pages import pages
from tests.support import results

INITS = {"random@resnet50": 0.0, "imagenet@resnet50": 0.1}
RUNS = dict(zip(INITS, ("a", "b"), strict=True))
"""how their runs' ids begin; MLflow's are hexadecimal"""


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)


def test_pages_are_those_of_training_with_the_first_seeds_side_by_side(tmp_path: Path) -> None:
    results.write(tmp_path / "cells", INITS, ("drive",), (0, 1), cases=20)
    cells = [
        dataclasses.replace(cell, mlflow_run_id=f"{RUNS[cell.init]}{cell.seed}")
        for cell in collect(tmp_path / "cells", tmp_path)
    ]
    client = tracking.connect(tmp_path)
    number = tracking.experiment(client, "medtransfer/drive")
    client.create_experiment("someone else's")
    client.create_registered_model("medtransfer-drive", tags={"medtransfer": "model"})
    client.create_registered_model("another")
    found = pages(tmp_path, cells)
    assert list(found) == ["drive: runs", "drive: side by side", "model medtransfer-drive"]
    start, training = "http://127.0.0.1:5000/#", "workflowType=machine_learning"
    assert found["drive: runs"] == f"{start}/experiments/{number}/runs?viewStateShareKey=medtransfer&{training}"
    both = found["drive: side by side"]
    assert both.startswith(f"{start}/compare-runs?runs=%5B%22")
    assert sorted(both.split("&")[0].split("%22")[1::2]) == ["a0", "b0"]
    assert both.endswith(f"&experiments=%5B%22{number}%22%5D&{training}")
    view = json.loads(client.get_experiment(number).tags["mlflow.sharedViewState.medtransfer"])
    assert {"metrics.`score`", "params.`from`"} <= set(view["selectedColumns"])
    assert [scrub(address) for address in found.values()] == [*found.values()]  # the terminal shows them whole
    assert found["model medtransfer-drive"] == f"{start}/models/medtransfer-drive?{training}"


def test_experiments_have_a_description_those_of_an_earlier_version_too(tmp_path: Path) -> None:
    client = tracking.connect(tmp_path)
    old = client.create_experiment("medtransfer/shenzhen")
    for name in ("medtransfer/shenzhen", "medtransfer/comparison"):
        tracking.experiment(client, name)
        assert client.get_experiment_by_name(name).tags[store.NOTE] == store.describe(name)
    assert "task shenzhen" in client.get_experiment(old).tags[store.NOTE]
    client.set_experiment_tag(old, store.NOTE, "mine")
    tracking.experiment(client, "medtransfer/shenzhen")
    assert client.get_experiment(old).tags[store.NOTE] == "mine"  # what a person wrote stays


def test_every_run_has_a_user_a_source_and_its_own_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "someone")
    identity = outbox.Identity(
        name="decided: 1", task="comparison", digest="1", tags={"verb": "compare"}, params={}, folder=tmp_path / "1",
        start=1_000,
    )  # fmt: skip
    told = opening.outbox_of(tmp_path, identity)
    assert told.tags["mlflow.user"] == "someone"
    assert told.tags["mlflow.source.name"] == "medtransfer compare"
    assert told.start == 1_000
    trial = opening.outbox_of(tmp_path, dataclasses.replace(identity, tags={}, verb="tune", start=0))
    assert trial.tags["mlflow.source.name"] == "medtransfer tune"
    assert trial.start > 1_000_000_000_000


def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("uid")

    monkeypatch.delenv("USER", raising=False)
    monkeypatch.setattr(getpass, "getuser", nobody)
    assert opening.who().startswith("uid ")
