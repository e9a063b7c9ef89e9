"""One sampling grid per image: crop, flip, rotation and distortion only bend it, and each pixel is read once.

Legend: B batch, C channels, H and W the cache's height and width, S the network's input side. Coordinates are
those of `torch.nn.functional.grid_sample(align_corners=False)`: -1 and 1 are the outer edges of the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medtransfer.core import rng
from medtransfer.params import Augmentation

LATTICE = 20
"""knots per axis of the elastic field: neighbours are about 12 px apart at 224 px, twice the published sigma of 6"""
ELASTIC_STD = 0.0145
"""standard deviation of the elastic field, in image sides: 3.25 px of 224, what alpha 120 on noise smoothed by
sigma 6 gives; the published transform's small affine part is left out"""
GRID_STEPS = 5
"""cells per axis of the grid distortion, as published (albumentations' default)"""
GRID_LIMIT = 0.3
OPTICAL_LIMIT = 2.0
DRAWS = 10 + 2 * LATTICE**2
"""uniform numbers that one sample takes when distortions are on"""


@dataclass(frozen=True)
class Views:
    """Where B views look: all that bends their grids, as plain numbers on the host."""

    boxes: Tensor
    """(B, 4): centre x, centre y, half width, half height"""
    flip: Tensor
    """(B,): -1 where mirrored, else 1"""
    angle: Tensor
    """(B,): radians, counter-clockwise"""
    rotated: bool = False
    """whether any angle differs from 0"""
    distortion: Tensor | None = None
    """(B, 2 * LATTICE**2): the uniform numbers of distortions"""
    kinds: NDArray[np.int64] | None = None
    """(B,): 0 no distortion, 1 elastic, 2 grid, 3 optical"""

    def select(self, rows: NDArray[np.int64]) -> Views:
        """Takes some of the views."""
        index = torch.from_numpy(rows)
        return replace(
            self,
            boxes=self.boxes[index],
            flip=self.flip[index],
            angle=self.angle[index],
            distortion=None if self.distortion is None else self.distortion[index],
            kinds=None if self.kinds is None else self.kinds[rows],
        )


def random_views(augmentation: Augmentation, seed: int, keys: NDArray[np.uint64]) -> tuple[Views, Tensor | None]:
    """Draws the training view of each sample from the stream of `seed`, one per key.

    Returns:
        The views, and gain, offset and gamma of `clamp(gain * x + offset) ** gamma`, (3, B, 1, 1, 1), or None where no
        intensity is changed.
    """
    count = DRAWS if augmentation.distortion else 10
    u = rng.uniforms(seed, keys, count)
    boxes = _random_boxes(augmentation, u[:, 0:5])
    flip = np.where(u[:, 5] < augmentation.flip, -1.0, 1.0)
    angle = np.radians(augmentation.rotation) * (2 * u[:, 6] - 1)
    numbers, kinds = None, None
    if augmentation.distortion:
        which = 1 + np.floor(u[:, 7] / augmentation.distortion * 3).clip(0, 2)
        kinds = np.where(u[:, 7] < augmentation.distortion, which, 0).astype(np.int64)
        numbers = _tensor(u[:, 10:])
    rotated = augmentation.rotation > 0
    views = Views(_tensor(boxes), _tensor(flip), _tensor(angle), rotated, numbers, kinds)
    return views, _random_intensity(augmentation, u[:, 8:10]) if augmentation.intensity else None


