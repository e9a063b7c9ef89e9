"""Differences from the reference -> how probable better, equivalent and worse are over tasks like these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from medtransfer.comparison.contrasts import ALL, Column
from medtransfer.statistics import all_pairs
from medtransfer.statistics.hierarchical import FEWEST, Hierarchical, hierarchical

LEVEL = 0.95
"""of the intervals"""


@dataclass(frozen=True, kw_only=True)
class Believed:
    """What is believed of an init minus the reference, in margins, over tasks like those that both are compared on."""

    init: str
    tasks: tuple[str, ...]
    """one name for each difference of `found.each`; tasks that share images are one, joined by `+`"""
    seen: tuple[float, ...]
    """the differences as measured"""
    found: Hierarchical | None
    note: str = ""
    """why there is none"""


def believe(columns: Mapping[str, Column], reference: str, group: Callable[[str], str]) -> tuple[Believed, ...]:
    """Weighs every init against the reference over the tasks on which both are compared.

    The error of a task is that of the normal which has the interval of the comparison itself, over seeds and patients,
    so that few degrees of freedom count.

    Args:
        columns: task -> comparisons; the mean over all tasks is left out.
        reference: canonical name.
        group: task -> name of its images: tasks that share them count once, their errors added as if they always went
            together.
    """
    own = {task: column for task, column in columns.items() if task != ALL and reference in column.inits}
    inits = list(dict.fromkeys(init for column in own.values() for init in column.inits if init != reference))
    return tuple(_of_init(init, own, reference, group) for init in inits)


def _of_init(init: str, columns: Mapping[str, Column], reference: str, group: Callable[[str], str]) -> Believed:
    groups: dict[str, list[str]] = {}
    for task, column in columns.items():
        if init in column.inits and column.margin is not None:
            groups.setdefault(group(task), []).append(task)
    names, seen, errors = [], [], []
    for tasks in groups.values():
        members = [columns[task] for task in tasks]
        parts = [one.pairs.taken([one.inits.index(init), one.inits.index(reference)]) for one in members]
        pair = all_pairs.over_columns(parts, [one.margin or 1.0 for one in members], ["one"] * len(parts))
        names.append("+".join(tasks))
        seen.append(float(pair.estimate[0, 1]))
        errors.append(float(pair.reach(1 - LEVEL)[0, 1] / special.ndtri((1 + LEVEL) / 2)))
    nothing = Believed(init=init, tasks=tuple(names), seen=tuple(seen), found=None)
    if len(names) < FEWEST:
        note = f"{len(names)} of the {FEWEST} tasks that it needs: with different images, a margin, both compared"
        return replace(nothing, note=note)
    still = [name for name, error in zip(names, errors, strict=True) if not np.isfinite(error)]
    if still:
        return replace(nothing, note=f"no difference has an error on {', '.join(still)}")
    return replace(nothing, found=hierarchical(seen, errors, level=LEVEL))
