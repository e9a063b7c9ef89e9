"""Frontal chest X-rays: body, lungs, heart, ribs, clavicles, diaphragm, and the findings that labels name.

Coordinates: x to the right of the image and y downwards, both from -1 to 1; images are radiographs, bone is bright.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.special import expit

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


@dataclass(frozen=True)
class Drawing:
    """An image (height, width) of bytes and the two lungs, as the image shows them: left is the patient's left."""

    pixels: NDArray[np.uint8]
    left: Mask
    right: Mask


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


def draw(
    anatomy: Anatomy, findings: tuple[str, ...], shape: tuple[int, int], rng: np.random.Generator, contrast: float
) -> Drawing:
    """Draws one image of a patient with some findings; position, exposure and noise are the image's own."""
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    turn, zoom = rng.normal(0, 0.025), rng.normal(1.0, 0.03)
    dx, dy = rng.normal(0, 0.03, 2)
    x, y = (
        ((x - dx) * np.cos(turn) + (y - dy) * np.sin(turn)) * zoom,
        ((y - dy) * np.cos(turn) - (x - dx) * np.sin(turn)) * zoom,
    )
    heart = anatomy.heart * (1.4 + 0.25 * (contrast - 1) if "Cardiomegaly" in findings else 1.0)
    lungs = _lungs(anatomy, x, y, flat="Emphysema" in findings)
    texture = gaussian_filter(rng.normal(size=shape), shape[0] / 60) * shape[0] / 30
    outline = _heart(anatomy, x, y, heart)
    left_air, right_air = (gaussian_filter(lung.astype(np.float64), shape[0] / 100) * (1 - outline) for lung in lungs)
    canvas = Canvas(x, y, np.zeros(shape), lungs, (left_air, right_air), anatomy, rng, contrast, texture)
    _soft_parts(canvas, outline)
    for name in findings:
        FINDINGS[name](canvas)
    _bones(canvas)
    left, right = lungs[1] & (outline < 0.5), lungs[0] & (outline < 0.5)
    return Drawing(_expose(canvas), left, right)


def _lungs(a: Anatomy, x: Plane, y: Plane, flat: bool) -> tuple[Mask, Mask]:
    """Outlines the lungs: narrow at the apex, cut by the diaphragm's dome."""
    masks = []
    for side, sign in enumerate((-1, 1)):
        v = (y - a.apex) / (2 * a.lung_height)  # 0 at the apex
        width = a.lung_width * (0.45 + 0.55 * np.clip(v * 2.2, 0, 1) ** 0.6)
        u = (sign * x - a.lung_x + 0.06 * np.clip(0.4 - v, 0, 1)) / width
        dome = a.dome[side] + (0.12 if flat else 0) + (0.5 if flat else 1.1) * (sign * x - a.lung_x + 0.08) ** 2
        masks.append((np.abs(u) ** 2.4 + np.abs(np.minimum(v - 0.35, 0) / 0.35) ** 2.4 < 1) & (y < dome))
    return masks[0], masks[1]


def _heart(a: Anatomy, x: Plane, y: Plane, radius: float) -> Plane:
    """Outlines heart and great vessels, 0 to 1 with a soft edge."""
    u, v = x - 0.5 * radius, y - a.heart_y
    body = ((u + 0.35 * v) / (1.2 * radius)) ** 2 + ((v - 0.25 * u) / (1.2 * a.heart)) ** 2
    arch = ((x - 0.05) / 0.13) ** 2 + ((y + 0.22) / 0.3) ** 2
    outline: Plane = expit(-11 * (np.minimum(body, arch) - 1))
    return outline


