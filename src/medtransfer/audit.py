"""Leaks between splits: shared patients, identical images, and copies that were re-encoded, brightened or resized.

Arrays in, findings out; what a leak leads to is decided by `preparation`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import IO, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

Strings = NDArray[np.str_]

SPLITS = ("train", "val", "test")
"""in the order in which a leak is dropped: a row gives way to a clashing row of a later split"""

THUMBNAIL = 32
"""pixels: side of the gray thumbnails that are compared"""

NEAR = 0.85
"""Correlation above which two images are near duplicates.

Measured on 616 chest X-rays and the 40 fundus images of DRIVE: different images of different patients reach at
most 0.67 and 0.50; copies with JPEG quality 20, brightness +30 or times 0.6 to 1.2, gamma 0.7 to 1.4 or size
times 0.5 to 1.3 keep at least 0.88. A crop of 2 % at every edge is no longer found (0.34 to 0.72).
"""

EXAMPLES = 20
"""pairs that a finding names"""

PAIRS = 2e10
"""pairs of images that are compared at most: minutes on a few cores"""

_RADIUS, _FLOOR = 2, 4.0  # thumbnail pixels; gray levels below which contrast is taken for noise


class Pair(TypedDict):
    """Two samples in different splits, or of different tasks."""

    a: str
    b: str
    splits: str
    correlation: NotRequired[float]


class Finding(TypedDict):
    """How many patients, images or pairs are in more than one split, and some of them."""

    count: int
    examples: list[Pair]


def _presence(keys: Strings, splits: Strings, names: Sequence[str]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Gives each row's key number, and which splits each key occurs in: (num_keys, num_splits)."""
    unique, number = np.unique(keys, return_inverse=True)
    present = np.zeros((len(unique), len(names)), dtype=bool)
    for column, split in enumerate(names):
        present[number[splits == split], column] = True
    return number, present


def split_names(splits: Strings) -> list[str]:
    """Lists the splits of a table (train, val and test, or folds); a row that was left out has none."""
    names = {str(name) for name in np.unique(splits) if name}
    return [name for name in SPLITS if name in names] + sorted(names - set(SPLITS))


def clashing(keys: Strings, splits: Strings) -> NDArray[np.bool_]:
    """Marks the rows whose key (a patient, an image's content) occurs in more than one split."""
    number, present = _presence(keys, splits, split_names(splits))
    clash: NDArray[np.bool_] = (present.sum(axis=1) > 1)[number]
    return clash


def giving_way(keys: Strings, splits: Strings) -> NDArray[np.bool_]:
    """Marks the rows that a drop takes out: train rows that clash with val or test, val rows that clash with test."""
    number, present = _presence(keys, splits, SPLITS)
    last = len(SPLITS) - 1 - np.argmax(present[:, ::-1], axis=1)
    own = np.array([SPLITS.index(split) if split else len(SPLITS) for split in splits], dtype=np.intp)
    drop: NDArray[np.bool_] = last[number] > own
    return drop


def shared(keys: Strings, splits: Strings, ids: Strings) -> Finding:
    """Counts the keys that occur in more than one split."""
    number, present = _presence(keys, splits, split_names(splits))
    clashes = np.flatnonzero(present.sum(axis=1) > 1)
    examples = []
    for key in clashes[:EXAMPLES]:
        rows = np.flatnonzero((number == key) & (splits != ""))
        other = rows[splits[rows] != splits[rows[0]]][0]
        examples.append(_pair(int(rows[0]), int(other), splits, ids))
    return Finding(count=len(clashes), examples=examples)


def _pair(a: int, b: int, splits: Strings, ids: Strings) -> Pair:
    return Pair(a=str(ids[a]), b=str(ids[b]), splits=f"{splits[a]}/{splits[b]}")


def near(
    thumbnails: NDArray[np.uint8],
    keys: Strings,
    splits: Strings,
    ids: Strings,
    block: int = 2048,
    scratch: Path | None = None,
) -> Finding:
    """Counts pairs of images in different splits that look the same and are not identical.

    Args:
        thumbnails: gray, (num_images, 32, 32).
        keys: each image's content; equal ones are exact duplicates and not counted here.
        splits: each image's split.
        ids: each image's name in the examples.
        block: rows of one matrix product.
        scratch: a file for what would else take 4 KB of memory per image.
    """
    found = features(thumbnails, scratch=scratch)
    every = stride(splits)
    count, examples = 0, list[Pair]()
    for one, two in combinations(split_names(splits), 2):
        left, right = np.flatnonzero(splits == one)[::every], np.flatnonzero(splits == two)[::every]
        for first, second, correlation in alike(found, left, right, block):
            other = keys[first] != keys[second]
            count += int(other.sum())
            examples = closest(examples, first[other], second[other], correlation[other], ids, f"{one}/{two}")
    return Finding(count=count, examples=examples)


