from __future__ import annotations

import dataclasses
import getpass
import json
import socket
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from medtransfer import params as parameters
from medtransfer.comparison.selection import collect
from medtransfer.core.errors import UserError
from medtransfer.packs import file, pack, private
from medtransfer.params import Params
from medtransfer.results import study
from tests.results import test_study
from tests.support import packs, results, workspace

SECRET = ("/home/bob", "bob@", "hunter22", "node17.ward.example", "5f3e5f3e5f3e", "CHNCXR_", "ward.example")


@pytest.fixture
def root(tmp_path: Path, top: Path) -> Path:
    workspace.make(tmp_path, top)
    tree = yaml.safe_load((tmp_path / "params.yaml").read_text())
    tree["model"]["backbone"] = "resnet50"
    tree["benchmark"] |= {"inits": ["random", "imagenet"], "tasks": ["shenzhen", "montgomery"], "seeds": [0, 1]}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))
    effects = {"random@resnet50": 0.0, "imagenet@resnet50": 1.0}
    cells = tmp_path / "data/results/cells"
    results.write(cells, effects, ["shenzhen", "montgomery"], [0, 1], cases=24, images_per_patient=2)
    return tmp_path


def load(root: Path) -> Params:
    return parameters.load(root / "params.yaml")


def change(root: Path, **fields: Any) -> None:
    """Changes every run's file."""
    for path in (root / "data/results/cells").glob("*/*/cell.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def packed(root: Path, predictions: bool = False) -> file.Opened:
    pack.pack(load(root), root, "Lab A", root / "a.pack", predictions)
    return file.open_pack(root / "a.pack")


def test_a_pack_holds_the_benchmark_s_runs_as_they_are_compared_here(root: Path) -> None:
    results.write(root / "data/results/cells", {"swav@resnet50": 0.5}, ["shenzhen"], [0], cases=24)  # another's
    (whole,) = packed(root).pack.contributions
    here = [one for one in collect(root / "data/results/cells", root) if not one.init.startswith("swav")]
    kept: dict[str, Any] = {"history": (), "cost": {}, "mlflow_run_id": None, "parts": {}}
    assert [dataclasses.replace(one, **kept) for one in whole.results] == [
        dataclasses.replace(one, **kept) for one in here
    ]
    assert [epoch["lr"] for epoch in whole.results[0].history] == [1e-3] * results.EPOCHS
    assert whole.tasks["montgomery"].metric == "dice"
    assert whole.tasks["shenzhen"].modality == "chest-x-ray"
    assert (whole.inits["random@resnet50"].family, whole.inits["random@resnet50"].modality) == ("random", "none")
    card = whole.inits["imagenet@resnet50"]
    assert (card.title, card.family, card.modality, card.parameters) == ("imagenet", "supervised", "natural", 23508032)
    assert (card.tensors_sha256, card.weights_sha256) == ("w-imagenet@resnet50", "")  # no receipt is here
    assert whole.params["execution"] == {"threads_per_run": load(root).execution.threads_per_run}
    assert "host" not in whole.environment


def test_equal_runs_are_equal_bytes(root: Path) -> None:
    change(root, finished="2026-01-31T12:00:00Z")
    packed(root)
    pack.pack(load(root), root, "Lab A", root / "b.pack")
    assert (root / "a.pack").read_bytes() == (root / "b.pack").read_bytes()
    assert file.read(root / "a.pack").contributions[0].created == "2026-01-31T12:00:00Z"


def test_nothing_that_identifies_a_person_or_a_machine_is_in_a_pack(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "node17.ward.example")
    monkeypatch.setattr(getpass, "getuser", lambda: "bob")
    private._names.cache_clear()
    tree = yaml.safe_load((root / "params.yaml").read_text())
    entry = {"file": "/home/bob/w/mine.pth", "backbone": "resnet50", "images": "/home/bob/w/list.csv",
             "method": "by bob@node17.ward.example", "data": "from /home/bob/scans"}  # fmt: skip
    tree["inits"] = {"mine": entry}
    tree["benchmark"] |= {"inits": ["file:/home/bob/w/own.pth"], "recipes": ["fixed", "tuned"]}
    tree["comparison"]["reference"] = "file:/home/bob/w/own.pth"
    tree["execution"] |= {"address": "node17.ward.example:6379", "leases": "postgresql://bob@node17.ward.example/db"}
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    init = "file:/home/bob/w/own.pth@resnet50"
    split = "drawn from /home/bob/study/split.csv, see https://bob:hunter22@node17.ward.example/split"
    change(root, init=init, mlflow_run_id="5f3e5f3e5f3e", split=split, recipe="tuned",
           arithmetic=packs.CPU | {"variables": "X=/home/bob/x"}, study={"study": "bob@node17.ward.example"},
           parts={}, weights_sha256="w")  # fmt: skip
    for path in (root / "data/results/cells").glob("*/*/predictions.parquet"):
        table = pd.read_parquet(path)
        table.assign(id=[f"CHNCXR_{n}" for n in range(len(table))]).to_parquet(path)
    trial = dataclasses.replace(test_study.trial(0, 0.5), why="no memory on node17.ward.example, /home/bob/x")
    found = test_study.study(trial, init=init, task="shenzhen", mlflow_run_id="5f3e5f3e5f3e")
    study.write(found, root / study.FOLDER / "shenzhen/own.json")
    opened = packed(root, True)
    (whole,) = opened.pack.contributions
    for name, content in packs.members(opened.path).items():
        for secret in (*SECRET, str(root)):
            at = content.find(secret.encode())
            assert at < 0, (name, content[max(0, at - 80) : at + 80])
    assert whole.results[0].init == "file:own.pth@resnet50"
    assert list(whole.inits) == ["file:own.pth@resnet50"]
    assert whole.params["inits"]["mine"]["file"] == "mine.pth"
    assert whole.params["benchmark"]["inits"] == ["file:own.pth"]
    assert whole.results[-1].split == "drawn from split.csv, see https://***/split"
    assert [one.init for one in whole.ledgers] == ["file:own.pth@resnet50"]
    assert whole.ledgers[0].trials[0].why == ""


def test_runs_that_are_not_the_benchmark_s_or_of_another_protocol_version_are_refused(root: Path) -> None:
    change(root, protocol_version=0)
    with pytest.raises(UserError, match=r"8 of 8 runs .* of another protocol version than \d"):
        packed(root)
    change(root, init="swav@resnet50")
    with pytest.raises(UserError, match="none of the 8 finished runs in data/results/cells belongs to the benchmark"):
        packed(root)
    with pytest.raises(UserError, match="a pack says whose it is: --lab"):
        pack.pack(load(root), root, " ", root / "a.pack")


def test_tensors_that_differ_under_one_name_are_refused(root: Path) -> None:
    path = next((root / "data/results/cells/shenzhen").glob("*/cell.json"))
    tree = json.loads(path.read_text())
    path.write_text(json.dumps(tree | {"weights_sha256": "other"}))
    with pytest.raises(UserError, match=f"runs of {tree['init']} began with 2 different tensors"):
        packed(root)


def test_two_files_that_would_have_one_name_are_refused(root: Path) -> None:
    tree = yaml.safe_load((root / "params.yaml").read_text())
    tree["benchmark"]["inits"] = ["file:/a/x.pth", "file:/b/x.pth"]
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    for number, path in enumerate(sorted((root / "data/results/cells").glob("*/*/cell.json"))):
        init = f"file:/{'ab'[number % 2]}/x.pth@resnet50"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"init": init, "weights_sha256": init}))
    with pytest.raises(
        UserError, match=r"file:/a/x\.pth@resnet50 and file:/b/x\.pth@resnet50 would both be file:x\.pth"
    ):
        packed(root)
