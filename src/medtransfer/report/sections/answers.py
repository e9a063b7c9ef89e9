"""The answer in words, and what becomes of the claims."""

from __future__ import annotations

from collections.abc import Sequence

from medtransfer.comparison.claims import Part, Verdict, said
from medtransfer.comparison.findings import Findings
from medtransfer.comparison.wording import interval, names, points
from medtransfer.core.errors import quantity
from medtransfer.report.tables import Section, grid

NAMED = 6


def answer(findings: Findings) -> Section:
    """Says which weights to start from, over all tasks and for each."""
    notes = tuple(f"{answer.scope}: {answer.text}" for answer in findings.answers)
    words = (*notes, answer_method(findings))
    return Section(title="Answer", slug="answer", notes=words, bullets=True, figures=("answer",))


def answer_method(findings: Findings) -> str:
    """Says what all sentences rest on, and how often one may be wrong."""
    number = sum(column.pairs.number for column in findings.columns.values())
    if not number:
        return "Nothing could be compared."
    looks = (
        "all looks with other seeds together" if findings.look > 1 else "this look and any later one with more seeds"
    )
    return (
        f"All of this is read off {quantity(number, 'comparison')} of two initializations on test. The chance that "
        f"any 'better' on this page is wrong is at most {100 * findings.alpha:.2g} %, and so is that of any "
        f"'equivalent'; over {looks} it is {100 * findings.settings.alpha:g} %."
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
    share = findings.settings.alpha / max(1, len(findings.claims))
    method = (
        f"The claims of a body of evidence are right together with {100 * (1 - findings.settings.alpha):g} %: each has "
        f"the level {share:.2g}, divided by the number of members where one stands for a family. Supported: the "
        "interval is above 0; contradicted: below; else undecided. Own runs: over seeds and patients. Published "
        "numbers: Welch's t from mean, std (ddof 1) and n; they are of one set of test images each, and patients are "
        "not accounted for."
    )
    lead = () if any(_tested(verdict) for verdict in every if not verdict.paper) else (_untested(findings, every),)
    return Section(
        title="Claims", slug="claims", grid=grid(header, lines), notes=(method, *notes, *general),
        figures=("claims",), scores=True, bullets=True, lead=lead, folded=bool(lead),
    )  # fmt: skip


def _tested(verdict: Verdict) -> bool:
    return any(part.estimate is not None for part in verdict.parts)


def _untested(findings: Findings, every: Sequence[Verdict]) -> str:
    """Says in a sentence that these runs bear on no claim."""
    printed = ", and what published numbers say of them," if any(verdict.paper for verdict in every) else ""
    return f"No claim can be tested on these runs ({names(list(findings.claims), NAMED)}): why{printed} is below."


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
    unit = verdict.unit
    plain_estimate = "-" if part.estimate is None else f"{part.estimate:+.2f} {unit}"
    estimate = (plain_estimate if unit else points(part.estimate)) + (f" ({', '.join(marks)})" if marks else "")
    ends = interval(part.low, part.high)
    if unit and part.low is not None and part.high is not None:
        ends = f"{part.low:+.2f} to {part.high:+.2f} {unit}"
    words = (said(part.verdict, verdict.paper), said(verdict.verdict, verdict.paper))
    return (name, _source(verdict), part.better, part.than, estimate, ends, *words)


def glossary() -> Section:
    """Explains the page's words."""
    words = (
        "Initialization: the weights that a network starts from before it is trained on a task.",
        "Seed: one training from start to end, with its own draw of everything random; seeds of equal number share "
        "their draws, so initializations are compared seed by seed.",
        "Test patients: the patients (studies, images) that no training and no choice has seen. Other patients would "
        "give other scores; intervals say by how much.",
        "Margin: the smallest difference that matters on a task, set before any run; over all tasks each task counts "
        "in units of its own.",
        "Better (worse) by more than the margin: the whole interval of the difference is beyond the margin.",
        "Better (worse): the interval is on one side of 0, and reaches across the margin: how much is open.",
        "Better (worse) within the margin: on one side of 0, and too little to matter.",
        "Equivalent: whatever difference there is, it is within the margin.",
        "Not separated: the data say neither that there is a difference nor that there is none.",
        "Interval: those of all comparisons of two initializations hold at once with the stated chance; what decides "
        "on 'equivalent' is a narrower one, because only one of its ends can be wrong. None goes beyond what a score, "
        "or a difference of two, can be. Calibration, subgroups, other sites and controls are corrected each within "
        "its own section, as its notes say, and not for one another.",
        "Look: one comparison of these runs. More seeds after a look are another chance to be wrong, so each look has "
        "a part of the error that is allowed in all.",
        "Val: images held back from training that choose the epoch, and the pick among equals; never the test.",
    )
    return Section(title="Glossary", slug="glossary", notes=words, bullets=True)
