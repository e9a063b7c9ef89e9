"""The report: finished runs -> statistics -> tables, a figure and a page.

Reads only the cells that `finetune` wrote (one `cell.json` per run) and writes only below the results folder.
Nothing is averaged silently: what is missing, undefined, duplicated or mixed is named or refused.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from medtransfer import files, params, statistics, tasks
from medtransfer.errors import UserError

FIRST_LINES = {
    "synthetic": "Synthetic phantoms: this tests the software and says nothing about weights.",
    "partial": "Partial data: images of a dataset are missing, so no number stands beside a published one.",
    "contaminated": "Contaminated: an initialization was pre-trained on images of a test set.",
}
"""mark -> the sentence that stands over every table and figure with such a run"""

METRICS = {
    "auc": "AUC",
    "average_precision": "average precision",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "brier": "Brier score",
    "dice": "Dice",
    "dice_positives": "Dice on positives",
    "dice_pooled": "pooled Dice",
    "false_positive_rate": "false-positive rate",
    "native_dice": "Dice, native size",
    "native_dice_positives": "Dice on positives, native size",
    "native_dice_pooled": "pooled Dice, native size",
}
"""scores between 0 and 1 that the report tabulates; all scores are in `runs.csv`"""

NOT_DEVIATIONS = ("benchmark.", "comparison.", "execution.", "phantoms.", "data.phantoms", "data.partial")
"""parameters that say where and how much is run, not how: a difference is no deviation from a protocol"""

UNSAID = (
    ("", "How many runs stand behind each mean: the published marks are consistent with about 5 or 10, by task."),
    ("", "Which std and which t-test: here the sample std (ddof 1); the authors' code computes ddof 0."),
    ("", "Seeds: the authors' code sets none; here every random stream has one."),
    ("", "Hardware and run time: not stated; the authors' code computes in fp32."),
    ("", "Validation images: not augmented here; the authors' segmentation code augments them as in training."),
    ("classification", "Input normalization of classification: ImageNet's in the authors' code, for every init."),
    ("segmentation", "Input normalization of segmentation: by default only a division by 255 in the authors' code."),
    ("segmentation", "Which Dice: here the mean per image, 1.0 when target and prediction are empty."),
    ("", "Order of geometric changes: the authors' code rotates after cropping, which leaves black corners."),
    ("", "Image size before cropping: the authors crop from the original, a smaller cache enlarges small crops."),
    ("chestxray14", "chestxray14: how val patients were drawn; here a seeded, patient-disjoint 13% of train_val."),
    ("shenzhen", "shenzhen: how the split was drawn; the authors publish lists, here a seeded, patient-disjoint draw."),
    ("montgomery", "montgomery: the split; here a seeded, patient-disjoint draw."),
    ("drive", "drive: size and validation share of the augmented copy used; here the original files, 4 of 20 for val."),
    ("inat2021", "Which weights `inat2021` is: trained from scratch, or started from ImageNet."),
)  # fmt: skip
"""(what it concerns: "" = all, a kind, a dataset or an initialization; what the paper does not say and what we do)"""

BEST, CLOSE, APART = "#0072B2", "#E69F00", "#7F7F7F"  # Okabe and Ito: distinct to colour-blind readers
CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; max-width: 68rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: .3rem } h2 { font-size: 1.1rem; margin-top: 2.2rem }
.mark { background: #fff3cd; border-left: 4px solid #e69f00; padding: .5rem .8rem; margin: .5rem 0 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .8rem; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top }
th { border-bottom: 2px solid #888 } td + td { white-space: nowrap }
p.note, li { font-size: .9rem; color: #444; margin: .25rem 0 } img { max-width: 100% }
"""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One finished run, as `finetune` wrote it."""

    digest: str
    verb: str
    init: str
    """canonical name"""
    task: str
    seed: int
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

    @property
    def score(self) -> float | None:
        """The primary score; None where it is undefined."""
        return self.scores.get(f"test_{self.metric}")

    @property
    def backbone(self) -> str:
        """The architecture, which the canonical name of the init holds."""
        return self.init.rpartition("@")[2].split("+")[0]  # a file name may hold either sign

    @property
    def label(self) -> str:
        """Names the run for a message."""
        return f"{self.task} {self.init} seed {self.seed} ({self.digest[:8]})"


@dataclass(frozen=True, kw_only=True)
class Row:
    """The comparison of one initialization with the best on one task."""

    task: str
    init: str
    applicable: bool
    seeds: tuple[int, ...]
    """with a primary score"""
    undefined: tuple[int, ...]
    """seeds whose run has no primary score"""
    missing: tuple[int, ...]
    """seeds without a run"""
    scores: tuple[float, ...]
    """one per seed, in the same order"""
    summary: statistics.Summary | None
    marks: tuple[str, ...]
    best: bool = False
    difference: float | None = None
    """mean minus the best mean"""
    test: statistics.TTest | None = None
    separated: bool | None = None
    """None for the best itself and where no test is possible"""


@dataclass(frozen=True)
class Entry:
    """Text of a table cell; the best of its column stands out."""

    text: str
    best: bool = False


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table before it is written in some language."""

    header: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]


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
    return sorted(map(_read, paths), key=lambda cell: (cell.task, cell.init, cell.seed, cell.digest))


