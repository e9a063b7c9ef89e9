"""What every backend shares: a worker's answer to a call, and what a worker tells while it is at it."""

from __future__ import annotations

import os
import pickle
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from medtransfer.core.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

Function = Callable[[Item, Callable[[Any], None]], Result]
"""(item, report) -> result, where report takes the item's progress; picklable by its name"""


class WorkerLost(UserError):
    """The worker died before it had a result: killed, out of memory, or its machine is gone."""


@dataclass(frozen=True)
class Event:
    """What a worker tells: where it has begun a call, how far that is, or what came out of it."""

    slot: int
    """number of the worker's place, from 0"""
    kind: Literal["started", "progress", "result"]
    value: Any


class Crew(Protocol):
    """Workers that a backend keeps, one per slot, each started when its slot first gets work."""

    def give(self, slot: int, function: Function[Any, Any], item: Any) -> None:
        """Lets the worker of a free slot call `function(item, report)`."""

    def wait(self, seconds: float | None) -> list[Event]:
        """Waits for what workers tell, at most so long; a worker that died tells `WorkerLost` as its result."""

    def close(self) -> None:
        """Ends all workers, also those that are at work."""


def set_threads(count: int) -> None:
    """Gives this process its CPU threads; equal counts give equal numbers."""
    import torch

    torch.set_num_threads(count)


def place() -> str:
    """Names this worker as people look for it: host, process and GPU."""
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return f"{socket.gethostname()}:{os.getpid()}" + (f" GPU {gpu}" if gpu else "")


def outcome(function: Function[Item, Result], item: Item, report: Callable[[Any], None]) -> Result | Exception:
    """Calls a function; one item's failure is a result, not the end of the others."""
    try:
        return function(item, report)
    except Exception as error:
        return error


def portable(value: Any) -> Any:
    """Makes a call's outcome fit for another process: an exception takes its traceback along as a note."""
    if isinstance(value, Exception):
        value.add_note("".join(traceback.format_exception(value)))
    try:
        pickle.loads(pickle.dumps(value))  # our own bytes: some exceptions can be written and not read again
    except Exception as error:
        words = "".join(traceback.format_exception(value)) if isinstance(value, Exception) else f"{type(value)}"
        return RuntimeError(f"{value} cannot be sent to another process ({error}):\n{words}")
    return value
