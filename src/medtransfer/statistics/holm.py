"""Several tests at one level, one after the other, from the smallest p-value on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Adjusts p-values so that all those at or below a level may be believed at once (Holm, Scand J Stat 1979).

    Args:
        p: None where there is no test, which counts for nothing.
    """
    known = [place for place, value in enumerate(p) if value is not None]
    order = sorted(known, key=lambda place: p[place] or 0.0)
    found: list[float | None] = [None] * len(p)
    steps = [min(1.0, (len(known) - rank) * (p[place] or 0.0)) for rank, place in enumerate(order)]
    for place, value in zip(order, np.maximum.accumulate(steps).tolist() if steps else [], strict=True):
        found[place] = value
    return found
