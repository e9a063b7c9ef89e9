"""The answer at a glance: how far every initialization is from the reference, over all tasks and on each."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from medtransfer.comparison.contrasts import ALL, Contrast
from medtransfer.comparison.findings import Findings
from medtransfer.comparison.wording import points
from medtransfer.core import palette
from medtransfer.report.figures import forest, names, style

MOST, WIDTH = 4, 1.9
"""panels in a line, and inches of one"""
KINDS = (
    ("better", "better than the reference"), ("equivalent", "equivalent to it"), ("not", "not separated from it"),
    ("worse", "worse than it"), ("no", "no test"),
)  # fmt: skip
"""first word of a verdict, and what the legend says of it"""


def draw(findings: Findings) -> Figure | None:
    """Draws a panel for all tasks and one for each, with a row per initialization; None: the reference has no runs."""
    scopes = [scope for scope in (ALL, *findings.benchmark.tasks) if findings.against_reference(scope)]
    if not scopes:
        return None
    labels = names.names(findings.benchmark.inits)
    order = _order(findings, scopes)
    lines, columns = style.shape(len(scopes), MOST)
    width = max(style.inches([labels[init] for init in order]) + WIDTH * columns, 5.5)
    picture = Figure(figsize=(width, (0.25 * len(order) + 0.95) * lines + 1.3), layout="constrained")
    for panel, scope in zip(style.panels(picture, len(scopes), MOST, sharey=True), scopes, strict=True):
        _draw_panel(panel, findings, scope, order, labels)
    kept = findings.columns[scopes[0]].candidates
    for label, init in zip(picture.axes[0].get_yticklabels(), order, strict=True):
        label.set_fontweight("bold" if init in kept else "normal")
    reference = names.shorten(labels[findings.reference])
    title = names.on_backbone(f"Difference to {reference} in test score", findings.benchmark.inits)
    style.headline(picture, findings.results, title)
    style.legend(picture, _legend([c for scope in scopes for c in findings.against_reference(scope)]))
    return picture


def caption(findings: Findings) -> str:
    """Says what is shown."""
    whole = [row for task in findings.benchmark.tasks for row in names.complete(findings, task)]
    several = " Over all tasks each counts in units of its margin." if findings.against_reference(ALL) else ""
    scope = " over all tasks" if several else ""
    return (
        f"Difference in mean test score to {findings.reference}, {names.number(whole)}, the best on top.{several} "
        f"Bold: no other was shown to be better{scope}. Sign: the estimate. Thin: the interval that decides on better "
        "and worse; thick: on what is within the margin (band). All comparisons of the page hold at once (Bonferroni, "
        f"{findings.alpha:.2g}); not separated is not equivalent."
    )


def _order(findings: Findings, scopes: Sequence[str]) -> list[str]:
    """Orders the inits by the first scope, best first, the reference at its place; behind them who is not in it."""
    first = {contrast.init: contrast.estimate for contrast in findings.against_reference(scopes[0])}
    first[findings.reference] = 0.0
    rest = [init for scope in scopes[1:] for init in (contrast.init for contrast in findings.against_reference(scope))]
    return list(dict.fromkeys([*sorted(first, key=lambda init: -first[init]), *rest]))


def _draw_panel(panel: Axes, findings: Findings, scope: str, order: Sequence[str], labels: Mapping[str, str]) -> None:
    found = {contrast.init: contrast for contrast in findings.against_reference(scope)}
    style.rows(panel, [labels[init] for init in order])
    scale = 1.0 if scope == ALL else 100.0
    margin = next(iter(found.values())).margin
    if margin is not None:
        panel.axvspan(-scale * margin, scale * margin, color=palette.PALE, lw=0, zorder=0)
    panel.axvline(0, color=palette.BLACK, lw=0.8)
    for place, init in enumerate(order):
        if init == findings.reference:
            panel.plot(0, place, "|", color=palette.BLACK, ms=9, mew=1.5)
        elif init in found:
            _draw_row(panel, place, found[init], scale, labels[init])
    style.widen(panel)
    panel.set_title("all tasks" if scope == ALL else textwrap.fill(names.task_title(findings, scope), 30))
    panel.set_xlabel("margins" if scope == ALL else "percentage points")


def _draw_row(panel: Axes, place: int, contrast: Contrast, scale: float, name: str) -> None:
    look = forest.LOOKS[contrast.word.split()[0]]
    ends = ((contrast.low, contrast.high, 1.0), (contrast.equal_low, contrast.equal_high, 3.5))
    for low, high, width in ends:
        if low is not None and high is not None:
            panel.plot([scale * low, scale * high], [place, place], color=look.colour, lw=width, solid_capstyle="butt")
    edge = look.colour if look.marker == "x" else "white"
    sign = panel.plot(scale * contrast.estimate, place, look.marker, color=look.colour, ms=7, mec=edge, mew=0.8)
    said = f"{contrast.estimate:+.2f} margins" if scale == 1.0 else f"{points(contrast.estimate)} points"
    style.say(sign[0], f"{name}: {said}; {contrast.word}")


def _legend(found: Sequence[Contrast]) -> list[Artist]:
    drawn = {contrast.word.split()[0] for contrast in found}
    handles: list[Artist] = [
        Line2D([], [], color=look.colour, marker=look.marker, ms=7, lw=1.8, label=words)
        for kind, words in KINDS
        if kind in drawn and (look := forest.LOOKS[kind])
    ]
    margins = any(contrast.margin is not None for contrast in found)
    return [*handles, *([Patch(color=palette.PALE, label="± margin")] if margins else [])]
