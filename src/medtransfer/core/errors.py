"""The exceptions that a user is meant to read, and how messages name many things and what a library said."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """Raised for anything that the user can mend: a wrong name, a missing file, a full disk.

    The message says what was looked for, where, what was found and what to do; the command line prints it
    without a traceback and tags the MLflow launcher run with it.
    """


class Held(UserError):
    """Another process has the run."""


def some(names: Sequence[str]) -> str:
    """Names the first three of many, in parentheses; empty for none."""
    return f"({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""


def quantity(number: int, noun: str, verb: str = "") -> str:
    """Writes `1 run is` and `2,000 runs are`.

    Args:
        number: how many.
        noun: in the singular.
        verb: in the plural, as it follows; empty: none.
    """
    if number != 1:
        return " ".join(filter(None, (f"{number:,} {noun}s", verb)))
    first, *rest = verb.split() or [""]
    singular = {"": "", "are": "is", "have": "has", "were": "was", "do": "does"}.get(first, f"{first}s")
    return " ".join(filter(None, (f"1 {noun}", singular, *rest)))


def span(seconds: float) -> str:
    """Writes a time as people say it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def one_line(error: Exception) -> str:
    """Says on one line what a library said."""
    return " ".join(str(error).split())[:300] or "it gives no reason"
