"""Benchmarks drawn from a known truth, and what the product says of them; `python -m tests.simulated` prints a table.

A score is the init's truth plus what its seed, its patients and both together do to it; scores on val share the seed's
luck. Everything is in margins of the task.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medtransfer.comparison import answers, contrasts
from medtransfer.comparison.contrasts import ALL, Column
from medtransfer.comparison.patients import Evidence
from medtransfer.comparison.published_form import Row
from medtransfer.results import looks
from medtransfer.statistics import t_tests

Array = npt.NDArray[Any]
MARGIN = 0.01


@dataclass(frozen=True)
class World:
    """How many of each, and what varies how much, in margins."""

    inits: int
    seeds: int
    seed_std: float
    """of a score over seeds"""
    patient_std: float
    """of an init's mean over patients: what other patients would make of it"""
    patients: int = 100
    tasks: int = 1
    loud: float = 1.0
    """times the std over seeds of the first init"""


DOMINATE = {"seeds": (1.0, 0.1), "patients": (0.1, 1.0)}
"""stds over seeds and over patients"""


@dataclass(frozen=True)
class Draw:
    """One benchmark: what the runs are, and what is said of them."""

    rows: dict[str, list[Row]]
    evidence: dict[str, Evidence]
    columns: dict[str, Column]


def names(inits: int) -> tuple[str, ...]:
    return tuple(f"i{k}@net" for k in range(inits))


def draw(world: World, truth: Array, rng: np.random.Generator, *, look: int = 1, alpha: float = 0.05) -> Draw:
    """Draws a benchmark and compares it as `findings` does."""
    rows, evidence, untested = {}, {}, []
    inits = names(world.inits)
    for task in [f"t{k}" for k in range(world.tasks)]:
        values, val = contributions(world, truth, rng)
        rows[task] = [_row(task, init, values[k].mean(axis=1), val[k]) for k, init in enumerate(inits)]
        evidence[task] = Evidence(
            task=task, unit="patient", images=world.patients, patients=world.patients, cases=world.patients,
            contributions=dict(zip(inits, values, strict=True)),
        )  # fmt: skip
        column = contrasts.of_task(rows[task], evidence[task], MARGIN)
        assert column is not None
        untested.append(column)
    whole = contrasts.over_tasks(untested, list(rows))
    columns = contrasts.at_level([*([whole] if whole else []), *untested], looks.level(alpha, look))
    return Draw(rows, evidence, {column.scope: column for column in columns})


