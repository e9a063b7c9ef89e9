"""Axial CT slices of the chest in Hounsfield units, with contrast in the vessels and clots in the pulmonary arteries.

Coordinates: x to the right of the image, which is the patient's left, y to the back, both from -1 to 1; z from the
aortic arch, 0, to the heart, 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.special import expit

Plane = NDArray[np.float64]
Ellipse = tuple[float, float, float, float]
"""centre x and y, radii in x and y"""

AIR, LUNG, FAT, MUSCLE, CLOT, BONE = -1000.0, -850.0, -100.0, 50.0, 60.0, 450.0
"""Hounsfield units"""

TRUNK = (0.3, 0.6)
"""heights between which the pulmonary trunk and its right branch are seen"""

CHAMBERS = (
    (-0.08, -0.16, 0.13, 0.12, 1.0),
    (0.1, -0.24, 0.14, 0.09, 0.95),
    (0.27, -0.12, 0.11, 0.1, 0.8),
    (0.08, 0.03, 0.14, 0.08, 0.85),
)
"""of the heart: centre, radii, and share of the arteries' contrast"""


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """What the slices of one study share."""

    width: float
    depth: float
    fat: float
    centre: tuple[float, float]
    turn: float
    heart: float
    artery: float
    ribs: float
    blood: float
    """Hounsfield units of the contrast in the pulmonary arteries"""
    blur: float
    """pixels at a height of 100, from motion"""
    mixing: float
    """strength of uneven contrast in the arteries"""

    @classmethod
    def draw(
        cls, rng: np.random.Generator, *, motion: bool = False, late: bool = False, mixed: bool = False
    ) -> Anatomy:
        """Draws a study.

        Args:
            rng: of the study.
            motion: the patient moved.
            late: little contrast is left in the arteries.
            mixed: blood without contrast flows in.
        """
        return cls(
            width=rng.uniform(0.8, 0.96),
            depth=rng.uniform(0.57, 0.72),
            fat=rng.uniform(0.03, 0.1),
            centre=(rng.normal(0, 0.04), rng.normal(0, 0.07)),
            turn=rng.normal(0, 0.09),
            heart=rng.uniform(0.8, 1.2),
            artery=rng.uniform(0.09, 0.115),
            ribs=rng.uniform(0, 2 * np.pi),
            blood=rng.uniform(180, 220) if late else rng.uniform(270, 350),
            blur=1.2 if motion else 0.0,
            mixing=0.25 if mixed else 0.08,
        )


@dataclass
class _Slice:
    """A slice while it is painted."""

    x: Plane
    y: Plane
    z: float
    image: Plane

    def disc(self, ellipse: Ellipse, scale: float = 1.0) -> Plane:
        """Returns an ellipse, 0 to 1 with an edge of a pixel."""
        x, y, rx, ry = ellipse
        distance = np.hypot((self.x - x) / (rx * scale), (self.y - y) / (ry * scale))
        inside: Plane = expit((1 - distance) * min(rx, ry) * scale * len(self.x))
        return inside

    def paint(self, where: Plane, units: float | Plane) -> None:
        """Covers what was there."""
        self.image = self.image + where * (units - self.image)


def draw(
    a: Anatomy, z: float, clots: tuple[str, ...], size: int, rng: np.random.Generator, contrast: float
) -> NDArray[np.int16]:
    """Draws one slice in Hounsfield units, (size, size).

    Args:
        a: the study's anatomy.
        z: the slice's height, 0 to 1.
        clots: arteries with a filling defect, of `arteries(a, z)`.
        size: pixels.
        rng: of the slice.
        contrast: strength of the filling defects, 1 = the demo's.
    """
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    x, y = x - a.centre[0], y - a.centre[1]
    x, y = x * np.cos(a.turn) + y * np.sin(a.turn), y * np.cos(a.turn) - x * np.sin(a.turn)
    s = _Slice(x, y, z, np.full((size, size), AIR))
    _walls(s, a)
    _lungs(s, a, rng)
    _mediastinum(s, a)
    _arteries(s, a, clots, rng, contrast)
    sharp = gaussian_filter(s.image, max(0.4, size / 300) + a.blur * size / 100)
    noise = gaussian_filter(rng.normal(size=(size, size)), 0.5) * rng.uniform(25, 45)
    units: NDArray[np.int16] = np.clip(np.rint(sharp + noise), -1024, 3071).astype(np.int16)
    return units


def arteries(a: Anatomy, z: float) -> dict[str, Ellipse]:
    """Gives the pulmonary arteries that a height shows: those of both lungs, and the trunk's right branch."""
    drift = 0.1 * (z - 0.5)
    found = {
        "right": (-0.27 - drift, 0.04 + drift, a.artery, 1.15 * a.artery),
        "left": (0.3 + drift, 0.05 + drift, a.artery, 1.1 * a.artery),
    }
    if TRUNK[0] < z < TRUNK[1]:
        found["central"] = (-0.06, -0.02, 0.24, 0.95 * a.artery)
    return found