def _soft_parts(c: Canvas, heart: Plane) -> None:
    """Lays down body, air in the lungs with vessels, mediastinum, heart and abdomen."""
    a, x, y = c.anatomy, c.x, c.y
    shoulder = a.body * (0.55 + 0.45 * expit(14 * (y + 0.72)))
    body = expit(-30 * (np.abs(x) - shoulder))
    c.image = 0.04 + 0.5 * body * (1 - 0.25 * (np.abs(x) / a.body) ** 4)
    air = gaussian_filter((c.lungs[0] | c.lungs[1]).astype(np.float64), c.scale / 50)
    c.image = c.image - 0.36 * air
    hila = c.blob(-0.2, -0.02, 0.16, 0.26) + c.blob(0.2, -0.04, 0.16, 0.26)
    c.image = c.image + air * (0.035 * c.texture + 0.11 * hila)
    dome = np.where(x < 0, a.dome[0], a.dome[1])
    abdomen = expit(40 * (y - dome - 1.1 * (np.abs(x) - a.lung_x + 0.08) ** 2))
    c.image = c.image + 0.16 * abdomen * body - 0.1 * c.blob(0.38, a.dome[1] + 0.16, 0.12, 0.07, 4)
    spine = np.exp(-((x / 0.13) ** 4))
    c.image = c.image + 0.14 * spine * body * (1 + 0.1 * np.cos(y * 26))
    c.image = np.maximum(c.image, c.image * (1 - heart) + heart * (0.68 + 0.03 * c.texture))


def _bones(c: Canvas) -> None:
    """Adds ribs and clavicles over everything: they project on lungs and findings alike."""
    a, x, y = c.anatomy, np.abs(c.x), c.y
    cage = expit(-35 * (x - 0.78)) * expit(30 * (x - 0.1)) * expit(25 * (y + 0.8))
    for slope, strength in ((0.55, 0.085), (-0.42, 0.04)):  # the back of a rib falls to the side, its front rises
        wave = np.cos(np.pi * ((y - slope * (x - 0.3) - 0.5 * slope * x**2) * a.ribs + a.rib_phase))
        c.image = c.image + strength * cage * np.clip(wave, 0, 1) ** 3 * expit(-20 * (y - 0.55))
    line = y + 0.66 - a.clavicle * (x - 0.1) + 0.16 * (x - 0.35) ** 2
    ends = expit(-30 * (x - 0.66)) * expit(40 * (x - 0.08))
    c.image = c.image + 0.16 * ends * np.exp(-((line / 0.032) ** 2))


def _expose(c: Canvas) -> NDArray[np.uint8]:
    """Applies exposure, gamma, blur and quantum noise."""
    rng = c.rng
    image = np.clip(c.image, 0.01, None) ** rng.uniform(0.8, 1.2) * rng.uniform(0.95, 1.3) + rng.normal(0, 0.02)
    image = gaussian_filter(image, c.scale / 200)
    image = image + rng.normal(size=image.shape) * rng.uniform(0.015, 0.035)
    pixels: NDArray[np.uint8] = np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)
    return pixels


# Findings. Strengths were set with random weights alone: learnable, not saturated.


def _spots(c: Canvas, count: int, top: float, bottom: float, radius: tuple[float, float], amount: float) -> None:
    side, x0, y0 = c.place(top, bottom)
    for _ in range(count):
        x, y = x0 + c.rng.normal(0, 0.1), y0 + c.rng.normal(0, 0.1)
        r = c.rng.uniform(*radius)
        c.add(amount * c.rng.uniform(0.6, 1.2), c.blob(x, y, r, r) * c.air[side])


def _tuberculosis(c: Canvas) -> None:
    """Patchy and nodular opacities of an upper lobe, now and then around a cavity, over a faint haze."""
    _spots(c, int(c.rng.integers(5, 10)), 0.15, 0.42, (0.04, 0.075), 0.3)
    if c.rng.random() < 0.4:
        side, x, y = c.place(0.15, 0.4)
        r = np.hypot(c.x - x, c.y - y)
        c.add(0.18, np.exp(-(((r - 0.07) / 0.02) ** 2)) * c.air[side])
    side, x, y = c.place(0.15, 0.4)
    c.add(0.2, c.blob(x, y, 0.16, 0.14) * c.air[side] * (1 + 0.5 * c.texture))


def _healed(c: Canvas) -> None:
    """What a normal image may show too: a few spots anywhere, a faint haze below."""
    for _ in range(int(c.rng.integers(0, 3))):
        _spots(c, 1, 0.1, 0.95, (0.03, 0.075), 0.3)
    if c.rng.random() < 0.5:
        side, x, y = c.place(0.5, 0.95)
        c.add(0.2, c.blob(x, y, 0.16, 0.14) * c.air[side] * (1 + 0.5 * c.texture))


def _atelectasis(c: Canvas) -> None:
    side, x, y = c.place(0.6, 0.9)
    line = c.y - y - c.rng.uniform(-0.3, 0.3) * (c.x - x)
    c.add(0.17, np.exp(-((line / 0.03) ** 2)) * c.blob(x, y, 0.2, 0.5, 4) * c.air[side])


