"""The page of a recommendation, and its answer as the terminal shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.console import Group
from rich.table import Table
from rich.text import Text

from medtransfer.comparison.wording import CORNERS, first_lines_of, plural
from medtransfer.core import files, palette
from medtransfer.report import pages
from medtransfer.report.figures import curves, drawings, names, style
from medtransfer.report.inline import Picture
from medtransfer.report.tables import Section, grid
from medtransfer.results.recommendation import Candidate, Point, Recommendation

FILE = "index.html"
WORDS = {
    "pick": "the pick", "level": "equal to the pick within the margin", "racing": "not told apart from the pick",
    "dropped": "out", "stopped": "stopped", "failed": "failed", "not raced": "not raced", "left out": "left out",
}  # fmt: skip
"""status -> words"""
ORDER = tuple(WORDS)


@dataclass(frozen=True)
class _Said:
    """An answer as the report's template shows one."""

    scope: str
    verdict: str
    text: str


def write(answer: Recommendation, folder: Path) -> Path:
    """Writes `index.html`, and the figure beside it; returns its path."""
    picture = draw(answer)
    pictures = {}
    if picture is not None:
        for name, content in (("race.png", drawings.to_png(picture)), ("race.svg", drawings.to_svg(picture))):
            with files.replacing(folder / name) as temporary:
                temporary.write_bytes(content)
        svg = (folder / "race.svg").read_text()
        pictures["race"] = Picture("race", svg, caption(answer))
    verdict = "undecided" if answer.verdict == "undecided" else "decided" if answer.decided else "narrowed"
    page = pages.environment().get_template("report.html").render(
        title=f"Which weights to start from on {answer.task}", first=first_lines_of(answer.marks), links={},
        facts=_facts(answer), answers=[_Said(answer.task, verdict, answer.sentences[0])],
        method=" ".join(answer.sentences[1:]), shown=pictures.get("race"), sections=_sections(answer), brief={},
        pictures={},
    )  # fmt: skip
    files.write_text(folder / FILE, page)
    return folder / FILE


def _facts(answer: Recommendation) -> list[tuple[str, str]]:
    spent = [(stage.name, stage.minutes) for stage in answer.stages]
    spent.insert(0, ("start", max(answer.seconds / 60 - sum(minutes for _, minutes in spent), 0.0)))
    stages = ", ".join(f"{name} {minutes:.1f}" for name, minutes in spent)
    counts = {name: f"{number} {name}{'s' * (number != 1)}" for name, number in _counts(answer).items()}
    code = f"; commit {answer.commit[:12]}" if answer.commit else ""
    return [
        ("Asked", f"{answer.minutes:g} min, {answer.seconds / 60:.1f} spent ({stages}), {counts['worker']} on "
                  f"{answer.device}; use: {answer.settings['use']}"),
        ("Candidates", f"{counts['candidate']}, {answer.raced} fine-tuned; reference {answer.reference or 'none'}"),
        ("Decided on", f"val: {answer.val_images:,} images of {answer.val_units:,} {plural(answer.unit)}, by "
                       f"{answer.metric}; margin {answer.margin:g}; {counts['look']}; the candidate that is "
                       f"truly best by a margin is dropped with a chance of at most {answer.error:g}"),
        ("Finished", f"{answer.finished}{code}; asked as {answer.digest[:12]}"),
    ]  # fmt: skip


def _counts(answer: Recommendation) -> dict[str, int]:
    taking_part = sum(one.status != "left out" for one in answer.candidates)
    return {"worker": answer.workers, "candidate": taking_part, "look": answer.looks}


def _sections(answer: Recommendation) -> list[Section]:
    every = sorted(answer.candidates, key=lambda one: (ORDER.index(one.status), -(one.val or 0.0)))
    rows = [_row(one, answer) for one in every if one.status != "left out"]
    header = ("candidate", "how it stands", "val", "seeds x epochs", "parameters", "why")
    cheap = ("prior", "linear", "knn", "logme", "h_score")
    scores = [
        (one.init, _number(one.place), *(_number(one.scores.get(name)) for name in cheap))
        for one in sorted(answer.candidates, key=lambda one: -(one.place or 0.0))
        if one.status != "left out"
    ]
    left_out = [(one.init, one.why) for one in every if one.status == "left out"]
    found = [
        Section(
            title="Candidates", slug="candidates", grid=grid(header, rows),
            notes=("val: mean over seeds when it was last looked at, with the model of the best epoch until then. "
                   "Scores of different epochs are not comparable; a candidate that was stopped has no final one.",),
        ),
        Section(
            title="Before any fine-tuning", slug="cheap",
            grid=grid(("candidate", "place", *(name.replace("_", "-") for name in cheap)), scores),
            notes=("place: weighted mean of the places by these scores, 1 the most promising; it orders who is "
                   "fine-tuned first and is no evidence. A score that is not known (-) counts as the middle; the "
                   "reference enters the race in any case. prior: mean place on other tasks, published and own; "
                   "linear, knn: the metric on val of probes on frozen features (of masks minus the log loss of "
                   "pixels); logme, h-score: on train.",),
        ),
    ]  # fmt: skip
    if left_out:
        found.append(Section(title="Left out", slug="left-out", grid=grid(("init", "why"), left_out)))
    return found


