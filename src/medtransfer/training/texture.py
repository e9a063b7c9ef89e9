"""Intensities and texture of an image, by scikit-image: what a classifier can know without a network.

Legend: H and W sides of an image, F features, P positions, S side of the input, L labels.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medtransfer.core import files
from medtransfer.core.errors import UserError
from medtransfer.training.features import BITS, MANIFEST, VALUES, Features, Manifest, bits, positions, read
from medtransfer.training.loader import Loader

PERCENTILES = (5, 25, 50, 75, 95)
LEVELS = 32
"""gray levels of co-occurrence"""
DISTANCES = (1, 2, 4)
"""pixels between the two of co-occurrence; each at four angles, whose mean counts"""
PROPERTIES = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation")
CIRCLES = ((8, 1), (16, 2))
"""points and radius in pixels of uniform local binary patterns, which a rotation by a right angle does not change"""
SMALLEST, LARGEST = 1.0, 8.0
"""std in pixels of the Gaussians around a pixel of a segmentation task"""
BATCH = 64


def names(colour: bool) -> list[str]:
    """Names the features of an image, in their order."""
    histogram = ["mean", "std", "skewness", "kurtosis", "entropy", *(f"percentile {each}" for each in PERCENTILES)]
    glcm = [f"{each} at {distance}" for each in PROPERTIES for distance in DISTANCES]
    patterns = [f"pattern {code} of {points}" for points, _ in CIRCLES for code in range(points + 2)]
    channels = [f"{each} of channel {number}" for each in ("mean", "std") for number in range(3)] if colour else []
    return [*histogram, *glcm, *patterns, "mean gradient", "std of gradient", *channels]


def of_image(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Describes an image (H, W), or (H, W, 3) in colour, by numbers that know nothing of where things are; (F)."""
    from skimage import filters

    gray = _gray(pixels)
    slopes = filters.sobel(gray.astype(np.float64) / 255)
    ends = np.array([slopes.mean(), slopes.std()])
    parts = [_histogram(gray), _cooccurrence(gray), _patterns(gray), ends]
    if pixels.ndim == 3:
        parts += [pixels.mean(axis=(0, 1)), pixels.std(axis=(0, 1))]
    return np.concatenate(parts).astype(np.float32)


def of_pixels(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Describes every pixel of an image by its neighbourhood at several scales: gray, edges, curvature; (F, H, W)."""
    from skimage.feature import multiscale_basic_features

    gray = _gray(pixels).astype(np.float32) / 255
    found = multiscale_basic_features(gray, sigma_min=SMALLEST, sigma_max=LARGEST, workers=1)
    return np.moveaxis(np.asarray(found, dtype=np.float32), 2, 0)


def _gray(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if pixels.ndim == 2:
        return pixels
    from skimage.color import rgb2gray

    return np.asarray(np.rint(255 * rgb2gray(pixels)), dtype=np.uint8)


def _histogram(gray: NDArray[np.uint8]) -> NDArray[np.float64]:
    from scipy import stats

    values = gray.ravel().astype(np.float64)
    shares = np.bincount(gray.ravel(), minlength=256) / gray.size
    flat = values.std() == 0
    shape = [0.0, 0.0] if flat else [float(stats.skew(values)), float(stats.kurtosis(values))]
    moments = [values.mean(), values.std(), *shape, float(stats.entropy(shares, base=2))]
    return np.concatenate([moments, np.percentile(values, PERCENTILES)])


def _cooccurrence(gray: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Takes Haralick's properties of how often two gray levels are so many pixels apart (IEEE SMC 1973)."""
    from skimage.feature import graycomatrix, graycoprops

    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    coarse = (gray // (256 // LEVELS)).astype(np.uint8)
    matrix = graycomatrix(coarse, DISTANCES, angles, levels=LEVELS, symmetric=True, normed=True)
    return np.concatenate([graycoprops(matrix, each).mean(axis=1) for each in PROPERTIES])


def _patterns(gray: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Counts uniform local binary patterns (Ojala et al., IEEE PAMI 2002), as shares of the pixels."""
    from skimage.feature import local_binary_pattern

    parts = []
    for points, radius in CIRCLES:
        codes = local_binary_pattern(gray, points, radius, method="uniform").astype(np.int64)
        parts.append(np.bincount(codes.ravel(), minlength=points + 2) / codes.size)
    return np.concatenate(parts)


class TextureSegmenter(nn.Module):
    """A linear layer on the texture around each pixel."""

    def __init__(self, weight: NDArray[np.float64], bias: NDArray[np.float64]) -> None:
        """Takes the layer: weight (L, F) and bias (L)."""
        super().__init__()
        self.layer, self.bias = weight, bias

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns logits, (B, L, S, S), of images from 0 to 1."""
        maps = [
            np.einsum("lf,fhw->lhw", self.layer, of_pixels(image)) + self.bias[:, None, None]
            for image in _images(inputs, colour=True)
        ]
        return torch.from_numpy(np.stack(maps)).float().to(inputs.device)


def compute(loader: Loader, folder: Path, digest: str, count: int) -> Features:
    """Describes all images, as a network would see them before normalization, and keeps what it found.

    Args:
        loader: of the cache; without normalization.
        folder: where the features lie when they are whole.
        digest: of what they are computed from.
        count: P; 0 for whole images.

    Raises:
        UserError: a feature is not a finite number.
    """
    if (found := read(folder, digest)) is not None:
        return found
    start, colour, size = time.perf_counter(), loader.cache.channels == 3, loader.size
    rows = np.arange(len(loader.keys))
    places = positions(loader.keys, count, size) if count else None
    loader.batch_size = BATCH
    values, targets = [], []
    for batch in loader.evaluate(rows, 1):
        images = _images(batch.inputs, colour)
        if places is None:
            values += [of_image(image) for image in images]
            continue
        at = places[batch.rows]
        values += [of_pixels(image).reshape(-1, size * size)[:, own].T for image, own in zip(images, at, strict=True)]
        targets.append(bits(batch.targets, at))
    kept = np.stack(values)
    if not np.isfinite(kept).all():
        raise UserError(f"texture of {int((~np.isfinite(kept)).any(axis=-1).sum())} images is no finite number")
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, NDArray[Any]] = {VALUES: kept} | ({BITS: np.concatenate(targets)} if targets else {})
    for name, array in arrays.items():
        with files.replacing(folder / name) as temporary, open(temporary, "wb") as stream:
            np.save(stream, array)
    parts = {name: files.sha256(folder / name) for name in arrays}
    whole = Manifest(digest=digest, parts=parts, seconds=round(time.perf_counter() - start, 3))
    files.write_text(folder / MANIFEST, json.dumps(asdict(whole), indent=1) + "\n")
    found = read(folder, digest)
    assert found is not None
    return found


def _images(inputs: Tensor, colour: bool) -> list[NDArray[np.uint8]]:
    """Turns inputs (B, 3, S, S) from 0 to 1 back into bytes; gray ones have three equal channels."""
    whole = (255 * inputs).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    return list(np.moveaxis(whole, 1, 3)) if colour else list(whole[:, 0])