def _cardiomegaly(c: Canvas) -> None:
    """The heart was drawn larger already."""


def _effusion(c: Canvas) -> None:
    side, _, y = c.place(0.62, 0.85)
    meniscus = y - 0.5 * (np.abs(c.x) - c.anatomy.lung_x) ** 2 - 0.2 * (np.abs(c.x) - c.anatomy.lung_x)
    c.add(0.24, c.air[side] * expit(30 * (c.y - meniscus)))


def _infiltration(c: Canvas) -> None:
    side, x, y = c.place(0.3, 0.8)
    c.add(0.07, c.blob(x, y, 0.22, 0.3) * c.air[side] * (1 + 1.2 * c.texture))


def _mass(c: Canvas) -> None:
    side, x, y = c.place(0.2, 0.8)
    r = c.rng.uniform(0.09, 0.13)
    c.add(0.24, c.blob(x, y, r, r, 4) * c.air[side])


def _nodule(c: Canvas) -> None:
    side, x, y = c.place(0.15, 0.85)
    r = c.rng.uniform(0.035, 0.05)
    c.add(0.22, c.blob(x, y, r, r, 4) * c.air[side])


def _pneumonia(c: Canvas) -> None:
    side, x, y = c.place(0.45, 0.85)
    c.add(0.15, c.blob(x, y, 0.17, 0.15) * c.air[side] * (1 + 0.8 * c.texture))


def _pneumothorax(c: Canvas) -> None:
    side, _, _ = c.place(0.2, 0.4)
    depth = c.rng.uniform(0.05, 0.09)
    lung = c.lungs[side]
    rim = lung & (gaussian_filter(lung.astype(np.float64), depth * c.scale) < 0.72) & (c.y < 0.1)
    edge = gaussian_filter(rim.astype(np.float64), c.scale / 60)
    c.add(-0.09, edge)
    c.add(0.2, 4 * edge * (1 - edge) * lung * (edge < 0.5))


def _consolidation(c: Canvas) -> None:
    side, x, y = c.place(0.3, 0.8)
    c.add(0.24, c.blob(x, y, 0.18, 0.13, 4) * c.air[side])


def _edema(c: Canvas) -> None:
    wings = c.blob(-0.3, 0.02, 0.24, 0.34) + c.blob(0.3, 0.0, 0.24, 0.34)
    c.add(0.14, wings * c.both * (1 + 0.6 * c.texture))


def _emphysema(c: Canvas) -> None:
    c.add(-0.06, c.both)


def _fibrosis(c: Canvas) -> None:
    net = np.abs(np.sin(c.x * 45 + 2 * c.texture) * np.sin(c.y * 45 - 2 * c.texture))
    low = expit(12 * (c.y - 0.2))
    c.add(0.1, (net < 0.25) * low * c.both)


def _pleural_thickening(c: Canvas) -> None:
    side, _, _ = c.place(0.3, 0.7)
    lung = c.lungs[side]
    rim = lung & (gaussian_filter(lung.astype(np.float64), 0.035 * c.scale) < 0.7) & (np.abs(c.x) > c.anatomy.lung_x)
    c.add(0.2, gaussian_filter(rim.astype(np.float64), c.scale / 90))


def _hernia(c: Canvas) -> None:
    y = c.anatomy.heart_y + 0.16
    ring = np.hypot((c.x - 0.06) / 1.2, c.y - y)
    c.add(-0.16, np.exp(-((ring / 0.1) ** 4)))
    c.add(0.12, np.exp(-(((ring - 0.13) / 0.025) ** 2)))


FINDINGS: dict[str, Callable[[Canvas], None]] = {
    "Tuberculosis": _tuberculosis,
    "Healed": _healed,
    "Atelectasis": _atelectasis,
    "Cardiomegaly": _cardiomegaly,
    "Effusion": _effusion,
    "Infiltration": _infiltration,
    "Mass": _mass,
    "Nodule": _nodule,
    "Pneumonia": _pneumonia,
    "Pneumothorax": _pneumothorax,
    "Consolidation": _consolidation,
    "Edema": _edema,
    "Emphysema": _emphysema,
    "Fibrosis": _fibrosis,
    "Pleural_Thickening": _pleural_thickening,
    "Hernia": _hernia,
}