def _tensor(array: NDArray[np.floating]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _random_boxes(augmentation: Augmentation, u: NDArray[np.float32]) -> NDArray[np.floating]:
    """Draws crops as torchvision's RandomResizedCrop does: uniform area, log-uniform aspect, uniform place.

    A crop wider or higher than the image is cut to the image, where torchvision draws again.
    """
    area = augmentation.crop_scale_min + (1 - augmentation.crop_scale_min) * u[:, 0]
    ratio = np.exp(math.log(augmentation.crop_ratio_max) * (2 * u[:, 1] - 1))
    width, height = np.minimum(np.sqrt(area * ratio), 1), np.minimum(np.sqrt(area / ratio), 1)
    x, y = (1 - width) * (2 * u[:, 2] - 1), (1 - height) * (2 * u[:, 3] - 1)
    cropped = (u[:, 4] < augmentation.crop)[:, None]
    return np.where(cropped, np.stack([x, y, width, height], axis=1), np.array([0.0, 0.0, 1.0, 1.0]))


def _random_intensity(augmentation: Augmentation, u: NDArray[np.float32]) -> Tensor:
    """Draws brightness and contrast (each within 0.2) or gamma (0.8 to 1.2), as published."""
    p = augmentation.intensity
    linear, power = u[:, 0] < p / 2, (u[:, 0] >= p / 2) & (u[:, 0] < p)
    a, b = u[:, 1], np.modf(u[:, 0] / (p / 2))[0]  # within each half the choosing number is uniform again
    gain = np.where(linear, 0.8 + 0.4 * a, 1.0)
    offset = np.where(linear, 0.4 * b - 0.2, 0.0)
    gamma = np.where(power, 0.8 + 0.4 * a, 1.0)
    return _tensor(np.stack([gain, offset, gamma]).reshape(3, -1, 1, 1, 1))


def fixed_views(count: int, crop_fraction: float, views: int) -> Views:
    """Lays out the views of val and test: the centre crop, or five crops and their flips (torchvision's TenCrop).

    Returns them sample by sample: B = count * views.
    """
    f, edge = crop_fraction, 1 - crop_fraction
    places = [(0.0, 0.0)] if views == 1 else [(-edge, -edge), (edge, -edge), (-edge, edge), (edge, edge), (0.0, 0.0)]
    rows = [(x * flip, y, f, f, flip) for flip in ((1.0,) if views == 1 else (1.0, -1.0)) for x, y in places]
    table = torch.tensor(rows).repeat(count, 1)
    return Views(table[:, :4].contiguous(), table[:, 4].contiguous(), torch.zeros(len(table)))


def shrink(views: Views, side: int, size: int) -> Tensor:
    """Says how many cached pixels one output pixel covers, per view and axis mean: shape (B,)."""
    return (views.boxes[:, 2] * views.boxes[:, 3]).sqrt() * side / size


@dataclass(frozen=True)
class Bends:
    """The images of a batch whose grids one kind of distortion bends."""

    kind: int
    rows: Tensor
    """(b,): their places in the batch"""
    numbers: Tensor
    """what bends each, made of uniform numbers on the host"""


def sample(images_BCHW: Tensor, views: Views, size: int) -> Tensor:
    """Reads B views of S x S pixels out of B float images; what a rotation brings in from outside is zero."""
    grid, outside = sampling_grid(views, size)
    out_BCSS = F.grid_sample(images_BCHW, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return out_BCSS if outside is None else out_BCSS.masked_fill_(outside[:, None], 0.0)


def sampling_grid(views: Views, size: int) -> tuple[Tensor, Tensor | None]:
    """Builds the grid (B, S, S, 2) and the mask (B, S, S) of pixels that a rotation takes out of the crop."""
    return grid_of(lines(views, size), bends(views))


def lines(views: Views, size: int) -> Tensor:
    """Draws up the grids on the host: (B, 4, S), or (B, 7, S) where any is rotated.

    An affine map is a row plus a column: x of the columns, x of the rows, y of the columns, y of the rows; then the
    line of x in the crop, and in each row the ends of what of it lies inside.
    """
    boxes, cos, sin = views.boxes, views.angle.cos()[:, None], views.angle.sin()[:, None]
    line = (torch.arange(size, dtype=torch.float32) * 2 + 1)[None] / size - 1
    width, height = (boxes[:, 2] * views.flip)[:, None], boxes[:, 3, None]
    found = [width * cos * line, boxes[:, 0, None] - width * sin * line]
    found += [height * sin * line, boxes[:, 1, None] + height * cos * line]
    if views.rotated:
        found += [line.expand(len(boxes), size), *_inside(line, cos, sin)]
    return torch.stack(found, dim=1)


def bends(views: Views) -> list[Bends]:
    """Sorts out which images which distortion bends."""
    if views.kinds is None or views.distortion is None:
        return []
    found = [(kind, torch.from_numpy(np.flatnonzero(views.kinds == kind))) for kind in (1, 2, 3)]
    drawn = (_normal, _knots, _strength)
    return [Bends(kind, rows, drawn[kind - 1](views.distortion[rows])) for kind, rows in found if len(rows)]


def grid_of(lines_BKS: Tensor, distortions: Sequence[Bends]) -> tuple[Tensor, Tensor | None]:
    """Builds grid and mask of `sampling_grid`, in few steps, on the device of the lines."""
    count, kinds, size = lines_BKS.shape
    across, down = lines_BKS[:, :, None, :], lines_BKS[:, :, :, None]
    grid = torch.empty((count, size, size, 2), device=lines_BKS.device)  # written once, without temporaries
    torch.add(across[:, 0], down[:, 1], out=grid[..., 0])
    torch.add(across[:, 2], down[:, 3], out=grid[..., 1])
    outside = (across[:, 4] < down[:, 5]).logical_or_(across[:, 4] > down[:, 6]) if kinds > 4 else None
    for each in distortions:  # in whole-image coordinates
        bend = (_elastic, _grid_steps, _optical)[each.kind - 1]
        grid.index_copy_(0, each.rows, bend(grid[each.rows], each.numbers))
    return grid, outside


def _inside(line_1S: Tensor, cos_B1: Tensor, sin_B1: Tensor) -> tuple[Tensor, Tensor]:
    """Finds the interval of x in each row that a rotation does not read from beyond the crop: two of (B, S)."""
    low, high = torch.full_like(cos_B1 * line_1S, -2.0), torch.full_like(cos_B1 * line_1S, 2.0)
    for slope, offset in ((cos_B1, -sin_B1 * line_1S), (sin_B1, cos_B1 * line_1S)):
        slope = torch.where(slope.abs() < 1e-9, 1e-9, slope)
        ends = torch.stack([(-1 - offset) / slope, (1 - offset) / slope])
        low, high = torch.maximum(low, ends.amin(0)), torch.minimum(high, ends.amax(0))
    return low, high


def _normal(u: Tensor) -> Tensor:
    """Makes normal numbers on the knots of a lattice: the sum of four uniform ones stands for one."""
    knots = u.reshape(len(u), 2, LATTICE, LATTICE)
    return (knots + knots.roll(1, 2) + knots.roll(1, 3) + knots.roll((1, 1), (2, 3)) - 2) * math.sqrt(3)


def _elastic(grid: Tensor, normal: Tensor) -> Tensor:
    """Adds a smooth random field (Simard et al., ICDAR 2003): normal noise on a lattice, cubic in between."""
    field = F.grid_sample(normal, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    return grid + 2 * ELASTIC_STD * field.permute(0, 2, 3, 1)


def _knots(u: Tensor) -> Tensor:
    """Draws where the cells of a grid end, from 0 to 1: (b, 2, GRID_STEPS + 1)."""
    steps = 1 + GRID_LIMIT * (2 * u[:, : 2 * GRID_STEPS].reshape(len(u), 2, GRID_STEPS) - 1)
    return F.pad(steps.cumsum(2), (1, 0)) / steps.sum(2, keepdim=True)


def _grid_steps(grid: Tensor, knots: Tensor) -> Tensor:
    """Stretches and squeezes the cells of a regular grid, each axis by itself."""
    place = (grid.permute(0, 3, 1, 2).flatten(2) + 1) / 2 * GRID_STEPS
    cell = place.floor().clamp(0, GRID_STEPS - 1)
    low, high = knots.gather(2, cell.long()), knots.gather(2, cell.long() + 1)
    bent = low + (place - cell) * (high - low)
    return (2 * bent - 1).reshape(len(knots), 2, *grid.shape[1:3]).permute(0, 2, 3, 1)


def _strength(u: Tensor) -> Tensor:
    """Draws k of `_optical`: (b, 1, 1)."""
    return (OPTICAL_LIMIT * (2 * u[:, :1] - 1))[:, :, None]


def _optical(grid: Tensor, k: Tensor) -> Tensor:
    """Applies barrel or pincushion distortion, `1 + k r^2 + k r^4` with r in image widths (Brown, 1966)."""
    r2 = ((grid / 2) ** 2).sum(-1)
    return grid * (1 + k * r2 + k * r2**2).unsqueeze(-1)
