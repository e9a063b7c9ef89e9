"""Does a score hold in every group of patients?"""

from __future__ import annotations

from medtransfer.comparison.findings import Findings
from medtransfer.comparison.subgroups import CASES, FEWEST, Grouping
from medtransfer.comparison.wording import interval, names, points, scored
from medtransfer.core.errors import quantity
from medtransfer.report.tables import Section, grid
from medtransfer.weights.families import labels

NAMED = 6


def subgroups(findings: Findings) -> list[Section]:
    """Tabulates the score of every initialization in every group, and the group that falls furthest behind."""
    found = [
        _section(findings, task, grouping)
        for task, evidence in findings.evidence.items()
        for grouping in evidence.subgroups
    ]
    if not found:
        return []
    level = f"{100 * (1 - findings.settings.alpha):g} %"
    notes = (
        f"Test score in percent within groups of patients ({level} interval over seeds and patients). Behind: the "
        "group with the lowest score, and that minus the mean of the other groups, in points; its interval, and "
        "“shown”, are corrected for all groups, initializations and tasks (Bonferroni). Groups differ in how ill "
        "they are and how they were imaged: a gap is no proof of what causes it, and none shown is no "
        "proof of equality.",
    )
    return [Section(title="Subgroups", slug="subgroups", notes=notes, scores=True), *found]


def behind(findings: Findings, task: str, grouping: Grouping) -> list[tuple[str, str]]:
    """Lists the initializations and the groups in which they were shown to score lower than in the others."""
    share = grouping.share / max(1, grouping.looked)
    return [(one.init, one.group) for one in grouping.scores if one.p is not None and one.p <= share and one.gap < 0]


def _section(findings: Findings, task: str, grouping: Grouping) -> Section:
    groups = list(grouping.patients)
    header = ("init", *(f"{group} ({grouping.patients[group]:,} patients)" for group in groups), "behind", "by, points")
    metric = next(one.metric for one in findings.results if one.task == task)
    lines = []
    for init in dict.fromkeys(one.init for one in grouping.scores):
        own = [one for one in grouping.scores if one.init == init]
        worst = min(own, key=lambda one: one.gap)
        gap = f"{points(worst.gap)} ({interval(worst.gap_low, worst.gap_high, metric)})"
        lines.append((init, *(scored(one.estimate, one.low, one.high, metric) for one in own), worst.group, gap))
    return Section(
        title=f"Subgroups: {task}, {grouping.name}", slug=f"subgroups-{task}-{grouping.name}", level=3,
        grid=grid(header, lines) if lines else None, notes=tuple(_notes(findings, task, grouping)), scores=True,
    )  # fmt: skip


def _over(findings: Findings, task: str, grouping: Grouping) -> str:
    """Says which labels the scores are over, where they are not the task's."""
    tested = next(one.tested for one in findings.results if one.task == task)
    if len(grouping.labels) in (0, len(tested)):
        return ""
    return (
        f", over {names(list(grouping.labels), NAMED)} alone: of the other {len(tested) - len(grouping.labels)} labels "
        f"a group has fewer than {CASES} patients of one class, so these are not the task's scores"
    )


def _notes(findings: Findings, task: str, grouping: Grouping) -> list[str]:
    notes = []
    if grouping.scores:
        named = labels(findings.benchmark.inits)
        shown = behind(findings, task, grouping)
        each = [
            f"{group}: {names([named.get(init, init) for init, where in shown if where == group], NAMED)}"
            for group in dict.fromkeys(group for _, group in shown)
        ]
        notes.append(f"Shown to fall behind: {'; '.join(each)}." if each else "No group was shown to fall behind.")
        gaps = f"{grouping.looked} gaps of the task share {grouping.share:.3g}"
        notes.append(f"{quantity(grouping.seeds, 'seed')} of each{_over(findings, task, grouping)}; {gaps}.")
    else:
        notes.append(f"Not compared: {grouping.note}.")
    if grouping.small:
        small = [f"{group} ({number})" for group, number in grouping.small.items()]
        notes.append(
            f"Left out, with fewer than {FEWEST} patients or {CASES} of each class of any label: {names(small, NAMED)}."
        )
    return notes
