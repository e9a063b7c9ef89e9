"""Protocols: scores by each of them side by side, and whether they rank initializations alike."""

from __future__ import annotations

from medtransfer.comparison.agreements import FINE_TUNED, Agreed
from medtransfer.comparison.cells import WHOLE
from medtransfer.comparison.findings import Findings
from medtransfer.report.sections.fewer_labels import score
from medtransfer.report.tables import Section, grid


def protocols(findings: Findings) -> list[Section]:
    """Tabulates the score of every initialization with all labels by each protocol."""
    whole = [point for point in findings.points if point.fraction == WHOLE]
    columns = [p for p in findings.benchmark.protocols if any(point.protocol == p for point in whole)]
    if len(columns) < 2:
        return []
    index = {(point.task, point.init, point.protocol): point for point in whole}
    lines = [
        (task, init, *(score(index.get((task, init, protocol))) for protocol in columns))
        for task in findings.benchmark.tasks
        for init in findings.benchmark.inits
        if any((task, init, protocol) in index for protocol in columns)
    ]
    note = (
        f"Mean test score in percent with all labels and its {100 * whole[0].level:g} % interval over seeds and test "
        "patients (t, crossed, ddof 1), each by itself, not corrected for their number. No comparison mixes protocols: "
        f"tables, tests and answers of this page rest on {findings.settings.protocol} (comparison.protocol)."
    )
    notes = [note] if any(one.found.tau is not None for one in findings.agreements) else [note, *_without(findings)]
    head = Section(
        title="Protocols", slug="protocols", grid=grid(("task", "init", *columns), lines), notes=tuple(notes),
        scores=True,
    )  # fmt: skip
    agreed = _agreement(findings)
    return [head, agreed] if agreed else [head]


def _agreement(findings: Findings) -> Section | None:
    if all(one.found.tau is None for one in findings.agreements):
        return None
    header = ("task", "protocol", "inits", "Kendall's tau", "interval", "ceiling")
    first = findings.agreements[0].found
    seeds = sorted({one.found.seeds for one in findings.agreements})
    number = " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
    notes = [
        f"Tau-b between the ranking by mean test score of each protocol and that by {FINE_TUNED}: 1 is the same order, "
        f"0 none. Interval: {100 * first.level:g} % of {first.draws:,} draws of seeds (n = {number}), and of test "
        "patients where all have the same, each by itself, not corrected for their number; noise draws tau towards "
        "0, in the draws once more. Over all tasks: the mean.",
        f"Ceiling: what tau the ranking by {FINE_TUNED} itself can be expected to have with the true one (empirical "
        "Bayes, Efron and Morris, JASA 1973): no protocol can be shown to agree better than that.",
    ]
    notes += _without(findings)
    lines = [_line(one) for one in findings.agreements]
    return Section(
        title="Agreement with fine-tuning", slug="agreement", level=3, grid=grid(header, lines), notes=tuple(notes),
        scores=True,
    )  # fmt: skip


def _without(findings: Findings) -> list[str]:
    """Says why there is no tau."""
    return [f"{one.task}, {one.protocol}: no tau, {one.found.note}." for one in findings.agreements if one.found.note]


def _line(one: Agreed) -> tuple[str, ...]:
    found = one.found
    ends = "-" if found.low is None or found.high is None else f"{found.low:.2f} to {found.high:.2f}"
    return (
        one.task, one.protocol, str(found.inits), "-" if found.tau is None else f"{found.tau:.2f}", ends,
        "-" if found.ceiling is None else f"{found.ceiling:.2f}",
    )  # fmt: skip
