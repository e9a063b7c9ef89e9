"""The verb `tune`: one study per initialization and task, all with the same budget, continued where they stopped."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
import yaml

from medtransfer.core import extras, files
from medtransfer.core.addresses import Address
from medtransfer.core.errors import UserError
from medtransfer.core.progress import Meters
from medtransfer.data.cache import load
from medtransfer.params import Params, check_values
from medtransfer.results import study
from medtransfer.results.study import Ledger
from medtransfer.runs.execution import pull
from medtransfer.runs.run import Run, plan
from medtransfer.runs.tune import figures
from medtransfer.runs.tune.study import Study
from medtransfer.runs.tune.trial import Job, Outcome, ready, train
from medtransfer.tracking.store import masked
from medtransfer.tracking.studies import Entry, StudyRun
from medtransfer.training.trainer import Progress

log = logging.getLogger("medtransfer")

FOLDER = Path("data/runs/studies")
"""locks of studies, and what is drawn of them"""


def url(root: Path) -> Address:
    """Says where Optuna's database is: OPTUNA_STORAGE, else `optuna.db` in the repository.

    Raises:
        UserError: it is a database whose driver is not installed.
    """
    found = Address(os.environ.get("OPTUNA_STORAGE") or f"sqlite:///{root.resolve()}/optuna.db")
    extras.need_for(found)
    return found


def tune(
    params: Params, root: Path, inits: Sequence[str], tasks: Sequence[str], parent: str | None = None
) -> list[Ledger]:
    """Brings every study of `inits` x `tasks` to the end of its budget; returns their ledgers.

    Raises:
        UserError: before any training, what would stop a study later; after it, studies in which no trial completed.
    """
    check_values(params)
    planned = plan(params, root, inits, tasks, (params.tuning.seed,), parent, splits=False)
    planned = list({(run.task, run.init.canonical): run for run in planned}.values())  # one name may stand for two
    rows = {run.task: _train_rows(run) for run in planned}
    _refuse_alone(planned, root)
    _warn(params, planned)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found: list[Ledger] = []
    with contextlib.ExitStack() as stack:
        folders = [stack.enter_context(_locked(run, root)) for run in planned]
        studies = [Study(run, rows[run.task], url(root)) for run in planned]
        books = {study.name: _Book(study, folder) for study, folder in zip(studies, folders, strict=True)}
        try:
            with Meters("images") as meters:
                _run(studies, books, meters)
        finally:
            found = [books[study.name].close() for study in studies]
    lost = [one.study for one in found if one.winner is None]
    if lost:
        raise UserError(f"no trial of {', '.join(lost)} completed and could be repeated; their ledgers say why")
    return found


def _run(studies: Sequence[Study], books: Mapping[str, _Book], meters: Meters) -> None:
    """Trains until no study has anything left to ask; a free worker goes to the study with the fewest at work."""
    params, device = studies[0].run.params, studies[0].run.device
    by_name = {study.name: study for study in studies}

    def take() -> Job | None:
        order = sorted(studies, key=lambda study: len(study.running) + len(study.repeating))
        return next((job for study in order if (job := study.take()) is not None), None)

    def report(job: Job, progress: Progress) -> None:
        words = f"trial {job.number} epoch {progress.epoch}/{progress.max_epochs} {progress.value:.4f}"
        meters.show(job.study, by_name[job.study].budget, words)

    most = len(studies) * params.tuning.trials
    workers = pull.worker_count(params.execution, device, most)
    results = pull.pull(train, take, settings=params.execution, device=device, workers=workers, report=report)
    for job, outcome in results:
        if isinstance(outcome, Exception) and not isinstance(outcome, pull.WorkerLost):
            raise outcome
        study = by_name[job.study]
        study.tell(job, outcome)
        books[job.study].record(job, outcome)
        meters.move(job.study, sum(trial.images for trial in study.trials() if trial.counted))


class _Book:
    """What is written down of a study: MLflow's runs, and the ledger."""

    def __init__(self, study: Study, folder: Path) -> None:
        self.study, self.folder, run = study, folder, study.run
        self._ledger = _ledger_of(run)
        tags = {
            "verb": "tune", "init": run.init.canonical, "task": run.task, "device": run.device,
            "manifest_digest": run.manifest_digest, "weights_sha256": run.weights_sha256,
            "marks": ", ".join(run.marked),
        }  # fmt: skip
        if run.parent:
            tags["mlflow.parentRunId"] = run.parent
        self.run = StudyRun(run.root, study.name, folder, tags, _shown(study))
        for job, outcome in study.ended():  # what a kill left unwritten
            if _key(job) not in self.run.recorded:
                self.record(job, outcome)
            elif isinstance(outcome, Outcome):
                shutil.rmtree(job.run.folder, ignore_errors=True)

    def record(self, job: Job, outcome: Outcome | Exception) -> None:
        """Writes an ended training to MLflow, the ledger to disk, and removes the training's folder."""
        history = outcome.history if isinstance(outcome, Outcome) else ()
        if job.repeat:
            self.run.record(_repeat_entry(job, outcome))
        else:
            self.run.record(_entry(self.study, job.number, history))
        if isinstance(outcome, Outcome):  # else it goes on from its checkpoint
            shutil.rmtree(job.run.folder, ignore_errors=True)
        self._write()

    def _write(self) -> Ledger:
        found = self.study.ledger(self.run.run_id)
        study.write(found, self._ledger)
        return found

    def close(self) -> Ledger:
        """Writes the ledger, draws it, and ends the run in MLflow."""
        found, folder = self._write(), self.folder
        shown = [figures.save(figures.history(found), folder / "history.png"), self._ledger]
        if found.importances:
            shown.append(figures.save(figures.importances(found), folder / "importances.png"))
        scores = {"images": float(found.spent), "budget_images": float(found.budget_images)}
        if found.winner is not None:
            (folder / "best.yaml").write_text(yaml.safe_dump(found.values))
            shown.append(folder / "best.yaml")
            best = next(trial for trial in found.trials if trial.number == found.winner)
            scores |= {found.monitor: best.value or 0.0}
        scores |= {f"trials_{state}": float(count) for state, count in found.states().items()}
        self.run.end("FINISHED" if found.finished else "KILLED", scores, study.summary(found), shown)
        return found


