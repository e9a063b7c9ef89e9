"""Finished runs -> one row per task and initialization, compared with the best.

Nothing is averaged silently: what is missing, undefined, duplicated or mixed is named or refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from medtransfer import params
from medtransfer.data.tasks import Listed, applicable
from medtransfer.results.result import CONTAMINATED, Result
from medtransfer.statistics import randomization, t_tests
from medtransfer.weights.names import seen

Unit = Literal["seed", "fold", "split", "run"]
ScoreTest = t_tests.TTest | randomization.RandomizationTest

TEST_NAMES = {
    "pooled": "pooled t-test",
    "welch": "Welch's t-test",
    "paired": "t-test paired by seed",
    "wilcoxon": "Wilcoxon's signed ranks, paired by seed",
    "sign-flip": "permutation of signs, paired by seed",
}
"""comparison.test -> its name as a person reads it"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The comparison of one initialization with the best on one task."""

    task: str
    init: str
    applicable: bool
    unit: Unit
    """what one score stands for: a seed's run, or the mean over the seeds of a fold or a drawn split; `run`: of a
    printed mean, whose runs nobody has"""
    redrawn: bool
    """every fold, or split, has test images of its own: they share training images and are not independent"""
    expected: int
    """number of seeds, folds or drawn splits"""
    seeds: tuple[int, ...]
    """seeds (or folds) with a primary score"""
    undefined: tuple[int, ...]
    """those whose runs have no primary score"""
    missing: tuple[int, ...]
    """those without a run"""
    stopped: str = ""
    """why a race stopped it before its end, so that it has no final score; empty: it did not"""
    scores: tuple[float, ...]
    """one per seed (or fold), in the same order"""
    ratio: float
    """test images per training image, the most of any run"""
    val: float | None
    """mean primary score on val; None where a run lacks it"""
    vals: tuple[float, ...]
    """primary score on val per seed (or fold), in the same order; empty where a run lacks it"""
    each: int = 1
    """runs behind a score: 1, or the seeds of a fold or a drawn split"""
    summary: t_tests.Summary | None
    """None unless every seed (or fold) has a score: an incomplete row is named, not averaged"""
    marks: tuple[str, ...]
    listed: Listed | None = None
    """what a list of the weights' training images holds of the test images, of the run of which it holds most"""
    barred: bool = False
    """a run is contaminated and comparison.as_published is false: shown, and compared with nothing"""
    best: bool = False
    difference: float | None = None
    """mean minus the best mean"""
    test: ScoreTest | None = None
    separated: bool | None = None
    """None for the best itself and where no test is possible"""

    @property
    def printed(self) -> bool:
        """Says whether mean, std and number of runs are known and the runs are not, so that nothing is paired."""
        return self.unit == "run"

    @property
    def compared(self) -> bool:
        """Says whether the row enters tests, ranks and answers: it has all its scores and is not barred."""
        known = self.summary is not None and not (self.printed and self.summary.std is None)
        return known and not self.barred


def settings_elsewhere(reference: str, alpha: float, as_published: bool = True) -> params.Comparison:
    """Gives the settings of a comparison that no study's parameters describe."""
    return params.Comparison(
        test="welch", recipe="fixed", protocol="finetune", alpha=alpha, resamples=0, against=(), published_n=2,
        images="none", unbalanced=(), as_published=as_published, reference=reference,
    )  # fmt: skip


