"""Whether each protocol ranks the initializations as fine-tuning does, task by task and over tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medtransfer.comparison.cells import WHOLE, Cell
from medtransfer.comparison.contrasts import ALL
from medtransfer.statistics.agreement import Agreement, Drawn, agree, over_tasks

FINE_TUNED = "finetune"


@dataclass(frozen=True, kw_only=True)
class Agreed:
    """The agreement of a protocol's ranking with that by fine-tuning."""

    task: str
    """or `all tasks`"""
    protocol: str
    inits: tuple[str, ...]
    """that both have; of all tasks those of any"""
    found: Agreement


def agreements(cells: Sequence[Cell], level: float, seed: int) -> tuple[Agreed, ...]:
    """Compares rankings with all labels.

    Args:
        cells: complete ones.
        level: of the intervals.
        seed: of the draws.
    """
    whole = {(c.task, c.protocol, c.init): c for c in cells if c.fraction == WHOLE}
    tasks = list(dict.fromkeys(task for task, _, _ in whole))
    found = []
    for protocol in dict.fromkeys(p for _, p, _ in whole if p != FINE_TUNED):
        parts: list[tuple[tuple[str, ...], Drawn]] = []
        for task in tasks:
            own = [i for t, p, i in whole if (t, p) == (task, protocol) and (task, FINE_TUNED, i) in whole]
            if not own:
                continue
            drawn = agree(*_tables(whole, task, protocol, own), rng=np.random.default_rng(seed), level=level)
            parts.append((tuple(own), drawn))
            found.append(Agreed(task=task, protocol=protocol, inits=tuple(own), found=drawn.found))
        pooled = over_tasks([drawn for _, drawn in parts])
        if pooled is not None:
            every = tuple(dict.fromkeys(init for inits, _ in parts for init in inits))
            found.append(Agreed(task=ALL, protocol=protocol, inits=every, found=pooled))
    return tuple(found)


def _tables(
    whole: dict[tuple[str, str, str], Cell], task: str, protocol: str, inits: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Stacks inits x seeds x patients of both protocols, where all have the same patients; else scores alone."""
    sides = [[whole[task, name, init] for init in inits] for name in (protocol, FINE_TUNED)]
    widths = {cell.values.shape[1] for cells in sides for cell in cells}
    tables = [np.stack([cell.values if len(widths) == 1 else cell.scores for cell in cells]) for cells in sides]
    return tables[0], tables[1]