def contributions(world: World, truth: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draws inits x seeds x patients, and the scores on val: inits x seeds."""
    shape = (world.inits, world.seeds, world.patients)
    loud = np.ones(world.inits)
    loud[0] = world.loud
    luck = world.seed_std * loud[:, None] * rng.standard_normal(shape[:2])
    by_patient = world.patient_std * world.patients**0.5 * rng.standard_normal((world.inits, world.patients))
    rest = 0.3 * max(world.seed_std, world.patient_std) * rng.standard_normal(shape)
    shared = 3 * rng.standard_normal((world.seeds, 1)) + 5 * rng.standard_normal(world.patients)
    values = 80 + truth[:, None, None] + luck[:, :, None] + by_patient[:, None, :] + rest + shared
    val = 80 + truth[:, None] + luck + 0.3 * world.seed_std * rng.standard_normal(shape[:2])
    return MARGIN * values, MARGIN * val


def _row(task: str, init: str, scores: Array, val: Array) -> Row:
    seeds = tuple(range(len(scores)))
    return Row(
        task=task, init=init, applicable=True, unit="seed", redrawn=False, expected=len(seeds), seeds=seeds,
        undefined=(), missing=(), scores=tuple(scores.tolist()), ratio=0.0, val=float(val.mean()),
        vals=tuple(val.tolist()), summary=t_tests.summary(scores), marks=(),
    )  # fmt: skip


def answer_of(drawn: Draw, task: str = "t0") -> answers.Answer:
    """Answers as the page does."""
    labels = {init: init for init in drawn.columns[task].inits}
    rows = drawn.rows[task]
    return answers.of_task(drawn.columns[task], rows, labels=labels, metric="AUC", next_share=1e-9)


def false_statements(drawn: Draw, truth: Array) -> dict[str, bool]:
    """Says which kinds of sentence are wrong somewhere on the page."""
    found = {"better": False, "by more": False, "equivalent": False, "start from": False}
    for column in drawn.columns.values():
        gap = truth[:, None] - truth  # in margins, which is the unit over tasks, too
        estimate = column.pairs.estimate
        unit = 1.0 if column.scope == ALL else MARGIN
        better = estimate - np.nan_to_num(column.reach, nan=np.inf) > 0
        beyond = estimate - np.nan_to_num(column.reach, nan=np.inf) >= unit
        within = np.abs(estimate) + np.nan_to_num(column.equal_reach, nan=np.inf) < unit
        off = ~np.eye(len(gap), dtype=bool)
        found["better"] |= bool((better & (gap <= 0) & off).any())
        found["by more"] |= bool((beyond & (gap <= 1) & off).any())
        found["equivalent"] |= bool((within & (np.abs(gap) >= 1 - 1e-9) & off).any())
        ok = better | within | ~off
        for init in np.flatnonzero(ok.all(axis=1)):
            found["start from"] |= bool((gap[init] <= -1 + 1e-9).any())
    return found


def truths(inits: int) -> dict[str, Array]:
    """Names what is true, in margins."""
    found = {"all equal": np.zeros(inits)}
    for name, first in (("one worse by 8", -8.0), ("one better by 1", 1.0), ("one better by 2", 2.0)):
        truth = np.zeros(inits)
        truth[0] = first
        found[name] = truth
    return found


def share(
    world: World, truth: Array, what: Callable[[Draw], Any], rounds: int, seed: int = 0, **options: Any
) -> dict[str, float]:
    """Counts how often each of some things is so."""
    rng = np.random.default_rng(seed)
    counts: dict[str, float] = {}
    for _ in range(rounds):
        for name, is_so in what(draw(world, truth, rng, **options)).items():
            counts[name] = counts.get(name, 0) + float(is_so)
    return {name: count / rounds for name, count in counts.items()}


def said(drawn: Draw, truth: Array) -> dict[str, bool]:
    """Says what is wrong, and what of the truth is found."""
    column = drawn.columns["t0"]
    kept = column.candidates
    first, others = column.inits[0], column.inits[1:]
    best, worst = truth[0] > 0, truth[0] < 0
    return {
        **{f"false {name}": wrong for name, wrong in false_statements(drawn, truth).items()},
        "first out": first not in kept and worst,
        "others out": best and kept == (first,),
        "one other out": best and any(init not in kept for init in others),
        "best kept": first in kept or not best,
    }


def table(rounds: int, seeds: Sequence[int] = (3, 5, 10), inits: Sequence[int] = (3, 10, 20)) -> Iterator[str]:
    """Lays out error rates and power."""
    yield "| truth | dominate | inits | seeds | false better | false equivalent | false start from | found |"
    yield "|---|---|---|---|---|---|---|---|"
    for kind, (seed_std, patient_std) in DOMINATE.items():
        for number in inits:
            for count in seeds:
                for name, truth in truths(number).items():
                    world = World(inits=number, seeds=count, seed_std=seed_std, patient_std=patient_std)
                    found = share(world, truth, functools.partial(said, truth=truth), rounds, seed=number)
                    power = {"all equal": "-", "one worse by 8": f"{found['first out']:.2f}"}
                    shown = power.get(name, f"{found['others out']:.2f}")
                    yield (
                        f"| {name} | {kind} | {number} | {count} | {found['false better']:.3f} | "
                        f"{found['false equivalent']:.3f} | {found['false start from']:.3f} | {shown} |"
                    )


if __name__ == "__main__":
    for line in table(int(sys.argv[1]) if len(sys.argv) > 1 else 300):
        print(line, flush=True)