def write(
    cells: Path, benchmark: params.Benchmark, comparison: params.Comparison, published: params.Params, out: Path
) -> str:
    """Compares the benchmark's runs and writes `runs.csv`, `comparison.csv` and `report/` below `out`.

    Args:
        cells: folder of finished runs.
        benchmark: the expected runs, with canonical init names; other runs in the folder are named and left out.
        comparison: test and alpha.
        published: the published protocol, against which deviations are listed.
        out: results folder.

    Returns:
        The report as Markdown.

    Raises:
        UserError: cells are corrupt, duplicated or mixed.
    """
    found = collect(cells)
    chosen = select(found, benchmark)
    rows = compare(chosen, benchmark, comparison)
    sections = _sections(chosen, rows, benchmark, comparison, published, len(found) - len(chosen))
    picture = _png(figure(chosen, rows, benchmark))
    markdown = _markdown(_first_lines(chosen), sections)
    _save(out / "runs.csv", _csv(_run_records(chosen)))
    _save(out / "comparison.csv", _csv(_comparison_records(chosen, rows, comparison)))
    _save(out / "report" / "comparison.png", picture)
    _save(out / "report" / "comparison.md", markdown)
    _save(out / "report" / "index.html", _page(_first_lines(chosen), sections, picture))
    return markdown


def console_table(cells: Sequence[Cell], benchmark: params.Benchmark, comparison: params.Comparison) -> RenderableType:
    """Lays the comparison out for the terminal: one row per initialization, one column per task."""
    chosen = select(cells, benchmark)
    rows = compare(chosen, benchmark, comparison)
    grid = _score_grid(chosen, rows, benchmark)
    table = Table()
    for index, title in enumerate(grid.header):
        table.add_column(Text(title), justify="right" if index else "left", no_wrap=not index)
    for line in grid.rows:
        table.add_row(*(Text(entry.text, style="bold" if entry.best else "") for entry in line))
    notes = _score_notes(chosen, rows, benchmark, comparison, len(cells) - len(chosen))
    above = [Text(line, style="bold yellow") for line in _first_lines(chosen)]
    return Group(*above, table, *(Text(note, style="dim") for note in notes))


# Selection and comparison.


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
        ("set of undefined labels", lambda c: c.undefined),
    ):
        _refuse_mixed(chosen, name, value, lambda c: f"task {c.task}")
    for name, value in (("set of parameters", lambda c: c.params), ("set of weights", lambda c: c.weights_sha256)):
        _refuse_mixed(chosen, name, value, lambda c: f"{c.init} on task {c.task}")
    return chosen


