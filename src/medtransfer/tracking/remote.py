"""Finished runs that MLflow's server has of a task: which there are, and their results brought here."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from medtransfer import tracking
from medtransfer.results.result import PREDICTIONS, RESULT, read_result
from medtransfer.tracking import search

FINISHED = "tags.verb = 'finetune' and attributes.status = 'FINISHED'"
AT_ONCE = 8
"""downloads"""


@dataclass(frozen=True, kw_only=True)
class RemoteRun:
    """A finished fine-tuning in MLflow."""

    run_id: str
    digest: str
    task: str
    tags: Mapping[str, str]
    params: Mapping[str, str]

    @property
    def key(self) -> tuple[str, ...]:
        """Says which run of a benchmark it is, whatever its parameters were."""
        names = ("init", "seed", "fold", "split", "recipe", "protocol", "fraction")
        return (self.task, *(self.tags.get(name, "") for name in names))


def finished(root: Path, tasks: Iterable[str]) -> list[RemoteRun]:
    """Finds the finished fine-tunings of tasks, the newest of each digest; a thousand are one request.

    Raises:
        Away: MLflow does not answer.
    """
    client, found = tracking.connect(root), dict[str, RemoteRun]()
    for task in tasks:
        for run in search.of_task(client, task, FINISHED, search.OLDEST_FIRST):
            tags = run.data.tags
            if digest := tags.get("digest", ""):
                found[digest] = RemoteRun(
                    run_id=run.info.run_id, digest=digest, task=task, tags=tags, params=run.data.params
                )
    return list(found.values())


def bring(root: Path, runs: Iterable[RemoteRun], folder: Path) -> None:
    """Downloads results and predictions of runs into `<folder>/<task>/<digest>`; what is there stays.

    Raises:
        Away: MLflow, or what keeps its artifacts, does not answer.
        UserError: a run has no results.
    """
    client = tracking.connect(root)

    def one(run: RemoteRun) -> None:
        target = folder / run.task / run.digest
        if (target / RESULT).is_file():
            return
        part = target.with_name(f".{run.digest}")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        found = client.get_run(run.run_id)
        tracking.download(client, found, [PREDICTIONS, RESULT], part)
        besides = [name for name in read_result(part / RESULT).parts if Path(name).suffix == Path(PREDICTIONS).suffix]
        tracking.download(client, found, [name for name in besides if name != PREDICTIONS], part)
        part.replace(target)  # whole, or not there

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(one, runs))
