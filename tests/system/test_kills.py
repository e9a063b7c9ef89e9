"""Grids of tiny cells whose workers are killed at random moments; every test prints its figures (pytest -s -m slow)."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from mlflow import MlflowClient

from tests.support import workspace

CELLS, EPOCHS, KILLS = 30, 12, 11
"""cells of the grid, epochs of each, and workers that are killed on each backend"""


def make(root: Path, top: Path, cells: int = CELLS) -> Path:
    root.mkdir()
    workspace.make(root, top, "shenzhen")
    tree = yaml.safe_load((root / "params.yaml").read_text())
    tree["benchmark"] |= {"tasks": ["shenzhen"], "seeds": list(range(cells)), "inits": ["random"]}
    tree["classification"] |= {"max_epochs": EPOCHS, "patience": EPOCHS}
    tree["execution"] |= {"workers": 2, "retries": 100}
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    return root


def launch(root: Path, top: Path, *words: str) -> subprocess.Popen[str]:
    return workspace.command(top, root, "benchmark", *words)


def end(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=1500)
    assert process.returncode == 0, output
    return output


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Lists the workers of a launch: processes of its pool, or Ray's actors."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            words = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if "spawn_main" in words or words.startswith("ray::Actor"):
            found.append(child)
    return found


def at_work(worker: psutil.Process) -> Path | None:
    """Finds the folder of the run whose lock a worker holds."""
    try:
        paths = [Path(file.path) for file in worker.open_files()]
    except psutil.Error:
        return None
    return next((path.parent for path in paths if path.name == "lock" and path.parent.parent.name == "runs"), None)


def kill_now_and_then(process: subprocess.Popen[str], root: Path, kills: int, seed: int) -> list[bool]:
    """Kills workers -9 at random moments of the whole time; says of each kill whether its run had a checkpoint."""
    draw, found = random.Random(seed), list[bool]()
    while process.poll() is None and len(found) < kills:
        whole = len(list((root / "data/runs").glob("*/cell.json")))
        busy = [(worker, run) for worker in workers(process) if (run := at_work(worker)) is not None]
        if whole < len(found) * CELLS // (kills + 2) or not busy:
            time.sleep(0.02)
            continue
        time.sleep(draw.uniform(0.0, 1.5))
        worker, run = draw.choice(busy)
        if at_work(worker) == run:
            found.append((run / "checkpoint.pt").is_file())
            worker.kill()
    return found


def results(root: Path) -> dict[int, tuple[Any, ...]]:
    """Reads seed -> (scores, best epoch, history as MLflow has it); every cell is FINISHED, once."""
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("medtransfer/shenzhen")
    assert experiment is not None
    tracked = client.search_runs([experiment.experiment_id], max_results=1000)
    assert {run.info.status for run in tracked} == {"FINISHED"}
    found = {}
    for run in tracked:
        cell = json.loads((root / "data/runs" / run.data.tags["digest"] / "cell.json").read_text())
        metrics = {
            name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
            for name in ("train_loss", "val_loss", "val_auc", "test_auc", "lr")
        }
        assert len(metrics["val_loss"]) == EPOCHS  # none lost, none twice
        found[cell["seed"]] = (cell["scores"], cell["best"], metrics)
    assert len(found) == len(tracked)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, top: Path) -> dict[int, tuple[Any, ...]]:
    root = make(tmp_path_factory.mktemp("undisturbed") / "root", top)
    end(launch(root, top, "--execution.workers", "1"))
    return results(root)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["local", "ray"])
def test_killed_workers_cost_time_alone(
    tmp_path: Path, top: Path, undisturbed: dict[int, tuple[Any, ...]], backend: str
) -> None:
    root = make(tmp_path / "root", top)
    start = time.monotonic()
    process = launch(root, top, "--execution.backend", backend)
    killed: list[bool] = []
    killer = threading.Thread(target=lambda: killed.extend(kill_now_and_then(process, root, KILLS, seed=1)))
    killer.start()
    output = end(process)
    killer.join()
    again, seconds = output.count("started again from its checkpoint"), time.monotonic() - start
    print(f"\n{backend}: {CELLS} cells, {len(killed)} workers killed, {sum(killed)} with a checkpoint of their run,")
    print(f"{again} runs started again, {seconds:.0f} s")
    assert len(killed) == KILLS, output
    assert again >= KILLS - 2  # a kill may fall between two runs
    assert results(root) == undisturbed
    assert not list((root / "data/runs").glob("*/checkpoint.pt"))


@pytest.mark.slow
def test_two_launches_at_once_share_the_grid_and_train_each_cell_once(
    tmp_path: Path, top: Path, undisturbed: dict[int, tuple[Any, ...]]
) -> None:
    cells = 8
    root = make(tmp_path / "root", top, cells)
    launches = [launch(root, top, "--execution.workers", "1") for _ in range(2)]
    outputs = [end(process) for process in launches]
    waits = [output.count("it is looked at again later") for output in outputs]
    print(f"\ntwo launches of {cells} cells: {waits} times a cell was the other's")
    assert sum(waits)
    assert results(root) == {seed: undisturbed[seed] for seed in range(cells)}
    written = {path.parent.name for path in (root / "data/results/cells/shenzhen").glob("*/cell.json")}
    assert written == {path.parent.name for path in (root / "data/runs").glob("*/cell.json")}
    assert len(written) == cells


SECONDS = 20
"""of a fresh folder's first command, in each of which one try is killed"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, top: Path) -> Path:
    return workspace.make(tmp_path_factory.mktemp("clone"), top, "shenzhen")


@pytest.mark.slow
@pytest.mark.parametrize("second", range(SECONDS))
def test_a_first_command_that_is_killed_in_its_first_seconds_ends_right_when_it_is_started_again(
    tmp_path: Path, clone: Path, top: Path, second: int
) -> None:
    root = tmp_path / "root"
    shutil.copytree(clone, root)
    asked = ("finetune", "--init", "random", "--task", "shenzhen", "--seed", "0")
    process = workspace.command(top, root, *asked)
    time.sleep(second + random.Random(second).random())
    late = process.poll() is not None
    process.kill()
    process.communicate()
    found = [path.name for path in (root, *root.glob("mlflow.db*"), *root.glob("data/runs/*/c*"))][1:]
    print(f"\nsecond {second}: {'after its end' if late else 'killed'}, there was {', '.join(found) or 'nothing'}")
    code, said = workspace.run(top, root, *asked)
    assert code == 0, said
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    places = [place.experiment_id for place in client.search_experiments()]
    assert not client.search_runs(places, "attributes.status = 'RUNNING'")
    [run] = client.search_runs(places, "tags.verb = 'finetune'")
    assert run.info.status == "FINISHED"
    names = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"cell.json", "predictions.parquet", "params.yaml", "journal.jsonl", "curves.png"} <= names
    assert len(client.get_metric_history(run.info.run_id, "val_loss")) == 3
    assert not list((root / "data/runs/unsent").glob("*"))
