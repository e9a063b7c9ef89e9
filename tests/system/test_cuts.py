"""A kill -9 at every step between work and record: the same command then ends right, and MLflow has it whole."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from medtransfer import params, tracking
from medtransfer.data import catalog
from medtransfer.data import prepare as preparation
from medtransfer.data.cache_build import Build
from medtransfer.registry import aliases, demote
from medtransfer.results import study as ledger
from medtransfer.runs.execution import leases
from medtransfer.runs.pretrain import pretrain
from medtransfer.runs.tune import tune
from medtransfer.tracking import comparison, sync
from medtransfer.weights import receipts
from medtransfer.weights.names import parse
from tests.support import cuts, fakes, promotions, workspace

CHAIN = "random+chestxray14"
MOST = 200
"""steps by which every work here has ended"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, top: Path) -> Path:
    """A workspace with prepared phantoms and an empty MLflow database, which takes seconds to make."""
    root = workspace.make(tmp_path_factory.mktemp("cuts"), top, "chestxray14", "shenzhen")
    tree = yaml.safe_load((root / "params.yaml").read_text())
    tree["pretraining"] |= {"max_epochs": 1, "image_size": 32}
    tree["classification"] |= {"max_epochs": 2}
    tree["tuning"] |= {"inits": ["random"], "tasks": ["shenzhen"], "trials": 2, "startup": 1, "finalists": 1}
    tree["tuning"] |= {"finalist_seeds": [1001], "space": {"lr": {"low": 1e-4, "high": 1e-2, "log": True}}}
    (root / "params.yaml").write_text(yaml.safe_dump(tree))

    def prepare() -> None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        tracking.connect(root)
        for task in ("chestxray14", "shenzhen"):
            preparation.prepare(catalog.lookup(task, root), params.load(root / "params.yaml"), root)

    assert cuts.cut(prepare, 0)
    return root


@pytest.fixture
def fresh(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Path]:
    """Copies the workspace, and makes the copy the working folder."""
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def copy(number: int) -> Path:
        root = tmp_path / str(number)
        root.mkdir()
        for name in ("params.yaml", "mlflow.db"):
            shutil.copyfile(template / name, root / name)
        for name in ("phantoms", "prepared"):
            (root / "data").mkdir(exist_ok=True)
            (root / "data" / name).symlink_to(template / "data" / name)
        (root / "presets").symlink_to(template / "presets")
        monkeypatch.chdir(root)
        return root

    return copy


def everywhere(
    fresh: Callable[[int], Path],
    work: Callable[[Path], object],
    check: Callable[[Path], None],
    since: tuple[Any, str] | None = None,
    before: Callable[[Path], object] = lambda root: None,
) -> int:
    """Kills the work before each of its steps in turn, does it again, and checks; returns the number of steps."""
    for point in range(1, MOST):
        root = fresh(point)
        assert cuts.cut(functools.partial(before, root), 0)
        ended = cuts.cut(functools.partial(work, root), point, since)
        assert ended or cuts.cut(functools.partial(work, root), 0)
        try:
            check(root)
        except AssertionError as error:
            raise AssertionError(f"after a kill before step {point}") from error
        if ended:
            return point - 1
        shutil.rmtree(root)
    raise AssertionError(f"no end after {MOST} steps")


def runs(root: Path, task: str) -> list[Run]:
    """Lists the runs of an experiment; nothing is RUNNING in any, and nothing waits on disk."""
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    places = [place.experiment_id for place in client.search_experiments()]
    assert not client.search_runs(places, "attributes.status = 'RUNNING'")
    assert tracking.waiting(root) == []
    found = client.get_experiment_by_name(tracking.PREFIX + task)
    return list(client.search_runs([found.experiment_id])) if found else []


def artifacts(root: Path, run: Run) -> set[str]:
    return {item.path for item in MlflowClient(f"sqlite:///{root}/mlflow.db").list_artifacts(run.info.run_id)}


