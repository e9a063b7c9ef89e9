"""Mean ranks over tasks: a critical-difference diagram where there is a test, else the ranks with their spread."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medtransfer.comparison.findings import Findings
from medtransfer.core import palette
from medtransfer.report.figures import names as words
from medtransfer.report.figures import style

BAR = 0.35
"""lines of text between two bars"""


def draw(findings: Findings) -> Figure | None:
    """Draws the mean ranks of the initializations that share two tasks or more."""
    if len(findings.ranks.tasks) < 2 or len(findings.ranked) < 2:
        return None
    labels = words.names(findings.benchmark.inits)
    names = [labels[init] for init in findings.ranked]
    return _dots(findings, names) if findings.nemenyi.critical_difference is None else _diagram(findings, names)


def caption(findings: Findings) -> str:
    """Says what is shown."""
    ranks, nemenyi = findings.ranks, findings.nemenyi
    what = f"Mean rank by test score (1 is the best) over {_groups(findings)}"
    if nemenyi.critical_difference is None:
        spread = "" if ranks.low is None else f"; bar: {100 * ranks.confidence:g} % spread over seeds of these tasks"
        return f"{what}{spread}. No test over tasks: {nemenyi.note}."
    friedman = words.p_value(findings.friedman.p)
    return (
        f"{what}, as a critical-difference diagram (Demšar 2006): a bar joins initializations that Nemenyi's test, "
        f"adjusted for all pairs, does not separate at {nemenyi.alpha:g}. {findings.friedman.test}: {friedman}."
    )


def _groups(findings: Findings) -> str:
    tasks, groups = len(findings.ranks.tasks), findings.ranks.n
    return f"{tasks} tasks" if tasks == groups else f"{tasks} tasks in {groups} groups that share no images"


def _dots(findings: Findings, names: list[str]) -> Figure:
    """Draws one row per init, the best on top."""
    ranks = findings.ranks
    order = sorted(range(len(names)), key=lambda place: ranks.mean[place])
    size = (style.inches(names) + 4.5, 0.27 * len(names) + 1.7)
    picture = Figure(figsize=size, layout="constrained")
    panel = picture.subplots()
    style.rows(panel, [names[place] for place in order])
    for line, place in enumerate(order):
        if ranks.low is not None and ranks.high is not None:
            panel.plot([ranks.low[place], ranks.high[place]], [line, line], color=palette.BLUE, lw=1.5)
        sign = panel.plot(ranks.mean[place], line, "D", color=palette.BLUE, ms=6)
        style.say(sign[0], f"{names[place]}: mean rank {ranks.mean[place]:.2f}")
        style.beside(panel, line, f"{ranks.mean[place]:.2f}")
    panel.set_xlim(0.8, len(names) + 0.2)
    panel.set_xlabel("mean rank; bar: spread over seeds of these tasks" if ranks.low else "mean rank")
    style.headline(picture, findings.results, _title(findings, f"no test: {findings.nemenyi.note}"))
    return picture


def _title(findings: Findings, rest: str) -> str:
    return words.on_backbone(f"Mean rank over {_groups(findings)}; {rest}", findings.benchmark.inits)


def _diagram(findings: Findings, names: list[str]) -> Figure:
    """Draws the axis with the critical difference above, the bars and the names below."""
    half = -(-len(names) // 2)
    cliques = findings.nemenyi.cliques or ()
    depth = BAR * (len(cliques) + 1)
    width = 2 * style.inches(names) + 5.5
    picture = Figure(figsize=(width, 0.2 * (half + depth) + 1.6), layout="constrained")
    panel = picture.subplots()
    panel.set_axis_off()
    panel.set_ylim(half + depth, -2.6)
    panel.set_xlim(0.8, len(names) + 0.2)
    _draw_axis(panel, len(names), findings.nemenyi.critical_difference or 0.0)
    mean = findings.ranks.mean
    for line, clique in enumerate(cliques, start=1):
        ends = [min(mean[place] for place in clique) - 0.05, max(mean[place] for place in clique) + 0.05]
        panel.plot(ends, [BAR * line] * 2, color=palette.BLACK, lw=3, solid_capstyle="butt")
    order = sorted(range(len(names)), key=lambda place: mean[place])
    for line, place in enumerate(order[:half]):
        _draw_name(panel, mean[place], depth + line + 0.5, 0.8, f"{names[place]}  {mean[place]:.2f} ")
    for line, place in enumerate(reversed(order[half:])):
        _draw_name(panel, mean[place], depth + line + 0.5, len(names) + 0.2, f" {mean[place]:.2f}  {names[place]}")
    friedman = f"Friedman {words.p_value(findings.friedman.p)}"
    style.headline(picture, findings.results, _title(findings, f"{friedman}; a bar joins what is not separated"))
    return picture


def _draw_axis(panel: Axes, inits: int, critical: float) -> None:
    step = -(-inits // 10)
    panel.plot([1, inits], [0, 0], color=palette.BLACK, lw=1)
    for rank in range(1, inits + 1, step):
        panel.plot([rank, rank], [0, -0.2], color=palette.BLACK, lw=1)
        panel.text(rank, -0.3, str(rank), ha="center", va="bottom")
    panel.plot([1, min(1 + critical, inits)], [-1.8, -1.8], color=palette.BLACK, lw=1, marker="|", ms=6)
    longer = ", longer than the axis: no pair can be separated" if critical > inits - 1 else ""
    panel.text(1, -2.0, f"critical difference {critical:.2f}{longer}", va="bottom")


def _draw_name(panel: Axes, rank: float, line: float, side: float, text: str) -> None:
    """Draws a line from the axis down and to one side, where the text is."""
    panel.plot([rank, rank, side], [0, line, line], color=palette.GREY, lw=0.8)
    panel.text(side, line, text, ha="right" if side < rank else "left", va="center")
