"""What MLflow knows of the compared runs, and the comparison as a run of its own."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from medtransfer.core import files
from medtransfer.core.errors import UserError
from medtransfer.results.result import Result
from medtransfer.tracking import Away, Identity, connect, finished, recorded, search, unsent
from medtransfer.tracking.store import masked

log = logging.getLogger("medtransfer")

COMPARISON = "comparison"
"""experiment of the comparisons"""
PARAM_LENGTH = 6000
"""characters of a parameter that MLflow keeps"""


def differences(root: Path, results: Iterable[Result], missing: Iterable[tuple[str, str, int]] = ()) -> list[str]:
    """Says what MLflow holds otherwise than these results, and how far it knows the missing runs to be.

    Args:
        root: the repository's top folder.
        results: finished runs, looked for by digest.
        missing: (task, init, seed) of runs that have no result.
    """
    try:
        client = connect(root)
    except UserError as error:
        return [f"compared from files alone: {error}"]
    results, missing = list(results), list(missing)
    found = []
    for task in dict.fromkeys([*(result.task for result in results), *(task for task, _, _ in missing)]):
        try:
            runs = _runs(client, task)
        except UserError as error:
            found.append(f"{task} is compared from files alone: {error}")
            continue
        by_digest: dict[str, list[Run]] = {}
        for run in runs:
            if run.info.status == "FINISHED":
                by_digest.setdefault(run.data.tags.get("digest", ""), []).append(run)
        found += [words for c in results if c.task == task for words in _difference(c, by_digest.get(c.digest, []))]
        found += [_whereabouts(runs, *key) for key in missing if key[0] == task]
    return found


def _runs(client: MlflowClient, task: str) -> list[Run]:
    """Finds all fine-tuning runs of a task, newest first."""
    return list(search.of_task(client, task, "tags.verb = 'finetune'"))


def _difference(result: Result, runs: Sequence[Run]) -> list[str]:
    key, where = f"test_{result.metric}", f"{result.task} {result.init} seed {result.seed}"
    if not runs:
        return [f"{where}: MLflow has no finished run {result.digest}"]
    scores = [run.data.metrics.get(key) for run in runs]
    if any(score != result.scores.get(key) for score in scores):
        held = ", ".join(str(score) for score in scores)
        return [f"{where}: MLflow says {key} {held}, the compared run {result.scores.get(key)}"]
    return (
        [f"{where}: MLflow holds {len(runs)} finished runs of one digest, with equal scores"] if len(runs) > 1 else []
    )


def _whereabouts(runs: Sequence[Run], task: str, init: str, seed: int) -> str:
    """Says how far MLflow knows a missing run to be; its newest attempt counts."""
    own = [run for run in runs if run.data.tags.get("init") == init and run.data.tags.get("seed") == str(seed)]
    where = f"{task} {init} seed {seed} is missing"
    if not own:
        return f"{where}: MLflow has no such run; run `benchmark`"
    status, error = own[0].info.status, own[0].data.tags.get("error", "")
    if status == "FINISHED":
        return f"{where} in data/results/cells, but finished in MLflow: run `benchmark`, which brings it here"
    return f"{where}: {status} in MLflow{f' ({error})' if error else ''}; run `benchmark`, which resumes it"


def record(
    root: Path,
    folder: Path,
    *,
    digest: str,
    tags: Mapping[str, str],
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    text: str,
    parent: str | None,
    start: float = 0.0,
) -> None:
    """Logs a comparison with its whole report as a run of its own; one that is there already is left as it is.

    Args:
        root: the repository's top folder.
        folder: of the results; its `report` and CSV files become the run's artifacts.
        digest: of what was compared and how.
        tags: more tags.
        params: dotted names.
        metrics: a few numbers that sum it up.
        text: Markdown, shown as the run's description.
        parent: the launcher's run.
        start: when the comparison began, in seconds; 0: now.
    """
    place = root.resolve() / "data/runs" / digest
    identity = Identity(
        name=f"{tags.get('answer', 'comparison')}: {digest[:8]}",
        task=COMPARISON,
        digest=digest,
        tags={"verb": "compare", "mlflow.note.content": text, **tags},
        params={name: str(value)[:PARAM_LENGTH] for name, value in params.items()},
        folder=place,
        parent=parent,
        start=int(1000 * start),
    )
    with files.lock(place / "lock", wait=False) as owned:
        if not owned:
            log.info("another process sends MLflow this comparison (digest %s)", digest)
            return
        try:
            if _known(root, digest):
                log.info("MLflow has this comparison already (digest %s)", digest)
                return
            names = _copy(folder, place)
            with recorded(root, identity, later=True) as run:
                run.sum_up(metrics)
                run.artifacts(place, names)
        except (MlflowException, UserError, OSError) as error:
            log.warning("the comparison is in %s, but MLflow did not take it: %s", folder, masked(error))
            return
        if not unsent(root, digest):
            for name in names:
                shutil.rmtree(place / name) if (place / name).is_dir() else (place / name).unlink()


def _known(root: Path, digest: str) -> bool:
    try:
        return finished(connect(root), COMPARISON, digest) is not None
    except Away:
        return False


def _copy(folder: Path, place: Path) -> list[str]:
    """Copies the report and the tables: MLflow may hear of them when the next comparison stands in their place."""
    shutil.copytree(folder / "report", place / "report", dirs_exist_ok=True)
    tables = sorted(folder.glob("*.csv"))
    for path in tables:
        shutil.copyfile(path, place / path.name)
    return ["report", *(path.name for path in tables)]
