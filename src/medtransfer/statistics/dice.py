"""Dice of masks, from what is counted of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

TERMS = ("intersection", "predicted", "target")
"""what is counted of every mask, in pixels"""


def dice(terms: Array) -> Array:
    """Computes the Dice of masks, ... x (intersection, predicted, target) in pixels: 1.0 where both are empty."""
    total = terms[..., 1] + terms[..., 2]
    return np.where(total == 0, 1.0, 2 * terms[..., 0] / np.maximum(total, 1))
