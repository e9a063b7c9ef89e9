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

log = logging.getLogger("medtransfer")


@verb(*TRAINING, "corruptions", "recommend", "comparison", "tuning", extra="train")
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
    from medtransfer.comparison import prior, recommended
    from medtransfer.report import recommendation as page
    from medtransfer.runs.recommend.answer import answer
    from medtransfer.tracking.launcher import Launcher

    launcher = Launcher(root)
    with launcher:
        launcher.start(f"recommend {task}", {"verb": "recommend"})
        found = answer(
            asked, root, task, began=began, earlier=functools.partial(prior.places, asked, root, task),
            tested=recommended.with_test, page=page.write, launcher=launcher.run_id,
        )  # fmt: skip
        _say(found, root)
        launcher.table("\n\n".join(found.sentences) + "\n", found.digest)


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


def _say(answer: Recommendation, root: Path) -> None:
    """Prints the answer."""
    from rich.console import Console

    from medtransfer.report import recommendation as page
    from medtransfer.results import recommendation

    Console().print(page.shown(answer))
    where = root / recommendation.FOLDER / answer.task / page.FILE
    log.info("the page with the race: %s", where.relative_to(root))
