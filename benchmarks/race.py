"""What the race of `statistics/race.py` does, on simulations whose truth is known.

    PYTHONPATH=src:. python benchmarks/race.py [--races 500] [--grids 200]

How often the best candidate is dropped; how far the stated probability is from the truth, for each world and by tenths
of what is stated; both again as the verb `recommend` runs a race; how wide a bound of a difference is under this rule
and under a confidence sequence. All in margins.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy import optimize, stats
from tests.support import races
from tests.support.races import World

CANDIDATES = (5, 20, 50)


def errors(count: int) -> None:
    """Prints how often the best is dropped, and at what cost."""
    print(f"\n| the best is best by 1 margin, {count} races | candidates | best dropped | cost |\n|---|---|---|---|")
    for name, world in races.HARD.items():
        for candidates in CANDIDATES:
            found = races.lost(world(candidates), races.best_by_a_margin, count, 1).mean(axis=0)
            print(f"| {name} | {candidates} | {found[0]:.3f} | {found[1]:.2f} |", flush=True)


def calibration(count: int) -> None:
    """Prints what is stated and what is so."""
    print(f"\n| true scores, {count} races | candidates | seeds up to | flat | shrunk | so | cost |\n|{'---|' * 7}")
    whole = []
    for name, (std, truths) in races.SPREADS.items():
        for candidates in CANDIDATES:
            for seeds in races.FEW:
                found = races.stated(World(candidates, seeds=seeds, seed_std=std), truths, count, 1)
                whole.append(found)
                flat, shrunk, so, cost = found.mean(axis=0)
                print(
                    f"| {name} | {candidates} | {seeds[-1]} | {flat:.2f} | {shrunk:.2f} | {so:.2f} | {cost:.2f} |",
                    flush=True,
                )
    for column, kind in enumerate(("flat", "shrunk")):
        print(f"\n| stated, {kind} | mean | so | races |\n|---|---|---|---|")
        for name, said, so, number in races.bins(np.concatenate(whole), column):
            print(f"| {name} | {said:.2f} | {so:.2f} | {number} |")


def as_recommended(count: int) -> None:
    """Prints what is stated and what is so in races as the verb runs them, with time for all or for half."""
    print(f"\n| as the verb runs it, {count} races | epochs change | candidates | time for | dropped | stated | so |")
    print("|---|---|---|---|---|---|---|")
    whole = []
    for drift in (0.0, 1.0, 3.0):
        for name, truths, std in races.OURS:
            for candidates in CANDIDATES:
                for share in (1.0, 0.5):
                    found = races.recommended(World(candidates, seed_std=std, drift=drift), truths, share, count, 1)
                    whole.append(found)
                    lost, stated, so, _ = found.mean(axis=0)
                    print(
                        f"| {name} | {drift:g} | {candidates} | {share:g} | {lost:.3f} | {stated:.2f} | {so:.2f} |",
                        flush=True,
                    )
    print("\n| stated | mean | so | races |\n|---|---|---|---|")
    for name, said, so, number in races.bins(np.concatenate(whole), 1):
        print(f"| {name} | {said:.2f} | {so:.2f} | {number} |")


def sequence(share: float, seeds: int) -> float:
    """Gives the bound of a mean by Howard et al.'s one-sided normal mixture, tuned to be smallest at this number."""
    found = optimize.minimize_scalar(
        lambda log: (
            np.sqrt(2 * (seeds + np.exp(log)) * np.log(np.sqrt((seeds + np.exp(log)) / np.exp(log)) / share / 2 + 1))
            / seeds
        )
    )
    return float(found.fun)


def widths() -> None:
    """Prints bounds of a difference in units of its std over seeds, at an error of .05 in five rounds."""
    print("\n| candidates | seeds | spending, moderated t | spending, known std | confidence sequence, known std |")
    print("|---|---|---|---|---|")
    for candidates in CANDIDATES:
        for seeds in races.SEEDS:
            share = 0.05 / (candidates - 1)
            spent = share / len(races.SEEDS)
            moderated = stats.t.isf(spent, (candidates - 1) * (seeds - 1)) / seeds**0.5
            known = stats.norm.isf(spent) / seeds**0.5
            print(f"| {candidates} | {seeds} | {moderated:.2f} | {known:.2f} | {sequence(share, seeds):.2f} |")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--races", type=int, default=500)
    parser.add_argument("--grids", type=int, default=200, help="of each kind, for the stated probability")
    options = parser.parse_args()
    widths()
    errors(options.races)
    calibration(options.grids)
    as_recommended(options.grids)


if __name__ == "__main__":
    main()
