"""Test predictions of a task -> its score in groups of patients, and whether one falls behind the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from medtransfer.comparison.calibration import CAUTION, LEAST, VALUES
from medtransfer.core.progress import Tell, untold
from medtransfer.data.tasks import GROUP
from medtransfer.statistics.contributions import Predictions
from medtransfer.statistics.metrics import Metric
from medtransfer.statistics.seeds_and_patients import JointInterval, joint_interval
from medtransfer.statistics.t_tests import Array

FEWEST = 30
"""patients of a group that is scored"""
CASES = 10
"""patients of each class that it has, of every label that is scored"""


@dataclass(frozen=True, kw_only=True)
class InGroup:
    """An initialization in a group."""

    init: str
    group: str
    estimate: float
    low: float | None
    high: float | None
    gap: float
    """score minus the mean score in the other groups"""
    gap_low: float | None
    gap_high: float | None
    """at the level shared by all gaps of the task"""
    p: float | None
    """two-sided, of no gap, not corrected"""
    drop: JointInterval | None = None
    """score of all patients minus that in the group"""


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """One column of groups on a task."""

    name: str
    patients: Mapping[str, int]
    """group that is scored -> patients in test"""
    small: Mapping[str, int]
    """group that is left out -> patients"""
    labels: tuple[str, ...]
    """that the score is over: with enough patients of both classes in every group"""
    seeds: int
    """of each initialization that were looked at"""
    scores: tuple[InGroup, ...]
    """by initialization and group"""
    looked: int
    """gaps of the task"""
    share: float = 0.0
    """of the error that is allowed, which they share"""
    note: str = ""
    """why nothing is scored"""


def subgroups(
    table: pd.DataFrame, predictions: Predictions, metric: Metric, units: Mapping[str, Sequence[Sequence[int]]],
    level: float, tasks: int = 1, tell: Tell = untold,
) -> tuple[Grouping, ...]:  # fmt: skip
    """Scores every initialization in every group of every column that the predictions carry.

    Args:
        table: of the test images.
        predictions: of complete initializations on these images.
        metric: the task's, one with contributions of patients.
        units: init -> places of the runs of each of its seeds, or folds.
        level: of intervals; the gaps of all tasks share half of what it leaves (Bonferroni).
        tasks: that are looked at together.
        tell: called with what is done.
    """
    share = VALUES / max(1, predictions.answers[0].size * sum(map(len, units.values())))
    chosen = {init: places[: max(LEAST, int(share * len(places)))] for init, places in units.items()}
    order = [place for places in chosen.values() for unit in places for place in unit]
    known = replace(predictions, answers=predictions.answers[order])
    renumbered = {place: number for number, place in enumerate(order)}
    runs = {init: [[renumbered[one] for one in unit] for unit in places] for init, places in chosen.items()}
    names = [name for name in map(str, table.columns) if name.startswith(GROUP)]
    wholes: dict[tuple[int, ...], Added | str] = {}
    whole = []
    for place, name in enumerate(names):
        tell(f"groups by {name.removeprefix(GROUP)}", place / len(names))
        whole.append(_grouping(name, table[name].astype(str).to_numpy(), known, metric, runs, wholes))
    values = [(grouping, scored) for grouping, scored in whole if scored]
    looked = sum(len(scored) * (len(grouping.patients) if len(grouping.patients) > 2 else 1)
                 for grouping, scored in values)  # fmt: skip
    allowed = CAUTION * (1 - level) / tasks
    corrected = 1 - allowed / max(1, looked)
    return tuple(
        replace(
            grouping, looked=looked, share=allowed, scores=_scores(scored, tuple(grouping.patients), level, corrected)
        )
        if scored
        else grouping
        for grouping, scored in whole
    )


WHOLE = ""
"""all patients, whatever their group"""
Scored = dict[str, dict[str, Array]]
"""init -> group, or `WHOLE` -> seeds x all patients: what each adds to the score there, which is their mean"""
Added = tuple[Array, Array]
"""runs x patients of what they add, and their names"""


def _grouping(
    name: str, groups: Array, known: Predictions, metric: Metric, runs: Mapping[str, Sequence[Sequence[int]]],
    wholes: dict[tuple[int, ...], Added | str],
) -> tuple[Grouping, Scored]:  # fmt: skip
    patients = {
        str(group): len(np.unique(known.patients[groups == group])) for group in np.unique(groups) if group != ""
    }
    kept = [group for group, number in patients.items() if number >= FEWEST]
    every = set(range(len(known.labels)))
    usable = {group: every if metric.of == "mask" else _usable(known, groups == group) for group in kept}
    kept = [group for group in kept if (usable[group] == every if metric.of == "classes" else usable[group])]
    common = set.intersection(every, *(usable[group] for group in kept))
    columns = sorted(common)
    seeds = min(len(units) for units in runs.values())
    blank = Grouping(
        name=name.removeprefix(GROUP), patients={group: patients[group] for group in kept},
        small={group: number for group, number in patients.items() if group not in kept},
        labels=tuple(known.labels[k] for k in columns), seeds=seeds, scores=(), looked=0,
    )  # fmt: skip
    if len(kept) < 2 or not columns:
        return replace(blank, note="fewer than two groups are large enough, with cases of one label in all"), {}
    whole = np.unique(known.patients)
    found: Scored = {init: {} for init in runs}
    for group in (*kept, WHOLE):
        here = groups == group if group != WHOLE else np.ones(len(groups), dtype=bool)
        added = _added(known, here, columns, metric) if group != WHOLE else wholes.get(tuple(columns))
        if added is None:
            added = wholes[tuple(columns)] = _added(known, here, columns, metric)
        if isinstance(added, str):
            if group == WHOLE:
                continue  # groups can be scored where all of them together are too many
            return replace(blank, note=added), {}
        values_of_runs, own = added
        places = np.searchsorted(whole, own)
        for init, units in runs.items():
            values = np.stack([values_of_runs[unit].mean(axis=0) for unit in units])
            score = values.mean(axis=1, keepdims=True)
            spread = np.repeat(score, len(whole), axis=1)
            spread[:, places] += (values - score) * len(whole) / len(own)
            found[init][group] = spread
    return blank, found


def _added(known: Predictions, here: Array, columns: Sequence[int], metric: Metric) -> Added | str:
    """Gives what patients add to each run's score on some images and labels, and who they are; else why not."""
    parts = metric.per_patient and metric.per_patient(
        replace(
            known,
            patients=known.patients[here],
            labels=tuple(known.labels[k] for k in columns),
            truth=known.truth[here][:, columns],
            answers=np.ascontiguousarray(known.answers[:, here][:, :, columns]),
        )
    )
    if parts is None or isinstance(parts, str):
        return parts or "the metric has no contributions of patients"
    own = np.unique(known.patients[here][parts.rows])
    if len(own) != parts.values.shape[1]:
        return "patients are too many to be left out one by one"
    return parts.values, own


def _usable(known: Predictions, here: Array) -> set[int]:
    """Finds the labels of which a group has enough patients of both classes."""
    truth, patients = known.truth[here], known.patients[here]
    counts = [min(len(np.unique(patients[column == one])) for one in (0, 1)) for column in truth.T]
    return {k for k, number in enumerate(counts) if number >= CASES}


def _scores(scored: Scored, groups: Sequence[str], level: float, corrected: float) -> tuple[InGroup, ...]:
    found = []
    for init, values in scored.items():
        for group in groups:
            others = np.mean([values[other] for other in groups if other != group], axis=0)
            one, gap = (
                joint_interval(values[group], level=level),
                joint_interval(values[group] - others, level=corrected),
            )
            found.append(
                InGroup(
                    init=init,
                    group=group,
                    estimate=one.estimate,
                    low=one.low,
                    high=one.high,
                    gap=gap.estimate,
                    gap_low=gap.low,
                    gap_high=gap.high,
                    p=gap.p,
                    drop=joint_interval(values[WHOLE] - values[group]) if WHOLE in values else None,
                )
            )
    return tuple(found)
