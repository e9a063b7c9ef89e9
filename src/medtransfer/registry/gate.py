"""What val selected against the present champion on test: better, non-inferior and cheaper, or neither.

Better: on a task or more, and on every other shown to be worse by less than the margin. The comparisons are the page's,
at the level that is left for this decision: every decision on a test set has its part of `promotion.alpha`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from scipy import stats

from medtransfer import params
from medtransfer.comparison import contrasts
from medtransfer.comparison.contrasts import ALL, Column
from medtransfer.comparison.findings import Findings
from medtransfer.comparison.wording import interval, margin_words, points
from medtransfer.results.result import Result
from medtransfer.statistics import t_tests
from medtransfer.weights.families import split

Operations = Callable[[str, int], float]
"""architecture and side in pixels -> floating-point operations of its features of an image"""


@dataclass(frozen=True, kw_only=True)
class Selected:
    """What val selected, for all tasks or for one."""

    scope: str
    """`all tasks`, or a task"""
    init: str
    """canonical name"""
    tasks: tuple[str, ...]
    """that it was selected on"""
    marks: tuple[str, ...]
    """of its runs on these tasks"""
    gaps: tuple[str, ...]
    """runs of the benchmark that are missing or have no score, in words"""

    @property
    def prefix(self) -> str:
        """Begins the aliases: phantoms have aliases of their own."""
        return "demo-" if "synthetic" in self.marks else ""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What would be registered."""

    model: str
    """name of the registered model"""
    key: str
    """equal keys are equal tensors: the sha256 of a backbone's, the digest of a fine-tuned model's run"""
    parameters: int
    """of the backbone"""
    licences: tuple[str, ...] = ()
    """of the weights and of the images they saw"""
    hindrance: str = ""
    """why there is nothing to register"""
    demoted: str = ""
    """why a person took the alias from the same tensors"""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The version that has the alias; a backbone's may be of another architecture, thus another registered model."""

    version: str
    init: str
    key: str
    parameters: int
    model: str = ""
    """name of the registered model; empty: that of what was selected"""
    anchors: Mapping[str, str] = field(default_factory=dict)
    """task -> key of what was last shown to be better on it: losses within the margin are counted from there"""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The selected minus another, on the test of a task."""

    task: str
    against: str
    estimate: float
    low: float | None
    """of the interval that decides on better"""
    high: float | None
    floor: float | None
    """lower end of the interval that decides on non-inferior"""
    bound: float | None
    """how much worse still counts as non-inferior; None: the task states no margin"""
    decidable: bool = True
    """enough patients for a verdict on non-inferiority"""

    @property
    def better(self) -> bool:
        """Says whether it is shown to be better."""
        return self.low is not None and self.low > 0

    @property
    def inferior(self) -> bool:
        """Says whether it could be worse by more than the margin."""
        return self.floor is None or self.bound is None or not self.decidable or self.floor <= -self.bound

    @property
    def words(self) -> str:
        """Says it in a line."""
        return f"{self.task}: {points(self.estimate)} points ({interval(self.low, self.high)})"


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """Whether the gate lets it through, why, and the numbers."""

    passed: bool
    reason: str
    compared: tuple[Compared, ...] = ()
    """with the champion, or the reference"""
    better_on: tuple[str, ...] = ()


def weigh(
    selected: Selected, candidate: Candidate, holder: Holder, findings: Findings, settings: params.Promotion,
    alpha: float, operations: Operations,
) -> Weighed:  # fmt: skip
    """Compares with the champion, and for non-inferiority with what was last shown to be better on each task.

    Args:
        selected: what val selected.
        candidate: what would be registered.
        holder: the champion.
        findings: the comparison.
        settings: the gate.
        alpha: level of this decision.
        operations: what an architecture costs.
    """
    name = f"the champion {holder.init} (version {holder.version})"
    rival = init_of(selected, holder.key, holder.init, findings.results)
    if rival is None:
        return Weighed(
            passed=False,
            reason=f"{name} is not in this comparison, so nothing says which is better; add it to benchmark.inits",
        )
    if rival == selected.init:
        return Weighed(passed=False, reason=f"{name} is another seed of the same initialization")
    anchors = {}
    for task in selected.tasks:
        key = holder.anchors.get(task, holder.key)
        anchors[task] = init_of(selected, key, holder.init, findings.results) if key != holder.key else rival
        if anchors[task] is None:
            why = (
                f"what was last shown to be better on {task} (key {key[:12]}) is not in this comparison, and losses "
                "must not add up from champion to champion; add it to benchmark.inits"
            )
            return Weighed(passed=False, reason=why)
    return _gate(selected, rival, name, anchors, findings, settings, alpha, _cheaper(
        selected, rival, candidate.parameters, holder.parameters, findings.results, settings.cheaper, operations
    ))  # fmt: skip


def weigh_first(selected: Selected, findings: Findings, settings: params.Promotion, alpha: float, base: str) -> Weighed:
    """Holds the first of its kind to the same gate, against the reference or random weights, which need no champion.

    Args:
        selected: what val selected.
        findings: the comparison.
        settings: the gate.
        alpha: level of this decision.
        base: init that it is compared with.
    """
    anchors = dict.fromkeys(selected.tasks, base)
    return _gate(selected, base, f"{base}, which one starts from without a champion", anchors, findings, settings,
                 alpha, "")  # fmt: skip


def _gate(
    selected: Selected, rival: str, name: str, anchors: Mapping[str, str | None], findings: Findings,
    settings: params.Promotion, alpha: float, saved: str,
) -> Weighed:  # fmt: skip
    columns = contrasts.again([findings.columns[t] for t in selected.tasks if t in findings.columns], alpha)
    found = compare(selected, dict.fromkeys(selected.tasks, rival), columns, settings)
    if len(found) < len(selected.tasks):
        absent = [task for task in selected.tasks if task not in {each.task for each in found}]
        return Weighed(passed=False, reason=f"{name} is not compared on {', '.join(absent)}", compared=found)
    from_anchors = compare(selected, anchors, columns, settings)
    better = [each for each in found if each.better]
    # What is better than the champion on a task cannot lose there; elsewhere the loss is counted from the anchor.
    won = {each.task for each in better}
    inferior = [each for each in from_anchors if each.inferior and (each.task not in won or each.against != rival)]
    if inferior:
        lost = ", ".join(
            f"{each.task} (from {each.against}: at worst {points(each.floor)} points, margin "
            f"{'none' if each.bound is None else margin_words(each.bound)})"
            for each in inferior
        )
        first = f"better than {name}: {'; '.join(each.words for each in better)}; but" if better else f"against {name}"
        return Weighed(passed=False, reason=f"{first} not shown to be non-inferior on {lost}", compared=found)
    if better:
        rest = [task for task in selected.tasks if task not in won]
        words = "; ".join(each.words for each in better)
        tail = f"; non-inferior on {', '.join(rest)}" if rest else ""
        return Weighed(
            passed=True, reason=f"better than {name}: {words}{tail}", compared=found,
            better_on=tuple(each.task for each in better),
        )  # fmt: skip
    tie = f"non-inferior to {name} within {_bounds(found)}"
    reason = f"{tie}, and cheaper: {saved}" if saved else f"{tie}, but neither better nor cheaper, so it stays"
    return Weighed(passed=bool(saved), reason=reason, compared=found)


def init_of(selected: Selected, key: str, init: str, results: Sequence[Result]) -> str | None:
    """Finds the compared init with these tensors (or this run); `init` first where several have them."""
    if selected.scope == ALL:
        names = [result.init for result in results if result.weights_sha256 == key and result.task in selected.tasks]
    else:
        names = [result.init for result in results if result.digest == key]
    return init if init in names else next(iter(names), None)


def compare(
    selected: Selected, others: Mapping[str, str | None], columns: Mapping[str, Column], settings: params.Promotion
) -> tuple[Compared, ...]:
    """Compares what was selected with another init on each of its tasks, where both are compared.

    Args:
        selected: what val selected.
        others: task -> init.
        columns: at the decision's level.
        settings: the gate.
    """
    found = []
    for task, other in others.items():
        column = columns.get(task)
        if column is None or other is None or other == selected.init or not {selected.init, other} <= {*column.inits}:
            continue
        contrast = column.contrast(selected.init, other)
        bound = None if contrast.margin is None else contrast.margin * settings.margin
        found.append(
            Compared(
                task=task,
                against=other,
                estimate=contrast.estimate,
                low=contrast.low,
                high=contrast.high,
                floor=contrast.equal_low,
                bound=bound,
                decidable=column.enough,
            )
        )
    return tuple(found)


def _bounds(found: Sequence[Compared]) -> str:
    return ", ".join(f"{margin_words(each.bound or 0.0)} on {each.task}" for each in found)


def runs(results: Sequence[Result], init: str, tasks: Sequence[str]) -> list[Result]:
    """Takes the runs of an init on some tasks."""
    return [result for result in results if result.init == init and result.task in tasks]


def _cheaper(
    selected: Selected, rival: str, own: int, its: int, results: Sequence[Result], share: float, operations: Operations
) -> str:
    """Words what is saved: parameters of the backbone or, of two alike in them, operations of training.

    Empty: too little. Alike: neither is cheaper by the share. Operations: images seen times those of the backbone on
    an image. That they are fewer by the share must hold over the seeds, by a one-sided paired t-test of their
    logarithms at 0.05: equal workloads differ in the epoch at which they stop.

    Args:
        selected: what val selected.
        rival: the champion's init.
        own: parameters of the selected's backbone.
        its: of the champion's.
        results: finished runs.
        share: that must be saved.
        operations: what an architecture costs.
    """
    if own <= (1 - share) * its and own < its:
        return f"{own:,} parameters of the backbone, not {its:,}"
    if its <= (1 - share) * own and its < own:
        return ""
    mine, theirs = (_spent(results, name, selected.tasks, operations) for name in (selected.init, rival))
    seeds = sorted(mine.keys() & theirs.keys())
    if len(seeds) < 2 or share <= 0:
        return ""
    gaps = [math.log(mine[seed] / theirs[seed]) for seed in seeds]
    spread = t_tests.summary(gaps)
    worst = spread.mean + float(stats.t.isf(0.05, len(gaps) - 1)) * (spread.std or 0.0) / len(gaps) ** 0.5
    if worst > math.log(1 - share):
        return ""
    mean, other = (sum(side[seed] for seed in seeds) / len(seeds) for side in (mine, theirs))
    return f"{mean:.2e} operations of training in the mean (images seen x the backbone's), not {other:.2e}"


def _spent(results: Sequence[Result], init: str, tasks: Sequence[str], operations: Operations) -> dict[int, float]:
    """Adds up the operations of training over tasks, seed by seed."""
    found: dict[int, float] = {}
    for result in runs(results, init, tasks):
        side = int(result.params[f"tasks.{result.task}.image_size"])
        found[result.seed] = found.get(result.seed, 0.0) + result.cost["images"] * operations(split(init)[1], side)
    return found
