"""Weighs the claims of the parameters on our own runs and on published numbers.

A claim is a mean over tasks of differences between initializations, with one interval. Variances of tasks add up; tasks
that share images count as one, and their errors are added as if they always went together.

The member that stands for a family is one for all tasks, and the level is alpha / number of members (Bonferroni): the
interval then holds for any of them, however it was chosen. On own runs it is the best on val; a published table has no
val scores, so there it is the one with the best mean difference in test.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from medtransfer.comparison import published
from medtransfer.comparison.published import Published
from medtransfer.core import schema
from medtransfer.core.errors import UserError
from medtransfer.data.catalog import DERIVED, TASKS
from medtransfer.data.tasks import applicable, contaminated
from medtransfer.params import Claim
from medtransfer.statistics import metrics, t_tests
from medtransfer.statistics.seeds_and_patients import JointInterval, joint_interval
from medtransfer.weights.families import check_entry, dataset_of, matches, members, split
from medtransfer.weights.names import seen
from medtransfer.weights.zoo import RECORDS

Word = Literal["supported", "contradicted", "undecided", "not testable"]
PRINTED: Mapping[Word, str] = {
    "supported": "consistent with these printed means",
    "contradicted": "against these printed means",
}
"""what is said on published numbers, which say nothing of patients"""
Names = tuple[str, ...]
Interval = t_tests.TTest | JointInterval

KINDS = ("all", "classification", "segmentation")


@dataclass(frozen=True, kw_only=True)
class TaskScores:
    """Our own runs on one task: every init with the same seeds in the same order."""

    task: str
    segmentation: bool
    group: str
    """tasks that share images have one group and count once"""
    scores: Mapping[str, tuple[float, ...]]
    """canonical name -> a test score per seed"""
    contributions: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """canonical name -> seeds x patients, whose mean over patients is the seed's score; empty: seeds alone"""
    val: Mapping[str, float] = field(default_factory=dict)
    """canonical name -> mean val score"""
    contaminated: Names = ()
    """canonical names of inits that saw images of the task"""
    least: float = 0.0
    """where scores end, see `metrics.least`"""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """`better` minus `than` on one task."""

    task: str
    group: str
    weight: float = 0.0
    """of the task in the estimate over tasks; negative for the tasks of `minus`"""
    better: Names
    """inits that stood for that side: one, or one per dataset X, which are averaged"""
    than: Names
    estimate: float
    error: float
    """standard error; 0 where nothing varies"""
    df: float | None
    """None where nothing varies, so that there is no interval"""
    low: float | None
    high: float | None
    n: int
    """seeds, or the fewest runs behind a published mean"""
    method: Literal["seeds and patients", "seeds", "published means"]
    digitised: bool = False
    """a number is measured in a figure"""
    contaminated: bool = False
    """an init was pre-trained on images that the task's are taken from"""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A claim's `better` against one entry of its `than`, averaged over tasks."""

    better: str
    """as in the claim, so is `than`"""
    than: str
    verdict: Word
    estimate: float | None = None
    """None where the comparison is not testable"""
    df: float | None = None
    low: float | None = None
    """None where it is not testable, or nothing varies"""
    high: float | None = None
    alpha: float
    """1 - level of all intervals, after the correction for a choice among members"""
    groups: int = 0
    """of tasks; those of one group share images"""
    differences: tuple[Difference, ...] = ()
    notes: Names = ()

    @property
    def digitised(self) -> bool:
        """Says whether a number is measured in a figure."""
        return any(one.digitised for one in self.differences)

    @property
    def contaminated(self) -> bool:
        """Says whether an init was pre-trained on images that a task's are taken from."""
        return any(one.contaminated for one in self.differences)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one body of evidence says of a claim."""

    says: str
    paper: str = ""
    """whose numbers they are; empty: our own runs"""
    backbone: str = ""
    """of our own runs; empty for published numbers, and where no init is `better`"""
    verdict: Word
    parts: tuple[Part, ...]
    """one per entry of `than`"""
    notes: Names = ()
    """on the evidence as a whole"""
    metric: str = ""
    """that it is about; empty: each task's own"""

    @property
    def unit(self) -> str:
        """Says what differences are counted in; empty: shares."""
        return metrics.unit(self.metric) if self.metric else ""


