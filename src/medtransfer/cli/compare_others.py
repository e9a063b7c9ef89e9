"""Scores that other code measured, from tables and MLflow experiments: `compare --csv`, `--experiment`, or sources."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from medtransfer.core.errors import UserError
from medtransfer.params import Params, Source

if TYPE_CHECKING:
    import pandas as pd

    from medtransfer.comparison.findings import Findings

log = logging.getLogger("medtransfer")

FOLDER = Path("data/results/sources")


def compare_given(root: Path, given: Mapping[str, str]) -> None:
    """Compares what the command line names: prints what it says, and writes it where a folder is named.

    Args:
        root: the folder that paths are relative to.
        given: the options of `compare`.

    Raises:
        UserError: an option is missing or does not fit, or the scores cannot be compared.
    """
    if given["csv"] and given["experiment"]:
        raise UserError("compare takes --csv or --experiment, got both; comparison.sources takes several")
    if given["percent"] not in ("yes", "no"):
        raise UserError(f"percent must be yes or no, got {given['percent']!r}")
    try:
        margin = float(given["margin"]) if given["margin"] else None
    except ValueError as error:
        raise UserError(f"margin is a number in the unit of the scores, got {given['margin']!r}") from error
    metric, val, experiments = (tuple(filter(None, given[name].split(","))) for name in ("metric", "val", "experiment"))
    source = Source(
        experiments=experiments, csv=given["csv"], init=given["init"], task=given["task"], seed=given["seed"],
        fold=given["fold"], metric=metric, val=val, where=given["where"], predictions=given["predictions"],
        margin=margin, percent=given["percent"] == "yes",
    )  # fmt: skip
    _show([source], root, "" if given["reference"] == "params" else given["reference"], 0.05, given["out"])


def compare_sources(params: Params, root: Path) -> None:
    """Compares the runs of `comparison.sources` in one table, in `data/results/sources`.

    Raises:
        UserError: as in `compare_given`.
    """
    _show(list(params.comparison.sources), root, "", params.comparison.alpha, str(FOLDER))


def _show(sources: list[Source], root: Path, reference: str, alpha: float, out: str) -> None:
    from rich.console import Console

    from medtransfer.report import console
    from medtransfer.report.comparison import Comparison

    found = find(sources, root, reference, alpha)
    Console().print(console.layout(console.summarize(found), every_task=True))
    if out:
        Comparison(found).save(root / out)
        log.info("wrote %s/index.html, scores.csv, contrasts.csv and the figures", out)


def find(sources: list[Source], root: Path, reference: str, alpha: float) -> Findings:
    """Compares the runs of sources in one table: tasks of one name are one task, seeds of one number one draw.

    Raises:
        UserError: as in `compare_given`; sources give a task two margins, or are runs and printed means.
    """
    import pandas as pd

    from medtransfer.comparison import foreign

    tables = [_named(source, root) if len(sources) > 1 else _read(source, root) for source in sources]
    if len({"std" in table for table in tables}) > 1:
        raise UserError("comparison.sources holds runs and printed means: the latter are compared by themselves")
    margins: dict[str, float | None] = {}
    for source, table in zip(sources, tables, strict=True):
        margin = None if source.margin is None else source.margin / (100.0 if source.percent else 1.0)
        if margin is not None and not 0 < margin < 1:
            whole = 100 if source.percent else 1
            said = "" if source.percent or margin < 1 else "; scores in percent need --percent yes, or percent: true"
            raise UserError(f"0 < margin < {whole} must hold, got {source.margin:g} for {source.name}{said}")
        for task in dict.fromkeys(table["task"]):
            if margins.setdefault(task, margin) != margin:
                raise UserError(f"task {task} has two margins, {margins[task]} and {margin}: a task has one")
    return foreign.compare_scores(pd.concat(tables, ignore_index=True), margins, reference=reference, alpha=alpha)


def _named(source: Source, root: Path) -> pd.DataFrame:
    """Reads one source of several; what is wrong with it names it."""
    try:
        return _read(source, root)
    except UserError as error:
        raise UserError(f"{source.name}: {error}") from error


def _read(source: Source, root: Path) -> pd.DataFrame:
    from medtransfer.comparison import columns, score_table

    if source.csv:
        keys = {name: getattr(source, name) for name in ("init", "task", "seed", "fold") if getattr(source, name)}
        if odd := [name for name in ("where", "tracking_uri") if getattr(source, name)]:
            raise UserError(f"{' and '.join(odd)}: of an MLflow experiment, not of the table {source.csv}")
        metric, val = (",".join(names) for names in (source.metric, source.val))
        return score_table.read(
            score_table.read_csv(root / source.csv), metric=metric, val=val, columns=columns.named(keys),
            percent=source.percent, predictions=source.predictions, root=root,
        )  # fmt: skip
    return score_table.read(
        _logged(source, root), metric="score", val="val" if source.val else "", percent=source.percent,
        title=source.metric[0], predictions="predictions" if source.predictions else "", root=root,
    )  # fmt: skip


def _logged(source: Source, root: Path) -> pd.DataFrame:
    """Reads the runs of experiments, and says what was left out."""
    from medtransfer.tracking import foreign as logged

    if lacking := [f"--{name}" for name in ("init", "seed", "metric") if not getattr(source, name)]:
        raise UserError(f"compare --experiment needs {', '.join(lacking)}: under which key its runs say it")
    task = source.task or logged.ONE_TASK
    wanted = logged.Keys(
        init=source.init, seed=source.seed, task=task, fold=source.fold, metric=source.metric, val=source.val
    )
    found = logged.runs(
        source.experiments, wanted, root=root, tracking_uri=source.tracking_uri, filter_string=source.where
    )
    if source.predictions:
        found = logged.with_predictions(found, source.predictions, root, source.tracking_uri)
    for note in found.notes:
        log.warning("%s: %s", source.name, note)
    return found.table
