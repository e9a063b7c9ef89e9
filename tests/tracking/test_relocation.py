"""A study that was moved or copied: what is read and written of it afterwards is in its own folder alone."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from medtransfer import tracking
from medtransfer.core import files
from medtransfer.core.errors import UserError
from medtransfer.registry import fetch
from medtransfer.runs.execution import leases
from medtransfer.tracking import store, sync
from medtransfer.weights import store as weights
from medtransfer.weights.names import parse
from medtransfer.weights.receipts import Receipt
from tests.support import fakes, promotions


@pytest.fixture
def enter(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def go(root: Path) -> Path:
        root.mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(root)
        return root

    return go


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of MLflow, which takes seconds to make."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    store._make(path)
    return path


@pytest.fixture
def study(tmp_path: Path, empty: Path, enter: Callable[[Path], Path]) -> Path:
    """A folder, with a space in its name, with one finished run, one that is RUNNING, and a registered version."""
    root = enter(tmp_path / "my study")
    shutil.copyfile(empty, root / "mlflow.db")
    with sqlite3.connect(root / "mlflow.db") as database:
        database.execute("UPDATE experiments SET artifact_location = ?", (f"{root}/mlruns/0",))
    run = record(root, "d1", "first")
    client = tracking.connect(root)
    client.create_registered_model("m")
    client.create_model_version("m", f"{run.info.artifact_uri}/cell.txt", run.info.run_id)
    logged = client.create_logged_model(run.info.experiment_id, source_run_id=run.info.run_id)
    client.create_model_version("m", f"models:/{logged.model_id}", run.info.run_id, model_id=logged.model_id)
    tracking.open_run(root, identity(root, "d2"))
    return root


def identity(root: Path, digest: str) -> tracking.Identity:
    folder = root / "data/runs" / digest
    return tracking.Identity(name=digest, task="drive", digest=digest, tags={}, params={}, folder=folder)


def record(root: Path, digest: str, text: str) -> Run:
    with tracking.recorded(root, identity(root, digest)) as run:
        (root / "data/runs" / digest / "cell.txt").write_text(text)
        run.artifacts(root / "data/runs" / digest, ["cell.txt"])
    found = tracking.finished(tracking.connect(root), "drive", digest)
    assert found is not None
    return found


def state(root: Path) -> dict[str, str]:
    """Hashes every file below a folder, with its time of change."""
    return {
        str(path.relative_to(root)): f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime_ns}"
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def text_of(root: Path, digest: str, tmp_path: Path) -> str:
    client = tracking.connect(root)
    run = tracking.finished(client, "drive", digest)
    assert run is not None
    assert Path(run.info.artifact_uri).is_relative_to(root)
    out = tmp_path / f"out-{root.name}-{digest}"
    out.mkdir(exist_ok=True)
    store.download(client, run, ["cell.txt"], out)
    return (out / "cell.txt").read_text()


def names_of(root: Path, folder: Path) -> list[str]:
    """Lists the addresses of the database that name a folder."""
    with sqlite3.connect(root / "mlflow.db") as database:
        return [line for line in database.iterdump() if f"'{folder}/" in line]


@pytest.mark.parametrize("kept", [False, True], ids=["moved", "copied"])
def test_what_it_has_is_read_and_what_is_new_is_written_in_its_own_folder(
    tmp_path: Path, study: Path, enter: Callable[[Path], Path], caplog: pytest.LogCaptureFixture, kept: bool
) -> None:
    other = tmp_path / "elsewhere/study"
    other.parent.mkdir()
    (shutil.copytree if kept else shutil.move)(study, other)
    before = state(study) if kept else {}
    enter(other)
    assert text_of(other, "d1", tmp_path) == "first"
    assert f"this study was at {study}, and is at {other}" in caplog.text
    assert caplog.text.count("this study was at") == 1  # said once
    new = record(other, "d3", "third")
    assert (other / "mlruns" / new.info.experiment_id / new.info.run_id / "artifacts/cell.txt").read_text() == "third"
    assert text_of(other, "d3", tmp_path) == "third"
    client = tracking.connect(other)
    source = Path(client.get_model_version("m", "1").source)
    assert source.read_text() == "first"
    for place in (source, *(client.get_model_version_download_uri("m", version) for version in "12")):
        assert Path(place).is_relative_to(other)
    [logged] = client.search_logged_models([new.info.experiment_id])
    assert Path(logged.artifact_location).is_relative_to(other)
    assert store.reap(client) == 1  # what was RUNNING when it was copied has no living owner here
    sync.sweep(other, leases.claims(""))  # d2 had not ended: its outbox is sent
    assert tracking.waiting(other) == []
    assert names_of(other, study) == []
    assert state(study) == before if kept else not study.exists()


def test_a_living_run_of_the_original_holds_up_nothing_in_the_copy(
    tmp_path: Path, study: Path, enter: Callable[[Path], Path]
) -> None:
    other = tmp_path / "copy"
    shutil.copytree(study, other)
    enter(other)
    with files.lock(study / "data/runs/d2/lock"):
        assert store.reap(tracking.connect(other)) == 1
    enter(study)
    client = tracking.connect(study)
    [run] = tracking.store.find(client, "drive", "d2")
    assert run.info.status == "RUNNING"  # the original's is as it was


def test_a_copy_without_its_artifacts_is_refused_until_they_are_copied(
    tmp_path: Path, study: Path, enter: Callable[[Path], Path]
) -> None:
    other = enter(tmp_path / "its copy")
    shutil.copyfile(study / "mlflow.db", other / "mlflow.db")
    before, content = state(study), (other / "mlflow.db").read_bytes()
    with pytest.raises(UserError) as caught:
        tracking.connect(other)
    assert str(study) in str(caught.value)
    assert (other / "mlflow.db").read_bytes() == content
    command = str(caught.value).partition("start the same command again: ")[2]
    assert os.system(command) == 0
    assert text_of(other, "d1", tmp_path) == "first"
    record(other, "d3", "third")
    assert state(study) == before


def test_another_study_in_the_old_place_is_left_alone(
    tmp_path: Path, study: Path, enter: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "old study"
    shutil.move(study, other)
    enter(study)
    with monkeypatch.context() as patch:  # MLflow keeps the moved file open by its address, so this is another one
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{study}/../{study.name}/mlflow.db")
        record(study, "d1", "of another study")
    before = state(study)
    enter(other)
    assert text_of(other, "d1", tmp_path) == "first"
    record(other, "d3", "third")
    assert state(study) == before


def test_places_that_a_person_gave_stay(tmp_path: Path, study: Path, enter: Callable[[Path], Path]) -> None:
    client = tracking.connect(study)
    given = {
        "a": str(tmp_path / "disk/artifacts"), "b": "s3://bucket/mlruns/1", "c": "mlflow-artifacts:/mlruns/1",
    }  # fmt: skip
    for name, place in given.items():
        client.create_experiment(name, artifact_location=place)
    other = tmp_path / "moved"
    shutil.move(study, other)
    enter(other)
    client = tracking.connect(other)
    for name, place in given.items():
        found = client.get_experiment_by_name(name)
        assert found is not None
        assert found.artifact_location == place


def test_a_database_outside_of_the_folder_is_left_alone(
    tmp_path: Path, study: Path, enter: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with `dvc exp run --temp` and `mlflow run` of a repository: the store is that of another folder."""
    other = enter(tmp_path / "clone")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{study}/mlflow.db")
    before = sorted(names_of(study, study))
    tracking.connect(other)
    assert sorted(names_of(study, study)) == before
    assert before