@pytest.mark.slow
def test_prepare(fresh: Callable[[int], Path]) -> None:
    def work(root: Path) -> None:
        preparation.prepare(catalog.lookup("shenzhen", root), params.load(root / "params.yaml"), root)

    def own(root: Path) -> None:
        (root / "data/prepared").unlink()

    def check(root: Path) -> None:
        found = {path.name for path in (root / "data/prepared/shenzhen").rglob("*") if path.is_file()}
        assert found == {"images.npy", "thumbnails.npy", "samples.parquet", "samples.png",
                         "manifest.json"}  # fmt: skip

    steps = everywhere(fresh, work, check, (Build, "describe"), own)
    print(f"\nprepare: {steps} steps")
    assert steps >= 6


@pytest.mark.slow
def test_pretrain(fresh: Callable[[int], Path]) -> None:
    def work(root: Path) -> None:
        pretrain.make_all([CHAIN], params.load(root / "params.yaml"), root, ["shenzhen"])

    def check(root: Path) -> None:
        [run] = runs(root, pretrain.EXPERIMENT)
        made = receipts.read(parse(CHAIN, fakes.BACKBONE), root)
        assert made is not None
        assert (run.info.status, run.info.run_id) == ("FINISHED", made.mlflow_run_id)
        slug = parse(CHAIN, fakes.BACKBONE).slug
        wanted = {f"{slug}.safetensors", f"{slug}.receipt.json", "params.yaml", "journal.jsonl", "curves.png"}
        assert artifacts(root, run) == wanted
        assert "error" not in run.data.tags
        assert {"val_loss", "best_epoch"} <= run.data.metrics.keys()
        assert not (root / "data/runs" / made.digest / "checkpoint.pt").exists()

    steps = everywhere(fresh, work, check, (receipts, "write"))
    print(f"\npretrain: {steps} steps")
    assert steps >= 10


@pytest.mark.slow
def test_tune(fresh: Callable[[int], Path]) -> None:
    def work(root: Path) -> None:
        sync.sweep(root, leases.claims(""))
        tune.tune(params.load(root / "params.yaml"), root, ["random"], ["shenzhen"])

    def check(root: Path) -> None:
        found = runs(root, "tuning")
        [study] = [run for run in found if run.data.tags.get("verb") == "tune"]
        assert study.info.status == "FINISHED"
        assert artifacts(root, study) >= {"best.yaml", "history.png"}
        init = parse("random", fakes.BACKBONE)
        book = ledger.find(init.canonical, init.slug, "shenzhen", root)
        assert book.finished
        whole = [run for run in found if run.info.status == "FINISHED" and run is not study]
        counted = [str(trial.number) for trial in book.trials if trial.counted]
        repeats = [f"{finalist.number}:1001" for finalist in book.finalists]
        assert sorted(run.data.tags["trial"] for run in whole) == sorted(counted + repeats)
        client = MlflowClient(f"sqlite:///{root}/mlflow.db")
        for run in whole:
            points = client.get_metric_history(run.info.run_id, "train_loss")
            assert [point.step for point in points] == [0, 1]
        assert len(counted) == 2
        assert not list((root / "data/runs").glob("*/checkpoint.pt"))

    steps = everywhere(fresh, work, check)
    print(f"\ntune: {steps} steps")
    assert steps >= 40


@pytest.mark.slow
def test_compare(fresh: Callable[[int], Path]) -> None:
    def work(root: Path) -> None:
        out = root / "data/results"
        (out / "report/figures").mkdir(parents=True, exist_ok=True)
        (out / "report/index.html").write_text("<p>report</p>")
        (out / "report/figures/scores.png").write_bytes(b"png")
        (out / "runs.csv").write_text("task\n")
        sync.sweep(root, leases.claims(""))
        comparison.record(
            root, out, digest="c1", tags={"answer": "decided"}, params={"comparison.alpha": 0.05},
            metrics={"chosen_test_drive": 0.8}, text="Start from swav.", parent=None,
        )  # fmt: skip

    def check(root: Path) -> None:
        [run] = runs(root, comparison.COMPARISON)
        assert run.info.status == "FINISHED"
        assert artifacts(root, run) == {"report", "runs.csv"}
        assert run.data.metrics == {"chosen_test_drive": 0.8}
        assert run.data.params == {"comparison.alpha": "0.05"}

    steps = everywhere(fresh, work, check)
    print(f"\ncompare: {steps} steps")
    assert steps >= 10