def compare(cells: Sequence[Cell], benchmark: params.Benchmark, comparison: params.Comparison) -> list[Row]:
    """Compares every initialization with the best of its task, by task and init in the benchmark's order."""
    index = {(cell.task, cell.init, cell.seed): cell for cell in cells}
    rows: list[Row] = []
    for task in benchmark.tasks:
        column = [_row(task, init, benchmark.seeds, index) for init in benchmark.inits]
        rows += _against_best(column, comparison)
    return rows


def _read(path: Path) -> Cell:
    try:
        tree = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is corrupt ({error}); remove its folder and run `finetune` again") from error
    names = [field.name for field in fields(Cell)]
    missing = [name for name in names if not isinstance(tree, dict) or name not in tree]
    if missing:
        raise UserError(f"{path} is not a finished run: it lacks {', '.join(missing)}")
    for name, score in dict(tree["scores"]).items():
        if isinstance(score, float) and score - score != 0:  # nan or infinity
            raise UserError(f"{path}: score {name} is {score}; an undefined score must be absent, not a stand-in")
    try:
        return params.convert({name: tree[name] for name in names}, Cell)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _refuse_duplicates(cells: Sequence[Cell]) -> None:
    for (task, init, seed), count in Counter((c.task, c.init, c.seed) for c in cells).items():
        if count > 1:
            digests = ", ".join(c.digest[:8] for c in cells if (c.task, c.init, c.seed) == (task, init, seed))
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
        return _word(one), _word(two)
    keys = sorted(key for key in one.keys() | two.keys() if one.get(key) != two.get(key))
    mine, its = (", ".join(f"{key}={_word(side.get(key))}" for key in keys) for side in (one, two))
    return mine, its


def _applicable(init: str, task: str) -> bool:
    """Says whether an init may stand on a task: not if it was pre-trained on the same dataset."""
    dataset = tasks.TASKS[task].dataset if task in tasks.TASKS else task
    return dataset not in init.rpartition("@")[2].split("+")[1:]


def _row(task: str, init: str, seeds: Iterable[int], index: Mapping[tuple[str, str, int], Cell]) -> Row:
    runs = {seed: index.get((task, init, seed)) for seed in seeds}
    scores = {seed: run.score for seed, run in runs.items() if run is not None and run.score is not None}
    applicable = _applicable(init, task)
    return Row(
        task=task,
        init=init,
        applicable=applicable,
        seeds=tuple(scores),
        undefined=tuple(seed for seed, run in runs.items() if run is not None and run.score is None),
        missing=tuple(seed for seed, run in runs.items() if run is None and applicable),
        scores=tuple(scores.values()),
        summary=statistics.summary(list(scores.values())) if scores else None,
        marks=tuple(sorted({mark for run in runs.values() if run is not None for mark in run.marks})),
    )


def _against_best(column: Sequence[Row], comparison: params.Comparison) -> list[Row]:
    present = [row for row in column if row.summary is not None]
    if not present:
        return list(column)
    best = max(present, key=_mean)
    return [_tested(row, best, comparison) if row.summary is not None else row for row in column]


def _mean(row: Row) -> float:
    return row.summary.mean if row.summary is not None else float("nan")


def _tested(row: Row, best: Row, comparison: params.Comparison) -> Row:
    difference = _mean(row) - _mean(best)
    if row is best:
        return replace(row, best=True, difference=difference)
    test = _test(row, best, comparison.test)
    return replace(row, difference=difference, test=test, separated=test.separated(comparison.alpha))


def _test(row: Row, best: Row, test: statistics.Test) -> statistics.TTest:
    if test != "paired":
        return statistics.t_test(row.scores, best.scores, test=test)
    one, two = dict(zip(row.seeds, row.scores, strict=True)), dict(zip(best.seeds, best.scores, strict=True))
    common = [seed for seed in row.seeds if seed in two]
    if not common:
        return statistics.TTest(test=test, difference=_mean(row) - _mean(best), note="no seed in common")
    return statistics.t_test([one[s] for s in common], [two[s] for s in common], test=test)


# Words.


