"""Networks that train side by side: the numbers of each alone, from batches that are read once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medtransfer.training import rivals
from medtransfer.training.loader import Batch, Cache
from medtransfer.training.rivals import Batches, Rivals
from medtransfer.training.trainer import TaskTrainer
from tests.support import fakes


def built(top: Path, folder: Path, changes: dict[str, Any] | None = None) -> TaskTrainer:
    folder.mkdir(exist_ok=True)
    made, _ = fakes.trainer(top, folder, **(changes or {}))

    def drawing(inputs: torch.Tensor) -> Any:
        """Draws at every step, as dropout does."""
        return made.model(inputs) + (torch.randn(len(inputs), 1) if made.model.training else 0.0)

    made.forward = drawing
    return made


def seated(made: TaskTrainer, seat: rivals.Seat, cache: Cache) -> TaskTrainer:
    made.seat = made.loader.seat = seat
    made.loader.cache = cache
    return made


def fit(made: TaskTrainer) -> list[dict[str, float]]:
    seen = list[dict[str, float]]()
    made.run(lambda scores, epoch: seen.append({k: v for k, v in scores.items() if k != "images_per_second"}), print)
    return seen


def in_threads(*works: Callable[[], Any]) -> list[Any]:
    found = dict[int, Any]()

    def work(number: int) -> None:
        try:
            found[number] = works[number]()
        except BaseException as error:
            found[number] = error

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return [found[number] for number in range(len(works))]


def weights(made: TaskTrainer) -> list[torch.Tensor]:
    return list(made.model.state_dict().values())


def test_three_networks_get_the_numbers_of_each_alone_and_read_each_batch_once(
    top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They start from other weights, one normalizes in another way, one stops after two epochs, and all draw."""
    changes: list[dict[str, Any]] = [{}, {"classification__lr": "0.01"}, {"classification__max_epochs": "2"}]

    def three(name: str) -> list[TaskTrainer]:
        made = [built(top, tmp_path / f"{name}{place}", each) for place, each in enumerate(changes)]
        made[1].loader.scale = made[1].loader.scale * 2
        return made

    alone = three("alone")
    wanted = [fit(each) for each in alone]
    read = list[int]()
    inner = Cache.read

    def counted(self: Cache, rows: Any, *rest: Any) -> Any:
        read.append(len(rows))
        return inner(self, rows, *rest)

    monkeypatch.setattr(Cache, "read", counted)
    shared, beside = Rivals(3), three("beside")
    cache = beside[0].loader.cache
    together = [seated(each, seat, cache) for each, seat in zip(beside, shared.seats, strict=True)]
    found = in_threads(*[lambda each=each: fit(each) for each in together])
    assert found == wanted
    for one, two in zip(alone, together, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(two), strict=True))
    assert sum(read) == 3 * (32 + 8)  # three epochs of train and val, whoever sees them


def test_one_that_resumes_later_is_waited_for_and_one_that_fails_is_not(top: Path, tmp_path: Path) -> None:
    first, second, third = (built(top, tmp_path / name) for name in "abc")
    want = fit(built(top, tmp_path / "want"))
    second.run(lambda *_: None, print, until=2)
    shared = Rivals(3)
    for made, seat in zip((first, second, third), shared.seats, strict=True):
        seated(made, seat, first.loader.cache)
    order = list[str]()

    def fails() -> None:
        try:
            for _ in third.loader.train(third.rows["train"], third.protocol.augmentation, 0, 0, 1):
                raise ValueError("broken")
        finally:
            shared.seats[2].leave()

    def goes(name: str, made: TaskTrainer) -> list[dict[str, float]]:
        seen = list[dict[str, float]]()

        def told(scores: dict[str, float], epoch: int) -> None:
            order.append(f"{name}{epoch}")
            seen.append(scores)

        made.run(told, print)
        return seen

    whole, rest, error = in_threads(lambda: goes("a", first), lambda: goes("b", second), fails)
    assert order[:2] == ["a0", "a1"]  # b waits at its third epoch
    assert [each["train_loss"] for each in whole] == [each["train_loss"] for each in want]
    assert rest[0]["train_loss"] == want[2]["train_loss"]
    assert isinstance(error, ValueError)


def batch(number: int) -> Batch:
    return Batch(torch.full((1,), number), torch.zeros(1), np.array([number]))


def test_nobody_is_a_batch_ahead_and_one_batch_is_held() -> None:
    shared, most, lead = Rivals(2), 0, 0
    places = [0, 0]

    def source() -> Batches:
        nonlocal most
        for number in range(50):
            most = max(most, len(shared._made))
            yield batch(number)

    def goes(member: int) -> list[int]:
        nonlocal lead
        seen = list[int]()
        for each in shared.seats[member].batches(0, "of", source):
            places[member] += 1
            lead = max(lead, abs(places[0] - places[1]))
            seen.append(int(each.rows[0]))
        shared.seats[member].leave()
        return seen

    assert in_threads(lambda: goes(0), lambda: goes(1)) == [list(range(50))] * 2
    assert lead == 1
    assert most == 0  # what was taken is let go before the next is made
    assert (shared._made, shared._sources) == ({}, {})


def test_other_batches_under_one_number_are_refused_and_an_error_of_the_source_is_everybodys() -> None:
    shared = Rivals(2)

    def three() -> Batches:
        yield from map(batch, range(3))

    def goes(member: int, of: str) -> list[Batch]:
        try:
            return list(shared.seats[member].batches(0, of, three))
        finally:
            shared.seats[member].leave()

    kinds = {type(each) for each in in_threads(lambda: goes(0, "these"), lambda: goes(1, "those"))}
    assert kinds == {RuntimeError, list}

    def breaks() -> Batches:
        yield batch(0)
        raise OSError("the disk is gone")

    shared = Rivals(2)
    seats = shared.seats
    found = in_threads(*[lambda seat=seat: list(seat.batches(0, "of", breaks)) for seat in seats])
    assert [str(each) for each in found] == ["the disk is gone"] * 2


def test_a_stop_ends_all_who_wait() -> None:
    def none() -> Batches:
        yield from ()

    shared = Rivals(2)
    wait = threading.Thread(target=lambda: in_threads(lambda: list(shared.seats[0].batches(0, "of", none))))
    wait.start()
    shared.stop()
    wait.join(30)
    assert not wait.is_alive()
    (found,) = in_threads(lambda: list(shared.seats[1].batches(0, "of", none)))
    assert isinstance(found, KeyboardInterrupt)
