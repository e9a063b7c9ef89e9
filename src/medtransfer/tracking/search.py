"""What MLflow knows of many runs at once: one search per task instead of one per run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient

from medtransfer.tracking import PREFIX, connect, uri
from medtransfer.tracking.store import place_of

PAGE = 1000
"""runs that one search returns"""


@dataclass(frozen=True)
class State:
    """How far MLflow knows a run to be."""

    status: str
    """FINISHED, RUNNING, FAILED, KILLED"""
    error: str
    lock: str
    """path of the lock that a living owner on its host holds"""
    host: str


def states(root: Path, tasks: Iterable[str]) -> dict[str, State]:
    """Finds digest -> state of the fine-tuning runs of tasks; FINISHED stands above newer attempts.

    A database of this folder that is not there yet is not made: nothing was run.
    """
    if uri(root).startswith("sqlite:///") and not Path(uri(root).removeprefix("sqlite:///")).is_file():
        return {}
    client, found = connect(root), dict[str, State]()
    for task in tasks:
        for digest, state in _of_task(client, task):
            if digest not in found or found[digest].status != "FINISHED":
                found[digest] = state
    return found


def _of_task(client: MlflowClient, task: str) -> Iterable[tuple[str, State]]:
    """Yields the runs of a task, oldest first."""
    place = place_of(client, PREFIX + task)
    token = None
    while place is not None:
        page = client.search_runs(
            [place.experiment_id],
            "tags.verb = 'finetune'",
            max_results=PAGE,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        for run in page:
            tags = run.data.tags
            yield (
                tags.get("digest", ""),
                State(run.info.status, tags.get("error", ""), tags.get("lock", ""), tags.get("host", "")),
            )
        token = page.token
        if not token:
            return
