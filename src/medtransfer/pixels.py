"""Stored values -> bytes, and the limits that keep a small file from filling the memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtransfer.errors import UserError
from medtransfer.tasks import Windows

PIXEL_LIMIT = 8192 * 8192
"""pixels: larger images are refused before they are decoded, so that a small file cannot fill the memory"""

FEW = 1 << 16
"""different values up to which a table is cheaper than arithmetic on every pixel"""


def check_frame(frame: int, count: int) -> None:
    """Refuses a frame that a file does not have.

    Raises:
        UserError: it is beyond the last one.
    """
    if not 0 <= frame < count:
        raise UserError(f"looked for frame {frame}, found {count}, numbered from 0; correct the frame number")


def check_size(width: int, height: int) -> None:
    """Refuses an image of too many pixels.

    Raises:
        UserError: more than `PIXEL_LIMIT`.
    """
    if width * height > PIXEL_LIMIT:
        raise UserError(f"{width}x{height} pixels, more than the limit of {PIXEL_LIMIT}; give a smaller image")


def no_unit(found: str) -> UserError:
    """Words the refusal of values that the task's windows cannot be applied to."""
    return UserError(
        "the task's windows need values in a physical unit (DICOM with rescale slope and intercept, NIfTI, 16-bit or"
        f" float images), found {found}; get the original files or leave out the windows"
    )


def pointwise(values: NDArray[Any], work: Callable[[NDArray[Any]], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Applies `work` to values, once to each different one where they are few: saves most of the time and memory."""
    low, high = values.min(), values.max()
    if values.dtype.kind not in "iu" or int(high) - int(low) >= FEW:
        return work(values)
    places = values.astype(np.intp)
    places -= int(low)
    present = np.zeros(int(high) - int(low) + 1, dtype=bool)
    present[places] = True
    some = work(np.flatnonzero(present) + int(low))
    table = np.zeros((len(present), *some.shape[1:]), dtype=np.uint8)
    table[present] = some
    return table[places]


def own_range(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Scales values so that the smallest is 0 and the largest 255."""
    numbers = finite(values)
    low, high = numbers.min(), numbers.max()
    return to_bytes((numbers - low) / max(high - low, 1e-12))


def window(values: NDArray[Any], windows: Windows) -> NDArray[np.uint8]:
    """Makes a channel of every window, in a last axis where there are several."""
    numbers = finite(values)
    planes = [to_bytes(np.clip((numbers - level) / width + 0.5, 0, 1)) for level, width in windows]
    return np.stack(planes, axis=-1) if len(planes) > 1 else planes[0]


def to_bytes(shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Maps 0..1 to 0..255."""
    pixels: NDArray[np.uint8] = np.rint(shares * 255).astype(np.uint8)
    return pixels


def finite(values: NDArray[Any]) -> NDArray[np.float64]:
    """Makes values floating-point numbers.

    Raises:
        UserError: one is infinite or not a number.
    """
    numbers = values.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise UserError("has pixels that are not finite numbers; mend or leave out the image")
    return numbers
