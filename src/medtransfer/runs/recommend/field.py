"""Who takes part in a race, with which seeds, and what the answer is kept under."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medtransfer.core import schema
from medtransfer.core.identity import PROTOCOL_VERSION, digest
from medtransfer.data import catalog
from medtransfer.params import Params
from medtransfer.runs.recommend import candidates
from medtransfer.runs.run import Run, plan


@dataclass(frozen=True)
class Field:
    """Who takes part, and who does not."""

    task: str
    runs: Mapping[tuple[str, int], Run]
    """of every init that takes part, with every seed"""
    inits: tuple[str, ...]
    left_out: tuple[candidates.LeftOut, ...]
    reference: str
    sizes: Mapping[str, int]
    """parameters of each backbone"""

    @property
    def any_run(self) -> Run:
        """Is one of the runs: they share task, data, device and parameters."""
        return next(iter(self.runs.values()))


def field_of(params: Params, root: Path, task: str) -> Field:
    """Chooses candidates, brings their weights, prepares the data and plans the runs of all seeds.

    Raises:
        UserError: what would stop every candidate.
    """
    inits, left_out = candidates.choose(params, root, catalog.lookup(task, root))
    seeds = seeds_of(params)
    planned = plan(params, root, [init.canonical for init in inits], [task], seeds, splits=False)
    first = min((run.fold for run in planned if run.fold is not None), default=None)
    runs = {(run.init.canonical, run.seed): run for run in planned if run.fold == first}
    reference = candidates.canonical(params, params.comparison.reference)
    names = tuple(dict.fromkeys(init for init, _ in runs))
    sizes = candidates.sizes(inits)
    return Field(task, runs, names, tuple(left_out), reference if reference in names else "", sizes)


def seeds_of(params: Params) -> tuple[int, ...]:
    """Lists the seeds of the end: those of the benchmark, then the next numbers that are not tuning's."""
    taken = {params.tuning.seed, *params.tuning.finalist_seeds}
    found = list(params.benchmark.seeds[: params.recommend.seeds])
    number = 0
    while len(found) < params.recommend.seeds:
        if number not in found and number not in taken:
            found.append(number)
        number += 1
    return tuple(found)


def key_of(field: Field, params: Params) -> str:
    """Identifies what is asked: all that decides the answer."""
    first = seeds_of(params)[0]
    return digest(
        {
            "verb": "recommend",
            "task": field.task,
            "runs": {init: field.runs[init, first].digest for init in field.inits},
            "settings": schema.flatten(params.recommend, "recommend"),
            "seeds": list(seeds_of(params)),
            "reference": field.reference,
            "protocol_version": PROTOCOL_VERSION,
        }
    )