@dataclass(frozen=True)
class _Table:
    """One task of either kind of evidence."""

    task: str
    segmentation: bool
    group: str
    inits: Names
    val: Mapping[str, float]
    least: float
    """where scores end"""
    subtract: Callable[[Names, Names, float], Difference | str]
    """mean over the first inits minus mean over the second at a level, or why there is none"""


def said(word: Word, paper: str) -> str:
    """Words a verdict: printed means of the same test images can be consistent with a claim, not more."""
    return PRINTED.get(word, word) if paper else word


def check(claims: Mapping[str, Claim], tasks: Collection[str], own: Iterable[str] = ()) -> None:
    """Refuses words that mean nothing; `tasks` are all there are, `own` are the names of the user's own inits.

    Raises:
        UserError: a claim names an unknown task, init, family or dataset; the message has the nearest valid name.
    """
    datasets = {task.dataset for task in TASKS.values()} | set(tasks)
    datasets |= {part for name in RECORDS for part in name.removesuffix("-published").split("+")[1:]}
    words = [*KINDS, *tasks]
    for name, claim in claims.items():
        _check_metric(name, claim)
        for word in (*claim.tasks, *claim.minus):
            if word not in words:
                raise UserError(f"claims.{name}: unknown task {word!r}{schema.nearest(word, words)}")
        for entry in (claim.better, *claim.than):
            check_entry(entry, list(own), list(datasets), f"claims.{name}")


def _check_metric(name: str, claim: Claim) -> None:
    if not claim.metric:
        return
    if claim.metric not in metrics.METRICS:
        near = schema.nearest(claim.metric, metrics.METRICS)
        raise UserError(f"claims.{name}: unknown metric {claim.metric!r}{near}")
    kinds = metrics.METRICS[claim.metric].of_kinds
    having = "segmentation" if "segmentation" in kinds else "classification"
    for word in (*claim.tasks, *claim.minus):
        kind = TASKS[word].kind if word in TASKS else word
        if kind in ("segmentation", *metrics.CLASSIFICATION, "classification") and kind not in (*kinds, having):
            whose = metrics.WHOSE[metrics.METRICS[claim.metric].of]
            raise UserError(
                f"claims.{name}: {claim.metric} is a score of {whose}, which {word} has none of ({kind}); take a "
                f"metric of it, or other tasks, such as {having}"
            )


def on_runs(claim: Claim, tasks: Sequence[TaskScores], *, alpha: float) -> tuple[Verdict, ...]:
    """Weighs a claim that `check` has passed on our own runs: a verdict per backbone that has both sides, else one.

    A bare name in `than` is that of the backbone of `better`.

    Raises:
        UserError: `alpha` is not in (0, 1), or numbers are not finite or do not fit together.
    """
    t_tests.require_level(alpha)
    tables = []
    for task in tasks:
        names = tuple(name for name in task.scores if applicable(seen(name), task.task))
        subtract = functools.partial(_subtract_runs, task)
        tables.append(_Table(task.task, task.segmentation, task.group, names, task.val, task.least, subtract))
    inits = sorted({name for table in tables for name in table.inits})
    backbones = sorted({split(name)[1] for name in inits if matches(claim.better, name, None)})
    both = [b for b in backbones if any(matches(than, name, b) for than in claim.than for name in inits)]
    notes = _direction(claim.metric)
    return tuple(
        _verdict(claim, tables, alpha, backbone=backbone, notes=notes) for backbone in both or backbones[:1] or [""]
    )


