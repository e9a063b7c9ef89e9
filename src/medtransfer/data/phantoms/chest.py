"""Frontal chest X-rays: body, lungs, heart, ribs, clavicles, diaphragm, and findings over them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.special import expit

from medtransfer.data.phantoms.canvas import Anatomy, Canvas, Mask, Plane, draw_texture, place_body
from medtransfer.data.phantoms.signs import FINDINGS


@dataclass(frozen=True)
class Drawing:
    """An image (height, width) of bytes and the two lungs, as the image shows them: left is the patient's left."""

    pixels: NDArray[np.uint8]
    left: Mask
    right: Mask
    pneumothorax: tuple[Mask, ...] = ()
    """where free air was drawn, one region per side"""


def draw(
    anatomy: Anatomy,
    findings: tuple[str, ...],
    shape: tuple[int, int],
    rng: np.random.Generator,
    contrast: float,
    faint: tuple[str, ...] = (),
) -> Drawing:
    """Draws one image of a patient; position, exposure and noise are the image's own.

    Args:
        anatomy: the patient.
        findings: what to draw of `signs.FINDINGS`.
        shape: (height, width).
        rng: of the image.
        contrast: strength of the findings.
        faint: findings of half the strength.
    """
    x, y = place_body(shape, rng)
    strengths = dict.fromkeys(faint, contrast / 2) | dict.fromkeys(findings, contrast)
    heart, wide = heart_size(anatomy, strengths)
    lungs = _lungs(anatomy, x, y, flat="Emphysema" in findings)
    texture = draw_texture(shape, rng)
    outline = _heart(anatomy, x, y, heart, wide)
    left_air, right_air = (gaussian_filter(lung.astype(np.float64), shape[0] / 100) * (1 - outline) for lung in lungs)
    canvas = Canvas(x, y, np.zeros(shape), lungs, (left_air, right_air), anatomy, rng, contrast, texture)
    _soft_parts(canvas, outline)
    add_findings(canvas, findings, faint)
    _bones(canvas)
    left, right = lungs[1] & (outline < 0.5), lungs[0] & (outline < 0.5)
    return Drawing(canvas.expose(), left, right, tuple(canvas.pneumothorax.values()))


def heart_size(anatomy: Anatomy, strengths: dict[str, float]) -> tuple[float, float]:
    """Gives the heart's radius and the width of the great vessels, 1 = normal."""
    heart, wide = anatomy.heart * 1.0, 1.0
    if "Cardiomegaly" in strengths:
        heart = anatomy.heart * (1.4 + 0.25 * (strengths["Cardiomegaly"] - 1))
    if "Mediastinum" in strengths:
        wide = 1.65 + 0.4 * (strengths["Mediastinum"] - 1)
    return heart, wide


def add_findings(canvas: Canvas, findings: tuple[str, ...], faint: tuple[str, ...]) -> None:
    """Draws findings, then the faint ones with half the contrast."""
    for name in findings:
        FINDINGS[name](canvas)
    canvas.contrast /= 2
    for name in faint:
        FINDINGS[name](canvas)


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


def _heart(a: Anatomy, x: Plane, y: Plane, radius: float, wide: float) -> Plane:
    """Outlines heart and great vessels, 0 to 1 with a soft edge."""
    u, v = x - 0.5 * radius, y - a.heart_y
    body = ((u + 0.35 * v) / (1.2 * radius)) ** 2 + ((v - 0.25 * u) / (1.2 * a.heart)) ** 2
    arch = ((x - 0.05) / (0.13 * wide)) ** 2 + ((y + 0.22) / 0.3) ** 2
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
