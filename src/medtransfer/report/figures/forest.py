"""The differences to the reference on one task, as a forest plot."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from medtransfer.comparison.contrasts import Contrast
from medtransfer.comparison.findings import Findings
from medtransfer.comparison.wording import interval, margin_words, points
from medtransfer.core import palette
from medtransfer.report.figures import names as words
from medtransfer.report.figures import style
from medtransfer.results.result import of_task

LOOKS = {
    "better": style.BETTER,
    "worse": style.WORSE,
    "equivalent": style.ALIKE,
    "not": style.OPEN,
    "no": style.Look(palette.GREY, "x"),
}
"""first word of a verdict -> how it looks"""


def draw(findings: Findings, task: str) -> Figure | None:
    """Draws each contrast with the reference as a row, the largest difference on top."""
    found = sorted(findings.against_reference(task), key=lambda contrast: -contrast.estimate)
    if not found:
        return None
    labels = words.names(findings.benchmark.inits)
    names = [labels[contrast.init] for contrast in found]
    size = (style.inches(names) + 6.2, 0.27 * len(found) + 2.1)
    picture = Figure(figsize=size, layout="constrained")
    panel = picture.subplots()
    style.rows(panel, names)
    _mark_margin(panel, found[0].margin)
    for place, contrast in enumerate(found):
        _draw_contrast(panel, place, contrast, names[place])
    style.widen(panel)
    panel.set_xlabel(f"difference to {words.shorten(labels[findings.reference])} in percentage points")
    title = words.on_backbone(words.task_title(findings, task), findings.benchmark.inits)
    style.headline(picture, of_task(findings.results, task), title)
    style.legend(picture, _legend(found))
    return picture


def caption(findings: Findings, task: str) -> str:
    """Says what is shown."""
    found = findings.against_reference(task)
    n = words.number(row for row in findings.of_task(task) if row.init in {contrast.init for contrast in found})
    margin = found[0].margin
    band = "" if margin is None else f"; band: ± the margin of {margin_words(margin)}"
    return f"{task}: difference in mean test score to {findings.reference}, {n}{band}. {_method(findings, found)}"


def _method(findings: Findings, found: Sequence[Contrast]) -> str:
    """Says what intervals are over, and what each decides."""
    if all(contrast.low is None for contrast in found):
        return "No interval: nothing varies."
    return (
        f"Over {' or '.join(sorted({contrast.basis for contrast in found}))}. Thin: decides on better and worse; "
        "thick: "
        "decides on what is within the margin. All comparisons of the page hold at once "
        f"(Bonferroni, {findings.alpha:.2g}); not separated is not equivalent."
    )


def _mark_margin(panel: Axes, margin: float | None) -> None:
    if margin is not None:
        panel.axvspan(-100 * margin, 100 * margin, color=palette.PALE, lw=0, zorder=0)
    panel.axvline(0, color=palette.BLACK, lw=0.8)


def _draw_contrast(panel: Axes, place: int, contrast: Contrast, name: str) -> None:
    look = LOOKS[contrast.word.split()[0]]
    ends = ((contrast.low, contrast.high, 1.0), (contrast.equal_low, contrast.equal_high, 3.5))
    for low, high, width in ends:
        if low is not None and high is not None:
            panel.plot([100 * low, 100 * high], [place, place], color=look.colour, lw=width, solid_capstyle="butt")
    edge = look.colour if look.marker == "x" else "white"
    sign = panel.plot(100 * contrast.estimate, place, look.marker, color=look.colour, ms=7, mec=edge, mew=0.8)
    style.say(sign[0], f"{name}: {points(contrast.estimate)}, {interval(contrast.low, contrast.high)}; {contrast.word}")
    style.beside(panel, place, contrast.word)


def _legend(found: Sequence[Contrast]) -> list[Artist]:
    drawn = any(contrast.low is not None for contrast in found)
    widths = {"decides on better and worse": 1.0, "decides on the margin": 3.5} if drawn else {}
    lines = [Line2D([], [], color=palette.GREY, lw=lw, label=label) for label, lw in widths.items()]
    return [*lines, *([Patch(color=palette.PALE, label="± margin")] if found[0].margin is not None else [])]
