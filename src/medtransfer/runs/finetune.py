"""The verb `finetune`: one run = (init, task, seed), found by its digest, skipped when finished, else resumed."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from medtransfer import tracking
from medtransfer.core import arithmetic, files
from medtransfer.core.addresses import scrub
from medtransfer.core.errors import UserError
from medtransfer.core.identity import PROTOCOL_VERSION
from medtransfer.data.cache import Prepared
from medtransfer.results import examples
from medtransfer.runs import building, finished, further_tests, outcome
from medtransfer.runs.execution import leases
from medtransfer.runs.further_tests import FurtherTests
from medtransfer.runs.run import Run
from medtransfer.tracking import sync
from medtransfer.weights import store

if TYPE_CHECKING:  # torch is loaded where a run is trained: in a worker, and not where all runs have finished
    from medtransfer.training.checkpoint import Fit
    from medtransfer.training.objectives import Prediction
    from medtransfer.training.rivals import Seat
    from medtransfer.training.trainer import Progress

log = logging.getLogger("medtransfer")

FAILURE = "error.txt"
"""traceback of a run's last failure, in its folder and among its artifacts"""


def execute(run: Run, report: Callable[[Progress], None], seat: Seat | None = None) -> dict[str, Any]:
    """Trains, tests and logs one run, or does what of that is missing; returns its result.

    At a seat it trains beside rivals, in a thread of its own.

    Raises:
        Held: another process is at it.
        Lost: another process took it over meanwhile.
        UserError: the run failed in a way the user can mend.
    """
    database = leases.address(run.params.execution)
    with leases.claim(run.folder, run.digest, database) as check:
        if _known(run):
            return finished.read_finished(run)
        with tracking.recorded(run.root, _identity(run), check, later=True, watch=True) as tracked:
            try:
                if not finished.whole(run):
                    _train(run, tracked, report, seat)
                outcome.publish(run, tracked)
            except Exception:
                _keep_traceback(run, tracked)
                raise
        (run.folder / FAILURE).unlink(missing_ok=True)
    if not tracking.unsent(run.root, run.digest):  # MLflow answers
        sync.sync(run.root, leases.claims(database), finished=True)
    return finished.read_finished(run)


def _known(run: Run) -> bool:
    """Asks MLflow for the finished run; where it does not answer, what is here whole and was sent is finished."""
    try:
        return finished.finished(run)
    except tracking.Away as error:
        log.warning("run %s is looked for on disk alone: %s", run.digest[:8], error)
        return finished.whole(run) and not tracking.unsent(run.root, run.digest)


def _keep_traceback(run: Run, tracked: tracking.TrackedRun) -> None:
    """Leaves the traceback in the run's folder and for MLflow; what goes wrong in that hides not the failure itself."""
    try:
        files.write_text(run.folder / FAILURE, scrub(traceback.format_exc()))
        tracked.artifacts(run.folder, [FAILURE])
    except Exception as second:  # the disk may be full, the run another's by now
        log.warning("the traceback of run %s could not be kept: %s", run.digest[:8], second)


def _identity(run: Run) -> tracking.Identity:
    tags = {
        "init": run.init.canonical,
        "task": run.task,
        "seed": str(run.seed),
        "verb": "finetune",
        "device": run.device,
        "arithmetic": arithmetic.kind(arithmetic.in_force(run.device)),
        "manifest_digest": run.manifest_digest,
        "weights_sha256": run.weights_sha256,
        "protocol_version": str(PROTOCOL_VERSION),
        "marks": ", ".join(run.marked),
        "recipe": run.recipe,
        "protocol": run.protocol,
        "fraction": str(run.fraction),
        "mlflow.note.content": store.description(run.init, run.root) if run.network else "a control without a network",
        "dvc_prepared": files.dvc_hash(run.root, f"data/prepared/{run.task}"),
        "dvc_weights": files.dvc_hash(run.root, "data/weights/benchmark"),
    }
    tags |= {"training_list": run.listed.words} if run.listed else {}
    params = {"from": run.init.label, "init": run.init.canonical, "task": run.task, "seed": run.seed, **run.shown}
    params |= {"protocol": run.protocol, "fraction": str(run.fraction)}
    params |= {f"tuning.{name}": value for name, value in run.study.items()}
    params |= run.part
    tags |= {name: str(number) for name, number in run.part.items()}
    return tracking.Identity(
        name=run.title, task=run.task, digest=run.digest, tags=tags, params=params, folder=run.folder, parent=run.parent
    )


