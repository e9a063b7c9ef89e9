"""Conditions of `promotion.require`, and what is measured for them of every initialization.

A condition that is no metric is a row of `CONDITIONS`; every metric of `statistics/metrics.py` is one by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medtransfer.comparison import other_metrics
from medtransfer.comparison.away import AwayTask
from medtransfer.comparison.calibration import UNTEMPERED, Measure
from medtransfer.comparison.patients import Evidence
from medtransfer.comparison.published_form import Row
from medtransfer.comparison.wording import names
from medtransfer.core import schema
from medtransfer.core.errors import UserError
from medtransfer.results.result import Result, of_task
from medtransfer.statistics import metrics
from medtransfer.statistics.seeds_and_patients import JointInterval, joint_interval

TEMPERED = "ece_tempered"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a condition is held against: one initialization on one task, or in one of its groups."""

    condition: str
    task: str
    init: str
    bound: float
    at_most: bool
    group: str = ""
    """of patients; empty: all"""
    interval: JointInterval | None = None
    """None: there is no data"""
    note: str = ""
    """why there is none, or what the interval does not hold"""
    metric: str = ""
    """of the task, in which drops are"""

    @property
    def range(self) -> tuple[float, float]:
        """Says between which ends it lies: a drop is a difference of scores, what has a unit has no end."""
        if self.condition.endswith("_drop"):
            return metrics.least(self.metric) - 1, 1 - metrics.least(self.metric)
        least = metrics.least(self.condition)
        return least, 1.0 if least > -math.inf else math.inf

    @property
    def place(self) -> str:
        """Names where it was measured."""
        return f"{self.task}, {self.group}" if self.group else self.task


@dataclass(frozen=True)
class _Task:
    """What is known of a task."""

    results: Sequence[Result]
    """of all inits"""
    evidence: Evidence
    rows: Mapping[str, Row]
    folder: Path
    away: Sequence[AwayTask] = ()
    """other tasks that its networks were read on"""
    kept: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """metric -> init -> seeds x patients: read once"""

    @property
    def kind(self) -> str:
        return self.results[0].kind

    def of_scores(self, init: str, name: str) -> tuple[JointInterval | None, str]:
        """Takes what runs measured, whose interval knows of no patients."""
        scores = other_metrics.by_seed(name, [one for one in self.results if one.init == init]).get(init, ())
        if not scores:
            return None, f"its runs have no test_{name}"
        row, number = self.rows[init], len(scores)
        ratio = row.ratio if row.redrawn else 0.0
        several = number > 1
        found = JointInterval(
            method="seeds", estimate=float(np.mean(scores)), level=0.95, seeds=number, patients=0, patient_error=0.0,
            seed_error=float(np.std(scores, ddof=1) * (1 / number + ratio) ** 0.5) if several else None,
            df=number - 1.0 if several else None,
        )  # fmt: skip
        return found, "over seeds alone" if several else "a single seed"


Finding = tuple[str, JointInterval | None, str]
"""group, interval, note"""
Measuring = Callable[[_Task, str], list[Finding]]


def _calibration(score: str, take: Callable[[Any], Measure | None]) -> Measuring:
    def measure(task: _Task, init: str) -> list[Finding]:
        calibration = task.evidence.calibration
        one = next((one for one in calibration.inits if one.init == init), None) if calibration else None
        found = take(one) if one else None
        if found is not None and found.joint is not None:
            return [("", found.joint, "")]
        interval, note = task.of_scores(init, score)
        missing = interval is None and score == TEMPERED
        return [("", interval, f"no temperature: {UNTEMPERED}" if missing else note)]

    return measure


def _drops(task: _Task, init: str) -> list[Finding]:
    found: list[Finding] = [
        (f"{grouping.name} {one.group}", one.drop, "")
        for grouping in task.evidence.subgroups
        for one in grouping.scores
        if one.init == init and one.drop is not None
    ]
    notes = [f"{grouping.name}: {grouping.note}" for grouping in task.evidence.subgroups if grouping.note]
    if task.evidence.subgroups and not notes:
        notes = ["what patients add to the score of all of them is not known"]
    return found or [("", None, "; ".join(notes) or "the task has no groups of patients")]


