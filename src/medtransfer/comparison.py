"""Finished runs -> one row per task and initialization, compared with the best.

Nothing is averaged silently: what is missing, undefined, duplicated or mixed is named or refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medtransfer import params, randomization, records, statistics
from medtransfer.errors import UserError
from medtransfer.initializations import seen

ScoreTest = statistics.TTest | randomization.RandomizationTest

TEST_NAMES = {
    "pooled": "pooled t-test",
    "welch": "Welch's t-test",
    "paired": "t-test paired by seed",
    "wilcoxon": "Wilcoxon's signed ranks, paired by seed",
    "sign-flip": "permutation of signs, paired by seed",
}
"""comparison.test -> its name as a person reads it"""

FIRST_LINES = {
    "synthetic": "Synthetic phantoms: this tests the software and says nothing about weights.",
    "partial": "Partial data: images of a dataset are missing, so no number stands beside a published one.",
    "contaminated": "Contaminated: an initialization was pre-trained on the dataset that a test set is taken from.",
    "patients unknown": "Patients unknown: images of one patient may be in several splits; the unit is the image.",
}
"""mark -> the sentence that stands over every table and figure with such a run"""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One finished run, as `finetune` wrote it."""

    digest: str
    verb: str
    init: str
    """canonical name"""
    task: str
    seed: int
    fold: Any
    """of a cross-validation; None: one split"""
    folds: int
    """runs of the cross-validation; 0: one split"""
    kind: str
    metric: str
    """primary score without `test_`"""
    marks: tuple[str, ...]
    """of `synthetic`, `partial`, `contaminated`"""
    scores: Mapping[str, float]
    cost: Mapping[str, float]
    """epochs, seconds, gpu_seconds, images"""
    params: Mapping[str, Any]
    """the resolved parameters that the run read: dotted name -> value"""
    labels: int
    undefined: tuple[str, ...]
    """labels whose AUC is undefined in test"""
    device: str
    """device class, such as `cpu` or `NVIDIA A100`"""
    versions: Mapping[str, str]
    protocol_version: Any
    manifest_digest: str
    weights_sha256: Any
    """None for random weights"""
    mlflow_run_id: Any
    counts: Mapping[str, int]
    """images per split"""
    split: str
    """how the splits came about, and their hash"""
    dataset: str
    unit: Literal["patient", "study", "image"]
    """the statistical unit of the test images"""
    history: tuple[Mapping[str, float], ...]
    """losses and val scores, epoch by epoch"""
    tested: tuple[str, ...] = ()
    """labels whose scores are averaged, as in score names; empty: written by an earlier version"""
    margin: float | None = None
    """smallest difference in the primary metric that matters; None: written by an earlier version"""
    derived_from: tuple[str, ...] = ()
    """datasets whose images this one re-releases"""

    @property
    def score(self) -> float | None:
        """The primary score; None where it is undefined."""
        return self.scores.get(f"test_{self.metric}")

    @property
    def val_score(self) -> float | None:
        """The primary metric on val, with the model of the chosen epoch; None where it is undefined."""
        return self.scores.get(f"best_val_{self.metric}")

    @property
    def backbone(self) -> str:
        """The architecture, which the canonical name of the init holds."""
        return self.init.rpartition("@")[2].split("+")[0]  # a file name may hold either sign

    @property
    def label(self) -> str:
        """Names the run for a message."""
        fold = "" if self.fold is None else f" fold {self.fold}"
        return f"{self.task} {self.init} seed {self.seed}{fold} ({self.digest[:8]})"

    @property
    def key(self) -> tuple[str, str, int, Any]:
        """Says which run of the benchmark this is."""
        return self.task, self.init, self.seed, self.fold


@dataclass(frozen=True, kw_only=True)
class Row:
    """The comparison of one initialization with the best on one task."""

    task: str
    init: str
    applicable: bool
    unit: Literal["seed", "fold"]
    """what one score stands for: a seed's run, or the mean over a fold's seeds"""
    expected: int
    """number of seeds or folds"""
    seeds: tuple[int, ...]
    """seeds (or folds) with a primary score"""
    undefined: tuple[int, ...]
    """those whose runs have no primary score"""
    missing: tuple[int, ...]
    """those without a run"""
    scores: tuple[float, ...]
    """one per seed (or fold), in the same order"""
    ratio: float
    """test images per training image"""
    val: float | None
    """mean primary score on val; None where a run lacks it"""
    summary: statistics.Summary | None
    """None unless every seed (or fold) has a score: an incomplete row is named, not averaged"""
    marks: tuple[str, ...]
    barred: bool = False
    """a run is contaminated and comparison.as_published is false: shown, and compared with nothing"""
    best: bool = False
    difference: float | None = None
    """mean minus the best mean"""
    test: ScoreTest | None = None
    separated: bool | None = None
    """None for the best itself and where no test is possible"""

    @property
    def compared(self) -> bool:
        """Says whether the row enters tests, ranks and answers: it has all its scores and is not barred."""
        return self.summary is not None and not self.barred


