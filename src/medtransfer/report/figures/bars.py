"""The scores of one task as bars against the reference's line, as the paper of 2021 draws self-supervised weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from medtransfer.comparison.findings import Findings
from medtransfer.comparison.published_form import Row, test_rows
from medtransfer.comparison.wording import percent
from medtransfer.core import palette
from medtransfer.report.figures import names as words
from medtransfer.report.figures import style
from medtransfer.results.result import of_task

STARS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
PITCH = 0.42
"""inches between two bars"""


def draw(findings: Findings, task: str) -> Figure | None:
    """Draws one bar per complete initialization but the reference, in the benchmark's order."""
    base = words.reference(findings, task)
    others = [row for row in words.complete(findings, task) if row.init != findings.reference]
    if base is None or not others:
        return None
    labels = words.names(findings.benchmark.inits)
    names = [labels[row.init] for row in others]
    pitch = max(PITCH, 4.2 / len(others))
    depth = style.inches(names) if style.inches(names) > pitch else 0.2
    picture = Figure(figsize=(pitch * len(others) + 0.9, depth + 4.0), layout="constrained")
    panel = picture.subplots()
    _draw_base(panel, base)
    for place, row in enumerate(others):
        draw_bar(panel, place, row, mark(row, base, findings), names[place], color="#BDBDBD")
    style.column_labels(panel, names, pitch)
    panel.set_xlim(-0.6, len(others) - 0.4)
    panel.set_ylim(*limits([base, *others]))
    style.end_at_whole(panel.yaxis)
    panel.set_ylabel("test score in percent: mean ± std")
    title = words.on_backbone(words.task_title(findings, task), findings.benchmark.inits)
    style.headline(picture, of_task(findings.results, task), title)
    style.legend(picture, _legend(labels[findings.reference], base))
    return picture


def caption(findings: Findings, task: str) -> str:
    """Says what is shown."""
    whole = words.complete(findings, task)
    return (
        f"{task}: mean test score and one std (whisker, ddof 1), {words.number(whole)}; line and band: mean and one "
        f"std of {findings.reference}. Marks: {words.test(findings, whole)}, two-sided, against it, correction: none: "
        "n.s., * p < 0.05, ** p < 0.01, *** p < 0.001, in brackets where worse than it. "
        "Each mark is one test, as papers print it: the answer counts all comparisons at once, and may say less. "
        "The vertical axis is cut: it does not begin at 0."
    )


def mark(row: Row, base: Row, findings: Findings) -> str:
    """Marks the significance of a difference; in brackets where the reference is better."""
    result = test_rows(row, base, findings.settings)
    if result.p is None:
        return "no\ntest"
    stars = next((stars for bound, stars in STARS if result.p < bound), "n.s.")
    return f"({stars})" if result.difference < 0 and stars != "n.s." else stars


def _draw_base(panel: Axes, base: Row) -> None:
    mean, std = (100 * x for x in mean_std(base))
    panel.axhspan(mean - std, mean + std, color="#FBE3B0", lw=0, zorder=0)
    panel.axhline(mean, color=palette.ORANGE, lw=1.5, ls="--", zorder=3)


def draw_bar(panel: Axes, place: int, row: Row, text: str, name: str, **look: Any) -> None:
    """Draws the mean of a row as a bar with a whisker of one std, a text above it and its name under the pointer."""
    mean, std = (100 * x for x in mean_std(row))
    bar = panel.bar(place, mean, 0.68, edgecolor=palette.BLACK, lw=0.6, **look)
    style.say(bar[0], f"{name}: {percent(row.summary)}")
    panel.errorbar(place, mean, yerr=std or None, color=palette.BLACK, capsize=3, lw=1, zorder=4)
    if text:
        panel.annotate(text, (place, mean + std), xytext=(0, 3), textcoords="offset points", ha="center", va="bottom")


def mean_std(row: Row) -> tuple[float, float]:
    """Gives mean and std of a complete row; the std of a single run counts as 0."""
    return (0.0, 0.0) if row.summary is None else (row.summary.mean, row.summary.std or 0.0)


def limits(rows: Sequence[Row]) -> tuple[float, float]:
    """Cuts the axis a little below and above all whiskers, in percent; at least half a point stays."""
    spans = [mean_std(row) for row in rows]
    low, high = (100 * f(mean + sign * std for mean, std in spans) for f, sign in ((min, -1), (max, 1)))
    size = max(high - low, 0.5)
    return low - 0.15 * size, high + 0.2 * size


def _legend(name: str, base: Row) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = [Line2D([], [], color=palette.ORANGE, lw=1.5, ls="--", label=f"{name}: mean")]
    several = base.summary is not None and base.summary.std is not None
    return [*handles, *([Patch(color="#FBE3B0", label="± its std")] if several else [])]
