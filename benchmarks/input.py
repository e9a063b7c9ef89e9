"""Training input: the pixel error of our sampling grid against torchvision's antialiased geometry.

What the input costs beside other libraries' is in `peers.py`.

    PYTHONPATH=src python benchmarks/input.py
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from numpy.typing import NDArray

from medtransfer.training.augmentation import Views, sample
from medtransfer.training.loader import Cache

SIZE = 224


def make_images(count: int, side: int) -> NDArray[np.uint8]:
    """Makes gray images with the spectrum of radiographs: smooth shapes, edges and noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    images = np.empty((count, side, side), np.uint8)
    for i in range(count):
        a, b = rng.uniform(0.3, 0.6, 2)
        lungs = ((x / a) ** 2 + (y / (b + 0.3)) ** 2 < 1) * -60
        ribs = 25 * np.sin(y * rng.uniform(25, 35) + x**2 * 8)
        images[i] = np.clip(150 + lungs + ribs - 40 * (x**2 + y**2) + rng.normal(0, 8, x.shape), 0, 255)
    return images


def geometry_error(side: int, scale: float) -> tuple[float, float]:
    """Compares crop, flip and rotation with torchvision's antialiased ones: mean and 99th percentile, gray levels."""
    images = make_images(4, side)
    crop = round(side * math.sqrt(scale))
    top = left = (side - crop) // 2
    source = torch.from_numpy(images)[:, None]
    resized = TF.resized_crop(source.float(), top, left, crop, crop, [SIZE, SIZE], antialias=True)
    want = TF.rotate(TF.horizontal_flip(resized), 5.0, interpolation=TF.InterpolationMode.BILINEAR)
    centre, half = (2 * (left + crop / 2) / side) - 1, crop / side
    boxes = torch.tensor([[centre, centre, half, half]] * 4)
    views = Views(boxes, torch.full((4,), -1.0), torch.full((4,), math.radians(5.0)), rotated=True)
    cache = Cache(images, np.zeros((4, 1), np.float32), torch.device("cpu"))
    error = (cache.views(np.arange(4), views, SIZE) - want).abs()
    unrotated = Views(boxes, torch.full((4,), -1.0), torch.zeros(4))
    straight = (cache.views(np.arange(4), unrotated, SIZE) - TF.horizontal_flip(resized)).abs()
    return float(straight.mean()), float(error.mean())


def bare_error(side: int, scale: float) -> float:
    """Says what a bare `grid_sample` without prefilter would give: the aliasing that the pyramid removes."""
    images = torch.from_numpy(make_images(4, side))[:, None].float()
    crop = round(side * math.sqrt(scale))
    top = (side - crop) // 2
    want = TF.resized_crop(images, top, top, crop, crop, [SIZE, SIZE], antialias=True)
    centre, half = (2 * (top + crop / 2) / side) - 1, crop / side
    views = Views(torch.tensor([[centre, centre, half, half]] * 4), torch.ones(4), torch.zeros(4))
    return float((sample(images, views, SIZE) - want).abs().mean())


def main() -> None:
    """Prints the table."""
    print("Mean absolute difference from torchvision, gray levels of 255\n")
    print("| cache | crop scale | resized crop + flip | and rotation by 5 degrees | bare grid_sample |")
    print("|---|---|---|---|---|")
    for side in (256, 1024):
        for scale in (0.08, 0.5, 1.0):
            straight, rotated = geometry_error(side, scale)
            print(f"| {side} | {scale} | {straight:.2f} | {rotated:.2f} | {bare_error(side, scale):.2f} |")


if __name__ == "__main__":
    main()
