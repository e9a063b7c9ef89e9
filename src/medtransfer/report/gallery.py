"""Examples of a run -> a figure: its best and its worst test images, with heat maps or outlines of masks."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from medtransfer.core.palette import BLUE, RED
from medtransfer.report.figures import style
from medtransfer.results.examples import Examples
from medtransfer.results.result import Result

TARGET, PREDICTION = (BLUE, "solid"), (RED, "dashed")
HEAT = "managua_r"
"""perceptually uniform from blue (against) to yellow (for), distinct to colour-blind readers (Crameri et al., 2020)"""
OPACITY = 0.7
"""of the image's strongest evidence; weaker evidence fades with its square, so that the image stays visible"""
CAPTION = 32
"""characters of a label on one line below an image"""


def figure(examples: Examples, title: str, results: Sequence[Result] = ()) -> Figure:
    """Draws a row of the best and a row of the worst images, the most extreme at the left.

    Args:
        examples: of one run.
        title: above them.
        results: of the task, whose marks stand in the corner.
    """
    kinds = {kind: np.flatnonzero(examples.kind == kind).tolist() for kind in ("best", "worst")}
    rows = {kind: places for kind, places in kinds.items() if places}
    columns = max(len(places) for places in rows.values())
    row, below = (2.5, 0.3) if examples.segmentation else (2.65, 0.7 if len(examples.maps) else 0.25)
    size = (0.4 + 2.3 * max(columns, 2), 0.35 + row * len(rows) + below)
    picture = Figure(figsize=size, dpi=150, layout="constrained")
    panels = picture.subplots(len(rows), columns, squeeze=False)
    for line, (kind, places) in zip(panels, rows.items(), strict=True):
        line[0].set_ylabel(kind, fontsize=10)
        for panel, place in zip(line, places, strict=False):
            _draw(panel, examples, place)
        for panel in line[len(places) :]:
            panel.set_visible(False)
    style.headline(picture, results, title)
    _explain(picture, panels.ravel().tolist(), examples)
    return picture


def _draw(panel: Axes, examples: Examples, place: int) -> None:
    """Draws one image, what lies over it, and its caption."""
    image = examples.images[place]
    if len(examples.maps) and image.ndim == 3:  # colours below would mix with those of the heat
        image = image.mean(axis=2).astype(np.uint8)
    panel.imshow(image, cmap="gray", vmin=0, vmax=255)
    panel.set_xticks([])
    panel.set_yticks([])
    panel.spines[:].set_visible(False)
    if examples.segmentation:
        for masks, style in ((examples.targets, TARGET), (examples.predictions, PREDICTION)):
            _outline(panel, masks[place], *style)
        panel.set_xlabel(f"Dice {examples.score[place]:.2f}", fontsize=8)
        return
    if len(examples.maps):
        _heat(panel, examples.maps[place].astype(np.float32), len(examples.images[place]))
    label = examples.shown[place]
    name = textwrap.fill(f"{examples.labels[label]}:", CAPTION)
    target, probability = examples.targets[place, label], examples.predictions[place, label]
    panel.set_xlabel(f"{name}\ntarget {target}, p = {probability:.2f}", fontsize=8)


def _outline(panel: Axes, masks: NDArray[np.integer], colour: str, style: str) -> None:
    """Draws the outline of each label's mask, (L, S, S), on a light rim that sets it off from a dark image."""
    for mask in masks:
        if mask.any():
            padded = np.pad(mask, 1)  # closes the outline of a mask that touches the edge
            places = np.arange(-1, len(mask) + 1)
            lines = panel.contour(places, places, padded, levels=[0.5], colors=colour, linewidths=0.8, linestyles=style)
            lines.set_path_effects([withStroke(linewidth=1.6, foreground="white", alpha=0.5)])
    panel.set_xlim(-0.5, masks.shape[-1] - 0.5)
    panel.set_ylim(masks.shape[-1] - 0.5, -0.5)


def _heat(panel: Axes, evidence: NDArray[np.float32], side: int) -> None:
    """Lays evidence for and against the label over an image of `side` pixels."""
    alpha = OPACITY * np.square(evidence)
    extent = (-0.5, side - 0.5, side - 0.5, -0.5)
    panel.imshow(evidence, cmap=HEAT, vmin=-1, vmax=1, alpha=alpha, extent=extent, interpolation="bilinear")


def _explain(picture: Figure, panels: list[Axes], examples: Examples) -> None:
    """Says below the panels what lies over the images."""
    if examples.segmentation:
        styles = (("target", TARGET), ("prediction", PREDICTION))
        handles = [Line2D([], [], color=colour, ls=style, lw=1.5, label=words) for words, (colour, style) in styles]
        picture.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    elif len(examples.maps):
        heat = ScalarMappable(Normalize(-1, 1), HEAT)
        scale = picture.colorbar(heat, ax=panels, location="bottom", shrink=0.6, aspect=40, pad=0.03, ticks=[-1, 0, 1])
        words = "evidence against (-) and for (+) the label (HiResCAM),\nas a share of the image's strongest"
        scale.set_label(words, fontsize=8)
        scale.ax.tick_params(labelsize=8)
    else:
        picture.supxlabel(str(examples.note), fontsize=8)
