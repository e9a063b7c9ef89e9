"""Races of candidates whose truth is known; `python benchmarks/race.py` prints tables of them.

Everything is in margins. A score is the candidate's truth, what its epochs are still to do to it, its seed's luck (most
of it stays when the same seed is trained for longer), and what its val patients make of it (the same in all rounds).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medtransfer.statistics import race
from medtransfer.statistics.race import Race, Rules

Array = npt.NDArray[Any]
SEEDS = (3, 4, 6, 8, 10)
"""of each candidate that is left, round by round"""
EPOCHS = (0.125, 0.25, 0.5, 1.0, 1.0, 1.0)
"""of a full training"""
LASTING = 0.7
"""share of a seed's variance that stays from round to round"""


@dataclass(frozen=True)
class World:
    candidates: int
    seed_std: float = 1.0
    drift: float = 0.0
    """std of what the epochs after the first round do to a candidate; half of it from round to round"""
    patient_std: float = 0.0
    """of a candidate's mean over patients"""
    patients: int = 0
    seeds: tuple[int, ...] = SEEDS
    error: float = 0.05
    loud: float = 1.0
    """times the std over seeds of the first candidate"""


@dataclass(frozen=True)
class Run:
    race: Race
    truth: Array
    cost: float
    """share of the full grid's: every candidate with all seeds at full length"""


def run(world: World, truth: Array, rng: np.random.Generator) -> Run:
    """Runs a race to its end, or until it is decided."""
    count, most = world.candidates, world.seeds[-1]
    state = race.start(count, Rules(rounds=len(world.seeds), margin=1.0, error=world.error))
    loud = np.where(np.arange(count) == 0, world.loud, 1.0)[:, None] * world.seed_std
    luck = rng.normal(size=(count, most)) * loud
    common = rng.normal(size=most) * 3  # what a seed does to all
    patients = rng.normal(size=(count, world.patients)) * world.patient_std * world.patients**0.5
    still = rng.normal(size=count) * world.drift
    cost, paid = 0.0, np.zeros(count)
    for number, seeds in enumerate(world.seeds):
        left, epochs = list(state.left), EPOCHS[number]
        drift = world.drift * 0.5**number if epochs < 1 else 0.0
        fresh = rng.normal(size=(count, most)) * loud
        scores = truth[:, None] + LASTING**0.5 * luck + (1 - LASTING) ** 0.5 * fresh + common
        scores = (scores + (still * 0.5**number * (epochs < 1))[:, None])[left, :seeds]
        if world.patients:
            rest = rng.normal(size=(*scores.shape, world.patients)) * 2 * world.seed_std
            rest -= rest.mean(axis=2, keepdims=True)
            scores = scores[:, :, None] + patients[left][:, None] + rest
        state = race.look(state, scores, more_seeds=most - seeds, drift=drift * 2**0.5)
        cost += (seeds * epochs - paid[left]).sum()
        paid[left] = seeds * epochs
        if state.decided:
            break
    return Run(state, truth, cost / most / count)


PLAN = ((0.25, 3), (0.5, 3), (1.0, 3), (1.0, 5))
"""share of the epochs and seeds of the rounds, as the verb `recommend` has them by default"""
BELIEVED = 2.0
"""`recommend.drift`"""


def run_as_recommended(world: World, truth: Array, rng: np.random.Generator, share: float) -> tuple[Run, int]:
    """Runs a race as the verb does, which has time for a share of the candidates of each round in the next one.

    Whoever the time does not reach for is withdrawn, the last by the scores first. What further epochs do is estimated
    from the candidates that stayed. Gives the race, and the pick: the cheapest of the equal ones.
    """
    count, most = world.candidates, PLAN[-1][1]
    state = race.start(count, Rules(rounds=len(PLAN), margin=1.0, error=world.error))
    luck, common = rng.normal(size=(count, most)) * world.seed_std, rng.normal(size=most) * 3
    still, former = rng.normal(size=count) * world.drift, np.empty((0, 0))
    cost, paid, means = 0.0, np.zeros(count), np.zeros(count)
    for number, (epochs, seeds) in enumerate(PLAN):
        ranked = sorted(state.left, key=lambda place: -means[place])
        for place in ranked[max(2, round(share * len(ranked))) :] if number else ():
            state = race.withdraw(state, place, "no time")
        left = list(state.left)
        fresh = rng.normal(size=(count, most)) * world.seed_std
        every = truth[:, None] + LASTING**0.5 * luck + (1 - LASTING) ** 0.5 * fresh + common
        every = every + (still * (1 - epochs))[:, None]
        drift = BELIEVED * (1 - epochs)
        if number and drift > 0 and len(left) > 1:
            drift = race.drift_with(drift, former[left][:, :seeds], every[left][:, :seeds])
        state = race.look(state, every[left, :seeds], more_seeds=most - seeds, drift=drift)
        means[left], former = every[left, :seeds].mean(axis=1), every
        cost += (seeds * epochs - paid[left]).sum()
        paid[left] = seeds * epochs
        if state.decided or len(state.left) < 2:
            break
    return Run(state, truth, cost / most / count), state.pick(rng.random(count).tolist())