def _ledger_of(run: Run) -> Path:
    return study.path(run.init.slug, run.task, run.root)


def _shown(study: Study) -> dict[str, Any]:
    settings = study.settings
    space = {f"tuning.space.{name}": text for name, text in study.identity["space"].items()}
    shown = {f"tuning.{name}": getattr(settings, name) for name in ("trials", "sampler", "pruner", "seed", "finalists")}
    return {**study.run.shown, **space, **shown, "budget_images": study.budget}


def _entry(study: Study, number: int, history: Sequence[Mapping[str, float]] = ()) -> Entry:
    trial = next(one for one in study.trials() if one.number == number)
    status = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED"}.get(trial.state, "KILLED")
    scores = {"images": float(trial.images), "epochs": float(trial.epochs), "seconds": trial.seconds}
    scores |= {name: value for name, value in (("value", trial.value), ("val", trial.val)) if value is not None}
    now = int(time.time() * 1000)
    return Entry(
        key=str(number), name=f"trial {number}", status=status,
        tags={"state": trial.state, **({"error": trial.why} if trial.why else {})},
        params=trial.params, history=_plain(history), scores=scores, start=now - int(1000 * trial.seconds), end=now,
    )  # fmt: skip


def _repeat_entry(job: Job, outcome: Outcome | Exception) -> Entry:
    whole = isinstance(outcome, Outcome) and not outcome.error
    scores, seconds = dict[str, float](), 0.0
    history: tuple[Mapping[str, float], ...] = ()
    if isinstance(outcome, Outcome):
        scores = {k: float(v) for k, v in {"value": outcome.best, "val": outcome.val}.items() if v is not None}
        history, seconds = _plain(outcome.history), outcome.seconds
    now = int(time.time() * 1000)
    return Entry(
        key=_key(job) + ("" if isinstance(outcome, Outcome) else f":lost {now}"),
        name=f"trial {job.number}, seed {job.run.seed}", status="FINISHED" if whole else "FAILED",
        tags={"state": "repeat"}, params={"seed": job.run.seed}, history=history, scores=scores,
        start=now - int(1000 * seconds), end=now,
    )  # fmt: skip


