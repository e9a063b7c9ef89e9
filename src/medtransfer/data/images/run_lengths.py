"""Run lengths of SIIM-ACR: a mask as pairs `gap length`, down the columns from left to right.

A gap counts from the end of the run before it, not from the start of the canvas; the first one from the first pixel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.errors import UserError

EMPTY = "-1"
DIGITS = 12
"""longest number that is read: sums of as many as a text can hold stay within 64 bits"""


def is_empty(text: str) -> bool:
    """Says whether a text stands for the empty mask: `-1` or nothing, with or without spaces around."""
    return text.strip() in ("", EMPTY)


def decode(text: str, height: int, width: int) -> NDArray[np.bool_]:
    """Draws run lengths on a canvas, (height, width).

    Raises:
        UserError: a number is missing or not a whole one, a run has no pixel, or a run leaves the canvas.
    """
    size = height * width
    numbers = np.zeros(0, dtype=np.int64) if is_empty(text) else _numbers(text)
    ends = np.cumsum(numbers)[1::2]
    if len(ends) and ends[-1] > size:
        run = int(np.argmax(ends > size))
        raise UserError(
            f"run lengths: run {run + 1} of {len(ends)} ends at pixel {ends[run]}, the canvas of height {height} "
            f"and width {width} has {size}; the mask belongs to another image, or the canvas is not its own"
        )
    counts = np.append(numbers, size - numbers.sum())  # gap and run in turn, then what is left
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


def encode(mask: NDArray[np.bool_]) -> str:
    """Writes a mask, (height, width), as run lengths; an empty one as `-1`."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])  # start and end of each run in turn
    return " ".join(map(str, np.diff(edges, prepend=0).tolist())) or EMPTY


def _numbers(text: str) -> NDArray[np.int64]:
    """Returns gap and length of each run in turn."""
    fields = text.split()
    for place, field in enumerate(fields):
        if not (field.isascii() and field.isdigit() and len(field) <= DIGITS):
            raise UserError(
                f"run lengths: {'length' if place % 2 else 'gap'} of run {place // 2 + 1} is {field!r}, expected a "
                f"whole number from {place % 2} up; get the official table again"
            )
    if len(fields) % 2:
        raise UserError(
            f"run lengths: expected pairs of gap and length, found {len(fields)} numbers: run {len(fields) // 2 + 1} "
            "has a gap and no length; the text is cut off, get the official table again"
        )
    numbers = np.array(fields, dtype=np.int64)
    if not numbers[1::2].all():
        raise UserError(
            f"run lengths: length of run {int(np.argmin(numbers[1::2])) + 1} is 0, expected a whole number from 1 up; "
            "get the official table again"
        )
    return numbers
