"""Runs that another machine trained and MLflow has are in the table; those that do not fit are named and left out."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Param, RunTag

from medtransfer import params
from medtransfer.cli import remote_runs
from medtransfer.comparison import findings
from medtransfer.results.result import Result, read_result
from medtransfer.tracking.remote import RemoteRun
from tests.support import results

INITS = {"random@resnet18": 0.0, "imagenet@resnet18": 0.6}
SEEDS = (0, 1, 2, 3)


def log_run(client: MlflowClient, folder: Path, result: Result, **changes: str) -> str:
    """Logs a finished run as `finetune` does."""
    found = client.get_experiment_by_name(f"medtransfer/{result.task}")
    place = found.experiment_id if found else client.create_experiment(
        f"medtransfer/{result.task}", artifact_location=str(folder.parent / "artifacts")
    )  # fmt: skip
    tags = {
        "verb": "finetune", "digest": result.digest, "init": result.init, "seed": str(result.seed), "recipe": "fixed",
        "protocol": result.protocol, "fraction": "1", "protocol_version": str(result.protocol_version),
        "manifest_digest": result.manifest_digest, "weights_sha256": result.weights_sha256 or "random",
    }  # fmt: skip
    run = client.create_run(place, tags=tags).info.run_id
    said = {name: str(value) for name, value in result.params.items()} | changes
    client.log_batch(run, params=[Param(*pair) for pair in said.items()], tags=[RunTag("note", "")])
    for name in ("cell.json", "predictions.parquet"):
        client.log_artifact(run, str(folder / result.task / result.digest / name))
    client.set_terminated(run)
    return str(run)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds all runs of two inits in MLflow."""
    folder = tmp_path_factory.mktemp("server")
    results.write(folder / "theirs", INITS, ["shenzhen"], SEEDS)
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    for path in sorted((folder / "theirs").glob("*/*/cell.json")):
        log_run(client, folder / "theirs", read_result(path))
    return folder


