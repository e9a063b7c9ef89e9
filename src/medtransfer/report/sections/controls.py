"""Controls: is what the weights find more than a prior, frozen noise or texture, and does the pipeline leak?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from medtransfer.comparison.controls import PERMUTED, Against, Alarm, Controls, alarm_words, words_of
from medtransfer.comparison.findings import Findings
from medtransfer.comparison.label_curves import Point
from medtransfer.comparison.wording import interval, names, p_value, points
from medtransfer.core.errors import quantity
from medtransfer.report.sections.fewer_labels import score
from medtransfer.report.tables import Section, grid

MEANING = {
    "prior": "prior: train's share of each label, or train's mean mask, for every test image",
    PERMUTED: "permuted: the whole fine-tuning with the labels of train and val drawn anew among patients",
    "random-frozen": "random-frozen: logistic regression on a network of random weights",
    "texture": "texture: logistic regression on gray levels and texture, without a network",
}
NAMED = 6
ENOUGH = 5
"""seeds with which chance makes all permutations agree rarely enough, whatever the features"""


def controls(findings: Findings) -> list[Section]:
    """Tabulates the score of each control, task by task, and of each pre-trained init against the best of them."""
    found = findings.controls
    if found is None:
        return []
    ends = {one.task: (one.low, one.high) for one in found.alarms if one.p is not None}
    lines = [
        (one.task, control, score(_with_ends(one, ends) if control == PERMUTED else one), str(one.n))
        for control, one in found.points
    ]
    level = f"{100 * found.level:g} %"
    notes = [
        f"{'; '.join(MEANING[control] for control in found.asked)}. Mean test score in percent and its {level} "
        "interval over seeds and test patients, each by itself. No table, rank or contrast elsewhere holds a control.",
        *_alarm_notes(found),
    ]
    notes += _bare_notes(found)
    if found.missing:
        notes.append(f"Not there: {'; '.join(found.missing)}; `benchmark` runs them.")
    head = Section(
        title="Controls", slug="controls", grid=grid(("task", "control", "test score", "seeds"), lines),
        notes=tuple(notes), scores=True,
    )  # fmt: skip
    return [head, *([_differences(found)] if found.against else [])]


def _with_ends(point: Point, ends: Mapping[str, tuple[float | None, float | None]]) -> Point:
    """Gives the score of labels drawn anew the interval that its alarm rests on."""
    low, high = ends.get(point.task, (point.low, point.high))
    return replace(point, low=None if low is None else max(0.0, low), high=None if high is None else min(1.0, high))


def _bare_notes(found: Controls) -> list[str]:
    """Says why scores have no interval."""
    bare = [(control, one) for control, one in found.points if one.low is None]
    whose = {
        task: names([control for control, one in bare if one.task == task and one.n > 1], NAMED)
        for task in dict.fromkeys(one.task for _, one in bare if one.n > 1)
    }
    return [
        f"{of} on {task}: no interval, because all seeds have the same score and every test patient has the same part "
        "in it. That is no proof that other patients would leave it there."
        for task, of in whose.items()
    ] + ["A single seed has no interval."] * any(one.n == 1 for _, one in bare)


def _alarm_notes(found: Controls) -> list[str]:
    if PERMUTED not in found.asked:
        return []
    notes = [alarm_words(one, found) for one in found.alarms if one.raised]
    tested = [one for one in found.alarms if one.p is not None]
    if tested:
        rule = (
            "An alarm is raised where the score is above that by more than its error over permutations (one for each "
            "seed; never taken as less than that of test images in an order by lot) and test patients, at "
            f"{found.alpha:.2g} over {len(tested)} {'task' if len(tested) == 1 else 'tasks'} (Holm): "
            f"{'; '.join(map(_line, tested))}."
        )
        quiet = "" if notes else " None is raised; a leak that is small against the error stays unseen."
        notes.append(f"Labels drawn anew must score what nothing scores. {rule}{quiet}")
    mute = [one for one in tested if one.best_p is not None and one.best_p > found.alpha]
    notes += [
        f"{quantity(one.seeds, 'seed')} can raise no alarm on {one.task}: even 100 in each would have p "
        f"{p_value(one.best_p)}, because so few say next to nothing of their own error; take more."
        for one in mute
    ]
    if any(one.seeds < ENOUGH for one in tested if one not in mute):
        notes.append(
            f"With fewer than {ENOUGH} seeds permutations may agree by luck where a single direction of the features "
            "says all: an alarm then asks for more seeds."
        )
    notes += [f"No alarm can be raised on {one.task}: {one.note}." for one in found.alarms if one.note]
    if any(one.task in found.masks for one in tested):
        notes.append(
            "Masks drawn anew still have the shape of their mean, so nothing is what the mean mask (prior) scores; "
            "those runs are trained without augmentation that moves images, because that is learnt from any masks."
        )
    return notes


def _line(one: Alarm) -> str:
    return f"{one.task} {100 * one.mean:.2f} where nothing is {100 * (one.nothing or 0):.2f}, p {p_value(one.p)}"


def _differences(found: Controls) -> Section:
    header = ("task", "init", "best control", "difference, points", "interval", "p", "better than")
    metric = {point.task: point.metric for _, point in found.points}
    lines = [_row(one, found, metric[one.task]) for one in found.against]
    note = (
        f"Test score of each pre-trained initialization minus that of the control with the highest mean, with its "
        f"{100 * found.level:g} % interval over seeds and test patients, by itself. p: of no difference from any of "
        f"the controls but permuted, the largest of them and 1 where one scores as high, corrected over "
        f"{quantity(len(found.against), 'pair')} of initialization and task "
        f"(Holm). Shown to be better than all: p of at most {found.alpha:.2g}."
    )
    every = all(not one.unbeaten for one in found.against)
    notes = [note, *(["Every pre-trained initialization is shown to be better than every control."] if every else [])]
    return Section(
        title="Against the controls", slug="controls-differences", level=3, grid=grid(header, lines),
        notes=tuple(notes), scores=True,
    )  # fmt: skip


def _row(one: Against, found: Controls, metric: str) -> tuple[str, ...]:
    shown = f"not shown: {names([words_of(c, one.task, found) for c in one.unbeaten], NAMED)}"
    return (
        one.task, one.init, one.control, points(one.estimate), interval(one.low, one.high, metric), p_value(one.p),
        shown if one.unbeaten else "all",
    )  # fmt: skip
