"""`benchmark --race`: the whole grid of a task, in which inits that are behind stop early."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path

from medtransfer.params import Params
from medtransfer.runs.recommend.field import field_of
from medtransfer.runs.recommend.recommend import Recommender

log = logging.getLogger("medtransfer")


def stopped(params: Params, root: Path, task: str, parent: str | None) -> dict[str, str]:
    """Races the benchmark's inits on a task, without a limit of time; gives those that were dropped, and why.

    The reference is never one of them, nor who cannot be raced: those that saw the task's images.

    Args:
        params: whose benchmark it is.
        root: the study's folder.
        task: of the benchmark.
        parent: MLflow's run that the trainings are below.
    """
    seeds = len(params.benchmark.seeds)
    if seeds < 2 or len(params.benchmark.inits) < 3:
        log.info("%s: a race needs three inits and two seeds; all is trained", task)
        return {}
    settings = dataclasses.replace(
        params.recommend, candidates=params.benchmark.inits, seeds=seeds, use="research", max_parameters=0,
        first_seeds=min(params.recommend.first_seeds, seeds),
    )  # fmt: skip
    asked = dataclasses.replace(params, recommend=settings)
    field = field_of(asked, root, task)
    race = Recommender(field, asked, root, time.time(), lambda inits: {}, timeless=True)
    race.parent = parent or ""
    with race.held():
        race.run_race()
    state, inits = race.state()
    found = {
        inits[one.place]: one.words
        for one in state.standings
        if one.status == "dropped" and one.reason in ("worse", "out of reach") and inits[one.place] != field.reference
    }
    for init, words in found.items():
        log.info("%s: %s stops early: %s", task, init, words)
    return found
