"""Which column of somebody's table holds what."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from medtransfer.core.errors import UserError, quantity
from medtransfer.core.schema import nearest

if TYPE_CHECKING:
    import pandas as pd

ONE_TASK = "scores"
"""name of the task of a table that names none"""
LOSSES = {
    "loss", "error", "err", "mse", "rmse", "mae", "nll", "brier", "ece", "perplexity", "hausdorff", "hd",
    "hd95", "assd", "asd", "rank", "seconds",
}  # fmt: skip
"""words of a name whose lower values are better"""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column of a table holds what."""

    init: str = "init"
    task: str = "task"
    """or, with commas between, the columns of a table that has one of scores for each task"""
    seed: str = "seed"
    fold: str = "fold"
    """of a cross-validation; a table may lack it"""
    metric: str = "metric"
    """of a long table, with `value`: name of the row's score; a table that lacks both is wide, a column each"""
    value: str = "value"
    mean: str = "mean"
    """of a table of printed means, which has no `seed`"""
    std: str = "std"
    """beside it, over runs, ddof 1; empty where none is printed"""
    n: str = "n"
    """beside it, the number of runs"""


def named(names: Mapping[str, str]) -> Columns:
    """Says which column of a table holds what.

    Raises:
        UserError: what is named is none of those that a table has.
    """
    valid = [field.name for field in fields(Columns)]
    unknown = [name for name in names if name not in valid]
    if unknown:
        raise UserError(f"columns: unknown {unknown[0]!r}{nearest(unknown[0], valid)}")
    return Columns(**names)


def task_name(told: str) -> str:
    """Writes a task of somebody's table as a name that files may have: `Chest X-ray` as `Chest-X-ray`.

    Raises:
        UserError: nothing of it is left.
    """
    plain = unicodedata.normalize("NFKD", told).encode("ascii", "ignore").decode()
    found = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._")
    if not found:
        raise UserError(f"the task {told!r} names files and pages: write it with letters from a to z, or digits")
    return found


def task_names(told: Sequence[str]) -> dict[str, str]:
    """Finds the name of each task.

    Raises:
        UserError: two have one name.
    """
    found = {one: task_name(one) for one in told}
    first: dict[str, str] = {}
    for one, name in found.items():
        if first.setdefault(name, one) != one:
            raise UserError(f"the tasks {first[name]!r} and {one!r} would both be called {name}: rename one")
    return found


def tasks_below_each_other(
    table: pd.DataFrame, columns: Columns, metric: str, other: Sequence[str]
) -> tuple[pd.DataFrame, Columns, str]:
    """Brings a table with a column of scores for each task to one with a row for each run and task.

    Args:
        table: as somebody wrote it.
        columns: `task` names its columns of scores, with commas between.
        metric: what the scores are; empty: `score`.
        other: columns that are asked for beside, and that such a table cannot have.

    Returns:
        The table, its columns and the column of its score.

    Raises:
        UserError: a column is not there, or there is one of scores on val or of predictions.
    """
    tasks = [name.strip() for name in columns.task.split(",") if name.strip()]
    valid = list(map(str, table.columns))
    if unknown := [name for name in tasks if name not in valid]:
        raise UserError(f"no column {unknown[0]!r} for a task{nearest(unknown[0], valid)}")
    if found := [name for name in other if name]:
        raise UserError(
            f"{found[0]!r} is of one task, and here each task has one column alone: write a row for each run and task"
        )
    score = metric or "score"
    keys = [name for name in valid if name not in (*tasks, "task", score)]
    long = table.melt(id_vars=keys, value_vars=tasks, var_name="task", value_name=score)
    return long.dropna(subset=[score]), replace(columns, task="task"), score


def refuse_loss(name: str) -> None:
    """Refuses a score whose name says that less is better: the worst would be called the best.

    Raises:
        UserError: it is one.
    """
    if found := [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word in LOSSES]:
        raise UserError(
            f"{name!r} is a {found[-1]}, of which less is better, and here higher is: compare 1 - {name}, or its "
            "negative, under another name (of MLflow's runs: from mt.logged_runs to mt.compare)"
        )


def chosen_metric(wanted: str, found: Sequence[str], where: str, one_task: bool = False) -> str:
    """Takes the score that is meant.

    Args:
        wanted: its name; empty: the only one.
        found: names of those that are there.
        where: they are, in words.
        one_task: no column names tasks, so that scores side by side may be of one each.

    Raises:
        UserError: it is not there, or none is named of several.
    """
    several = f"the columns as task ({','.join(found[:2])})" if found[1:] else ""
    if wanted:
        if wanted not in found:
            hint = f"; where each column is that of a task, name {several}" if several and one_task else ""
            raise UserError(f"{where} have no {wanted!r}{nearest(wanted, found)}{hint}")
        return wanted
    if len(found) != 1:
        raise UserError(
            f"{where} hold {quantity(len(found), 'score')} ({', '.join(found) or 'none'}): name the one on test as "
            "metric" + (f", or, where each is that of a task, {several}" if several else "")
        )
    return found[0]
