"""Leaks between splits: shared patients, identical images, and copies that were re-encoded, brightened or resized.

Arrays in, findings out; what a leak leads to is decided by `preparation`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import NotRequired, TypedDict

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
    """Two samples in different splits."""

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
    for a, b in _blocks(splits, block, every):
        product = found[a] @ found[b].T
        first, second = np.nonzero(product > NEAR)
        other = keys[a[first]] != keys[b[second]]
        first, second = first[other], second[other]
        count += len(first)
        order = np.argsort(-product[first, second], kind="stable")[:EXAMPLES]
        for i, j in zip(first[order], second[order], strict=True):
            pair = _pair(int(a[i]), int(b[j]), splits, ids)
            examples.append(Pair(**pair, correlation=round(float(product[i, j]), 4)))
        examples = sorted(examples, key=lambda pair: (-pair["correlation"], pair["a"], pair["b"]))[:EXAMPLES]
    return Finding(count=count, examples=examples)


def stride(splits: Strings) -> int:
    """Says which images `near` compares: every k-th, so that the time for millions of slices stays bearable."""
    sizes = [int((splits == name).sum()) for name in split_names(splits)]
    pairs = sum(a * b for a, b in combinations(sizes, 2))
    return max(1, math.ceil(math.sqrt(pairs / PAIRS)))


def _blocks(splits: Strings, block: int, every: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yields the row numbers of every block of every pair of different splits."""
    for one, two in combinations(split_names(splits), 2):
        left, right = np.flatnonzero(splits == one)[::every], np.flatnonzero(splits == two)[::every]
        for start in range(0, len(left), block):
            for other in range(0, len(right), block):
                yield left[start : start + block], right[other : other + block]


def features(thumbnails: NDArray[np.uint8], block: int = 512, scratch: Path | None = None) -> NDArray[np.float32]:
    """Turns thumbnails into unit vectors whose products are correlations: (num_images, 1024).

    Local contrast normalization makes a change of brightness or gamma harmless; without what all images share
    (a circular field of view, the shape of a chest), images of one kind stop resembling each other.
    """
    shape = (len(thumbnails), THUMBNAIL * THUMBNAIL)
    flat: NDArray[np.float32]
    if scratch is None:
        flat = np.empty(shape, dtype=np.float32)
    else:
        flat = np.memmap(scratch, dtype=np.float32, mode="w+", shape=shape)
    parts = [slice(start, start + block) for start in range(0, len(thumbnails), block)]
    total = np.zeros(shape[1])
    for rows in parts:
        flat[rows] = _local_contrast(thumbnails[rows].astype(np.float64)).reshape(-1, shape[1])
        total += flat[rows].sum(axis=0, dtype=np.float64)
    common = (total / max(1, len(thumbnails))).astype(np.float32)
    for rows in parts:
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
