"""Which weights to start from, in words: chosen on val, with what the test scores say for and against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from medtransfer.comparison import Row
from medtransfer.contrasts import Contrast
from medtransfer.ranks import Ranks
from medtransfer.tables import margin_words

NAMED = 5
"""inits that a sentence names; the tables list all"""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer for one task, or for all of them."""

    scope: str
    """a task, or `all tasks`"""
    verdict: Literal["decided", "open", "undecided", "none"]
    """decided: better than or equivalent to every other. open: better than some. undecided: than none. none: no runs"""
    chosen: str = ""
    """initialization with the best score on val"""
    text: str
    """sentences"""


def of_task(rows: Sequence[Row], contrasts: Sequence[Contrast], alpha: float, metric: str) -> Answer:
    """Answers for one task.

    Args:
        rows: of the task.
        contrasts: of every other complete initialization with the one that is best on val.
        alpha: level at which the adjusted p-values separate.
        metric: name of the primary metric, as a person reads it.
    """
    task, complete = rows[0].task, [row for row in rows if row.summary is not None]
    chosen = best_on_val(complete)
    if chosen is None:
        words = "no initialization has all its runs" if not complete else "no score on val"
        return Answer(scope=task, verdict="none", text=f"No answer: {words}.")
    if not contrasts:
        text = f"No answer: only {chosen.init} can be compared: the others lack runs."
        return Answer(scope=task, verdict="none", chosen=chosen.init, text=text)
    better = [c for c in contrasts if c.separated(alpha) and c.estimate < 0]
    worse = [c for c in contrasts if c.separated(alpha) and c.estimate > 0]
    close = [c for c in contrasts if not c.separated(alpha) and c.equivalent]
    open_ = [c for c in contrasts if not c.separated(alpha) and not c.equivalent]
    verdict: Literal["decided", "open", "undecided"] = "decided"
    if worse or open_:
        verdict = "open" if better and not worse else "undecided"
    lead = "Undecided; the best on val is" if verdict == "undecided" else "Start from"
    sentences = [f"{lead} {chosen.init}, chosen on val: its test {metric} is {_score(chosen)}."]
    sentences += [f"Better than {_names(better)}."] if better else []
    sentences += (
        [f"Equivalent to {_names(close)}: the difference is within {margin_words(close[0].margin or 0.0)}."]
        if close
        else []
    )
    sentences += [f"On test it is worse than {_names(worse)}: val and test disagree."] if worse else []
    sentences += [f"Not separated from {_names(open_)}. {_more(open_)}".strip()] if open_ else []
    return Answer(scope=task, verdict=verdict, chosen=chosen.init, text=" ".join(sentences))


def over_tasks(inits: Sequence[str], val: Ranks, test: Ranks, contrasts: Sequence[Contrast], alpha: float) -> Answer:
    """Answers for all tasks together.

    Args:
        inits: names of the ranked initializations.
        val: their ranks by score on val.
        test: their ranks by score on test.
        contrasts: on every task, of every other initialization with `chosen_overall`.
        alpha: level at which the adjusted p-values separate.
    """
    if not val.mean or not test.mean:
        return Answer(scope="all tasks", verdict="none", text=f"No answer over tasks: {val.note or test.note}.")
    place = chosen_overall(val)
    counts = {"better": 0, "worse": 0, "open": 0, "equivalent": 0}
    for contrast in contrasts:
        word = "open" if not contrast.separated(alpha) else "better" if contrast.estimate < 0 else "worse"
        counts["equivalent" if word == "open" and contrast.equivalent else word] += 1
    verdict: Literal["decided", "open", "undecided"] = "open" if counts["better"] > counts["worse"] else "undecided"
    if counts["better"] and not counts["worse"] and not counts["open"]:
        verdict = "decided"
    lead = "Undecided; the best mean rank on val has" if verdict == "undecided" else "Start from"
    kind = "" if verdict == "undecided" else ", which has the best mean rank on val"
    groups = f"{val.n} task{'s' if val.n > 1 else ''}" if len(val.tasks) == val.n else f"{val.n} groups of tasks"
    text = (
        f"{lead} {inits[place]}{kind} ({val.mean[place]:.2f} of {len(inits)}, over {groups}); its mean rank on test is "
        f"{test.mean[place]:.2f}. Of its {len(contrasts)} comparisons on test it is better in {counts['better']}, "
        f"worse in {counts['worse']}, equivalent in {counts['equivalent']} and not separated in {counts['open']}."
    )
    return Answer(scope="all tasks", verdict=verdict, chosen=inits[place], text=text)


def best_on_val(rows: Sequence[Row]) -> Row | None:
    """Finds the complete row with the highest mean score on val; of equal ones the first in the benchmark's order."""
    known = [row for row in rows if row.summary is not None and row.val is not None]
    return max(known, key=lambda row: row.val or 0.0) if known else None


def chosen_overall(val: Ranks) -> int:
    """Finds the place with the lowest mean rank on val; of equal ones the first."""
    return val.mean.index(min(val.mean))


def _score(row: Row) -> str:
    if row.summary is None:
        return "unknown"
    spread = "" if row.summary.std is None else f" ± {100 * row.summary.std:.2f}"
    return f"{100 * row.summary.mean:.2f}{spread} over {row.summary.n} {row.unit}{'s' if row.summary.n > 1 else ''}"


def _names(contrasts: Sequence[Contrast]) -> str:
    names = [contrast.init for contrast in contrasts]
    more = len(names) - NAMED
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:NAMED])} and {more} more"


def _more(contrasts: Sequence[Contrast]) -> str:
    """Says what would tell them apart, to within the margin."""
    joints = [c.joint for c in contrasts if c.joint is not None]
    if any(c.p is None for c in contrasts):
        count = contrasts[0].seeds.n[0] if contrasts[0].seeds.n else 0
        return f"No test is possible with {count} {'seed' if count == 1 else 'seeds'}."
    if any(joint.verdict == "needs more test patients" for joint in joints):
        return "More seeds alone will not tell: the test patients are too few."
    needed = [joint.more_seeds for joint in joints if joint.verdict == "needs more seeds" and joint.more_seeds]
    if needed:
        most = max(needed)
        words = "1 more seed" if most == 1 else f"{most} more seeds"
        return f"{words} would tell, to within {margin_words(contrasts[0].margin or 0.0)}."
    return ""
