from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from rich.console import Console

from medtransfer import params as parameters
from medtransfer import tracking
from medtransfer.cli.main import run as command
from medtransfer.core import files
from medtransfer.core.errors import Held, UserError
from medtransfer.runs import benchmark, costs, dry_run, finetune, status
from medtransfer.runs.execution import leases, pull
from medtransfer.runs.retries import Work
from medtransfer.runs.run import Run
from medtransfer.runs.run import plan as plan_runs
from medtransfer.training.trainer import Trainer
from tests.support import workspace


@pytest.fixture
def root(tmp_path: Path, top: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.chdir(tmp_path)
    return workspace.make(tmp_path, top, "shenzhen", "montgomery")


def load(root: Path, **overrides: str) -> parameters.Params:
    return parameters.load(root / "params.yaml", {k.replace("__", "."): v for k, v in overrides.items()})


def plan(
    root: Path, tasks: tuple[str, ...] = ("shenzhen",), seeds: tuple[int, ...] = (0,), **overrides: str
) -> list[Run]:
    return plan_runs(load(root, **overrides), root, ["random"], tasks, seeds)


def text(shown: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(shown)
    return out.getvalue()


def listing(root: Path) -> dict[str, int]:
    """Lists files and their times, but for MLflow's database and the hashes of raw files, which any look writes."""
    return {
        str(p): p.stat().st_mtime_ns for p in root.rglob("*") if "mlflow.db" not in p.name and "/runs/raw" not in str(p)
    }


def runs(root: Path, task: str = "shenzhen") -> list[Any]:
    client = tracking.connect(root)
    experiment = client.get_experiment_by_name(f"medtransfer/{task}")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


@pytest.mark.slow
def test_a_lost_run_is_given_out_again_as_often_as_retries_say_and_a_held_one_until_it_is_free(root: Path) -> None:
    a, b = plan(root, seeds=(0, 1))
    work = Work([(a, b)], retries=1)
    lost, held = pull.WorkerLost("killed"), Held("elsewhere")
    assert work.take() == (a, b)
    assert work.back(a, held)
    assert work.take() is None  # b is at work, and a pause is due
    assert work.back(b, lost)
    assert work.take() == (b,)  # before the one that another process has
    assert not work.back(b, lost)
    assert work.take() == (a,)
    assert work.back(a, leases.Lost("taken over"))
    assert work.take() == (a,)
    assert not work.back(a, {"a": "cell"})
    assert work.take() is None


def test_a_dry_run_names_what_is_missing_counts_runs_and_writes_nothing(root: Path) -> None:
    params = load(root, benchmark__seeds="[0, 1]", benchmark__inits="[random, swav]")
    before = listing(root)
    bare = text(dry_run.shown(dry_run.survey(params, root, params.benchmark.tasks), params, root))
    assert listing(root) == before
    assert not (root / "mlflow.db").exists()
    assert "Missing, data of shenzhen, data of montgomery: not prepared yet" in " ".join(bare.split())
    assert "weights of swav: not converted yet" in bare
    assert "Nothing is known of the time that this takes: no run of the same task, backbone" in " ".join(bare.split())
    benchmark.run_all(plan(root))
    before = listing(root)
    found = dry_run.survey(params, root, params.benchmark.tasks)
    shown = text(dry_run.shown(found, params, root))
    assert listing(root) == before
    assert [run.seed for run in found.runs] == [0, 1]
    assert found.nameless == {"shenzhen": 2, "montgomery": 4}
    row = next(line.split() for line in shown.splitlines() if "shenzhen" in line)
    assert row[1::2][:4] == ["shenzhen", "1", "3", "2"]  # swav's two are of unknown length
    assert re.search(r"Known: \d+ s of one worker, .* finished runs of the same task", " ".join(shown.split()))
    done = load(root, benchmark__tasks="[shenzhen]")
    shown = text(dry_run.shown(dry_run.survey(done, root, done.benchmark.tasks), done, root))
    assert "All runs have finished: nothing is left to do." in shown
    row = next(line.split() for line in shown.splitlines() if "shenzhen" in line)
    assert row[1:] == ["shenzhen", "│", "1", "│", "0", "│", "│", "0", "s", "│", "0.00", "│"]


def test_the_verb_says_its_plan_and_refuses_another_word(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(["benchmark", "--dry-run"], root)
    assert "Nothing was written" in capsys.readouterr().out
    assert not (root / "data/prepared").exists()
    with pytest.raises(UserError, match="--dry must be yes or no, got 'maybe'"):
        command(["benchmark", "--dry", "maybe"], root)


def test_the_longest_run_starts_first_and_unknown_ones_before_it(root: Path) -> None:
    short, long = plan(root, tasks=("montgomery", "shenzhen"))
    (unknown,) = plan(root, classification__max_epochs="9")
    for run, seconds in ((short, 1.0), (long, 5.0)):
        cell = {"task": run.task, "init": run.init.canonical, "device": run.device, "params": run.shown}
        files.write_text(run.folder / "cell.json", json.dumps({**cell, "cost": {"seconds": seconds}}))
    assert dry_run.longest_first([short, long, unknown]) == [unknown, long, short]
    files.write_text(short.folder / "cell.json", "{}")  # of an earlier version
    assert set(costs.measured(root)) == {costs.kind(long)}


@pytest.mark.slow
def test_a_failure_leaves_its_traceback_and_a_later_success_takes_it_away(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = plan(root, seeds=(0, 1))

    whole = Trainer.run

    def fail(self: Trainer, *words: Any, **more: Any) -> Any:
        if self.seed == 0:
            raise ZeroDivisionError("on purpose")
        return whole(self, *words, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", fail)
        with pytest.raises(UserError, match=rf"1 of 2 runs failed(.|\n)*{bad.digest}.*on purpose"):
            benchmark.run_all([bad, good])
    assert "in fail" in (bad.folder / "error.txt").read_text()
    client = MlflowClient()
    (failed,) = [run for run in runs(root) if run.info.status == "FAILED"]
    assert failed.data.tags["error"] == "ZeroDivisionError: on purpose"
    assert "error.txt" in {f.path for f in client.list_artifacts(failed.info.run_id)}
    assert len(benchmark.run_all([bad, good])) == 2
    assert not (bad.folder / "error.txt").exists()
    assert {run.info.status for run in runs(root)} == {"FINISHED"}


@pytest.mark.slow
def test_the_grid_says_what_is_done_running_failed_and_waiting(root: Path) -> None:
    params = load(root, benchmark__seeds="[0, 1, 2, 3]", benchmark__inits="[random]")
    done, failed, running, waiting = plan(root, seeds=(0, 1, 2, 3))
    benchmark.run_all([done])
    (failed.folder / "predictions.parquet").mkdir(parents=True)  # cannot be replaced by a file
    with pytest.raises(UserError, match="1 of 1 run failed"):
        benchmark.run_all([failed])
    dead = tracking.open_run(root, finetune._identity(waiting))
    dead.journal.append({"images_per_second": 1.0}, 0)
    tracked = tracking.open_run(root, finetune._identity(running))
    tracked.journal.append({"images_per_second": 123.0}, 1)
    before = listing(root)
    with files.lock(running.folder / "lock"):
        now = status.standing(params, root, ("shenzhen", "montgomery"))
        shown = text(status.shown(params, root, ("shenzhen", "montgomery")))
    assert [now.states[run.digest] for run in (done, failed, running, waiting)] == [
        "done", "failed", "running", "waiting",
    ]  # fmt: skip
    assert "1 done, 1 running, 1 failed, 1 waiting" in shown
    assert "2/3" in shown
    assert "123" in shown
    assert "data of montgomery: not prepared yet" in shown
    assert set(listing(root)) - set(before) <= {str(running.folder / "lock")}


def test_the_status_verb_shows_the_grid(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(["status"], root)
    output = capsys.readouterr().out
    assert "0 done, 0 running, 0 failed, 0 waiting, 2 whose data or weights are missing" in " ".join(output.split())
    assert "Left: 2 runs of unknown length" in output
