"""Samples -> 8-bit arrays of one size, in parallel, with memory that does not grow with the dataset.

Every row is written to its place as soon as it is decoded, and noted in a journal: what a killed run has done is
checked and kept, whatever the order.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medtransfer.core.errors import UserError
from medtransfer.core.progress import bar
from medtransfer.data import duplicates
from medtransfer.data.images import formats, masks, run_lengths
from medtransfer.data.images.formats import RECIPE as FORMATS
from medtransfer.data.images.formats import Content
from medtransfer.data.images.pixels import gate
from medtransfer.data.readers.reading import Mask, Picture, Runs, Sample
from medtransfer.data.row_writer import Rows, digest
from medtransfer.data.tasks import Task

RECIPE = (
    f"{FORMATS}; resized to a square by antialiased bilinear, aspect not kept; masks: union of a label's parts,"
    " resized likewise, set where at least half is covered"
)

POWERS = np.arange(256, dtype=np.int64)[:, None] ** np.array([1, 2])
"""gray level -> itself and its square"""


@dataclass(frozen=True)
class Decoded:
    """One sample, decoded and resized."""

    image: NDArray[np.uint8]
    """(side, side) or (side, side, 3)"""
    mask: NDArray[np.uint8] | None
    """(side, side), bit k for label k"""
    native: NDArray[np.uint8] | None
    """(height, width) of the original, bit k for label k, then the extras"""
    present: int
    """bit k: label k's mask has a pixel in the original"""
    covered: NDArray[np.int64]
    """pixels of each label's mask in the original, (8,)"""
    sums: NDArray[np.int64]
    """per channel the sum of the resized image's values and of their squares, (3, 2)"""
    thumbnail: NDArray[np.uint8]
    size: tuple[int, int]
    """width and height of the original"""
    spacing: tuple[float, float] | None
    """height and width of its pixels in mm, where its file says them"""


def decode(task: Task, sample: Sample, side: int) -> Decoded:
    """Decodes one sample.

    Raises:
        UserError: the file or a mask cannot be had from it, or their sizes differ; decoders raise errors of their own.
    """
    try:
        content = formats.load(sample.image)
        image = formats.to_image(content, task.channels, task.windows)
        size, small = image.size, _resize(image, side)
        thumbnail = duplicates.thumbnail(small if side >= 4 * duplicates.THUMBNAIL else image)
        del image  # a large one must be gone before its masks are read
        content = replace(content, image=None, values=None, alpha=None)
        planes = _planes(task, sample, size, content) if task.segmentation else None
        return Decoded(
            image=np.asarray(small),
            mask=None if planes is None else _resize_planes(planes, len(task.labels), side),
            native=planes,
            present=0 if planes is None else int(np.bitwise_or.reduce(planes, axis=None)) & (1 << len(task.labels)) - 1,
            covered=_covered(planes),
            sums=_sums(small),
            thumbnail=thumbnail,
            size=size,
            spacing=content.spacing,
        )
    finally:
        gate.release()


def _planes(task: Task, sample: Sample, size: tuple[int, int], image: Content) -> NDArray[np.uint8]:
    """Reads all masks of a sample as the bits of one byte per pixel: labels, then extras."""
    planes = np.zeros((size[1], size[0]), dtype=np.uint8)
    parts = [*sample.masks, *((sample.extras[name],) if name in sample.extras else () for name in task.extras)]
    for bit, part in enumerate(parts):
        for mask in part:
            planes[_region(mask, size, image)] |= np.uint8(1 << bit)
    return planes


def _region(mask: Mask, size: tuple[int, int], image: Content) -> NDArray[np.bool_]:
    if isinstance(mask, Runs):
        return run_lengths.decode(mask.text, size[1], size[0])
    region: NDArray[np.bool_] = masks.read(mask, image)
    if region.shape != (size[1], size[0]):
        height, width = region.shape
        raise UserError(
            f"the mask {mask.path.name} is {width}x{height} but its image {size[0]}x{size[1]}; they must have one size"
        )
    return region


