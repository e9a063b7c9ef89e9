"""Whether a run's results are here, whole and of today's metric; they are brought back where MLflow holds them."""

from __future__ import annotations

import json
import logging
from typing import Any

from medtransfer import tracking
from medtransfer.core import files
from medtransfer.core.errors import UserError
from medtransfer.results.result import PREDICTIONS, RESULT, read_result
from medtransfer.runs import further_tests
from medtransfer.runs.run import Run

log = logging.getLogger("medtransfer")

RESULTS = (RESULT, PREDICTIONS)
"""what every finished run leaves in its folder, enough to compare without a server"""


def results_of(run: Run) -> list[str]:
    """Lists what a finished run leaves in its folder for a comparison."""
    return [*RESULTS, *further_tests.files_of(run)]


def finished(run: Run) -> bool:
    """Says whether MLflow holds the finished run; brings its results back if the folder lacks them.

    A run that did not measure what is the task's metric today is not finished: it is trained again.
    """
    client = tracking.connect(run.root)
    found = tracking.finished(client, run.task, run.digest)
    if found is None:
        return False
    missing = [*_damaged(run), *(["journal.jsonl"] if not (run.folder / "journal.jsonl").is_file() else [])]
    if missing:
        run.folder.mkdir(parents=True, exist_ok=True)
        tracking.download(client, found, missing, run.folder)
    return whole(run)


def whole(run: Run) -> bool:
    """Says whether a run's results are here as they were written, with the metric that its task has."""
    return not _damaged(run) and run.record.metric in read_result(run.folder / "cell.json").measured


def _damaged(run: Run) -> list[str]:
    """Lists the results that are absent, or are not what was written."""
    names = results_of(run)
    absent = [name for name in names if not (run.folder / name).is_file()]
    if absent:
        return absent
    try:
        parts = read_result(run.folder / "cell.json").parts
    except UserError as error:
        log.warning("%s", error)
        return names
    return [name for name in names if name in parts and not files.checked(run.folder / name, parts[name])]


def read_finished(run: Run) -> dict[str, Any]:
    """Reads the results of a finished run."""
    result: dict[str, Any] = json.loads((run.folder / "cell.json").read_text())
    return result
