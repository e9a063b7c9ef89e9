"""Finished runs, read from files: which of them are the benchmark's, and whether they may stand in one table.

What is missing, undefined, duplicated or mixed is named or refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from medtransfer import params, records
from medtransfer.errors import UserError

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
    """of a cross-validation, or the number of a drawn split; None: one split"""
    folds: int
    """runs of the cross-validation; 0: one split, or drawn ones"""
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
    recipe: str = "fixed"
    """or `tuned`: trained with the values that the study of init and task found"""
    study: Mapping[str, Any] = field(default_factory=dict)
    """where tuned values are from: study, trial, trials and images spent"""

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
        return " ".join(filter(None, [self.task, self.init, f"seed {self.seed}", self.part, f"({self.digest[:8]})"]))

    @property
    def drawn(self) -> bool:
        """Says whether it is of one of several drawn splits."""
        return self.fold is not None and not self.folds

    @property
    def part(self) -> str:
        """Names the fold or the drawn split, if any."""
        return "" if self.fold is None else f"{'split' if self.drawn else 'fold'} {self.fold}"

    @property
    def key(self) -> tuple[str, str, int, Any]:
        """Says which run of the benchmark this is."""
        return self.task, self.init, self.seed, self.fold


def _minor(library: str) -> Callable[[Cell], str]:
    """Reads the first two numbers of a library's version."""
    return lambda cell: ".".join(cell.versions.get(library, "unknown").split(".")[:2])


CONDITIONS: dict[str, Callable[[Cell], Any]] = {
    "device": lambda cell: cell.device,
    "precision": lambda cell: cell.params.get("engine.precision"),
    "torch": _minor("torch"),
    "timm": _minor("timm"),
}
"""what a seed's runs must share, so that their differences are those of the initializations"""


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


def select(
    cells: Sequence[Cell], benchmark: params.Benchmark, recipe: str = "fixed", unbalanced: Sequence[str] = ()
) -> list[Cell]:
    """Keeps the benchmark's runs of one recipe and checks that they may stand in one table.

    `unbalanced` names the conditions of `CONDITIONS` in which the runs of one seed may differ.

    Raises:
        UserError: no run is left, one is there twice, or runs that would be compared are mixed.
    """
    chosen = [cell for cell in cells if cell.recipe == recipe and belongs(cell, benchmark)]
    if not chosen:
        there = ", ".join(sorted({f"{c.task} {c.init} ({c.recipe} recipe)" for c in cells}))
        raise UserError(f"none of the {len(cells)} finished runs belongs to the benchmark; found: {there}")
    _refuse_duplicates(chosen)
    _refuse_mixed(chosen, "protocol version", lambda c: c.protocol_version, lambda c: "the benchmark")
    _refuse_mixed(chosen, "way of splitting", lambda c: c.part.split(" ")[0] or "one split", lambda c: f"task {c.task}")
    _refuse_mixed(
        chosen, "manifest digest", lambda c: c.manifest_digest, lambda c: f"task {c.task}{_part(c) if c.drawn else ''}"
    )
    _refuse_mixed(chosen, "primary metric", lambda c: c.metric, lambda c: f"task {c.task}")
    for condition, runs in imbalances(chosen).items():
        if condition not in unbalanced:
            raise UserError(
                f"runs of one task and seed must have one {condition}, else a contrast of initializations is one of "
                f"conditions too; got {'; '.join(runs)}. Repeat the odd ones, or allow it by name: "
                f"comparison.unbalanced: [{condition}]"
            )
    _refuse_mixed(chosen, "set of undefined labels", lambda c: c.undefined, lambda c: f"task {c.task}{_part(c)}")
    for name, value in (("set of parameters", lambda c: c.params), ("set of weights", lambda c: c.weights_sha256)):
        _refuse_mixed(chosen, name, value, lambda c: f"{c.init} on task {c.task}")
    return chosen


def imbalances(cells: Sequence[Cell]) -> dict[str, list[str]]:
    """Names the conditions that differ between the initializations of one task and seed, and one example per task."""
    found: dict[str, dict[str, str]] = {}
    first: dict[tuple[str, int, Any], Cell] = {}
    for cell in cells:
        other = first.setdefault((cell.task, cell.seed, cell.fold), cell)
        for condition, value in CONDITIONS.items():
            if value(cell) != value(other):
                words = f"{value(other)} ({other.label}) and {value(cell)} ({cell.label})"
                found.setdefault(condition, {}).setdefault(cell.task, words)
    return {condition: list(runs.values()) for condition, runs in found.items()}


def belongs(cell: Cell, benchmark: params.Benchmark) -> bool:
    """Says whether a run is one of the benchmark's, under whichever recipe."""
    split = not cell.drawn or cell.fold in benchmark.splits
    return split and cell.init in benchmark.inits and cell.task in benchmark.tasks and cell.seed in benchmark.seeds


def _part(cell: Cell) -> str:
    return f", {cell.part}" if cell.part else ""


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
    return field.name not in tree and field.default is field.default_factory is MISSING


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


def of_task(cells: Iterable[Cell], task: str) -> list[Cell]:
    """Takes the runs of a task."""
    return [cell for cell in cells if cell.task == task]


def shared_marks(cells: Sequence[Cell]) -> set[str]:
    """Finds the marks of all runs of a task: they stand in its column's title, others beside a score."""
    return set.intersection(*(set(cell.marks) for cell in cells)) if cells else set()
