"""How numbers and names are worded."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from medtransfer.results.result import Result
from medtransfer.statistics import metrics, t_tests


def percent(summary: t_tests.Summary | None) -> str:
    """Writes `81.70 ± 0.15`, in percent."""
    if summary is None:
        return "-"
    spread = "" if summary.std is None else f" ± {100 * summary.std:.2f}"
    return f"{100 * summary.mean:.2f}{spread}"


def plain(summary: t_tests.Summary | None) -> str:
    """Writes `3.17 ± 0.15`, of what is no share."""
    if summary is None:
        return "-"
    return f"{summary.mean:.2f}" + ("" if summary.std is None else f" ± {summary.std:.2f}")


def points(value: float | None) -> str:
    """Writes a difference in percentage points, signed."""
    if value is None:
        return "-"
    text = f"{100 * value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text


def margin_words(margin: float) -> str:
    """Writes a margin, as `0.5 points`."""
    return f"{100 * margin:g} {'point' if margin == 0.01 else 'points'}"


def interval(low: float | None, high: float | None, metric: str | None = None) -> str:
    """Writes an interval in percentage points; that of a difference in a metric ends where two scores can differ."""
    if low is None or high is None:
        return "-"
    most = math.inf if metric is None else 1 - metrics.least(metric)
    return f"{points(max(low, -most))} to {points(min(high, most))}"


def scored(estimate: float, low: float | None, high: float | None, metric: str) -> str:
    """Writes a score in percent with its interval, which ends where the metric does; only agreement goes below 0."""
    text = f"{100 * estimate:.2f}"
    if low is None or high is None:
        return text
    return f"{text} ({100 * max(low, metrics.least(metric)):.2f} to {100 * min(high, 1.0):.2f})"


def p_value(p: float | None) -> str:
    """Writes a p-value."""
    if p is None:
        return "-"
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.001 else f"{p:.3f}"


def plural(unit: str) -> str:
    """Writes a unit in the plural."""
    return {"study": "studies"}.get(unit, f"{unit}s")


def number_word(number: int) -> str:
    """Writes a small number as a word."""
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return words[number] if number < len(words) else str(number)


def names(every: Sequence[str], most: int, last: str = "and") -> str:
    """Lists names in a sentence; more than `most` end in how many there are besides."""
    shown = list(every) if len(every) <= most + 1 else [*every[:most], f"{len(every) - most} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} {last} {shown[-1]}" if shown else "none"


FIRST_LINES = {
    "synthetic": "Synthetic phantoms: this tests the software and says nothing about weights.",
    "partial": "Partial data: images of a dataset are missing, so no number stands beside a published one.",
    "contaminated": "Contaminated: an initialization saw images of a test set, or of the dataset that it is from.",
    "patients unknown": "Patients unknown: images of one patient may be in several splits; the unit is the image.",
}
"""mark -> the sentence that stands over every table and figure with such a run"""


def first_lines(results: Iterable[Result]) -> list[str]:
    """Gives the sentences that stand over everything made from these runs."""
    return first_lines_of({mark for result in results for mark in result.marks})


def first_lines_of(marks: Collection[str]) -> list[str]:
    """Gives the sentences that these marks ask for."""
    known = [line for mark, line in FIRST_LINES.items() if mark in marks]
    return known + [f"Marked: {mark}." for mark in sorted(set(marks) - FIRST_LINES.keys())]


CORNERS = {
    "synthetic": "Synthetic phantoms: says nothing about weights",
    "partial": "Partial data",
    "contaminated": "Contaminated",
    "patients unknown": "Patients unknown",
}
"""mark -> the words in the corner of a figure: it may be cut out of the page that explains them"""


def corner(results: Iterable[Result]) -> str:
    """Gives the words for the corner of a figure that is made from these runs; empty where nothing is marked."""
    marks = {mark for result in results for mark in result.marks}
    known = [words for mark, words in CORNERS.items() if mark in marks]
    return "; ".join(known + [f"Marked: {mark}" for mark in sorted(marks - CORNERS.keys())])


def as_word(value: object) -> str:
    """Writes a parameter as a table shows it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {as_word(one)}' for key, one in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_word, value))}]"
    return str(value)


def shared_marks(results: Sequence[Result]) -> set[str]:
    """Finds the marks of all runs of a task: they stand in its column's title, others beside a score."""
    return set.intersection(*(set(result.marks) for result in results)) if results else set()
