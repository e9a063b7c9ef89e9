"""What all figures share: colours, sizes, panels, headings, rows and labels that do not overlap."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import Locator
from scipy.optimize import isotonic_regression

from medtransfer.comparison.wording import corner
from medtransfer.core.palette import BLUE, GREEN, GREY, RED
from medtransfer.results.result import Result

LETTER = 0.068
"""inches that a letter of 8 points takes, a little more than the mean"""

LINE = 0.17
"""inches that a line of the heading takes; every figure has room for two"""
SMALL = 7
"""points of the mark in the corner, the smallest type of a figure"""
WHOLE = 100.0
"""percent: no score is above it"""
SPOKEN = "say:"
"""begins the group id of what has words for the pointer, see `say`"""


class Look(NamedTuple):
    """How a verdict is drawn."""

    colour: str
    marker: str


BETTER, WORSE, ALIKE, OPEN = Look(BLUE, "^"), Look(RED, "v"), Look(GREEN, "s"), Look(GREY, "o")


def inches(labels: Collection[str]) -> float:
    """Measures the longest label, roughly."""
    return LETTER * max(map(len, labels), default=0) + 0.15


def shape(number: int, most: int) -> tuple[int, int]:
    """Lays panels out in lines of equal length: (lines, panels in a line), at most `most` in a line."""
    lines = -(-number // most)
    return lines, -(-number // lines)


def panels(picture: Figure, number: int, most: int, **options: Any) -> list[Axes]:
    """Adds `number` panels, line by line."""
    lines, columns = shape(number, most)
    found: list[Axes] = picture.subplots(lines, columns, squeeze=False, **options).ravel().tolist()
    for spare in found[number:]:
        spare.remove()
    return found[:number]


def headline(picture: Figure, results: Iterable[Result], title: str) -> None:
    """Writes a title above the panels, broken to the figure's width, and the runs' marks into the corner."""
    letters = int(picture.get_figwidth() * 0.78 / LETTER)
    words = corner(results)
    lines = textwrap.wrap(title, letters)
    strip = LINE if words else 0.0
    height = picture.get_figheight() + LINE * max(0, len(lines) - 2) + strip
    picture.set_figheight(height)
    picture.suptitle("\n".join(lines), y=1 - (strip + 0.04) / height)
    if isinstance(engine := picture.get_layout_engine(), ConstrainedLayoutEngine):  # it leaves no room for a title at y
        engine.set(rect=(0, 0, 1, 1 - (strip + LINE * len(lines) + 0.08) / height))
    if words:
        place = (0.06 / picture.get_figwidth(), 1 - 0.04 / height)
        picture.text(*place, words, ha="left", va="top", size=SMALL, style="italic", color=GREY, gid="mark")


def say(artist: Artist, words: str) -> None:
    """Gives what is drawn words that a browser shows under the pointer."""
    artist.set_gid(SPOKEN + words)


class _UpTo(Locator):
    """Takes another locator's ticks up to a value."""

    def __init__(self, every: Locator, most: float) -> None:
        self.every, self.most = every, most

    def __call__(self) -> list[float]:
        return [place for place in self.every() if place <= self.most + 1e-9]

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        return [place for place in self.every.tick_values(vmin, vmax) if place <= self.most + 1e-9]


def end_at_whole(axis: XAxis | YAxis, whole: float = WHOLE) -> None:
    """Ends an axis of scores at 100 % where its limits reach beyond: room for a sign is no room for a score."""
    low, high = sorted(axis.get_view_interval())
    if high <= whole:
        return
    axis.set_major_locator(_UpTo(axis.get_major_locator(), whole))
    axis.axes.spines["bottom" if isinstance(axis, XAxis) else "left"].set_bounds(low, whole)


def legend(picture: Figure, handles: Sequence[Artist]) -> None:
    """Explains the signs below the panels, in as many columns as the width holds."""
    if not handles:
        return
    column = inches([str(handle.get_label()) for handle in handles]) + 0.65
    most = max(1, int(picture.get_figwidth() / column))
    picture.legend(handles=list(handles), loc="outside lower center", ncols=min(most, len(handles)))


def rows(panel: Axes, labels: Sequence[str]) -> None:
    """Makes a panel of rows, the first one on top."""
    panel.set_yticks(range(len(labels)), labels)
    panel.set_ylim(len(labels) - 0.5, -0.5)
    panel.tick_params(axis="y", length=0)
    panel.grid(axis="x")
    panel.spines["left"].set_visible(False)
    panel.margins(x=0.1)


def beside(panel: Axes, place: float, words: str) -> None:
    """Writes words to the right of a row."""
    panel.text(1.02, place, words, transform=panel.get_yaxis_transform(), va="center")


def widen(panel: Axes, least: float = 0.5) -> None:
    """Keeps the horizontal axis at least this wide: a spread that is nothing must not look like something."""
    low, high = panel.get_xlim()
    if high - low < least:
        panel.set_xlim((low + high - least) / 2, (low + high + least) / 2)


def column_labels(panel: Axes, labels: Sequence[str], width: float) -> None:
    """Labels the columns of a panel, upright where the longest is wider than a column's width in inches."""
    upright = inches(labels) > width
    panel.set_xticks(range(len(labels)), labels, rotation=90 if upright else 0)
    panel.tick_params(axis="x", length=0)


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Moves places in [0, 1] as little as possible (least squares) until they are `gap` apart, in their order."""
    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    room = min(0.0, 1 - gap * (len(places) - 1)) / 2
    moved = isotonic_regression(np.asarray(places)[order] - steps).x if len(places) else np.array([])
    result = np.empty(len(places))
    result[order] = np.clip(moved, room, max(room, 1 - room - gap * (len(places) - 1))) + steps
    return [float(place) for place in result]


def label_points(panel: Axes, points: Sequence[tuple[float, float, str]], height: float) -> None:
    """Labels points (x, y, label) in a column to the right of a panel, each with a thin line to its point.

    Args:
        panel: with its final limits.
        points: in data units.
        height: of the panel in inches, roughly.
    """
    low, high = panel.get_ylim()
    places = spread([(y - low) / (high - low) for _, y, _ in points], 0.15 / height)
    for (x, y, label), place in zip(points, places, strict=True):
        panel.annotate(
            label, (x, y), xytext=(1.05, place), textcoords="axes fraction", va="center",
            arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.4, "shrinkA": 0, "shrinkB": 2, "relpos": (0, 0.5)},
        )  # fmt: skip
