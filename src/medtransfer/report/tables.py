"""A table and a part of the report, before they are written in some language."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from medtransfer.comparison.wording import shared_marks
from medtransfer.results.result import Result
from medtransfer.statistics import metrics


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
    lead: tuple[str, ...] = ()
    """sentences over what is folded, which notes and figures then are too"""


def grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Grid:
    """Makes a table of plain texts."""
    return Grid(header=tuple(header), rows=tuple(tuple(map(Entry, row)) for row in rows))


def column_title(results: Sequence[Result], task: str, said: Collection[str] = ()) -> str:
    """Names a task and its primary metric, with the marks of all its runs but those that are `said` elsewhere."""
    if not results:
        return task
    first = results[0]
    notes = sorted(shared_marks(results) - set(said))
    if first.undefined:
        notes.insert(0, f"{first.labels - len(first.undefined)} of {first.labels} labels")
    suffix = f" ({', '.join(notes)})" if notes else ""
    at = f" at {first.tolerance}" if first.metric == "surface_dice" and first.tolerance else ""
    return f"{task}: {metrics.title(first.metric)}{at}{suffix}"