def _word(one: Candidate, answer: Recommendation) -> str:
    """Says how a candidate stands; without a race nothing was picked by evidence."""
    return "the most promising" if one.status == "pick" and not answer.looks else WORDS[one.status]


def _row(one: Candidate, answer: Recommendation) -> tuple[str, ...]:
    trained = f"{one.seeds} x {one.epochs}" if one.seeds else "-"
    return (one.init, _word(one, answer), _number(one.val), trained, f"{one.parameters / 1e6:.1f} M", one.why or "-")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def draw(answer: Recommendation) -> Figure | None:
    """Draws the race: scores on val over spent minutes; a line ends where its candidate was dropped."""
    raced = [one.init for one in answer.candidates if any(point.init == one.init for point in answer.points)]
    if not raced:
        return None
    signs = curves.looks(names.names(raced))
    with matplotlib.rc_context(palette.RC):
        height = 3.4 + 0.17 * len(raced) / 2
        picture = Figure(figsize=(6.4, height), layout="constrained")
        panel = picture.subplots()
        for init in raced:
            _line(panel, [point for point in answer.points if point.init == init], answer.of(init), signs[init])
        panel.set_xlabel("minutes since the start")
        panel.set_ylabel(f"{answer.metric} on val, percent")
        panel.grid(axis="y")
        panel.margins(x=0.08)
        panel.set_xlim(left=0)
        style.end_at_whole(panel.yaxis)
        corner = [CORNERS.get(mark, mark) for mark in answer.marks]
        if corner:
            picture.text(0.01, 0.99, "; ".join(corner), va="top", size=style.SMALL, style="italic", color=palette.GREY)
        panel.set_title(f"{answer.task}: the race")
        style.legend(picture, list(signs.values()))
    return picture


def _line(panel: Axes, seen: Sequence[Point], one: Candidate, sign: Line2D) -> None:
    x, y = [point.minutes for point in seen], [100 * point.score for point in seen]
    colour, line, marker = sign.get_color(), sign.get_linestyle(), sign.get_marker()
    drawn = panel.plot(x, y, color=colour, ls=line, marker=marker, ms=5, lw=2.2 if one.status == "pick" else 1.2)
    style.say(drawn[0], f"{one.init}: {y[-1]:.2f} after {x[-1]:.1f} min, {WORDS[one.status]}")
    if one.status in ("dropped", "stopped", "failed"):
        panel.plot(x[-1:], y[-1:], marker="x", color=colour, ms=10, mew=1.5, ls="")


def caption(answer: Recommendation) -> str:
    """Says what is shown."""
    heights = sorted({point.epochs for point in answer.points})
    return (
        f"Mean score on val at each look (epochs {', '.join(map(str, heights))} of a training, see the table for the "
        "seeds), over the minutes since the start. A cross ends the line of a candidate that was dropped or stopped; "
        "thick: the pick. All rise as training goes on: compare heights at one look, not along a line."
    )


def shown(answer: Recommendation) -> Group:
    """Lays the answer out for the terminal."""
    table = Table(pad_edge=False, show_edge=False)
    for title in ("candidate", f"{answer.metric} on val", "how it stands"):
        table.add_column(title, overflow="fold", justify="right" if title.endswith("val") else "left")
    kept = [one for one in answer.candidates if one.status != "left out"]
    for one in sorted(kept, key=lambda one: (ORDER.index(one.status), -(one.val or 0.0))):
        why = f": {one.why}" if one.why else ""
        table.add_row(one.init, _number(one.val) if one.val is not None else "", f"{_word(one, answer)}{why}")
    out = len(answer.candidates) - len(kept)
    told = f"{out} more {'was' if out == 1 else 'were'} left out; the page says why."
    lines = [*first_lines_of(answer.marks), *([told] if out else [])]
    sentences = [Text(line, style="bold" if number == 0 else "") for number, line in enumerate(answer.sentences)]
    return Group(table, *map(Text, lines), *sentences)
