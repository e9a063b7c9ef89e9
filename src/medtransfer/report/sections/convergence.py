"""Convergence: how long training takes to come close to the reference's final score on val."""

from __future__ import annotations

from medtransfer.comparison.findings import Findings
from medtransfer.comparison.training_times import TrainingTime
from medtransfer.report.tables import Section, grid
from medtransfer.results.result import of_task
from medtransfer.statistics import metrics
from medtransfer.statistics.convergence import SHARE, Times
from medtransfer.weights.families import labels


def convergence(findings: Findings) -> Section | None:
    """Tabulates epochs, images and seconds to the goal, and their ratios to the reference's."""
    if not any(one.ratio for one in findings.times):
        return None
    several = len({one.protocol for one in findings.times}) > 1
    name = labels(findings.benchmark.inits).get(findings.reference, findings.reference)
    header = (
        "task", "init", *(["protocol"] if several else []), "reached by", "epochs", "images", "seconds",
        f"epochs, times {name}'s", f"seconds, times {name}'s",
    )  # fmt: skip
    lines = [_line(one, several) for one in findings.times]
    return Section(
        title="Convergence", slug="convergence", grid=grid(header, lines), notes=tuple(_notes(findings, name)),
        folded=len(lines) > 12,
    )  # fmt: skip


def _line(one: TrainingTime, several: bool) -> tuple[str, ...]:
    own = "reference"
    return (
        one.task, one.init, *([one.protocol] if several else []), f"{one.reached} of {one.runs}",
        words(one.epochs, ".2f"), words(one.images, ",.0f"), words(one.seconds, ",.1f"),
        own if one.init == one.against else words(one.ratio, ".2f"),
        own if one.init == one.against else words(one.seconds_ratio, ".2f"),
    )  # fmt: skip


def words(times: Times | None, form: str) -> str:
    """Writes a time or a ratio with what its interval has of ends."""
    if times is None:
        return "-"
    if times.late and times.early:
        return "not known"
    text = f"{times.bound} {times.estimate:{form}}".strip()
    if times.low is not None and times.high is not None:
        return f"{text} ({times.low:{form}} to {times.high:{form}})"
    if times.low is not None:
        return f"{text} (from {times.low:{form}})"
    return text if times.high is None else f"{text} (to {times.high:{form}})"


def _notes(findings: Findings, name: str) -> list[str]:
    several = len({one.protocol for one in findings.times}) > 1
    goals: dict[str, None] = {}
    for one in findings.times:
        metric = metrics.title(of_task(findings.results, one.task)[0].metric)
        goals[f"{one.task}{f', {one.protocol}' if several else ''}: {metric} {100 * one.goal:.2f}"] = None
    every = [t for one in findings.times for t in (one.epochs, one.ratio) if t is not None]
    level = f"{100 * every[0].level:g} %"
    counts = sorted({one.runs for one in findings.times})
    number = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    notes = [
        f"Epochs, images and seconds until the score on val first reached {100 * SHARE:g} % of {name}'s final one "
        f"(mean over runs of the best of a run; {'; '.join(goals)}), linear between epochs: geometric mean over "
        f"n = {number} runs with its {level} interval (t of the logs over seeds, ddof 1); ratios are paired by seed. "
        "Each interval by itself, not corrected for their number. All labels; nothing here is test data. Seconds "
        "are of the GPU where there is one, epochs of a run taken as equally long.",
    ]
    if any(one.late for one in every):
        notes.append(
            "At least: a run never reached the goal and counts with all its epochs, so the interval has a lower end "
            "alone."
        )
    if any(one.early for one in every):
        notes.append(
            "At most: a run was beyond the goal after its first epoch, or the reference never reached it, so the "
            "interval has an upper end alone."
        )
    if any(one.late and one.early for one in every):
        notes.append("Not known: runs of both sides are known by a bound alone.")
    return notes
