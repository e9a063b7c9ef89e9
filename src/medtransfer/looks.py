"""Which seeds the runs of a benchmark were looked at with: each look has its part of the error that is promised.

Whoever adds seeds because a comparison was not clear, and looks again, has another chance to be wrong. Look k gets
6 / (pi k)^2 of the level, so that all of them together stay below it, however many there are. Looking again at the
same seeds costs nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from medtransfer import files
from medtransfer.errors import UserError

FILE = "data/results/looks.json"

Looks = list[list[int]]


def read(root: Path) -> Looks:
    """Reads the seeds of each look, in order.

    Raises:
        UserError: the file is damaged.
    """
    path = root / FILE
    if not path.is_file():
        return []
    try:
        looks = [sorted(int(seed) for seed in look["seeds"]) for look in json.loads(path.read_text())]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} is damaged ({error}); it says which looks at these runs there were: get it back with "
            "`dvc checkout` or `dvc pull`, or remove it and count this look as the first"
        ) from error
    return looks


def number(looks: Looks, seeds: Sequence[int]) -> int:
    """Numbers the look with these seeds, from 1: the earlier one with the same seeds, or the next."""
    return looks.index(sorted(seeds)) + 1 if sorted(seeds) in looks else len(looks) + 1


def record(root: Path, seeds: Sequence[int]) -> None:
    """Writes a look down, once."""
    looks = read(root)
    if sorted(seeds) not in looks:
        looks.append(sorted(seeds))
        files.write_text(root / FILE, json.dumps([{"seeds": look} for look in looks]) + "\n")


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