def recommended(
    world: World, truths: Callable[[World, np.random.Generator], Array], share: float, races: int, seed: int
) -> Array:
    """Gives for each race: whether the rule dropped its best by a margin, probability stated, whether so, its cost."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(races):
        one, pick = run_as_recommended(world, truths(world, rng), rng, share)
        known = one.race.against(pick)
        said = race.probability_within(known[0], known[1], df=known[2], margin=1.0, rng=rng, draws=1000)
        best = one.race.standings[int(one.truth.argmax())]
        by_a_margin = np.sort(one.truth)[-1] - np.sort(one.truth)[-2] >= 1
        dropped = best.status == "dropped" and best.reason in ("worse", "out of reach") and by_a_margin
        found.append((dropped, said, one.truth[pick] >= one.truth.max() - 1, one.cost))
    return np.array(found, dtype=float)


def best_by_a_margin(world: World, rng: np.random.Generator) -> Array:
    """The first candidate is best by a margin, all others are equal: the most that may overtake it by luck."""
    return np.append(0.0, np.full(world.candidates - 1, -1.0))


def spread(std: float) -> Callable[[World, np.random.Generator], Array]:
    return lambda world, rng: rng.normal(size=world.candidates) * std


def ladder(world: World, rng: np.random.Generator) -> Array:
    """Half of the candidates within two margins, the others ever further behind, up to 20."""
    near = world.candidates // 2
    far = np.linspace(2, 20, world.candidates - near)
    return rng.permutation(-np.append(rng.uniform(0, 2, near), far))


def lost(world: World, truths: Callable[[World, np.random.Generator], Array], races: int, seed: int) -> Array:
    """Gives for each race whether its best candidate was dropped, and its cost."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(races):
        one = run(world, truths(world, rng), rng)
        found.append((int(one.truth.argmax()) not in one.race.left, one.cost))
    return np.array(found, dtype=float)


def stated(world: World, truths: Callable[[World, np.random.Generator], Array], races: int, seed: int) -> Array:
    """Gives for each race: probability stated without and with shrinkage, whether it was so, and its cost."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(races):
        one = run(world, truths(world, rng), rng)
        assert one.race.leader is not None
        known = one.race.against(one.race.leader)
        said = [
            race.probability_within(
                known[0], known[1], df=known[2], margin=1.0, rng=rng, draws=1000, shrunk=shrunk
            )
            for shrunk in (False, True)
        ]  # fmt: skip
        within = one.truth[one.race.leader] >= one.truth.max() - 1
        found.append((*said, within, one.cost))
    return np.array(found, dtype=float)


def bins(found: Array, column: int) -> list[tuple[str, float, float, int]]:
    """Gives per tenth of the stated probability: its name, the mean stated, the share that was so, the number."""
    tenth = np.minimum((found[:, column] * 10).astype(int), 9)
    return [
        (
            f"{k / 10:.1f}-{(k + 1) / 10:.1f}",
            found[tenth == k, column].mean(),
            found[tenth == k, 2].mean(),
            int((tenth == k).sum()),
        )
        for k in range(10)
        if (tenth == k).any()
    ]


HARD: dict[str, Callable[[int], World]] = {
    "seeds vary by 1": World,
    "seeds vary by .3": lambda count: World(count, seed_std=0.3),
    "seeds vary by .3, epochs change 1": lambda count: World(count, seed_std=0.3, drift=1.0),
    "patients vary by 1": lambda count: World(count, seed_std=0.3, patient_std=1.0, patients=50, seeds=SEEDS[:4]),
    "the best one's seeds vary by 4": lambda count: World(count, loud=4.0),
    "the same, first 2 seeds": lambda count: World(count, loud=4.0, seeds=(2, *SEEDS)),
}
"""worlds in which the best is best by a margin"""
SPREADS: dict[str, tuple[float, Callable[[World, np.random.Generator], Array]]] = {
    "equal": (1.0, spread(0.0)),
    "std .5": (1.0, spread(0.5)),
    "std 2": (1.0, spread(2.0)),
    "std 8": (1.0, spread(8.0)),
    "ladder": (1.0, ladder),
    "std 2, seeds vary by 3": (3.0, spread(2.0)),
    "std 4, seeds vary by 3": (3.0, spread(4.0)),
}
"""std over seeds, and how the candidates' true scores lie"""
FEW = ((2,), (2, 3), SEEDS)
"""seeds round by round: a race that ends early, and one that runs to its end"""
OURS: tuple[tuple[str, Callable[[World, np.random.Generator], Array], float], ...] = (
    ("equal", spread(0.0), 1.0),
    ("std 1", spread(1.0), 1.0),
    ("std 3", spread(3.0), 1.0),
    ("ladder", ladder, 1.0),
    ("best by a margin", best_by_a_margin, 0.5),
)
"""name, true scores and std over seeds, for races as the verb runs them"""
