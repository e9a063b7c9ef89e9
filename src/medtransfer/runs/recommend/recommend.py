"""The verb `recommend`: candidates -> cheap scores on val -> a race of fine-tunings -> pick and reference on test.

The race is decided on val. Rivals of one seed see identical batches, so that their differences are paired; its runs are
ordinary ones that pause at epochs, and any command that asks for one later goes on from there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medtransfer.core import files
from medtransfer.core.errors import Held, span
from medtransfer.params import CHEAP, Params
from medtransfer.results.recommendation import Recommendation
from medtransfer.runs import finished
from medtransfer.runs.execution import leases, pull
from medtransfer.runs.recommend import conclusion, ledger
from medtransfer.runs.recommend.board import Board
from medtransfer.runs.recommend.field import Field, key_of, seeds_of
from medtransfer.runs.recommend.jobs import Job, Probe, Probed, Stretch, Test, Trained, work
from medtransfer.runs.recommend.ledger import Rung
from medtransfer.runs.recommend.rates import Rates, enter
from medtransfer.statistics import cheap_ranking, race
from medtransfer.statistics.race import Race, Rules

log = logging.getLogger("medtransfer")

RESERVED = 1 / 3
"""share of what is left after the probes that the end may claim, at most"""
FULL = 0.9
"""share of a time that is planned with: estimates miss"""

Prior = Callable[[Sequence[str]], Mapping[str, float]]
"""inits -> their places by results on other tasks"""


class Recommender:
    """One race: what is asked, what has happened, and what is to be done next."""

    def __init__(
        self, field: Field, params: Params, root: Path, began: float, prior: Prior, *, timeless: bool = False
    ) -> None:
        """Takes the field.

        Args:
            field: who takes part.
            params: what is asked.
            root: the study's folder.
            began: when the command was called, in seconds since 1970.
            prior: what is known of inits from other tasks.
            timeless: no time ends it, so that all who are not dropped reach the last round; nothing is probed.
        """
        self.timeless = timeless
        self.field, self.params, self.settings, self.root, self.prior = field, params, params.recommend, root, prior
        self.key = key_of(field, params)
        self.folder = root.resolve() / "data/runs" / self.key
        self.ledger = ledger.read(self.folder / "ledger.json", self.key)
        self.began, self.before = began, self.ledger.spent
        run = field.any_run
        self.task, self.whole = run.record, run.training.max_epochs
        self.rules = Rules(rounds=len(self._heights()) + 1, margin=self.task.margin, error=self.settings.error)
        self.digests = {key: run.digest for key, run in field.runs.items()}
        self.rates = Rates()
        self.parent = ""
        """MLflow's name of the parent run"""
        self.board = Board(self.task.metric, self.settings.minutes)
        self.told: Callable[[str], None] = lambda stage: None
        """called when a stage has ended"""
        self._queue, self._running = deque[Job](), 0
        self._probed_until = 0.0
        self._lost = Counter[str]()
        """name of a job -> workers that died at it"""
        self.first = {init: field.runs[init, seeds_of(params)[0]] for init in field.inits}

    # The clock

    @property
    def spent(self) -> float:
        """Gives the seconds of the clock that all calls have taken."""
        return self.before + time.time() - self.began

    @property
    def deadline(self) -> float:
        """Says when the time is over, in seconds since 1970."""
        return math.inf if self.timeless else self.began + 60 * self.settings.minutes - self.before

    @property
    def left(self) -> float:
        """Gives the seconds that are left."""
        return max(self.deadline - time.time(), 0.0)

    # The work

    def run(self) -> Recommendation:
        """Does all that is left to do, and answers.

        Raises:
            UserError: a test could not be read.
        """
        self.run_race()
        return conclusion.conclude(self)

    def run_race(self) -> None:
        """Does all that is left to do."""
        leases.initialise(leases.address(self.params.execution))
        self.rates.know(self.first)
        for name, result in self.ledger.trained.items():
            self._learn(name, result)
        self.board.until = self.deadline
        with self.board:
            self._work()
        self._save()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other processes from the very same question.

        Raises:
            Held: one is at it.
        """
        with files.lock(self.folder / "lock", wait=False) as owned:
            if not owned:
                raise Held(f"another process is at this very recommendation for {self.field.task}; wait for it")
            self.ledger = ledger.read(self.folder / "ledger.json", self.key)
            self.before = self.ledger.spent
            yield

    def summary(self, stage: str) -> tuple[dict[str, float], str]:
        """Sums up a stage in numbers and in words."""
        if stage.startswith("features"):
            scores = {f"{name}.{init}": self.cheap(init, name) for init in self.field.inits for name in CHEAP}
            known = {name: value for name, value in scores.items() if not math.isnan(value)}
            return known, f"Features and probes of {len(self.ledger.probes)} candidates, on train and val."
        means = {init: mean for init, (mean, _) in self.means().items()}
        state, inits = self.state() if means else (None, [])
        lines = [f"- {inits[s.place]}: {s.words or s.status}" for s in state.standings] if state else []
        return {f"val.{init}": mean for init, mean in means.items()}, "\n".join(lines) or stage

    def _work(self) -> None:
        settings, device = self.params.execution, self.field.any_run.device
        self.workers = pull.worker_count(settings, device, len(self.field.runs))
        self._probed_until = time.time() + self.settings.probing * self.left
        if not self.timeless:
            self.board.say(self._plan_in_words())
        stages = self._stages()

        def take() -> Job | None:
            while True:
                while self._queue:
                    job = self._queue.popleft()
                    if (limit := self._limit(job)) and time.time() >= limit:
                        continue
                    self._running += 1
                    return job
                if self._running:
                    return None
                jobs = next(stages, None)
                if jobs is None:
                    return None
                self._queue.extend(jobs)

        results: Iterator[tuple[Job, Any]] = pull.pull(
            work, take, settings=settings, device=device, workers=self.workers, report=self._report,
            started=lambda job, place: self.board.started(_name(job), job.init),
        )  # fmt: skip
        for job, outcome in results:
            self._running -= 1
            self.board.ended(_name(job))
            self._tell(job, outcome)

    def _limit(self, job: Job) -> float:
        """Says from when on a job is not begun; 0: always."""
        if isinstance(job, Probe):
            return self._probed_until
        return job.until if isinstance(job, Stretch) else 0.0

    def _report(self, job: Job, progress: Any) -> None:
        self.board.moved(_name(job), job.init, progress)
        if time.time() - self._saved > 5:
            self._save()

    _saved = 0.0

    def _save(self) -> None:
        self._saved = time.time()
        self.ledger.spent = self.spent
        ledger.write(self.ledger, self.folder / "ledger.json")

    def _tell(self, job: Job, outcome: Any) -> None:
        """Writes down what came of a job."""
        if isinstance(outcome, pull.WorkerLost) and self._lost[_name(job)] < self.params.execution.retries:
            self._lost[_name(job)] += 1
            self.board.say(f"{job.init}: {outcome}; it is begun again", logging.WARNING)
            self._queue.appendleft(job)
        elif isinstance(outcome, Exception):
            reason = " ".join(str(outcome).split()) or type(outcome).__name__
            if isinstance(job, Test):
                raise outcome
            if isinstance(job, Probe):
                self.ledger.probes[job.init] = Probed(scores={}, pass_seconds=0.0, seconds=0.0, notes=(reason,))
                self.board.say(f"{job.init} has no probes: {reason}", logging.WARNING)
            elif time.time() < job.until:
                self.ledger.failed[job.init] = reason
                self.board.say(f"{job.init} is out: {reason}", logging.WARNING)
        elif isinstance(job, Probe):
            self.ledger.probes[job.init] = outcome
            self.board.probed(job.init, len(self.ledger.probes), len(self.field.inits))
        elif isinstance(job, Stretch):
            name = ledger.name_of(job)
            self._learn(name, outcome, job)
            if outcome.epochs >= job.epochs or outcome.complete:
                self.ledger.trained[name] = outcome
        self._save()

    def _learn(self, name: str, result: Trained, job: Stretch | None = None) -> None:
        """Takes the rate of a stretch."""
        owner = name.rpartition("-")[0]
        init = next((init for (init, _), own in self.digests.items() if own == owner), "")
        if init:
            self.rates.trained(init, result, min(result.epochs, job.epochs if job else result.epochs))

    # The stages

    def _stages(self) -> Iterator[list[Job]]:
        """Gives the jobs of stage after stage; the next one is asked for when all of the last have ended."""
        if self.timeless:
            self.ledger.ranking = self.ledger.ranking or dict.fromkeys(self.field.inits, cheap_ranking.MIDDLE)
            yield from self._racing()
            return
        yield from self._timed("features and probes", self._probing())
        if not self.ledger.ranking:
            self._rank()
        yield from self._timed("race", self._racing())
        yield from self._timed("the end", self._ending())

    def _timed(self, stage: str, jobs: Iterator[list[Job]]) -> Iterator[list[Job]]:
        begun, before = time.time(), self.ledger.stages.get(stage, 0.0)
        yield from jobs
        self.ledger.stages[stage] = before + time.time() - begun
        self._save()
        self.told(stage)

    def _probing(self) -> Iterator[list[Job]]:
        if self.ledger.ranking:
            return
        self.ledger.prior = dict(self.prior(self.field.inits))
        known = self.ledger.prior
        order = sorted(
            self.field.inits, key=lambda init: (init != self.field.reference, -known.get(init, cheap_ranking.MIDDLE))
        )
        missing = [init for init in order if init not in self.ledger.probes]
        yield [Probe(run=dataclasses.replace(self.first[init], protocol="linear")) for init in missing]

    def _rank(self) -> None:
        """Ranks the candidates by what is cheap to know; one whose probe failed may still be trained."""
        inits = self.field.inits
        table = {name: [self.cheap(init, name) for init in inits] for name in CHEAP}
        found = cheap_ranking.combined(table, self.settings.weights)
        self.ledger.ranking = {inits[place]: found.values[place] for place in found.order}
        self._save()

    def cheap(self, init: str, name: str) -> float:
        """Gives a cheap score of an init; nan where there is none."""
        if name == "prior":
            return float(self.ledger.prior.get(init, math.nan))
        probe = self.ledger.probes.get(init)
        value = probe.scores.get(name) if probe else None
        return math.nan if value is None else value

    def _heights(self) -> list[int]:
        """Lists the epochs of the rungs."""
        return sorted({max(1, math.ceil(share * self.whole)) for share in self.settings.rungs})

    def _racing(self) -> Iterator[list[Job]]:
        """Trains rung by rung whoever the time reaches for, and looks."""
        for init, probe in self.ledger.probes.items():
            if probe.pass_seconds:
                self.rates.probed(init, self.first[init], probe)
        seeds, heights = seeds_of(self.params), self._heights()
        steps = [(height, self.settings.first_seeds) for height in heights]
        if len(seeds) > self.settings.first_seeds:
            steps.append((self.whole, len(seeds)))
        for number, (height, count) in enumerate(steps):
            if self.ledger.pick:
                return
            if number < len(self.ledger.rungs) and self.ledger.rungs[number].closed:
                continue
            if number == len(self.ledger.rungs):
                rung = self._enter(number, len(steps), height, seeds[:count])
                if rung is None:
                    return
                self.ledger.rungs = (*self.ledger.rungs, rung)
                self._save()
            rung = self.ledger.rungs[number]
            until = self.deadline - self._reserve(self._leading(), len(seeds)) / self.workers
            yield self._stretches(rung.entered, rung.seeds, rung.epochs, until)
            self._close(number, len(seeds))
            state, _ = self.state()
            if state.decided or len(state.left) < 2:
                return

    def _leading(self) -> list[str]:
        """Lists who is still in, the most promising first."""
        if not any(rung.closed for rung in self.ledger.rungs):
            return [init for init in self.ledger.ranking if init not in self.ledger.failed]
        state, inits = self.state()
        left = sorted(state.left, key=lambda place: -(state.standings[place].difference or 0.0))
        return [inits[place] for place in left]

    def _enter(self, number: int, steps: int, height: int, seeds: tuple[int, ...]) -> Rung | None:
        """Chooses who is trained to a height within its share of the time; None where not even two can be."""
        ranked = self._leading()
        free = FULL * (self.left * self.workers - self._reserve(ranked, self.settings.seeds))
        always = self.field.reference if number == 0 else ""

        def reached(some: tuple[int, ...]) -> tuple[dict[str, float], list[str]]:
            cost = {init: sum(self.missing(init, seed, height) for seed in some) for init in ranked}
            found = enter(ranked, cost, free / (steps - number), always) or enter(ranked, cost, free, always)
            return cost, found

        cost, entered = reached(seeds)
        if number == 0 and len(seeds) > 2 and 2 * len(entered) < len(ranked):  # two seeds show less, of more of them
            fewer = reached(seeds[:2])
            if len(fewer[1]) > len(entered):
                seeds, (cost, entered) = seeds[:2], fewer
        if not entered:
            return None
        why = f"the time does not reach for {len(seeds)} seeds of {height} epochs of it"
        cut = {init: why for init in ranked if init not in entered} if number else {}
        self.board.say(
            f"round {number + 1} of at most {steps}: {len(entered)} candidates, {len(seeds)} seeds to epoch {height} "
            f"of {self.whole}, about {span(sum(cost[init] for init in entered) / self.workers)}"
        )
        return Rung(epochs=height, seeds=seeds, entered=tuple(entered), cut=cut)

    def missing(self, init: str, seed: int, height: int) -> float:
        """Estimates the seconds until a run of an init has an epoch."""
        own = self.digests[init, seed]
        done = [int(name.rpartition("-")[2]) for name in self.ledger.trained if name.startswith(f"{own}-")]
        return self.rates.stretch(init, max(height - max(done, default=0), 0))

    def _reserve(self, ranked: Sequence[str], count: int) -> float:
        """Estimates the seconds of one worker that the end takes; never more than its share of what is left."""
        if not ranked:
            return 0.0
        of = dict.fromkeys((ranked[0], self.field.reference or ranked[0]))
        seeds = seeds_of(self.params)[:count]
        need = sum(self.missing(init, seed, self.whole) + self._testing(init) for init in of for seed in seeds)
        return min(need, RESERVED * self.left * self.workers)

    def _testing(self, init: str) -> float:
        """Estimates the seconds of a test, and of what is around it."""
        return self.rates.stretch(init, 1)

    def _stretches(self, inits: Sequence[str], seeds: Sequence[int], height: int, until: float) -> list[Job]:
        """Lists what is not trained to a height yet."""
        jobs: list[Job] = []
        for init in inits:
            for seed in seeds:
                name = f"{self.digests[init, seed]}-{height}"
                if name not in self.ledger.trained and init not in self.ledger.failed:
                    run = dataclasses.replace(self.field.runs[init, seed], parent=self.parent or None)
                    values = self.folder / "values" / f"{name}.npy"
                    jobs.append(Stretch(run=run, epochs=height, until=until, values=values))
        return jobs

    def _close(self, number: int, seeds: int) -> None:
        """Looks at a rung: whoever lacks a score is withdrawn, whoever is behind dropped."""
        rung = self.ledger.rungs[number]
        for init in rung.entered:
            names = [f"{self.digests[init, seed]}-{rung.epochs}" for seed in rung.seeds]
            if init in self.ledger.failed:
                rung.lost[init] = self.ledger.failed[init]
            elif any(name not in self.ledger.trained for name in names):
                rung.lost[init] = f"the time was over before its {len(rung.seeds)} seeds had {rung.epochs} epochs"
        rung.drift = self._drift(number)
        rung.more_seeds = max(seeds - len(rung.seeds), 0)
        rung.minutes = self.spent / 60
        rung.closed = True
        self._save()
        state, inits = self.state()
        self.board.standings(state, inits, self.means(), rung)
        self.told(f"round {number + 1}")

    def _drift(self, number: int) -> float:
        """Gives the std of what is still to come to a difference: what is believed, and what the last rung showed."""
        rung = self.ledger.rungs[number]
        share = 1 - rung.epochs / self.whole
        if share <= 0:
            return 0.0
        believed = self.settings.drift * self.task.margin * share
        if number:
            before = self.ledger.rungs[number - 1]
            inits = [init for init in rung.entered if init not in rung.lost and init not in before.lost]
            seeds = [seed for seed in rung.seeds if seed in before.seeds]
            if len(inits) > 1 and before.epochs < rung.epochs:
                first, last = ([[self.score(i, s, r) for s in seeds] for i in inits] for r in (before, rung))
                ahead = (self.whole - rung.epochs) / (rung.epochs - before.epochs)
                return race.drift_with(believed, first, last, ahead)
        return believed

    def score(self, init: str, seed: int, rung: Rung) -> float:
        """Gives the score on val that a run had at a rung."""
        return self.ledger.trained[f"{self.digests[init, seed]}-{rung.epochs}"].score

    def state(self) -> tuple[Race, list[str]]:
        """Runs through the looks that were had."""
        return ledger.race_of(self.ledger, self.rules, self.folder / "values", self.digests)

    def means(self) -> dict[str, tuple[float, Rung]]:
        """Gives each candidate's mean score on val at its last look, and that look."""
        found = {}
        for rung in self.ledger.rungs:
            for init in rung.entered if rung.closed else ():
                if init not in rung.lost:
                    found[init] = (sum(self.score(init, s, rung) for s in rung.seeds) / len(rung.seeds), rung)
        return found

    def _ending(self) -> Iterator[list[Job]]:
        """Trains pick and reference to the end, seed by seed, and reads test for the seeds that both have."""
        if not self.ledger.pick:
            self.ledger.pick = self._pick() or ""
            self._save()
        pick, reference = self.ledger.pick, self.field.reference
        if not pick or not any(rung.closed for rung in self.ledger.rungs):
            return
        both = list(dict.fromkeys((pick, reference or pick)))
        until = self.deadline - sum(self._testing(init) for init in both) / self.workers
        seeds = seeds_of(self.params)
        yield [job for seed in seeds for job in self._stretches(both, [seed], self.whole, until)]
        whole = [seed for seed in seeds if all(self._whole(init, seed) for init in both)]
        self.ledger.end_seeds = tuple(whole)
        yield [
            Test(run=dataclasses.replace(self.field.runs[init, seed], parent=self.parent or None))
            for seed in whole
            for init in both
            if not finished.whole(self.field.runs[init, seed])
        ]

    def _whole(self, init: str, seed: int) -> bool:
        return f"{self.digests[init, seed]}-{self.whole}" in self.ledger.trained

    def _pick(self) -> str | None:
        """Gives the cheapest of those that are equal to the leader; without a race, the first by what is cheap."""
        if not any(rung.closed for rung in self.ledger.rungs):
            return next((init for init in self.ledger.ranking if init not in self.ledger.failed), None)
        state, inits = self.state()
        if state.leader is None:
            return None
        return inits[state.pick([self.field.sizes[init] for init in inits])]

    # What is said

    def _plan_in_words(self) -> str:
        total = 60 * self.settings.minutes
        out = f", {len(self.field.left_out)} left out" if self.field.left_out else ""
        words = f"{self.field.task}: {len(self.field.inits)} candidates{out}, {self.settings.minutes:g} min"
        if self.before:
            words += f", {self.spent / 60:.1f} of them spent"
        probing, rest = self.settings.probing * total / 60, (1 - self.settings.probing) * total / 60
        words += f": features and probes up to {probing:.1f} min, then race and end with what is left ({rest:.1f} min)"
        known = [init for init in self.field.inits if init in self.rates.guesses or init in self.rates.measured]
        if not known:
            return f"{words}; no run of this kind was timed here yet, the features' own pass will say how far it goes"
        each = sum(self.rates.epoch(init) for init in known) / len(known)
        return (
            f"{words}; by finished runs an epoch takes {each:.1f} s of a worker, so the race can have about "
            f"{60 * rest * RESERVED * self.workers / each:,.0f} epochs on {self.workers} workers"
        )


def _name(job: Job) -> str:
    return f"probe {job.init}" if isinstance(job, Probe) else f"{type(job).__name__} {job.run.digest}"
