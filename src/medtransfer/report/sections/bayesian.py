"""How probable is it that an initialization is better over tasks like these?"""

from __future__ import annotations

from medtransfer.comparison.bayesian import LEVEL, Believed
from medtransfer.comparison.findings import Findings
from medtransfer.comparison.wording import names, number_word
from medtransfer.report.tables import Section, grid
from medtransfer.statistics.hierarchical import MEAN_SCALE, SPREAD_SCALE, Belief, Chances
from medtransfer.weights.families import labels

SURE = 0.95
"""probability from which on a sentence names it"""
NAMED = 6


def bayesian(findings: Findings) -> list[Section]:
    """Tabulates every initialization's probabilities, and its differences on the tasks drawn towards their mean."""
    if not findings.settings.bayesian:
        return []
    every = sorted(findings.bayesian, key=lambda one: -one.found.mean.estimate if one.found else float("inf"))
    known = [one for one in every if one.found is not None]
    title, lacking = "How probable over tasks", _lacking(every)
    if not known:
        note = lacking or [f"Nothing is compared with {findings.reference}."]
        return [Section(title=title, slug="bayesian", notes=tuple(note), scores=True)]
    header = (
        "init", "tasks", "mean, margins", "mean: better", "mean: equivalent", "mean: worse", "next: better",
        "next: equivalent", "next: worse", "next better, prior halved to doubled", "next equivalent, likewise",
    )  # fmt: skip
    notes = (_said(findings, known), _method(findings), _prior(known), *lacking)
    head = Section(
        title=title, slug="bayesian", grid=grid(header, [_line(one) for one in known]), notes=notes, scores=True,
    )  # fmt: skip
    return [head, _tasks(findings, known)]


def sure(known: list[Believed]) -> dict[str, list[str]]:
    """Lists, for better, equivalent and worse, the inits of which it is surely so in the mean over tasks."""
    return {
        word: [one.init for one in known if one.found is not None and getattr(one.found.of_mean, word) >= SURE]
        for word in ("better", "equivalent", "worse")
    }


def _said(findings: Findings, known: list[Believed]) -> str:
    named, found = labels(findings.benchmark.inits), sure(known)
    words = {"better": "better by more than the margin", "equivalent": "equivalent", "worse": "worse by more than it"}
    each = [f"{words[key]}: {names([named[init] for init in inits], NAMED)}" for key, inits in found.items() if inits]
    rest = [named[one.init] for one in known if not any(one.init in inits for inits in found.values())]
    against = named.get(findings.reference, findings.reference)
    first = f"Against {against}, in the mean over tasks like these, with probability {SURE:g} or more: "
    first += f"{'; '.join(each)}." if each else "nothing."
    return first + (f" Open: {names(rest, NAMED)}." if rest else "")


def _method(findings: Findings) -> str:
    return (
        f"Minus {findings.reference}, in margins of the tasks; equivalent: within one margin (the region of practical "
        "equivalence). A normal hierarchical model: the true difference of a task varies around a mean over tasks like "
        "these; next task: the true difference on one more of them. These are probabilities of each initialization by "
        "itself, given model and prior; they are not corrected for how many there are, and the verdicts above do not "
        "rest on them."
    )


def _prior(known: list[Believed]) -> str:
    assert known[0].found is not None
    mean, following = known[0].found.before
    many = number_word(max(len(one.tasks) for one in known))
    moved = max(
        abs(getattr(other, word) - getattr(one.found.of_mean, word))
        for one in known
        if one.found is not None
        for other, _ in one.found.other
        for word in ("better", "equivalent", "worse")
    )
    return (
        f"Prior: the mean is normal around 0 with standard deviation {MEAN_SCALE:g} margins, the spread over tasks "
        f"half-Cauchy with median {SPREAD_SCALE:g}; alone they say better {mean.better:.2f}, equivalent "
        f"{mean.equivalent:.2f} of the mean, {following.better:.2f} and {following.equivalent:.2f} of a next task. "
        f"With {many} tasks the spread is hardly known, and the prior counts most for a next task: the last columns "
        "say what half and twice both scales would give. Of the mean's probabilities none moves by more than "
        f"{moved:.2f}."
    )


def _line(one: Believed) -> tuple[str, ...]:
    assert one.found is not None
    found = one.found
    half, twice = (of_next for _, of_next in found.other)
    return (
        one.init, str(len(one.tasks)), _belief(found.mean), *_chances(found.of_mean), *_chances(found.of_next),
        _span(half.better, twice.better), _span(half.equivalent, twice.equivalent),
    )  # fmt: skip


def _chances(found: Chances) -> tuple[str, str, str]:
    return _chance(found.better), _chance(found.equivalent), _chance(found.worse)


def _chance(value: float) -> str:
    """Writes a probability: never a certainty."""
    return "> .99" if value > 0.99 else "< .01" if value < 0.01 else f"{value:.2f}"


def _span(half: float, twice: float) -> str:
    return f"{_chance(half)} to {_chance(twice)}"


def _belief(found: Belief) -> str:
    return f"{found.estimate:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


def _tasks(findings: Findings, known: list[Believed]) -> Section:
    every = list(dict.fromkeys(task for one in known for task in one.tasks))
    lines = []
    for one in known:
        assert one.found is not None
        told = dict(zip(one.tasks, zip(one.seen, one.found.each, strict=True), strict=True))
        lines.append((one.init, *(f"{told[t][0]:+.2f}; {_belief(told[t][1])}" if t in told else "-" for t in every)))
    note = (
        f"In margins, minus {findings.reference}: as measured; then drawn towards the mean over tasks, with its "
        f"{100 * LEVEL:g} % interval. The less a task's seeds and patients say, the further it is drawn."
    )
    return Section(
        title="Differences, drawn towards their mean", slug="bayesian-tasks", level=3,
        grid=grid(("init", *every), lines), notes=(note,), scores=True,
    )  # fmt: skip


def _lacking(every: list[Believed]) -> list[str]:
    return [f"Not weighed: {one.init}, {one.note}." for one in every if one.found is None]
