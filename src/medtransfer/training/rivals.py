"""Networks of one process that train side by side: each batch of their seed is read once, and given to all of them.

Rivals differ in what they start from alone: under one seed they see equal images in equal order. So one gather, one
copy to the device and one augmentation serve all, and one resident cache. They go in step: a batch is taken by all
before the next is made, so that one is held at a time. Each is a thread of its own and gets the numbers that it would
get alone, as the state of torch's random numbers is its own, too.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Hashable, Iterator
from typing import Any

import torch
from torch import Tensor

from medtransfer.training.loader import Batch

Key = tuple[int, int]
"""(number of a stream, number of a batch in it)"""
Batches = Generator[Batch, None, None]
END = None
"""stands behind the last batch of a stream"""


class Rivals:
    """What networks that train side by side share: batches, and whose turn it is."""

    def __init__(self, members: int) -> None:
        """Takes how many there are; nobody gets a batch before all of them ask for one, or have left."""
        self.stopped = False
        self._turn = threading.Lock()
        self._last: Seat | None = None
        self._places: dict[int, Key] = dict.fromkeys(range(members), (-1, 0))
        """member -> batch that it asks for; those who have left have none"""
        self._changed = threading.Condition()
        self._sources: dict[int, tuple[Hashable, Batches]] = {}
        self._made: dict[Key, Batch | BaseException | None] = {}
        self.seats = [Seat(self, number) for number in range(members)]

    @property
    def training(self) -> int:
        """Counts the members that have not left."""
        return max(1, len(self._places))

    def stop(self) -> None:
        """Ends the training of all members at their next batch."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()

    def take(self, member: int, key: Key, of: Hashable, start: Callable[[], Batches]) -> Batch | None:
        """Waits until no other member is behind, and gives the batch, or `END`; the first who comes makes it."""
        with self._changed:
            self._places[member] = key
            self._forget()
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.stopped or min(self._places.values()) >= key)
            if self.stopped:
                raise KeyboardInterrupt
            if key[0] not in self._sources:
                self._sources[key[0]] = of, start()
            theirs, source = self._sources[key[0]]
            if theirs != of:
                raise RuntimeError(f"networks that train side by side were to see other batches: {theirs}, {of}")
            if key not in self._made:
                self._made[key] = _next(source)
            found = self._made[key]
        if isinstance(found, BaseException):
            raise found
        return found

    def _forget(self) -> None:
        """Drops what all members have behind them."""
        first = min(self._places.values(), default=(self._last_stream() + 1, 0))
        for key in [key for key in self._made if key < first]:
            del self._made[key]
        for number in [number for number in self._sources if number < first[0]]:
            self._sources.pop(number)[1].close()

    def _last_stream(self) -> int:
        return max(self._sources, default=-1)

    def leave(self, member: int) -> None:
        """Lets the others go on without a member."""
        with self._changed:
            self._places.pop(member, None)
            self._forget()
            self._changed.notify_all()

    @contextlib.contextmanager
    def turn(self, seat: Seat) -> Iterator[None]:
        """Lets one member at a time draw random numbers, each from where it stopped."""
        with self._turn:
            if self._last is not seat:
                if self._last is not None:
                    self._last.drawn = _states()
                if seat.drawn is not None:
                    _restore(seat.drawn)
                self._last = seat
            yield


class Seat:
    """A member's place among its rivals."""

    def __init__(self, rivals: Rivals, number: int) -> None:
        self.rivals, self.number = rivals, number
        self.drawn: Any = None
        """state of torch's random numbers where this member stopped; None: it has not drawn yet"""

    def batches(self, stream: int, of: Hashable, start: Callable[[], Batches]) -> Iterator[Batch]:
        """Yields the batches of a stream in step with the others.

        Args:
            stream: its number; all members take streams in ascending order, and may leave some out.
            of: what the batches are made from, equal for equal batches.
            start: begins to make them; called by the first member who comes.

        Raises:
            RuntimeError: another member has other batches under this number.
            KeyboardInterrupt: the rivals were stopped.
        """
        number = 0
        while (batch := self.rivals.take(self.number, (stream, number), of, start)) is not END:
            yield batch
            number += 1

    def turn(self) -> contextlib.AbstractContextManager[None]:
        """Holds torch's random numbers, and all that is process-wide, for as long as the block."""
        return self.rivals.turn(self)

    def leave(self) -> None:
        """Lets the others go on: this member takes no more batches."""
        self.rivals.leave(self.number)


def _next(source: Batches) -> Batch | BaseException | None:
    try:
        return next(source, END)
    except BaseException as error:  # of all members, each raises it
        return error


def _states() -> tuple[Tensor, list[Tensor]]:
    """Reads where torch's generators stand; that of a GPU lies on the host, so that nothing is waited for."""
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def _restore(states: tuple[Tensor, list[Tensor]]) -> None:
    host, devices = states
    torch.set_rng_state(host)
    if devices:
        torch.cuda.set_rng_state_all(devices)