def _reported(root: Path) -> None:
    """Two champions after each other would need two comparisons: the second is of more runs."""
    promotions.start_weights(root)
    promotions.finish(root, {"a": 0.0, "b": 2.0})


def _promote(root: Path) -> None:
    here = promotions.load(root, ["random", "a", "b"])
    found = promotions.report(root, here)
    sync.sweep(root, leases.claims(""))
    promotions.promote(root, here, found)


def champion(root: Path) -> str:
    found = aliases.holder(MlflowClient(f"sqlite:///{root}/mlflow.db"), promotions.MODEL, "champion")
    return found.version if found else ""


@pytest.mark.slow
def test_promote(fresh: Callable[[int], Path]) -> None:
    def check(root: Path) -> None:
        found = runs(root, aliases.EXPERIMENT)
        assert {run.info.status for run in found} == {"FINISHED"}
        outcomes = sorted((run.data.tags["model"], run.data.tags["outcome"]) for run in found)
        assert outcomes == [
            (promotions.MODEL, "champion"), ("medtransfer-montgomery", "blocked"), ("medtransfer-shenzhen", "blocked"),
        ]  # fmt: skip
        [run] = [run for run in found if run.data.tags["outcome"] == "champion"]
        assert artifacts(root, run) == {"decision.json", "decision.md", "report", "backbone"}
        assert run.data.tags["new_version"] == champion(root) == "1"
        client = MlflowClient(f"sqlite:///{root}/mlflow.db")
        assert "champion" in client.get_registered_model(promotions.MODEL).description
        said = json.loads((root / "data/results/promotion.json").read_text())
        assert [one["outcome"] for one in said] == ["champion", "blocked", "blocked"]

    steps = everywhere(fresh, _promote, check, before=_reported)
    print(f"\npromote: {steps} steps")
    assert steps >= 40


@pytest.mark.slow
def test_demote_after_a_promote_that_was_killed_and_a_demote_that_is(fresh: Callable[[int], Path]) -> None:
    """The second champion is one whose promotion was killed right behind its alias: demote finds the way back."""

    def before(root: Path) -> None:
        promotions.start_weights(root)
        here, found = promotions.finish(root, {"a": 0.0})
        promotions.promote(root, here, found)
        assert not cuts.cut(lambda: second(root), 1, (aliases, "move"))  # the step behind it is the alias itself
        assert not cuts.cut(lambda: second(root), 2, (aliases, "move"))
        assert champion(root) == "2"

    def second(root: Path) -> None:
        here, found = promotions.finish(root, {"a": 0.0, "b": 4.0})
        promotions.promote(root, here, found)

    def work(root: Path) -> None:
        sync.sweep(root, leases.claims(""))
        demote.demote(promotions.MODEL, "champion", "it saw the test images", root)

    def check(root: Path) -> None:
        found = runs(root, aliases.EXPERIMENT)
        assert champion(root) == "1"
        [run] = [run for run in found if run.data.tags["verb"] == "demote"]
        assert run.info.status == "FINISHED"
        promoted = [run for run in found if run.data.tags["outcome"] == "champion"]
        assert {run.info.status for run in promoted} == {"FINISHED"}
        assert {run.data.tags["new_version"] for run in promoted} == {"1", "2"}

    steps = everywhere(fresh, work, check, before=before)
    print(f"\ndemote: {steps} steps")
    assert steps >= 10
