"""Warm actors of a Ray cluster, one per slot: one that dies takes only its own item along, and is replaced.

With `execution.address` empty and no RAY_ADDRESS a cluster of this machine alone is made. Ray's own variables
(RAY_ADDRESS, RAY_AUTH_TOKEN, ...) hold as Ray describes them.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from medtransfer.core.arithmetic import PINNED
from medtransfer.core.errors import UserError
from medtransfer.params import Execution
from medtransfer.runs.execution.calls import Event, Function, WorkerLost, outcome, place, portable, set_threads

PASSED_ON = ("MLFLOW_", "AWS_", "OPTUNA_", "PG", "CUBLAS_WORKSPACE_CONFIG", *PINNED)
"""beginnings of the variables that actors get from this process, because a cluster's machines have their own"""
NOT_PASSED_ON = ("MLFLOW_RUN_ID",)
"""the launcher's run is this process's own"""


def connect(settings: Execution) -> None:
    """Joins the cluster, or makes one; once per process.

    Raises:
        UserError: no cluster answers at the address.
    """
    if ray.is_initialized():
        return
    wanted: dict[str, Any] = {"address": settings.address} if settings.address else {}
    if not settings.address and not os.environ.get("RAY_ADDRESS"):
        wanted = {"address": "local", "num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that is made here tells nobody
    try:
        ray.init(**wanted, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        asked = settings.address or os.environ.get("RAY_ADDRESS") or "this machine"
        raise UserError(
            f"no Ray cluster answers at {asked}: {error}; "
            "start it (`ray start --head`), or set execution.address, or execution.backend to local"
        ) from error


def capacity(settings: Execution, device: str) -> int:
    """Counts the runs that the cluster takes at a time."""
    connect(settings)
    resources = ray.cluster_resources()
    by_cpu = int(resources.get("CPU", 0)) // settings.threads_per_run
    return min(by_cpu, int(resources.get("GPU", 0)) * settings.runs_per_gpu) if device == "cuda" else by_cpu


def check_hosts(settings: Execution, folder: Path, leased: bool) -> None:
    """Refuses a cluster whose machines could train one run twice, or lose it.

    Args:
        settings: of the section `execution`.
        folder: of the runs; every machine must see it.
        leased: a database holds leases.

    Raises:
        UserError: several machines, and one of them does not see the folder, or no database says who has which run.
    """
    connect(settings)
    nodes = {f"{node['NodeManagerHostname']} ({node['NodeID'][:8]})": node for node in ray.nodes() if node["Alive"]}
    if len(nodes) == 1:
        return
    if not leased:
        raise UserError(
            f"the Ray cluster has {len(nodes)} machines ({', '.join(nodes)}), but no database says which of them has "
            "which run: set execution.leases to a postgresql:// address"
        )
    blind = [name for name, seen in _look(nodes, folder).items() if not seen]
    if blind:
        raise UserError(
            f"{', '.join(blind)} of the Ray cluster does not see the folder {folder} of this machine: a run could not "
            "be taken over from its checkpoint there; put the repository on a file system that all machines share"
        )


def _look(nodes: Mapping[str, Any], folder: Path) -> dict[str, bool]:
    """Writes a token file here, and looks for it on every machine."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".token-") as token:
        path = token.name
        sees = ray.remote(lambda: __import__("os").path.exists(path))  # by value: needs nothing installed there
        pinned = {name: NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for name, node in nodes.items()}
        calls = {name: sees.options(scheduling_strategy=place, num_cpus=0).remote() for name, place in pinned.items()}
        return {name: bool(ray.get(call)) for name, call in calls.items()}


class Actor:
    """A worker: keeps imports and caches from call to call."""

    def __init__(self, threads: int, variables: Mapping[str, str], path: list[str]) -> None:
        """Takes what the process must find set before it loads torch: threads, variables, folders of modules."""
        os.environ.update(variables, OMP_NUM_THREADS=str(threads))
        sys.path += [folder for folder in path if folder not in sys.path]
        self.threads = threads

    def work(self, slot: int, function: Function[Any, Any], item: Any) -> Iterator[Event]:
        """Yields what a call tells while it is at work in a thread of its own, and what came out of it."""
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        threading.Thread(target=self._call, args=(slot, function, item, events), daemon=True).start()
        while (event := events.get()).kind != "result":
            yield event
        yield event

    def _call(self, slot: int, function: Function[Any, Any], item: Any, events: queue.SimpleQueue[Event]) -> None:
        try:
            set_threads(self.threads)  # a thread begins with its process's first number
            events.put(Event(slot, "started", place()))
            done = outcome(function, item, lambda progress: events.put(Event(slot, "progress", progress)))
            events.put(Event(slot, "result", portable(done)))
        except BaseException:  # an exit ends a process, and so it ends this one, as in the local pool
            os._exit(1)


class Cluster:
    """Actors of the cluster, one per slot."""

    def __init__(self, settings: Execution, device: str) -> None:
        """Joins the cluster; actors start when their slots first get work."""
        connect(settings)
        self.settings, gpus = settings, 1 / settings.runs_per_gpu if device == "cuda" else 0
        self.kind = ray.remote(Actor).options(
            num_cpus=settings.threads_per_run, num_gpus=gpus, max_restarts=0, max_task_retries=0
        )
        self.actors: dict[int, Any] = {}
        self.calls: dict[int, Any] = {}
        """slot -> the generator of its actor's events"""

    def give(self, slot: int, function: Function[Any, Any], item: Any) -> None:
        """Lets the actor of a slot call a function."""
        if slot not in self.actors:
            self.actors[slot] = self.kind.remote(self.settings.threads_per_run, _variables(), sys.path)
        call = self.actors[slot].work.options(num_returns="streaming")
        self.calls[slot] = call.remote(slot, function, item)

    def wait(self, seconds: float | None) -> list[Event]:
        """Waits for what actors tell."""
        slots = {call: slot for slot, call in self.calls.items()}
        ready, _ = ray.wait(list(slots), num_returns=1, timeout=seconds, fetch_local=False)
        return [self._hear(slots[call]) for call in ready]

    def _hear(self, slot: int) -> Event:
        try:
            event: Event = ray.get(next(self.calls[slot]))
        except (RayError, StopIteration) as error:
            del self.calls[slot]
            ray.kill(self.actors.pop(slot))
            return Event(slot, "result", WorkerLost(f"its worker died: {_cause(error)}"))
        if event.kind == "result":
            del self.calls[slot]
        return event

    def close(self) -> None:
        """Ends all actors, and with them what they are at."""
        for actor in self.actors.values():
            ray.kill(actor)
        self.actors.clear()
        self.calls.clear()


def _variables() -> dict[str, str]:
    chosen = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
    return {name: value for name, value in chosen.items() if name not in NOT_PASSED_ON}


def _cause(error: object) -> str:
    """Takes the sentence that says why from Ray's long answer."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "because" in line), lines[0] if lines else type(error).__name__)[:300]
