"""Findings -> decisions: what was selected on val, and whether it becomes champion. Numbers in, words out, no files.

Selection reads val alone. Test is read to compare what was selected with the present champion, and for nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from medtransfer import params
from medtransfer.comparison import answers, controls
from medtransfer.comparison.contrasts import ALL
from medtransfer.comparison.findings import Findings
from medtransfer.comparison.judged import Judged, judge
from medtransfer.comparison.published_form import eligible
from medtransfer.registry.gate import (
    Candidate,
    Compared,
    Holder,
    Operations,
    Selected,
    Weighed,
    runs,
    weigh,
    weigh_first,
)
from medtransfer.results import looks
from medtransfer.weights.families import split
from medtransfer.weights.licences import commercial

Outcome = Literal["champion", "challenger", "kept", "blocked"]
"""kept: it is the champion already; blocked: nothing is registered"""
BARRED = {
    "partial": "images of a dataset are missing",
    "contaminated": "its weights saw images of a test set, or those that one is taken from",
}
"""mark -> why it makes no champion"""
LEAKS = ("leak-", "look-alikes-")
"""what the marks of an audit that is not clean begin with"""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of what was selected."""

    selected: Selected
    candidate: Candidate
    holder: Holder | None
    """of the alias `champion`, before the decision"""
    outcome: Outcome
    reasons: tuple[str, ...]
    compared: tuple[Compared, ...] = ()
    """with the present champion, or with the reference"""
    anchors: Mapping[str, str] = field(default_factory=dict)
    """task -> key of what losses are counted from as long as it is champion, see `Holder`"""
    alpha: float = 0.0
    """level of this decision; 0: test was not read"""
    left: float = 0.0
    """level that later decisions on these test sets have together"""
    required: tuple[Judged, ...] = ()
    """conditions of `promotion.require`, each with its interval at this decision's level"""

    @property
    def alias(self) -> str:
        """Names the alias that the version gets; empty where nothing is registered."""
        names = {"champion": "champion", "kept": "champion", "challenger": "challenger", "blocked": ""}
        return self.selected.prefix + names[self.outcome] if names[self.outcome] else ""


def select(findings: Findings) -> list[Selected]:
    """Selects on val: the best mean rank over the tasks that all candidates share, then the best of each task."""
    shown = [task for task in findings.benchmark.tasks if task in findings.evidence]
    found = []
    if findings.val_ranks.mean:
        ranked = {init: -rank for init, rank in zip(findings.ranked, findings.val_ranks.mean, strict=True)}
        init = _first(answers.picks(findings.ranked, ranked), findings.reference)
        shared = tuple(shown[place] for place in findings.val_ranks.tasks)
        found.append(_selected(findings, ALL, init, shared, findings.benchmark.tasks))
    for task in shown:
        val = {row.init: row.val for row in eligible(findings.of_task(task)) if row.val is not None}
        if val:
            found.append(
                _selected(findings, task, _first(answers.picks(list(val), val), findings.reference), (task,), (task,))
            )
    return found


def _first(tied: Sequence[str], reference: str) -> str:
    """Settles a tie on val: the reference, so that nothing moves for nothing, else the first by name."""
    return reference if reference in tied else min(tied)


def _selected(findings: Findings, scope: str, init: str, tasks: tuple[str, ...], complete: Sequence[str]) -> Selected:
    marks = {mark for result in runs(findings.results, init, tasks) for mark in result.marks}
    gaps = [
        f"{row.task} {row.init}: {len(row.missing)} missing, {len(row.undefined)} without a score"
        for row in findings.rows
        if row.task in complete and row.applicable and row.summary is None
    ]
    return Selected(scope=scope, init=init, tasks=tasks, marks=tuple(sorted(marks)), gaps=tuple(gaps))


