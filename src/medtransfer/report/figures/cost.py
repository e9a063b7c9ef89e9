"""Cost against score: how long training takes to come close to its best, and how good it is in test."""

from __future__ import annotations

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medtransfer.comparison.findings import Findings
from medtransfer.comparison.training_times import learning
from medtransfer.core import palette
from medtransfer.report.figures import names, style
from medtransfer.results.result import Result, of_task

CLOSE = 0.95
"""share of the best score on val that counts as close"""
MOST, WIDTH = 2, 2.3
"""panels in a line, and inches of one without its labels"""


def draw(findings: Findings) -> Figure | None:
    """Draws one panel per task, a labelled point per complete initialization."""
    points = {task: _points(findings, task) for task in findings.benchmark.tasks}
    tasks = [task for task, found in points.items() if found]
    if not tasks:
        return None
    lines, columns = style.shape(len(tasks), MOST)
    labels = names.names(findings.benchmark.inits)
    height = max(1.8, 0.16 * len(labels))
    size = (columns * (WIDTH + style.inches(labels.values())), lines * (height + 0.9) + 0.8)
    picture = Figure(figsize=size, layout="constrained")
    for panel, task in zip(style.panels(picture, len(tasks), MOST), tasks, strict=True):
        panel.set_title(textwrap.fill(names.task_title(findings, task), 50))
        panel.set_xlabel(_axis(of_task(findings.results, task)[0]))
        panel.set_ylabel("test score in percent")
        named = [(x, y, labels[init]) for init, (x, y) in points[task].items()]
        _draw_task(panel, named, labels.get(findings.reference, ""), 0.9 * height)
    title = f"Test score against the time until val first reaches {100 * CLOSE:g} % of the run's best"
    style.headline(picture, findings.results, names.on_backbone(title, findings.benchmark.inits))
    return picture


def caption(findings: Findings) -> str:
    """Says what is shown."""
    whole = [row for task in findings.benchmark.tasks for row in names.complete(findings, task)]
    return (
        f"Mean test score against the mean time of training until the score on val first reached {100 * CLOSE:g} % of "
        f"the run's best, {names.number(whole)}; epochs of a run are taken as equally long. Square: "
        f"{findings.reference}. Both axes are cut: they do not begin at 0. No interval and no test."
    )


def seconds(result: Result) -> float | None:
    """Computes the time until val is close to its best; None where the run has no scores on val or no time."""
    scores = [epoch.get(f"val_{result.metric}") for epoch in learning(result)]
    best = max((score for score in scores if score is not None), default=None)
    if best is None or "seconds" not in result.cost:
        return None
    goal = best - (1 - CLOSE) * abs(best)  # a kappa may be negative
    epochs = next(number for number, score in enumerate(scores, start=1) if score is not None and score >= goal)
    return (result.cost.get("gpu_seconds", 0.0) or result.cost["seconds"]) * epochs / len(scores)


def _axis(result: Result) -> str:
    """Names the time's unit and where it was measured."""
    return f"{'GPU seconds' if result.cost.get('gpu_seconds', 0.0) else 'seconds'} ({result.device})"


def _points(findings: Findings, task: str) -> dict[str, tuple[float, float]]:
    found = {}
    for row in names.complete(findings, task):
        times = [seconds(result) for result in of_task(findings.results, task) if result.init == row.init]
        known = [time for time in times if time is not None]
        if row.summary is not None and known and len(known) == len(times):
            found[row.init] = (sum(known) / len(known), 100 * row.summary.mean)
    return found


def _draw_task(panel: Axes, points: list[tuple[float, float, str]], reference: str, height: float) -> None:
    for x, y, label in points:
        marker, colour = ("s", palette.ORANGE) if label == reference else ("o", palette.BLUE)
        style.say(
            panel.plot(x, y, marker, color=colour, ms=6, mec="white", mew=0.6)[0], f"{label}: {y:.2f} after {x:.1f} s"
        )
    panel.margins(0.12)
    panel.grid()
    style.label_points(panel, points, height)
    style.end_at_whole(panel.yaxis)
