"""Scores that other code measured, in a table -> findings, by the same statistics as our own runs.

A row is a run: an initialization (or whatever is compared), a task, a seed, a score on test. Seeds that are missing
and scores that are no number are named, and their init is not averaged. Or a row is a printed mean, with its std and
number of runs.
"""

from __future__ import annotations

import hashlib
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medtransfer import params
from medtransfer.comparison import findings, patients, printed, published_form, score_table
from medtransfer.comparison.columns import Columns, task_name
from medtransfer.comparison.findings import Findings
from medtransfer.comparison.patients import Evidence
from medtransfer.comparison.published_form import Row
from medtransfer.core.errors import UserError, one_line, some
from medtransfer.core.schema import nearest
from medtransfer.results.result import ELSEWHERE, Result
from medtransfer.statistics.metrics import METRICS

NOTE = "no predictions of single patients; seeds alone count"


def compare(
    table: pd.DataFrame,
    *,
    metric: str = "",
    val: str = "",
    columns: Columns | None = None,
    reference: str = "",
    margin: float | Mapping[str, float] | None = None,
    alpha: float = 0.05,
    percent: bool = False,
    title: str = "",
    predictions: str = "",
    root: Path = Path(),
) -> Findings:
    """Compares every two inits of a table of scores, on every task and over all of them.

    Args:
        table: long (a row per run and score) or wide (a row per run, a column per score); or of printed means, a row
            each, with mean, std and n in place of seed and score.
        metric: name of the score on test; needed where the table has several. Higher is better.
        val: name of the score on val, which picks among equals; empty: nothing picks.
        columns: which column holds what.
        reference: init that the others stand beside; empty: `random` where there is one, else the first.
        margin: smallest difference that matters, in the unit of the scores, of all tasks or by task; None: nothing is
            called equivalent, and nothing is said over tasks.
        alpha: level of all comparisons together.
        percent: scores and margins are in percent.
        title: what the score is called; empty: as its column.
        predictions: column that holds the path of each run's predictions on test (CSV or parquet, see `_prediction`),
            with which patients count as seeds do; empty: there are none.
        root: the folder that those paths are relative to.

    Raises:
        UserError: a column is missing, a run stands in it twice, a score is no share, or nothing can be compared.
    """
    scores = score_table.read(
        table, metric=metric, val=val, columns=columns, percent=percent, title=title, predictions=predictions, root=root
    )
    margins = _margins(margin, list(dict.fromkeys(scores["task"])), 100.0 if percent else 1.0)
    return compare_scores(scores, margins, reference=reference, alpha=alpha)


def compare_scores(
    scores: pd.DataFrame, margins: Mapping[str, float | None], *, reference: str = "", alpha: float = 0.05
) -> Findings:
    """Compares every two inits of what `score_table.read` gave; several tables may stand below each other.

    Args:
        scores: runs, or printed means.
        margins: task -> smallest difference that matters, a share.
        reference: as in `compare`.
        alpha: as in `compare`.

    Raises:
        UserError: a run stands there twice, a task has two metrics, or nothing can be compared.
    """
    inits, tasks = list(dict.fromkeys(scores["init"])), list(dict.fromkeys(scores["task"]))
    if reference and reference not in inits:
        raise UserError(f"reference {reference!r} is no init of the table{nearest(reference, inits)}")
    for task, own in scores.groupby("task", sort=False):
        if len(names := list(dict.fromkeys(own["metric"]))) > 1:
            raise UserError(f"task {task} has the scores {' and '.join(names)}: a task has one score on test")
    score_table.once(scores)
    if "std" not in scores:
        _refuse_own_seeds(scores)
    results = _results(scores, margins)
    benchmark = params.Benchmark(
        inits=tuple(inits), tasks=tuple(tasks), seeds=tuple(sorted({one.seed for one in results})), recipes=("fixed",)
    )
    beside = reference or ("random" if "random" in inits else inits[0])
    settings = published_form.settings_elsewhere(beside, alpha)
    if "std" in scores:
        rows = printed.rows(results, printed.summaries(scores), benchmark, settings)
        evidence = {task: Evidence(task=task, unit="run", note=printed.NOTE) for task in tasks}
        return findings.compare(results, rows, evidence, benchmark, settings, settings.reference)
    rows = published_form.compare(results, benchmark, settings)
    whole_tasks = {row.task for row in rows if row.summary is not None}
    evidence = {task: Evidence(task=task, unit="run", note=NOTE) for task in tasks if task in whole_tasks}
    paths = zip(results, scores["predictions"], strict=True)
    known = {result.digest: Path(path) for result, path in paths if path}
    told = [one for one in results if one.task in whole_tasks and one.digest in known]
    bare = {one.task for one in results if one.digest not in known}  # of a task all runs have them, or none counts
    evidence |= _over_patients([one for one in told if one.task not in bare], rows, known)
    return findings.compare(results, rows, evidence, benchmark, settings, settings.reference)