def decide(
    selected: Selected, candidate: Candidate, holder: Holder | None, findings: Findings, settings: params.Promotion,
    served: int, operations: Operations,
) -> Decision:  # fmt: skip
    """Holds what was selected to the gate.

    Args:
        selected: by `select`.
        candidate: what would be registered for it.
        holder: of the alias that it would take; None: nobody.
        findings: the comparison.
        settings: the gate.
        served: decisions that these test sets served before; each has its part of the level, see `looks.level`.
        operations: what an architecture costs.
    """
    blank = Decision(selected=selected, candidate=candidate, holder=holder, outcome="blocked", reasons=())
    blocks = [candidate.hindrance] if candidate.hindrance else _forbidden(candidate.licences, settings.use)
    if blocks:
        return replace(blank, reasons=tuple(blocks))
    if holder is not None and holder.key == candidate.key:
        words = f"{selected.init} was selected again; it is version {holder.version}, the champion"
        return replace(blank, outcome="kept", reasons=(words,), anchors=holder.anchors)
    alpha = looks.level(settings.alpha, served + 1)
    weighed = _weigh(selected, candidate, holder, findings, settings, alpha, operations)
    asked = [one for one in findings.required if one.init == selected.init and one.task in selected.tasks]
    required = judge(asked, alpha)
    bars = _bars(selected, candidate, settings)
    if settings.require_audit and findings.controls is not None:
        alarms = [one for one in findings.controls.alarms if one.raised and one.task in selected.tasks]
        bars += [controls.alarm_words(one, findings.controls).removesuffix(".") for one in alarms]
    if findings.controls is not None:
        doubts = [one for one in findings.controls.against if one.init == selected.init and one.task in selected.tasks]
        bars += [f"on {one.task} {controls.unbeaten_words(one, findings.controls)}" for one in doubts if one.unbeaten]
    bars += [f"required: {one.words}" for one in required if one.verdict != "within"]
    passed = weighed.passed and not bars
    before = holder.anchors if holder else {}
    anchors = {task: before.get(task, holder.key if holder else candidate.key) for task in selected.tasks}
    anchors |= dict.fromkeys(weighed.better_on, candidate.key)
    return replace(
        blank, outcome="champion" if passed else "challenger", reasons=(*bars, weighed.reason),
        compared=weighed.compared, anchors=anchors if passed else {}, alpha=alpha,
        left=looks.left(settings.alpha, served + 1), required=required,
    )  # fmt: skip


def _weigh(
    selected: Selected, candidate: Candidate, holder: Holder | None, findings: Findings, settings: params.Promotion,
    alpha: float, operations: Operations,
) -> Weighed:  # fmt: skip
    if holder is not None:
        return weigh(selected, candidate, holder, findings, settings, alpha, operations)
    base = _base(selected.init, findings)
    if not base:
        why = (
            f"there is no champion, and nothing to hold {selected.init} against: put the reference, or random weights, "
            "into benchmark.inits"
        )
        return Weighed(passed=False, reason=why)
    return weigh_first(selected, findings, settings, alpha, base)


def _base(init: str, findings: Findings) -> str:
    """Names what the first of its kind is compared with: the reference, or random weights where it is that itself."""
    if findings.reference != init and findings.reference in findings.benchmark.inits:
        return findings.reference
    return next((name for name in findings.benchmark.inits if split(name)[0] == "random" and name != init), "")


def _forbidden(licences: Sequence[str], use: str) -> list[str]:
    if use == "research":
        return []
    return [
        f"promotion.use is {use}, which this licence forbids: {name}" for name in licences if commercial(name) == "no"
    ]


def _bars(selected: Selected, candidate: Candidate, settings: params.Promotion) -> list[str]:
    """Lists what keeps it from being champion whatever its scores are."""
    found = [f"marked {mark}: {why}" for mark, why in BARRED.items() if mark in selected.marks]
    if candidate.demoted:
        found.append(f"it was demoted: {candidate.demoted}; take the tag demoted off its version to allow it again")
    if settings.require_audit:
        found += [f"marked {mark}: the audit is not clean" for mark in selected.marks if mark.startswith(LEAKS)]
    if settings.require_complete and selected.gaps:
        found.append(f"the benchmark has runs to do: {'; '.join(selected.gaps)}")
    if settings.use == "commercial":
        unclear = [name for name in candidate.licences if commercial(name) == "unclear"]
        found += [f"whether this licence permits commercial use is unclear, read it: {name}" for name in unclear]
    return found
