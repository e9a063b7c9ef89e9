"""Does what an initialization gives a probability come true as often?"""

from __future__ import annotations

from medtransfer.comparison.calibration import CAUTION, UNTEMPERED, Calibrated, Calibration, Measure
from medtransfer.comparison.findings import Findings
from medtransfer.comparison.wording import names
from medtransfer.core.errors import quantity
from medtransfer.report.tables import Section, grid
from medtransfer.statistics.calibration import BINS, EVENTS
from medtransfer.weights.families import labels

HEADER = ("init", "ECE", "by chance", "ECE after temperature", "temperature", "slope", "intercept")
BRIER = ("init", "Brier score", "reliability", "resolution", "uncertainty")
NAMED = 6


def calibration(findings: Findings) -> list[Section]:
    """Tabulates the calibration of every initialization, task by task, with what all tables share said first."""
    shown = {task: one.calibration for task, one in findings.evidence.items() if one.calibration is not None}
    if not shown:
        return []
    head = Section(
        title="Calibration", slug="calibration", notes=(_method(findings), _read(), _alarm(findings, shown)),
        figures=("reliability", "net-benefit"), scores=True,
    )  # fmt: skip
    return [head, *(section for task, found in shown.items() for section in _of_task(task, found))]


def miscalibrated(findings: Findings) -> tuple[list[tuple[str, str]], int]:
    """Lists whose slope or intercept is not that of calibrated probabilities, of all tasks at once (Bonferroni).

    Returns:
        Pairs of task and init, and how many slopes and intercepts were looked at.
    """
    looked = [
        (task, one.init, measure.p)
        for task, evidence in findings.evidence.items()
        if evidence.calibration is not None
        for one in evidence.calibration.inits
        for measure in (one.slope, one.intercept)
        if measure is not None and measure.p is not None
    ]
    share = CAUTION * findings.settings.alpha / max(1, len(looked))
    return list(dict.fromkeys((task, init) for task, init, p in looked if p <= share)), len(looked)


def _of_task(task: str, found: Calibration) -> list[Section]:
    calibrated = Section(
        title=f"Calibration: {task}", slug=f"calibration-{task}", level=3,
        grid=grid(HEADER, [_line(one) for one in found.inits]), notes=tuple(_notes(found)), scores=True,
    )  # fmt: skip
    brier = Section(
        title=f"Brier score: {task}", slug=f"brier-{task}", level=3,
        grid=grid(BRIER, [_brier(one) for one in found.inits]), scores=True,
    )  # fmt: skip
    return [calibrated, brier]


def _line(one: Calibrated) -> tuple[str, ...]:
    return (
        one.init, _text(one.ece, 100), f"{100 * one.chance:.2f}", _text(one.tempered, 100),
        "-" if one.temperature is None else f"{one.temperature:.2f}", _text(one.slope), _text(one.intercept),
    )  # fmt: skip


def _brier(one: Calibrated) -> tuple[str, ...]:
    return one.init, _text(one.brier, 100), *(f"{100 * value:.2f}" for value in one.parts.values())


def _text(measure: Measure | None, unit: float = 1) -> str:
    if measure is None:
        return "-"
    text = f"{unit * measure.estimate:.2f}"
    if measure.low is None or measure.high is None:
        return text
    low = measure.low if unit == 1 else max(0.0, measure.low)
    return f"{text} ({unit * low:.2f} to {unit * measure.high:.2f})"


def _notes(found: Calibration) -> list[str]:
    notes = []
    if len(found.labels) > 1:
        rare = f"; of these with fewer than {EVENTS} patients of one class: {names(found.rare, NAMED)}" * bool(
            found.rare
        )
        notes.append(f"Means over {len(found.labels)} labels with both classes in test{rare}.")
    elif found.rare:
        notes.append(f"Fewer than {EVENTS} patients of one class: slope and intercept are hardly measured.")
    seeds = sorted({one.seeds for one in found.inits})
    fewer = f"{seeds[0]} to " * (seeds[0] < seeds[-1])
    notes.append(f"Measured on {fewer}{quantity(seeds[-1], 'seed')} of each.")
    bare = [one.init for one in found.inits if one.slope is None]
    if bare:
        notes.append(f"No slope, because in a run the probabilities separate a label's classes: {names(bare, NAMED)}.")
    cold = [one.init for one in found.inits if one.tempered is None]
    if cold:
        notes.append(f"No temperature: {names(cold, NAMED)}; {UNTEMPERED}.")
    return notes


def _method(findings: Findings) -> str:
    level = f"{100 * (1 - findings.settings.alpha):g} %"
    return (
        f"Mean over seeds and labels ({level} interval over seeds and test patients, each by itself). ECE: expected "
        f"calibration error in percentage points, {BINS} bins of equal mass, not debiased; by chance: what it would be "
        "on average if every probability were right and images independent. After temperature: logits divided by a "
        "number per label that fits val best (log loss); test is never fitted to. Brier score in percent = reliability "
        "- resolution + uncertainty. Lower is better: ECE, Brier score, reliability."
    )


def _read() -> str:
    return (
        "Slope and intercept: of the truth's log odds over the predicted ones, the intercept with the slope held at 1. "
        "Right are 1 and 0; a slope below 1: too extreme; an intercept below 0: too high. An ECE near “by chance” "
        "shows no miscalibration, and proves no calibration. Class weights in the loss move probabilities on purpose."
    )


def _alarm(findings: Findings, shown: dict[str, Calibration]) -> str:
    found, number = miscalibrated(findings)
    if not number:
        return "With one seed nothing is tested here."
    named = labels(findings.benchmark.inits)
    rule = f"{number} slopes and intercepts at once, {CAUTION * findings.settings.alpha:g} (Bonferroni)"
    if not found:
        return f"No slope or intercept was shown to be other than that of calibrated probabilities; {rule}."
    each = [
        f"{task}: {names([named.get(init, init) for where, init in found if where == task], NAMED)}"
        for task in shown
        if any(where == task for where, _ in found)
    ]
    return f"Shown not to be calibrated (slope not 1, or intercept not 0): {'; '.join(each)}; {rule}."
