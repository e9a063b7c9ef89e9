"""Random, reference and other supervised weights side by side, as the paper of 2021 draws iNat2021."""

from __future__ import annotations

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from medtransfer.comparison.findings import Findings
from medtransfer.comparison.published_form import Row, test_rows
from medtransfer.core import palette
from medtransfer.report.figures import bars, names, style
from medtransfer.weights.families import matches

HATCHES = ("//", "\\\\", "xx", "--", "||", "++", "oo", "**")
WIDTH, PITCH = 9.6, 0.5
"""inches of a line of panels, and between two bars"""


def draw(findings: Findings) -> Figure | None:
    """Draws one panel per task on which another supervised initialization has all its runs."""
    inits = [
        init for init in findings.benchmark.inits if init == findings.reference or _random(init) or _supervised(init)
    ]
    tasks = [task for task in findings.benchmark.tasks if _has_other(findings, task)]
    if not tasks:
        return None
    panel_width = max(PITCH * len(inits) + 0.6, 2.4)
    most = max(1, int(WIDTH / panel_width))
    lines, columns = style.shape(len(tasks), most)
    size = (max(columns * panel_width, 5.0), 2.6 * lines + 1.0 + 0.1 * len(inits))
    picture = Figure(figsize=size, layout="constrained")
    looks, labels = _looks(inits, findings.reference), names.names(findings.benchmark.inits)
    shown = set[str]()
    for panel, task in zip(style.panels(picture, len(tasks), most), tasks, strict=True):
        panel.set_title(textwrap.fill(names.task_title(findings, task), int(panel_width / 0.08)))
        shown.update(_draw_task(panel, findings, task, looks, labels))
    title = names.on_backbone("Test score in percent: mean ± std", findings.benchmark.inits)
    style.headline(picture, findings.results, title)
    handles = [
        Patch(facecolor=c, hatch=h, edgecolor=palette.BLACK, lw=0.6, label=labels[i])
        for i, (c, h) in looks.items()
        if i in shown
    ]
    style.legend(picture, handles)
    return picture


def caption(findings: Findings) -> str:
    """Says what is shown."""
    whole = [row for task in findings.benchmark.tasks for row in names.complete(findings, task)]
    return (
        f"Mean test score and one std (whisker, ddof 1) of random, {findings.reference} and other supervised weights, "
        f"{names.number(whole)}. p above a bar: {names.test(findings, whole)}, two-sided, against "
        f"{findings.reference}, correction: none. The vertical axes are cut: they do not begin at 0."
    )


def _random(init: str) -> bool:
    return matches("random", init, None)


def _supervised(init: str) -> bool:
    return matches("supervised", init, None)


def _has_other(findings: Findings, task: str) -> bool:
    return any(_supervised(row.init) and row.init != findings.reference for row in names.complete(findings, task))


def _looks(inits: list[str], reference: str) -> dict[str, tuple[str, str]]:
    """Gives every init a colour and a hatch; the random ones are white and dotted, the reference is plain."""
    looks: dict[str, tuple[str, str]] = {}
    for init in sorted(inits, key=lambda init: (not _random(init), init != reference)):
        number = len(looks)
        colour, hatch = (palette.SKY, palette.GREEN, palette.PINK)[number % 3], HATCHES[number % len(HATCHES)]
        looks[init] = (palette.ORANGE, "") if init == reference else (colour, hatch)
        if _random(init) and init != reference:
            looks[init] = ("white", "." * (2 + number))
    return looks


def _draw_task(
    panel: Axes, findings: Findings, task: str, looks: dict[str, tuple[str, str]], labels: dict[str, str]
) -> list[str]:
    """Draws the bars of a task; returns the inits that have one."""
    present = {row.init: row for row in names.complete(findings, task)}
    shown = [present[init] for init in looks if init in present]
    base = names.reference(findings, task)
    for place, row in enumerate(shown):
        colour, hatch = looks[row.init]
        bars.draw_bar(panel, place, row, _p(row, base, findings), labels[row.init], color=colour, hatch=hatch)
    panel.set_xticks([])
    panel.set_xlim(-0.7, len(shown) - 0.3)
    panel.set_ylim(*bars.limits(shown))
    style.end_at_whole(panel.yaxis)
    return [row.init for row in shown]


def _p(row: Row, base: Row | None, findings: Findings) -> str:
    if base is None or row is base:
        return ""
    return "\n".join(names.p_value(test_rows(row, base, findings.settings).p).rsplit(" ", 1))
