"""Where runs are executed: in this process, or in a local pool of warm workers."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

from medtransfer.params import Execution

Item = TypeVar("Item")
Result = TypeVar("Result")

Report = Callable[[int, Any], None]
"""(index of the item, progress) -> None"""


def resolve_device(execution: Execution) -> str:
    """Says `cuda` or `cpu`: `auto` takes a GPU where torch finds one.

    Raises:
        UserError: `cuda` was asked for and is not there.
    """
    import torch

    from medtransfer.errors import UserError

    if execution.device == "cuda" and not torch.cuda.is_available():
        raise UserError("execution.device is cuda, but torch finds no GPU here; use auto or cpu")
    return "cuda" if execution.device != "cpu" and torch.cuda.is_available() else "cpu"


def worker_count(execution: Execution, device: str, items: int) -> int:
    """Says how many runs go at a time."""
    if execution.workers:
        return min(execution.workers, items)
    cores = len(os.sched_getaffinity(0))
    return max(1, min(items, cores // execution.threads_per_run if device == "cpu" else 1))


def set_threads(count: int) -> None:
    """Gives this process its CPU threads; equal counts give equal numbers."""
    import torch

    torch.set_num_threads(count)


def map_items(
    function: Callable[[Item, Callable[[Any], None]], Result],
    items: Sequence[Item],
    *,
    workers: int,
    threads: int,
    report: Report,
) -> Iterator[tuple[int, Result | Exception]]:
    """Calls `function(item, report)` for each item; yields (index, result or exception) as they end."""
    if workers <= 1:
        set_threads(threads)
        for index, item in enumerate(items):
            try:
                yield index, function(item, lambda progress, i=index: report(i, progress))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            except Exception as error:  # one item's failure is a result, not the end of the others
                yield index, error
        return
    yield from _pool(function, items, workers, threads, report)


def _pool(
    function: Callable[[Item, Callable[[Any], None]], Result],
    items: Sequence[Item],
    workers: int,
    threads: int,
    report: Report,
) -> Iterator[tuple[int, Result | Exception]]:
    context = multiprocessing.get_context("spawn")  # a fork would copy MLflow's and torch's threads half alive
    channel = context.SimpleQueue()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    listener = threading.Thread(target=_listen, args=(channel, report), daemon=True)
    listener.start()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(channel, threads))
    try:
        futures = {pool.submit(_call, function, item, index): index for index, item in enumerate(items)}
        for future in as_completed(futures):
            error = future.exception()
            if error is not None and not isinstance(error, Exception):
                raise error
            yield futures[future], error if error is not None else future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        channel.put(None)
        listener.join()


_channel: Any = None


def _start_worker(channel: Any, threads: int) -> None:
    global _channel  # an initializer has no other place to leave what its calls need
    _channel = channel
    threading.Thread(target=_die_with, args=(os.getppid(),), daemon=True).start()
    set_threads(threads)


def _die_with(parent: int) -> None:
    """Ends a worker whose parent is gone: nobody would take its result, and its locks would stay."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _call(function: Callable[[Any, Callable[[Any], None]], Result], item: Any, index: int) -> Result:
    return function(item, lambda progress: _channel.put((index, progress)))


def _listen(channel: Any, report: Report) -> None:
    while (message := channel.get()) is not None:
        report(*message)