def _away_drops(task: _Task, init: str) -> list[Finding]:
    found: list[Finding] = [
        (f"at {site.task}", one.joint, "" if one.joint else one.barred)
        for site in task.away
        for one in site.inits
        if one.init == init
    ]
    notes = [f"at {site.task}: {site.note}" for site in task.away if site.note]
    none = f"its networks were read at no other site, see tasks.{task.results[0].task}.external"
    return found or [("", None, "; ".join(notes) or none)]


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A condition that is no metric: a bound from above."""

    kinds: tuple[str, ...]
    """of task that it is asked of"""
    measure: Measuring


CONDITIONS: dict[str, Condition] = {
    "calibration": Condition(kinds=metrics.CLASSIFICATION, measure=_calibration("ece", lambda one: one.ece)),
    "calibration_after_temperature": Condition(
        kinds=metrics.CLASSIFICATION, measure=_calibration(TEMPERED, lambda one: one.tempered)
    ),
    "worst_group_drop": Condition(kinds=(*metrics.CLASSIFICATION, "segmentation"), measure=_drops),
    "away_drop": Condition(kinds=(*metrics.CLASSIFICATION, "segmentation"), measure=_away_drops),
}
"""name -> what is at most the bound, in the unit of scores (0.05 = 5 points)"""


def check(require: Mapping[str, float], kinds: Collection[str] = ()) -> None:
    """Refuses a condition that is none, that any result would keep or break, or that no task can be asked.

    Args:
        require: condition -> bound.
        kinds: of all tasks of the benchmark; empty: not known yet.

    Raises:
        UserError: a name is unknown; the message has the nearest valid one; a bound is outside of what can be
            measured; or no task is of a kind that has it.
    """
    known = [*CONDITIONS, *metrics.METRICS]
    for name, bound in require.items():
        if name not in known:
            raise UserError(f"promotion.require: unknown condition {name!r}{schema.nearest(name, known)}")
        _check_bound(name, bound)
        having = CONDITIONS[name].kinds if name in CONDITIONS else metrics.METRICS[name].of_kinds
        if kinds and not {*kinds} & {*having}:
            raise UserError(
                f"promotion.require: {name} is measured of {names(having, len(having), 'or')} tasks, and no task of "
                f"the benchmark is one ({names(list(dict.fromkeys(kinds)), len(kinds))}): take it out"
            )


def _check_bound(name: str, bound: float) -> None:
    """Refuses a bound that all, or none, would keep, such as a percentage.

    Raises:
        UserError: with the range that it may have.
    """
    metric = metrics.METRICS.get(name)
    least = -1.0 if (metric.ordinal if metric else name.endswith("_drop")) else 0.0
    most = float("inf") if metric and metric.unit else 1.0
    if not least <= bound <= most:
        ends = f"{least:g} or more" if metric and metric.unit else f"{least:g} to {most:g}, where 0.05 is 5 points"
        raise UserError(f"promotion.require: {name} is a number from {ends}; got {bound:g}")


def measure(
    require: Mapping[str, float], results: Sequence[Result], rows: Sequence[Row], evidence: Mapping[str, Evidence],
    folder: Path, away: Mapping[str, Sequence[AwayTask]],
) -> tuple[Measured, ...]:  # fmt: skip
    """Measures what is asked of every complete initialization, on each task that it can be asked of.

    A metric is asked of the tasks that measured it. Where none of its kind did, there is no data on any.

    Args:
        require: condition -> bound.
        results: of the benchmark.
        rows: of these runs.
        evidence: task -> what its predictions say.
        folder: of the finished runs.
        away: task -> other tasks that its networks were read on.
    """
    whole = {task: {row.init: row for row in rows if row.task == task and row.summary is not None} for task in evidence}
    tasks = {
        task: _Task(of_task(results, task), one, whole[task], folder, away.get(task, ()))
        for task, one in evidence.items()
    }
    found = []
    for name, bound in require.items():
        at_most = name in CONDITIONS or not metrics.METRICS[name].higher
        for task, known in tasks.items():
            if not _is_asked(name, task, tasks):
                continue
            for init in known.rows:
                blank = Measured(
                    condition=name, task=task, init=init, bound=bound, at_most=at_most, metric=known.results[0].metric
                )
                values = CONDITIONS[name].measure(known, init) if name in CONDITIONS else [_metric(name, known, init)]
                found += [replace(blank, group=group, interval=interval, note=note) for group, interval, note in values]
    return tuple(found)


def _is_asked(name: str, task: str, tasks: Mapping[str, _Task]) -> bool:
    if name in CONDITIONS:
        return tasks[task].kind in CONDITIONS[name].kinds
    having = [other for other, known in tasks.items() if other_metrics.scored_as(name, known.results)]
    return task in having or (not having and tasks[task].kind in metrics.METRICS[name].of_kinds)


def _metric(name: str, task: _Task, init: str) -> Finding:
    score = other_metrics.scored_as(name, task.results)
    if not score:
        return "", None, f"no run of the task has test_{name}"
    if score not in task.kept:
        complete = [one for one in task.results if one.init in task.rows]
        primary = score == task.results[0].metric
        task.kept[score] = (
            task.evidence.contributions if primary else other_metrics.contributions(name, score, complete, task.folder)
        )
    found = task.kept[score]
    return ("", joint_interval(found[init]), "") if init in found else ("", *task.of_scores(init, score))