def _first_lines(cells: Iterable[Cell]) -> list[str]:
    marks = {mark for cell in cells for mark in cell.marks}
    known = [line for mark, line in FIRST_LINES.items() if mark in marks]
    return known + [f"Marked: {mark}." for mark in sorted(marks - FIRST_LINES.keys())]


def _word(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_word, value))}]"
    return str(value)


def _percent(summary: statistics.Summary | None, expected: int) -> str:
    """Writes `81.70 ± 0.15`, in percent, with n where it is not the expected number of runs."""
    if summary is None:
        return "-"
    spread = "" if summary.std is None else f" ± {100 * summary.std:.2f}"
    runs = "" if summary.n == expected else f" (n = {summary.n})"
    return f"{100 * summary.mean:.2f}{spread}{runs}"


def _runs(rows: Iterable[Row], field: str) -> str:
    """Names runs by task, init and seeds, for a note."""
    named = [(row, getattr(row, field)) for row in rows if getattr(row, field)]
    return "; ".join(
        f"{row.task} {row.init} seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
        for row, seeds in named
    )


def _kind(cell: Cell) -> str:
    return "segmentation" if cell.kind == "segmentation" else "classification"


def _of_task(cells: Iterable[Cell], task: str) -> list[Cell]:
    return [cell for cell in cells if cell.task == task]


def _shared_marks(cells: Sequence[Cell]) -> set[str]:
    """Finds the marks of all runs of a task: they stand in its column's title, others beside a score."""
    return set.intersection(*(set(cell.marks) for cell in cells)) if cells else set()


def _column_title(cells: Sequence[Cell], task: str) -> str:
    if not cells:
        return task
    first = cells[0]
    notes = sorted(_shared_marks(cells))
    if first.undefined:
        notes.insert(0, f"{first.labels - len(first.undefined)} of {first.labels} labels")
    suffix = f" ({', '.join(notes)})" if notes else ""
    return f"{task}: {METRICS.get(first.metric, first.metric)}{suffix}"


