"""Where runs are executed: in this process, in a local pool of warm workers, or by warm actors of a Ray cluster."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from medtransfer.core import extras
from medtransfer.core.errors import UserError
from medtransfer.params import Execution
from medtransfer.runs.execution.calls import (
    Crew,
    Event,
    Function,
    Item,
    Result,
    WorkerLost,
    outcome,
    place,
    set_threads,
)
from medtransfer.runs.execution.pool import Pool

__all__ = ["WorkerLost", "check_hosts", "pull", "resolve_device", "set_threads", "worker_count"]

PAUSE = 2.0
"""seconds after which free workers look for work again"""


def resolve_device(execution: Execution) -> str:
    """Says `cuda` or `cpu`: `auto` takes a GPU where torch finds one.

    Raises:
        UserError: `cuda` was asked for and is not there.
    """
    if execution.device == "cpu" or (execution.device == "auto" and not _may_have_gpu()):
        return "cpu"
    import torch

    if execution.device == "cuda" and not torch.cuda.is_available():
        raise UserError("execution.device is cuda, but torch finds no GPU here; use auto or cpu")
    return "cuda" if torch.cuda.is_available() else "cpu"


def _may_have_gpu() -> bool:
    """Says whether torch has to be asked, which takes seconds to import: not where no driver has made a device."""
    return any(next(Path("/dev").glob(pattern), None) for pattern in ("nvidia*", "kfd", "dxg"))


def worker_count(execution: Execution, device: str, items: int) -> int:
    """Says how many runs go at a time."""
    if execution.workers:
        return min(execution.workers, items)
    if execution.backend == "ray":
        from medtransfer.runs.execution import ray_cluster

        room = ray_cluster.capacity(execution, device)
    elif device == "cpu":
        room = len(os.sched_getaffinity(0)) // execution.threads_per_run
    else:
        room = len(_gpus()) * execution.runs_per_gpu
    return max(1, min(items, room))


def check_hosts(settings: Execution, folder: Path, leased: bool) -> None:
    """Refuses to share runs with machines that do not see their folder, or that no database leases them to.

    Raises:
        UserError: says which machine and what to do, or that Ray is not installed.
    """
    if settings.backend == "ray":
        extras.need("cluster", "execution.backend: ray")
        from medtransfer.runs.execution import ray_cluster

        ray_cluster.check_hosts(settings, folder, leased)


def _gpus() -> list[str]:
    """Lists the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]


def pull(
    function: Function[Item, Result],
    take: Callable[[], Item | None],
    *,
    settings: Execution,
    device: str,
    workers: int,
    report: Callable[[Item, Any], None],
    started: Callable[[Item, str], None] = lambda item, place: None,
) -> Iterator[tuple[Item, Result | Exception]]:
    """Lets free workers take items, one by one; yields (item, result or exception) as they end.

    The pool's numbers are those of one process. A worker that dies is replaced; the others do not notice.

    Args:
        function: what is called with an item and a function that takes its progress; other processes find it by name.
        take: gives the next item, or None where there is nothing to do at the moment. It is asked again after each
            result, and every few seconds while a worker is free and another at work. None and no worker at work: the
            end.
        settings: of the section `execution`.
        device: `cpu` or `cuda`.
        workers: items at a time.
        report: gets an item's progress.
        started: gets an item and the place (host, process, GPU) where it has begun.

    Yields:
        The item and what the function returned or raised; `WorkerLost` where the item's worker died.
    """
    if settings.backend == "local" and workers <= 1:
        set_threads(settings.threads_per_run)
        while (item := take()) is not None:
            started(item, place())
            yield item, outcome(function, item, functools.partial(report, item))
        return
    with contextlib.closing(_crew(settings, device)) as crew:
        yield from _share(crew, function, take, workers, report, started)


def _crew(settings: Execution, device: str) -> Crew:
    if settings.backend == "ray":
        from medtransfer.runs.execution.ray_cluster import Cluster  # ray takes seconds to load

        return Cluster(settings, device)
    return Pool(settings.threads_per_run, _gpus() if device == "cuda" else [])


def _share(
    crew: Crew,
    function: Function[Item, Result],
    take: Callable[[], Item | None],
    workers: int,
    report: Callable[[Item, Any], None],
    started: Callable[[Item, str], None],
) -> Iterator[tuple[Item, Result | Exception]]:
    """Keeps the slots of a crew busy."""
    busy: dict[int, Item] = {}
    while True:
        for slot in sorted(set(range(workers)) - set(busy)):
            if (item := take()) is None:
                break
            busy[slot] = item
            crew.give(slot, function, item)
        if not busy:
            return
        for event in crew.wait(PAUSE if len(busy) < workers else None):
            if event.kind == "result":
                yield busy.pop(event.slot), event.value
            else:
                _tell(busy[event.slot], event, report, started)


def _tell(item: Item, event: Event, report: Callable[[Item, Any], None], started: Callable[[Item, str], None]) -> None:
    (started if event.kind == "started" else report)(item, event.value)
