"""One study: one initialization on one task. It asks for trials while the budget lasts, then repeats the best.

Only the process that holds a study's lock asks and tells; workers train. A proposal depends on what was proposed and
told before it, and on how many trials there were, never on which process asks: a continued study goes on as if it had
not been stopped.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import optuna
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from medtransfer.core import rng, schema
from medtransfer.core.addresses import Address
from medtransfer.core.errors import UserError
from medtransfer.core.identity import PROTOCOL_VERSION
from medtransfer.params import Tuning
from medtransfer.results.study import Ledger, Trial
from medtransfer.runs.execution import pull
from medtransfer.runs.run import Run, with_changes
from medtransfer.runs.tune import space as spaces
from medtransfer.runs.tune.outcome import LIMITS, STATES, finalists_of, importances_of, trial_of, winner_of
from medtransfer.runs.tune.space import Point
from medtransfer.runs.tune.trial import Job, Outcome, storage
from medtransfer.statistics import metrics
from medtransfer.training.loader import passes_of

log = logging.getLogger("medtransfer")

MOST_REPEATS = 100
"""proposals of points that were tried already, one after the other, before a space counts as exhausted"""
WORKER_DEATHS = 2
"""workers that a point may cost before it counts as failed"""


class Study:
    """A study that this process has locked."""

    def __init__(self, run: Run, rows: int, url: str) -> None:
        """Opens or begins the study of a run's initialization and task.

        Args:
            run: with the fixed recipe, and tuning.seed as its seed.
            rows: training images.
            url: of Optuna's database.

        Raises:
            UserError: the study was begun otherwise, or with a larger budget.
        """
        self.run, self.rows, self.url = run, rows, Address(url)
        self.settings: Tuning = run.params.tuning
        kind = "segmentation." if run.record.segmentation else "classification."
        self.fields = {k.removeprefix(kind): v for k, v in schema.flatten(run.training, kind[:-1]).items()}
        self.space = spaces.of_kind(self.settings.space, self.fields)
        spaces.check(self.space, run.task, run.training.monitor)
        self.ranges = spaces.distributions(self.space, self.fields)
        self.points = spaces.size(self.ranges)
        self.recipe = spaces.recipe(self.space, self.fields)
        self.name = f"{self.settings.study}/{run.task}/{run.init.slug}"
        self.maximize = metrics.rises(run.training.monitor)
        self.running: dict[int, optuna.trial.Trial] = {}
        self.repeating: set[tuple[int, int]] = set()
        self.exhausted = False
        self.study = optuna.create_study(
            study_name=self.name, storage=storage(self.url), load_if_exists=True, sampler=RandomSampler(seed=0),
            direction="maximize" if self.maximize else "minimize",
        )  # fmt: skip
        self._check_identity()
        self._take_over()

    @property
    def identity(self) -> dict[str, Any]:
        """Lists what a continued study must share with its beginning."""
        changed = {f"{kind}.{name}" for name in self.space for kind in ("classification", "segmentation")}
        settings = self.settings
        return {
            "init": self.run.init.canonical,
            "weights": self.run.weights_sha256,
            "task": self.run.task,
            "manifest": self.run.manifest_digest,
            "protocol_version": PROTOCOL_VERSION,
            "space": {name: _written(dimension) for name, dimension in self.space.items()},
            "sampler": settings.sampler,
            "startup": settings.startup,
            "pruner": settings.pruner,
            "warmup": settings.warmup,
            "seed": settings.seed,
            "fixed": {k: v for k, v in self.run.fields.items() if k not in changed},
        }

    def _check_identity(self) -> None:
        mine, former = json.loads(json.dumps(self.identity)), self.study.user_attrs.get("identity")
        if former is None:
            self._begin()
            self.study.set_user_attr("optuna", optuna.__version__)
            self.study.set_user_attr("identity", mine)  # last: a study that was killed before it begins anew
            former = mine
        now, then = schema.flatten(mine), schema.flatten(former)
        for key in sorted(now.keys() | then.keys(), key=lambda key: (key.startswith("fixed."), key)):
            if now.get(key) != then.get(key):
                raise UserError(
                    f"a study keeps what it was begun with: {self.name} was begun with {_named(key)} "
                    f"{then.get(key, 'absent')!r}, got {now.get(key, 'absent')!r}; restore it, or give the studies "
                    "another name (tuning.study)"
                )
        trials = self.study.user_attrs.get("trials", 0)
        if trials > self.settings.trials:
            raise UserError(
                f"a budget can only grow: {self.name} was given tuning.trials={trials}, got {self.settings.trials}"
            )
        self.study.set_user_attr("trials", self.settings.trials)

    def _begin(self) -> None:
        """Puts the first points into the queue: the whole grid, or the fixed recipe where it lies in the space."""
        if self.settings.sampler == "grid":
            # Optuna's GridSampler calls study.stop(), which outside optimize() raises.
            for point in spaces.grid(self.ranges, self.settings.seed):
                self.study.enqueue_trial(point, skip_if_exists=True)
        elif spaces.holds(self.ranges, self.recipe):
            self.study.enqueue_trial(self.recipe, skip_if_exists=True)
        else:
            log.info("%s: the fixed recipe %s lies outside the space, so it is no trial", self.name, self.recipe)

    def _take_over(self) -> None:
        """Puts back what a dead process was training: this one holds the lock, so nobody else is at it."""
        for trial in self._trials():
            if trial.state == TrialState.RUNNING:
                self._lose(trial, trial.user_attrs.get("deaths", 0))

    def _lose(self, trial: FrozenTrial, deaths: int) -> None:
        """Ends a trial whose process died and queues its point again; it goes on from its checkpoint."""
        self.study.enqueue_trial(trial.params, user_attrs={"deaths": deaths})
        self._end(trial.number, TrialState.FAIL, {"kind": "lost"})

    def _end(self, number: int, state: TrialState, attrs: Mapping[str, Any], value: float | None = None) -> None:
        trial = next(one for one in self._trials() if one.number == number)
        for key, entry in attrs.items():  # by the storage: making a Trial for its setter would ask the sampler
            self.study._storage.set_trial_user_attr(trial._trial_id, key, entry)
        self.study.tell(number, value, state=state)

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def full_images(self, protocol: Any) -> int:
        """Counts the images of a training to its full length."""
        passes = passes_of(self.rows, protocol.batch_size, protocol.min_steps)
        return int(protocol.max_epochs * passes * self.rows)

    @property
    def budget(self) -> int:
        """Training images that the trials may see together."""
        return self.settings.trials * self.full_images(self.run.training)

    def spent(self) -> int:
        """Counts the images of the trials that count, and of those at work as if they went to their end."""
        done = sum(trial.images for trial in self.trials() if trial.counted)
        full = self.full_images(self.run.training)
        return done + full * len(self.running)

    def take(self) -> Job | None:
        """Gives the next training, None if there is none at this moment."""
        if not self.exhausted and self.spent() + self.full_images(self.run.training) <= self.budget:
            job = self._ask()
            if job is not None:
                return job
        if self.running:
            return None
        return self._repeat()

    def _ask(self) -> Job | None:
        for _ in range(MOST_REPEATS):
            trials = self._trials()
            former = [t for t in trials if t.user_attrs.get("kind") != "lost" and t.state != TrialState.WAITING]
            waiting = any(t.state == TrialState.WAITING for t in trials)
            tried = {json.dumps(t.params, sort_keys=True) for t in former}
            if not waiting and len(tried) >= self.points:
                break
            self.study.sampler = sampler(self.settings, len(former))
            trial = self.study.ask(self.ranges)
            if json.dumps(trial.params, sort_keys=True) not in tried:
                self.running[trial.number] = trial
                return self._job(trial.params, trial.number, trial._trial_id)
            self._end(trial.number, TrialState.FAIL, {"kind": "repeated"})
        self.exhausted = True
        return None

    def _job(self, point: Point, number: int, trial_id: int | None, seed: int | None = None) -> Job:
        run = with_changes(self.run, point)
        if seed is not None:
            run = dataclasses.replace(run, seed=seed)
        pruned = trial_id if self.settings.pruner != "none" and seed is None else None
        return Job(run=run, study=self.name, number=number, trial_id=pruned, storage=self.url)

    def _repeat(self) -> Job | None:
        done = {(number, seed) for number, entry in self._repeats().items() for seed in map(int, entry)}
        for trial in self.best():
            for seed in self.settings.finalist_seeds:
                if (trial.number, seed) not in done | self.repeating:
                    self.repeating.add((trial.number, seed))
                    return self._job(dict(trial.params), trial.number, None, seed)
        return None

    def tell(self, job: Job, outcome: Outcome | Exception) -> None:
        """Books what a worker sent back."""
        if job.repeat:
            self._tell_repeat(job, outcome)
            return
        trial = self.running.pop(job.number)
        if not isinstance(outcome, Outcome):
            frozen = next(one for one in self._trials() if one.number == job.number)
            deaths = trial.user_attrs.get("deaths", 0) + 1
            if deaths < WORKER_DEATHS:
                self._lose(frozen, deaths)
                return
            outcome = Outcome.of_death(job, f"{deaths} workers died at it: {outcome}")
        book = {"outcome": outcome.summary()}
        if outcome.error:
            self._end(job.number, TrialState.FAIL, {**book, "why": outcome.error})
            return
        if self.settings.pruner == "none":
            for epoch, scores in enumerate(outcome.history):
                trial.report(scores[self.run.training.monitor], epoch)
        state = TrialState.PRUNED if outcome.pruned else TrialState.COMPLETE
        self._end(job.number, state, book, None if outcome.pruned else outcome.best)

    def _repeats(self) -> dict[int, dict[str, Any]]:
        """Reads what the finalists' trainings came to: trial -> seed -> outcome."""
        found: dict[int, dict[str, Any]] = {}
        for key, entry in self.study.user_attrs.items():
            if key.startswith("repeat:"):
                number, seed = key.split(":")[1:]
                found.setdefault(int(number), {})[seed] = entry
        return found

    def _tell_repeat(self, job: Job, outcome: Outcome | Exception) -> None:
        self.repeating.discard((job.number, job.run.seed))
        key = f"{job.number}:{job.run.seed}"
        if not isinstance(outcome, Outcome):
            deaths = self.study.user_attrs.get(f"deaths:{key}", 0) + 1
            self.study.set_user_attr(f"deaths:{key}", deaths)
            if deaths < WORKER_DEATHS:
                return
            outcome = Outcome.of_death(job, f"{deaths} workers died at it: {outcome}")
        self.study.set_user_attr(f"repeat:{key}", {**outcome.summary(), "best": outcome.best, "why": outcome.error})

    def ended(self) -> Iterator[tuple[Job, Outcome | Exception]]:
        """Yields every training that was booked, with what its checkpoint knows of it, if that is still there."""
        for trial in self.trials():
            job = self._job(dict(trial.params), trial.number, None)
            if trial.state in STATES.values():
                yield job, Outcome.of_death(job, trial.why)
            else:  # its point is queued again, and goes on from its checkpoint
                yield job, pull.WorkerLost(trial.state)
            for seed, entry in self._repeats().get(trial.number, {}).items():
                job = self._job(dict(trial.params), trial.number, None, int(seed))
                known = dataclasses.replace(Outcome.of_death(job, entry["why"]), best=entry["best"], val=entry["val"])
                yield job, known

    def trials(self) -> list[Trial]:
        """Lists the ended trials."""
        return [trial_of(one) for one in self._trials() if one.state.is_finished()]

    def best(self) -> list[Trial]:
        """Lists the trials that are repeated, the best first; of equal values the earlier."""
        done = [trial for trial in self.trials() if trial.state == "complete" and trial.value is not None]
        sign = -1 if self.maximize else 1
        return sorted(done, key=lambda t: (sign * (t.value or 0.0), t.number))[: self.settings.finalists]

    def ledger(self, run_id: str = "") -> Ledger:
        """Writes the study down as it stands."""
        finalists = finalists_of(self.best(), self._repeats(), self.settings)
        winner = winner_of(finalists, maximize=self.maximize)
        asked = not self.running and self.spent() + self.full_images(self.run.training) > self.budget
        repeated = all(len(f.values) == 1 + len(self.settings.finalist_seeds) for f in finalists)
        best = next((trial.params for trial in self.trials() if trial.number == winner), None)
        return Ledger(
            init=self.run.init.canonical,
            task=self.run.task,
            study=self.name,
            identity=json.loads(json.dumps(self.identity)),
            metric=self.run.record.metric,
            monitor=self.run.training.monitor,
            maximize=self.maximize,
            budget_trials=self.settings.trials,
            budget_images=self.budget,
            finished=(asked or self.exhausted) and repeated,
            exhausted=self.exhausted,
            trials=tuple(self.trials()),
            finalists=tuple(finalists),
            winner=winner,
            recipe=self.recipe,
            flags=tuple(spaces.near_ends(self.space, dict(best), LIMITS)) if best else (),
            importances=importances_of(self.study),
            mlflow_run_id=run_id,
        )


def sampler(settings: Tuning, number: int) -> BaseSampler:
    """Makes the sampler of one proposal; its seed depends on the study's settings and how many came before.

    All studies share it, so a random search tries the same points with every initialization.
    """
    seed = rng.seed_of(settings.seed, "sampler", number) % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if settings.sampler == "tpe":
            return TPESampler(seed=seed, n_startup_trials=settings.startup)
        if settings.sampler == "cma-es":
            return CmaEsSampler(seed=seed, n_startup_trials=settings.startup)
    return RandomSampler(seed=seed)


def _written(dimension: Any) -> str:
    """Writes a range as params.yaml would."""
    given = {k: v for k, v in dataclasses.asdict(dimension).items() if v not in (None, (), False)}
    return json.dumps(given)


def _named(key: str) -> str:
    """Writes a key of the identity as the parameter that it is."""
    section, _, rest = key.partition(".")
    if section == "fixed":
        return rest
    return {"init": "init", "weights": "weights", "task": "task", "manifest": "prepared data"}.get(
        section, f"tuning.{key}"
    )
