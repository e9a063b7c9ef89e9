"""Errors name the way out: what was looked for and found where; after what a message says, the command works."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import save_file

from medtransfer import params, tracking
from medtransfer.comparison import selection
from medtransfer.core import files
from medtransfer.core.addresses import Address
from medtransfer.core.errors import UserError
from medtransfer.registry import fetch, network
from medtransfer.results import kept_network, result
from medtransfer.runs import benchmark, finished
from medtransfer.runs import run as runs
from medtransfer.runs.execution import leases
from medtransfer.runs.tune import trial
from medtransfer.tracking import comparison, search, sync
from medtransfer.weights import store
from medtransfer.weights.names import parse
from tests.conftest import TOP
from tests.support import fakes, workspace


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def do(message: object, beginning: str) -> None:
    """Runs the command that a message names, up to a comma or its end."""
    found = re.search(rf"{beginning}(.*?)(, then|$)", str(message))
    assert found, message
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(["sh", "-c", found[1]], check=True, env={**os.environ, "PATH": path}, capture_output=True)


def identity(root: Path, digest: str = "d1") -> tracking.Identity:
    folder = root / "data/runs" / digest
    return tracking.Identity(name=digest, task="drive", digest=digest, tags={}, params={}, folder=folder)


@pytest.mark.slow
def test_an_experiment_that_was_deleted_is_restored_by_the_command_that_is_named(root: Path) -> None:
    with tracking.recorded(root, identity(root)):
        pass
    client = tracking.connect(root)
    number = tracking.experiment(client, "medtransfer/drive")
    client.delete_experiment(number)
    said = rf"experiment medtransfer/drive \(number {number}\) was deleted.* restore --experiment-id {number}"
    with pytest.raises(UserError, match=said):
        tracking.open_run(root, identity(root, "d2"), later=True)  # not left for later: it never succeeds
    with pytest.raises(UserError, match=said):
        search.states(root, ["drive"])
    [words] = comparison.differences(root, [], [("drive", "random@x", 0)])
    assert re.search(f"drive is compared from files alone: .*{said}", words)
    with pytest.raises(UserError, match=said) as caught:
        tracking.finished(client, "drive", "d1")
    do(caught.value, "Restore it: ")
    assert tracking.finished(client, "drive", "d1") is not None
    with tracking.recorded(root, identity(root, "d2")):
        pass


@pytest.mark.slow
def test_results_that_are_gone_here_and_in_mlflow_are_not_trained_anew_unasked(root: Path) -> None:
    workspace.make(root, TOP, "shenzhen")
    [run] = runs.plan(fakes.load_params(root), root, ["random"], ["shenzhen"], [0])
    [cell] = benchmark.run_all([run])
    for name in ("data/runs", "mlruns"):
        (root / name).rename(root / f"{name}.away")
    with pytest.raises(UserError, match="as finished, but its results are gone") as caught:
        benchmark.run_all([run])
    for words in (str(run.folder), f"{root}/mlruns", "mlflow runs delete --run-id"):
        assert words in str(caught.value)
    shutil.rmtree(root / "mlruns", ignore_errors=True)
    (root / "mlruns.away").rename(root / "mlruns")  # the first way
    assert benchmark.run_all([run]) == [cell]
    shutil.rmtree(root / "mlruns")
    shutil.rmtree(root / "data/runs")
    with pytest.raises(UserError, match="its results are gone") as caught:
        finished.finished(run)
    do(caught.value, "let it be trained anew: ")
    [again] = benchmark.run_all([run])
    assert again["scores"] == cell["scores"]
    assert finished.finished(run)


@pytest.mark.parametrize(("encoding", "line"), [("cp1252", 2), ("utf-16", 1)])
def test_parameters_in_another_encoding_are_converted_by_the_command_that_is_named(
    tmp_path: Path, encoding: str, line: int
) -> None:
    text = (TOP / "params.yaml").read_text()
    wanted = params.load(TOP / "params.yaml")
    path = tmp_path / "my params.yaml"
    path.write_bytes(f"# first\n# Zürich\n{text}".encode(encoding))
    with pytest.raises(UserError, match=rf"{re.escape(str(path))} is not UTF-8: byte 0x.. in line {line}\.") as caught:
        params.load(path)
    command = re.findall("`(.*?)`", str(caught.value))[0]
    subprocess.run(["sh", "-c", command], check=True)
    assert params.load(path) == wanted
    assert "Zürich" in path.read_text(encoding="utf-8")


def test_a_command_with_such_parameters_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(b"# Z\xfcrich\n")
    code, said = workspace.run(TOP, tmp_path, "status")
    assert code == 1
    assert said.startswith(f"medtransfer: {tmp_path}/params.yaml is not UTF-8")
    assert "Traceback" not in said


CUTS = [b"", b"{", b"[]", b'{"a": 1}', b"\xff\xfe", b'{"init": "x", "par']


@pytest.mark.parametrize("content", CUTS)
def test_a_receipt_that_was_cut_off_is_named_and_made_anew(root: Path, content: bytes) -> None:
    torch.manual_seed(0)
    import timm

    save_file(timm.create_model(fakes.BACKBONE, num_classes=0).state_dict(), root / "w.safetensors")
    init = parse("file:w.safetensors", fakes.BACKBONE)
    first = store.obtain(init, root)
    receipt = store.receipt_file(init, root)
    assert receipt is not None
    receipt.write_bytes(content)
    for read in (lambda: store.state(init, root, 0, "one"), lambda: store.converted(root)):
        with pytest.raises(UserError, match=rf"{re.escape(str(receipt))} is no .*delete it and .*\.safetensors"):
            read()
    assert store.obtain(init, root) == first
    store.state(init, root, 0, "one")


@pytest.mark.parametrize("content", CUTS)
def test_every_record_that_was_cut_off_is_named(root: Path, content: bytes) -> None:
    (root / "n").mkdir()
    note, spec, facts = root / "n/kept.json", root / "n" / network.SPEC, root / "cells/unknown" / result.FACTS
    facts.parent.mkdir(parents=True)
    for path in (note, spec, facts):
        path.write_bytes(content)
    (root / "n/kept.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=re.escape(str(note))):
        kept_network.read(root / "n/kept.safetensors")
    with pytest.raises(UserError, match=re.escape(str(spec))):
        network.read(root / "n")
    with pytest.raises(UserError, match=re.escape(str(facts))):
        selection._facts("unknown", root / "cells", root)
    assert fetch._noted(note) is None  # it is fetched again


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe"])
def test_an_unsent_run_whose_record_was_cut_off_is_named_and_sent_again(root: Path, content: bytes) -> None:
    run = tracking.open_run(root, identity(root))
    run.log({"val_loss": 0.5}, 0)
    path = run.outbox.path(root)
    path.write_bytes(content)
    outcome = sync.sync(root, leases.claims(""))
    assert [str(path) in words and "Remove it" in words for words in outcome.left] == [True]
    path.unlink()
    with tracking.recorded(root, identity(root)):  # the same command again
        pass
    client = tracking.connect(root)
    found = tracking.finished(client, "drive", "d1")
    assert found is not None
    assert found.data.metrics == {"val_loss": 0.5}
    assert tracking.waiting(root) == []


def test_a_journal_that_was_damaged_is_named(root: Path) -> None:
    path = root / "data/runs/d1/journal.jsonl"
    journal = tracking.Journal(path)
    journal.append({"val_loss": 0.5}, 0)
    path.write_bytes(b"\x00\x00\n" + path.read_bytes())
    with pytest.raises(UserError, match=re.escape(str(path))):
        journal.lines()


@pytest.mark.parametrize("damage", ["text", "header", "pages", "cut"])
@pytest.mark.parametrize("which", [pytest.param("mlflow.db", marks=pytest.mark.slow), "optuna.db"])
def test_a_damaged_database_is_named_and_renaming_it_helps(
    root: Path, which: str, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root / f"{damage}-{which}"  # libraries keep open what they opened by a name
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    url = Address(f"sqlite:///{path}")

    def start() -> None:
        if which == "mlflow.db":
            tracking.connect(root)
        else:
            trial.ready(url)

    make = tracking.store._make if which == "mlflow.db" else trial._make
    make(path)
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            "text": b"not a database, but some text of a person" * 10,
            "header": b"\xff" * 100 + content[100:],
            "pages": content[:4096] + b"\xff" * (len(content) - 4096),
            "cut": content[:middle],
        }[damage]
    )
    damaged = path.read_bytes()
    with pytest.raises(UserError, match=re.escape(str(path))) as caught:
        start()
    assert "rename it" in str(caught.value)
    assert path.read_bytes() == damaged
    path.rename(root / "aside.db")
    if which == "mlflow.db":
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        SqlAlchemyStore._engine_map.clear()
    start()
    assert files.sha256(path) != files.sha256(root / "aside.db")


def test_a_lock_file_with_two_sides_of_a_merge_is_named(tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_text("<<<<<<< HEAD\nstages:\n=======\nstages: {}\n>>>>>>> other\n")
    with pytest.raises(UserError, match=r"dvc\.lock is not what DVC writes .*`git checkout --ours"):
        files.dvc_hash(tmp_path, "data/prepared/drive")


def test_a_decision_whose_record_was_cut_off_is_named(root: Path) -> None:
    from medtransfer.registry import aliases

    client = tracking.connect(root)
    run = client.create_run(tracking.experiment(client, "medtransfer/promotion"))
    client.log_text(run.info.run_id, json.dumps({"model": "m"})[:-3], aliases.RECORD)
    with pytest.raises(UserError, match=rf"decision\.json is no whole record of decision {run.info.run_id}"):
        aliases.record_of(client, MlflowClient(client.tracking_uri).get_run(run.info.run_id))
