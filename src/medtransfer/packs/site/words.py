"""How the site writes numbers, and which sentences stand under its tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import sqrt

from scipy import stats

from medtransfer.comparison.contrasts import Column, Contrast
from medtransfer.comparison.published_form import Row
from medtransfer.comparison.selection import imbalances
from medtransfer.comparison.wording import interval as points_interval
from medtransfer.comparison.wording import names, percent, points
from medtransfer.core.errors import quantity
from medtransfer.packs import counted
from medtransfer.packs.counted import Run, Status
from medtransfer.packs.records import InitCard
from medtransfer.packs.site import board
from medtransfer.packs.site.board import Board, Scope
from medtransfer.packs.site.layout import NONE, Cell, Part, path_of, table
from medtransfer.report.figures.names import shorten

SIZES = ((10, "up to 10 M"), (50, "10 to 50 M"), (150, "50 to 150 M"))
"""millions of parameters of a backbone, and the class up to them"""
LARGEST, UNKNOWN = "over 150 M", "not known"
SHORT = 22
"""letters of a licence in a table; its page has it whole"""
SCORES = (
    "Mean ± std (ddof 1) of the test score in percent over n seeds (or folds). The interval of a score alone is by t "
    "over those seeds; whether two differ is in the difference and its verdict, all of which hold at once.",
)
"""what stands under scores"""
MANY = 4
"""names that a sentence lists"""


def share(value: float) -> str:
    """Writes a win rate."""
    return f"{100 * value:.0f} %"


def win_rate(scope: Scope, init: str) -> Cell:
    """Writes the win rate of a ranked init, with its interval."""
    place, wins = scope.ranked.index(init), scope.wins
    small = ""
    if wins.low is not None and wins.high is not None:
        small = f"{100 * wins.low[place]:.0f} to {100 * wins.high[place]:.0f}"
    return Cell(text=share(wins.rate[place]), small=small)


def mean_rank(scope: Scope, init: str) -> Cell:
    """Writes the mean rank of a ranked init, with its interval."""
    place, ranks = scope.ranked.index(init), scope.ranks
    small = ""
    if ranks.low is not None and ranks.high is not None:
        small = f"{ranks.low[place]:.1f} to {ranks.high[place]:.1f}"
    return Cell(text=f"{ranks.mean[place]:.1f}", small=small)


def in_margins(found: Board, column: Column | None, init: str) -> Cell:
    """Writes how much better than its reference an init is over tasks, in margins, with the interval."""
    contrast = found.against(column, init)
    if contrast is None:
        return _no_reference(found, init)
    ends = "" if contrast.low is None or contrast.high is None else f"{contrast.low:+.1f} to {contrast.high:+.1f}"
    return Cell(text=f"{contrast.estimate:+.1f}", small=ends)


def in_points(found: Board, column: Column | None, init: str) -> Cell:
    """Writes how much better than its reference an init is on one task, in percentage points, with the interval."""
    contrast = found.against(column, init)
    if contrast is None:
        return _no_reference(found, init)
    small = "" if contrast.low is None else points_interval(contrast.low, contrast.high)
    return Cell(text=points(contrast.estimate), small=small)


def _no_reference(found: Board, init: str) -> Cell:
    other = found.reference_of(init)
    if init == other:
        return Cell(text=NONE, small="is the reference")
    return Cell(text=NONE, small="" if other in found.inits else f"no {found.reference} start")


def lacks(found: Board, init: str, tasks: Sequence[str]) -> str:
    """Says on which tasks an init is not compared, and why."""
    learnt = [task for task in tasks if not found.rows[task, init].applicable]
    saw = [task for task in tasks if found.rows[task, init].barred]
    others = [task for task in tasks if task not in (*learnt, *saw)]
    parts = [f"lacks {listed(others)}"] if others else []
    parts += [f"saw images of the test of {listed(saw)} (contaminated)"] if saw else []
    parts += [f"learnt from {listed(learnt)}, which cannot test it"] if learnt else []
    return "; ".join(parts) or "nothing to be compared with"


def separated(found: Board, contrasts: Sequence[Contrast]) -> str:
    """Says in a sentence who an init is separated from; the longest list is counted."""
    said = {
        "worse than": [one for one in contrasts if one.worse],
        "equivalent to": [one for one in contrasts if one.word == "equivalent"],
        "not separated from": [one for one in contrasts if one.word in ("not separated", "no test")],
        "better than": [one for one in contrasts if one.better],
    }
    longest = max(said, key=lambda word: len(said[word]))
    parts = []
    for word, some in said.items():
        if some and (word != longest or len(some) <= MANY):
            parts.append(f"{word} {listed([found.labels[one.against] for one in some])}")
    if len(said[longest]) > MANY:
        parts.append(f"{longest} the other {len(said[longest])}" if parts else f"{longest} all {len(said[longest])}")
    return "; ".join(parts)


def score(row: Row) -> Cell:
    """Writes the mean score of a complete init with its std; of another how many of its seeds are there."""
    if not row.applicable:
        return Cell(text=NONE, small="learnt from this dataset")
    if row.summary is not None:
        return Cell(text=percent(row.summary), small="contaminated" if row.barred else "")
    if row.undefined:
        return Cell(text="undefined")
    there = row.expected - len(row.missing)
    return Cell(text=f"{there} of {row.expected} {row.unit}s" if there else NONE)


def score_interval(row: Row) -> str:
    """Writes the t interval of a mean score over its seeds, or folds, by itself."""
    summary = row.summary
    if summary is None or summary.std is None:
        return NONE
    error = summary.std * sqrt(1 / summary.n + (row.ratio if row.redrawn else 0.0))
    reach = float(stats.t.isf(board.ALPHA / 2, summary.n - 1)) * error
    return f"{100 * (summary.mean - reach):.2f} to {100 * (summary.mean + reach):.2f}"


def cost(runs: Sequence[Run], tasks: Sequence[str]) -> Cell:
    """Writes the seconds of a run, averaged on every task and then over tasks, and on which machines."""
    means = []
    for task in tasks:
        found = [seconds(run) for run in runs if run.result.task == task]
        known = [value for value in found if value is not None]
        means += [sum(known) / len(known)] if known else []
    if not means or len(means) < len(tasks):
        return Cell(text=NONE)
    devices = sorted({run.result.device for run in runs if run.result.task in tasks})
    return Cell(text=f"{sum(means) / len(means):,.0f} s", small=names(devices, 1))


def seconds(run: Run) -> float | None:
    """Reads how long a run had its device."""
    name = "seconds" if run.result.device == "cpu" else "gpu_seconds"
    return run.result.cost.get(name, run.result.cost.get("seconds"))


def size_class(card: InitCard) -> str:
    """Names the class of a backbone's size."""
    if not card.parameters:
        return UNKNOWN
    return next((words for most, words in SIZES if card.parameters <= 1e6 * most), LARGEST)