def test_a_link_to_the_folder_is_the_folder(tmp_path: Path, study: Path, enter: Callable[[Path], Path]) -> None:
    other = tmp_path / "moved"
    shutil.move(study, other)
    study.symlink_to(other)
    enter(other)
    tracking.connect(other)
    assert names_of(other, study)
    assert text_of_link(other, study)
    study.unlink()
    assert text_of(other, "d1", tmp_path) == "first"


def text_of_link(root: Path, link: Path) -> bool:
    run = tracking.finished(MlflowClient(f"sqlite:///{root}/mlflow.db"), "drive", "d1")
    assert run is not None
    return (Path(run.info.artifact_uri) / "cell.txt").read_text() == "first" and run.info.artifact_uri.startswith(
        str(link)
    )


def test_addresses_with_a_scheme_keep_it(tmp_path: Path, study: Path, enter: Callable[[Path], Path]) -> None:
    with sqlite3.connect(study / "mlflow.db") as database:
        old = study.as_uri()
        database.execute("UPDATE runs SET artifact_uri = replace(artifact_uri, ?, ?)", (str(study), old))
    other = tmp_path / "moved here"
    shutil.move(study, other)
    enter(other)
    run = tracking.finished(tracking.connect(other), "drive", "d1")
    assert run is not None
    assert run.info.artifact_uri.startswith(other.as_uri() + "/mlruns/")


def test_a_promoted_backbone_is_fetched_after_a_move(tmp_path: Path, top: Path, enter: Callable[[Path], Path]) -> None:
    first, other = enter(tmp_path / "first"), tmp_path / "second"
    promotions.start(first, top, "ab")
    promotions.promote(first, *promotions.finish(first, {"a": 0.0, "b": 4.0}))
    name = f"registry:{promotions.MODEL}/champion"
    shutil.move(first, other)
    enter(other)
    brought = fetch.bring(promotions.load(other, "ab"), [name], other)
    receipt = weights.obtain(parse(name, fakes.BACKBONE, brought.inits), other)
    wanted = weights.obtain(parse(promotions.name_of("b"), fakes.BACKBONE), other)
    assert isinstance(receipt, Receipt)
    assert isinstance(wanted, Receipt)
    assert receipt.tensors_sha256 == wanted.tensors_sha256
    assert not first.exists()
