"""A table of printed means (mean, std, number of runs) -> rows of the comparison: nobody has the runs behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from medtransfer import params
from medtransfer.comparison.columns import ONE_TASK, Columns, chosen_metric
from medtransfer.comparison.published_form import Row, against_best
from medtransfer.core.errors import UserError, some
from medtransfer.results.result import Result
from medtransfer.statistics.t_tests import Summary

NOTE = "means as printed, without their runs and predictions; runs alone count"


def read(table: pd.DataFrame, named: Columns, metric: str) -> pd.DataFrame:
    """Brings a table of means to init, task, seed, fold, score, val, metric, std, runs, a row per mean.

    Raises:
        UserError: a column is missing, a mean stands there twice, or its std or number of runs cannot be.
    """
    lacking = [name for name in (named.init, named.std, named.n) if name not in table]
    if lacking or table.empty:
        raise UserError(
            f"a table of printed means lacks the column {' and '.join(lacking)}: it needs init, mean, std (over runs, "
            f"ddof 1; empty where none is printed) and n (runs behind the mean); it has "
            f"{', '.join(map(str, table.columns))}"
            if lacking
            else "the table has no row"
        )
    told = table[named.metric].astype(str) if named.metric in table else pd.Series("score", index=table.index)
    chosen = chosen_metric(metric if named.metric in table else "", list(dict.fromkeys(told)), "the printed means")
    own = table[told == chosen]
    task = own[named.task].astype(str) if named.task in table else ONE_TASK
    scores = pd.DataFrame({
        "init": own[named.init].astype(str), "task": task, "seed": 0, "fold": pd.NA, "score": own[named.mean],
        "val": math.nan, "metric": metric or chosen, "std": own[named.std], "runs": own[named.n],
    })  # fmt: skip
    _once(scores)
    for row in scores.itertuples(index=False):
        _check(row)
    if (scores["std"].dropna() == 0).all() and scores["std"].notna().any():
        raise UserError("every std is 0: leave the cell empty where none is printed")
    return scores


def summaries(scores: pd.DataFrame) -> list[Summary]:
    """Takes mean, std and number of runs."""
    return [
        Summary(mean=float(mean), std=None if math.isnan(std) or runs < 2 else float(std), n=int(runs))
        for mean, std, runs in zip(scores["score"], scores["std"], scores["runs"], strict=True)
    ]


def rows(
    results: Sequence[Result], found: Sequence[Summary], benchmark: params.Benchmark, settings: params.Comparison
) -> list[Row]:
    """Lays printed means out, by task and init in the benchmark's order, each tested against the best of its task.

    Args:
        results: one per mean, whose score is the mean.
        found: their summaries.
        benchmark: inits and tasks.
        settings: of the comparison.
    """
    known = {(one.task, one.init): summary for one, summary in zip(results, found, strict=True)}
    laid: list[Row] = []
    for task in benchmark.tasks:
        column = [_row(task, init, known.get((task, init))) for init in benchmark.inits]
        laid += against_best(column, settings)
    return laid


def _row(task: str, init: str, summary: Summary | None) -> Row:
    return Row(
        task=task, init=init, applicable=True, unit="run", redrawn=False, expected=summary.n if summary else 0,
        seeds=(), undefined=(), missing=(), scores=(), ratio=0.0, val=None, vals=(), summary=summary, marks=(),
    )  # fmt: skip


def _once(scores: pd.DataFrame) -> None:
    twice = scores[scores.duplicated(["init", "task"])]
    if len(twice):
        names = [f"{row.init} on {row.task}" for row in twice.itertuples(index=False)]
        raise UserError(
            f"{len(names)} means stand in the table more than once {some(names)}: leave the one that counts"
        )


def _check(row: Any) -> None:
    """Refuses a std or a number of runs that cannot be."""
    name = f"{row.init} on {row.task}"
    if not (isinstance(row.runs, int | float) and row.runs >= 1 and float(row.runs).is_integer()):
        raise UserError(f"{name}: n, the runs behind a mean, is a whole number from 1 on, got {row.runs!r}")
    if pd.isna(row.score):
        raise UserError(f"{name}: the mean is missing; leave the row out")
    if not isinstance(row.std, int | float) or row.std < 0 or math.isinf(row.std):
        raise UserError(f"{name}: the std is a number from 0 on or empty, got {row.std!r}")
    if row.runs == 1 and row.std > 0:
        raise UserError(f"{name}: a std of {row.std:g} over a single run; n is the number of runs behind it")
