"""Image files -> 8-bit arrays of one size, in parallel, with memory that does not grow with the dataset."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from medtransfer import audit
from medtransfer.datasets import Sample
from medtransfer.errors import UserError
from medtransfer.tasks import Task

PIXEL_LIMIT = 8192 * 8192
"""pixels: larger images are refused, so that a small file cannot fill the memory"""

RECIPE = (
    "gray tasks to 8-bit luminance, colour tasks to RGB, alpha dropped; 16-bit, 32-bit and float images scaled so"
    " that their own smallest value is 0 and their largest 255; resized to a square by antialiased bilinear, aspect"
    " not kept; masks: union of the files' pixels above 0, resized likewise, set where at least half is covered"
)


@dataclass(frozen=True)
class Decoded:
    """One sample, decoded and resized."""

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8] | None
    native: Image.Image | None
    native_hash: str
    content: str
    thumbnail: NDArray[np.uint8]


def _decode(sample: Sample, channels: int, size: int, segmentation: bool) -> Decoded | str:
    """Decodes one sample; a file that cannot be decoded gives the reason as text."""
    path = sample.image
    try:
        image = _eight_bit(_open(path)).convert("L" if channels == 1 else "RGB")
        content = hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()
        native = np.zeros((image.height, image.width), dtype=bool)
        for path in sample.masks:
            native |= _read_mask(path, image)
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        return f"{path}: {error or type(error).__name__}"
    bits = Image.fromarray(native.astype(np.uint8) * np.uint8(255))
    return Decoded(
        image=np.asarray(_resize(image, size)),
        mask=(np.asarray(_resize(bits, size)) >= 128).astype(np.uint8) if segmentation else None,
        native=bits.convert("1") if segmentation else None,
        native_hash=hashlib.sha256(f"{native.shape}".encode() + np.packbits(native).tobytes()).hexdigest(),
        content=content,
        thumbnail=np.asarray(_resize(image.convert("L"), audit.THUMBNAIL)),
    )


def _open(path: Path) -> Image.Image:
    """Reads an image whole, after its size is known to be bearable."""
    with Image.open(path) as image:
        if image.width * image.height > PIXEL_LIMIT:
            raise UserError(f"{image.width}x{image.height} pixels, more than the limit of {PIXEL_LIMIT}")
        image.load()
        return image.copy()


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scales an image of more than 8 bits by its own range: smallest value to 0, largest to 255."""
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise UserError("has pixels that are not finite numbers")
    low, high = values.min(), values.max()
    return Image.fromarray(np.rint((values - low) * (255 / max(high - low, 1e-12))).astype(np.uint8))


def _read_mask(path: Path, image: Image.Image) -> NDArray[np.bool_]:
    mask = _open(path)
    if mask.size != image.size:
        sizes = [f"{one.width}x{one.height}" for one in (mask, image)]
        raise UserError(f"the mask is {sizes[0]} but its image {sizes[1]}; they must have one size")
    wide = mask.mode == "F" or mask.mode.startswith("I")  # a conversion of these to L would clip
    positive: NDArray[np.bool_] = np.asarray(mask if wide else mask.convert("L")) > 0
    return positive


def _resize(image: Image.Image, size: int) -> Image.Image:
    """Resizes to a square; PIL's bilinear filter widens with the reduction, so nothing aliases."""
    return image.resize((size, size), Image.Resampling.BILINEAR)


def decode_all(task: Task, samples: Sequence[Sample], size: int, workers: int) -> Generator[tuple[int, Decoded | str]]:
    """Yields every sample's number and decoded form in order, a bounded window ahead of the reader."""
    work = partial(_decode, channels=task.channels, size=size, segmentation=task.segmentation)
    waiting: deque[Future[Decoded | str]] = deque()
    console = Console(stderr=True)
    with (
        Progress(console=console, disable=not console.is_terminal) as progress,
        ThreadPoolExecutor(workers) as pool,
    ):
        bar = progress.add_task(f"preparing {task.name}", total=len(samples))
        try:
            for number in range(len(samples)):
                while len(waiting) < 4 * workers and number + len(waiting) < len(samples):
                    waiting.append(pool.submit(work, samples[number + len(waiting)]))
                yield number, waiting.popleft().result()
                progress.advance(bar)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
