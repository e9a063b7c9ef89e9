"""What `requirements` measured, held to its bounds, all of a candidate at once; and how that is laid out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medtransfer.comparison.requirements import Measured

Verdict = Literal["within", "not shown", "violated", "no data"]
"""not shown: the interval reaches across the bound, or there is none"""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Whether it keeps within the bound."""

    measured: Measured
    verdict: Verdict
    low: float | None = None
    """of the interval that decides; None: there is none"""
    high: float | None = None

    @property
    def ends(self) -> str:
        """Writes the interval, which ends where a share, or the difference of two scores, does."""
        if self.low is None or self.high is None:
            return "-"
        least, most = self.measured.range
        return f"{max(self.low, least):.3f} to {min(self.high, most):.3f}"

    @property
    def words(self) -> str:
        """Says it in a line."""
        one = self.measured
        bound = f"at {'most' if one.at_most else 'least'} {one.bound:g}"
        if one.interval is None:
            return f"{one.condition} on {one.place}: no data, {one.note}; {bound} is asked"
        ends = "no interval" if self.low is None else self.ends
        note = f", {one.note}" if one.note else ""
        value = f"{one.interval.estimate:.3f} ({ends}{note})"
        return f"{one.condition} on {one.place}: {self.verdict}, {value}; {bound} is asked"


def judge(measured: Sequence[Measured], alpha: float) -> tuple[Judged, ...]:
    """Holds what was measured of one candidate to the bounds, all at once (Holm 1979).

    Each is tested against its bound, two-sided, and the interval that stands beside it is of the share of the level
    at which it was decided: it lies on one side of the bound exactly where a verdict is given.

    Args:
        measured: of one candidate.
        alpha: level of all together.
    """
    chances = [None if one.interval is None else one.interval.p_of(one.bound) for one in measured]
    order = sorted((p, place) for place, p in enumerate(chances) if p is not None)
    shares: dict[int, float] = {}
    share, open_ = alpha / max(1, len(order)), True
    for passed, (p, place) in enumerate(order):
        share = alpha / (len(order) - passed) if open_ else share
        open_ = open_ and p <= share
        shares[place] = share
    return tuple(_judged(one, shares.get(place)) for place, one in enumerate(measured))


def _judged(one: Measured, share: float | None) -> Judged:
    ends = one.interval.ends(1 - share) if one.interval is not None and share is not None else None
    if one.interval is None or ends is None:
        return Judged(measured=one, verdict="no data" if one.interval is None else "not shown")
    low, high = ends
    inside, outside = (high <= one.bound, low > one.bound) if one.at_most else (low >= one.bound, high < one.bound)
    verdict: Verdict = "within" if inside else "violated" if outside else "not shown"
    return Judged(measured=one, verdict=verdict, low=low, high=high)


def record(one: Judged) -> dict[str, Any]:
    """Says it as plain data."""
    measured = one.measured
    return {
        "condition": measured.condition,
        "task": measured.task,
        "group": measured.group,
        "estimate": measured.interval.estimate if measured.interval else None,
        "low": one.low,
        "high": one.high,
        "bound": measured.bound,
        "at": "most" if measured.at_most else "least",
        "verdict": one.verdict,
        "note": measured.note,
    }


def line(one: Judged) -> tuple[str, ...]:
    """Lays it out for a table under `HEADER`."""
    measured = one.measured
    value = "-" if measured.interval is None else f"{measured.interval.estimate:.3f}"
    bound = f"{'at most' if measured.at_most else 'at least'} {measured.bound:g}"
    return (measured.condition, measured.place, value, one.ends, bound, one.verdict, measured.note or "-")


HEADER = ("condition", "where", "value", "interval", "asked", "verdict", "note")
