"""Stored values -> bytes, and the limits that keep a small file from filling the memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from medtransfer.core.errors import UserError
from medtransfer.data.tasks import Windows

PIXEL_LIMIT = 8192 * 8192
"""pixels: larger images are refused before they are decoded, so that a small file cannot fill the memory"""

DECODE_LIMIT = 512 << 20
"""bytes that decoding one image may take, by the estimate of its reader"""

FEW = 1 << 16
"""different values up to which a table is cheaper than arithmetic on every pixel"""

BLOCK = 1 << 20
"""values that are worked on at once"""


class Gate:
    """Lets threads decode at once as long as what they need together fits; large images go one after another."""

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit, self._held, self._own = limit, 0, threading.local()
        self._free = threading.Condition()

    def hold(self, needed: int) -> None:
        """Waits until the calling thread's next image fits; what the thread held for the one before is given back.

        Raises:
            UserError: it needs more than `DECODE_LIMIT`, which no waiting helps.
        """
        if needed > DECODE_LIMIT:
            raise UserError(
                f"decoding it would take about {needed >> 20} MiB, more than the limit of {DECODE_LIMIT >> 20}; give"
                " a smaller image, or one of fewer bits or channels"
            )
        self.release()
        with self._free:
            self._free.wait_for(lambda: not self._held or self._held + needed <= self._limit())
            self._held += needed
        self._own.bytes = needed

    def release(self) -> None:
        """Gives back what the calling thread holds."""
        held, self._own.bytes = getattr(self._own, "bytes", 0), 0
        if held:
            with self._free:
                self._held -= held
                self._free.notify_all()


@cache
def _at_once() -> int:
    """Says how many bytes all decoders together may take: an eighth of the memory, at least one image's."""
    total = psutil.virtual_memory().total
    cap = Path("/sys/fs/cgroup/memory.max")  # of a container
    if cap.is_file() and (text := cap.read_text().strip()).isdigit():
        total = min(total, int(text))
    return max(DECODE_LIMIT, int(total) // 8)


gate = Gate(_at_once)
"""the one that all readers pass; held from a file's header on until `release`"""


def check_frame(frame: int | None, count: int, what: str = "frames") -> int:
    """Returns the frame to read: the one that is named, or the only one.

    Raises:
        UserError: it is beyond the last one, or none is named and there are several.
    """
    if frame is None and count != 1:
        raise UserError(
            f"holds {count} {what} and none is named; say which: a column of numbers from 0 that `frame` in task.yaml"
            " names, or a file of one image"
        )
    if not 0 <= (frame or 0) < count:
        raise UserError(f"looked for frame {frame}, found {count}, numbered from 0; correct the frame number")
    return frame or 0


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
    flat, start = values.reshape(-1), int(low)
    present = np.zeros(int(high) - start + 1, dtype=bool)
    for block in _blocks(len(flat)):
        present[flat[block].astype(np.intp) - start] = True
    some = work(np.flatnonzero(present) + start)
    table = np.zeros((len(present), *some.shape[1:]), dtype=np.uint8)
    table[present] = some
    pixels = np.empty((len(flat), *some.shape[1:]), dtype=np.uint8)
    for block in _blocks(len(flat)):
        pixels[block] = table[flat[block].astype(np.intp) - start]
    return pixels.reshape(*values.shape, *some.shape[1:])


def _blocks(length: int) -> list[slice]:
    return [slice(start, start + BLOCK) for start in range(0, length, BLOCK)]


def own_range(values: NDArray[Any], counts: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Scales values so that the smallest is 0 and the largest 255; those that do not count lie where the range ends.

    Args:
        values: numbers.
        counts: which values make the range; None: all.
    """
    flat = values.reshape(-1)
    blocks = _blocks(len(flat))
    ends = [finite(flat[block] if counts is None else flat[block][counts.reshape(-1)[block]]) for block in blocks]
    extremes = [(part.min(), part.max()) for part in ends if len(part)]
    del ends
    if not extremes:
        return np.zeros(values.shape, dtype=np.uint8)
    low, high = min(low for low, _ in extremes), max(high for _, high in extremes)
    pixels = np.empty(len(flat), dtype=np.uint8)
    for block in blocks:
        pixels[block] = to_bytes(np.clip((flat[block].astype(np.float64) - low) / max(high - low, 1e-12), 0, 1))
    return pixels.reshape(values.shape)


def window(values: NDArray[Any], windows: Windows) -> NDArray[np.uint8]:
    """Makes a channel of every window, in a last axis where there are several."""
    flat = values.reshape(-1)
    planes = np.empty((len(windows), len(flat)), dtype=np.uint8)
    for block in _blocks(len(flat)):
        numbers = finite(flat[block])
        for plane, (level, width) in zip(planes, windows, strict=True):
            plane[block] = to_bytes(np.clip((numbers - level) / width + 0.5, 0, 1))
    shaped = planes.reshape(len(windows), *values.shape)
    return np.stack(list(shaped), axis=-1) if len(windows) > 1 else shaped[0]


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
