from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medtransfer import params as parameters
from medtransfer.errors import UserError
from medtransfer.execution import map_items, resolve_device, worker_count


def work(item: int, report: Callable[[Any], None]) -> tuple[int, int, float]:
    report(item * 10)
    if item == 2:
        raise UserError("two is refused")
    torch.manual_seed(item)
    value = float((torch.randn(200, 300) @ torch.randn(300, 200)).sum())
    return os.getpid(), torch.get_num_threads(), value


def run(workers: int) -> tuple[dict[int, Any], list[tuple[int, Any]]]:
    reports: list[tuple[int, Any]] = []
    outcomes = dict(
        map_items(work, [0, 1, 2, 3], workers=workers, threads=1, report=lambda i, p: reports.append((i, p)))
    )
    return outcomes, sorted(reports)


def test_a_pool_gives_the_numbers_of_one_process_and_one_failure_stops_nothing() -> None:
    alone, alone_reports = run(1)
    pooled, pooled_reports = run(2)
    assert alone_reports == pooled_reports == [(0, 0), (1, 10), (2, 20), (3, 30)]
    for outcomes in (alone, pooled):
        assert isinstance(outcomes[2], UserError)
        assert str(outcomes[2]) == "two is refused"
        assert {outcomes[i][1] for i in (0, 1, 3)} == {1}
    assert [alone[i][2] for i in (0, 1, 3)] == [pooled[i][2] for i in (0, 1, 3)]
    assert {alone[i][0] for i in (0, 1, 3)} == {os.getpid()}
    assert os.getpid() not in {pooled[i][0] for i in (0, 1, 3)}


def test_workers_of_a_killed_parent_end_too(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, sys, time\nfrom pathlib import Path\nfrom medtransfer.execution import map_items\n"
        "def sleep(item, report):\n"
        "    Path(sys.argv[1], f'{os.getpid()}.pid').touch()\n    time.sleep(120)\n"
        "if __name__ == '__main__':\n"
        "    list(map_items(sleep, [1, 2], workers=2, threads=1, report=lambda i, p: None))\n"
    )
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)])
    wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2, 60)
    pids = [int(path.stem) for path in tmp_path.glob("*.pid")]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
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