# Tables.


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the report: a table, a figure, notes."""

    title: str
    grid: Grid | None = None
    notes: tuple[str, ...] = ()
    bullets: bool = False
    picture: bool = False
    scores: bool = False
    """shows scores, so that the first lines are repeated over it"""


def _sections(
    cells: Sequence[Cell],
    rows: Sequence[Row],
    benchmark: params.Benchmark,
    comparison: params.Comparison,
    published: params.Params,
    left_out: int,
) -> list[Section]:
    notes = _score_notes(cells, rows, benchmark, comparison, left_out)
    main = Section(title="Scores", grid=_score_grid(cells, rows, benchmark), notes=tuple(notes), picture=True)
    further = [_further_section(cells, task, benchmark) for task in benchmark.tasks]
    deviations = [_deviation_section(cells, kind, published) for kind in sorted({_kind(cell) for cell in cells})]
    unsaid = Section(title="What the published protocol does not say", notes=tuple(_unsaid(cells)), bullets=True)
    return [main, *(section for section in further if section), *deviations, unsaid, _cost_section(cells, benchmark)]


def _score_grid(cells: Sequence[Cell], rows: Sequence[Row], benchmark: params.Benchmark) -> Grid:
    titles = [_column_title(_of_task(cells, task), task) for task in benchmark.tasks]
    shared = {task: _shared_marks(_of_task(cells, task)) for task in benchmark.tasks}
    texts = {(row.task, row.init): _score_entry(row, len(benchmark.seeds), shared[row.task]) for row in rows}
    lines = [(Entry(init), *(texts[task, init] for task in benchmark.tasks)) for init in benchmark.inits]
    return Grid(header=("init", *titles), rows=tuple(lines))


def _score_entry(row: Row, expected: int, shared: set[str]) -> Entry:
    if row.summary is None:
        return Entry("undefined" if row.undefined else "-")
    dagger = " †" if row.separated is False else ""
    own = sorted(set(row.marks) - shared)
    return Entry(_percent(row.summary, expected) + dagger + (f" ({', '.join(own)})" if own else ""), row.best)


def _score_notes(
    cells: Sequence[Cell],
    rows: Sequence[Row],
    benchmark: params.Benchmark,
    comparison: params.Comparison,
    left_out: int,
) -> list[str]:
    notes = [_method(rows, cells, comparison)]
    expected = sum(row.applicable for row in rows) * len(benchmark.seeds)
    missing = sum(len(row.missing) for row in rows)
    if missing:
        notes.append(f"{missing} of {expected} runs missing: {_runs(rows, 'missing')}.")
    if any(row.undefined for row in rows):
        notes.append(f"Undefined (no test label has both classes): {_runs(rows, 'undefined')}.")
    notes += _label_notes(cells, benchmark)
    untested = [f"{row.task} {row.init} ({row.test.note})" for row in rows if row.test and row.test.p is None]
    if untested:
        notes.append(f"No test possible: {'; '.join(untested)}.")
    unsuited = [f"{row.init} on {row.task}" for row in rows if not row.applicable]
    if unsuited:
        notes.append(f"Not applicable (pre-trained on the task's own dataset): {'; '.join(unsuited)}.")
    if left_out:
        notes.append(f"{left_out} finished {'run' if left_out == 1 else 'runs'} outside this benchmark left out.")
    return notes + _version_notes(cells)


def _method(rows: Sequence[Row], cells: Sequence[Cell], comparison: params.Comparison) -> str:
    counts = sorted({row.summary.n for row in rows if row.summary is not None})
    n = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}" if counts else "0"
    marks = sorted({mark for cell in cells for mark in cell.marks})
    return (
        f"Mean ± std of the test score in percent; unit: run (seed), n = {n}, ddof 1. Best of each column bold, "
        f"picked by these same scores; † = not separated from it (p > {comparison.alpha:g}, {comparison.test} t-test, "
        f"two-sided, correction: none). Marks: {', '.join(marks) or 'none'}."
    )


def _label_notes(cells: Sequence[Cell], benchmark: params.Benchmark) -> list[str]:
    firsts = [_of_task(cells, task)[0] for task in benchmark.tasks if _of_task(cells, task)]
    return [
        f"{cell.task}: mean over {cell.labels - len(cell.undefined)} of {cell.labels} labels; undefined in test: "
        f"{', '.join(cell.undefined)}. Not comparable with a mean over other labels."
        for cell in firsts
        if cell.undefined
    ]


def _version_notes(cells: Sequence[Cell]) -> list[str]:
    found = Counter(", ".join(f"{name} {version}" for name, version in sorted(c.versions.items())) for c in cells)
    if len(found) == 1:
        return []
    return [
        "Library versions differ: "
        + "; ".join(f"{words} ({count} {'run' if count == 1 else 'runs'})" for words, count in found.items())
        + "."
    ]


def _further_section(cells: Sequence[Cell], task: str, benchmark: params.Benchmark) -> Section | None:
    """Tabulates the other test scores of a task: AUC or one form of Dice alone is not enough."""
    own = _of_task(cells, task)
    primary = own[0].metric if own else ""
    names = [name for name in METRICS if name != primary and any(f"test_{name}" in cell.scores for cell in own)]
    if not names:
        return None
    lines = []
    for init in benchmark.inits:
        runs = [cell for cell in own if cell.init == init]
        lines.append((Entry(init), *(Entry(_mean_text(runs, f"test_{name}", len(benchmark.seeds))) for name in names)))
    grid = Grid(header=("init", *(METRICS[name] for name in names)), rows=tuple(lines))
    notes = ("Mean ± std over the same runs in percent, ddof 1; not tested.",)
    return Section(title=f"Further scores: {task}", grid=grid, notes=notes, scores=True)


def _mean_text(runs: Sequence[Cell], name: str, expected: int) -> str:
    scores = [cell.scores[name] for cell in runs if name in cell.scores]
    return _percent(statistics.summary(scores) if scores else None, expected)


def _published(published: params.Params, task: str, kind: str) -> dict[str, Any]:
    """Lays out the published parameters of a task, its own changes resolved."""
    flat = params.flatten(published)
    if task in published.tasks:
        flat |= params.flatten(params.protocol(published, task, kind == "segmentation"), kind)
    return flat


def _deviation_section(cells: Sequence[Cell], kind: str, published: params.Params) -> Section:
    """Lists what differs from the published protocol: parameter, here, published."""
    own = [cell for cell in cells if _kind(cell) == kind]
    present = sorted({cell.task for cell in own})
    found: dict[tuple[str, str, str], list[str]] = {}
    for task in present:
        for difference in _deviations(_of_task(own, task), _published(published, task, kind)):
            found.setdefault(difference, []).append(task)
    lines = []
    for (name, here, theirs), where in sorted(found.items()):
        suffix = "" if where == present else f" ({', '.join(where)})"
        lines.append((Entry(name + suffix), Entry(here), Entry(theirs)))
    unknown = [task for task in present if task not in published.tasks]
    notes = [f"Not a task of the published protocol: {', '.join(unknown)}."] if unknown else []
    if not lines:
        notes.append("No parameter differs.")
    grid = Grid(header=("parameter", "here", "published"), rows=tuple(lines)) if lines else None
    return Section(title=f"Deviations from the published protocol: {kind}", grid=grid, notes=tuple(notes))


def _deviations(cells: Sequence[Cell], theirs: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Lists (parameter, here, published) of one task; several values here are joined."""
    read = [{"model.backbone": cell.backbone, **cell.params} for cell in cells]
    differences = []
    for name in sorted({name for run in read for name in run if not name.startswith(NOT_DEVIATIONS)}):
        values = [run[name] for run in read if name in run]
        if name not in theirs or any(value != theirs[name] for value in values):
            here = ", ".join(dict.fromkeys(map(_word, values)))
            short = name.split(".", 2)[2] if name.startswith("tasks.") else name
            differences.append((short, here, _word(theirs[name]) if name in theirs else "not stated"))
    return differences