def parameters(card: InitCard) -> str:
    """Writes the number of parameters of a backbone."""
    return f"{card.parameters / 1e6:,.1f} M" if card.parameters else UNKNOWN


def backbone(found: Board, init: str) -> Cell:
    """Writes the size of an init's backbone, and its name."""
    return Cell(text=parameters(found.inits[init]), small=board.backbone(init))


def commercial(card: InitCard) -> Cell:
    """Writes whether a licence permits commercial use, and the licence."""
    text = "none needed" if card.family == "random" else card.licence or "not stated"
    return Cell(text=card.commercial, small=shorten(text, SHORT))


def status(found: Status, note: str = "") -> Cell:
    """Frames a status."""
    return Cell(text=found, status=found, small=note)


def init_cell(found: Board, init: str, strong: bool = False) -> Cell:
    """Names an init, with the way to its page."""
    return Cell(text=found.labels[init], href=path_of("inits", init), strong=strong)


def task_cell(task: str, small: str = "") -> Cell:
    """Names a task, with the way to its page."""
    return Cell(text=task, small=small, href=path_of("tasks", task))


def contribution_cell(lab: str, digest: str) -> Cell:
    """Names a contribution, with the way to its page."""
    return Cell(text=lab, href=path_of("packs", digest))


def labs(runs: Sequence[Run]) -> str:
    """Lists whose runs these are."""
    return ", ".join(dict.fromkeys(run.lab for run in runs)) or NONE


def listed(found: Sequence[str], last: str = "and") -> str:
    """Lists names in a sentence, all of them."""
    return names(list(found), len(found) or 1, last)


