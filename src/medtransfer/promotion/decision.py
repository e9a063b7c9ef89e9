"""Findings -> decisions: what was selected on val, and whether it becomes champion. Numbers in, words out, no files.

Selection reads val alone. Test is read to compare what was selected with the present champion, and for nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from medtransfer import answers, params
from medtransfer.comparison import eligible
from medtransfer.findings import Findings
from medtransfer.promotion.weighing import ALL, Compared, Holder, Material, Selected, runs, weigh
from medtransfer.zoo import commercial

Outcome = Literal["champion", "challenger", "kept", "blocked"]
"""kept: it is the champion already; blocked: nothing is registered"""
BARRED = {
    "partial": "images of a dataset are missing",
    "contaminated": "its weights saw images that a test set is taken from",
}
"""mark -> why it makes no champion"""
LEAKS = ("leak-reported", "leak-dropped")
"""marks of an audit that is not clean"""
FORBIDDING = ("non-commercial", "noncommercial", "research use", "research only", "no-derivatives")
"""words of a licence that forbid commercial use"""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of what was selected."""

    selected: Selected
    material: Material
    holder: Holder | None
    """of the alias `champion`, before the decision"""
    outcome: Outcome
    reasons: tuple[str, ...]
    compared: tuple[Compared, ...] = ()
    """with the present champion"""

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
        init = findings.ranked[answers.chosen_overall(findings.val_ranks)]
        shared = tuple(shown[place] for place in findings.val_ranks.tasks)
        found.append(_selected(findings, ALL, init, shared, findings.benchmark.tasks))
    for task in shown:
        best = answers.best_on_val(eligible(findings.of_task(task)))
        if best is not None:
            found.append(_selected(findings, task, best.init, (task,), (task,)))
    return found


def _selected(findings: Findings, scope: str, init: str, tasks: tuple[str, ...], complete: Sequence[str]) -> Selected:
    marks = {mark for cell in runs(findings.cells, init, tasks) for mark in cell.marks}
    gaps = [
        f"{row.task} {row.init}: {len(row.missing)} missing, {len(row.undefined)} without a score"
        for row in findings.rows
        if row.task in complete and row.applicable and row.summary is None
    ]
    return Selected(scope=scope, init=init, tasks=tasks, marks=tuple(sorted(marks)), gaps=tuple(gaps))


def decide(
    selected: Selected, material: Material, holder: Holder | None, findings: Findings, settings: params.Promotion
) -> Decision:
    """Holds what was selected to the gate.

    Args:
        selected: by `select`.
        material: what would be registered for it.
        holder: of the alias that it would take; None: nobody.
        findings: whose intervals have the level 1 - `settings.alpha`.
        settings: the gate.
    """
    outcome, reasons, compared = _judge(selected, material, holder, findings, settings)
    return Decision(
        selected=selected, material=material, holder=holder, outcome=outcome, reasons=tuple(reasons), compared=compared
    )


def _judge(
    selected: Selected, material: Material, holder: Holder | None, findings: Findings, settings: params.Promotion
) -> tuple[Outcome, list[str], tuple[Compared, ...]]:
    blocks = [material.hindrance] if material.hindrance else _forbidden(material.licences, settings.use)
    if blocks:
        return "blocked", blocks, ()
    if holder is not None and holder.key == material.key:
        return "kept", [f"{selected.init} was selected again; it is version {holder.version}, the champion"], ()
    bars = _bars(selected, material, settings)
    if holder is None:
        return "challenger" if bars else "champion", bars or ["there was no champion before it"], ()
    passed, words, compared = weigh(selected, material, holder, findings, settings)
    return "champion" if passed and not bars else "challenger", [*bars, words], compared


def _forbidden(licences: Sequence[str], use: str) -> list[str]:
    if use == "research":
        return []
    return [f"promotion.use is {use}, which this licence forbids: {name}" for name in licences if permits(name) == "no"]


def permits(licence: str) -> str:
    """Says whether a licence, or a sentence about one, permits commercial use: `yes`, `no` or `unclear`."""
    known = commercial(licence.rpartition(": ")[2])
    forbids = any(word in licence.lower() for word in FORBIDDING)
    return "no" if known == "unclear" and forbids else known


def _bars(selected: Selected, material: Material, settings: params.Promotion) -> list[str]:
    """Lists what keeps it from being champion whatever its scores are."""
    found = [f"marked {mark}: {why}" for mark, why in BARRED.items() if mark in selected.marks]
    if material.demoted:
        found.append(f"it was demoted: {material.demoted}; take the tag demoted off its version to allow it again")
    if settings.require_audit:
        found += [f"marked {mark}: the audit is not clean" for mark in LEAKS if mark in selected.marks]
    if settings.require_complete and selected.gaps:
        found.append(f"the benchmark has runs to do: {'; '.join(selected.gaps)}")
    if settings.use == "commercial":
        unclear = [name for name in material.licences if permits(name) == "unclear"]
        found += [f"whether this licence permits commercial use is unclear, read it: {name}" for name in unclear]
    return found
