"""One training of a study, as a worker does it."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import RandomSampler

from medtransfer.core import files, sqlite_files
from medtransfer.core.addresses import Address
from medtransfer.core.errors import UserError
from medtransfer.params import Tuning
from medtransfer.runs import building
from medtransfer.runs.run import Run
from medtransfer.tracking.store import masked
from medtransfer.training.checkpoint import Fit, last_fit
from medtransfer.training.trainer import Progress


@dataclass(frozen=True, kw_only=True)
class Job:
    """A trial, or a finalist with another seed."""

    run: Run
    """with the tried values as its task's changes"""
    study: str
    number: int
    """of the trial"""
    trial_id: int | None
    """Optuna's, for a trial that may be pruned; None: it trains to its end"""
    storage: Address

    @property
    def repeat(self) -> bool:
        """Says whether this is a finalist's training with another seed."""
        return self.run.seed != self.run.params.tuning.seed


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a training came to; `error` says why it failed."""

    history: tuple[Mapping[str, float], ...]
    best: float | None
    """the monitored score at the epoch that the monitor rule picks"""
    val: float | None
    """the primary metric on val at that epoch"""
    best_epoch: int
    epochs: int
    images: int
    seconds: float
    gpu_seconds: float
    pruned: bool = False
    error: str = ""

    def summary(self) -> dict[str, Any]:
        """Lists what Optuna's database keeps of it."""
        names = ("val", "best_epoch", "epochs", "images", "seconds", "gpu_seconds")
        return {name: getattr(self, name) for name in names}

    @staticmethod
    def of_death(job: Job, error: str) -> Outcome:
        """Books a training whose process died, by what its checkpoint knows."""
        return _outcome(job.run, last_fit(job.run.folder), False, error)


class _PrunedError(Exception):
    """Ends a training that the pruner gives up."""


def train(job: Job, report: Callable[[Progress], None]) -> Outcome:
    """Trains without ever reading test; what fails is an outcome, because it spent images too.

    Raises:
        UserError: another process on this host trains the same point.
    """
    run = job.run
    with files.lock(run.folder / "lock", wait=False) as owned:
        if not owned:
            raise UserError(f"trial {job.number} of {job.study} is being trained by another process here")
        fit, pruned, error = Fit(), False, ""
        try:
            built, _ = building.trainer(run)
            built.resume()
            fit = built.fit
            judge = _Judge(job, built.fit)

            def tell(progress: Progress, fit: Fit = built.fit, judge: _Judge = judge) -> None:
                report(progress)
                judge(fit)

            built.run(lambda *_: None, tell)
        except _PrunedError:
            pruned = True
        except Exception as failure:  # a rate at which the loss explodes is a result of the search
            error = f"{type(failure).__name__}: {failure}"
    return _outcome(run, fit, pruned, error)


def _outcome(run: Run, fit: Fit, pruned: bool, error: str) -> Outcome:
    chosen = fit.history[fit.best_epoch] if fit.best_epoch >= 0 else {}
    return Outcome(
        history=tuple(fit.history),
        best=fit.best if chosen else None,
        val=chosen.get(f"val_{run.record.metric}"),
        best_epoch=fit.best_epoch,
        epochs=fit.epoch,
        images=fit.images,
        seconds=fit.seconds,
        gpu_seconds=fit.seconds if run.device == "cuda" else 0.0,
        pruned=pruned,
        error=error,
    )


class _Judge:
    """Tells Optuna each epoch's score, and ends the training where its pruner says so."""

    def __init__(self, job: Job, fit: Fit) -> None:
        self.trial = None
        self.monitor = job.run.training.monitor
        if job.trial_id is not None:
            settings, epochs = job.run.params.tuning, job.run.training.max_epochs
            study = optuna.load_study(
                study_name=job.study,
                storage=storage(job.storage),
                sampler=RandomSampler(),
                pruner=pruner(settings, epochs),
            )
            self.trial = optuna.trial.Trial(study, job.trial_id)
            for epoch, scores in enumerate(fit.history):  # of a training that goes on
                self.trial.report(scores[self.monitor], epoch)

    def __call__(self, fit: Fit) -> None:
        if self.trial is None or fit.epoch == 0:
            return
        self.trial.report(fit.history[-1][self.monitor], fit.epoch - 1)
        if self.trial.should_prune():
            raise _PrunedError


def pruner(settings: Tuning, max_epochs: int) -> BasePruner:
    """Makes the pruner that the parameters name."""
    if settings.pruner == "median":
        return MedianPruner(n_startup_trials=settings.startup, n_warmup_steps=settings.warmup)
    if settings.pruner == "hyperband":
        return HyperbandPruner(min_resource=1, max_resource=max_epochs, reduction_factor=3)
    return NopPruner()


DAMAGED = "get it back from a backup, or rename it and run `tune` again, which begins its studies anew"
"""what to do with a database that cannot be read"""


def ready(url: Address) -> None:
    """Makes Optuna's database where it is a file that is not there yet; whoever calls holds a lock.

    In PostgreSQL each of Optuna's steps is whole or undone, and a later process goes on with the next.
    """
    if path := sqlite_files.path_of(url):
        sqlite_files.ready(path, _make, _made, "studies", DAMAGED)
    storage(url)


def _make(path: Path) -> None:
    optuna.storages.RDBStorage(f"sqlite:///{path}").engine.dispose()


def _made(database: sqlite3.Connection) -> bool:
    """Says whether Optuna went through all of its steps: the last one notes the version of its tables."""
    return database.execute("SELECT 1 FROM alembic_version, version_info").fetchone() is not None


@functools.lru_cache(maxsize=2)
def storage(url: Address) -> optuna.storages.RDBStorage:
    """Opens Optuna's database, once per process.

    Raises:
        UserError: it cannot be reached.
    """
    waits = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    try:
        return optuna.storages.RDBStorage(url.whole, engine_kwargs=waits)
    except Exception as error:  # each database's driver has its own errors
        raise UserError(
            f"Optuna's database {url} cannot be opened ({type(error).__name__}: {masked(error)}). "
            "Start it, or set OPTUNA_STORAGE to one that runs; without it the file optuna.db is used"
        ) from error
