"""All scores: one panel per task, one row per initialization, one dot per run."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from medtransfer.comparison.findings import Findings
from medtransfer.comparison.published_form import Row
from medtransfer.core import palette
from medtransfer.report.figures import names, style
from medtransfer.report.figures.style import Look

KEPT, APART = Look(palette.BLUE, "D"), Look(palette.GREY, "v")
MOST, WIDTH = 4, 2.5
"""panels in a line, and inches of one"""


def draw(findings: Findings) -> Figure:
    """Draws each init as a row: its runs as dots, their mean and a bar of one std."""
    tasks, labels = findings.benchmark.tasks, names.names(findings.benchmark.inits)
    lines, columns = style.shape(len(tasks), MOST)
    width = max(style.inches(labels.values()) + WIDTH * columns, 5.5)
    picture = Figure(figsize=(width, (0.25 * len(labels) + 0.75) * lines + 1.3), layout="constrained")
    for panel, task in zip(style.panels(picture, len(tasks), MOST, sharey=True), tasks, strict=True):
        panel.set_title(textwrap.fill(names.task_title(findings, task), 34))
        column = findings.columns.get(task)
        kept = column.candidates if column else tuple(row.init for row in names.complete(findings, task))
        _draw_task(panel, findings.of_task(task), list(labels.values()), kept)
    title = names.on_backbone("Test score in percent: runs, mean ± std", findings.benchmark.inits)
    style.headline(picture, findings.results, title)
    style.legend(picture, _legend())
    return picture


def caption(findings: Findings) -> str:
    """Says what is shown."""
    whole = [row for task in findings.benchmark.tasks for row in names.complete(findings, task)]
    return (
        f"Test score in percent: every run (dot), mean and one std (bar, ddof 1), {names.number(whole)}. Blue: no "
        "other "
        f"was shown to be better (all pairs, all of the page at once, {findings.alpha:.2g}). Bars of one init do not "
        "say "
        "whether two differ: the differences below do."
    )


def _draw_task(panel: Axes, column: Sequence[Row], labels: list[str], kept: Sequence[str]) -> None:
    style.rows(panel, labels)
    for place, row in enumerate(column):
        _draw_row(panel, place, row, KEPT if row.init in kept else APART)
    if all(row.summary is None for row in column):
        panel.set_xticks([])
    else:
        style.widen(panel)


def _draw_row(panel: Axes, place: int, row: Row, look: Look) -> None:
    if row.summary is None:
        panel.text(0.5, place, _why(row), transform=panel.get_yaxis_transform(), ha="center", va="center")
        return
    runs = [100 * score for score in row.scores]
    panel.plot(runs, [place + 0.22] * len(runs), "o", color=look.colour, ms=3, alpha=0.6)
    std = 100 * (row.summary.std or 0.0) or None
    mean = 100 * row.summary.mean
    panel.errorbar(mean, place - 0.08, xerr=std, color=look.colour, marker=look.marker, ms=6, capsize=3, lw=1.5)


def _why(row: Row) -> str:
    """Says why a row has no mean."""
    if row.scores:
        return f"{len(row.scores)} of {row.expected} {'run' if row.unit == 'seed' else row.unit}s"
    if row.undefined:
        return "undefined"
    return "no runs" if row.applicable else "not applicable"


def _legend() -> list[Line2D]:
    looks = (("none shown to be better", KEPT), ("shown to be worse, or not compared", APART))
    handles = [Line2D([], [], color=look.colour, marker=look.marker, lw=1.5, label=words) for words, look in looks]
    return [*handles, Line2D([], [], color=palette.GREY, marker="o", ms=3, lw=0, label="one run (seed, fold or split)")]