def alike(
    found: NDArray[np.float32], left: NDArray[np.intp], right: NDArray[np.intp], block: int = 2048
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]]:
    """Yields, block by block, all pairs of a left and a right row that look the same, with their correlation.

    Args:
        found: `features`.
        left: row numbers, as is `right`.
        right: what they are compared with.
        block: rows of one matrix product, which bounds the memory.
    """
    for start in range(0, len(left), block):
        a = left[start : start + block]
        rows = found[a]
        for other in range(0, len(right), block):
            b = right[other : other + block]
            product = rows @ found[b].T
            first, second = np.nonzero(product > NEAR)
            yield a[first], b[second], product[first, second]


def closest(
    examples: Sequence[Pair],
    first: NDArray[np.intp],
    second: NDArray[np.intp],
    correlation: NDArray[np.float32],
    ids: Strings,
    splits: str,
) -> list[Pair]:
    """Adds pairs of rows to the examples and keeps those that look most alike; the order of blocks leaves no trace."""
    best = np.argsort(-correlation, kind="stable")[:EXAMPLES]
    more = [
        Pair(a=str(ids[i]), b=str(ids[j]), splits=splits, correlation=round(float(value), 4))
        for i, j, value in zip(first[best], second[best], correlation[best], strict=True)
    ]
    return sorted([*examples, *more], key=lambda pair: (-pair["correlation"], pair["a"], pair["b"]))[:EXAMPLES]


def stride(splits: Strings) -> int:
    """Says which images `near` compares: every k-th, so that the time for millions of slices stays bearable."""
    sizes = [int((splits == name).sum()) for name in split_names(splits)]
    pairs = sum(a * b for a, b in combinations(sizes, 2))
    return max(1, math.ceil(math.sqrt(pairs / PAIRS)))


def features(
    *thumbnails: NDArray[np.uint8], block: int = 512, scratch: Path | IO[bytes] | None = None
) -> NDArray[np.float32]:
    """Turns thumbnails into unit vectors whose products are correlations: (num_images, 1024).

    Several arrays are one set of images, in their order, and are never joined in memory.

    Local contrast normalization makes a change of brightness or gamma harmless; without what all images share
    (a circular field of view, the shape of a chest), images of one kind stop resembling each other.
    """
    shape = (sum(map(len, thumbnails)), THUMBNAIL * THUMBNAIL)
    flat: NDArray[np.float32]
    if scratch is None:
        flat = np.empty(shape, dtype=np.float32)
    else:
        flat = np.memmap(scratch, dtype=np.float32, mode="w+", shape=shape)
    total, done = np.zeros(shape[1]), 0
    for images in (part[start : start + block] for part in thumbnails for start in range(0, len(part), block)):
        rows = slice(done, done + len(images))
        flat[rows] = _local_contrast(images.astype(np.float64)).reshape(-1, shape[1])
        total += flat[rows].sum(axis=0, dtype=np.float64)
        done += len(images)
    common = (total / max(1, shape[0])).astype(np.float32)
    for rows in (slice(start, start + block) for start in range(0, shape[0], block)):
        part = flat[rows] - common
        part -= part.mean(axis=1, keepdims=True)
        norm = np.linalg.norm(part, axis=1, keepdims=True)
        # What is left of images that are all alike is rounding noise, which must not correlate.
        flat[rows] = part * np.where(norm > 1e-3, 1 / np.maximum(norm, 1e-3), 0)
    return flat


def _local_contrast(images: NDArray[np.float64]) -> NDArray[np.float64]:
    detail = images - _box_mean(images)
    contrast: NDArray[np.float64] = detail / np.sqrt(_box_mean(detail**2) + _FLOOR**2)
    return contrast


def _box_mean(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Averages over a square window, edges repeated, by running sums."""
    side = 2 * _RADIUS + 1
    padded = np.pad(images, ((0, 0), (_RADIUS, _RADIUS), (_RADIUS, _RADIUS)), mode="edge")
    sums = np.pad(padded, ((0, 0), (1, 0), (1, 0))).cumsum(axis=1).cumsum(axis=2)
    window = sums[:, side:, side:] - sums[:, :-side, side:] - sums[:, side:, :-side] + sums[:, :-side, :-side]
    mean: NDArray[np.float64] = window / side**2
    return mean
