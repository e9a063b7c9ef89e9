"""The answer in words, and what becomes of the claims."""

from __future__ import annotations

from medtransfer.claims import Part, Verdict
from medtransfer.findings import Findings
from medtransfer.tables import Section, grid, interval, points


def answer(findings: Findings) -> Section:
    """Says which weights to start from, over all tasks and for each."""
    notes = tuple(f"{answer.scope}: {answer.text}" for answer in findings.answers)
    return Section(title="Answer", slug="answer", notes=(*notes, answer_method(findings)), bullets=True)


def answer_method(findings: Findings) -> str:
    """Says how the answer is found."""
    return (
        "Chosen on val, never on test; then compared with every other on test, over seeds and patients, "
        f"Holm-adjusted within the task at {findings.settings.alpha:g}."
    )


def claims(findings: Findings) -> Section | None:
    """Tabulates the claims: estimate, interval and verdict on our own runs and on published numbers."""
    if not findings.claims:
        return None
    lines: list[tuple[str, ...]] = []
    notes: list[str] = []
    for name, verdicts in findings.claims.items():
        notes.append(f"{name}: {verdicts[0].says}")
        for verdict in verdicts:
            lines += [_line(name, verdict, part) for part in verdict.parts]
            notes += [f"{name}, {_source(verdict)}: {words}." for words in _reasons(verdict)]
    every = [verdict for verdicts in findings.claims.values() for verdict in verdicts]
    general = sorted({f"{_source(verdict)}: {note}." for verdict in every for note in verdict.notes})
    header = ("claim", "evidence", "better", "than", "difference, points", "interval", "verdict", "claim as a whole")
    method = (
        f"Two-sided {100 * (1 - findings.settings.alpha):g} % intervals for these tasks: supported = above 0, "
        "contradicted = below 0, else undecided; own runs: over seeds and patients, published: Welch's t from mean, "
        "std (ddof 1) and n; correction: none, but for the choice of the best of a family on published numbers "
        "(Bonferroni)."
    )
    return Section(
        title="Claims", slug="claims", grid=grid(header, lines), notes=(method, *notes, *general),
        figures=("claims",), scores=True, bullets=True,
    )  # fmt: skip


def _reasons(verdict: Verdict) -> list[str]:
    """Says, once, what limits the parts of a verdict; of one that is not testable only the last word, why it is not."""
    found = [note for part in verdict.parts for note in (part.notes[-1:] if part.estimate is None else part.notes)]
    return list(dict.fromkeys(found))


def _source(verdict: Verdict) -> str:
    if verdict.paper:
        return verdict.paper
    return f"these runs ({verdict.backbone})" if verdict.backbone else "these runs"


def _line(name: str, verdict: Verdict, part: Part) -> tuple[str, ...]:
    marks = [word for word, is_so in (("digitised", part.digitised), ("contaminated", part.contaminated)) if is_so]
    estimate = points(part.estimate) + (f" ({', '.join(marks)})" if marks else "")
    ends = interval(part.low, part.high)
    return (name, _source(verdict), part.better, part.than, estimate, ends, part.verdict, verdict.verdict)
