"""Segmentation against classification: who gains on the one and loses on the other."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medtransfer.comparison.findings import Findings
from medtransfer.core import palette
from medtransfer.report.figures import names, style
from medtransfer.results.result import kind_of, of_task

HEIGHT = 4.2
"""inches of the panel, at least"""


def draw(findings: Findings) -> Figure | None:
    """Draws a labelled point per initialization that is comparable with the reference on tasks of both kinds."""
    points = {init: point for init in findings.benchmark.inits if (point := _point(findings, init)) is not None}
    if not points:
        return None
    labels = names.names(findings.benchmark.inits)
    height = max(HEIGHT, 0.17 * len(points))
    size = (height + 1.0 + style.inches([labels[init] for init in points]), height + 1.3)
    picture = Figure(figsize=size, layout="constrained")
    panel = picture.subplots()
    for init, (x, y) in points.items():
        whole = _counts(findings, init) == _counts(findings, findings.reference)
        sign = panel.plot(x, y, "o", color=palette.BLUE, mfc=palette.BLUE if whole else "white", ms=7)
        style.say(sign[0], f"{labels[init]}: classification {x:+.2f}, segmentation {y:+.2f}")
    _draw_lines(panel)
    style.label_points(panel, [(x, y, labels[init]) for init, (x, y) in points.items()], 0.9 * height)
    name = names.shorten(labels[findings.reference])
    panel.set_xlabel(f"classification: difference to {name}, points")
    panel.set_ylabel(f"segmentation: difference to {name}, points")
    title = names.on_backbone("Mean difference by kind of task", findings.benchmark.inits)
    style.headline(picture, findings.results, title)
    return picture


def caption(findings: Findings) -> str:
    """Says what is shown."""
    classification, segmentation = _counts(findings, findings.reference)
    whole = [row for task in findings.benchmark.tasks for row in names.complete(findings, task)]
    numbers = (
        f"{names.count(segmentation, 'segmentation task')} and {names.count(classification, 'classification task')}"
    )
    return (
        f"Difference in mean test score to {findings.reference} in percentage points, averaged over {numbers}, "
        f"{names.number(whole)}; on the dotted line both are equal. Hollow: not on all of these tasks. "
        "No interval and no test."
    )


def _differences(findings: Findings, init: str, kind: str) -> list[float]:
    """Lists, over the tasks of a kind that have both, the difference to the reference in points."""
    found = []
    for task in findings.benchmark.tasks:
        base = names.reference(findings, task)
        row = next((row for row in names.complete(findings, task) if row.init == init), None)
        own = of_task(findings.results, task)
        if base and row and base.summary and row.summary and kind_of(own[0]) == kind:
            found.append(100 * (row.summary.mean - base.summary.mean))
    return found


def _counts(findings: Findings, init: str) -> tuple[int, int]:
    """Counts the tasks of either kind: classification, segmentation."""
    kinds = ("classification", "segmentation")
    classification, segmentation = (len(_differences(findings, init, kind)) for kind in kinds)
    return classification, segmentation


def _point(findings: Findings, init: str) -> tuple[float, float] | None:
    x, y = (_differences(findings, init, kind) for kind in ("classification", "segmentation"))
    return (_mean(x), _mean(y)) if init != findings.reference and x and y else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _draw_lines(panel: Axes) -> None:
    """Draws both zero lines and the line of equal differences, which must not stretch the axes."""
    panel.margins(0.12)
    for least, get, put in ((1.0, panel.get_xlim, panel.set_xlim), (1.0, panel.get_ylim, panel.set_ylim)):
        low, high = get()
        put(min(low, -least / 2), max(high, least / 2))
    panel.autoscale(False)
    panel.axhline(0, color=palette.BLACK, lw=0.8)
    panel.axvline(0, color=palette.BLACK, lw=0.8)
    panel.axline((0, 0), slope=1, color=palette.GREY, lw=0.8, ls=":")
    panel.grid()
