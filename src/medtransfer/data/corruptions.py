"""Images made worse on purpose, as cameras, archives and people make them, by degrees: bytes in, bytes out.

Strengths are in gray levels or in shares of the image's side, so that they mean the same at every size. What is drawn
(noise, places, letters) comes from a stream named by seed, kind, severity and the image's number: every network sees
the same pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtransfer.core import rng

Bytes = NDArray[np.uint8]
Change = Callable[[Bytes, float, np.random.Generator], NDArray[Any]]
"""(image, strength, stream) -> image, of any number type, not yet cut to 0 to 255"""


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """One way in which an image gets worse."""

    name: str
    change: Change
    strengths: tuple[float, float, float, float, float]
    """of severity 1 to 5"""
    moves: bool = False
    """what is in the image moves, so that a mask of it would be wrong"""


def corrupt(image: Bytes, kind: str, severity: int, *, seed: int, number: int) -> Bytes:
    """Makes one image worse.

    Args:
        image: (height, width) or (height, width, 3).
        kind: one of `CORRUPTIONS`.
        severity: 0, which changes nothing, to 5.
        seed: of what is drawn.
        number: of the image.
    """
    if severity == 0:
        return image.copy()
    corruption = CORRUPTIONS[kind]
    stream = np.random.default_rng(rng.seed_of(seed, f"corruption {kind}", severity, number))
    changed = corruption.change(image, corruption.strengths[severity - 1], stream)
    return np.clip(np.rint(changed), 0, 255).astype(np.uint8)


def _noise(image: Bytes, sigma: float, stream: np.random.Generator) -> NDArray[Any]:
    return image + sigma * stream.standard_normal(image.shape)


def _blur(image: Bytes, share: float, stream: np.random.Generator) -> NDArray[Any]:
    from scipy import ndimage

    sigma = (share * image.shape[0], share * image.shape[1], 0.0)[: image.ndim]
    return np.asarray(ndimage.gaussian_filter(image.astype(np.float64), sigma, mode="nearest"))


def _contrast(image: Bytes, factor: float, stream: np.random.Generator) -> NDArray[Any]:
    mean = image.mean()
    return np.asarray(mean + factor * (image - mean))


def _gamma(image: Bytes, exponent: float, stream: np.random.Generator) -> NDArray[Any]:
    return np.asarray(255 * (image / 255) ** exponent)


def _resolution(image: Bytes, factor: float, stream: np.random.Generator) -> NDArray[Any]:
    from PIL import Image

    height, width = image.shape[:2]
    small = (max(1, round(width / factor)), max(1, round(height / factor)))
    reduced = Image.fromarray(image).resize(small, Image.Resampling.BOX)
    return np.asarray(reduced.resize((width, height), Image.Resampling.BILINEAR))


def _jpeg(image: Bytes, quality: float, stream: np.random.Generator) -> NDArray[Any]:
    from PIL import Image

    held = io.BytesIO()
    Image.fromarray(image).save(held, "JPEG", quality=int(quality))
    with Image.open(held) as read:
        return np.asarray(read)


def _text(image: Bytes, share: float, stream: np.random.Generator) -> NDArray[Any]:
    """Burns a side marker and a number in, white and of a height of so much of the side, anywhere."""
    from PIL import Image, ImageDraw, ImageFont

    words = f"{'LR'[stream.integers(2)]} {stream.integers(1000, 10_000)}"
    place = stream.random(2)
    drawn = Image.fromarray(image)
    font = ImageFont.load_default(size=share * image.shape[0])
    draw = ImageDraw.Draw(drawn)
    left, top, right, bottom = draw.textbbox((0, 0), words, font=font)
    room = max(0.0, image.shape[1] - (right - left)), max(0.0, image.shape[0] - (bottom - top))
    corner = place[0] * room[0] - left, place[1] * room[1] - top
    draw.text(corner, words, fill="white" if image.ndim == 3 else 255, font=font)
    return np.asarray(drawn)


def _crop(image: Bytes, share: float, stream: np.random.Generator) -> NDArray[Any]:
    """Takes a part with so much of each side, anywhere, and enlarges it to the whole."""
    from PIL import Image

    height, width = image.shape[:2]
    y, x = stream.random(2) * (1 - share)
    box = (x * width, y * height, (x + share) * width, (y + share) * height)
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box=box))


def _window(image: Bytes, share: float, stream: np.random.Generator) -> NDArray[Any]:
    """Shows a narrower range of grays, around a level that is too high or too low; what is outside is cut off."""
    width = 255 * (1 - share)
    level = 127.5 + (1, -1)[stream.integers(2)] * 255 * share / 4
    return np.asarray((image - (level - width / 2)) * (255 / width))


CORRUPTIONS: dict[str, Corruption] = {
    one.name: one
    for one in (
        Corruption(name="noise", change=_noise, strengths=(4, 8, 14, 22, 35)),
        Corruption(name="blur", change=_blur, strengths=(0.006, 0.01, 0.015, 0.022, 0.03)),
        Corruption(name="contrast", change=_contrast, strengths=(0.8, 0.6, 0.45, 0.3, 0.2)),
        Corruption(name="gamma", change=_gamma, strengths=(1.25, 1.5, 1.9, 2.4, 3.0)),
        Corruption(name="resolution", change=_resolution, strengths=(2, 3, 4, 6, 8)),
        Corruption(name="jpeg", change=_jpeg, strengths=(50, 30, 18, 10, 5)),
        Corruption(name="text", change=_text, strengths=(0.05, 0.08, 0.12, 0.17, 0.23)),
        Corruption(name="crop", change=_crop, strengths=(0.95, 0.9, 0.8, 0.7, 0.6), moves=True),
        Corruption(name="window", change=_window, strengths=(0.1, 0.2, 0.3, 0.45, 0.6)),
    )
}
"""kind -> how it is done"""
