"""What is written down of a race, event by event, so that a killed one goes on to the same end."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtransfer.core import files, schema
from medtransfer.runs.recommend.jobs import Probed, Stretch, Trained
from medtransfer.statistics import race
from medtransfer.statistics.race import Race, Rules


@dataclass(kw_only=True)
class Rung:
    """Candidates that are trained to an epoch with some seeds, then looked at together."""

    epochs: int
    seeds: tuple[int, ...]
    entered: tuple[str, ...]
    cut: dict[str, str] = field(default_factory=dict)
    """init -> why it was not given time for this rung"""
    lost: dict[str, str] = field(default_factory=dict)
    """init -> why it entered and has no score"""
    closed: bool = False
    drift: float = 0.0
    """std of what further epochs do to a difference, as was believed at this look"""
    more_seeds: int = 0
    minutes: float = 0.0
    """of the clock, when it was looked at"""


@dataclass(kw_only=True)
class Ledger:
    """All that has happened."""

    key: str
    spent: float = 0.0
    """seconds of the clock, of all calls"""
    probes: dict[str, Probed] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """init -> why it cannot be trained, or probed"""
    ranking: dict[str, float] = field(default_factory=dict)
    """init -> its place by what is cheap to know, the most promising first; empty: not ranked yet"""
    prior: dict[str, float] = field(default_factory=dict)
    rungs: tuple[Rung, ...] = ()
    trained: dict[str, Trained] = field(default_factory=dict)
    """`<digest of the run>-<epochs>` -> where it stood"""
    stages: dict[str, float] = field(default_factory=dict)
    """stage -> seconds of the clock"""
    pick: str = ""
    """what is trained to the end; empty: not chosen yet"""
    end_seeds: tuple[int, ...] = ()


def read(path: Path, key: str) -> Ledger:
    """Reads what is there of a race; a fresh ledger where there is nothing, or half of something."""
    try:
        tree = json.loads(path.read_text())
        found: Ledger = schema.convert(tree, Ledger)
    except Exception:  # whatever is not whole is not believed: features, checkpoints and values lie beside it
        return Ledger(key=key)
    return found if found.key == key else Ledger(key=key)


def write(ledger: Ledger, path: Path) -> None:
    """Writes it whole or not at all."""
    files.write_text(path, json.dumps(asdict(ledger), indent=1) + "\n")


def name_of(job: Stretch) -> str:
    """Names what a stretch comes to."""
    return f"{job.run.digest}-{job.epochs}"


def scores_of(ledger: Ledger, rung: Rung, inits: list[str], folder: Path, digests: dict[tuple[str, int], str]) -> Any:
    """Gathers a rung's scores: inits x seeds x patients, or inits x seeds where one has no patients; and coarseness."""
    names = [[f"{digests[init, seed]}-{rung.epochs}" for seed in rung.seeds] for init in inits]
    held: list[list[NDArray[Any] | None]] = [[_values(folder / f"{name}.npy") for name in row] for row in names]
    coarse = max((ledger.trained[name].coarseness for row in names for name in row), default=0.0)
    sizes = {None if one is None else len(one) for row in held for one in row}
    if len(sizes) == 1 and None not in sizes and sizes != {1}:
        return np.array(held, dtype=np.float64), coarse
    return np.array([[ledger.trained[name].score for name in row] for row in names]), 0.0


def _values(path: Path) -> NDArray[Any] | None:
    return np.load(path) if path.is_file() else None


def race_of(ledger: Ledger, rules: Rules, folder: Path, digests: dict[tuple[str, int], str]) -> tuple[Race, list[str]]:
    """Runs through the looks that were had; gives the race as it stands, and the init of each place."""
    entrants = list(ledger.rungs[0].entered)
    state, place = race.start(len(entrants), rules), {init: number for number, init in enumerate(entrants)}
    for rung in ledger.rungs:
        if not rung.closed:
            break
        for init, why in (rung.cut | rung.lost).items():
            if place.get(init) in state.left:
                state = race.withdraw(state, place[init], why)
        left = [entrants[number] for number in state.left]
        if not left:
            break
        values, coarse = scores_of(ledger, rung, left, folder, digests)
        state = race.look(state, values, more_seeds=rung.more_seeds, drift=rung.drift, coarseness=coarse)
    return state, entrants
