"""Where the pixels of an image lie in space, so that a mask is laid on the place that it marks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.errors import UserError

NEAR = 0.1
"""share of a pixel by which two places may differ that are meant to be one: tools round differently"""

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Grid:
    """A picture's pixels in millimetres to the right, to the front and to the top."""

    origin: Vector
    """of the first pixel's centre, (3,)"""
    down: Vector
    """from one row to the next, (3,)"""
    right: Vector
    """from one column to the next, (3,)"""
    shape: tuple[int, int]
    """rows and columns"""

    def corners(self) -> NDArray[np.float64]:
        """Gives the centres of the four corner pixels, (4, 3)."""
        rows, columns = self.shape
        places = [(row, column) for row in (0, rows - 1) for column in (0, columns - 1)]
        return np.array([self.origin + row * self.down + column * self.right for row, column in places])

    @property
    def pixel(self) -> float:
        """Gives the shorter side of a pixel."""
        return float(min(np.linalg.norm(self.down), np.linalg.norm(self.right)))

    @property
    def spacing(self) -> tuple[float, float]:
        """Gives a pixel's height and width."""
        return float(np.linalg.norm(self.down)), float(np.linalg.norm(self.right))

    def words(self) -> str:
        """Says in a few words where the picture lies."""
        first, last = np.round(self.corners()[0], 1).tolist(), np.round(self.corners()[3], 1).tolist()
        return f"{self.shape[1]}x{self.shape[0]} pixels from {first} to {last} mm"


def require_equal(mask: Grid, image: Grid) -> None:
    """Refuses a mask that lies elsewhere than its image.

    Raises:
        UserError: a corner is off by more than a tenth of a pixel.
    """
    if mask.shape != image.shape or np.abs(mask.corners() - image.corners()).max() > NEAR * image.pixel:
        raise elsewhere(mask.words(), image)


def elsewhere(found: str, image: Grid) -> UserError:
    """Words the refusal of a mask whose pixels are not those of its image."""
    return UserError(
        f"the mask lies elsewhere than its image: the image has {image.words()}, the mask {found}; resample the mask"
        " onto its image, or, if its place in space is not right but its pixels are, say `align: pixels` in task.yaml"
    )
