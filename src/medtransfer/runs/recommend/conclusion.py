"""What a race has come to: the answer, who stands where in it, how it went, and what more time would buy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from medtransfer.core import files, rng, schema
from medtransfer.core.errors import span
from medtransfer.data.cache import load
from medtransfer.params import CHEAP
from medtransfer.results.recommendation import Candidate, Point, Recommendation, Stage, Verdict
from medtransfer.runs.recommend import candidates, ledger
from medtransfer.runs.recommend.field import seeds_of
from medtransfer.statistics import race
from medtransfer.statistics.race import Race

if TYPE_CHECKING:
    from medtransfer.runs.recommend.recommend import Recommender


def conclude(raced: Recommender) -> Recommendation:
    """Gives the answer that a race has come to."""
    entered = raced.ledger.rungs[0].entered if raced.ledger.rungs else ()
    looked = [rung for rung in raced.ledger.rungs if rung.closed]
    state, inits = raced.state() if looked else (None, [])
    pick = raced.ledger.pick or None
    level = [inits[place] for place in state.places("leads", "level")] if state else []
    equals = tuple(dict.fromkeys((pick, *level))) if pick and pick in level else ((pick,) if pick else ())
    decided, sure = bool(state and state.decided), probability(raced)
    images, units = _val(raced)
    verdict: Verdict = "undecided"
    if state and state.leader is not None and (decided or (sure or 0.0) >= raced.settings.sure):
        verdict = "any of" if len(equals) > 1 else "start"
    run = raced.field.any_run
    stages = tuple(Stage(name=name, minutes=spent / 60) for name, spent in raced.ledger.stages.items())
    tested = [raced.field.runs[i, s] for s in raced.ledger.end_seeds for i in (pick, raced.field.reference) if i]
    return Recommendation(
        digest=raced.key, task=raced.field.task, metric=raced.task.metric, margin=raced.task.margin,
        reference=raced.field.reference, minutes=raced.settings.minutes, seconds=raced.spent, workers=raced.workers,
        device=run.device, verdict=verdict, pick=pick, equals=equals, probability=sure, decided=decided,
        val_images=images, val_units=units, unit=raced.task.unit,
        raced=len(entered), looks=len(looked), error=raced.settings.error, points=tuple(_points(raced)),
        candidates=tuple(_candidates(raced, state, inits)), stages=stages,
        more=_more(raced, state, inits), marks=run.marked, settings=schema.flatten(raced.settings),
        test_runs=tuple(dict.fromkeys(one.digest for one in tested)),
        finished=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", commit=files.git_commit(raced.root),
    )  # fmt: skip


def probability(raced: Recommender) -> float | None:
    """Gives the probability that the pick is within one margin of the best of those that raced."""
    state, inits = raced.state() if any(rung.closed for rung in raced.ledger.rungs) else (None, [])
    if state is None or raced.ledger.pick not in inits:
        return None
    differences, errors, df = state.against(inits.index(raced.ledger.pick))
    if not len(differences):
        return None
    draws = np.random.default_rng(rng.seed_of(0, "recommend"))
    return race.probability_within(differences, errors, df=df, margin=raced.task.margin, rng=draws)


def _val(raced: Recommender) -> tuple[int, int]:
    """Counts images and patients (studies, images) of val."""
    run = raced.field.any_run
    prepared = load(run.prepared).of_fold(run.fold)
    val = prepared.samples[prepared.samples["split"] == "val"]
    return len(val), int(val["patient"].nunique())


def _candidates(raced: Recommender, state: Race | None, inits: Sequence[str]) -> Iterator[Candidate]:
    means = raced.means()
    for init in sorted(raced.field.inits, key=lambda one: -raced.ledger.ranking.get(one, 0.0)):
        mean, rung = means.get(init, (None, None))
        status, why = _status(raced, init, state, inits)
        trained = [
            max((r.seconds for n, r in raced.ledger.trained.items() if n.startswith(own)), default=0.0)
            for (name, _), own in raced.digests.items()
            if name == init
        ]
        yield Candidate(
            init=init, status=status, why=why, val=mean, seeds=len(rung.seeds) if rung else 0,
            epochs=rung.epochs if rung else 0, seconds=sum(trained), parameters=raced.field.sizes[init],
            licence=candidates.strictest_licence(raced.first[init].init, raced.root),
            scores={name: None if math.isnan(v := raced.cheap(init, name)) else v for name in CHEAP},
            place=raced.ledger.ranking.get(init),
        )  # fmt: skip
    for one in raced.field.left_out:
        yield Candidate(init=one.init, status="left out", why=one.why, scores={})


def _status(raced: Recommender, init: str, state: Race | None, inits: Sequence[str]) -> tuple[Any, str]:
    if init == raced.ledger.pick:
        return "pick", ""
    if state is None or init not in inits:
        if init in raced.ledger.failed:
            return "failed", raced.ledger.failed[init]
        return "not raced", "the time did not reach for it" if state else "there was no race"
    standing = state.standings[inits.index(init)]
    if init in raced.ledger.failed:
        return "failed", raced.ledger.failed[init]
    if standing.status == "dropped":
        return ("stopped" if standing.reason == "withdrawn" else "dropped"), standing.words
    return ("level" if standing.status in ("level", "leads") else "racing"), ""


def _points(raced: Recommender) -> Iterator[Point]:
    """Replays the looks."""
    for number, rung in enumerate(raced.ledger.rungs):
        if not rung.closed:
            return
        until = dataclasses.replace(raced.ledger, rungs=raced.ledger.rungs[: number + 1])
        state, inits = ledger.race_of(until, raced.rules, raced.folder / "values", raced.digests)
        for init in rung.entered:
            standing = state.standings[inits.index(init)]
            if init in rung.lost:
                continue
            score = sum(raced.score(init, seed, rung) for seed in rung.seeds) / len(rung.seeds)
            yield Point(
                minutes=rung.minutes, init=init, score=score, low=_finite(standing.low),
                high=_finite(standing.high), epochs=rung.epochs, seeds=len(rung.seeds), status=standing.status,
            )  # fmt: skip


def _more(raced: Recommender, state: Race | None, inits: Sequence[str]) -> str:
    """Says what more time would buy."""
    seeds = seeds_of(raced.params)
    waiting = [i for i in raced.field.inits if i not in inits and i not in raced.ledger.failed]
    stopped = [init for init in inits if _status(raced, init, state, inits)[0] == "stopped"]
    racing = [init for init in inits if _status(raced, init, state, inits)[0] == "racing"]
    again = [*waiting, *stopped]
    cost = sum(raced.missing(init, s, raced.whole) for init in again for s in seeds[: raced.settings.first_seeds])
    parts = []
    if again:
        time = span(cost / max(raced.workers, 1))
        who = "candidate" if len(again) == 1 else "candidates"
        parts.append(f"about {time} would train {len(again)} {who} that the time did not reach for")
    if racing:
        each = sum(raced.rates.stretch(init, raced.whole) for init in [*racing, raced.ledger.pick])
        time, (_, patients) = span(each / max(raced.workers, 1)), _val(raced)
        done = len(raced.ledger.rungs[-1].seeds) == len(seeds) and raced.ledger.rungs[-1].epochs == raced.whole
        begin = f"all {len(seeds)} seeds are done, so that minutes alone change nothing; " if done else ""
        parts.append(
            f"{begin}a further seed of the {len(racing) + 1} that are not told apart takes about {time} "
            f"(recommend.seeds); val has {patients} {raced.task.unit}s, however long it runs"
        )
    if not parts:
        return "it would tell nothing more: all candidates raced, and what is left is equal within the margin"
    return "; ".join(parts)


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
