"""How large the pixels of a task's images are: what distances between masks are measured in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.errors import UserError
from medtransfer.data.cache import Prepared
from medtransfer.data.tasks import Task
from medtransfer.statistics.mask_shapes import Unit

COLUMNS = ("original.height", "original.width", "pixel.height", "pixel.width")
"""of the table of samples: the image's size in pixels, and the size of one in mm, nan: the file does not say it"""

TOLERANCE = 2.0
"""how far outlines may be apart where the task does not say it, in mm or pixels"""


@dataclass(frozen=True, eq=False)
class Ruler:
    """What distances in a task's images are measured with."""

    unit: Unit
    tolerance: float
    shapes: NDArray[np.int64]
    """rows x (height, width) of the originals in pixels"""
    pixels: NDArray[np.float64]
    """rows x (height, width) of their pixels, in the unit"""

    @property
    def words(self) -> str:
        """Says the tolerance, as in a title."""
        return f"{self.tolerance:g} {self.unit}"

    def spacing(self, row: int, shape: tuple[int, int]) -> tuple[float, float]:
        """Gives height and width of a pixel of a row's image when that is resized to a shape."""
        height, width = self.pixels[row] * (self.shapes[row] / shape)
        return float(height), float(width)


def columns(notes: NDArray[np.void]) -> NDArray[np.float64]:
    """Takes `COLUMNS` from what was noted of each row."""
    return np.column_stack([notes["height"], notes["width"], notes["spacing"]]).astype(np.float64)


def ruler(task: Task, prepared: Prepared) -> Ruler | None:
    """Says what distances are measured with: mm where the size of every image's pixels is known, else pixels.

    None: the cache was prepared by a version that did not keep the sizes.

    Raises:
        UserError: the task says its tolerance in mm, and the size of pixels is not known.
    """
    table = prepared.samples
    if not set(COLUMNS) <= set(table.columns):
        return None
    sizes = table[list(COLUMNS)].to_numpy(np.float64)
    shapes, pixels = sizes[:, :2].astype(np.int64), sizes[:, 2:]
    if task.spacing and prepared.manifest["source"] == "raw":
        meant = (shapes.max(axis=1) == task.spacing_side) | (task.spacing_side == 0)
        pixels = np.where(np.isfinite(pixels) | ~meant[:, None], pixels, task.spacing)
    lacking = ~np.isfinite(pixels).all(axis=1) & (table["split"] != "").to_numpy()
    value, unit = task.tolerance or (TOLERANCE, "px" if lacking.any() else "mm")
    if unit == "mm" and lacking.any():
        raise UserError(_not_known(task, table["id"].to_numpy()[lacking], len(lacking)))
    return Ruler(unit, value, shapes, np.ones_like(pixels) if unit == "px" else pixels)


def _not_known(task: Task, ids: NDArray[Any], images: int) -> str:
    return (
        f"task {task.name}: its tolerance is in mm, but the files of {len(ids)} of {images} images do not say how large"
        f" their pixels are ({ids[0]} and so on); say `spacing: 0.1` (mm) in task.yaml if you know it, or take a"
        " tolerance in pixels, `tolerance: 2 px`"
    )