def left(runs: Sequence[Run]) -> list[Part]:
    """Lists, by reason and lab, the runs that do not count; nothing where all do."""
    counts = Counter((run.why, run.lab) for run in runs if run.why)
    rows = [(why, lab, f"{number:,}") for (why, lab), number in sorted(counts.items())]
    made = table("A reason per row", ("why", "lab", "runs"), rows)
    return [Part(title="Runs that do not count", slug="left-out", table=made)] if rows else []


def method(found: Board) -> str:
    """Says what all verdicts of the site rest on, and how often one may be wrong."""
    if not found.number:
        return "Nothing could be compared."
    return (
        f"This site rests on {quantity(found.number, 'comparison')} of two initializations on test. The chance that "
        f"any 'better' or 'worse' of it is wrong is at most {100 * board.ALPHA:g} %, and so is that of any "
        "'equivalent' (Bonferroni). With further packs the site is made anew, which is a new look: the level is of "
        "this state alone."
    )


def reading(found: Board, scope: Scope) -> tuple[str, ...]:
    """Says what the columns of a leaderboard mean, and what they do not."""
    tasks, wins, ranks = listed(scope.tasks), scope.wins, scope.ranks
    groups = (
        f" ({wins.groups} groups, as tasks that share images count as one)" if wins.groups < len(scope.tasks) else ""
    )
    over = (
        f"{100 * wins.confidence:g} % interval over tasks and seeds (bootstrap): where it would lie with other tasks "
    )
    spread = f"no interval: {wins.note}" if wins.low is None else f"{over}and seeds like these"
    seeds = sorted({len(found.seeds[task]) for task in scope.tasks})
    number = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0]) if seeds else "no"
    reference = "the reference" if found.reference in found.inits else f"{found.reference} on its own backbone"
    notes = [
        f"Over {tasks}{groups}; every ranked initialization has all of them, with {number} seeds on each. The rank is "
        "that of the mean rank; it is no proof that one is better than the next: that is in the column better / worse.",
        f"Win rate: the share of all pairs (other initialization, task) in which the mean test score is higher; a tie "
        f"is half a win. {spread[0].upper()}{spread[1:]}.",
        f"Mean rank: 1 is the best. {_rank_interval(ranks.low is not None, ranks.confidence, ranks.note)}",
        f"Over {found.reference}: mean difference to {reference}, each task counted in units of its margin, the "
        "smallest difference that matters in it; all intervals of the site hold at once.",
        "Better / worse: how many of the ranked initializations it was shown to be better than, and worse than, over "
        "these tasks together. In bold, with 0 behind the stroke: none was shown to be better than it.",
        "Cost: seconds of one run, averaged over seeds and then over tasks; of another machine they say little.",
    ]
    if scope.lacking:
        notes.insert(1, f"Left out, because too few initializations have them: {listed(scope.lacking)}.")
    return tuple(notes)


def _rank_interval(there: bool, confidence: float, note: str) -> str:
    if not there:
        return f"No interval{f': {note}' if note else ''}."
    return (
        f"{100 * confidence:g} % interval over seeds alone (bootstrap), on these tasks: of the mean rank at this "
        "number of seeds, not of the ranks of the true means."
    )


def rules(found: Board) -> tuple[str, ...]:
    """Says which runs count, and how those of several labs are combined."""
    uneven = imbalances([run.result for run in counted.counting(found.runs)])
    notes = [
        f"Counted are runs by {found.protocol}, {found.recipe} recipe, all labels; on a task those of the data and "
        "parameters, and of an initialization those of the weights, that most runs have. A run that two packs hold "
        "counts once; of equal initialization, task and seed from several labs the one of the lab counts that has most "
        "runs on the task, so that a table is of as few labs as can be. Contributions that are refuted are shown and "
        "not counted.",
        "On each task the initializations are compared on seeds that all of them have: as many as can be, and nobody "
        f"is left out for more than {board.ENOUGH}. One that lacks a seed has no mean there. Nobody is ranked over "
        "tasks that it lacks.",
        "Seeds alone count: predictions of single patients are not read from packs, so that other test patients may "
        "say otherwise.",
        "Claimed: the lab says so. Verified: another lab trained a drawn share of the contribution again, and every "
        "drawn run came out equal, or within the spread of equal seeds. Refuted: one came out different.",
    ]
    if uneven:
        notes.append(
            f"Not balanced over initializations: {listed(list(uneven))}. What machines differ in is a part of such "
            "differences; the packs page lays labs beside each other."
        )
    return tuple(notes)
