"""One question to `recommend`: answered from before, or raced, written and told to MLflow."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from medtransfer.core import schema
from medtransfer.params import Params
from medtransfer.results import recommendation
from medtransfer.results.recommendation import Recommendation
from medtransfer.runs.benchmark import write_results
from medtransfer.runs.execution import leases
from medtransfer.runs.recommend.field import field_of, key_of
from medtransfer.runs.recommend.recommend import Prior, Recommender
from medtransfer.tracking import sync
from medtransfer.tracking.recommendation import ParentRun

log = logging.getLogger("medtransfer")


def answer(
    params: Params,
    root: Path,
    task: str,
    *,
    began: float,
    earlier: Prior,
    tested: Callable[[Recommendation, Path, Path], Recommendation],
    page: Callable[[Recommendation, Path], Path],
    launcher: str | None = None,
) -> Recommendation:
    """Answers which weights to start from on one task.

    Args:
        params: of the study; `recommend` says who takes part and how long.
        root: the study's folder.
        task: name of the task.
        began: when the question was asked, in seconds since 1970.
        earlier: places of inits by results on other tasks.
        tested: adds to an answer what the runs in a folder say on test, and its sentences.
        page: writes an answer's page into a folder and returns its path.
        launcher: MLflow's run that `mlflow run` opened.

    Raises:
        UserError: no init can take part, or another process answers the same.
    """
    field = field_of(params, root, task)
    reasons = dict[str, list[str]]()
    for one in field.left_out:
        reasons.setdefault(one.why, []).append(one.init)
    for why, names in reasons.items():
        log.info("left out: %s: %s", ", ".join(names), why)
    former = recommendation.read(recommendation.path(root, task))
    if former is not None and former.digest == key_of(field, params) and former.sentences:
        log.info("this was answered before, in %.1f min; nothing of it has changed", former.seconds / 60)
        return former
    sync.sweep(root, leases.claims(leases.address(params.execution)))
    return _raced(Recommender(field, params, root, began, earlier), root, launcher, tested, page)


def _raced(
    recommender: Recommender,
    root: Path,
    launcher: str | None,
    tested: Callable[[Recommendation, Path, Path], Recommendation],
    page: Callable[[Recommendation, Path], Path],
) -> Recommendation:
    """Runs the race, writes answer and page, and tells MLflow of all of it."""
    field, settings = recommender.field, recommender.settings
    shown = {"task": field.task, "candidates": len(field.inits), **schema.flatten(settings, "recommend")}
    with recommender.held():
        parent = ParentRun(root, recommender.key, field.task, recommender.folder, shown, launcher)
        recommender.parent = parent.run_id
        recommender.told = lambda stage: parent.stage(stage, *recommender.summary(stage))
        try:
            found = recommender.run()
            place = root / recommendation.FOLDER / field.task
            runs = [run for run in field.runs.values() if run.digest in found.test_runs]
            write_results(runs, place / "cells" / field.task)
            found = tested(found, place / "cells", root)
            recommendation.write(found, place / recommendation.FILE)
            written = page(found, place)
            metrics = {"minutes": found.seconds / 60, "raced": float(found.raced)}
            metrics |= {"probability": found.probability} if found.probability is not None else {}
            text = "\n\n".join(found.sentences)
            tags = {"verdict": found.verdict, "pick": found.pick or "none"}
            parent.end(metrics, tags, text, [place / recommendation.FILE, written])
        except BaseException as error:
            parent.fail(error)
            raise
    return found
