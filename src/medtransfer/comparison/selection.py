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
from medtransfer.results.away import read_after_test
from medtransfer.results.result import CONTAMINATED, FACTS, Facts, Result, facts_of, find_results, of_task, read_result
from medtransfer.weights.names import seen


def _minor(library: str) -> Callable[[Result], str]:
    """Reads the first two numbers of a library's version."""
    return lambda result: ".".join(result.versions.get(library, "unknown").split(".")[:2])


CONDITIONS: dict[str, Callable[[Result], Any]] = {
    "device": lambda result: result.device,
    "arithmetic": lambda result: arithmetic.kind(result.arithmetic),
    "precision": lambda result: result.params.get("engine.precision"),
    "torch": _minor("torch"),
    "timm": _minor("timm"),
}
"""what a seed's runs must share, so that their differences are those of the initializations"""


def collect(results: Path, root: Path) -> list[Result]:
    """Reads every `<task>/<digest>/cell.json` below a folder, in a stable order.

    Args:
        results: the folder.
        root: the repository's top folder, where tasks are described.

    Raises:
        UserError: there is no result, or one is corrupt, incomplete or holds a score that is not a number.
    """
    found = look_up(list(map(read_result, find_results(results))), results, root)
    return sorted(found, key=lambda result: (result.task, result.init, result.seed, result.fold or 0, result.digest))


def look_up(results: Sequence[Result], folder: Path, root: Path) -> list[Result]:
    """Adds to what was measured what is declared today.

    Args:
        results: as `read_result` reads them.
        folder: of finished runs; there stands what is declared of tasks that are not described here.
        root: the repository's top folder, where tasks are described.
    """
    names = dict.fromkeys(result.task for result in results)
    facts = {name: found for name in names if (found := _facts(name, folder, root)) is not None}
    own = {result.dataset: facts[result.task].derived_from for result in results if result.task in facts}
    derived = {**catalog.derivations(root), **own}
    return [_with(result, facts.get(result.task), derived) for result in results]


def _with(result: Result, facts: Facts | None, derived: Derived) -> Result:
    images = tuple(sorted(origins(result.dataset, derived)))
    marks = (*result.marks, *((CONTAMINATED,) if _contaminated(result, derived) else ()))
    if facts is None:
        return replace(result, marks=marks, images=images)
    return replace(result, marks=marks, images=images, metric=facts.metric, margin=facts.margin)


def _contaminated(result: Result, derived: Derived) -> bool:
    held = result.listed is not None and result.listed.held > 0
    return held or contaminated(seen(result.init, result.spared), result.dataset, derived)


def _facts(task: str, folder: Path, root: Path) -> Facts | None:
    """Looks up what is declared of a task: here or, where its description is not, beside its runs."""
    if task in catalog.names(root):
        return facts_of(catalog.lookup(task, root))
    path = folder / task / FACTS
    advice = "remove it: the next `benchmark` where the task is described writes it again; or get it by `dvc pull`"
    return schema.read_json(path, Facts, "description of a task", advice) if path.is_file() else None


def select(
    results: Sequence[Result],
    benchmark: params.Benchmark,
    recipe: str = "fixed",
    unbalanced: Sequence[str] = (),
    protocol: str = "finetune",
    fraction: str = "1",
) -> list[Result]:
    """Keeps the benchmark's runs of one recipe, protocol and fraction and checks that they may stand in one table.

    `unbalanced` names the conditions of `CONDITIONS` in which the runs of one seed may differ.

    Raises:
        UserError: no run is left, one is there twice, or runs that would be compared are mixed.
    """
    wanted = (recipe, protocol, fraction)
    chosen = [c for c in results if (c.recipe, c.protocol, c.fraction) == wanted and belongs(c, benchmark)]
    if not chosen:
        there = ", ".join(
            sorted({f"{c.task} {c.init} ({c.recipe} recipe, {c.protocol}, {c.fraction})" for c in results})
        )
        raise UserError(f"none of the {len(results)} finished runs belongs to the benchmark; found: {there}")
    _refuse_duplicates(chosen)
    _refuse_mixed(chosen, "protocol version", lambda c: c.protocol_version, lambda c: "the benchmark")
    _refuse_mixed(chosen, "way of splitting", lambda c: c.part.split(" ")[0] or "one split", lambda c: f"task {c.task}")
    _refuse_mixed(
        chosen, "manifest digest", lambda c: c.manifest_digest, lambda c: f"task {c.task}{_part(c) if c.drawn else ''}"
    )
    for task in dict.fromkeys(result.task for result in chosen):
        _refuse_unmeasured(of_task(chosen, task))
    refused = {condition: runs for condition, runs in imbalances(chosen).items() if condition not in unbalanced}
    if refused:
        raise UserError(
            f"runs of one task and seed must have one {' and one '.join(refused)}, else a contrast of initializations "
            f"is one of conditions too; got {'; '.join(word for runs in refused.values() for word in runs)}. Repeat "
            f"the odd ones, or allow it by name: comparison.unbalanced: [{', '.join((*unbalanced, *refused))}]"
        )
    _refuse_mixed(chosen, "set of undefined labels", lambda c: c.undefined, lambda c: f"task {c.task}{_part(c)}")
    for name, value in (("set of parameters", _trained_under), ("set of weights", lambda c: c.weights_sha256)):
        _refuse_mixed(chosen, name, value, lambda c: f"{c.init} on task {c.task}")
    groups = image_groups({result.dataset: result.images for result in chosen})
    return [replace(result, group=groups[result.dataset]) for result in chosen]


