"""A page of the site before it is written: titles, tables, notes; where each page lies."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from medtransfer.comparison.answers import Answer

INDEX, VIEWS, PACKS = "index.html", "views.html", "packs.html"
NONE = "-"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One entry of a table."""

    text: str
    small: str = ""
    """in a second line: an interval, a name"""
    href: str = ""
    """page that it leads to, as from the site's folder"""
    strong: bool = False
    status: str = ""
    """claimed, verified or refuted: how the text is framed"""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of a table, its name first."""

    cells: tuple[Cell, ...]
    groups: tuple[tuple[str, str], ...] = ()
    """what it can be chosen by: (name, value)"""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table, whose caption says what a row is."""

    caption: str
    header: tuple[str, ...]
    lines: tuple[Line, ...]
    filters: bool = False
    """whether rows can be chosen by their groups"""

    @property
    def choices(self) -> dict[str, list[str]]:
        """Lists the values of each group, where there are several."""
        found: dict[str, list[str]] = {}
        for line in self.lines:
            for name, value in line.groups:
                found.setdefault(name, []).append(value)
        return {name: sorted(set(values)) for name, values in found.items() if len(set(values)) > 1}


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a page."""

    title: str
    slug: str
    level: int = 2
    table: Table | None = None
    notes: tuple[str, ...] = ()
    folded: bool = False
    """opens on a click: long, for reference"""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page."""

    path: str
    """as from the site's folder"""
    title: str
    facts: tuple[tuple[str, Cell], ...] = ()
    first: tuple[str, ...] = ()
    """sentences that stand over everything"""
    answers: tuple[Answer, ...] = ()
    method: str = ""
    """what the answers rest on"""
    parts: tuple[Part, ...] = field(default=())

    @property
    def home(self) -> str:
        """Leads from the page to the site's folder."""
        return "../" * self.path.count("/")


def path_of(kind: str, name: str) -> str:
    """Names the page of something: in letters that any file system takes, and never that of something else."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:40] or kind
    return f"{kind}/{plain}-{hashlib.sha256(name.encode()).hexdigest()[:10]}.html"


def line(cells: Sequence[Cell | str]) -> Line:
    """Makes a row of plain texts and cells."""
    return Line(cells=tuple(cell if isinstance(cell, Cell) else Cell(text=cell) for cell in cells))


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[Cell | str]]) -> Table:
    """Makes a table of plain texts and cells."""
    return Table(caption=caption, header=tuple(header), lines=tuple(map(line, rows)))