def collect(cells: Path) -> list[Cell]:
    """Reads every `<task>/<digest>/cell.json` below a folder, in a stable order.

    Raises:
        UserError: there is no cell, or one is corrupt, incomplete or holds a score that is not a number.
    """
    paths = [path for path in sorted(cells.glob("*/*/cell.json")) if not path.parent.name.startswith(".")]
    if not paths:
        raise UserError(
            f"looked for finished runs in {cells}/<task>/<digest>/cell.json, found none; run `finetune` first"
        )
    return sorted(map(_read, paths), key=lambda cell: (cell.task, cell.init, cell.seed, cell.fold or 0, cell.digest))


def select(cells: Sequence[Cell], benchmark: params.Benchmark) -> list[Cell]:
    """Keeps the runs of the benchmark and checks that they may stand in one table.

    Raises:
        UserError: no run is left, one is there twice, or runs that would be compared are mixed.
    """
    chosen = [c for c in cells if c.init in benchmark.inits and c.task in benchmark.tasks and c.seed in benchmark.seeds]
    if not chosen:
        there = ", ".join(sorted({f"{c.task} {c.init}" for c in cells}))
        raise UserError(f"none of the {len(cells)} finished runs belongs to the benchmark; found: {there}")
    _refuse_duplicates(chosen)
    _refuse_mixed(chosen, "protocol version", lambda c: c.protocol_version, lambda c: "the benchmark")
    for name, value in (
        ("manifest digest", lambda c: c.manifest_digest),
        ("device class", lambda c: c.device),
        ("primary metric", lambda c: c.metric),
    ):
        _refuse_mixed(chosen, name, value, lambda c: f"task {c.task}")
    _refuse_mixed(chosen, "set of undefined labels", lambda c: c.undefined, lambda c: f"task {c.task}{_fold(c)}")
    for name, value in (("set of parameters", lambda c: c.params), ("set of weights", lambda c: c.weights_sha256)):
        _refuse_mixed(chosen, name, value, lambda c: f"{c.init} on task {c.task}")
    return chosen


def _fold(cell: Cell) -> str:
    return "" if cell.fold is None else f", fold {cell.fold}"


def compare(cells: Sequence[Cell], benchmark: params.Benchmark, comparison: params.Comparison) -> list[Row]:
    """Compares every initialization with the best of its task, by task and init in the benchmark's order."""
    index = {cell.key: cell for cell in cells}
    rows: list[Row] = []
    for task in benchmark.tasks:
        column = [_row(task, init, benchmark.seeds, index, comparison.as_published) for init in benchmark.inits]
        rows += _against_best(column, comparison)
    return rows


def _read(path: Path) -> Cell:
    try:
        tree = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is corrupt ({error}); remove its folder and run `finetune` again") from error
    missing = [field.name for field in fields(Cell) if not isinstance(tree, dict) or _required(field, tree)]
    if missing:
        raise UserError(f"{path} is not a finished run: it lacks {', '.join(missing)}")
    for name, score in dict(tree["scores"]).items():
        if isinstance(score, float) and score - score != 0:  # nan or infinity
            raise UserError(f"{path}: score {name} is {score}; an undefined score must be absent, not a stand-in")
    try:
        return records.convert({field.name: tree[field.name] for field in fields(Cell) if field.name in tree}, Cell)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _required(field: Field[Any], tree: Mapping[str, Any]) -> bool:
    return field.name not in tree and field.default is MISSING


def _refuse_duplicates(cells: Sequence[Cell]) -> None:
    for (task, init, seed, fold), count in Counter(c.key for c in cells).items():
        if count > 1:
            digests = ", ".join(c.digest[:8] for c in cells if c.key == (task, init, seed, fold))
            raise UserError(
                f"task {task}, init {init}, seed {seed} must be one run, found {count} (digests {digests}); "
                "remove all but one"
            )