def on_published(claim: Claim, rows: Sequence[Published], *, alpha: float) -> Verdict:
    """Weighs a claim that `check` has passed on the numbers of one paper, which names no backbone.

    Raises:
        UserError: `alpha` is not in (0, 1), or the rows are not those of one paper.
    """
    t_tests.require_level(alpha)
    papers = {row.paper for row in rows}
    if len(papers) != 1:
        raise UserError(f"a claim is weighed on the numbers of one paper, got {len(papers)}: {sorted(papers)}")
    results: dict[str, dict[str, Published]] = {}
    for row in (row for row in rows if row.score):
        results.setdefault(row.task, {})[row.init] = row
    assumed = sorted({row.n for row in rows if not row.n_stated})
    notes = [f"n = {n} runs per mean is assumed, not stated" for n in assumed] + [published.repeated(rows)]
    least = metrics.least(claim.metric)
    tables = []
    for task, column in results.items():
        row, subtract = next(iter(column.values())), functools.partial(_subtract_published, column)
        barred = [name for name in column if contaminated(seen(name), task, DERIVED)]
        notes += [f"left out on {task}, because contaminated: {', '.join(barred)}"] if barred else []
        kept = tuple(name for name in column if name not in barred)
        tables.append(_Table(task, row.segmentation, row.group, kept, {}, least, subtract))
    every = (*_direction(claim.metric), *filter(None, notes))
    return _verdict(claim, tables, alpha, paper=papers.pop(), notes=every)


def about(claim: Claim, rows: Sequence[Published]) -> list[Published]:
    """Takes the published numbers of a claim's metric, turned where lower is better; without one all."""
    if not claim.metric:
        return list(rows)
    names = (claim.metric, metrics.title(claim.metric).lower())
    found = [row for row in rows if row.metric.replace("%", "").strip().lower() in names]
    return found if metrics.METRICS[claim.metric].higher else [replace(row, mean=-row.mean) for row in found]


def _subtract_runs(task: TaskScores, better: Names, than: Names, alpha: float) -> Difference | str:
    """Subtracts runs paired by seed: over seeds and patients where every init has contributions."""
    seeds = {len(task.scores[name]) for name in (*better, *than)}
    if len(seeds) > 1 or seeds == {1}:
        return "a single seed" if seeds == {1} else "not all seeds of both sides"
    a, b = (np.mean([task.scores[name] for name in side], axis=0) for side in (better, than))
    test = t_tests.t_test(a, b, test="paired", alpha=alpha)
    known: dict[str, Any] = {"estimate": test.difference, "better": better, "than": than, "n": len(a)}
    known["contaminated"] = not {*better, *than}.isdisjoint(task.contaminated)
    if any(len(task.contributions.get(name, ())) != len(a) for name in (*better, *than)):
        return _on_task(task.task, task.group, test, alpha, method="seeds", **known)
    first, second = (np.mean([task.contributions[name] for name in side], axis=0) for side in (better, than))
    interval = joint_interval(first - second, level=1 - alpha)
    return _on_task(task.task, task.group, interval, alpha, method="seeds and patients", **known)


def _subtract_published(results: Mapping[str, Published], better: Names, than: Names, alpha: float) -> Difference | str:
    first, second = ([results[name] for name in side] for side in (better, than))
    rows = [*first, *second]
    if any(row.std is None for row in rows):
        return f"no published std of {', '.join(row.init for row in rows if row.std is None)}"
    test = published.difference(first, second, alpha=alpha)
    return _on_task(
        rows[0].task, rows[0].group, test, alpha, method="published means", estimate=test.difference, better=better,
        than=than, n=min(row.n for row in rows), digitised=any(row.digitised for row in rows),
        contaminated=any(contaminated(seen(name), rows[0].task, DERIVED) for name in (*better, *than)),
    )  # fmt: skip


def _on_task(task: str, group: str, interval: Interval, alpha: float, **known: Any) -> Difference:
    """Centres an interval on the estimate and takes its standard error along."""
    if interval.low is None or interval.high is None or interval.df is None:
        return Difference(task=task, group=group, error=0.0, df=None, low=None, high=None, **known)
    half = (interval.high - interval.low) / 2
    ends = {"low": known["estimate"] - half, "high": known["estimate"] + half}
    if isinstance(interval, JointInterval):
        error = math.hypot(interval.patient_error, interval.seed_error or 0.0)
    else:
        error = half / float(stats.t.isf(alpha / 2, interval.df))
    return Difference(task=task, group=group, error=error, df=interval.df, **ends, **known)


