"""Finished runs, read from files: which of them are the benchmark's, and whether they may stand in one table.

What is missing, undefined, duplicated or mixed is named or refused. A file holds what was measured. What is declared
of a task and of what weights have seen is looked up when runs are read, so that a change of it needs no training.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from medtransfer import params
from medtransfer.core import arithmetic, files, schema
from medtransfer.core.errors import UserError
from medtransfer.data import catalog
from medtransfer.data.tasks import Derived, Task, contaminated, image_groups, measured, origins
from medtransfer.weights.names import seen

FIRST_LINES = {
    "synthetic": "Synthetic phantoms: this tests the software and says nothing about weights.",
    "partial": "Partial data: images of a dataset are missing, so no number stands beside a published one.",
    "contaminated": "Contaminated: an initialization was pre-trained on the dataset that a test set is taken from.",
    "patients unknown": "Patients unknown: images of one patient may be in several splits; the unit is the image.",
}
"""mark -> the sentence that stands over every table and figure with such a run"""

CONTAMINATED = "contaminated"
FACTS = "facts.json"
"""beside a task's runs: what was declared of it when they were put there, for who has not its `task.yaml`"""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is declared of a task, and not measured."""

    metric: str
    margin: float
    derived_from: tuple[str, ...]


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
    kind: Literal["multilabel", "binary", "multiclass", "segmentation"]
    marks: tuple[str, ...]
    """of the data, such as `synthetic` and `partial`, and, looked up, `contaminated`"""
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
    measured: tuple[str, ...] = ()
    """metrics of the kind that the run measured, also where their score came out undefined"""
    spared: tuple[str, ...] = ()
    """datasets of the init's chain that were searched for whoever this task tests, and left them out"""
    recipe: str = "fixed"
    """or `tuned`: trained with the values that the study of init and task found"""
    arithmetic: Mapping[str, str] = field(default_factory=dict)
    """instructions, threads and versions, see `arithmetic.in_force`; empty: written by an earlier version"""
    study: Mapping[str, Any] = field(default_factory=dict)
    """where tuned values are from: study, trial, trials and images spent"""
    parts: Mapping[str, str] = field(default_factory=dict)
    """file beside it -> its hash; empty: written by an earlier version"""
    metric: str = ""
    """looked up: primary score without `test_`"""
    margin: float | None = None
    """looked up: smallest difference in the primary metric that matters"""
    images: tuple[str, ...] = ()
    """looked up: the dataset, and those that its images are taken from"""
    group: str = ""
    """one name for all tasks of the compared runs that share images"""

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
    "arithmetic": lambda cell: arithmetic.kind(cell.arithmetic),
    "precision": lambda cell: cell.params.get("engine.precision"),
    "torch": _minor("torch"),
    "timm": _minor("timm"),
}
"""what a seed's runs must share, so that their differences are those of the initializations"""


LOOKED_UP = ("metric", "margin", "images", "group")
"""fields that no file decides; earlier versions wrote some"""


def collect(cells: Path, root: Path) -> list[Cell]:
    """Reads every `<task>/<digest>/cell.json` below a folder, in a stable order.

    Args:
        cells: the folder.
        root: the repository's top folder, where tasks are described.

    Raises:
        UserError: there is no cell, or one is corrupt, incomplete or holds a score that is not a number.
    """
    paths = [path for path in sorted(cells.glob("*/*/cell.json")) if not path.parent.name.startswith(".")]
    if not paths:
        raise UserError(
            f"looked for finished runs in {cells}/<task>/<digest>/cell.json, found none; run `finetune` first"
        )
    found = _look_up(list(map(read, paths)), cells, root)
    return sorted(found, key=lambda cell: (cell.task, cell.init, cell.seed, cell.fold or 0, cell.digest))


def _look_up(cells: Sequence[Cell], folder: Path, root: Path) -> list[Cell]:
    """Adds to what was measured what is declared today."""
    names = dict.fromkeys(cell.task for cell in cells)
    facts = {name: found for name in names if (found := _facts(name, folder, root)) is not None}
    own = {cell.dataset: facts[cell.task].derived_from for cell in cells if cell.task in facts}
    derived = {**catalog.derivations(root), **own}
    return [_with(cell, facts.get(cell.task), derived) for cell in cells]


def _with(cell: Cell, facts: Facts | None, derived: Derived) -> Cell:
    images = tuple(sorted(origins(cell.dataset, derived)))
    marks = (*cell.marks, *((CONTAMINATED,) if _contaminated(cell, derived) else ()))
    if facts is None:
        return replace(cell, marks=marks, images=images)
    return replace(cell, marks=marks, images=images, metric=facts.metric, margin=facts.margin)


def _contaminated(cell: Cell, derived: Derived) -> bool:
    return contaminated(seen(cell.init, cell.spared), cell.dataset, derived)


def _facts(task: str, folder: Path, root: Path) -> Facts | None:
    """Looks up what is declared of a task: here or, where its description is not, beside its runs."""
    if task in catalog.names(root):
        return facts_of(catalog.lookup(task, root))
    path = folder / task / FACTS
    advice = "remove it: the next `benchmark` where the task is described writes it again; or get it by `dvc pull`"
    return schema.read_json(path, Facts, "description of a task", advice) if path.is_file() else None