def _walls(s: _Slice, a: Anatomy) -> None:
    """Paints table, skin, fat, muscle, ribs, sternum and spine."""
    s.paint(np.exp(-(((s.y - a.depth - 0.1 + 0.12 * s.x**2) / 0.018) ** 2)) * (np.abs(s.x) < 0.75), -150)
    s.paint(s.disc((0, 0, a.width, a.depth)), FAT)
    s.paint(s.disc((0, 0, a.width - a.fat, a.depth - a.fat)), MUSCLE)
    inner = (a.width - a.fat - 0.06, a.depth - a.fat - 0.055)
    radius, angle = np.hypot(s.x / inner[0], s.y / inner[1]), np.arctan2(s.y, s.x)
    ring = np.exp(-(((radius - 1) / 0.05) ** 4))
    ribs = expit(7 * (np.cos(9 * angle + a.ribs + 9 * s.z * np.sign(s.x)) - 0.35)) * (np.abs(s.x) > 0.12)
    s.paint(ring * ribs, BONE - 200 * np.exp(-(((radius - 1) / 0.02) ** 2)))
    s.paint(s.disc((0, -inner[1], 0.12, 0.035)), BONE - 200)
    back = inner[1] - 0.12
    s.paint(s.disc((0, back + 0.13, 0.2, 0.03)), BONE - 100)
    s.paint(s.disc((0, back + 0.2, 0.035, 0.1)), BONE)
    s.paint(s.disc((0, back, 0.135, 0.115)), BONE)
    s.paint(s.disc((0, back, 0.11, 0.09)), BONE - 270)
    s.paint(s.disc((0, back + 0.12, 0.06, 0.05)), 25)


def _lungs(s: _Slice, a: Anatomy, rng: np.random.Generator) -> None:
    """Paints air with vessels on both sides of the mediastinum and the heart."""
    cavity = s.disc((0, 0, a.width - a.fat - 0.1, a.depth - a.fat - 0.09))
    growth = float(expit(12 * (s.z - 0.6)))
    middle = expit((np.abs(s.x - 0.03) - 0.15 - 0.05 * np.cos(4 * s.y)) * len(s.x))
    heart = s.disc((0.1, -0.12, 0.42 * a.heart * (0.55 + 0.45 * growth), 0.3 * a.heart * (0.5 + 0.5 * growth)))
    spine = s.disc((0, a.depth - a.fat - 0.19, 0.19, 0.17))
    air = cavity * middle * (1 - heart) * (1 - spine)
    s.paint(air, LUNG + 40 * s.y)
    fine = gaussian_filter(rng.normal(size=s.x.shape), len(s.x) / 130) * len(s.x) / 45
    hila = np.exp(-(((np.abs(s.x) - 0.3) / 0.3) ** 2) - (s.y / 0.35) ** 2)
    vessels = np.clip(fine - 1.6 + 1.0 * hila, 0, 1)
    s.paint(air * vessels, 100)


def _mediastinum(s: _Slice, a: Anatomy) -> None:
    """Paints fat, windpipe and gullet, the aorta and the vein beside it, and low down the chambers of the heart."""
    s.paint(s.disc((0.02, -0.1, 0.15, 0.2)), FAT + 20)
    aorta, vein = 0.8 * a.blood, 1.15 * a.blood
    s.paint(s.disc((0.0, 0.17, 0.05, 0.04)), MUSCLE)
    if s.z < TRUNK[0]:
        s.paint(s.disc((0.06, -0.03, 0.1, 0.24)), aorta)
        s.paint(s.disc((-0.06, 0.06, 0.055, 0.06)), AIR)
    else:
        s.paint(s.disc((0.12, 0.22, 0.08, 0.08)), aorta)
        for side in (-1, 1):
            s.paint(s.disc((0.13 * side, 0.13, 0.04, 0.045)), AIR)
    s.paint(s.disc((-0.15, -0.14, 0.06, 0.07)), vein)
    if s.z < TRUNK[1]:
        s.paint(s.disc((-0.03, -0.22, 0.1, 0.1)), aorta)
    else:
        _heart(s, a)


def _heart(s: _Slice, a: Anatomy) -> None:
    """Paints muscle around the chambers."""
    size = a.heart * (0.75 + 0.3 * s.z)
    s.paint(s.disc((0.1, -0.12, 0.36 * size, 0.25 * size)), 90)
    for x, y, rx, ry, share in CHAMBERS:
        s.paint(s.disc((x, y, rx * size, ry * size)), share * a.blood)


def _arteries(s: _Slice, a: Anatomy, clots: tuple[str, ...], rng: np.random.Generator, contrast: float) -> None:
    """Paints the pulmonary arteries, and off the centre of some of them a clot: contrast flows around it."""
    found = arteries(a, s.z)
    uneven = gaussian_filter(rng.normal(size=s.x.shape), len(s.x) / 40) * len(s.x) / 12
    blood = a.blood * (1 + a.mixing * np.clip(uneven, -1.5, 1))
    if "central" in found:
        s.paint(s.disc((0.13, -0.19, 0.1, 0.13)), blood)
        s.paint(s.disc((0.2, -0.06, 0.14, 0.1)), blood)
    for ellipse in found.values():
        s.paint(s.disc(ellipse), blood)
    for name in clots:
        x, y, rx, ry = found[name]
        dx, dy = rng.uniform(-0.22, 0.22, 2)
        share = min(0.85, rng.uniform(0.55, 0.7) * contrast**0.3)
        defect = s.disc((x + dx * rx, y + dy * ry, rx, ry), share)
        s.paint(defect * min(contrast, 1.25), CLOT)
