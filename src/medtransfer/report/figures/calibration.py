"""Reliability diagrams and net benefit, a panel per task."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from medtransfer.comparison.calibration import Calibrated, Calibration
from medtransfer.comparison.findings import Findings
from medtransfer.core.palette import BLUE, GREY, RED
from medtransfer.report.figures import names, style
from medtransfer.report.figures.curves import looks
from medtransfer.statistics.calibration import BINS, THRESHOLDS

MOST, WIDTH = 3, 3.2
"""panels in a line, and inches of one"""
FEW = 4
"""initializations up to which each has a colour; of more, the least and the most miscalibrated of a task stand out"""
BELOW = -0.15
"""what part of the greatest net benefit is shown below none"""

Drawn = list[tuple[Calibrated, Line2D, bool]]
"""initialization, look, whether it stands out"""


def draw_reliability(findings: Findings) -> Figure | None:
    """Draws the share that is positive over the probability, in bins."""
    shown = {task: one for task, one in _tasks(findings).items() if any(len(each.shares) for each in one.inits)}
    return _draw(findings, shown, "Share of positive images over their probability", _reliability)


def draw_benefit(findings: Findings) -> Figure | None:
    """Draws net benefit over thresholds, beside calling all or no images positive."""
    return _draw(findings, _tasks(findings), "Net benefit over the threshold of the probability", _benefit)


def caption_reliability(findings: Findings) -> str:
    """Says what is shown."""
    level = 100 * (1 - findings.settings.alpha)
    return (
        f"Images in {BINS} bins of equal mass by their probability: share that is positive over the mean probability, "
        f"means over labels and {_seeds(findings)}. On the line as many are positive as was said. Bars: {level:g} % "
        "interval of the share (Wilson, of as many as its variance over test patients stands for), each by itself."
        f"{_stand_out(findings)}"
    )


def caption_benefit(findings: Findings) -> str:
    """Says what is shown."""
    return (
        f"True positives per image minus false ones at the odds of the threshold, means over labels and "
        f"{_seeds(findings)}; no interval. Grey: every image called positive (dashed), none (dotted). A threshold at "
        f"which a curve is not above both has no use for its probabilities.{_stand_out(findings)}"
    )


def _seeds(findings: Findings) -> str:
    counts = sorted({one.seeds for found in _tasks(findings).values() for one in found.inits})
    return f"n = {names.span(counts)} seeds"


def _stand_out(findings: Findings) -> str:
    if all(len(one.inits) <= FEW for one in _tasks(findings).values()):
        return ""
    return " Of each task the initializations with the least and the greatest expected calibration error stand out."


def _tasks(findings: Findings) -> dict[str, Calibration]:
    return {task: one.calibration for task, one in findings.evidence.items() if one.calibration is not None}


def _draw(
    findings: Findings, shown: dict[str, Calibration], title: str, panel_of: Callable[[Axes, Calibration, Drawn], None]
) -> Figure | None:
    if not shown:
        return None
    lines, columns = style.shape(len(shown), MOST)
    picture = Figure(figsize=(max(WIDTH * columns, 5.0), 2.9 * lines + 1.1), layout="constrained")
    few = all(len(one.inits) <= FEW for one in shown.values())
    labels = names.names(findings.benchmark.inits)
    signs = looks(labels)
    for panel, (task, found) in zip(style.panels(picture, len(shown), MOST), shown.items(), strict=True):
        panel.set_title(names.task_title(findings, task))
        panel_of(panel, found, _drawn(found, signs, few))
        panel.grid(axis="both")
    style.headline(picture, findings.results, names.on_backbone(title, findings.benchmark.inits))
    here = {one.init for found in shown.values() for one in found.inits}
    key = [line for init, line in signs.items() if init in here] if few else _roles()
    style.legend(picture, key)
    return picture


def _roles() -> list[Line2D]:
    return [
        Line2D([], [], color=BLUE, marker="o", ms=3, label="least calibration error"),
        Line2D([], [], color=RED, marker="o", ms=3, label="greatest"),
        Line2D([], [], color=GREY, lw=0.6, label="others"),
    ]


def _drawn(found: Calibration, signs: dict[str, Line2D], few: bool) -> Drawn:
    """Gives every initialization its look, those that stand out last."""
    if few:
        return [(one, signs[one.init], True) for one in found.inits]
    order = sorted(found.inits, key=lambda one: one.ece.estimate)
    least, greatest, _ = _roles()
    others: Drawn = [(one, Line2D([], [], color=GREY, lw=0.6, label=signs[one.init].get_label()), False)
                     for one in order[1:-1]]  # fmt: skip
    for one, look in ((order[0], least), (order[-1], greatest)):
        look.set_label(str(signs[one.init].get_label()))
        others.append((one, look, True))
    return others


def _reliability(panel: Axes, found: Calibration, every: Drawn) -> None:
    panel.plot([0, 100], [0, 100], color=GREY, lw=0.8, ls="--", zorder=1)
    for one, look, out in every:
        if not len(one.shares):
            continue
        said, true, low, high = 100 * one.shares.T
        line = panel.plot(said, true, color=look.get_color(), lw=1.4 if out else 0.6, ls=look.get_linestyle(),
                          marker=look.get_marker() if out else "", ms=3)  # fmt: skip
        style.say(line[0], f"{look.get_label()}: expected calibration error {100 * one.ece.estimate:.2f} points")
        if out:
            panel.vlines(said, low, high, color=look.get_color(), lw=0.8, alpha=0.6)
    ends = [100 * one.shares[:, : 4 if out else 2].max() for one, _, out in every if len(one.shares)]
    top = min(100.0, 1.02 * float(max(ends)))
    panel.set_xlim(0, top)
    panel.set_ylim(0, top)
    panel.set_xlabel("probability, percent")
    panel.set_ylabel("positive, percent")


def _benefit(panel: Axes, found: Calibration, every: Drawn) -> None:
    panel.plot(100 * THRESHOLDS, found.all_positive, color=GREY, lw=0.9, ls="--")
    panel.axhline(0, color=GREY, lw=0.9, ls=":")
    for one, look, out in every:
        line = panel.plot(100 * THRESHOLDS, one.benefit, color=look.get_color(), lw=1.4 if out else 0.6,
                          ls=look.get_linestyle())  # fmt: skip
        style.say(line[0], str(look.get_label()))
    top = max(float(found.all_positive[0]), *(float(np.max(one.benefit)) for one in found.inits))
    panel.set_ylim(BELOW * top, 1.05 * top)
    panel.set_xlim(0, 100)
    panel.set_xlabel("threshold, percent")
    panel.set_ylabel("net benefit per image")
