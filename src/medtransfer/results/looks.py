"""Which seeds and splits a benchmark was looked at with: each look has its part of the error that is promised.

Whoever adds seeds, or drawn splits, because a comparison was not clear, and looks again, has another chance to be
wrong. Look k gets 6 / (pi k)^2 of the level, so that all of them together stay below it, however many there are.
Looking again at the same ones costs nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from medtransfer.core import files
from medtransfer.core.errors import UserError

FILE = "data/results/looks.json"


class Look(NamedTuple):
    """What the runs of one look were made with."""

    seeds: tuple[int, ...]
    splits: tuple[int, ...] = ()
    """`benchmark.splits`"""


def look(seeds: Iterable[int], splits: Iterable[int]) -> Look:
    """Names a look, in whichever order its numbers are given."""
    return Look(tuple(sorted(map(int, seeds))), tuple(sorted(map(int, splits))))


def read(root: Path) -> list[Look]:
    """Reads the looks, in order.

    Raises:
        UserError: the file is damaged.
    """
    path = root / FILE
    if not path.is_file():
        return []
    try:
        looks = [look(one["seeds"], one.get("splits", ())) for one in json.loads(path.read_text())]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({error}); it says which looks at these runs there were: get it back with "
            "`dvc checkout` or `dvc pull`, or remove it and count this look as the first"
        ) from error
    return looks


def number(looks: Sequence[Look], seeds: Iterable[int], splits: Iterable[int] = ()) -> int:
    """Numbers the look with these seeds and splits, from 1: the earlier one with the same, or the next."""
    now = look(seeds, splits)
    return looks.index(now) + 1 if now in looks else len(looks) + 1


def record(root: Path, seeds: Iterable[int], splits: Iterable[int] = ()) -> None:
    """Writes a look down, once."""
    looks, now = read(root), look(seeds, splits)
    if now not in looks:
        lines = [{name: numbers for name, numbers in one._asdict().items() if numbers} for one in (*looks, now)]
        files.write_text(root / FILE, json.dumps(lines) + "\n")


def level(alpha: float, look: int) -> float:
    """Gives the part of a level that a look has: .61 of it, then .15, .07, ...; all of them add up to it.

    Args:
        alpha: of all looks together.
        look: from 1.
    """
    return alpha * 6 / (math.pi * look) ** 2


def left(alpha: float, looks: int) -> float:
    """Gives what later looks have together."""
    return alpha - sum(level(alpha, look) for look in range(1, looks + 1))