def _trained_under(result: Result) -> Mapping[str, Any]:
    return {name: value for name, value in result.params.items() if not read_after_test(name)}


def imbalances(results: Sequence[Result]) -> dict[str, list[str]]:
    """Names the conditions that differ between the initializations of one task and seed, and one example per task."""
    found: dict[str, dict[str, str]] = {}
    first: dict[tuple[str, int, Any], Result] = {}
    for result in results:
        other = first.setdefault((result.task, result.seed, result.fold), result)
        for condition, value in CONDITIONS.items():
            if value(result) != value(other):
                words = f"{value(other)} ({other.label}) and {value(result)} ({result.label})"
                found.setdefault(condition, {}).setdefault(result.task, words)
    return {condition: list(runs.values()) for condition, runs in found.items()}


def belongs(result: Result, benchmark: params.Benchmark) -> bool:
    """Says whether a run is one of the benchmark's, under whichever recipe, protocol and fraction of it."""
    split = not result.drawn or result.fold in benchmark.splits
    split = split and result.protocol in benchmark.protocols and result.fraction in benchmark.fractions
    return (
        split and result.init in benchmark.inits and result.task in benchmark.tasks and result.seed in benchmark.seeds
    )


def _part(result: Result) -> str:
    return f", {result.part}" if result.part else ""


def _refuse_unmeasured(results: Sequence[Result]) -> None:
    """Refuses runs of a task of which nothing is declared, or whose metric they did not measure."""
    first = results[0]
    if not first.metric:
        raise UserError(
            f"task {first.task}: looked for its metric and margin in data/raw/{first.task}/{catalog.FILE} and beside "
            f"its runs in {first.task}/{FACTS}, found neither; restore the description, or take the task out of "
            "benchmark.tasks"
        )
    lacking = [result.label for result in results if result.metric not in result.measured]
    if lacking:
        common = sorted(set.intersection(*(set(result.measured) for result in results)))
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise UserError(
            f"task {first.task}: its metric is {first.metric}, which {len(lacking)} of its {len(results)} runs did not "
            f"measure: {', '.join(lacking[:3])}{more}. Run `benchmark`, which trains them again, or choose a metric "
            f"that all have: {', '.join(common)}"
        )


def _refuse_duplicates(results: Sequence[Result]) -> None:
    for (task, init, seed, fold), count in Counter(c.key for c in results).items():
        if count > 1:
            digests = ", ".join(c.digest[:8] for c in results if c.key == (task, init, seed, fold))
            raise UserError(
                f"task {task}, init {init}, seed {seed} must be one run, found {count} (digests {digests}); "
                "remove all but one"
            )


def _refuse_mixed(
    results: Sequence[Result], name: str, value: Callable[[Result], Any], group: Callable[[Result], str]
) -> None:
    """Refuses results of one group that differ in a value; both are functions of a result."""
    first: dict[str, Result] = {}
    for result in results:
        other = first.setdefault(group(result), result)
        if value(result) != value(other):
            mine, its = _difference(value(result), value(other))
            raise UserError(
                f"{group(result)}: all runs must have one {name}, got {its} ({other.label}) and {mine} "
                f"({result.label}); repeat or remove the odd ones"
            )


def _difference(one: Any, two: Any) -> tuple[str, str]:
    """Words two unequal values; of two mappings only the items that differ."""
    if not isinstance(one, Mapping):
        return as_word(one), as_word(two)
    keys = sorted(key for key in one.keys() | two.keys() if one.get(key) != two.get(key))
    mine, its = (", ".join(f"{key}={as_word(side.get(key))}" for key in keys) for side in (one, two))
    return mine, its
