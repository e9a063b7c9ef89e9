"""Names, numbers and methods in words, as figures and captions write them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from medtransfer.comparison.findings import Findings
from medtransfer.comparison.published_form import TEST_NAMES, Row, eligible
from medtransfer.comparison.wording import p_value as number_of_p
from medtransfer.comparison.wording import shared_marks
from medtransfer.report.tables import column_title
from medtransfer.results.result import of_task
from medtransfer.weights.families import backbone, labels

LONGEST = 40
"""letters of a label"""


def names(inits: Sequence[str]) -> dict[str, str]:
    """Gives every init a label: without the backbone where all have the same, shortened in the middle where long.

    Where two labels would be the same, all names stay whole.
    """
    short = {init: shorten(name) for init, name in labels(inits).items()}
    return short if len(set(short.values())) == len(short) else {init: init for init in inits}


def shorten(text: str, most: int = LONGEST) -> str:
    """Cuts letters out of the middle of a long text."""
    side = (most - 1) // 2
    return text if len(text) <= most else f"{text[:side]}…{text[-side:]}"


def on_backbone(title: str, inits: Sequence[str]) -> str:
    """Adds to a title the backbone that the labels leave out."""
    return f"{title}; backbone {backbone(inits)}" if backbone(inits) else title


def task_title(findings: Findings, task: str) -> str:
    """Names a task, its metric and those marks that not all runs have, of which the figure's corner tells."""
    return column_title(of_task(findings.results, task), task, shared_marks(findings.results))


def complete(findings: Findings, task: str) -> list[Row]:
    """Takes the rows of a task that are compared: they have all their runs and are not contaminated."""
    return eligible(findings.of_task(task))


def reference(findings: Findings, task: str) -> Row | None:
    """Finds the reference's row of a task; None where it lacks runs."""
    return next((row for row in complete(findings, task) if row.init == findings.reference), None)


def number(rows: Iterable[Row]) -> str:
    """Writes how many runs are behind a mean, as in `n = 3 seeds`."""
    rows = [row for row in rows if row.summary is not None]
    counts = sorted({row.summary.n for row in rows if row.summary is not None})
    units = sorted({f"{row.unit}s" for row in rows}, reverse=True)
    if not counts:
        return "n = 0"
    return f"n = {span(counts)} {' or '.join(units if counts[-1] > 1 else [unit[:-1] for unit in units])}"


def span(numbers: Iterable[int]) -> str:
    """Writes the least and the greatest number, as in `3 to 5`."""
    found = sorted(set(numbers))
    return " to ".join(map(str, [*found[:1], *found[1:][-1:]]))


def count(number: int, noun: str) -> str:
    """Writes a number of things."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def test(findings: Findings, rows: Iterable[Row]) -> str:
    """Names the test of the published form of table."""
    units = {row.unit if row.redrawn else "" for row in rows}
    redrawn = units and "" not in units
    words = f"corrected resampled t-test, paired by {' or '.join(sorted(units))}"
    return words if redrawn else TEST_NAMES[findings.settings.test]


def p_value(p: float | None) -> str:
    """Writes a p-value as the tables do, as in `p = 0.031` or `p < 0.0001`."""
    if p is None:
        return "no test"
    text = number_of_p(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"
