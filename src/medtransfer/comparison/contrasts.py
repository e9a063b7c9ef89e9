"""Every two initializations compared on every task and over all tasks, at one level for all that is said of them.

Whoever is named as best, and however it was chosen, what is said of it is one of these comparisons: nothing is gained
by choosing. Each has its part of the level (Bonferroni), so that all intervals hold at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medtransfer.comparison.patients import Evidence
from medtransfer.comparison.published_form import Row, Unit
from medtransfer.statistics import all_pairs, metrics
from medtransfer.statistics.all_pairs import Pairs

Word = Literal[
    "better by more than the margin", "better", "better within the margin", "equivalent", "not separated",
    "worse within the margin", "worse", "worse by more than the margin", "no test",
]  # fmt: skip
Array = npt.NDArray[Any]
ALL = "all tasks"
"""scope of the mean over tasks, in units of their margins"""
FEWEST = 5
"""patients of the smaller class below which nothing is called equivalent, or better or worse within the margin"""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """The difference of two initializations in one column, and what can be said of it."""

    task: str
    """or `all tasks`"""
    init: str
    against: str
    unit: Unit
    n: int
    """seeds or folds"""
    patients: int
    """0: seeds (folds) alone count"""
    estimate: float
    """mean test score of `init` minus that of `against`; over all tasks in margins"""
    low: float | None
    """of the interval that decides whether it is better or worse: all of a page hold at once"""
    high: float | None
    equal_low: float | None
    """of the interval that decides whether it is within the margin: twice the error, all hold at once"""
    equal_high: float | None
    p: float | None
    """of no difference, of this comparison alone"""
    p_adjusted: float | None
    """times the number of comparisons, at most 1"""
    seed_error: float
    patient_error: float
    margin: float | None
    word: Word

    @property
    def basis(self) -> str:
        """Says what the interval is over."""
        return f"{self.unit}s and patients" if self.patients else f"{self.unit}s"

    @property
    def better(self) -> bool:
        """Says whether `init` is better by however much."""
        return self.word.startswith("better")

    @property
    def worse(self) -> bool:
        """Says whether `init` is worse by however much."""
        return self.word.startswith("worse")

    @property
    def within(self) -> bool:
        """Says whether the difference is within the margin."""
        return self.word in ("equivalent", "better within the margin", "worse within the margin")

    def turned(self) -> Contrast:
        """Gives the difference the other way round."""
        ends: dict[str, Any] = {
            "low": None if self.high is None else -self.high, "high": None if self.low is None else -self.low,
            "equal_low": None if self.equal_high is None else -self.equal_high,
            "equal_high": None if self.equal_low is None else -self.equal_low,
        }  # fmt: skip
        words = {"better": "worse", "worse": "better"}
        first, _, rest = self.word.partition(" ")
        ends["word"] = " ".join(filter(None, [words.get(first, first), rest]))
        return replace(self, init=self.against, against=self.init, estimate=-self.estimate, **ends)


@dataclass(frozen=True, kw_only=True)
class Column:
    """All comparisons of a task, or of all tasks together."""

    scope: str
    inits: tuple[str, ...]
    unit: Unit
    pairs: Pairs
    margin: float | None
    cases: int
    """patients of the smaller class; 0: seeds (folds) alone count"""
    largest: float
    """difference that two scores can have, where intervals end; over all tasks in margins"""
    alpha: float
    """level of all comparisons of the page together"""
    share: float
    """level of each comparison, its part of `alpha`"""
    p: Array
    """inits x inits: of no difference, of this comparison alone"""
    reach: Array
    """half width of the intervals that decide on better and worse"""
    equal_reach: Array
    """half width of those that decide whether a difference is within the margin: twice the error"""

    @property
    def candidates(self) -> tuple[str, ...]:
        """Lists the inits of which no other was shown to be better."""
        low = self.pairs.estimate - np.nan_to_num(self.reach, nan=np.inf)
        return tuple(init for init, beaten in zip(self.inits, (low > 0).any(axis=0), strict=True) if not beaten)

    def contrast(self, init: str, against: str) -> Contrast:
        """Takes one comparison."""
        place = self.inits.index(init), self.inits.index(against)
        estimate, p = float(self.pairs.estimate[place]), float(self.p[place])
        low, high = _ends(estimate, float(self.reach[place]), self.largest)
        equal_low, equal_high = _ends(estimate, float(self.equal_reach[place]), self.largest)
        within = low is not None and self._is_within(equal_low, equal_high)
        return Contrast(
            task=self.scope, init=init, against=against, unit=self.unit, n=self.pairs.seeds,
            patients=self.pairs.patients, estimate=estimate, low=low, high=high, equal_low=equal_low,
            equal_high=equal_high, p=None if np.isnan(p) else p,
            p_adjusted=None if np.isnan(p) else min(1.0, p / self.share * self.alpha),
            seed_error=float(self.pairs.seed_error[place]), patient_error=float(self.pairs.patient_error[place]),
            margin=self.margin, word=_word(low, high, self.margin, within, p),
        )  # fmt: skip

    def all(self, reference: str = "") -> list[Contrast]:
        """Lists all comparisons, each once, against the reference where it is one of the two, else the earlier one."""
        couples = itertools.combinations(self.inits, 2)
        return [self.contrast(*((one, two) if two == reference else (two, one))) for one, two in couples]

    def all_of(self, init: str) -> list[Contrast]:
        """Lists the comparisons of an init with every other."""
        return [self.contrast(init, other) for other in self.inits if other != init]

    @property
    def enough(self) -> bool:
        """Says whether there are the patients that a verdict on a difference within a margin needs."""
        return self.pairs.patients == 0 or self.cases >= FEWEST

    def _is_within(self, low: float | None, high: float | None) -> bool:
        if self.margin is None or low is None or high is None:
            return False
        return self.enough and -self.margin < low and high < self.margin


@dataclass(frozen=True, kw_only=True)
class Untested:
    """A column before its comparisons have a level."""

    scope: str
    inits: tuple[str, ...]
    unit: Unit
    pairs: Pairs
    margin: float | None
    cases: int
    largest: float


def of_task(rows: Sequence[Row], evidence: Evidence, margin: float | None, metric: str = "") -> Untested | None:
    """Compares the complete rows of a task; None where there are fewer than two, or a single seed.

    Args:
        rows: of the task, which are compared.
        evidence: what the predictions say.
        margin: smallest difference that matters.
        metric: of the scores.
    """
    if len(rows) < 2:
        return None
    inits = tuple(row.init for row in rows)
    known = all(init in evidence.contributions for init in inits)
    found = None
    if known:
        values = np.stack([evidence.contributions[init] for init in inits])
        found = all_pairs.over_seeds_and_patients(values, coarseness=evidence.coarseness)
    if rows[0].printed:
        known_runs = [row.summary for row in rows if row.summary]
        found = all_pairs.over_summaries(*zip(*((one.mean, one.std, one.n) for one in known_runs), strict=True))
    elif found is None:
        found = all_pairs.over_seeds([row.scores for row in rows], ratio=rows[0].ratio if rows[0].redrawn else 0.0)
    if found is None:
        return None
    cases = evidence.cases if found.patients else 0
    below = any(score < 0 for row in rows for score in row.scores)  # of somebody's own metric
    return Untested(
        scope=rows[0].task, inits=inits, unit=rows[0].unit, pairs=found, margin=margin, cases=cases,
        largest=2.0 if below else 1 - metrics.least(metric),
    )  # fmt: skip


def over_tasks(columns: Sequence[Untested], groups: Sequence[str]) -> Untested | None:
    """Averages over tasks, each difference in units of its task's margin; None with fewer than two tasks.

    Args:
        columns: of tasks; the inits that are in all of them are compared.
        groups: one name per column; tasks that share images have one.
    """
    common = [init for init in columns[0].inits if all(init in column.inits for column in columns)] if columns else []
    if len(columns) < 2 or len(common) < 2 or any(column.margin is None for column in columns):
        return None
    parts = [column.pairs.taken([column.inits.index(init) for init in common]) for column in columns]
    whole = all_pairs.over_columns(parts, [column.margin or 1.0 for column in columns], groups)
    largest: dict[str, list[float]] = {}
    for column, group in zip(columns, groups, strict=True):
        largest.setdefault(group, []).append(column.largest / (column.margin or 1.0))
    return Untested(
        scope=ALL, inits=tuple(common), unit=columns[0].unit, pairs=whole, margin=1.0,
        cases=min((column.cases for column in columns if column.cases), default=0),
        largest=float(np.mean([np.mean(each) for each in largest.values()])),
    )  # fmt: skip


def at_level(columns: Sequence[Untested], alpha: float) -> list[Column]:
    """Gives every comparison of all columns an equal part of the level (Bonferroni), so that all hold together."""
    number = sum(column.pairs.number for column in columns)
    share = alpha / max(1, number)
    return [
        Column(
            **column.__dict__, share=share, alpha=alpha, p=column.pairs.p(), reach=column.pairs.reach(share),
            equal_reach=column.pairs.reach(min(2 * share, 1.0)),
        )
        for column in columns
    ]  # fmt: skip


def again(columns: Iterable[Column], alpha: float) -> dict[str, Column]:
    """Gives some columns a level of their own, as if nothing else were said: scope -> column."""
    names = [one.name for one in fields(Untested)]
    untested = [Untested(**{name: getattr(column, name) for name in names}) for column in columns]
    return {column.scope: column for column in at_level(untested, alpha)}


def _ends(estimate: float, reach: float, largest: float) -> tuple[float, float] | tuple[None, None]:
    return (None, None) if np.isnan(reach) else (max(estimate - reach, -largest), min(estimate + reach, largest))


def _word(low: float | None, high: float | None, margin: float | None, within: bool, p: float) -> Word:
    if low is None or high is None:
        return "not separated" if p == 1 else "no test"
    if margin is not None and (low >= margin or high <= -margin):
        return "better by more than the margin" if low > 0 else "worse by more than the margin"
    if low > 0:
        return "better within the margin" if within else "better"
    if high < 0:
        return "worse within the margin" if within else "worse"
    return "equivalent" if within else "not separated"