@pytest.fixture
def study(server: Path, tmp_path: Path, top: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study with two of four seeds here, and all of them in MLflow."""
    root = tmp_path / "here"
    (root / "data/results").mkdir(parents=True)
    shutil.copy(top / "params.yaml", root)
    shutil.copytree(top / "presets", root / "presets")
    results.write(root / "data/results/cells", INITS, ["shenzhen"], SEEDS[:2])
    shutil.copy(server / "mlflow.db", tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return root


def settings(root: Path, **dotted: object) -> params.Params:
    named = {
        "benchmark.inits": ["random", "imagenet"], "benchmark.tasks": ["shenzhen"], "benchmark.seeds": list(SEEDS),
        "model.backbone": "resnet18", "comparison.resamples": 0, "tasks.shenzhen.image_size": 96,
        "tasks.shenzhen.cache_size": 112,
    }  # fmt: skip
    return params.load(root / "params.yaml", {name: str(value) for name, value in (named | dotted).items()})


def remote(root: Path) -> list[Result]:
    return [read_result(path) for path in sorted((root / "data/results/remote").glob("*/*/cell.json"))]


def test_what_another_machine_trained_is_in_the_table(
    study: Path, server: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = settings(study)
    with caplog.at_level(logging.INFO, "medtransfer"):
        remote_runs.bring(asked, study)
    assert [(one.init, one.seed) for one in sorted(remote(study), key=lambda r: (r.init, r.seed))] == [
        (init, seed) for init in sorted(INITS) for seed in (2, 3)
    ]
    assert "4 runs in the table that MLflow has and data/results/cells has not" in caplog.text
    found = findings.of_benchmark(study / "data/results/cells", asked, study)
    shutil.copytree(server / "theirs", tmp_path / "whole/data/results/cells")
    whole = findings.of_benchmark(tmp_path / "whole/data/results/cells", asked, study)
    assert [row.scores for row in found.rows] == [row.scores for row in whole.rows]
    assert found.contrasts == whole.contrasts  # with what their patients say
    assert found.evidence["shenzhen"].patients == 200


def test_what_does_not_fit_is_named_and_left_out(study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    remote_runs.bring(settings(study, **{"classification.lr": 0.5}), study)
    assert remote(study) == []
    assert (
        "4 finished runs in MLflow have other parameters than the study has and are left out (classification.lr)"
        in (caplog.text)
    )
    caplog.clear()
    remote_runs.bring(settings(study, **{"benchmark.seeds": [0, 1, 2]}), study)
    assert {one.seed for one in remote(study)} == {2}
    remote_runs.bring(settings(study), study)
    assert {one.seed for one in remote(study)} == {2, 3}
    remote_runs.bring(settings(study, **{"benchmark.seeds": [0, 1]}), study)
    assert remote(study) == []  # a cache: what is not compared goes


def test_runs_of_parameters_that_changed_since_are_told(study: Path, caplog: pytest.LogCaptureFixture) -> None:
    (run, *_) = [read_result(path) for path in (study / "data/results/cells").glob("*/*/cell.json")]
    lr = run.params["classification.lr"]
    remote_runs.say_changed(settings(study, **{"classification.lr": lr}), study)
    assert not caplog.text
    remote_runs.say_changed(settings(study, **{"classification.lr": 0.5}), study)
    assert (
        f"4 runs in the tables under other parameters than the study has now (classification.lr {lr} then, 0.5 now): "
        "`benchmark` trains those of now"
    ) in caplog.text
    caplog.clear()
    remote_runs.say_changed(settings(study, **{"classification.lr": 0.5, "benchmark.seeds": [7]}), study)
    assert not caplog.text


def test_an_odd_machine_s_runs_are_left_out_unless_allowed(
    study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    odd = tmp_path / "odd"
    results.write(odd, {"dino@resnet18": 0.3}, ["shenzhen"], SEEDS, device="NVIDIA A100")
    for path in sorted(odd.glob("*/*/cell.json")):
        log_run(client, odd, read_result(path))
    three = {"benchmark.inits": ["random", "imagenet", "dino@resnet18"]}
    remote_runs.bring(settings(study, **three), study)
    assert {one.init for one in remote(study)} == set(INITS)
    assert "4 runs in MLflow trained in other conditions" in caplog.text
    assert "seed 0" in caplog.text
    assert "device" in caplog.text
    remote_runs.bring(settings(study, **three, **{"comparison.unbalanced": ["device"]}), study)
    assert {one.init for one in remote(study)} == {*INITS, "dino@resnet18"}


def test_two_runs_of_one_place_are_not_chosen_between(
    study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    twice = tmp_path / "twice"
    results.write(twice, {"imagenet@resnet18": 0.1}, ["shenzhen"], [3], protocol="finetune")
    [path] = twice.glob("*/*/cell.json")
    log_run(client, twice, read_result(path))
    remote_runs.bring(settings(study), study)
    assert [(one.init, one.seed) for one in remote(study) if one.seed == 3] == [("random@resnet18", 3)]
    assert "several runs of one place" in caplog.text
    assert "shenzhen imagenet@resnet18 3" in caplog.text


def test_runs_of_the_benchmark_s_controls_are_brought_and_of_others_are_not(study: Path, tmp_path: Path) -> None:
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    for init, protocol in (("none", "prior"), ("none", "texture"), ("imagenet@resnet18", "permuted")):
        folder = tmp_path / protocol
        results.write(folder, {init: 0.0}, ["shenzhen"], SEEDS[:1], protocol=protocol)
        [path] = folder.glob("*/*/cell.json")
        log_run(client, folder, read_result(path))
    asked = {"benchmark.controls": ["prior", "permuted"], "comparison.reference": "imagenet"}
    remote_runs.bring(settings(study, **asked), study)
    assert {(one.init, one.protocol) for one in remote(study) if one.seed == 0} == {
        ("none", "prior"), ("imagenet@resnet18", "permuted"),
    }  # fmt: skip
    assert {one.seed for one in remote(study) if one.protocol == "finetune"} == {2, 3}
    remote_runs.bring(settings(study), study)
    assert {one.protocol for one in remote(study)} == {"finetune"}


def test_permuted_masks_are_trained_without_what_moves_images_and_fit_all_the_same() -> None:
    values = {"segmentation.augmentation.crop": 1.0, "segmentation.lr": 0.001}
    said = {"segmentation.augmentation.crop": "0.0", "segmentation.lr": "0.001"}
    for protocol, differing in (("permuted", []), ("finetune", ["segmentation.augmentation.crop"])):
        run = RemoteRun(run_id="", digest="", task="montgomery", tags={"protocol": protocol}, params=said)
        assert remote_runs._differs(run, values) == differing


def test_a_task_that_is_not_described_here_is_told(study: Path, caplog: pytest.LogCaptureFixture) -> None:
    remote_runs.bring(settings(study, **{"benchmark.tasks": ["shenzhen", "clinic"]}), study)
    assert "runs of clinic that MLflow may have are not brought: the task is not described here" in caplog.text
    assert "put its task.yaml into data/raw/clinic" in caplog.text
    assert {one.seed for one in remote(study)} == {2, 3}
