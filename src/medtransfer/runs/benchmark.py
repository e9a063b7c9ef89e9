"""Does the runs that are not finished, longest first; shares them with other launches, and outlives dead workers."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medtransfer import tracking
from medtransfer.core import files
from medtransfer.core.errors import UserError, quantity
from medtransfer.results import examples
from medtransfer.results.result import write_facts
from medtransfer.runs import dry_run, feature_cache, finetune, finished, side_by_side
from medtransfer.runs.display import Display
from medtransfer.runs.execution import leases, pull
from medtransfer.runs.retries import Work
from medtransfer.runs.run import Run
from medtransfer.runs.side_by_side import Gang
from medtransfer.tracking import search, sync
from medtransfer.tracking.store import Away

log = logging.getLogger("medtransfer")

SHOWN = 20
"""failures that the message at the end names"""


def run_all(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Executes the runs that are not finished, in parallel; returns the result of every run, in order.

    Runs that another launch has at the moment are left to it and looked at again at the end.

    Raises:
        UserError: some runs failed; what finished is kept.
    """
    if not runs:
        return []
    params, root = runs[0].params, runs[0].root
    database = leases.address(params.execution)
    leases.initialise(database)
    pull.check_hosts(params.execution, root / "data/runs", bool(database))
    reaped = tracking.reap(tracking.connect(root))
    if reaped:
        log.info("%s of dead processes RUNNING in MLflow until now: KILLED, or resumed", quantity(reaped, "run"))
    open_runs = _unfinished(runs)
    log.info("%s: %d finished before, %d to do", quantity(len(runs), "run"), len(runs) - len(open_runs), len(open_runs))
    feature_cache.make_all(open_runs)
    failures = _execute(side_by_side.gangs(dry_run.longest_first(open_runs))) if open_runs else []
    sync.sync(root, leases.claims(database), finished=True)  # what ended while MLflow was away
    if failures:
        with contextlib.suppress(Away):  # the failures are what is said; a later launch ends what is RUNNING
            tracking.reap(tracking.connect(root))  # what lost its worker for good
        more = f"\n  ... and {len(failures) - SHOWN} more" if len(failures) > SHOWN else ""
        raise UserError(
            f"{len(failures)} of {quantity(len(runs), 'run')} failed, the others are kept; tracebacks are in "
            f"{finetune.FAILURE} "
            f"of data/runs/<digest> and of the runs in MLflow:\n  " + "\n  ".join(failures[:SHOWN]) + more
        )
    return [finished.read_finished(run) for run in runs]


def _unfinished(runs: Sequence[Run]) -> list[Run]:
    """Lists the runs that MLflow does not hold as finished; of the others it brings back what is not on disk."""
    states = search.states(runs[0].root, dict.fromkeys(run.task for run in runs))
    known = {digest for digest, state in states.items() if state.status == "FINISHED"}
    return [run for run in runs if run.digest not in known or not (finished.whole(run) or finished.finished(run))]


def _execute(gangs: Sequence[Gang]) -> list[str]:
    """Trains runs until each has ended; lists what failed."""
    settings, device = gangs[0][0].params.execution, gangs[0][0].device
    work, failures = Work(gangs, settings.retries), []
    with Display(sum(map(len, gangs))) as display:
        outcomes = pull.pull(
            side_by_side.execute,
            work.take,
            settings=settings,
            device=device,
            workers=pull.worker_count(settings, device, len(gangs)),
            report=lambda gang, told: display.update(gang[told[0]], told[1]),
            started=display.started,
        )
        for gang, found in outcomes:  # a worker that died has one outcome for all
            for run, outcome in zip(gang, [found] * len(gang) if isinstance(found, Exception) else found, strict=True):
                if work.back(run, outcome):
                    display.back(run, outcome)
                    continue
                display.done(run, outcome)
                if isinstance(outcome, Exception):
                    failures.append(f"{run.task} {run.name} ({run.digest}): {outcome}")
                    log.debug("traceback", exc_info=outcome)
    return failures


def write_results(runs: Sequence[Run], folder: Path) -> None:
    """Copies the results of finished runs to the output of the DVC stage; what else was there is removed."""
    with files.lock(folder.with_name(f".{folder.name}.lock")):  # another launch may be at its end, too
        shutil.rmtree(folder, ignore_errors=True)
        if runs:
            write_facts(runs[0].record, folder)
        for run in runs:
            target = folder / run.digest
            target.mkdir(parents=True)
            for name in finished.results_of(run):
                shutil.copyfile(run.folder / name, target / name)
            if (run.folder / examples.FILE).is_file():  # a run that was restored from MLflow has none
                shutil.copyfile(run.folder / examples.FILE, target / examples.FILE)


def markdown_table(runs: Sequence[Run], finished: Sequence[dict[str, Any]]) -> str:
    """Lists finished runs with what they came to, for the launcher's description."""
    lines = ["| task | init | seed | test score | epochs | seconds | run |", "|---|---|---|---|---|---|---|"]
    for run, result in zip(runs, finished, strict=True):
        metric = run.record.metric
        score = result["scores"].get(f"test_{metric}")
        shown = "undefined" if score is None else f"{metric} {score:.4f}"
        cost, init = result["cost"], " ".join([result["init"], *run.variant])
        lines.append(
            f"| {result['task']} | {init} | {result['seed']} | {shown} | {cost['epochs']} "
            f"| {cost['seconds']:.0f} | {result['mlflow_run_id']} |"
        )
    marks = sorted({mark for run in runs for mark in run.marked})
    head = f"Marks: {', '.join(marks)}. Synthetic data says nothing about weights.\n\n" if "synthetic" in marks else ""
    return head + "\n".join(lines) + "\n"


def digests(finished: Sequence[dict[str, Any]]) -> str:
    """Lists the digests of runs, for the launcher's tag."""
    return json.dumps([result["digest"] for result in finished])