def _unsaid(cells: Sequence[Cell]) -> list[str]:
    present = {""} | {_kind(cell) for cell in cells} | {cell.task for cell in cells}
    present |= {part.split("@")[0] for cell in cells for part in cell.init.split("+")}
    return [text for scope, text in UNSAID if scope in present]


def _cost_section(cells: Sequence[Cell], benchmark: params.Benchmark) -> Section:
    lines = []
    for task in benchmark.tasks:
        for init in benchmark.inits:
            runs = [cell for cell in cells if (cell.task, cell.init) == (task, init)]
            if runs:
                lines.append((Entry(task), Entry(init), Entry(str(len(runs))), *_costs(runs)))
    header = ("task", "init", "runs", "epochs per run", "seconds per run", "GPU seconds per run")
    whole = sum(cell.cost.get("seconds", 0.0) for cell in cells)
    notes = [f"{len(cells)} runs, {whole / 3600:.2f} hours of run time in all."]
    for task in benchmark.tasks:
        for cell in _of_task(cells, task)[:1]:
            counts = ", ".join(f"{split} {count}" for split, count in cell.counts.items())
            notes.append(f"{task}: device {cell.device}; images: {counts}; manifest {cell.manifest_digest[:12]}.")
    return Section(title="Cost", grid=Grid(header=header, rows=tuple(lines)), notes=tuple(notes))


def _costs(runs: Sequence[Cell]) -> list[Entry]:
    entries = []
    for name in ("epochs", "seconds", "gpu_seconds"):
        values = [cell.cost[name] for cell in runs if name in cell.cost]
        entries.append(Entry(f"{sum(values) / len(values):.1f}" if values else "-"))
    return entries


# Files.


