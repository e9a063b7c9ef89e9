"""Laying one picture on another by an affine map, and how alike the two are there (Lucas and Kanade, IJCAI 1981).

Pictures reach from -1 to 1 in both directions; a map, (2, 3), says where each of its points is taken from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_FLOOR = 4.0  # gray levels below which contrast is taken for noise
_OVERLAP = 0.45  # share of an image that must lie on the other


def shrunk(images: NDArray[Any], side: int) -> Floats:
    """Averages square images, (num_images, old, old), down to a side that divides theirs."""
    step = images.shape[1] // side
    return np.asarray(images.reshape(len(images), side, step, side, step).mean(axis=(2, 4), dtype=np.float32))


def local_contrast(images: Floats, radius: int) -> Floats:
    """Takes the local mean away and divides by the local contrast, so that brightness and gamma do no harm."""
    values = images.astype(np.float64)  # running sums of squares lose too much in single precision
    detail = values - _box_mean(values, radius)
    return np.asarray(detail / np.sqrt(_box_mean(detail**2, radius) + _FLOOR**2), dtype=np.float32)


def _box_mean(images: NDArray[np.float64], radius: int) -> NDArray[np.float64]:
    """Averages over a square window, edges repeated, by running sums."""
    side = 2 * radius + 1
    padded = np.pad(images, ((0, 0), (radius, radius), (radius, radius)), mode="edge")
    sums = np.pad(padded, ((0, 0), (1, 0), (1, 0))).cumsum(axis=1).cumsum(axis=2)
    window = sums[:, side:, side:] - sums[:, :-side, side:] - sums[:, side:, :-side] + sums[:, :-side, :-side]
    mean: NDArray[np.float64] = window / side**2
    return mean


def _grid(side: int) -> Floats:
    """Gives the points of a picture from -1 to 1 and a one, (3, side * side)."""
    line = (np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1
    down, across = np.meshgrid(line, line, indexing="ij")
    return np.stack([across.ravel(), down.ravel(), np.ones(side * side, dtype=np.float32)])


def seen_through(images: Floats, maps: Floats) -> Floats:
    """Shows each image through its map; what lies outside is its edge."""
    return _sample([images], maps @ _grid(images.shape[1]))[0].reshape(images.shape)


def _sample(images: Sequence[Floats], points: NDArray[np.float32]) -> list[Floats]:
    """Reads images, (num_images, side, side) each, bilinearly at their points, (num_images, 2, num_points)."""
    side = images[0].shape[1]
    place = np.clip((points + 1) * (side / 2) - 0.5, 0, side - 1.001)
    corner = place.astype(np.int32)
    x, y = place[:, 0] - corner[:, 0], place[:, 1] - corner[:, 1]
    start = np.arange(len(points), dtype=np.int32)[:, None] * side**2 + corner[:, 1] * side + corner[:, 0]
    read = []
    for image in images:
        flat = np.ascontiguousarray(image).ravel()
        top = flat[start] * (1 - x) + flat[start + 1] * x
        below = flat[start + side] * (1 - x) + flat[start + side + 1] * x
        read.append(top * (1 - y) + below * y)
    return read


def _inside(points: Floats) -> Floats:
    return np.asarray((np.abs(points) <= 1).all(axis=1), dtype=np.float32)


def align(a: Floats, b: Floats, maps: Floats, steps: int) -> Floats:
    """Moves each map, (num_pairs, 2, 3), to where b at the mapped points correlates most with a, by Gauss-Newton."""
    count, side, _ = a.shape
    grid, flat = _grid(side), a.reshape(count, -1)
    down, across = (slope.astype(np.float32) * (side / 2) for slope in np.gradient(b, axis=(1, 2)))
    best, found, now = np.full(count, -2, dtype=np.float32), maps.copy(), maps.copy()
    for step in range(steps + 1):
        points = now @ grid
        inside = _inside(points)
        values, dx, dy = _sample([b, across, down], points)
        share = inside.sum(axis=1, keepdims=True)
        weight = inside / np.maximum(share, 1)
        one = (flat - (flat * weight).sum(axis=1, keepdims=True)) * inside
        two = (values - (values * weight).sum(axis=1, keepdims=True)) * inside
        one /= np.linalg.norm(one, axis=1, keepdims=True) + 1e-6
        length = np.linalg.norm(two, axis=1, keepdims=True) + 1e-6
        two /= length
        correlation = np.where(share[:, 0] > _OVERLAP * side**2, (one * two).sum(axis=1), -1)
        better = correlation > best
        best[better], found[better] = correlation[better], now[better]
        if step == steps:
            break
        dx, dy = dx * inside / length, dy * inside / length
        slopes = np.stack([dx * grid[0], dx * grid[1], dx, dy * grid[0], dy * grid[1], dy], axis=1)
        slopes -= (slopes @ two[:, :, None]) * two[:, None, :]  # the length of b changes with the map as well
        normal = slopes @ slopes.transpose(0, 2, 1) + 1e-4 * np.eye(6, dtype=np.float32)
        move = np.linalg.solve(normal, slopes @ (one - two)[:, :, None])[:, :, 0]
        move *= np.minimum(1, 0.15 / np.maximum(np.abs(move).max(axis=1, keepdims=True), 1e-9))
        now = now + move.reshape(count, 2, 3).astype(np.float32)
    return found


def likeness_of(a: Floats, b: Floats, common: Floats, maps: Floats) -> Floats:
    """Correlates a with b at the mapped points, without what the common picture explains here and there."""
    count, side, _ = a.shape
    points = maps @ _grid(side)
    inside = _inside(points)
    values, there = _sample([b, np.broadcast_to(common, b.shape)], points)
    shared = np.stack([inside, np.broadcast_to(common.ravel(), inside.shape) * inside, there * inside], axis=2)
    gram = shared.transpose(0, 2, 1) @ shared + 1e-3 * np.eye(3, dtype=np.float32)

    def rest(picture: Floats) -> Floats:
        picture = picture * inside
        explained: Floats = (shared @ np.linalg.solve(gram, shared.transpose(0, 2, 1) @ picture[:, :, None]))[:, :, 0]
        return picture - explained

    one, two = rest(a.reshape(count, -1)), rest(values)
    length = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    # What is left of images that are all alike is rounding noise, which must not correlate.
    return np.asarray(np.where(length > 1e-2, (one * two).sum(axis=1) / np.maximum(length, 1e-2), 0), dtype=np.float32)
