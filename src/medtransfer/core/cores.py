"""Work on arrays spread over the cores that this process may use, by threads: numpy lets go of the interpreter."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

WORTH = 200_000
"""numbers of an item below which a thread costs more than it gives"""
HELD = 2**28
"""numbers that are held at a time by items at work or waiting for it: 2 GiB of 64 bits"""


def spread(
    function: Callable[[Item], Result], items: Iterable[Item], *, numbers: int,
    after: Callable[[Result], None] | None = None,
) -> list[Result]:  # fmt: skip
    """Calls a function on every item, on all cores where that is worth it; an interrupt ends what has not begun.

    Args:
        function: called on an item; where it is the same for all, so is the result on any number of cores.
        items: taken in this thread, in their order, not long before they are worked on: they may draw random numbers.
        numbers: that an item holds while it is at work.
        after: called in this thread with each result, in the order of the items.

    Returns:
        The results in the order of the items.
    """
    cores = min(len(os.sched_getaffinity(0)), HELD // max(1, numbers))
    source = iter(items)
    first = list(itertools.islice(source, 2))
    results = list[Result]()

    def take(result: Result) -> None:
        results.append(result)
        if after is not None:
            after(result)

    if cores < 2 or numbers < WORTH or len(first) < 2:
        for item in itertools.chain(first, source):
            take(function(item))
        return results
    pool, waiting = ThreadPoolExecutor(cores), deque[Future[Result]]()
    try:
        for item in itertools.chain(first, source):
            waiting.append(pool.submit(function, item))
            if len(waiting) > cores:
                take(waiting.popleft().result())
        while waiting:
            take(waiting.popleft().result())
    finally:
        pool.shutdown(cancel_futures=True)
    return results