def _train(run: Run, tracked: tracking.TrackedRun, report: Callable[[Progress], None], seat: Seat | None) -> None:
    """Fits, reads test once and writes the results."""
    prepared = building.labelled(run)
    tracked.dataset(run.task, run.manifest_digest, str(prepared.folder.relative_to(run.root)), outcome.counts(prepared))
    if run.trains:
        _finish_trained(run, prepared, tracked, report, seat)
    else:
        _finish_untrained(run, prepared, tracked)


def _finish_trained(
    run: Run, prepared: Prepared, tracked: tracking.TrackedRun, report: Callable[[Progress], None], seat: Seat | None
) -> None:
    from medtransfer.training.examples import collect

    built, _ = building.trainer(run, seat)
    tracked.resumed(built.resume())
    fit = built.run(tracked.log, report, kept=tracked.kept)
    tracked.tag(arithmetic=arithmetic.kind(fit.arithmetic))
    val, test = built.test()
    if (shown := collect(built, run.record, test.table)) is not None:
        examples.save(run.folder / examples.FILE, shown)  # stays here: images are not for MLflow
    further = further_tests.read(run, built, prepared)
    more = {"compile_seconds": fit.compile_seconds} if run.params.engine.compile else {}
    outcome.write(run, prepared, tracked, fit, val, test, more, [built.best_file], further)
    built.checkpoint_file.unlink(missing_ok=True)


def advance(
    run: Run, until: int, over: Callable[[], bool], report: Callable[[Progress], None]
) -> tuple[Fit, Prediction, bool]:
    """Trains a run up to an epoch and leaves it there, for this or any other command to go on; test is not read.

    Args:
        run: of a protocol that trains.
        until: epochs that it is to have.
        over: asked before each epoch whether it pauses here.
        report: gets how far it is.

    Returns:
        What was trained, val with the model of its best epoch, and whether the training is complete.

    Raises:
        Held: another process is at it.
        UserError: as `execute`; or time was over before the first epoch.
    """
    database = leases.address(run.params.execution)
    with leases.claim(run.folder, run.digest, database) as check:
        built, prepared = building.trainer(run)
        epochs = built.resume()
        if not epochs and built.best_file.is_file() and finished.whole(run):  # it is finished, and its checkpoint gone
            built.fit = _finished_fit(run)
        if not built.complete and built.fit.epoch < until and not over():
            tracked = tracking.open_run(run.root, _identity(run), check, later=True)
            tracked.dataset(
                run.task, run.manifest_digest, str(prepared.folder.relative_to(run.root)), outcome.counts(prepared)
            )
            try:
                tracked.resumed(epochs)
                built.run(tracked.log, report, until, over, tracked.kept)
                tracked.tag(arithmetic=arithmetic.kind(built.fit.arithmetic))
            except BaseException as error:
                _keep_traceback(run, tracked)
                tracked.fail(error)
                raise
            tracked.outbox.whole = True  # a resume trains nothing of it again
            tracked.end("KILLED", f"paused after epoch {built.fit.epoch} of {built.protocol.max_epochs}")
        if not built.fit.epoch:
            raise UserError("the time was over before its first epoch")
        return built.fit, built.val(), built.complete


def _finished_fit(run: Run) -> Fit:
    """Reads from its results how a finished run was trained."""
    from medtransfer.training.checkpoint import Fit

    result = finished.read_finished(run)
    return Fit(
        epoch=result["cost"]["epochs"], images=result["cost"]["images"], seconds=result["cost"]["seconds"],
        compile_seconds=result["cost"].get("compile_seconds", 0.0),
        best=result["best"]["monitor"], best_epoch=result["best"]["epoch"], history=result["history"],
        arithmetic=result["arithmetic"],
    )  # fmt: skip


def _finish_untrained(run: Run, prepared: Prepared, tracked: tracking.TrackedRun) -> None:
    from medtransfer.runs import frozen, prior
    from medtransfer.training.trainer import choose_kernels

    arithmetic.check(run.params.engine.portable, run.device)
    choose_kernels(run.params.engine)
    tracked.journal.cut(0)
    more = dict[str, float]()
    if run.frozen:
        fit, val, test, more["features_seconds"] = frozen.run_frozen(run, prepared, building.loader(run), tracked.log)
    else:
        fit, val, test = prior.run_prior(run, prepared, building.loader(run), tracked.log)
    tracked.tag(arithmetic=arithmetic.kind(fit.arithmetic))
    outcome.write(run, prepared, tracked, fit, val, test, more, [], FurtherTests())
