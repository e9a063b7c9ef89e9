"""The claims: each part's difference with its interval, on our own runs and on published numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from medtransfer.comparison.claims import Part, Verdict, said
from medtransfer.comparison.findings import Findings
from medtransfer.comparison.wording import interval, points
from medtransfer.core import palette
from medtransfer.report.figures import names, style
from medtransfer.report.figures.style import Look

LOOKS = {
    "supported": style.BETTER,
    "contradicted": style.WORSE,
    "undecided": style.OPEN,
    "not testable": Look(palette.GREY, "x"),
}
ROW = 0.4
"""inches"""


def draw(findings: Findings) -> Figure | None:
    """Draws one panel per claim, one row per part and body of evidence."""
    claims = {name: _lines(verdicts) for name, verdicts in findings.claims.items()}
    if not any(part.estimate is not None for lines in claims.values() for _, part in lines):
        return None
    labels = {name: [_label(verdict, part) for verdict, part in lines] for name, lines in claims.items()}
    longest = [line for texts in labels.values() for text in texts for line in text.splitlines()]
    heights = [ROW * len(lines) + 0.85 for lines in claims.values()]
    picture = Figure(figsize=(style.inches(longest) + 5.8, sum(heights) + 1.2), layout="constrained")
    panels = picture.subplots(len(claims), 1, squeeze=False, height_ratios=heights).ravel().tolist()
    for panel, (name, lines) in zip(panels, claims.items(), strict=True):
        panel.set_title("\n".join([name, *textwrap.wrap(lines[0][0].says, 76)]), loc="left")
        style.rows(panel, labels[name])
        _draw_claim(panel, lines)
    style.headline(picture, findings.results, "Claims: mean difference over tasks, with its interval")
    style.legend(picture, _legend([line for lines in claims.values() for line in lines]))
    return picture


def caption(findings: Findings) -> str:
    """Says what is shown."""
    return (
        "Claims on our own runs and on each paper's numbers: mean difference over tasks in percentage points with "
        "its interval (t, degrees of freedom of Welch and Satterthwaite), the differences of single tasks as small "
        "grey "
        "dots, crosses where they are subtracted. Hollow: numbers measured in a published figure. The claims of a body "
        f"of evidence hold together with {100 * (1 - findings.settings.alpha):g} % (Bonferroni, over members of a "
        "family "
        "too)."
    )


def _lines(verdicts: Sequence[Verdict]) -> list[tuple[Verdict, Part]]:
    return [(verdict, part) for verdict in verdicts for part in verdict.parts]


def _label(verdict: Verdict, part: Part) -> str:
    own = f"our runs, {verdict.backbone}" if verdict.backbone else "our runs"
    return "\n".join(names.shorten(text) for text in (verdict.paper or own, f"{part.better} against {part.than}"))


def _draw_claim(panel: Axes, lines: Sequence[tuple[Verdict, Part]]) -> None:
    unit = lines[0][0].unit
    panel.axvline(0, color=palette.BLACK, lw=0.8)
    for place, (verdict, part) in enumerate(lines):
        word = said(part.verdict, verdict.paper)
        _draw_part(panel, place, part, unit, word)
        beside = textwrap.fill(word, 22) + (",\ncontaminated" if part.contaminated else "")
        style.beside(panel, place, beside)
    style.widen(panel)
    if all(part.estimate is None for _, part in lines):
        panel.set_xticks([])
    else:
        panel.set_xlabel(unit or "percentage points")


def _draw_part(panel: Axes, place: int, part: Part, unit: str, word: str) -> None:
    if part.estimate is None:
        return
    look, scale = LOOKS[part.verdict], 1 if unit else 100
    for one in part.differences:
        panel.plot(scale * one.estimate, place + 0.25, "o" if one.weight >= 0 else "x", color="#8C8C8C", ms=3)
    if part.low is not None and part.high is not None:
        panel.plot([scale * part.low, scale * part.high], [place - 0.1] * 2, color=look.colour, lw=1.8)
    face = "white" if part.digitised else look.colour
    sign = panel.plot(scale * part.estimate, place - 0.1, look.marker, color=look.colour, mfc=face, ms=7, mew=1.3)
    value = f"{points(part.estimate)}, {interval(part.low, part.high)}"
    if unit:
        value = f"{part.estimate:+.2f} {unit}"
    style.say(sign[0], f"{part.better} against {part.than}: {value}; {word}")


def _legend(lines: Sequence[tuple[Verdict, Part]]) -> list[Line2D]:
    """Explains the signs that these parts are drawn with, in the words that stand beside them."""
    drawn = [(of, part) for of, part in lines if part.estimate is not None]
    handles = []
    for verdict, look in LOOKS.items():
        words = dict.fromkeys(said(part.verdict, of.paper) for of, part in drawn if part.verdict == verdict)
        if words:
            label = "; ".join(words)
            handles.append(Line2D([], [], color=look.colour, marker=look.marker, ms=7, lw=1.8, label=label))
    if any(part.digitised for _, part in drawn):
        label = "from a published figure"
        handles.append(Line2D([], [], color=palette.BLACK, marker="o", mfc="white", ms=7, lw=0, label=label))
    signs = {one.weight >= 0 for _, part in drawn for one in part.differences}
    if signs:
        label = "one task (cross: subtracted)" if False in signs else "one task"
        handles.append(Line2D([], [], color="#8C8C8C", marker="o", ms=3, lw=0, label=label))
    return handles