def _run_records(cells: Iterable[Cell]) -> list[dict[str, Any]]:
    return [
        {
            "task": cell.task,
            "init": cell.init,
            "seed": cell.seed,
            "metric": name,
            "value": value,
            "digest": cell.digest,
            "marks": " ".join(cell.marks),
            "labels_defined": cell.labels - len(cell.undefined),
            "labels": cell.labels,
            "device": cell.device,
            "protocol_version": cell.protocol_version,
            "manifest_digest": cell.manifest_digest,
            "weights_sha256": cell.weights_sha256,
            "mlflow_run_id": cell.mlflow_run_id,
        }
        for cell in cells
        for name, value in sorted({**cell.scores, **cell.cost}.items())
    ]


def _comparison_records(
    cells: Sequence[Cell], rows: Iterable[Row], comparison: params.Comparison
) -> list[dict[str, Any]]:
    firsts = {cell.task: cell for cell in reversed(cells)}
    return [_comparison_record(row, firsts.get(row.task), comparison) for row in rows]


def _comparison_record(row: Row, cell: Cell | None, comparison: params.Comparison) -> dict[str, Any]:
    """Lays out a row; an empty value means undefined, missing or not applicable."""
    test = row.test
    return {
        "task": row.task,
        "init": row.init,
        "metric": cell.metric if cell else None,
        "mean": row.summary.mean if row.summary else None,
        "std": row.summary.std if row.summary else None,
        "n": len(row.seeds),
        "best": row.best,
        "difference": row.difference,
        "p": test.p if test else None,
        "separated": row.separated,
        "test": comparison.test,
        "statistic": test.statistic if test else None,
        "df": test.df if test else None,
        "ddof": 1,
        "alpha": comparison.alpha,
        "correction": "none",
        "unit": "run",
        "labels_defined": cell.labels - len(cell.undefined) if cell else None,
        "labels": cell.labels if cell else None,
        "applicable": row.applicable,
        "seeds": " ".join(map(str, row.seeds)),
        "undefined": " ".join(map(str, row.undefined)),
        "missing": " ".join(map(str, row.missing)),
        "marks": " ".join(row.marks),
        "note": test.note if test else "",
    }


