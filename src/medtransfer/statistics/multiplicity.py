"""Several p-values at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medtransfer.statistics.t_tests import Array


def holm(p: Sequence[float]) -> Array:
    """Adjusts p-values so that one at or below a level is wrong, anywhere among them, as often as that at most.

    Holm, Scandinavian Journal of Statistics 1979; whatever their dependence.
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    raised = np.maximum.accumulate(values[order] * (len(values) - np.arange(len(values))))
    found = np.empty_like(values)
    found[order] = np.minimum(raised, 1.0)
    return found
