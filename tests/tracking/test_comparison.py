"""What MLflow knows of the compared runs, and the comparison as a run of its own."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from mlflow import MlflowClient

from medtransfer import tracking
from medtransfer.comparison.selection import collect
from medtransfer.results.result import Result
from medtransfer.tracking import comparison, search
from tests.support import results

RANDOM = "random@resnet50"


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cells(tmp_path: Path) -> list[Result]:
    results.write(tmp_path / "cells", {RANDOM: 0.0}, ("drive",), (0, 1), cases=20)
    return collect(tmp_path / "cells", tmp_path)


def log_run(root: Path, cell: Result, status: str = "FINISHED", score: float | None = None) -> str:
    client = tracking.connect(root)
    place = tracking.experiment(client, f"medtransfer/{cell.task}")
    tags = {"verb": "finetune", "digest": cell.digest, "init": cell.init, "seed": str(cell.seed)}
    run_id = str(client.create_run(place, tags=tags).info.run_id)
    client.log_metric(run_id, f"test_{cell.metric}", cell.scores[f"test_{cell.metric}"] if score is None else score)
    if status == "FAILED":
        client.set_tag(run_id, "error", "UserError: loss is nan")
    client.set_terminated(run_id, status)
    return run_id


def test_equal_runs_make_no_words(tmp_path: Path, cells: list[Result]) -> None:
    for cell in cells:
        log_run(tmp_path, cell)
    assert comparison.differences(tmp_path, cells) == []


def test_runs_that_mlflow_lacks_or_holds_otherwise_are_named(tmp_path: Path, cells: list[Result]) -> None:
    log_run(tmp_path, cells[0], score=0.5)
    other, lacking = comparison.differences(tmp_path, cells)
    assert other.startswith(f"drive {RANDOM} seed 0: MLflow says test_dice 0.5, the compared run 0.")
    assert lacking == f"drive {RANDOM} seed 1: MLflow has no finished run {cells[1].digest}"


def test_several_runs_of_one_digest_are_named(tmp_path: Path, cells: list[Result]) -> None:
    for cell in (*cells, cells[0]):
        log_run(tmp_path, cell)
    [line] = comparison.differences(tmp_path, cells)
    assert line == f"drive {RANDOM} seed 0: MLflow holds 2 finished runs of one digest, with equal scores"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("", "MLflow has no such run; run `benchmark`"),
        ("FAILED", "FAILED in MLflow (UserError: loss is nan); run `benchmark`, which resumes it"),
        ("KILLED", "KILLED in MLflow; run `benchmark`, which resumes it"),
        ("FINISHED", "finished in MLflow: run `benchmark`, which brings it here"),
    ],
)
def test_missing_runs_say_how_far_they_are(tmp_path: Path, cells: list[Result], status: str, words: str) -> None:
    log_run(tmp_path, cells[0])
    if status:
        log_run(tmp_path, cells[1], status)
    [line] = comparison.differences(tmp_path, cells[:1], [("drive", RANDOM, 1)])
    assert line.startswith(f"drive {RANDOM} seed 1 is missing")
    assert line.endswith(words)


def test_many_runs_are_read_page_by_page(tmp_path: Path, cells: list[Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "PAGE", 1)
    for cell in cells:
        log_run(tmp_path, cell)
    assert comparison.differences(tmp_path, cells) == []


def test_without_a_store_files_alone_count(
    tmp_path: Path, cells: list[Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/none/all.db")
    [line] = comparison.differences(tmp_path, cells)
    assert line.startswith("compared from files alone: MLflow's store sqlite:////proc/none/all.db cannot be opened")


def record(root: Path, digest: str = "c1") -> None:
    out = root / "results"
    (out / "report/figures").mkdir(parents=True, exist_ok=True)
    (out / "report/index.html").write_text("<p>report</p>")
    (out / "report/figures/scores.png").write_bytes(b"png")
    (out / "runs.csv").write_text("task\n")
    comparison.record(
        root, out, digest=digest, tags={"answer": "decided"}, params={"comparison.alpha": 0.05},
        metrics={"chosen_test_drive": 0.8}, text="Start from swav.", parent=None,
    )  # fmt: skip


def found(root: Path) -> tuple[MlflowClient, list[str]]:
    client = tracking.connect(root)
    place = client.get_experiment_by_name("medtransfer/comparison")
    return client, [run.info.run_id for run in client.search_runs([place.experiment_id])]


def test_a_comparison_is_a_run_with_its_whole_report(tmp_path: Path) -> None:
    record(tmp_path)
    client, [run_id] = found(tmp_path)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"comparison.alpha": "0.05"}
    assert run.data.metrics == {"chosen_test_drive": 0.8}
    assert run.data.tags["mlflow.note.content"] == "Start from swav."
    assert {item.path for item in client.list_artifacts(run_id)} == {"report", "runs.csv"}
    assert {item.path for item in client.list_artifacts(run_id, "report")} == {"report/figures", "report/index.html"}


def test_an_equal_comparison_is_logged_once(tmp_path: Path) -> None:
    for digest in ("c1", "c1", "c2"):
        record(tmp_path, digest)
    assert len(found(tmp_path)[1]) == 2


def test_a_store_that_is_away_loses_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/none/all.db")
    with caplog.at_level(logging.WARNING):
        record(tmp_path)
    assert "but MLflow did not take it" in caplog.text
    assert (tmp_path / "results/report/index.html").is_file()
