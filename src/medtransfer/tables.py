"""Comparison -> the tables of the report, before they are written in some language."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medtransfer import params, records, statistics
from medtransfer.comparison import Cell, Row, as_word, kind_of, of_task, shared_marks

METRICS = {
    "auc": "AUC",
    "average_precision": "average precision",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "brier": "Brier score",
    "exam_auc": "AUC per exam",
    "exam_average_precision": "average precision per exam",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "kappa": "quadratic kappa",
    "dice": "Dice",
    "dice_positives": "Dice on positives",
    "dice_pooled": "pooled Dice",
    "false_positive_rate": "false-positive rate",
    "native_dice": "Dice, native size",
    "native_dice_positives": "Dice on positives, native size",
    "native_dice_pooled": "pooled Dice, native size",
    "fov_dice": "Dice, native size, inside the field of view",
    "fov_dice_pooled": "pooled Dice, native size, inside the field of view",
    "observer2_dice": "Dice, native size, against the second observer",
}
"""scores up to 1 that the report tabulates; all scores are in `runs.csv`"""

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
    ("chexpert", "chexpert: which images are val and test; here a seeded 5% of train.csv's patients, and valid.csv."),
    ("rsna_pe", "rsna_pe: split, windowing and level; here drawn by study, three windows, slices (exams beside them)."),
    ("siim", "siim: the split, and whether empty images count; here drawn by patient, Dice on images with a mask."),
    ("drive", "drive: size and validation share of the augmented copy used; here the original files, 4 of 20 for val."),
    ("inat2021", "Which weights `inat2021` is: trained from scratch, or started from ImageNet."),
)  # fmt: skip
"""(what it concerns: "" = all, a kind, a dataset or an initialization; what the paper does not say and what we do)"""


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
        f"{row.task} {row.init} {row.unit}{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
        for row, seeds in named
    )


def column_title(cells: Sequence[Cell], task: str) -> str:
    """Names a task and its primary metric, with the marks that only it carries."""
    if not cells:
        return task
    first = cells[0]
    notes = sorted(shared_marks(cells))
    if first.undefined:
        notes.insert(0, f"{first.labels - len(first.undefined)} of {first.labels} labels")
    suffix = f" ({', '.join(notes)})" if notes else ""
    return f"{task}: {METRICS.get(first.metric, first.metric)}{suffix}"


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


def sections_of(
    cells: Sequence[Cell],
    rows: Sequence[Row],
    benchmark: params.Benchmark,
    comparison: params.Comparison,
    published: params.Params,
    left_out: int,
) -> list[Section]:
    """Lays out the whole report."""
    notes = score_notes(cells, rows, benchmark, comparison, left_out)
    main = Section(title="Scores", grid=score_grid(cells, rows, benchmark), notes=tuple(notes), picture=True)
    further = [_further_section(cells, task, benchmark) for task in benchmark.tasks]
    deviations = [_deviation_section(cells, kind, published) for kind in sorted({kind_of(cell) for cell in cells})]
    unsaid = Section(title="What the published protocol does not say", notes=tuple(_unsaid(cells)), bullets=True)
    return [main, *(section for section in further if section), *deviations, unsaid, _cost_section(cells, benchmark)]


def score_grid(cells: Sequence[Cell], rows: Sequence[Row], benchmark: params.Benchmark) -> Grid:
    """Lays out the comparison: one row per initialization, one column per task."""
    titles = [column_title(of_task(cells, task), task) for task in benchmark.tasks]
    shared = {task: shared_marks(of_task(cells, task)) for task in benchmark.tasks}
    texts = {(row.task, row.init): _score_entry(row, shared[row.task]) for row in rows}
    lines = [(Entry(init), *(texts[task, init] for task in benchmark.tasks)) for init in benchmark.inits]
    return Grid(header=("init", *titles), rows=tuple(lines))


def _score_entry(row: Row, shared: set[str]) -> Entry:
    if row.summary is None:
        return Entry("undefined" if row.undefined else "-")
    dagger = " †" if row.separated is False else ""
    own = sorted(set(row.marks) - shared)
    return Entry(_percent(row.summary, row.expected) + dagger + (f" ({', '.join(own)})" if own else ""), row.best)


def score_notes(
    cells: Sequence[Cell],
    rows: Sequence[Row],
    benchmark: params.Benchmark,
    comparison: params.Comparison,
    left_out: int,
) -> list[str]:
    """Says what the comparison rests on: test, n, marks, and what is missing."""
    notes = [_method(rows, cells, comparison)]
    expected = sum(row.expected for row in rows if row.applicable)
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
    marks = sorted({mark for cell in cells for mark in cell.marks})
    units = {row.unit for row in rows if row.summary is not None} or {"seed"}
    words = {"seed": ("run (seed)", f"{comparison.test} t-test")}
    words["fold"] = ("fold (mean over its seeds)", "corrected resampled t-test, paired by fold")
    unit = " or ".join(f"{words[name][0]}, n = {_number(rows, name)}" for name in sorted(units, reverse=True))
    test = " or ".join(words[name][1] for name in sorted(units, reverse=True))
    return (
        f"Mean ± std of the test score in percent; unit: {unit}, ddof 1. Best of each column bold, "
        f"picked by these same scores; † = not separated from it (p > {comparison.alpha:g}, {test}, "
        f"two-sided, correction: none). Marks: {', '.join(marks) or 'none'}."
    )


def _number(rows: Sequence[Row], unit: str) -> str:
    counts = sorted({row.summary.n for row in rows if row.summary is not None and row.unit == unit})
    return f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}" if counts else "0"


def _label_notes(cells: Sequence[Cell], benchmark: params.Benchmark) -> list[str]:
    firsts = [of_task(cells, task)[0] for task in benchmark.tasks if of_task(cells, task)]
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
    own = of_task(cells, task)
    primary = own[0].metric if own else ""
    names = [name for name in METRICS if name != primary and any(f"test_{name}" in cell.scores for cell in own)]
    if not names:
        return None
    lines = []
    for init in benchmark.inits:
        runs = [cell for cell in own if cell.init == init]
        expected = len(benchmark.seeds) * max(1, own[0].folds)
        lines.append((Entry(init), *(Entry(_mean_text(runs, f"test_{name}", expected)) for name in names)))
    grid = Grid(header=("init", *(METRICS[name] for name in names)), rows=tuple(lines))
    notes = ("Mean ± std over the same runs in percent, ddof 1; not tested.",)
    return Section(title=f"Further scores: {task}", grid=grid, notes=notes, scores=True)


def _mean_text(runs: Sequence[Cell], name: str, expected: int) -> str:
    scores = [cell.scores[name] for cell in runs if name in cell.scores]
    return _percent(statistics.summary(scores) if scores else None, expected)


def _published(published: params.Params, task: str, kind: str) -> dict[str, Any]:
    """Lays out the published parameters of a task, its own changes resolved."""
    flat = records.flatten(published)
    if task in published.tasks:
        flat |= records.flatten(params.protocol(published, task, kind == "segmentation"), kind)
    return flat


def _deviation_section(cells: Sequence[Cell], kind: str, published: params.Params) -> Section:
    """Lists what differs from the published protocol: parameter, here, published."""
    own = [cell for cell in cells if kind_of(cell) == kind]
    present = sorted({cell.task for cell in own})
    found: dict[tuple[str, str, str], list[str]] = {}
    for task in present:
        for difference in _deviations(of_task(own, task), _published(published, task, kind)):
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
            here = ", ".join(dict.fromkeys(map(as_word, values)))
            short = name.split(".", 2)[2] if name.startswith("tasks.") else name
            differences.append((short, here, as_word(theirs[name]) if name in theirs else "not stated"))
    return differences


def _unsaid(cells: Sequence[Cell]) -> list[str]:
    present = {""} | {kind_of(cell) for cell in cells} | {cell.task for cell in cells}
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
        for cell in of_task(cells, task)[:1]:
            counts = ", ".join(f"{split} {count}" for split, count in cell.counts.items())
            notes.append(f"{task}: device {cell.device}; images: {counts}; manifest {cell.manifest_digest[:12]}.")
            notes.append(f"{task}: split {cell.split}.")
    return Section(title="Cost", grid=Grid(header=header, rows=tuple(lines)), notes=tuple(notes))


def _costs(runs: Sequence[Cell]) -> list[Entry]:
    entries = []
    for name in ("epochs", "seconds", "gpu_seconds"):
        values = [cell.cost[name] for cell in runs if name in cell.cost]
        entries.append(Entry(f"{sum(values) / len(values):.1f}" if values else "-"))
    return entries