def _csv(records: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    for record in records:
        words = {True: "true", False: "false"}
        writer.writerow({k: words[v] if isinstance(v, bool) else v for k, v in record.items()})
    return text.getvalue()


def _save(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def _markdown(first: Sequence[str], sections: Iterable[Section]) -> str:
    parts = [*first, "# Comparison of initializations"]
    for section in sections:
        parts.append(f"## {section.title}")
        parts += first if section.scores else []
        parts += [_markdown_table(section.grid)] if section.grid else []
        notes = [f"- {note}" if section.bullets else note for note in section.notes]
        parts += ["\n".join(notes)] if section.bullets else notes
        parts += ["![Scores by task](comparison.png)"] if section.picture else []
    return "\n\n".join(parts) + "\n"


def _markdown_table(grid: Grid) -> str:
    def text(entry: Entry) -> str:
        words = entry.text.replace("|", "\\|")
        return f"**{words}**" if entry.best else words

    lines = [[text(Entry(title)) for title in grid.header], ["---"] * len(grid.header)]
    lines += [[text(entry) for entry in row] for row in grid.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _page(first: Sequence[str], sections: Iterable[Section], picture: bytes) -> str:
    marks = [f'<p class="mark">{html.escape(line)}</p>' for line in first]
    body = [*marks, "<h1>Comparison of initializations</h1>"]
    for section in sections:
        body.append(f"<h2>{html.escape(section.title)}</h2>")
        body += marks if section.scores else []
        body += [_page_table(section.grid)] if section.grid else []
        notes = map(html.escape, section.notes)
        body += (
            ["<ul>", *(f"<li>{note}</li>" for note in notes), "</ul>"]
            if section.bullets
            else [f'<p class="note">{note}</p>' for note in notes]
        )
        if section.picture:
            data = base64.b64encode(picture).decode()
            body.append(f'<p><img alt="Scores by task" src="data:image/png;base64,{data}"></p>')
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Comparison</title>'
    head += f"<style>{CSS}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"


def _page_table(grid: Grid) -> str:
    def line(tag: str, entries: Iterable[Entry]) -> str:
        texts = (f"<strong>{html.escape(e.text)}</strong>" if e.best else html.escape(e.text) for e in entries)
        return "<tr>" + "".join(f"<{tag}>{text}</{tag}>" for text in texts) + "</tr>"

    head = line("th", map(Entry, grid.header))
    lines = "\n".join(line("td", row) for row in grid.rows)
    return f'<div class="scroll"><table><thead>{head}</thead>\n<tbody>\n{lines}\n</tbody></table></div>'


# Figure.


def figure(cells: Sequence[Cell], rows: Sequence[Row], benchmark: params.Benchmark) -> Figure:
    """Draws one panel per task: each init a row with its runs as dots, their mean and a bar of one std."""
    lines = -(-len(benchmark.tasks) // 3)
    columns = -(-len(benchmark.tasks) // lines)
    height = (0.42 * len(benchmark.inits) + 0.9) * lines + 0.9
    picture = Figure(figsize=(2.0 + 3.3 * columns, height), dpi=150, layout="constrained")
    panels = picture.subplots(lines, columns, sharey=True, squeeze=False).ravel().tolist()
    for panel, task in zip(panels, benchmark.tasks, strict=False):
        _draw(panel, [row for row in rows if row.task == task], _column_title(_of_task(cells, task), task))
    for panel in panels[len(benchmark.tasks) :]:
        panel.set_visible(False)
    picture.suptitle("\n".join([*_first_lines(cells), "Test score in percent: runs, mean ± std"]), fontsize=10)
    picture.legend(handles=_legend(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return picture


def _draw(panel: Axes, column: Sequence[Row], title: str) -> None:
    panel.set_title(title, fontsize=9)
    panel.set_yticks(range(len(column)), [row.init.replace("@", "\n@") for row in column], fontsize=8)
    panel.set_ylim(len(column) - 0.5, -0.5)
    panel.tick_params(axis="x", labelsize=8)
    panel.tick_params(axis="y", length=0)
    panel.grid(axis="x", color="#E5E5E5")
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.margins(x=0.12)
    for place, row in enumerate(column):
        _draw_row(panel, place, row)
    if all(row.summary is None for row in column):
        panel.set_xticks([])
        return
    low, high = panel.get_xlim()
    if high - low < 0.5:  # percent: a spread that is nothing must not look like something
        panel.set_xlim((low + high) / 2 - 0.25, (low + high) / 2 + 0.25)


def _draw_row(panel: Axes, place: int, row: Row) -> None:
    if row.summary is None:
        words = "undefined" if row.undefined else "no runs" if row.applicable else "not applicable"
        panel.text(0.5, place, words, transform=panel.get_yaxis_transform(), ha="center", va="center", fontsize=8)
        return
    colour, marker = _style(row)
    panel.plot(
        [100 * score for score in row.scores], [place + 0.2] * len(row.scores), "o", color=colour, ms=3.5, alpha=0.6
    )
    std = 100 * (row.summary.std or 0.0)
    panel.errorbar(
        100 * row.summary.mean, place - 0.05, xerr=std or None, color=colour, marker=marker, ms=7, capsize=3, lw=1.5
    )


def _style(row: Row) -> tuple[str, str]:
    if row.best:
        return BEST, "D"
    return (CLOSE, "s") if row.separated is False else (APART, "v")


def _legend() -> list[Line2D]:
    styles = (
        ("best mean", BEST, "D"),
        ("not separated from it (†)", CLOSE, "s"),
        ("separated, or no test", APART, "v"),
    )
    handles = [Line2D([], [], color=colour, marker=marker, lw=1.5, label=words) for words, colour, marker in styles]
    return [*handles, Line2D([], [], color="#444444", marker="o", ms=3.5, lw=0, label="one run (seed)")]


def _png(picture: Figure) -> bytes:
    data = io.BytesIO()
    picture.savefig(data, format="png", metadata={"Software": None})  # equal results give equal bytes
    return data.getvalue()