def _verdict(claim: Claim, tables: Sequence[_Table], alpha: float, **where: Any) -> Verdict:
    """Weighs every part of a claim; one part against it is enough against it, for it all are needed."""
    compare = functools.partial(_best_part, claim, tables, where.get("backbone", ""), "paper" in where)
    parts = tuple(compare(claim.better, than, alpha) for than in claim.than)
    order: tuple[Word, ...] = ("contradicted", "not testable", "undecided", "supported")
    overall = next(word for word in order if word in {part.verdict for part in parts})
    return Verdict(says=claim.says, verdict=overall, parts=parts, metric=claim.metric, **where)


def _direction(metric: str) -> Names:
    if not metric:
        return ()
    lower = f"lower {metrics.title(metric)} is better: a positive difference is a lower one"
    return () if metrics.METRICS[metric].higher else (lower,)


def _best_part(
    claim: Claim, tables: Sequence[_Table], backbone: str, printed: bool, better: str, than: str, alpha: float
) -> Part:
    """Compares each member of a family, one for all tasks, and keeps the best of `better`, the hardest of `than`."""
    every = sorted({name for table in tables for name in table.inits})
    inits = [name for name in every if not backbone or split(name)[1] == backbone]
    pairs = list(itertools.product(members(better, than, inits), members(than, better, inits)))
    parts = [_part(claim, tables, backbone, *pair, alpha / len(pairs)) for pair in pairs]
    if len(parts) < 2:  # no choice; of a family without members the one comparison says so
        part = parts[0] if parts else _part(claim, tables, backbone, better, than, alpha)
        return replace(part, better=better, than=than)
    most = max(len(part.differences) for part in parts)
    whole = [(_lead(tables, part, printed), part) for part in parts if len(part.differences) == most]
    known = [(lead, part) for lead, part in whole if lead is not None]
    if not known:
        note = f"no val scores of {better} and {than}, by which a member could be chosen"
        return replace(parts[0], better=better, than=than, verdict="not testable", estimate=None, notes=(note,))
    hardest = {part.better: (lead, part) for lead, part in sorted(known, key=lambda pair: -pair[0])}
    chosen = max(hardest.values(), key=lambda pair: pair[0])[1]
    by = "the published test scores" if printed else "val"
    words = f"{chosen.better} against {chosen.than} is chosen among {len(pairs)} by {by}"
    choice = [f"{words}, so the level is {alpha:.3g} / {len(pairs)}"] if most else []
    return replace(chosen, better=better, than=than, notes=(*choice, *chosen.notes))


def _lead(tables: Sequence[_Table], part: Part, printed: bool) -> float | None:
    """Says by how much a member leads where it may be chosen: on val, or on the published numbers; None: not known."""
    vals = {table.task: table.val for table in tables}
    if printed:
        return part.estimate or 0.0
    lead = 0.0
    for one in part.differences:
        val = vals[one.task]
        if any(name not in val for name in (*one.better, *one.than)):
            return None
        first, second = (sum(val[name] for name in side) / len(side) for side in (one.better, one.than))
        lead += one.weight * (first - second)
    return lead


