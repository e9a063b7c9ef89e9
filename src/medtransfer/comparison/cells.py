"""What each protocol and share of the labels gave an initialization on a task, gathered once for all who read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medtransfer import params
from medtransfer.comparison import published_form
from medtransfer.comparison.patients import Evidence, gather, locked
from medtransfer.comparison.published_form import Row
from medtransfer.comparison.selection import select
from medtransfer.core import progress
from medtransfer.core.errors import UserError
from medtransfer.results.result import Result, of_task
from medtransfer.statistics.t_tests import Array

WHOLE = "1"
"""fraction: all labels"""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The runs of an initialization on a task by one protocol with one share of the labels, all of which are there."""

    task: str
    init: str
    protocol: str
    fraction: str
    labels: float
    """images that its runs had in train, on average"""
    row: Row
    values: Array
    """seeds (or folds) x patients: what each patient adds to a score; x 1: scores alone"""
    runs: tuple[Result, ...]

    @property
    def ratio(self) -> float:
        """Test images per training image where folds, which are tested on images of their own, are its rows; else 0."""
        return self.row.ratio if self.row.redrawn else 0.0

    @property
    def scores(self) -> Array:
        """Reads the score of each seed (or fold)."""
        return np.asarray(self.row.scores, dtype=np.float64)[:, None]


def gather_cells(
    results: Sequence[Result],
    beside: Sequence[Result],
    rows: Sequence[Row],
    evidence: Mapping[str, Evidence],
    benchmark: params.Benchmark,
    settings: params.Comparison,
    folder: Path,
) -> tuple[Cell, ...]:
    """Gathers the complete cells of every protocol and fraction, without contaminated ones, in the benchmark's order.

    Args:
        results: that the tables rest on.
        beside: the benchmark's other runs, of which those of the compared recipe count.
        rows: of `results`.
        evidence: of `results`.
        benchmark: the expected runs.
        settings: the comparison.
        folder: of the finished runs.

    Raises:
        UserError: runs of a cell may not stand in one table, see `select`, or those of a task are of unequal data.
    """
    main = (settings.protocol, WHOLE)
    found = _cells(results, rows, evidence, benchmark, main)
    others = [one for one in beside if one.recipe == settings.recipe]
    keys = dict.fromkeys((protocol, fraction) for protocol in benchmark.protocols for fraction in benchmark.fractions)
    keys = {key: None for key in keys if any((one.protocol, one.fraction) == key for one in others) and key != main}
    with progress.bar("protocols and fractions", len(keys), "cells") as advance:
        for protocol, fraction in keys:
            runs = select(others, benchmark, settings.recipe, settings.unbalanced, protocol, fraction)
            found += beside_results(runs, results, benchmark, settings, folder, (protocol, fraction))[1]
            advance()
    places = {init: place for place, init in enumerate(benchmark.inits)}
    tasks = {task: place for place, task in enumerate(benchmark.tasks)}
    protocols = {str(protocol): place for place, protocol in enumerate(benchmark.protocols)}
    order = sorted(found, key=lambda c: (tasks[c.task], protocols[c.protocol], places[c.init], c.labels, c.fraction))
    return tuple(order)


def beside_results(
    runs: Sequence[Result],
    results: Sequence[Result],
    benchmark: params.Benchmark,
    settings: params.Comparison,
    folder: Path,
    key: tuple[str, str],
) -> tuple[list[Row], list[Cell]]:
    """Gathers rows, and the cells of those that are complete, of one protocol and fraction.

    Args:
        runs: as `select` chose them.
        results: that the tables rest on, whose data they must have.
        benchmark: the expected runs.
        settings: the comparison.
        folder: of the finished runs.
        key: protocol and fraction.

    Raises:
        UserError: those of a task are of unequal data.
    """
    _refuse_other_data(runs, results)
    one_test = [task for task in benchmark.tasks if locked(of_task(runs, task), folder)]
    rows = published_form.compare(runs, benchmark, settings, one_test)
    return rows, _cells(runs, rows, _evidence(runs, rows, folder, settings), benchmark, key)


def _evidence(
    results: Sequence[Result], rows: Sequence[Row], folder: Path, settings: params.Comparison
) -> dict[str, Evidence]:
    whole = {(row.task, row.init) for row in rows if row.compared}
    found = {}
    for task in dict.fromkeys(row.task for row in rows):
        runs = [result for result in of_task(results, task) if (result.task, result.init) in whole]
        if runs:  # nothing is drawn without resamples
            rng = np.random.default_rng(0)
            found[task] = gather(runs, folder, resamples=0, level=1 - settings.alpha, rng=rng)
    return found


def _cells(
    results: Sequence[Result],
    rows: Sequence[Row],
    evidence: Mapping[str, Evidence],
    benchmark: params.Benchmark,
    key: tuple[str, str],
) -> list[Cell]:
    found = []
    for row in rows:
        if not row.compared:
            continue
        runs = tuple(result for result in of_task(results, row.task) if result.init == row.init)
        runs = tuple(run for run in runs if run.seed in benchmark.seeds)
        values = evidence[row.task].contributions.get(row.init) if row.task in evidence else None
        if values is None or row.redrawn:
            values = np.asarray(row.scores, dtype=np.float64)[:, None]
        labels = sum(run.counts["train"] for run in runs) / len(runs)
        found.append(
            Cell(
                task=row.task, init=row.init, protocol=key[0], fraction=key[1], labels=labels, row=row, values=values,
                runs=runs,
            )
        )  # fmt: skip
    return found


def _refuse_other_data(runs: Sequence[Result], results: Sequence[Result]) -> None:
    """Refuses to lay runs beside those of other data: what differs would not be the labels."""
    for task in dict.fromkeys(run.task for run in runs):
        ours, theirs = ({c.manifest_digest for c in of_task(some, task)} for some in (runs, results))
        if theirs and ours != theirs:
            first = of_task(runs, task)[0]
            raise UserError(
                f"task {task}: runs by {first.protocol} with fraction {first.fraction} and those with all labels must "
                f"have one manifest digest, got {', '.join(sorted(map(str, ours)))} and "
                f"{', '.join(sorted(map(str, theirs)))}; repeat or remove the odd ones"
            )
