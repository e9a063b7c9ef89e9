"""Fundus photographs: a lit disc, the optic disc, the fovea, and a branching tree of vessels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from scipy.special import expit

Mask = NDArray[np.bool_]
FINE = 4
"""subpixels per pixel and axis while vessels are drawn"""


@dataclass(frozen=True)
class Drawing:
    """An image (height, width, 3) of bytes, the vessels as two observers saw them, and the field of view."""

    pixels: NDArray[np.uint8]
    vessels: Mask
    second_observer: Mask
    field_of_view: Mask


def draw(shape: tuple[int, int], rng: np.random.Generator, contrast: float) -> Drawing:
    """Draws one eye; left or right, light and pigment are its own."""
    height, width = shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -width / height : width / height : width * 1j]
    radius = np.hypot(x, y)
    view = radius < 0.92
    side = 1 if rng.random() < 0.5 else -1
    disc = np.array([0.52 * side, rng.uniform(-0.08, 0.08)])
    cover = _vessels(shape, disc, side, rng)
    light = (
        0.9
        - 0.35 * radius**2
        + 0.12 * rng.normal() * x
        + 0.08 * gaussian_filter(rng.normal(size=shape), height / 12) * height / 6
    )
    light = light + 0.02 * gaussian_filter(rng.normal(size=shape), height / 150) * height / 75
    fovea = np.exp(-(((x + 0.12 * side) / 0.2) ** 2 + (y / 0.2) ** 2))
    nerve = expit(-20 * (np.hypot((x - disc[0]) / 0.15, (y - disc[1]) / 0.17) - 1))
    dark = np.clip(cover, 0, 1) * contrast
    channels = []
    for base, of_nerve, of_fovea, of_vessel in (
        (0.78, 0.2, 0.1, 0.2),
        (0.42, 0.35, 0.12, 0.24),
        (0.18, 0.25, 0.05, 0.09),
    ):
        plane = base * light * (1 - of_fovea * fovea) + of_nerve * nerve - of_vessel * dark * (0.6 + 0.4 * light)
        plane = gaussian_filter(plane, height / 400) + rng.normal(size=shape) * 0.02
        channels.append(np.where(view, plane, 0.01))
    pixels = np.clip(np.rint(np.stack(channels, axis=-1) * 255), 0, 255).astype(np.uint8)
    second = gaussian_filter(cover, 0.6) + rng.normal(0, 0.08, shape) > 0.42
    return Drawing(pixels, (cover > 0.5) & view, second & view, view)


def _vessels(
    shape: tuple[int, int], disc: NDArray[np.float64], side: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draws the tree on a finer canvas; returns the share of each pixel that vessels cover."""
    height, width = shape
    canvas = Image.new("L", (width * FINE, height * FINE))
    pen = ImageDraw.Draw(canvas)
    for up in (-1, 1):
        for heading, curl in ((0.9, 1.5), (2.3, -0.9), (1.4, 0.5)):
            angle = np.arctan2(up * np.sin(heading), -side * np.cos(heading)) + rng.normal(0, 0.1)
            start = disc + rng.normal(0, 0.02, 2)
            turn = curl * up * side * rng.uniform(0.7, 1.2)
            _branch(pen, start, angle, turn, rng.uniform(0.026, 0.036), 0, rng, height)
    small = canvas.resize((width, height), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64) / 255


def _branch(
    pen: ImageDraw.ImageDraw, start: NDArray[np.float64], angle: float, turn: float, width: float, depth: int,
    rng: np.random.Generator, height: int,
) -> None:  # fmt: skip
    """Draws a vessel that wanders, thins and gives off side branches."""
    step, point = 0.035, start
    scale = height * FINE / 2
    centre = np.array([pen.im.size[0], pen.im.size[1]]) / 2
    for number in range(int(rng.integers(30, 44) * (0.75**depth))):
        angle += turn * step + rng.normal(0, 0.09)
        following = point + step * np.array([np.cos(angle), np.sin(angle)])
        if np.hypot(*following) > 0.95:
            return
        ends = [tuple(p * scale + centre) for p in (point, following)]
        pen.line([*ends[0], *ends[1]], fill=255, width=max(1, round(width * scale)), joint="curve")
        point, width = following, max(width * 0.985, 0.011)
        if depth < 2 and number > 3 and rng.random() < 0.12:
            aside = rng.choice([-1, 1])
            _branch(
                pen, point, angle + aside * rng.uniform(0.5, 0.9), -aside * 0.6, width * 0.7, depth + 1, rng, height
            )
