"""Runs that one worker trains side by side, so that each batch is read once for all of them."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

from medtransfer.core.errors import UserError
from medtransfer.params import task_params
from medtransfer.runs import finetune
from medtransfer.runs.execution import calls
from medtransfer.runs.run import Run

if TYPE_CHECKING:
    from medtransfer.training.rivals import Rivals, Seat
    from medtransfer.training.trainer import Progress

Gang = tuple[Run, ...]
"""runs that one worker does at a time"""
Outcome = dict[str, Any] | Exception
Report = Callable[[tuple[int, Any]], None]
"""((place in the gang, progress)) -> None"""


def gangs(runs: Sequence[Run]) -> list[Gang]:
    """Puts runs together that see equal batches, at most `execution.side_by_side` of them, each gang at its first run.

    On a CPU, where reading is a hundredth of a run, each is alone.

    Raises:
        UserError: steps are compiled, which threads of one process cannot share.
    """
    most = runs[0].params.execution.side_by_side if runs and runs[0].device == "cuda" else 1
    if most > 1 and runs[0].params.engine.compile:
        raise UserError(
            f"execution.side_by_side is {most} and engine.compile true: networks that train side by side are threads "
            "of one process, and torch compiles for one alone; set execution.side_by_side=1 or engine.compile=false"
        )
    found, open_gangs = list[list[Run]](), dict[Hashable, list[Run]]()
    for run in runs:
        key = _batches(run) if most > 1 and run.trains and run.protocol != "permuted" else run.digest
        gang = open_gangs.get(key)
        if gang is None or len(gang) == most:
            gang = open_gangs[key] = []
            found.append(gang)
        gang.append(run)
    return [tuple(gang) for gang in found]


def _batches(run: Run) -> Hashable:
    """Names what the batches of a run depend on, but for their normalization."""
    training, size = run.training, task_params(run.params, run.task).image_size
    how = (training.batch_size, training.augmentation, training.min_steps, training.crop_fraction)
    return (run.prepared, run.manifest_digest, run.seed, run.fold, run.drawn, str(run.fraction), size, *how)


def execute(gang: Gang, report: Report) -> list[Outcome]:
    """Does the runs of a gang, in threads that take each batch together; returns what came of each, in order.

    A run that fails leaves the others, and so does one whose training ends. What the GPU's memory did not hold beside
    the others is done alone.
    """
    if len(gang) == 1:
        return [calls.portable(calls.outcome(finetune.execute, gang[0], _part(report, 0)))]
    import torch

    from medtransfer.training.rivals import Rivals

    rivals, lock, found = Rivals(len(gang)), threading.Lock(), dict[int, Outcome]()

    def tell(part: tuple[int, Progress]) -> None:
        with lock:  # a pipe takes one message at a time
            report(part)

    def work(number: int, seat: Seat) -> None:
        try:
            execute_one = functools.partial(finetune.execute, seat=seat)
            found[number] = calls.outcome(execute_one, gang[number], _part(tell, number))
        except KeyboardInterrupt:  # the rivals were stopped
            found[number] = calls.WorkerLost("its training was stopped")
        finally:
            seat.leave()

    _join([threading.Thread(target=work, args=pair, daemon=True) for pair in enumerate(rivals.seats)], rivals)
    for number, outcome in found.items():
        if isinstance(outcome, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
            found[number] = calls.outcome(finetune.execute, gang[number], _part(report, number))
    return [calls.portable(found[number]) for number in range(len(gang))]


def _join(threads: Sequence[threading.Thread], rivals: Rivals) -> None:
    """Runs threads to their ends; an interruption stops their trainings, each of which says so to MLflow."""
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(1.0)  # without an end to it, a signal that another thread gets would not be heard
    except KeyboardInterrupt:
        rivals.stop()
        for thread in threads:
            thread.join()
        raise


def _part(report: Report, number: int) -> Callable[[Progress], None]:
    return lambda progress: report((number, progress))
