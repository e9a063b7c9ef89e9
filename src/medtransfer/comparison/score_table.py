"""A table of scores that other code measured -> a row per run, or per printed mean; what no such table may hold.

A run that stands there twice is refused, and so is a score that is no share.
"""

from __future__ import annotations

import io
import math
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from medtransfer.comparison import printed
from medtransfer.comparison.columns import (
    ONE_TASK,
    Columns,
    chosen_metric,
    refuse_loss,
    task_names,
    tasks_below_each_other,
)
from medtransfer.core.errors import UserError, one_line, quantity, some
from medtransfer.core.schema import nearest

KEYS = ["init", "task", "seed", "fold"]
"""what says which run a row is"""
PERCENT = "--percent yes, in Python percent=True"
WHOLE = re.compile(r"\d+(\.0)?")
COMMAS = re.compile(r"""(^|[;\t])[" ]*-?\d+,\d+[" ]*($|[;\t])""", re.MULTILINE)
"""a cell with a decimal comma"""


def read(
    table: pd.DataFrame, *, metric: str = "", val: str = "", columns: Columns | None = None, percent: bool = False,
    title: str = "", predictions: str = "", root: Path = Path(),
) -> pd.DataFrame:  # fmt: skip
    """Brings a table to init, task, seed, fold, score, val, metric, predictions, a row per run.

    Its arguments are those of `foreign.compare`.

    Scores are shares then, and `predictions` a path. Of printed means `std` and `runs` are there, too.

    Raises:
        UserError: a column is missing, a run stands in it twice, or a score is no share.
    """
    named, whole = columns or Columns(), 100.0 if percent else 1.0
    if "," in named.task:
        table, named, metric = tasks_below_each_other(table, named, metric, (val, predictions))
    means = named.mean in table and named.seed not in table
    if val and val == metric:
        raise UserError(f"{val} is the score on test, and val may not be the same: it would pick by test")
    if means and (val or predictions):
        raise UserError("a table of printed means has no runs: no scores on val, no predictions")
    if means:
        scores = printed.read(table, named, metric)
    else:
        _check_columns(table, named)
        scores = _scores(table, named, metric, val)
    for name in filter(None, (title or str(scores["metric"].iloc[0]), val)):
        refuse_loss(name)
    told = scores["task"].str.strip()
    scores = scores.assign(init=scores["init"].str.strip(), task=told.map(task_names(list(dict.fromkeys(told)))))
    _check_shares(scores, whole, percent)
    paths = _paths(table, scores, predictions, root) if predictions else ""
    for column in ("score", "val", "std"):
        if column in scores:
            scores[column] = scores[column].astype(float) / whole
    return scores.assign(metric=title or scores["metric"], predictions=paths, seed=scores["seed"].map(_plain))


def _paths(table: pd.DataFrame, scores: pd.DataFrame, column: str, root: Path) -> list[str]:
    """Finds each run's file of predictions."""
    if column not in table:
        raise UserError(f"the table has no column {column!r}{nearest(column, map(str, table.columns))}")
    named = table.loc[scores.index, column]
    if named.isna().any():
        raise UserError(f"{int(named.isna().sum())} runs name no file of predictions in the column {column}")
    paths = [root / str(path) for path in named]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise UserError(
            f"looked for {quantity(len(paths), 'file')} of predictions, {len(missing)} not there {some(missing)}"
        )
    return list(map(str, paths))


def read_csv(path: Path) -> pd.DataFrame:
    """Reads a table of scores.

    Raises:
        UserError: there is no such file, or it is no table.
    """
    if not path.is_file():
        raise UserError(f"looked for a table of scores in {path}, found none")
    try:
        text = path.read_text(encoding="utf-8-sig")
        head = text.partition("\n")[0]
        apart = max(",;\t", key=head.count)
        table = pd.read_csv(
            io.StringIO(text), sep=apart, decimal="," if apart != "," and COMMAS.search(text) else ".",
            keep_default_na=False, na_values=["", "nan", "NaN"], skipinitialspace=True,
        )  # fmt: skip
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8 ({one_line(error)}): save it as CSV UTF-8") from error
    except ValueError as error:
        raise UserError(f"{path} is no CSV table: {one_line(error)}") from error
    return table.rename(columns=lambda name: name.strip() if isinstance(name, str) else name)


def _check_columns(table: pd.DataFrame, named: Columns) -> None:
    present = [str(column) for column in table.columns]
    defaults = {field.name: field.default for field in fields(Columns)}
    said = [name for what, name in vars(named).items() if what in ("init", "seed") or name != defaults[what]]
    missing = [name for name in said if name not in present]
    if missing:
        raise UserError(
            f"the table lacks the column {' and '.join(missing)}; it has {', '.join(present) or 'none'}: name the one "
            "that holds it"
        )
    if table.empty:
        raise UserError("the table has no row")
    telling = [name for name in (named.init, named.seed, named.task) if name in present]
    if lost := int(table[telling].isna().any(axis=1).sum()):
        raise UserError(f"{lost} rows lack one of {', '.join(telling)}, so nobody knows which run they are")


