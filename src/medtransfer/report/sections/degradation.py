"""What is left of a score where test images are made worse on purpose?"""

from __future__ import annotations

from medtransfer.comparison.degradation import ALL, Degradation, Degraded
from medtransfer.comparison.findings import Findings
from medtransfer.core.errors import quantity
from medtransfer.report.tables import Section, grid
from medtransfer.statistics import metrics
from medtransfer.statistics.degradation import Lost


def degradation(findings: Findings) -> list[Section]:
    """Tabulates, for every task, what each initialization loses on all corruptions together and on each kind."""
    shown = {task: found for task, found in findings.degradations.items() if found is not None}
    if not shown:
        return []
    level = f"{100 * (1 - findings.settings.alpha):g} %"
    notes = (
        "The test images of each run once more, made worse in one way at a time, the same pixels for every "
        "initialization and seed. Lost: (score as they are - score made worse) / (score as they are - chance), in "
        f"percent, the mean over kinds and severities, or over severities ({level} interval over seeds and test "
        "patients). 0: nothing is lost; 100: all that was above chance.",
        "Not defined: the score as they are is not shown to be above chance. These are synthetic changes: they say "
        "what a network does with such images, not how often a clinic has them. No test is made between "
        "initializations here.",
    )
    head = Section(title="Shift on purpose", slug="shift", notes=notes, scores=True)
    return [head, *(_of_task(task, found) for task, found in shown.items())]


def _of_task(task: str, found: Degradation) -> Section:
    title, slug = f"Shift on purpose: {task}", f"shift-{task}"
    if found.note:
        return Section(title=title, slug=slug, level=3, notes=(f"Not measured: {found.note}.",))
    severities = ("Severity " if len(found.severities) == 1 else "Severities ") + ", ".join(map(str, found.severities))
    note = f"{severities}; chance is {found.chance:.2f}; {quantity(found.seeds, 'seed')} of each."
    header = ("init", f"{metrics.title(found.metric)} as they are", "lost, %", *found.kinds)
    lines = [_line(one, found.kinds) for one in found.inits]
    return Section(title=title, slug=slug, level=3, grid=grid(header, lines), notes=(note,), scores=True)


def _line(one: Degraded, kinds: tuple[str, ...]) -> tuple[str, ...]:
    return (
        one.init,
        f"{100 * one.clean:.2f}",
        _text(one.lost[ALL], ends=True),
        *(_text(one.lost[kind]) for kind in kinds),
    )


def _text(lost: Lost, ends: bool = False) -> str:
    if lost.estimate is None:
        return "not defined"
    text = f"{100 * lost.estimate:.1f}"
    if not ends or lost.low is None or lost.high is None:
        return text
    return f"{text} ({100 * lost.low:.1f} to {100 * lost.high:.1f})"
