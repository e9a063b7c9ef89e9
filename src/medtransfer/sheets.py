"""Pictures that show at a glance whether data are right: samples with their labels or outlines, look-alikes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medtransfer.audit import SPLITS, Finding
from medtransfer.cache import Manifest
from medtransfer.tasks import Task

ImageOf = Callable[[str], NDArray[np.uint8]]
"""sample id -> its prepared image"""

COLUMNS = 6
"""images of each split"""

COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2", "#999999")
"""of the labels' outlines (Okabe and Ito), as many as there can be"""

LONGEST = 34
"""characters of a label line"""


def samples(
    path: Path,
    task: Task,
    images: NDArray[np.uint8],
    masks: NDArray[np.uint8] | None,
    table: pd.DataFrame,
    manifest: Manifest,
) -> None:
    """Draws some samples of every split: what the network will see, with labels or the masks' outlines."""
    shown = [(split, _choose(table, task, split)) for split in SPLITS]
    shown = [(split, rows) for split, rows in shown if len(rows)]
    with matplotlib.rc_context({"font.size": 8}):
        figure = Figure(figsize=(2 * COLUMNS, 2.3 * len(shown) + 0.9), layout="constrained", dpi=110)
        figure.suptitle(_headline(task, manifest), fontsize=11)
        for axis in (axes := figure.subplots(len(shown), COLUMNS, squeeze=False)).flat:
            axis.set_axis_off()
        for line, (split, rows) in zip(axes, shown, strict=True):
            for axis, row in zip(line, rows, strict=False):
                _draw(axis, images[row])
                if masks is not None:
                    _outline(axis, masks[row], len(task.labels))
                axis.set_title(f"{split}: {_short(str(table['id'][row]))}\n{_words(task, table, row)}", fontsize=7)
        figure.savefig(path)


def _headline(task: Task, manifest: Manifest) -> str:
    counts = ", ".join(f"{split} {count}" for split, count in manifest["counts"].items())
    marks = f" ({', '.join(manifest['marks'])})" if manifest["marks"] else ""
    side = manifest["cache_size"]
    width, height = manifest["statistics"]["width"], manifest["statistics"]["height"]
    low, high = f"{width['low']:.0f}x{height['low']:.0f}", f"{width['high']:.0f}x{height['high']:.0f}"
    sizes = f"originals {low if low == high else f'{low} to {high}'} pixels"
    return f"{task.name}: {task.title}{marks}\nimages: {counts}; {sizes}, prepared at {side}x{side}"


def _choose(table: pd.DataFrame, task: Task, split: str) -> list[int]:
    """Takes rows of a split: one for each of the first labels, one without any, then others evenly."""
    rows = np.flatnonzero(table["split"].to_numpy() == split)
    values = table[list(task.labels)].to_numpy()[rows]
    chosen: list[int] = []
    for marked in [*(values == 1).T[: COLUMNS - 2], (values <= 0).all(axis=1)]:
        having = rows[marked]
        fresh = [int(row) for row in having[len(having) // 2 :] if row not in chosen]
        chosen += fresh[:1]
    others = [int(row) for row in rows if row not in set(chosen)]
    wanted = COLUMNS - len(chosen)
    places = np.linspace(0, len(others) - 1, min(wanted, len(others))).round().astype(int)
    return chosen + [others[place] for place in np.unique(places)]


def _words(task: Task, table: pd.DataFrame, row: int) -> str:
    values = {label: int(table[label][row]) for label in task.labels}
    yes = [label for label, value in values.items() if value == 1]
    maybe = [f"{label}?" for label, value in values.items() if value == -1]
    if task.kind == "segmentation" and not yes:
        return "no region"
    return _short(", ".join(yes + maybe) or "none")


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _draw(axis: Axes, image: NDArray[np.uint8]) -> None:
    axis.imshow(image, cmap="gray" if image.ndim == 2 else None, vmin=0, vmax=255)


def _outline(axis: Axes, mask: NDArray[np.uint8], labels: int) -> None:
    for bit in range(labels):
        plane = mask >> bit & 1
        if plane.any() and not plane.all():
            axis.contour(plane, levels=[0.5], colors=[COLOURS[bit]], linewidths=0.9)


def pairs(path: Path, finding: Finding, left: ImageOf, right: ImageOf | None = None) -> None:
    """Draws the look-alikes that a finding names, side by side; none are named: no file."""
    examples = finding["examples"]
    path.unlink(missing_ok=True)
    if not examples:
        return
    across = 4
    lines = -(-len(examples) // across)
    figure = Figure(figsize=(3.3 * across, 2.2 * lines + 0.6), layout="constrained", dpi=110)
    figure.suptitle(f"{finding['count']} pairs that look alike; the {len(examples)} most alike", fontsize=11)
    axes: NDArray[Any] = figure.subplots(lines, 2 * across, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for number, pair in enumerate(examples):
        one, two = (axes[number // across, 2 * (number % across) + side] for side in (0, 1))
        first, second = pair["splits"].split("/")
        for axis, name, words, image_of in ((one, pair["a"], first, left), (two, pair["b"], second, right or left)):
            _draw(axis, image_of(name))
            axis.set_title(f"{words}\n{_short(name)}", fontsize=6)
        two.text(0.98, 0.02, f"{pair.get('correlation', 1):.3f}", transform=two.transAxes, ha="right", color="yellow")
    figure.savefig(path)