def facts_of(task: Task) -> Facts:
    """Takes what is declared of a task."""
    return Facts(metric=task.metric, margin=task.margin, derived_from=task.derived_from)


def write_facts(task: Task, folder: Path) -> None:
    """Puts beside a task's runs what is declared of it, for those who get the runs and have not its description."""
    files.write_text(folder / FACTS, json.dumps(asdict(facts_of(task)), indent=1) + "\n")


def predictions(cell: Cell, folder: Path) -> Path:
    """Finds the test predictions of a run below the folder of finished runs; checked once per process.

    Raises:
        UserError: they are missing, or not those that the run wrote.
    """
    path = folder / cell.task / cell.digest / "predictions.parquet"
    if not path.is_file():
        raise UserError(
            f"looked for the test predictions of {cell.label} in {path}, found none; run `benchmark`, which brings "
            "them here"
        )
    if path.name in cell.parts and not files.checked(path, cell.parts[path.name]):
        raise UserError(
            f"{path} is damaged: it is not what {cell.label} wrote; run `benchmark`, which brings it here again"
        )
    return path


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
    for task in dict.fromkeys(cell.task for cell in chosen):
        _refuse_unmeasured(of_task(chosen, task))
    refused = {condition: runs for condition, runs in imbalances(chosen).items() if condition not in unbalanced}
    if refused:
        raise UserError(
            f"runs of one task and seed must have one {' and one '.join(refused)}, else a contrast of initializations "
            f"is one of conditions too; got {'; '.join(word for runs in refused.values() for word in runs)}. Repeat "
            f"the odd ones, or allow it by name: comparison.unbalanced: [{', '.join((*unbalanced, *refused))}]"
        )
    _refuse_mixed(chosen, "set of undefined labels", lambda c: c.undefined, lambda c: f"task {c.task}{_part(c)}")
    for name, value in (("set of parameters", lambda c: c.params), ("set of weights", lambda c: c.weights_sha256)):
        _refuse_mixed(chosen, name, value, lambda c: f"{c.init} on task {c.task}")
    groups = image_groups({cell.dataset: cell.images for cell in chosen})
    return [replace(cell, group=groups[cell.dataset]) for cell in chosen]


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


def read(path: Path) -> Cell:
    """Reads what a run measured, without what is looked up.

    Raises:
        UserError: the file is corrupt, incomplete or holds a score that is not a number.
    """
    try:
        tree = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is corrupt ({error}); remove its folder and run `finetune` again") from error
    missing = [field.name for field in fields(Cell) if not isinstance(tree, dict) or _required(field, tree)]
    if missing:
        raise UserError(f"{path} is not a finished run: it lacks {', '.join(missing)}")
    for name, score in dict(tree["scores"]).items():
        if isinstance(score, float) and score - score != 0:  # nan or infinity
            raise UserError(f"{path}: score {name} is {score}; an undefined score must be absent, not a stand-in")
    try:
        names = [field.name for field in fields(Cell) if field.name not in LOOKED_UP]
        cell: Cell = schema.convert({name: tree[name] for name in names if name in tree}, Cell)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return cell if "measured" in tree else _of_earlier(cell, tree)


def _of_earlier(cell: Cell, tree: Mapping[str, Any]) -> Cell:
    """Reads from a file of an earlier version, which held facts, what was measured."""
    ordinal = tree.get("metric") == "kappa" or "test_kappa" in cell.scores
    spared: tuple[str, ...] = ()
    if CONTAMINATED not in cell.marks:  # else what its chain saw was not searched, or not in vain
        own = origins(cell.dataset, {cell.dataset: tree.get("derived_from") or ()})
        chain = cell.init.rpartition("@")[2].split("+")[1:]
        spared = tuple(dataset for dataset in chain if dataset in own - {cell.dataset})
    marks = tuple(mark for mark in cell.marks if mark != CONTAMINATED)
    return replace(cell, marks=marks, spared=spared, measured=measured(cell.kind, ordinal))


def _refuse_unmeasured(cells: Sequence[Cell]) -> None:
    """Refuses runs of a task of which nothing is declared, or whose metric they did not measure."""
    first = cells[0]
    if not first.metric:
        raise UserError(
            f"task {first.task}: looked for its metric and margin in data/raw/{first.task}/{catalog.FILE} and beside "
            f"its runs in {first.task}/{FACTS}, found neither; restore the description, or take the task out of "
            "benchmark.tasks"
        )
    lacking = [cell.label for cell in cells if cell.metric not in cell.measured]
    if lacking:
        common = sorted(set.intersection(*(set(cell.measured) for cell in cells)))
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise UserError(
            f"task {first.task}: its metric is {first.metric}, which {len(lacking)} of its {len(cells)} runs did not "
            f"measure: {', '.join(lacking[:3])}{more}. Run `benchmark`, which trains them again, or choose a metric "
            f"that all have: {', '.join(common)}"
        )


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