def _covered(planes: NDArray[np.uint8] | None) -> NDArray[np.int64]:
    bits = [0 if planes is None else int(np.count_nonzero(planes & np.uint8(1 << bit))) for bit in range(8)]
    return np.array(bits, dtype=np.int64)


def _resize_planes(planes: NDArray[np.uint8], labels: int, side: int) -> NDArray[np.uint8]:
    small = np.zeros((side, side), dtype=np.uint8)
    for bit in range(labels):
        plane = Image.fromarray((planes >> bit & 1) * np.uint8(255))
        small |= (np.asarray(_resize(plane, side)) >= 128).astype(np.uint8) << bit
    return small


def _resize(image: Image.Image, size: int) -> Image.Image:
    """Resizes to a square; PIL's bilinear filter widens with the reduction, so nothing aliases."""
    return image.resize((size, size), Image.Resampling.BILINEAR)


def _sums(image: Image.Image) -> NDArray[np.int64]:
    """Sums values and squares per channel, exactly; gray fills the first channel only."""
    counts = np.array(image.histogram(), dtype=np.int64).reshape(-1, 256)
    sums = np.zeros((3, 2), dtype=np.int64)
    sums[: len(counts)] = counts @ POWERS
    return sums


def signature(sample: Sample) -> bytes:
    """Identifies a sample's files by name, size and time, and its masks, so that a mended file is decoded again."""
    parts = [mask for label in sample.masks for mask in label]
    words = []
    for part in (sample.image, *parts, *sample.extras.values()):
        words.append(repr(part))
        if isinstance(part, Picture):
            with contextlib.suppress(OSError):  # a missing file is found, and named, when it is decoded
                stat = os.stat(part.path)
                words.append(f"{stat.st_size} {stat.st_mtime_ns}")
    return digest("\n".join(words).encode())


class Decoder:
    """Decodes samples into the rows of a cache that is being built."""

    def __init__(self, task: Task, samples: Sequence[Sample], rows: Rows, keep_native: NDArray[np.bool_]) -> None:
        self.task, self.samples, self.rows, self.keep_native = task, samples, rows, keep_native

    def run(self, workers: int) -> dict[int, str]:
        """Decodes every row that is not done; returns row -> reason for those that cannot be."""
        bad: dict[int, str] = {}
        with bar(f"preparing {self.task.name}", len(self.samples)) as advance:
            todo = []
            for row in range(len(self.samples)):
                if self.rows.done[row]:
                    advance()
                else:
                    todo.append(row)
            for row, reason in _map(self._one, todo, workers):
                advance()
                if reason:
                    bad[row] = reason
        return bad

    def _one(self, row: int) -> str:
        """Decodes, writes and notes one row; returns why it cannot be decoded."""
        sample = self.samples[row]
        try:
            decoded = decode(self.task, sample, self.rows.side)
        except MemoryError:
            raise
        except Exception as error:  # decoders raise nearly anything on damaged bytes
            return f"{sample.image.path}{_frame(sample)}: {error or type(error).__name__}"
        native = decoded.native if self.keep_native[row] else None
        self.rows.write(
            row,
            decoded.image,
            decoded.mask,
            decoded.thumbnail,
            native,
            signature=signature(sample),
            present=decoded.present,
            covered=decoded.covered,
            sums=decoded.sums,
            size=decoded.size,
            spacing=decoded.spacing,
        )
        return ""


def _frame(sample: Sample) -> str:
    picture = sample.image
    place = [picture.member] if picture.member else []
    return f" ({', '.join([*place, f'frame {picture.frame}'])})" if picture.member or picture.frame else ""


def _map(work: Callable[[int], str], todo: Sequence[int], workers: int) -> Iterator[tuple[int, str]]:
    """Yields (row, outcome) in order, a bounded window ahead of the reader."""
    waiting: deque[tuple[int, Future[str]]] = deque()
    numbers = iter(todo)
    with ThreadPoolExecutor(workers) as pool:
        try:
            for row in numbers:
                waiting.append((row, pool.submit(work, row)))
                if len(waiting) >= 4 * workers:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
