"""What chest X-rays are drawn on: a patient's anatomy, and an image while it is drawn.

Coordinates: x to the right of the image and y downwards, both from -1 to 1; images are radiographs, bone is bright.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Plane = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """What the images of one patient share."""

    lung_width: float
    lung_height: float
    lung_x: float
    apex: float
    heart: float
    heart_y: float
    dome: tuple[float, float]
    ribs: float
    rib_phase: float
    body: float
    clavicle: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Anatomy:
        """Draws a patient."""
        return cls(
            lung_width=rng.uniform(0.26, 0.34),
            lung_height=rng.uniform(0.58, 0.72),
            lung_x=rng.uniform(0.36, 0.42),
            apex=rng.uniform(-0.78, -0.68),
            heart=rng.uniform(0.21, 0.27),
            heart_y=rng.uniform(0.2, 0.3),
            dome=(rng.uniform(0.36, 0.5), rng.uniform(0.42, 0.56)),
            ribs=rng.uniform(4.2, 5.2),
            rib_phase=rng.uniform(0, 1),
            body=rng.uniform(0.82, 0.95),
            clavicle=rng.uniform(-0.12, 0.04),
        )


@dataclass
class Canvas:
    """An image while it is drawn."""

    x: Plane
    y: Plane
    image: Plane
    lungs: tuple[Mask, Mask]
    """image left and image right, behind the heart too"""
    air: tuple[Plane, Plane]
    """the same with soft edges and without what the heart hides, 0 to 1: where findings show"""
    anatomy: Anatomy
    rng: np.random.Generator
    contrast: float
    texture: Plane
    pneumothorax: dict[int, Mask] = field(default_factory=dict)
    """side -> where free air was drawn"""

    @property
    def scale(self) -> float:
        """Pixels per unit."""
        return len(self.x) / 2

    @property
    def both(self) -> Plane:
        """Both lungs, as `air`."""
        return self.air[0] + self.air[1]

    def blob(self, x: float, y: float, rx: float, ry: float, power: float = 2.0) -> Plane:
        """Returns a soft spot of height 1."""
        spot: Plane = np.exp(-(np.abs((self.x - x) / rx) ** power + np.abs((self.y - y) / ry) ** power))
        return spot

    def add(self, amount: float, where: Plane) -> None:
        """Adds density (or takes it away), in proportion to the contrast."""
        self.image = self.image + amount * self.contrast * where

    def place(self, top: float, bottom: float) -> tuple[int, float, float]:
        """Draws a side and a point of its lung between two heights (0 = apex, 1 = diaphragm)."""
        side = int(self.rng.integers(2))
        a = self.anatomy
        y = a.apex + (a.dome[side] - a.apex) * self.rng.uniform(top, bottom)
        x = (-1 if side == 0 else 1) * (a.lung_x + self.rng.uniform(-0.45, 0.45) * a.lung_width)
        return side, x, y

    def expose(self) -> NDArray[np.uint8]:
        """Applies exposure, gamma, blur and quantum noise."""
        rng = self.rng
        image = np.clip(self.image, 0.01, None) ** rng.uniform(0.8, 1.2) * rng.uniform(0.95, 1.3) + rng.normal(0, 0.02)
        image = gaussian_filter(image, self.scale / 200)
        image = image + rng.normal(size=image.shape) * rng.uniform(0.015, 0.035)
        pixels: NDArray[np.uint8] = np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)
        return pixels


def place_body(shape: tuple[int, int], rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Gives the coordinates x and y of every pixel; the body is a little turned, zoomed and off the centre."""
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    turn, zoom = rng.normal(0, 0.025), rng.normal(1.0, 0.03)
    dx, dy = rng.normal(0, 0.03, 2)
    return (
        ((x - dx) * np.cos(turn) + (y - dy) * np.sin(turn)) * zoom,
        ((y - dy) * np.cos(turn) - (x - dx) * np.sin(turn)) * zoom,
    )


def draw_texture(shape: tuple[int, int], rng: np.random.Generator) -> Plane:
    """Draws smooth noise of about unit strength."""
    noise: Plane = gaussian_filter(rng.normal(size=shape), shape[0] / 60) * shape[0] / 30
    return noise