def compare(
    results: Sequence[Result],
    benchmark: params.Benchmark,
    comparison: params.Comparison,
    locked: Collection[str] = (),
    stopped: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> list[Row]:
    """Compares every initialization with the best of its task, by task and init in the benchmark's order.

    Args:
        results: finished runs.
        benchmark: the expected runs.
        comparison: the published form's test.
        locked: tasks whose folds, or drawn splits, have one test for all.
        stopped: task -> init -> why a race stopped it.
    """
    index = {result.key: result for result in results}
    rows: list[Row] = []
    for task in benchmark.tasks:
        published, redrawn = comparison.as_published, task not in locked
        column = [_row(task, init, benchmark, index, published, redrawn) for init in benchmark.inits]
        column = [_stopped(row, stopped.get(task, {})) for row in column]
        rows += against_best(column, comparison)
    return rows


def _stopped(row: Row, stopped: Mapping[str, str]) -> Row:
    """Marks a row without all its runs that a race stopped: what is missing of it is not waited for."""
    if row.summary is not None or row.init not in stopped:
        return row
    return replace(row, stopped=stopped[row.init], missing=())


def _row(
    task: str, init: str, benchmark: params.Benchmark, index: Mapping[tuple[str, str, int, Any], Result],
    as_published: bool, redrawn: bool,
) -> Row:  # fmt: skip
    own, seeds = [result for result in index.values() if result.task == task], benchmark.seeds
    drawn = any(result.drawn for result in own)
    folds = benchmark.splits if drawn else range(max((result.folds for result in own), default=0))
    fits = applicable(seen(init), task)  # a task has the name of its dataset
    known = index if fits else {}
    groups = {fold: [known.get((task, init, seed, fold)) for seed in seeds] for fold in folds}
    groups = groups or {seed: [known.get((task, init, seed, None))] for seed in seeds}
    runs = {unit: [run for run in group if run is not None] for unit, group in groups.items()}
    whole = {unit: group for unit, group in runs.items() if len(group) == len(groups[unit])}
    scored = {unit: [run.score for run in group if run.score is not None] for unit, group in whole.items()}
    scores = {unit: sum(found) / len(found) for unit, found in scored.items() if len(found) == len(groups[unit])}
    every = [run for group in runs.values() for run in group]
    vals = _vals(runs.values()) if every and len(scores) == len(groups) else ()
    marks = {mark for run in every for mark in run.marks}
    listed = max((run.listed for run in every if run.listed), key=lambda one: one.held, default=None)
    return Row(
        task=task,
        init=init,
        applicable=fits,
        unit="split" if drawn else "fold" if folds else "seed",
        redrawn=bool(folds) and redrawn,
        expected=len(groups),
        seeds=tuple(scores),
        undefined=tuple(unit for unit in whole if unit not in scores),
        missing=tuple(unit for unit in groups if unit not in whole and fits),
        scores=tuple(scores.values()),
        ratio=max((run.counts["test"] / run.counts["train"] for run in every), default=0.0),
        val=sum(vals) / len(vals) if vals else None,
        vals=vals,
        each=len(seeds) if folds else 1,
        summary=t_tests.summary(list(scores.values())) if scores and len(scores) == len(groups) else None,
        marks=tuple(sorted(marks)),
        listed=listed,
        barred=CONTAMINATED in marks and not as_published,
    )


def _vals(groups: Iterable[Sequence[Result]]) -> tuple[float, ...]:
    """Averages the score on val over the runs of each seed or fold; none where a run lacks it."""
    scores = [[run.val_score for run in group if run.val_score is not None] for group in groups]
    whole = all(len(known) == len(group) for known, group in zip(scores, groups, strict=True))
    return tuple(sum(known) / len(known) for known in scores) if whole else ()


def against_best(column: Sequence[Row], comparison: params.Comparison) -> list[Row]:
    """Tests the rows of a task against the one with the highest mean."""
    best = max(eligible(column), key=_mean, default=None)
    if best is None:
        return list(column)
    return [_tested(row, best, comparison) if row.compared else row for row in column]


def _mean(row: Row) -> float:
    return row.summary.mean if row.summary is not None else float("nan")


def _tested(row: Row, best: Row, comparison: params.Comparison) -> Row:
    difference = _mean(row) - _mean(best)
    if row is best:
        return replace(row, best=True, difference=difference)
    test = test_rows(row, best, comparison)
    return replace(row, difference=difference, test=test, separated=test.separated(comparison.alpha))


def test_rows(row: Row, other: Row, comparison: params.Comparison) -> ScoreTest:
    """Tests two complete rows of a task by the test of the published form; folds by the corrected one.

    Complete rows have the same seeds in the same order, so that a paired test pairs runs of one seed.
    """
    if row.printed and row.summary and other.summary:
        return t_tests.t_test_from_summary(row.summary, other.summary, test="welch", alpha=comparison.alpha)
    if row.redrawn:
        return t_tests.corrected_t_test(row.scores, other.scores, ratio=row.ratio, alpha=comparison.alpha)
    if comparison.test == "wilcoxon":
        return randomization.wilcoxon_test(row.scores, other.scores, alpha=comparison.alpha)
    if comparison.test == "sign-flip":
        generator = np.random.default_rng(0)
        return randomization.permutation_test(
            row.scores, other.scores, paired=True, generator=generator, alpha=comparison.alpha
        )
    return t_tests.t_test(row.scores, other.scores, test=comparison.test, alpha=comparison.alpha)


def eligible(rows: Iterable[Row]) -> list[Row]:
    """Takes the rows that enter tests, ranks and answers."""
    return [row for row in rows if row.compared]
