"""A pool of warm processes on this machine: one that dies takes only its own item along, and is replaced.

The pool of `concurrent.futures` is not it: there one death breaks every call.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from medtransfer.runs.execution.calls import Event, Function, WorkerLost, outcome, place, portable, set_threads

GRACE = 10.0
"""seconds in which a worker that is told to stop may say so to MLflow"""


@dataclass
class Worker:
    """A process and this side of its pipe."""

    process: Any
    pipe: Connection
    busy: bool = False


class Pool:
    """Processes of this machine, one per slot; with GPUs, slot after slot takes the next one."""

    def __init__(self, threads: int, gpus: list[str]) -> None:
        self.context = multiprocessing.get_context("spawn")  # a fork would copy MLflow's and torch's threads half alive
        self.threads, self.gpus = threads, gpus
        self.workers: dict[int, Worker] = {}

    def give(self, slot: int, function: Function[Any, Any], item: Any) -> None:
        """Lets the worker of a slot call a function; one that died idle is replaced first."""
        worker = self.workers.get(slot)
        if worker is None or not worker.process.is_alive():
            worker = self.workers[slot] = self._start(slot)
        worker.busy = True
        with contextlib.suppress(BrokenPipeError):  # it has just died: `wait` says so
            worker.pipe.send((function, item))

    def wait(self, seconds: float | None) -> list[Event]:
        """Waits for what busy workers tell."""
        pipes = {worker.pipe: slot for slot, worker in self.workers.items() if worker.busy}
        return [self._hear(pipes[pipe]) for pipe in wait(list(pipes), seconds)]  # type: ignore[index]  # only pipes are waited for

    def _hear(self, slot: int) -> Event:
        worker = self.workers[slot]
        try:
            event: Event = worker.pipe.recv()
        except (EOFError, OSError):  # its end of the pipe closes with its death, whatever the cause
            return Event(slot, "result", self._bury(slot))
        worker.busy = event.kind != "result"
        return event

    def _bury(self, slot: int) -> WorkerLost:
        worker = self.workers.pop(slot)
        worker.pipe.close()
        worker.process.join(GRACE)
        code, pid = worker.process.exitcode, worker.process.pid
        cause = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        hint = "; was memory short? See dmesg" if code == -signal.SIGKILL else ""
        return WorkerLost(f"its worker (process {pid}) died: {cause}{hint}")

    def _start(self, slot: int) -> Worker:
        ours, theirs = self.context.Pipe()
        with _environment(self._variables(slot)):
            process = self.context.Process(
                target=_serve, args=(theirs, slot, self.threads, os.getpid()), daemon=True, name=f"worker {slot}"
            )
            process.start()
        theirs.close()  # else its end would stay open after its death
        return Worker(process, ours)

    def _variables(self, slot: int) -> dict[str, str]:
        """Lists what a process must find set before torch is loaded."""
        own = {"OMP_NUM_THREADS": str(self.threads)}
        return own | ({"CUDA_VISIBLE_DEVICES": self.gpus[slot % len(self.gpus)]} if self.gpus else {})

    def close(self) -> None:
        """Lets idle workers go; those at work are interrupted, and after a grace killed."""
        for worker in self.workers.values():
            if worker.busy and worker.process.is_alive():
                os.kill(worker.process.pid, signal.SIGINT)
            worker.pipe.close()
        end = time.monotonic() + GRACE
        for worker in self.workers.values():
            worker.process.join(max(0.0, end - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self.workers.clear()


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Sets variables that a process started in the block inherits."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _serve(pipe: Connection, slot: int, threads: int, parent: int) -> None:
    """Works off calls until the pipe is closed."""
    signal.signal(signal.SIGINT, _interrupt)
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt, EOFError, BrokenPipeError):
        set_threads(threads)
        while True:
            function, item = pipe.recv()
            pipe.send(Event(slot, "started", place()))
            done = outcome(function, item, _reporter(pipe, slot))
            pipe.send(Event(slot, "result", portable(done)))


def _reporter(pipe: Connection, slot: int) -> Callable[[Any], None]:
    return lambda progress: pipe.send(Event(slot, "progress", progress))


def _interrupt(*_: object) -> None:
    """Stops once: a terminal and the parent both send the signal, and the second would cut off the clearing up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _die_with(parent: int) -> None:
    """Ends a worker whose parent is gone: nobody would take its result, and its locks would stay."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
