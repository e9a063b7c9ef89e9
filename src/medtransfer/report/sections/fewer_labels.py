"""Fewer labels: scores by the number of labelled images of train, and what each initialization saves of them."""

from __future__ import annotations

from medtransfer.comparison.findings import Findings
from medtransfer.comparison.label_curves import Point, Saving, amounts, curved
from medtransfer.comparison.wording import plural
from medtransfer.report.tables import Entry, Grid, Section, column_title
from medtransfer.results.result import of_task
from medtransfer.statistics.label_savings import LabelSaving
from medtransfer.weights.families import labels

MOST = 12
"""sentences below a table; of more those that show something stand there"""


def fewer_labels(findings: Findings) -> list[Section]:
    """Tabulates, task by task, the score of every initialization and protocol by the number of labels."""
    tasks = [task for task in findings.benchmark.tasks if len(amounts(curved(findings.points, task))) > 1]
    if not tasks:
        return []
    head = Section(
        title="Fewer labels", slug="fewer-labels", notes=tuple(_notes(findings)), figures=("label-curves",),
        scores=True,
    )  # fmt: skip
    return [head, *(_task(findings, task) for task in tasks)]


def amount_words(fraction: str, number: float) -> str:
    """Writes an amount, as in `40 labels (10 %)`."""
    share = fraction if fraction.endswith("-shot") else f"{100 * float(fraction):g} %"
    return f"{number:,.0f} label{'' if round(number) == 1 else 's'} ({'all' if fraction == '1' else share})"


def _task(findings: Findings, task: str) -> Section:
    own = curved(findings.points, task)
    protocols = list(dict.fromkeys(point.protocol for point in own))
    several = len(protocols) > 1
    columns = amounts(own)
    index = {(point.init, point.protocol, point.fraction): point for point in own}
    saved = {(one.init, one.protocol): one.found for one in findings.savings if one.task == task}
    lines = []
    for protocol in protocols:
        for init in dict.fromkeys(point.init for point in own if point.protocol == protocol):
            scores = [score(index.get((init, protocol, fraction))) for fraction, _ in columns]
            words = "reference" if init == findings.reference else equal(saved.get((init, protocol)))
            lines.append(
                tuple(map(Entry, (init, *([protocol] if several else []), *([words] if saved else []), *scores)))
            )
    header = (
        "init", *(["protocol"] if several else []), *(["labels at equal score"] if saved else []),
        *(amount_words(*column) for column in columns),
    )  # fmt: skip
    return Section(
        title=f"{column_title(of_task(findings.results, task), task)} by labels", slug=f"fewer-labels-{task}", level=3,
        grid=Grid(header=header, rows=tuple(lines)), notes=tuple(_sentences(findings, task, several)), bullets=True,
        scores=True,
    )  # fmt: skip


def score(point: Point | None) -> str:
    """Writes a mean in percent with its interval."""
    if point is None:
        return "-"
    ends = "" if point.low is None or point.high is None else f" ({100 * point.low:.2f} to {100 * point.high:.2f})"
    return f"{100 * point.mean:.2f}{ends}"


def equal(found: LabelSaving | None) -> str:
    """Writes labels at equal score with their interval, whatever it has of ends."""
    if found is None:
        return "-"
    if not found.decided:
        return "not known"
    if found.outcome == "at the fewest" and found.equal_high == found.fewest:
        return f"at most {found.fewest:,.0f}"
    if found.outcome == "not reached" and found.equal_low == found.most:
        return f"more than {found.most:,.0f}"
    about = {
        "reached": f"{found.equal or 0.0:,.0f}",
        "at the fewest": f"below {found.fewest:,.0f}",
        "not reached": f"above {found.most:,.0f}",
    }[found.outcome]
    if found.equal_low is None:
        return f"{about} (at most {found.equal_high:,.0f})"
    if found.equal_high is None:
        return f"{about} (at least {found.equal_low:,.0f})"
    return f"{about} ({found.equal_low:,.0f} to {found.equal_high:,.0f})"


def _sentences(findings: Findings, task: str, several: bool) -> list[str]:
    named = labels(findings.benchmark.inits)
    own = [one for one in findings.savings if one.task == task]
    shown = own if len(own) <= MOST else [one for one in own if _shows(one)][:MOST]
    said = [f"{named[one.init]}{f', {one.protocol}' if several else ''}: {one.found.sentence}." for one in shown]
    rest = len(own) - len(shown)
    return [*said, f"The other {rest} are in the table."] if rest else said


def _shows(one: Saving) -> bool:
    """Says whether the interval holds no saving of nothing: all of it is below, or above, the reference's labels."""
    low, high = one.found.equal_low, one.found.equal_high
    return (high is not None and high < one.found.labels) or (low is not None and low >= one.found.labels)


def _notes(findings: Findings) -> list[str]:
    own = [point for task in findings.benchmark.tasks for point in curved(findings.points, task)]
    level = f"{100 * own[0].level:g} %"
    named = labels(findings.benchmark.inits).get(findings.reference, findings.reference)
    units = sorted({point.unit for point in own})
    tested = sorted({findings.evidence[point.task].unit for point in own if point.patients})
    over = " and ".join([*(f"{unit}s" for unit in units), *(f"test {plural(unit)}" for unit in tested)])
    counts = sorted({point.n for point in own})
    number = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    whole = " or ".join(f"{unit}s" for unit in units)
    val = (
        "val, which chooses epoch and strength, shrinks as train does"
        if findings.benchmark.fractions_of == "train_and_val"
        else "val, which chooses epoch and strength, stays whole"
    )
    notes = [
        "Test score in percent by the number of labelled images of train (a mean over runs), with its "
        f"{level} interval over {over} (t, crossed; n = {number} {whole}, ddof 1), each by itself, "
        f"not corrected for their number. Subsets are nested, the same for all initializations; {val}; test is whole. "
        "No entry: a run is missing, undefined or not applicable.",
    ]
    if findings.savings:
        methods = " and ".join(dict.fromkeys(_method(one.found) for one in findings.savings))
        notes.append(
            f"Labels at equal score: with how many labels an initialization has the score that {named} has with all, "
            "by the same protocol; its score is taken as linear in log labels between two amounts. The interval holds "
            f"the amounts at which the two are not told apart at {level} ({methods}, two-sided; inverted as by "
            "Fieller, JRSS B 1954), each by itself, not corrected for their number. Where that reaches the fewest or "
            "the most labels, it has no end on that side."
        )
    return notes


def _method(found: LabelSaving) -> str:
    if found.patients:
        return f"paired difference over {found.seeds} seeds and {found.patients:,} patients"
    return f"paired t over {found.seeds} runs"
