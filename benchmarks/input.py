"""Training input: images/s of our batches against a torchvision PIL pipeline, on the same images, in one run.

Prints ratios, and the pixel error of our sampling grid against torchvision's antialiased geometry.

    PYTHONPATH=src python benchmarks/input.py [--images 256] [--workers 0]
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from medtransfer.params import Augmentation
from medtransfer.training.augmentation import Views, sample
from medtransfer.training.loader import Cache, Loader
from medtransfer.weights.records import IMAGENET_MEAN, IMAGENET_STD

SIZE, BATCH = 224, 32
AUGMENTATION = Augmentation(
    crop=1.0, crop_scale_min=0.08, crop_ratio_max=4 / 3, flip=0.5, rotation=7.0, distortion=0.0, intensity=0.0
)


class Folder(Dataset[Tensor]):
    """The usual pipeline: decode, RandomResizedCrop, flip, rotation 7, ToTensor, Normalize."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(SIZE),
                transforms.RandomHorizontalFlip(),
                transforms.RandomRotation(7),
                transforms.ToTensor(),
                transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        image: Tensor = self.transform(Image.open(self.paths[index]).convert("RGB"))
        return image


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


def our_loader(images: NDArray[np.uint8]) -> Loader:
    """Builds our loader of a prepared cache."""
    cache = Cache(images, np.zeros((len(images), 14), np.float32), torch.device("cpu"))
    return Loader(
        cache, [str(i) for i in range(len(images))],
        size=SIZE, batch_size=BATCH, crop_fraction=0.875, mean=IMAGENET_MEAN, std=IMAGENET_STD, channels_last=True,
    )  # fmt: skip


def ours(images: NDArray[np.uint8], seconds: float) -> float:
    """Measures our training batches from a prepared cache."""
    loader, rows = our_loader(images), np.arange(len(images))

    def forever() -> Generator[int]:
        for epoch in range(10**6):
            for batch in loader.train(rows, AUGMENTATION, 0, epoch, 1):
                yield len(batch.inputs)

    return rate(forever(), seconds, warm=2 * len(images))


def theirs(paths: list[Path], workers: int, seconds: float) -> float:
    """Measures the PIL pipeline."""
    loader = DataLoader(Folder(paths), BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)

    def forever() -> Generator[int]:
        while True:
            for batch in loader:
                yield len(batch)

    return rate(forever(), seconds, warm=len(paths) // 2)


def rate(batches: Generator[int], seconds: float, warm: int) -> float:
    """Counts images per second after a warm-up of `warm` images."""
    done = 0
    while done < warm:
        done += next(batches)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        done += next(batches)
    speed = done / (time.perf_counter() - start)
    batches.close()  # ends a DataLoader's workers, which would disturb the next measurement
    return speed


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
    """Prints the two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0, help="DataLoader workers and our threads; 0 = cores")
    options = parser.parse_args()
    cores = options.workers or len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    large = make_images(options.images, 1024)
    small = np.stack(
        [np.asarray(Image.fromarray(image).resize((256, 256), Image.Resampling.BILINEAR)) for image in large]
    )
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for side, images in ((256, small), (1024, large)):
            paths[side] = [Path(folder) / f"{side}_{i}.png" for i in range(len(images))]
            for path, image in zip(paths[side], images, strict=True):
                Image.fromarray(image).save(path)
        rounds = [
            (
                *(theirs(paths[side], cores, options.seconds) for side in (256, 1024)),
                *(ours(images, options.seconds) for images in (small, large)),
            )
            for _ in range(options.rounds)
        ]
    median = [statistics.median(column) for column in zip(*rounds, strict=True)]
    pil, cached = {256: median[0], 1024: median[1]}, {256: median[2], 1024: median[3]}
    print(f"{cores} cores, batches of {BATCH} at {SIZE} px, images/s, medians of {options.rounds} rounds in turns\n")
    print("| source | torchvision PIL, 1024 px PNG | torchvision PIL, 256 px PNG |")
    print("|---|---|---|")
    print(f"| images/s | {pil[1024]:.0f} | {pil[256]:.0f} |")
    for side, value in cached.items():
        print(f"| our {side} px cache: {value:.0f} | {value / pil[1024]:.1f}x | {value / pil[256]:.1f}x |")
    print("\nMean absolute difference from torchvision, gray levels of 255")
    print("\n| cache | crop scale | resized crop + flip | and rotation by 5 degrees | bare grid_sample |")
    print("|---|---|---|---|---|")
    for side in (256, 1024):
        for scale in (0.08, 0.5, 1.0):
            straight, rotated = geometry_error(side, scale)
            print(f"| {side} | {scale} | {straight:.2f} | {rotated:.2f} | {bare_error(side, scale):.2f} |")


if __name__ == "__main__":
    main()
