"""The differences to the reference on one task, as a forest plot."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from medtransfer.cells import of_task
from medtransfer.contrasts import Contrast
from medtransfer.figures import style, words
from medtransfer.findings import Findings

LOOKS = {
    "better": style.BETTER,
    "worse": style.WORSE,
    "equivalent": style.ALIKE,
    "not separated": style.OPEN,
    "no test": style.Look(style.GREY, "x"),
}


def draw(findings: Findings, task: str) -> Figure | None:
    """Draws each contrast with the reference as a row, the largest difference on top."""
    found = sorted(findings.family(task, "reference"), key=lambda contrast: -contrast.estimate)
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
        _draw_contrast(panel, place, contrast, findings.settings.alpha)
    style.widen(panel)
    panel.set_xlabel(f"difference to {words.shorten(labels[findings.reference])} in percentage points")
    title = words.on_backbone(words.task_title(findings, task), findings.benchmark.inits)
    style.headline(picture, of_task(findings.cells, task), title)
    style.legend(picture, _legend(found))
    return picture


def caption(findings: Findings, task: str) -> str:
    """Says what is shown."""
    found = findings.family(task, "reference")
    n = words.number(row for row in findings.of_task(task) if row.init in {contrast.init for contrast in found})
    margin = found[0].margin
    band = "" if margin is None else f"; band: ± the margin of {100 * margin:g} percentage points"
    return f"{task}: difference in mean test score to {findings.reference}, {n}{band}. {_method(findings, found)}"


def _method(findings: Findings, found: Sequence[Contrast]) -> str:
    """Says what intervals and p-values are over."""
    basis, unit = " or ".join(sorted({contrast.basis for contrast in found})), found[0].unit
    if all(contrast.low is None for contrast in found):
        return f"No interval: {found[0].note}."
    thin = f" and over {basis} (thin)" if basis != f"{unit}s" else ""
    test = "corrected resampled t" if unit == "fold" else "paired t"
    return (
        f"{words.level(findings)} intervals over {unit}s alone (thick, {test}){thin}; two-sided p-values over {basis}, "
        f"Holm-adjusted for {words.count(len(found), 'comparison')} of this task; equivalent: two one-sided tests; not "
        "separated is not equivalent."
    )


def word(contrast: Contrast, alpha: float) -> str:
    """Says what a contrast shows."""
    if contrast.separated(alpha):
        return "better" if contrast.estimate > 0 else "worse"
    if contrast.equivalent:
        return "equivalent"
    return "not separated" if contrast.p is not None else "no test"


def _mark_margin(panel: Axes, margin: float | None) -> None:
    if margin is not None:
        panel.axvspan(-100 * margin, 100 * margin, color=style.PALE, lw=0, zorder=0)
    panel.axvline(0, color=style.BLACK, lw=0.8)


def _draw_contrast(panel: Axes, place: int, contrast: Contrast, alpha: float) -> None:
    said = word(contrast, alpha)
    look = LOOKS[said]
    for low, high, width in ((contrast.low, contrast.high, 1.0), (contrast.seeds.low, contrast.seeds.high, 3.5)):
        if low is not None and high is not None:
            panel.plot([100 * low, 100 * high], [place, place], color=look.colour, lw=width, solid_capstyle="butt")
    edge = look.colour if look.marker == "x" else "white"
    panel.plot(100 * contrast.estimate, place, look.marker, color=look.colour, ms=7, mec=edge, mew=0.8)
    numbers = "" if contrast.p_adjusted is None else f", {words.p_value(contrast.p_adjusted)}"
    style.beside(panel, place, said + numbers)


def _legend(found: Sequence[Contrast]) -> list[Artist]:
    unit = found[0].unit
    known = [contrast for contrast in found if contrast.low is not None]
    widths = {f"{unit}s alone": 3.5 for _ in known} | {contrast.basis: 1.0 for contrast in known if contrast.joint}
    lines = [Line2D([], [], color=style.GREY, lw=lw, label=f"interval over {over}") for over, lw in widths.items()]
    return [*lines, *([Patch(color=style.PALE, label="± margin")] if found[0].margin is not None else [])]
