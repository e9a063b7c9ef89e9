"""Annotation efficiency: the score over the number of labels, on a log axis."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from medtransfer.comparison.findings import Findings
from medtransfer.comparison.label_curves import Point, curved
from medtransfer.report.figures import names, style
from medtransfer.report.figures.curves import looks

MOST, WIDTH = 3, 3.6
"""panels in a line, and inches of one"""
FEW = 8
"""initializations up to which intervals are drawn"""
APART = 1.022
"""factor in labels by which neighbouring initializations stand beside each other, so that intervals can be seen"""
ROOM = 1.45
"""least factor between two numbers below the axis"""


def draw(findings: Findings) -> Figure | None:
    """Draws one panel per task and protocol with the curve of every initialization."""
    panels = _panels(findings)
    if not panels:
        return None
    protocols = len({protocol for _, protocol in panels})
    most = protocols if 1 < protocols <= MOST else MOST  # then a line holds one task
    lines, columns = style.shape(len(panels), most)
    labels = names.names(findings.benchmark.inits)
    signs = looks(labels)
    key = 0.17 * len(labels) * (style.inches(labels.values()) + 0.65) / (WIDTH * columns)
    picture = Figure(figsize=(max(WIDTH * columns, 5.0), 2.6 * lines + 1.2 + key), layout="constrained")
    for panel, ((task, protocol), points) in zip(style.panels(picture, len(panels), most), panels.items(), strict=True):
        title = f"{names.task_title(findings, task)}{f', {protocol}' if protocols > 1 else ''}"
        panel.set_title(textwrap.fill(title, 44))
        _draw_panel(panel, points, signs)
    _share_limits(picture, [task for task, _ in panels])
    title = names.on_backbone("Test score in percent over labelled images of train", findings.benchmark.inits)
    style.headline(picture, findings.results, title)
    shown = {point.init for points in panels.values() for point in points}
    style.legend(picture, [line for init, line in signs.items() if init in shown])
    return picture


def caption(findings: Findings) -> str:
    """Says what is shown."""
    every = [point for points in _panels(findings).values() for point in points]
    counts = sorted({point.n for point in every})
    units = sorted({f"{point.unit}s" for point in every})
    barred = any(_barred(points) for points in _panels(findings).values())
    over = "seeds and test patients" if any(point.patients for point in every) else " or ".join(units)
    bars = f"; bar: {100 * every[0].level:g} % interval over {over}, each by itself" if barred else "; no interval"
    aside = (
        " Initializations stand a little apart sideways. Whether two differ is not read off their bars."
        if barred
        else ""
    )
    return (
        f"Mean test score in percent over the number of labelled images of train (log axis), n = {names.span(counts)} "
        f"{' or '.join(units)}{bars}. Panels of one task have one vertical axis, which is cut: it does not begin at "
        f"0.{aside}"
    )


def _panels(findings: Findings) -> dict[tuple[str, str], list[Point]]:
    """Lists the curves by task and protocol."""
    found: dict[tuple[str, str], list[Point]] = {}
    for task in findings.benchmark.tasks:
        for point in curved(findings.points, task):
            found.setdefault((task, point.protocol), []).append(point)
    return found


def _barred(points: Sequence[Point]) -> bool:
    return len({point.init for point in points}) <= FEW and any(point.low is not None for point in points)


def _draw_panel(panel: Axes, points: Sequence[Point], signs: Mapping[str, Line2D]) -> None:
    inits = list(dict.fromkeys(point.init for point in points))
    barred = _barred(points)
    for place, init in enumerate(inits):
        own = sorted((point for point in points if point.init == init), key=lambda point: point.labels)
        beside = APART ** (place - (len(inits) - 1) / 2) if barred else 1.0
        look, labels = signs[init], [point.labels * beside for point in own]
        drawn = panel.plot(
            labels, [100 * point.mean for point in own], color=look.get_color(), ls=look.get_linestyle(), lw=1.5,
            marker=look.get_marker(), ms=4,
        )  # fmt: skip
        words = ", ".join(f"{100 * point.mean:.2f} with {point.labels:,.0f}" for point in own)
        style.say(drawn[0], f"{look.get_label()}: {words}")
        for number, point in zip(labels, own, strict=True):
            if barred and point.low is not None and point.high is not None:
                ends = [100 * point.low, 100 * point.high]
                panel.plot([number, number], ends, color=look.get_color(), lw=1, alpha=0.6)
    panel.set_xscale("log")
    places = ticks([point.labels for point in points])
    panel.xaxis.set_major_locator(FixedLocator(places))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.0f}"))
    panel.set_xlabel("labelled images")
    panel.grid(axis="y")


def ticks(labels: Sequence[float]) -> list[float]:
    """Chooses from the amounts those whose numbers have room, the greatest and the fewest first."""
    kept: list[float] = []
    every = sorted(set(labels))
    for number in [every[-1], every[0], *every[1:-1]]:
        digits = len(f"{number:,.0f}") / 3
        if all(abs(math.log(number / other)) > math.log(ROOM) * max(1.0, digits) for other in kept):
            kept.append(number)
    return sorted(kept)


def _share_limits(picture: Figure, tasks: Sequence[str]) -> None:
    """Gives the panels of a task one vertical axis, so that protocols can be read off against each other."""
    for task in dict.fromkeys(tasks):
        own = [panel for panel, name in zip(picture.axes, tasks, strict=True) if name == task]
        low = min(panel.get_ylim()[0] for panel in own)
        high = max(panel.get_ylim()[1] for panel in own)
        for panel in own:
            panel.set_ylim(low, high)
            style.end_at_whole(panel.yaxis)
