"""A table and a part of the report, before they are written in some language; how numbers and names are worded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medtransfer.results.result import Cell, shared_marks
from medtransfer.statistics import t_tests

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


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the report: a table, figures, notes."""

    title: str
    slug: str
    """name of the table's files"""
    level: int = 2
    """of the heading"""
    grid: Grid | None = None
    notes: tuple[str, ...] = ()
    bullets: bool = False
    figures: tuple[str, ...] = ()
    """names of the figures that belong here"""
    scores: bool = False
    """shows scores, so that the first lines are repeated over it"""
    folded: bool = False
    """on a page its table opens on a click: long, for reference"""


def grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Grid:
    """Makes a table of plain texts."""
    return Grid(header=tuple(header), rows=tuple(tuple(map(Entry, row)) for row in rows))


def column_title(cells: Sequence[Cell], task: str) -> str:
    """Names a task and its primary metric, with the marks that only it carries."""
    if not cells:
        return task
    first = cells[0]
    notes = sorted(shared_marks(cells))
    if first.undefined:
        notes.insert(0, f"{first.labels - len(first.undefined)} of {first.labels} labels")
    suffix = f" ({', '.join(notes)})" if notes else ""
    return f"{task}: {metric_name(first.metric)}{suffix}"


def metric_name(metric: str) -> str:
    """Names a metric as a person reads it."""
    return METRICS.get(metric, metric)


def percent(summary: t_tests.Summary | None) -> str:
    """Writes `81.70 ± 0.15`, in percent."""
    if summary is None:
        return "-"
    spread = "" if summary.std is None else f" ± {100 * summary.std:.2f}"
    return f"{100 * summary.mean:.2f}{spread}"


def points(value: float | None) -> str:
    """Writes a difference in percentage points, signed."""
    if value is None:
        return "-"
    text = f"{100 * value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text


def margin_words(margin: float) -> str:
    """Writes a margin, as `0.5 points`."""
    return f"{100 * margin:g} {'point' if margin == 0.01 else 'points'}"


def interval(low: float | None, high: float | None) -> str:
    """Writes an interval in percentage points."""
    return "-" if low is None or high is None else f"{points(low)} to {points(high)}"


def p_value(p: float | None) -> str:
    """Writes a p-value."""
    if p is None:
        return "-"
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.001 else f"{p:.3f}"


def plural(unit: str) -> str:
    """Writes a unit in the plural."""
    return {"study": "studies"}.get(unit, f"{unit}s")


def number_word(number: int) -> str:
    """Writes a small number as a word."""
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return words[number] if number < len(words) else str(number)


def names(every: Sequence[str], most: int, last: str = "and") -> str:
    """Lists names in a sentence; more than `most` end in how many there are besides."""
    shown = list(every) if len(every) <= most + 1 else [*every[:most], f"{len(every) - most} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} {last} {shown[-1]}" if shown else "none"
