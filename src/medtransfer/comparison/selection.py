"""Which finished runs are the benchmark's, and whether they may stand in one table.

What is missing, duplicated or mixed is named or refused. What is declared of a task, and of what weights have seen,
is looked up when runs are read, so that a change of it needs no training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medtransfer import params
from medtransfer.comparison.wording import as_word
from medtransfer.core import arithmetic, schema
from medtransfer.core.errors import UserError
from medtransfer.data import catalog
from medtransfer.data.tasks import Derived, contaminated, image_groups, origins
from medtransfer.results.result import CONTAMINATED, FACTS, Cell, Facts, facts_of, of_task, read
from medtransfer.weights.names import seen


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
