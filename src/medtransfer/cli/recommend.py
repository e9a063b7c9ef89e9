"""The verb recommend."""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from medtransfer.cli.training import TRAINING
from medtransfer.cli.verb import verb
from medtransfer.core import schema
from medtransfer.core.errors import UserError
from medtransfer.params import Params
from medtransfer.params.recommend import Use

if TYPE_CHECKING:
    from medtransfer.results.recommendation import Recommendation
    from medtransfer.runs.recommend.recommend import Recommender

log = logging.getLogger("medtransfer")


@verb(*TRAINING, "recommend", "comparison", "tuning", extra="train")
def recommend(
    params: Params,
    root: Path,
    task: str,
    minutes: str = "params",
    hours: str = "params",
    use: str = "params",
    max_parameters: str = "params",
    candidates: str = "params",
) -> None:
    """Say which weights to start from on one task, within a time: probes of all candidates, then a race of the best.

    Args:
        params: of the study.
        root: the study's folder.
        task: task.
        minutes: that it may take; params: recommend.minutes.
        hours: the same in hours.
        use: research or commercial: a licence that forbids it, or is unclear, keeps weights out; params: recommend.use.
        max_parameters: of a backbone, such as 30M; params: recommend.max_parameters.
        candidates: inits with commas between them, or all; params: recommend.candidates.
    """
    began = time.time()
    asked = asked_for(params, minutes, hours, use, max_parameters, candidates)
    from medtransfer.results import recommendation
    from medtransfer.runs.execution import leases
    from medtransfer.runs.recommend import recommend as race
    from medtransfer.tracking import sync
    from medtransfer.tracking.launcher import Launcher

    launcher = Launcher(root)
    with launcher:
        launcher.start(f"recommend {task}", {"verb": "recommend"})
        field = race.field_of(asked, root, task)
        reasons = dict[str, list[str]]()
        for one in field.left_out:
            reasons.setdefault(one.why, []).append(one.init)
        for why, names in reasons.items():
            log.info("left out: %s: %s", ", ".join(names), why)
        former = recommendation.read(recommendation.path(root, task))
        if former is not None and former.digest == race.key_of(field, asked) and former.sentences:
            log.info("this was answered before, in %.1f min; nothing of it has changed", former.seconds / 60)
            _say(former, root)
            return
        sync.sweep(root, leases.claims(leases.address(asked.execution)))
        from medtransfer.comparison import prior

        earlier = functools.partial(prior.places, asked, root, task)
        answer = _raced(race.Recommender(field, asked, root, began, earlier), root, launcher.run_id)
        _say(answer, root)
        launcher.table("\n\n".join(answer.sentences) + "\n", answer.digest)


def asked_for(params: Params, minutes: str, hours: str, use: str, max_parameters: str, candidates: str) -> Params:
    """Puts what the command line asks into the section `recommend`.

    Raises:
        UserError: with the argument and what it may be.
    """
    changes: dict[str, Any] = {}
    if minutes != "params" and hours != "params":
        raise UserError("--minutes and --hours are the same time: give one of them")
    for name, text, factor in (("minutes", minutes, 1.0), ("hours", hours, 60.0)):
        if text != "params":
            changes["minutes"] = factor * _number(text, f"--{name}")
    if use != "params":
        if use not in get_args(Use):
            raise UserError(f"--use must be {' or '.join(get_args(Use))}, got {use!r}")
        changes["use"] = use
    if max_parameters != "params":
        found = re.fullmatch(r"([0-9.]+)([kMG]?)", max_parameters)
        if not found:
            raise UserError(f"--max-parameters must be a number such as 30M, got {max_parameters!r}")
        size = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[found[2]]
        changes["max_parameters"] = round(_number(found[1], "--max-parameters") * size)
    if candidates not in ("params", "all"):
        changes["candidates"] = tuple(name.strip() for name in candidates.split(",") if name.strip())
    elif candidates == "all":
        changes["candidates"] = ()
    return dataclasses.replace(params, recommend=dataclasses.replace(params.recommend, **changes))


def _number(text: str, option: str) -> float:
    value = schema.parse_yaml(text)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise UserError(f"{option} must be a number above 0, got {text!r}")
    return float(value)


def _raced(recommender: Recommender, root: Path, launcher: str | None) -> Recommendation:
    """Runs the race, writes answer and page, and tells MLflow of all of it."""
    from medtransfer.comparison import recommended
    from medtransfer.report import recommendation as page
    from medtransfer.results import recommendation
    from medtransfer.runs.benchmark import write_results
    from medtransfer.tracking.recommendation import ParentRun

    field, settings = recommender.field, recommender.settings
    shown = {"task": field.task, "candidates": len(field.inits), **schema.flatten(settings, "recommend")}
    with recommender.held():
        parent = ParentRun(root, recommender.key, field.task, recommender.folder, shown, launcher)
        recommender.parent = parent.run_id
        recommender.told = lambda stage: parent.stage(stage, *recommender.summary(stage))
        try:
            answer = recommender.run()
            place = root / recommendation.FOLDER / field.task
            tested = [run for run in field.runs.values() if run.digest in answer.test_runs]
            write_results(tested, place / "cells" / field.task)
            answer = recommended.with_test(answer, place / "cells", root)
            recommendation.write(answer, place / recommendation.FILE)
            page.write(answer, place)
            metrics = {"minutes": answer.seconds / 60, "raced": float(answer.raced)}
            metrics |= {"probability": answer.probability} if answer.probability is not None else {}
            text = "\n\n".join(answer.sentences)
            tags = {"verdict": answer.verdict, "pick": answer.pick or "none"}
            parent.end(metrics, tags, text, [place / recommendation.FILE, place / page.FILE])
        except BaseException as error:
            parent.fail(error)
            raise
    return answer


def _say(answer: Recommendation, root: Path) -> None:
    """Prints the answer."""
    from rich.console import Console

    from medtransfer.report import recommendation as page
    from medtransfer.results import recommendation

    Console().print(page.shown(answer))
    where = root / recommendation.FOLDER / answer.task / page.FILE
    log.info("the page with the race: %s", where.relative_to(root))
