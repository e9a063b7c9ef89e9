from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from medtransfer.core import cores
from medtransfer.core.cores import spread


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})


@pytest.mark.usefixtures("two")
def test_results_and_what_is_called_after_them_are_in_the_order_of_the_items() -> None:
    taken, after, threads = list[int](), list[int](), set[str]()

    def items() -> Iterator[int]:
        for number in range(20):
            taken.append(number)
            assert len(taken) <= len(after) + 4  # no more wait than cores can take
            yield number

    def square(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        threads.add(threading.current_thread().name)
        return number**2

    squares = [number**2 for number in range(20)]
    assert spread(square, items(), numbers=cores.WORTH, after=after.append) == after == squares
    assert threading.main_thread().name not in threads


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(("items", "numbers"), [(5, cores.WORTH - 1), (1, cores.WORTH), (5, cores.HELD)])
def test_small_work_a_single_item_and_large_ones_stay_in_this_thread(items: int, numbers: int) -> None:
    names = spread(lambda item: threading.current_thread().name, range(items), numbers=numbers)
    assert names == [threading.main_thread().name] * items


def test_one_core_has_no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {7})
    names = spread(lambda item: threading.current_thread().name, range(5), numbers=cores.WORTH)
    assert names == [threading.main_thread().name] * 5


@pytest.mark.usefixtures("two")
def test_an_interrupt_ends_what_has_not_begun_and_every_thread() -> None:
    begun, before = list[int](), threading.active_count()

    def work(number: int) -> None:
        begun.append(number)
        if number == 1:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)

    with pytest.raises(KeyboardInterrupt):
        spread(work, range(100), numbers=cores.WORTH)
    end = time.monotonic() + 5
    while threading.active_count() > before:  # one whose start was interrupted is not waited for
        assert time.monotonic() < end
        time.sleep(0.01)
    assert len(begun) < 6


@pytest.mark.usefixtures("two")
def test_the_failure_of_an_item_is_that_of_the_whole() -> None:
    with pytest.raises(ZeroDivisionError):
        spread(lambda number: 1 // (number - 2), range(50), numbers=cores.WORTH)
