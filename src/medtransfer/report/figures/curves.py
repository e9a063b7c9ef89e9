"""Learning curves: the score on val, epoch by epoch."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from medtransfer.comparison.findings import Findings
from medtransfer.comparison.training_times import learning
from medtransfer.core import palette
from medtransfer.report.figures import names, style
from medtransfer.results.result import Result, of_task

FEW = 4
"""initializations up to which every run has a line of its own"""
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "v", "D", "P", "X", "<", ">")
MOST, WIDTH = 3, 3.6
"""panels in a line, and inches of one"""


def draw(findings: Findings) -> Figure | None:
    """Draws one panel per task with the mean curve of every initialization."""
    curves = {task: _curves(findings, task) for task in findings.benchmark.tasks}
    tasks = [task for task, found in curves.items() if found]
    if not tasks:
        return None
    lines, columns = style.shape(len(tasks), MOST)
    labels = names.names(findings.benchmark.inits)
    signs = looks(labels)
    key = 0.17 * len(labels) * (style.inches(labels.values()) + 0.65) / (WIDTH * columns)
    picture = Figure(figsize=(max(WIDTH * columns, 5.0), 2.6 * lines + 1.2 + key), layout="constrained")
    for panel, task in zip(style.panels(picture, len(tasks), MOST), tasks, strict=True):
        panel.set_title(textwrap.fill(names.task_title(findings, task), 44))
        _draw_task(panel, curves[task], signs, thin=len(labels) <= FEW)
    title = names.on_backbone("Score on val in percent, mean over runs", findings.benchmark.inits)
    style.headline(picture, findings.results, title)
    shown = {init for found in curves.values() for init in found}
    style.legend(picture, [line for init, line in signs.items() if init in shown])
    return picture


def caption(findings: Findings) -> str:
    """Says what is shown."""
    thin = "; thin: every run" if len(findings.benchmark.inits) <= FEW else ""
    counts = [len(runs) for task in findings.benchmark.tasks for runs in _curves(findings, task).values()]
    return (
        f"Primary metric on val after every epoch: mean over runs, n = {names.span(counts)}, up to the last epoch that "
        f"all of them reached (marker){thin}. Nothing here is test data; no interval and no test."
    )


def _curves(findings: Findings, task: str) -> dict[str, list[list[float]]]:
    """Gives each init with a history its runs' curves, in percent; an epoch without a score ends a curve."""
    found: dict[str, list[list[float]]] = {}
    applicable = {row.init for row in findings.of_task(task) if row.applicable}
    for result in of_task(findings.results, task):
        if result.init in applicable and (curve := _curve(result)):
            found.setdefault(result.init, []).append(curve)
    return found


def _curve(result: Result) -> list[float]:
    curve = []
    for epoch in learning(result):
        if f"val_{result.metric}" not in epoch:
            break
        curve.append(100 * epoch[f"val_{result.metric}"])
    return curve


def looks(labels: Mapping[str, str]) -> dict[str, Line2D]:
    """Gives every init a colour, a line style and a marker, no three of them twice in 252."""
    signs: list[dict[str, Any]] = [
        {"color": palette.COLOURS[k % 7], "ls": LINES[k % 4], "marker": MARKERS[k % 9], "ms": 5}
        for k in range(len(labels))
    ]
    return {
        init: Line2D([], [], lw=1.5, label=label, **sign)
        for (init, label), sign in zip(labels.items(), signs, strict=True)
    }


def _draw_task(
    panel: Axes, curves: Mapping[str, Sequence[Sequence[float]]], looks: Mapping[str, Line2D], *, thin: bool
) -> None:
    for init, runs in curves.items():
        look = looks[init]
        colour, line = look.get_color(), look.get_linestyle()
        for curve in runs if thin and len(runs) > 1 else ():
            panel.plot(range(1, len(curve) + 1), curve, color=colour, ls=line, lw=0.5, alpha=0.6)
        mean = np.mean([curve[: min(map(len, runs))] for curve in runs], axis=0)
        epochs = range(1, len(mean) + 1)
        drawn = panel.plot(epochs, mean, color=colour, ls=line, lw=1.5, marker=look.get_marker(), ms=5, markevery=[-1])
        style.say(drawn[0], f"{look.get_label()}: {mean[-1]:.2f} after {len(mean)} epochs, at best {max(mean):.2f}")
    panel.grid(axis="y")
    style.end_at_whole(panel.yaxis)
    panel.set_xlabel("epoch")
    panel.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
