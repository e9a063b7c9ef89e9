"""Lateral chest X-rays: one lung field over the other, the heart in front, the spine behind.

Coordinates as in `canvas`, with the patient's front at negative x, whichever way the image shows it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.special import expit

from medtransfer.data.phantoms.canvas import Anatomy, Canvas, Mask, Plane, draw_texture, place_body
from medtransfer.data.phantoms.chest import add_findings, heart_size

SEEN = 0.75
"""share of a finding's density that is left where the other lung lies over it"""


def draw(
    anatomy: Anatomy,
    findings: tuple[str, ...],
    shape: tuple[int, int],
    rng: np.random.Generator,
    contrast: float,
    faint: tuple[str, ...] = (),
) -> NDArray[np.uint8]:
    """Draws one lateral image of a patient, with the same arguments as the frontal one."""
    x, y = place_body(shape, rng)
    # facing and leaning either way: with less variety, audits take the images of two patients for one
    x, y = rng.choice([-1, 1]) * (x + rng.normal(0, 0.14) * y) * rng.uniform(0.86, 1.14), y + rng.normal(0, 0.07)
    heart, wide = heart_size(anatomy, dict.fromkeys(faint, contrast / 2) | dict.fromkeys(findings, contrast))
    texture = draw_texture(shape, rng)
    lung = _lung(anatomy, x, y)
    outline = expit(-9 * (np.hypot((x + 0.24) / (1.15 * heart), (y - anatomy.heart_y) / (1.3 * heart)) - 1))
    air = SEEN * gaussian_filter(lung.astype(np.float64), shape[0] / 100) * (1 - 0.7 * outline)
    centred = replace(anatomy, lung_x=0.14)  # findings lie beside the middle of the one field
    canvas = Canvas(x, y, np.zeros(shape), (lung, lung), (air, air), centred, rng, contrast, texture)
    _tissues(canvas, outline, wide)
    add_findings(canvas, findings, faint)
    return canvas.expose()


def _lung(a: Anatomy, x: Plane, y: Plane) -> Mask:
    """Outlines both lungs as one: narrow above, reaching deeper behind than in front."""
    v = (y - a.apex) / (2 * a.lung_height)
    width = (0.08 + 0.16 * a.rib_phase + a.lung_width) * (0.45 + 0.55 * np.clip(v * 2.2, 0, 1) ** 0.6)
    field = np.abs((x - 0.06) / width) ** 2.4 + np.abs(np.minimum(v - 0.35, 0) / 0.35) ** 2.4 < 1
    lung: Mask = field & (y < a.dome[0] + 0.1 + 0.35 * x + 0.5 * np.clip(-x, 0, None) ** 2)
    return lung


def _tissues(c: Canvas, heart: Plane, wide: float) -> None:
    """Lays down body, air, hila, heart, abdomen, spine, sternum and ribs."""
    x, y, a = c.x, c.y, c.anatomy
    body = expit(-25 * (np.abs(x) - 0.86 * a.body)) * expit(10 * (y + 0.98 - 0.4 * np.abs(x)))
    air = gaussian_filter(c.lungs[0].astype(np.float64), c.scale / 50)
    c.image = 0.04 + 0.56 * body - 0.4 * air * (1 + 0.25 * (y - 0.1))  # the lower spine is the darker one
    c.image = c.image + air * (0.035 * c.texture + 0.12 * c.blob(0.0, -0.08, 0.13 * wide, 0.16))
    c.image = c.image + 0.15 * body * expit(14 * (y - a.dome[0] - 0.14 - 0.35 * x)) * (1 - air)
    c.image = c.image + 0.3 * air * heart + 0.1 * (wide - 0.5) * air * c.blob(-0.12, -0.35, 0.14 * wide, 0.3, 4)
    back = 0.38 + 0.1 * np.cos(2.2 * y)
    c.image = c.image + 0.17 * np.exp(-(((x - back) / 0.11) ** 4)) * body * (1 + 0.18 * np.cos(y * 24))
    front = -0.5 - 0.1 * y
    c.image = c.image + 0.14 * np.exp(-(((x - front) / 0.035) ** 2)) * expit(-14 * (np.abs(y + 0.2) - 0.4))
    wave = np.cos(np.pi * ((y - 0.5 * (0.5 - x)) * a.ribs + a.rib_phase))
    c.image = c.image + 0.05 * air * np.clip(wave, 0, 1) ** 4