def _key(job: Job) -> str:
    """Names a training within its study."""
    return f"{job.number}:{job.run.seed}" if job.repeat else str(job.number)


def _plain(history: Sequence[Mapping[str, float]]) -> tuple[Mapping[str, float], ...]:
    return tuple({name: value for name, value in line.items() if value - value == 0} for line in history)


def _train_rows(run: Run) -> int:
    prepared = load(run.prepared)
    if prepared.manifest["folds"]:
        raise UserError(
            f"task {run.task} is cross-validated: what is tuned on one fold's val has seen other folds' test images. "
            "Tune on a task with one split, or leave it out of tuning.tasks"
        )
    if "splits" in prepared.manifest and "test" in run.record.draw:
        raise UserError(
            f"task {run.task} has several drawn splits: what is tuned on one split's val has seen other splits' test "
            "images. Take it out of tuning.tasks, or set benchmark.splits: []"
        )
    return len(prepared.rows("train"))


def _refuse_alone(planned: Sequence[Run], root: Path) -> None:
    """Refuses another budget for some of a task's studies: a budget is extended for all or for none."""
    named = {(run.task, run.init.canonical) for run in planned}
    trials = planned[0].params.tuning.trials
    name = planned[0].params.tuning.study
    for task in dict.fromkeys(run.task for run in planned):
        for other in study.collect(root / study.FOLDER, task):
            same = other.study.split("/")[0] == name
            if same and (task, other.init) not in named and other.budget_trials != trials:
                raise UserError(
                    f"a budget is changed for all studies of a task: {other.init} on {task} has tuning.trials="
                    f"{other.budget_trials}, asked for {trials} of others alone; run `tune` for all inits, or take "
                    f"{other.budget_trials}"
                )


def _warn(params: Params, planned: Sequence[Run]) -> None:
    """Says where a pruner cannot learn within the budget (Optuna's own advice: ten trials per bracket)."""
    settings, epochs = params.tuning, max(run.training.max_epochs for run in planned)
    if settings.pruner != "hyperband":
        return
    brackets, resource = 1, epochs
    while resource >= 3:
        brackets, resource = brackets + 1, resource // 3
    if settings.trials < 10 * brackets:
        log.warning(
            "hyperband divides %d trials among %d brackets; TPE learns from about 10 in each: take %d trials, or the "
            "pruner median", settings.trials, brackets, 10 * brackets,
        )  # fmt: skip


@contextlib.contextmanager
def _locked(run: Run, root: Path) -> Iterator[Path]:
    """Holds the study of a run: by a file on this host, and by PostgreSQL, where that is the database, on all.

    Yields the study's folder.
    """
    name = f"{run.params.tuning.study}/{run.task}/{run.init.slug}"
    folder = root.resolve() / FOLDER / name.replace("/", "--")
    with files.lock(folder / "lock", wait=False) as owned, _advisory(name, url(root)) as elsewhere:
        if not (owned and elsewhere):
            raise UserError(f"the study {name} is being tuned by another process; wait for it, or stop it")
        with files.lock(root / FOLDER / ".database.lock"):  # two first touches would break a fresh SQLite file
            ready(url(root))
        yield folder


@contextlib.contextmanager
def _advisory(name: str, address: Address) -> Iterator[bool]:
    """Holds a lock in PostgreSQL that ends with its connection, however this process dies."""
    if not address.startswith("postgresql"):
        yield True
        return
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
    engine = sqlalchemy.create_engine(address.whole, poolclass=sqlalchemy.pool.NullPool)
    try:
        connection = engine.connect()
    except sqlalchemy.exc.OperationalError as error:
        raise UserError(
            f"Optuna's database {address} cannot be reached ({masked(error.orig)}); start it, or "
            "set OPTUNA_STORAGE to one that runs"
        ) from error
    with connection:
        yield bool(connection.execute(sqlalchemy.text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar())