def _over_patients(results: Sequence[Result], rows: Sequence[Row], paths: Mapping[str, Path]) -> dict[str, Evidence]:
    """Reads what the predictions of complete inits say of each patient."""
    whole = {(row.task, row.init) for row in rows if row.summary is not None}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for task in dict.fromkeys(result.task for result in results):
            runs = [one for one in results if one.task == task and (task, one.init) in whole]
            for run in runs:
                place = Path(folder) / task / run.digest
                place.mkdir(parents=True)
                _prediction(paths[run.digest]).to_parquet(place / "predictions.parquet")
            rng = np.random.default_rng(findings.SEED)
            found[task] = patients.gather(runs, Path(folder), resamples=0, level=0.95, rng=rng)
    return found


def _prediction(path: Path) -> pd.DataFrame:
    """Reads a run's predictions: `id`, `target` (0 or 1) and `probability` of each test image, and its `patient`.

    Of several labels the columns are `target.<label>` and `probability.<label>`. Without a patient each image is one.

    Raises:
        UserError: it is no table of this form.
    """
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is no table of predictions: {one_line(error)}") from error
    table = table.rename(columns={"target": "target.positive", "probability": "probability.positive"})
    labels = [str(name).removeprefix("target.") for name in table.columns if str(name).startswith("target.")]
    lacking = [f"probability.{label}" for label in labels if f"probability.{label}" not in table]
    if "id" not in table or not labels or lacking:
        raise UserError(
            f"{path} holds the columns {', '.join(map(str, table.columns))}: predictions have id, target and "
            "probability (of several labels target.<label> and probability.<label>), and patient where images share one"
        )
    if "patient" not in table:
        table["patient"] = table["id"]
    return table.astype({"id": str, "patient": str}).sort_values("id", ignore_index=True)


def _refuse_own_seeds(scores: pd.DataFrame) -> None:
    """Refuses inits that have no seed in common: of each all those of the others would be missing."""
    own = {str(init): set(one["seed"]) for init, one in scores.groupby("init", sort=False)}
    if len(own) > 1 and sum(map(len, own.values())) == len(set.union(*own.values())):
        first = [f"{init}: {', '.join(map(str, sorted(seeds, key=str)[:3]))}" for init, seeds in own.items()]
        raise UserError(
            f"no two of the {len(own)} inits have a seed in common {some(first)}: seeds of one number are compared as "
            "one draw. Where they have nothing to do with each other, number those of each init alike, from 0 on"
        )


def _digest(run: Any) -> str:
    """Names a run's files."""
    return hashlib.sha256(score_table.in_words(run).encode()).hexdigest()[:16]


def _margins(margin: float | Mapping[str, float] | None, tasks: Sequence[str], whole: float) -> dict[str, float | None]:
    by_task = {task_name(task): value for task, value in margin.items()} if isinstance(margin, Mapping) else {}
    given = by_task or dict.fromkeys(tasks, None if isinstance(margin, Mapping) else margin)
    unknown = [task for task in given if task not in tasks]
    if unknown:
        raise UserError(
            f"a margin is given for {', '.join(unknown)}, which the table has not{nearest(unknown[0], tasks)}"
        )
    found = {task: None if given.get(task) is None else float(given[task] or 0) / whole for task in tasks}
    wrong = [task for task, value in found.items() if value is not None and not 0 < value < 1]
    if wrong:
        hint = (
            "" if whole > 1 or (given[wrong[0]] or 0) < 1 else f"; of scores in percent say so ({score_table.PERCENT})"
        )
        raise UserError(f"0 < margin < {whole:g} must hold, got {given[wrong[0]]} for {wrong[0]}{hint}")
    return found


def _results(scores: pd.DataFrame, margins: Mapping[str, float | None]) -> list[Result]:
    seeds = _numbered(scores["seed"])
    folds = _numbered(scores["fold"].dropna()) if scores["fold"].notna().any() else {}
    return [_result(row, seeds, folds, margins) for row in scores.itertuples(index=False)]


def _numbered(values: pd.Series[Any]) -> dict[Any, int]:
    """Numbers seeds, or folds, as they are where they are whole numbers, else in their order."""
    found = sorted(set(values), key=str)
    whole = all(score_table.WHOLE.fullmatch(str(value)) for value in found)
    return {value: int(float(value)) if whole else place for place, value in enumerate(found)}


def _result(
    row: Any, seeds: Mapping[Any, int], folds: Mapping[Any, int], margins: Mapping[str, float | None]
) -> Result:
    metric = re.sub(r"^test_", "", row.metric)
    known = METRICS.get(metric)
    values = {f"test_{metric}": float(row.score), f"best_val_{metric}": float(row.val)}
    values = {name: value for name, value in values.items() if not math.isnan(value)}
    return Result(
        digest=_digest(row), verb=ELSEWHERE, init=row.init, task=row.task, seed=seeds[row.seed],
        fold=folds[row.fold] if folds else None, folds=len(folds), marks=(),
        kind="segmentation" if metric == "dice" else "binary", scores=values, cost={}, params={},
        labels=1, undefined=(), device="", versions={}, protocol_version="", manifest_digest="", weights_sha256=None,
        mlflow_run_id=None, counts={"train": max(1, len(folds) - 1), "test": 1}, split="", dataset=row.task,
        unit="image", history=(), metric=metric, margin=margins[row.task], images=(row.task,), group=row.task,
        measured=(known.name,) if known else (metric,),
    )  # fmt: skip
