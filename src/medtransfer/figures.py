"""Comparison -> the figure of the report: one panel per task, one line per initialization, one dot per run."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from medtransfer import params
from medtransfer.comparison import Cell, Row, first_lines, of_task
from medtransfer.tables import column_title

BEST, CLOSE, APART = "#0072B2", "#E69F00", "#7F7F7F"  # Okabe and Ito: distinct to colour-blind readers


def figure(cells: Sequence[Cell], rows: Sequence[Row], benchmark: params.Benchmark) -> Figure:
    """Draws one panel per task: each init a row with its runs as dots, their mean and a bar of one std."""
    lines = -(-len(benchmark.tasks) // 3)
    columns = -(-len(benchmark.tasks) // lines)
    height = (0.42 * len(benchmark.inits) + 0.9) * lines + 0.9
    picture = Figure(figsize=(2.0 + 3.3 * columns, height), dpi=150, layout="constrained")
    panels = picture.subplots(lines, columns, sharey=True, squeeze=False).ravel().tolist()
    for panel, task in zip(panels, benchmark.tasks, strict=False):
        _draw(panel, [row for row in rows if row.task == task], column_title(of_task(cells, task), task))
    for panel in panels[len(benchmark.tasks) :]:
        panel.set_visible(False)
    picture.suptitle("\n".join([*first_lines(cells), "Test score in percent: runs, mean ± std"]), fontsize=10)
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
    return [*handles, Line2D([], [], color="#444444", marker="o", ms=3.5, lw=0, label="one run (seed or fold)")]


def to_png(picture: Figure) -> bytes:
    """Writes a figure as PNG bytes, equal for equal figures."""
    data = io.BytesIO()
    picture.savefig(data, format="png", metadata={"Software": None})  # equal results give equal bytes
    return data.getvalue()