def _scores(table: pd.DataFrame, named: Columns, metric: str, val: str) -> pd.DataFrame:
    """Brings a table to init, task, seed, fold, score, val, a row per run."""
    keys = {"init": table[named.init].astype(str), "seed": table[named.seed]}
    keys["task"] = table[named.task].astype(str) if named.task in table else pd.Series(ONE_TASK, index=table.index)
    folds = table[named.fold] if named.fold in table else pd.Series(pd.NA, index=table.index)
    runs = pd.DataFrame({**keys, "fold": folds})
    if named.metric in table and named.value in table:
        found = list(dict.fromkeys(table[named.metric].astype(str)))
        chosen = chosen_metric(metric, found, f"the column {named.metric}")
        test = _of_metric(runs, table, named, chosen)
        if not val:
            return test.assign(val=math.nan, metric=chosen)
        if val not in found:
            raise UserError(f"no row of the column {named.metric} is {val!r}{nearest(val, found)}")
        other = _of_metric(runs, table, named, val).rename(columns={"score": "val"})
        return test.merge(other, on=KEYS, how="left").set_axis(test.index).assign(metric=chosen)
    taken = {named.init, named.seed, named.task, named.fold, *([val] if val and not metric else [])}
    others = [str(name) for name in table.columns if name not in taken]
    numbers = [name for name in others if pd.api.types.is_numeric_dtype(table[name])]
    texts = [name for name in others if name not in numbers and table[name].astype(str).str.contains(r"\d").any()]
    for name in (metric, val) if metric else [] if numbers else texts:
        if name in texts:
            _refuse_text(runs.assign(score=table[name]), f"the column {name}")
            numbers.append(name)
    chosen = chosen_metric(metric, numbers, "the columns of numbers", named.task not in table)
    if val and val not in table:
        raise UserError(f"the table has no column {val!r}{nearest(val, numbers)}")
    whole = runs.assign(score=table[chosen], val=table[val] if val else math.nan, metric=chosen)
    return once(whole)


def _of_metric(runs: pd.DataFrame, table: pd.DataFrame, named: Columns, metric: str) -> pd.DataFrame:
    mine = table[named.metric].astype(str) == metric
    return once(runs[mine].assign(score=table.loc[mine, named.value]))


def once(rows: pd.DataFrame) -> pd.DataFrame:
    """Refuses a run that stands there twice."""
    twice = rows[rows.duplicated(KEYS, keep=False)]
    if len(twice):
        runs = [in_words(run) for run in twice[KEYS].drop_duplicates().itertuples(index=False)]
        raise UserError(
            f"{quantity(len(runs), 'run', 'stand')} in the table more than once {some(runs)}: a mean over seeds would "
            "count one run twice; leave one of each, or give each a seed of its own"
        )
    return rows


def _refuse_text(scores: pd.DataFrame, where: str) -> None:
    """Refuses cells that hold something and no number."""
    odd = scores[pd.to_numeric(scores["score"], errors="coerce").isna() & scores["score"].notna()]
    odd = odd[odd["score"].astype(str).str.lower() != "nan"]
    if len(odd):
        first, run = odd["score"].iloc[0], in_words(odd.iloc[0])
        raise UserError(
            f"not a number: {len(odd)} of {quantity(len(scores), 'score')} in {where}, such as {first!r} of {run}: "
            "write 0.81, with a point and without a sign behind it, and nothing where none is known"
        )


def in_words(run: Any) -> str:
    """Names a run; its digest is made of this, too."""
    return f"{run.init} on {run.task}, seed {run.seed}" + ("" if pd.isna(run.fold) else f", fold {run.fold}")


def _check_shares(scores: pd.DataFrame, whole: float, percent: bool) -> None:
    """Refuses scores that are no shares: sentences and margins speak of percentage points."""
    _refuse_text(scores, "the table")
    _refuse_text(scores.assign(score=scores["val"]), "the table on val")
    values = scores["score"].astype(float)
    outside = values[(values.abs() > whole) | values.abs().map(math.isinf)]
    if len(outside):
        hint = "" if percent or outside.abs().max() > 100 else f": say that they are in percent ({PERCENT})"
        raise UserError(
            f"{quantity(len(outside), 'score', 'are')} not between -{whole:g} and {whole:g}, such as "
            f"{outside.iloc[0]:g} of {in_words(scores.loc[outside.index[0]])}; a score is a share, and higher is "
            f"better{hint}"
        )
    if percent and values.abs().max() <= 1:
        raise UserError(
            f"no score is above 1, the highest is {values.max():g}, and they are said to be in percent: shares are "
            f"compared without that ({PERCENT})"
        )


def _plain(seed: Any) -> Any:
    """Writes 0, 0.0 and "0" of three tables as one seed."""
    return int(float(seed)) if WHOLE.fullmatch(str(seed)) else str(seed)
