"""The findings that labels name, drawn on a chest X-ray."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.special import expit

from medtransfer.data.phantoms.canvas import Canvas, Mask

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
    _free_air(c, side, rim)


def _large_pneumothorax(c: Canvas) -> None:
    """Free air over the apex and along the outer wall, deeper than the rim; a second one is on the other side."""
    side, _, bottom = c.place(0.5, 0.85)
    if side in c.pneumothorax:
        side = 1 - side
    lung = c.lungs[side]
    outwards = c.x if side else -c.x
    inner = lung | (outwards < c.anatomy.lung_x - 0.04)  # towards the middle it stays fixed
    tissue = gaussian_filter(inner.astype(np.float64), c.rng.uniform(0.16, 0.32) * c.scale)
    rim = lung & (tissue < 0.74 * expit((bottom - c.y) / 0.1))  # thinner towards the bottom
    _free_air(c, side, rim)


def _free_air(c: Canvas, side: int, region: Mask) -> None:
    """Darkens a region at the wall of a lung, draws the line of the pleura inside of it and notes it down."""
    edge = gaussian_filter(region.astype(np.float64), c.scale / 60)
    c.add(-0.09, edge)
    c.add(0.2, 4 * edge * (1 - edge) * c.lungs[side] * (edge < 0.5))
    c.pneumothorax[side] = region


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


def _mediastinum(c: Canvas) -> None:
    """The great vessels were drawn wider already."""


def _fracture(c: Canvas) -> None:
    """A callus on the outer part of a rib, with a dark cleft."""
    sign, y = c.rng.choice([-1, 1]), c.rng.uniform(-0.45, 0.25)
    x = sign * c.rng.uniform(0.5, 0.66)
    cleft = np.exp(-((((c.x - x) + 0.4 * sign * (c.y - y)) / 0.016) ** 2))
    c.add(0.34, c.blob(x, y, 0.085, 0.055) * (1 - 1.5 * cleft))


def _device(c: Canvas) -> None:
    """A venous line from the neck to the heart, or a pacemaker with its lead."""
    side = c.rng.choice([-1, 1])
    pacemaker = c.rng.random() < 0.5
    tip, top = c.rng.uniform(-0.05, 0.25), -0.5 if pacemaker else -1.2
    start = side * (0.45 if pacemaker else c.rng.uniform(0.15, 0.3))
    path = -0.08 + (start + 0.08) * np.clip((c.y - tip) / (top - tip), 0, 1) ** 2.5
    slope = np.gradient(path, axis=0) * c.scale
    line = np.exp(-(((c.x - path) / (0.017 * np.hypot(1, slope))) ** 2))
    c.add(0.3, line * (c.y > top) * (c.y < tip))
    if pacemaker:
        c.add(0.45, c.blob(start, top, 0.1, 0.08, 6))


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
    "Large_Pneumothorax": _large_pneumothorax,
    "Mediastinum": _mediastinum,
    "Fracture": _fracture,
    "Device": _device,
}
