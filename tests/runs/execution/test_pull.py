from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from medtransfer import params as parameters
from medtransfer.core.errors import UserError
from medtransfer.params import Execution
from medtransfer.runs.execution.pull import WorkerLost, check_hosts, pull, resolve_device, worker_count


@pytest.fixture(scope="module")
def settings(top: Path) -> Execution:
    return parameters.load(top / "params.yaml").execution


def work(item: int, report: Callable[[Any], None]) -> tuple[int, int, float]:
    report(item * 10)
    if item == 2:
        raise UserError("two is refused")
    torch.manual_seed(item)
    value = float((torch.randn(200, 300) @ torch.randn(300, 200)).sum())
    return os.getpid(), torch.get_num_threads(), value


def call(function: Any, items: list[Any], settings: Execution, workers: int, device: str = "cpu") -> tuple[Any, Any]:
    """Calls a function for each item: ((item, result), ...) in the order of items, ((item, progress), ...)."""
    reports: list[tuple[Any, Any]] = []
    left = iter(items)
    outcomes = pull(
        function,
        lambda: next(left, None),
        settings=settings,
        device=device,
        workers=workers,
        report=lambda item, progress: reports.append((item, progress)),
    )
    return sorted(outcomes, key=lambda pair: items.index(pair[0])), sorted(reports)


def run(settings: Execution, workers: int) -> tuple[dict[int, Any], list[tuple[int, Any]]]:
    outcomes, reports = call(work, [0, 1, 2, 3], settings, workers)
    return dict(outcomes), reports


def test_a_pool_gives_the_numbers_of_one_process_and_one_failure_stops_nothing(settings: Execution) -> None:
    alone, alone_reports = run(settings, 1)
    pooled, pooled_reports = run(settings, 2)
    assert alone_reports == pooled_reports == [(0, 0), (1, 10), (2, 20), (3, 30)]
    for outcomes in (alone, pooled):
        assert isinstance(outcomes[2], UserError)
        assert str(outcomes[2]) == "two is refused"
        assert {outcomes[i][1] for i in (0, 1, 3)} == {1}
    assert "in work" in "".join(pooled[2].__notes__)  # the traceback came along
    assert [alone[i][2] for i in (0, 1, 3)] == [pooled[i][2] for i in (0, 1, 3)]
    assert {alone[i][0] for i in (0, 1, 3)} == {os.getpid()}
    assert os.getpid() not in {pooled[i][0] for i in (0, 1, 3)}


def look_around(item: str, report: Callable[[Any], None]) -> str:
    return os.environ.get(item, "")


@pytest.fixture
def on_ray(settings: Execution) -> Iterator[Execution]:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield dataclasses.replace(settings, backend="ray")
    ray.shutdown()