def _refuse_mixed(cells: Sequence[Cell], name: str, value: Callable[[Cell], Any], group: Callable[[Cell], str]) -> None:
    """Refuses cells of one group that differ in a value; both are functions of a cell."""
    first: dict[str, Cell] = {}
    for cell in cells:
        other = first.setdefault(group(cell), cell)
        if value(cell) != value(other):
            mine, its = _difference(value(cell), value(other))
            raise UserError(
                f"{group(cell)}: all runs must have one {name}, got {its} ({other.label}) and {mine} ({cell.label}); "
                "repeat or remove the odd ones"
            )


def _difference(one: Any, two: Any) -> tuple[str, str]:
    """Words two unequal values; of two mappings only the items that differ."""
    if not isinstance(one, Mapping):
        return as_word(one), as_word(two)
    keys = sorted(key for key in one.keys() | two.keys() if one.get(key) != two.get(key))
    mine, its = (", ".join(f"{key}={as_word(side.get(key))}" for key in keys) for side in (one, two))
    return mine, its


def _row(
    task: str, init: str, seeds: Sequence[int], index: Mapping[tuple[str, str, int, Any], Cell], as_published: bool
) -> Row:
    folds = max((cell.folds for cell in index.values() if cell.task == task), default=0)
    applicable = task not in seen(init)
    known = index if applicable else {}
    groups = {fold: [known.get((task, init, seed, fold)) for seed in seeds] for fold in range(folds)}
    groups = groups or {seed: [known.get((task, init, seed, None))] for seed in seeds}
    runs = {unit: [run for run in group if run is not None] for unit, group in groups.items()}
    whole = {unit: group for unit, group in runs.items() if len(group) == len(groups[unit])}
    scored = {unit: [run.score for run in group if run.score is not None] for unit, group in whole.items()}
    scores = {unit: sum(found) / len(found) for unit, found in scored.items() if len(found) == len(groups[unit])}
    every = [run for group in runs.values() for run in group]
    marks = {mark for run in every for mark in run.marks}
    return Row(
        task=task,
        init=init,
        applicable=applicable,
        unit="fold" if folds else "seed",
        expected=len(groups),
        seeds=tuple(scores),
        undefined=tuple(unit for unit in whole if unit not in scores),
        missing=tuple(unit for unit in groups if unit not in whole and applicable),
        scores=tuple(scores.values()),
        ratio=every[0].counts["test"] / every[0].counts["train"] if every else 0.0,
        val=_val(every) if every and len(scores) == len(groups) else None,
        summary=statistics.summary(list(scores.values())) if scores and len(scores) == len(groups) else None,
        marks=tuple(sorted(marks)),
        barred="contaminated" in marks and not as_published,
    )


def _val(runs: Sequence[Cell]) -> float | None:
    scores = [run.val_score for run in runs if run.val_score is not None]
    return sum(scores) / len(scores) if len(scores) == len(runs) else None


def _against_best(column: Sequence[Row], comparison: params.Comparison) -> list[Row]:
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
    if row.unit == "fold":
        return statistics.corrected_t_test(row.scores, other.scores, ratio=row.ratio, alpha=comparison.alpha)
    if comparison.test == "wilcoxon":
        return randomization.wilcoxon_test(row.scores, other.scores, alpha=comparison.alpha)
    if comparison.test == "sign-flip":
        generator = np.random.default_rng(0)
        return randomization.permutation_test(
            row.scores, other.scores, paired=True, generator=generator, alpha=comparison.alpha
        )
    return statistics.t_test(row.scores, other.scores, test=comparison.test, alpha=comparison.alpha)


def first_lines(cells: Iterable[Cell]) -> list[str]:
    """Gives the sentences that stand over everything made from these runs."""
    marks = {mark for cell in cells for mark in cell.marks}
    known = [line for mark, line in FIRST_LINES.items() if mark in marks]
    return known + [f"Marked: {mark}." for mark in sorted(marks - FIRST_LINES.keys())]


def as_word(value: object) -> str:
    """Writes a parameter as a table shows it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_word, value))}]"
    return str(value)


def kind_of(cell: Cell) -> str:
    """Says which section of the parameters a run was trained under."""
    return "segmentation" if cell.kind == "segmentation" else "classification"


def eligible(rows: Iterable[Row]) -> list[Row]:
    """Takes the rows that enter tests, ranks and answers."""
    return [row for row in rows if row.compared]


def of_task(cells: Iterable[Cell], task: str) -> list[Cell]:
    """Takes the runs of a task."""
    return [cell for cell in cells if cell.task == task]


def shared_marks(cells: Sequence[Cell]) -> set[str]:
    """Finds the marks of all runs of a task: they stand in its column's title, others beside a score."""
    return set.intersection(*(set(cell.marks) for cell in cells)) if cells else set()
