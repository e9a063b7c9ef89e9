"""Does an initialization keep what `promotion.require` asks of a champion?"""

from __future__ import annotations

from medtransfer.comparison.findings import Findings
from medtransfer.comparison.judged import HEADER, Judged, judge, line
from medtransfer.comparison.wording import names
from medtransfer.report.tables import Section, grid
from medtransfer.weights.families import labels

NAMED = 6


def requirements(findings: Findings) -> Section | None:
    """Tabulates every condition of every initialization, as the first decision on these test sets would judge it."""
    judged = {
        init: judge([one for one in findings.required if one.init == init], findings.gate)
        for init in findings.benchmark.inits
    }
    lines = [(init, *line(one)) for init, every in judged.items() for one in every]
    if not lines:
        return None
    return Section(
        title="What promotion requires", slug="requirements", grid=grid(("init", *HEADER), lines),
        notes=(_said(findings, judged), _method(findings)), scores=True,
    )  # fmt: skip


def _said(findings: Findings, judged: dict[str, tuple[Judged, ...]]) -> str:
    named = labels(findings.benchmark.inits)
    asked = {init: every for init, every in judged.items() if every}
    short = {row.init for row in findings.rows if row.applicable and row.summary is None}
    whole = {init: every for init, every in asked.items() if init not in short}
    kept = [named[init] for init, every in whole.items() if all(one.verdict == "within" for one in every)]
    broken = [named[init] for init, every in asked.items() if any(one.verdict == "violated" for one in every)]
    words = f"Shown to keep all conditions on all tasks: {names(kept, NAMED)}."
    words += f" Shown to violate one: {names(broken, NAMED)}." if broken else ""
    unknown = [named[init] for init in asked if init in short]
    return words + (f" Without all its runs on a task: {names(unknown, NAMED)}." if unknown else "")


def _method(findings: Findings) -> str:
    return (
        "A condition is kept where its interval lies within the bound (within), violated where it lies beyond; not "
        "shown: it reaches across, and that blocks too, as missing data does. Intervals over seeds and test patients, "
        "two-sided, all conditions and tasks of an initialization at once (Holm) at "
        f"{findings.gate:.3g}, what the first decision on these test sets has of promotion.alpha; later ones have "
        "less, and a model of one task is judged on that task alone. Calibration: expected calibration error, which "
        "is never 0 by chance; worst_group_drop: score of all patients minus that of each group that is large enough. "
        "Over seeds alone: how it varies with the patients is not known."
    )