@pytest.mark.slow
def test_actors_of_ray_give_the_numbers_of_one_process_and_outlive_each_others_deaths(
    settings: Execution, on_ray: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///somewhere.db")
    monkeypatch.setenv("MLFLOW_RUN_ID", "the launcher's own")
    outcomes, places = drain(["long", "die", "a", "die again", "b", "leave", "no pickle", "awkward"], on_ray)
    check_deaths(outcomes, places)
    assert "SYSTEM_ERROR" in str(outcomes["die"]) or "died" in str(outcomes["die"])
    (alone, alone_reports), (there, there_reports) = run(settings, 1), run(on_ray, worker_count(on_ray, "cpu", 100))
    assert alone_reports == there_reports
    assert str(there[2]) == "two is refused"
    assert [alone[i][1:] for i in (0, 1, 3)] == [there[i][1:] for i in (0, 1, 3)]
    names = ["MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "OMP_NUM_THREADS"]
    seen, _ = call(look_around, names, on_ray, 1)
    assert [value for _, value in seen] == ["sqlite:///somewhere.db", "", "1"]


@pytest.mark.slow
def test_several_hosts_need_leases_and_the_folder_of_the_runs(tmp_path: Path, settings: Execution) -> None:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    many = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        many.add_node(num_cpus=1)
        there = dataclasses.replace(settings, backend="ray", address=many.address)
        assert worker_count(there, "cpu", 100) == 2
        with pytest.raises(UserError, match=r"has 2 machines .* set execution\.leases"):
            check_hosts(there, tmp_path / "runs", leased=False)
        check_hosts(there, tmp_path / "runs", leased=True)
        assert list((tmp_path / "runs").iterdir()) == []
    finally:
        ray.shutdown()
        many.shutdown()


class Awkward(Exception):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def misbehave(item: str, report: Callable[[Any], None]) -> Any:
    if item.startswith("die"):
        time.sleep(0.3)  # the other worker is at work by then
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "awkward":
        raise Awkward("cannot be ", "read again")
    if item == "leave":
        sys.exit(7)
    time.sleep(1.0 if item == "long" else 0.0)
    return threading.Lock() if item == "no pickle" else os.getpid()


def drain(items: list[str], settings: Execution) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    places: list[tuple[str, str]] = []
    outcomes = pull(
        misbehave,
        lambda: items.pop(0) if items else None,
        settings=settings,
        device="cpu",
        workers=2,
        report=lambda item, progress: None,
        started=lambda item, place: places.append((item, place)),
    )
    return dict(outcomes), places


def test_a_death_takes_one_item_and_leaves_the_others_and_their_workers_alone(settings: Execution) -> None:
    outcomes, places = drain(["long", "die", "a", "die again", "b", "leave", "no pickle", "awkward"], settings)
    check_deaths(outcomes, places)
    for item, cause in (("die", "SIGKILL"), ("die again", "SIGKILL"), ("leave", "exit code 7")):
        assert cause in str(outcomes[item])


def check_deaths(outcomes: dict[str, Any], places: list[tuple[str, str]]) -> None:
    for item in ("die", "die again", "leave"):
        assert isinstance(outcomes[item], WorkerLost), outcomes[item]
    where = {item: int(place.split(":")[-1]) for item, place in places}
    assert {item: outcomes[item] for item in ("long", "a", "b")} == {item: where[item] for item in ("long", "a", "b")}
    assert where["die"] != where["long"]
    assert "cannot be sent to another process" in str(outcomes["no pickle"])
    assert "Awkward: cannot be read again" in str(outcomes["awkward"])
    wait_until(lambda: not any(alive(pid) for pid in where.values()), 20)


@pytest.mark.slow
def test_work_is_taken_only_when_a_worker_is_free_and_is_asked_for_again(settings: Execution) -> None:
    given: list[int] = []
    results: list[int] = []

    def take() -> int | None:  # each third item depends on all results before it
        if len(given) == 6 or (given and len(given) % 3 == 0 and len(results) < len(given)):
            return None
        assert len(given) - len(results) < 2
        given.append(len(given) + 3)
        return given[-1]

    for item, result in pull(work, take, settings=settings, device="cpu", workers=2, report=lambda i, p: None):
        assert not isinstance(result, Exception)
        results.append(item)
    assert sorted(results) == given == [3, 4, 5, 6, 7, 8]


def hang(item: str, report: Callable[[Any], None]) -> None:
    try:
        Path(item).write_text(str(os.getpid()))
        time.sleep(600)
    finally:
        Path(item).write_text("cleared up")


PARENT = """
import signal, sys
from pathlib import Path
from medtransfer import params
from tests.runs.execution.test_pull import call, hang

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
    call(hang, sys.argv[1:], params.load(Path("params.yaml")).execution, 2)
"""


@pytest.fixture
def parent(tmp_path: Path, top: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[Path]]]:
    """A process whose two workers are at work, and the files that they write."""
    script, files = tmp_path / "parent.py", [tmp_path / "one", tmp_path / "two"]
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": f"{top / 'src'}:{top}"}
    words = [sys.executable, str(script), *map(str, files)]
    process = subprocess.Popen(words, cwd=top, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_until(lambda: all(file.is_file() and file.read_text() for file in files), 120)
    yield process, files
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    "group",
    [pytest.param(False, marks=pytest.mark.slow, id="the parent alone"), pytest.param(True, id="as a terminal does")],
)
def test_an_interrupt_ends_the_workers_and_lets_them_clear_up(
    parent: tuple[subprocess.Popen[bytes], list[Path]], group: bool
) -> None:
    process, files = parent
    (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
    assert process.wait(300) != 0
    assert [file.read_text() for file in files] == ["cleared up"] * 2


def test_workers_of_a_killed_parent_end_too(parent: tuple[subprocess.Popen[bytes], list[Path]]) -> None:
    process, files = parent
    pids = [int(file.read_text()) for file in files]
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not any(alive(pid) for pid in pids), 20)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def wait_until(law: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not law():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_devices_and_workers_follow_the_parameters(top: Path) -> None:
    execution = parameters.load(top / "params.yaml").execution
    assert resolve_device(execution) == ("cuda" if torch.cuda.is_available() else "cpu")
    cores = len(os.sched_getaffinity(0))
    assert worker_count(execution, "cpu", 100) == cores
    assert worker_count(execution, "cpu", 1) == 1
    assert worker_count(execution, "cuda", 100) == 1
    if not torch.cuda.is_available():
        asked = parameters.load(top / "params.yaml", {"execution.device": "cuda"}).execution
        with pytest.raises(UserError, match="finds no GPU"):
            resolve_device(asked)


@pytest.mark.slow
def test_workers_on_gpus_take_one_after_the_other(
    top: Path, settings: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    shared = dataclasses.replace(settings, runs_per_gpu=2)
    assert worker_count(settings, "cuda", 100) == 2
    assert worker_count(shared, "cuda", 100) == 4
    names = ["CUDA_VISIBLE_DEVICES"] * 3
    seen, _ = call(hold, names, shared, 3, "cuda")
    assert sorted(str(value) for _, value in seen) == ["2", "2", "5"]


def hold(item: str, report: Callable[[Any], None]) -> str:
    time.sleep(1.0)  # the others begin meanwhile
    return os.environ[item]
