"""All scores: one panel per task, one row per initialization, one dot per run."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from medtransfer.comparison.findings import Findings
from medtransfer.comparison.published_form import Row
from medtransfer.comparison.wording import percent
from medtransfer.core import palette
from medtransfer.report.figures import names, style
from medtransfer.report.figures.style import Look

KEPT, APART = Look(palette.BLUE, "D"), Look(palette.GREY, "v")
MOST, WIDTH = 4, 1.9
"""panels in a line, and inches of one"""


def draw(findings: Findings) -> Figure:
    """Draws each init as a row: its runs as dots, their mean and a bar of one std."""
    tasks, labels = findings.benchmark.tasks, names.names(findings.benchmark.inits)
    lines, columns = style.shape(len(tasks), MOST)
    kept_of = {task: _kept(findings, task) for task in tasks}
    width = max(style.inches(labels.values()) + WIDTH * columns, 5.5)
    picture = Figure(figsize=(width, (0.25 * len(labels) + 0.75) * lines + 1.3), layout="constrained")
    for panel, task in zip(style.panels(picture, len(tasks), MOST, sharey=True), tasks, strict=True):
        panel.set_title(textwrap.fill(names.task_title(findings, task), 34))
        _draw_task(panel, findings.of_task(task), labels, kept_of[task])
    title = names.on_backbone("Test score in percent: runs, mean ± std", findings.benchmark.inits)
    style.headline(picture, findings.results, title)
    style.legend(picture, _legend(findings, kept_of))
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


def _kept(findings: Findings, task: str) -> tuple[str, ...]:
    """Lists the inits of which no other was shown to be better."""
    column = findings.columns.get(task)
    return column.candidates if column else tuple(row.init for row in names.complete(findings, task))


def _draw_task(panel: Axes, column: Sequence[Row], labels: Mapping[str, str], kept: Sequence[str]) -> None:
    style.rows(panel, list(labels.values()))
    for place, row in enumerate(column):
        _draw_row(panel, place, row, KEPT if row.init in kept else APART, labels[row.init])
    if all(row.summary is None for row in column):
        panel.set_xticks([])
    else:
        style.widen(panel)
        style.end_at_whole(panel.xaxis)


def _draw_row(panel: Axes, place: int, row: Row, look: Look, name: str) -> None:
    if row.summary is None:
        panel.text(0.5, place, _why(row), transform=panel.get_yaxis_transform(), ha="center", va="center")
        return
    runs = [100 * score for score in row.scores]
    dots = panel.plot(runs, [place + 0.22] * len(runs), "o", color=look.colour, ms=3, alpha=0.6)
    style.say(dots[0], f"{name}: {', '.join(f'{run:.2f}' for run in runs)}")
    std = 100 * (row.summary.std or 0.0) or None
    mean = 100 * row.summary.mean
    bar = panel.errorbar(mean, place - 0.08, xerr=std, color=look.colour, marker=look.marker, ms=6, capsize=3, lw=1.5)
    style.say(bar.lines[0], f"{name}: {percent(row.summary)}")


def _why(row: Row) -> str:
    """Says why a row has no mean."""
    if row.scores:
        return f"{len(row.scores)} of {row.expected} {'run' if row.unit == 'seed' else row.unit}s"
    if row.undefined:
        return "undefined"
    return "no runs" if row.applicable else "not applicable"


def _legend(findings: Findings, kept: Mapping[str, Sequence[str]]) -> list[Line2D]:
    drawn = [row for row in findings.rows if row.summary is not None]
    looks = (("none shown to be better", KEPT, True), ("shown to be worse, or not compared", APART, False))
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, lw=1.5, label=words)
        for words, look, is_kept in looks
        if any((row.init in kept[row.task]) == is_kept for row in drawn)
    ]
    one = Line2D([], [], color=palette.GREY, marker="o", ms=3, lw=0, label="one run (seed, fold or split)")
    return [*handles, one] if drawn else []