def _part(claim: Claim, tables: Sequence[_Table], backbone: str, better: str, than: str, alpha: float) -> Part:
    """Averages the differences over the tasks that have both sides; the others are named."""
    part = Part(better=better, than=than, verdict="not testable", alpha=alpha)
    meant = [table for table in tables if _is_meant(table, (*claim.tasks, *claim.minus))]
    results = {table.task: _difference(table, backbone, better, than, alpha) for table in meant}
    found = {task: result for task, result in results.items() if isinstance(result, Difference)}
    reasons = dict.fromkeys(result for result in results.values() if isinstance(result, str))
    notes = [f"{reason} on {', '.join(t for t in results if results[t] == reason)}" for reason in reasons]
    named = {*claim.tasks, *claim.minus} - {*KINDS, *results}
    notes += [f"no numbers on {', '.join(sorted(named))}"] if named else []
    weights: dict[str, float] = {}
    for words, sign in ((claim.tasks, 1), (claim.minus, -1)):
        some = [table for table in meant if table.task in found and _is_meant(table, words)]
        if words and not some:
            return replace(part, notes=(*notes, f"no task of {', '.join(words)} has both {better} and {than}"))
        sizes = Counter(table.group for table in some)
        for table in some:
            weights[table.task] = weights.get(table.task, 0) + sign / len(sizes) / sizes[table.group]
    differences = tuple(replace(found[task], weight=weight) for task, weight in weights.items())
    least = {table.task: table.least for table in meant}
    largest = sum(abs(weight) * (1 - least[task]) for task, weight in weights.items())
    return _weighed(replace(part, differences=differences, notes=tuple(notes)), largest)


def _weighed(part: Part, largest: float) -> Part:
    """Adds estimate and verdict; a difference that does not vary has nothing to be measured against.

    Args:
        part: with its differences.
        largest: that the estimate could be, where the interval ends.
    """
    still = [one for one in part.differences if one.df is None]
    notes = (f"nothing varies on {', '.join(one.task for one in still)}",) if still else ()
    whole = published.weighted_sum(_by_group(part.differences), alpha=part.alpha)
    if whole.low is None or whole.high is None or any(abs(one.estimate) > t_tests.ROUNDING for one in still):
        whole = replace(whole, df=None, low=None, high=None)
    elif len(part.differences) == 1:  # a joint interval has a floor that its variance does not show
        whole = replace(whole, low=part.differences[0].low, high=part.differences[0].high)
    verdict: Word = "undecided"
    if (whole.low or 0.0) > 0 or (whole.high or 0.0) < 0:
        verdict = "supported" if whole.difference > 0 else "contradicted"
    return replace(
        part, verdict=verdict, estimate=whole.difference, df=whole.df,
        low=None if whole.low is None else max(whole.low, -largest),
        high=None if whole.high is None else min(whole.high, largest),
        groups=len({one.group for one in part.differences}), notes=(*notes, *part.notes),
    )  # fmt: skip


def _by_group(differences: Sequence[Difference]) -> list[tuple[float, float, float, float]]:
    """Sums the tasks of a group: weight 1, estimate, standard error, the fewest degrees of freedom."""
    found = []
    for group in dict.fromkeys(one.group for one in differences):
        own = [one for one in differences if one.group == group]
        estimate = math.fsum(one.weight * one.estimate for one in own)
        error = math.fsum(abs(one.weight) * one.error for one in own)
        found.append((1.0, estimate, error, min(one.df or math.inf for one in own)))
    return found


def _difference(table: _Table, backbone: str, better: str, than: str, alpha: float) -> Difference | str:
    """Finds who stands for both sides on a task and subtracts them, or says what is missing."""
    absent = [entry for entry in (better, than) if not any(matches(entry, name, None) for name in table.inits)]
    if absent:
        return f"no {' and no '.join(absent)}"
    sides: list[dict[str, str]] = []
    for entry in (better, than):
        names = [name for name in table.inits if matches(entry, name, backbone)]
        if not names:
            return f"no {entry} of backbone {backbone}" if backbone else f"no {entry} without a backbone"
        sides.append({dataset_of(entry, name): name for name in names})
    if all(split(entry)[0].endswith("+X") for entry in (better, than)):
        common = [x for x in sides[0] if x in sides[1]]
        sides = [{x: side[x] for x in common} for side in sides]
    if not sides[0]:
        return f"no dataset X of both {better} and {than}"
    return table.subtract(tuple(sides[0].values()), tuple(sides[1].values()), alpha)


def _is_meant(table: _Table, words: Sequence[str]) -> bool:
    kind = "segmentation" if table.segmentation else "classification"
    return any(word in ("all", kind, table.task) for word in words)
