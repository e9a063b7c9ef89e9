"""Pairs of images that show the same picture: re-encoded, brightened, resized, cropped, turned, mirrored, inverted.

Thumbnails in, pairs out, in two steps. A coarse descriptor of each thumbnail, and of its turned, mirrored, inverted,
cropped and tilted versions, names for every image the few that resemble it most; each of these is then laid on it by
an affine map (Lucas and Kanade, IJCAI 1981) and compared in detail. What all images of a set share (the shape of a
chest, a circular field of view) counts in neither step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medtransfer.data.alignment import Floats, align, likeness_of, local_contrast, seen_through, shrunk
from medtransfer.data.overlap import EXAMPLES, Finding, Pair, Strings, split_names

THUMBNAIL = 64
"""pixels: side of the gray thumbnails that are compared"""

NEAR = 0.70
"""Likeness above which two images are near duplicates: the correlation of their details, one laid on the other.

Measured by `python -m tests.copies` on 616 chest X-rays of 418 patients and the 40 fundus images of DRIVE; the table
is in docs/data.md.
"""

ALWAYS = 0.90
"""likeness above which they are so in any set: where all images resemble one another, as drawn ones do, changed copies
cannot be told from them and only such count"""

FEWEST = 20
"""pairs that must resemble one another before they say anything of their set"""

PAIRS = 4e9
"""pairs of images that are looked through at most: minutes on a few cores"""

CANDIDATES = 5
"""images that are laid on each image, those that resemble it most"""

LAID = 150_000
"""pairs that are laid on each other at most; of large sets fewer candidates are taken of each image"""

_DIMENSIONS = 128
_COARSE = 16  # pixels: side of the descriptor's image
_BORDER = 12  # gray levels that a border may vary by
_LEVELS = ((16, 2, 8, 0.25), (32, 3, 6, 0.45), (64, 3, 3, 0.0))  # side, radius, steps, likeness below which one stops
_BLOCK = 256


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """Shrinks an image to a square gray thumbnail of what is in it, without a uniform border."""
    wide = THUMBNAIL * 4
    gray = image.resize((wide, wide), Image.Resampling.BILINEAR, reducing_gap=2.0).convert("L")
    values = np.asarray(gray)
    (left, right), (top, bottom) = (_filled(np.ptp(values, axis=axis) > _BORDER) for axis in (0, 1))
    return np.asarray(gray.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR, box=(left, top, right, bottom)))


def _filled(varied: NDArray[np.bool_]) -> tuple[int, int]:
    """Says where the columns, or rows, that are not uniform begin and end; all, where nearly all are uniform."""
    inside = np.flatnonzero(varied)
    if not len(inside) or inside[-1] + 1 - inside[0] < len(varied) // 4:
        return 0, len(varied)
    return int(inside[0]), int(inside[-1]) + 1


def near(
    thumbnails: NDArray[np.uint8], keys: Strings, splits: Strings, ids: Strings
) -> tuple[Finding, NDArray[np.bool_]]:
    """Counts pairs of images in different splits that show the same picture and are not identical.

    Args:
        thumbnails: (num_images, 64, 64).
        keys: each image's content; equal ones are exact duplicates and not counted here.
        splits: each image's split.
        ids: each image's name in the examples.

    Returns:
        The finding, and which images one drops for it, (num_images,): of each pair that of the earlier split.
    """
    every, drop = stride(splits), np.zeros(len(ids), dtype=bool)
    count, examples = 0, list[Pair]()
    names = split_names(splits)
    parts = [np.flatnonzero(splits == name)[::every] for name in names]
    looks = Looks(thumbnails)
    laid = [
        looks.laid(parts[number - 1], np.concatenate(parts[number:]))  # each against all later splits
        for number in range(1, len(names))
    ]
    if laid:
        first, second, likeness = (np.concatenate(some) for some in zip(*laid, strict=True))
        same = (likeness > limit(first, likeness)) & (keys[first] != keys[second])
        first, second, likeness = first[same], second[same], likeness[same]
        count = len(first)
        drop[first] = True
        for one, two in combinations(names, 2):
            rows = (splits[first] == one) & (splits[second] == two)
            examples = closest(examples, first[rows], second[rows], likeness[rows], ids, f"{one}/{two}")
    return Finding(count=count, examples=examples), drop


def limit(first: NDArray[np.intp], likeness: Floats) -> float:
    """Says what likeness makes two images of a set near duplicates: `NEAR`, more where all of them resemble another.

    Args:
        first: the image of each pair that others were laid on; its closest may be a copy and says nothing of the rest.
        likeness: of each pair; -1: given up.
    """
    rows, number = np.unique(first, return_inverse=True)
    closest_of = np.full(len(rows), -1, dtype=np.float32)
    np.maximum.at(closest_of, number, likeness)
    compared = likeness[(likeness > -1) & (likeness < closest_of[number])]
    if len(compared) < FEWEST:
        return NEAR
    lower, middle = np.quantile(compared, (0.25, 0.5))
    return float(np.clip(middle + 5 * (middle - lower) / 0.6745, NEAR, ALWAYS))  # five std above the middle


def stride(splits: Strings) -> int:
    """Says which images `near` compares: every k-th, so that the time for millions of slices stays bearable."""
    sizes = [int((splits == name).sum()) for name in split_names(splits)]
    pairs = sum(a * b for a, b in combinations(sizes, 2))
    return max(1, math.ceil(math.sqrt(pairs / PAIRS)))


def closest(
    examples: Sequence[Pair],
    first: NDArray[np.intp],
    second: NDArray[np.intp],
    likeness: Floats,
    ids: Strings,
    splits: str,
) -> list[Pair]:
    """Adds pairs of rows to the examples and keeps those that look most alike; the order of blocks leaves no trace."""
    best = np.argsort(-likeness, kind="stable")[:EXAMPLES]
    more = [
        Pair(a=str(ids[i]), b=str(ids[j]), splits=splits, correlation=round(float(value), 4))
        for i, j, value in zip(first[best], second[best], likeness[best], strict=True)
    ]
    return sorted([*examples, *more], key=lambda pair: (-pair["correlation"], pair["a"], pair["b"]))[:EXAMPLES]


class Looks:
    """The thumbnails of one set of images, and what they have in common."""

    def __init__(self, *thumbnails: NDArray[np.uint8]) -> None:
        """Describes a set; several arrays are one set, in their order, and are never joined in memory.

        Args:
            thumbnails: (num_images, 64, 64), also memory-mapped.
        """
        self.arrays, self.starts = thumbnails, np.cumsum([0, *map(len, thumbnails)])
        count = int(self.starts[-1])
        total = [np.zeros((side, side)) for side, *_ in _LEVELS]
        sums, squares = np.zeros(_COARSE**2), np.zeros((_COARSE**2, _COARSE**2))
        for rows in _blocks(np.arange(count)):
            some = self.pick(rows)
            for mean, level in zip(total, _details(some), strict=True):
                mean += level.sum(axis=0, dtype=np.float64)
            coarse = _described(some).astype(np.float64)
            sums += coarse.sum(axis=0)
            squares += coarse.T @ coarse
        self.common = [(mean / max(1, count)).astype(np.float32) for mean in total]
        center = sums / max(1, count)
        spread, axes = np.linalg.eigh(squares / max(1, count) - np.outer(center, center))
        spread, axes = np.maximum(spread[::-1][:_DIMENSIONS], 0), axes[:, ::-1][:, :_DIMENSIONS]
        # Halfway to white: what varies most between different images says least of whether two are one.
        scale = (spread + 0.05 * spread.mean() + 1e-6) ** -0.25
        self.axes, self.origin = (axes * scale).astype(np.float32), center.astype(np.float32)

    def pick(self, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Gives some of the thumbnails, (num_rows, 64, 64)."""
        part = np.searchsorted(self.starts, rows, side="right") - 1
        picked = np.empty((len(rows), THUMBNAIL, THUMBNAIL), dtype=np.uint8)
        for number, array in enumerate(self.arrays):
            mine = part == number
            picked[mine] = array[rows[mine] - self.starts[number]]
        return picked

    def describe(self, thumbnails: NDArray[Any], signs: NDArray[np.int_]) -> Floats:
        """Turns thumbnails, with sign -1 their negatives, into unit vectors whose products are likenesses."""
        found = (signs * _described(thumbnails) - self.origin) @ self.axes
        norm = np.linalg.norm(found, axis=1, keepdims=True)
        return np.asarray(found * np.where(norm > 1e-3, 1 / np.maximum(norm, 1e-3), 0), dtype=np.float32)

    def alike(
        self, left: NDArray[np.intp], right: NDArray[np.intp]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
        """Finds the pairs of a left and a right row that show the same picture, and their likeness.

        Args:
            left: row numbers, as is `right`.
            right: what they are compared with.
        """
        first, second, likeness = self.laid(left, right)
        same = likeness > limit(first, likeness)
        return first[same], second[same], likeness[same]

    def laid(
        self, left: NDArray[np.intp], right: NDArray[np.intp]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
        """Gives for each left row the right rows that resemble it most, and how much; -1: not at all."""
        none = np.empty(0, dtype=np.intp)
        found = [(none, none, np.empty(0, dtype=np.float32))]
        if len(left) and len(right):
            most = min(int(np.clip(LAID // len(left), 1, CANDIDATES)), len(right))
            plain = [(view, 1) for view in (IDENTITY, *CROPS)]
            versions = np.concatenate([self._described_all(rows, plain) for rows in _blocks(right)], axis=1)
            for rows in _blocks(left):
                first, second, views = self._candidates(rows, right, versions, most)
                found += [
                    (first[part], second[part], self._lay(first[part], second[part], views[part]))
                    for part in _blocks(np.arange(len(first)))
                ]
        firsts, seconds, values = zip(*found, strict=True)
        return np.concatenate(firsts), np.concatenate(seconds), np.concatenate(values)

    def _described_all(self, rows: NDArray[np.intp], views: Sequence[tuple[Floats, int]]) -> Floats:
        """Describes rows through views, with their signs, in one go: (num_views, num_rows, num_dimensions)."""
        own = shrunk(self.pick(rows), 2 * _COARSE)
        maps = np.repeat(np.stack([view for view, _ in views]), len(rows), axis=0)
        signs = np.repeat([sign for _, sign in views], len(rows))[:, None]
        seen = seen_through(np.tile(own, (len(views), 1, 1)), maps)
        return self.describe(seen, signs).reshape(len(views), len(rows), -1)

    def _candidates(
        self, rows: NDArray[np.intp], right: NDArray[np.intp], versions: Floats, most: int
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
        """Names for each row the right rows that resemble it most, and the view that showed it."""
        best = np.full((len(rows), len(right)), -1, dtype=np.float32)
        views = np.zeros(best.shape, dtype=np.uint8)
        shown = self._described_all(rows, [(view, sign) for view, sign, side in VIEWS if side <= 0])
        others = iter(shown[1:])
        for number, (_, _, side) in enumerate(VIEWS):
            mine = shown[0] if side >= 0 else next(others)
            product = mine @ versions[max(side, 0)].T
            better = product > best
            best[better], views[better] = product[better], number
        chosen = np.argpartition(-best, most - 1, axis=1)[:, :most]
        first = np.repeat(rows, most)
        return first, right[chosen.ravel()], np.take_along_axis(views, chosen, axis=1).ravel().astype(np.intp)

    def _lay(self, first: NDArray[np.intp], second: NDArray[np.intp], views: NDArray[np.intp]) -> Floats:
        """Lays pairs on each other, from coarse to fine, and gives the likeness of each; -1: given up on the way."""
        one, two = _details(self.pick(first)), _details(self.pick(second))
        maps, signs = STARTS[views], SIGNS[views]
        likeness = np.full(len(first), -1, dtype=np.float32)
        going = np.arange(len(first))
        for level, (_, _, steps, least) in enumerate(_LEVELS):
            a, b = one[level][going], two[level][going] * signs[going, None, None]
            maps[going] = align(a, b, maps[going], steps)
            found = likeness_of(a, b, self.common[level], maps[going])
            if level + 1 == len(_LEVELS):
                likeness[going] = found
            going = going[found > least]
            if not len(going):
                break
        return likeness


def _view(across: float = 1, down: float = 1, degrees: float = 0, x: float = 0, y: float = 0) -> Floats:
    """Makes an affine map, (2, 3), of a picture that reaches from -1 to 1: where each of its points is taken from."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[across * cosine, -across * sine, x], [down * sine, down * cosine, y]], dtype=np.float32)


def _inverse(view: Floats) -> Floats:
    turned = np.linalg.inv(view[:, :2])
    return np.concatenate([turned, -turned @ view[:, 2:]], axis=1).astype(np.float32)


IDENTITY = _view()
CROPS = [_view(scale, scale) for scale in (0.9, 0.8, 0.7)] + [
    _view(**{size: 1 - part, place: end * part})
    for part in (0.08, 0.18)
    for size, place in (("across", "x"), ("down", "y"))
    for end in (1, -1)
]
"""cut at all sides, or at one"""
TILTS = [_view(1.05, 1.05, degrees) for degrees in (-12, -6, 6, 12)]
TURNS = [
    np.array(rows, dtype=np.float32)
    for a in (1, -1)
    for b in (1, -1)
    for rows in ([[a, 0, 0], [0, b, 0]], [[0, a, 0], [b, 0, 0]])
]
"""the eight ways to lay a square on itself, mirrored or not; the first leaves it as it is"""

VIEWS: list[tuple[Floats, int, int]] = (
    [(IDENTITY, 1, 0)]
    + [(view, 1, number) for number, view in enumerate(CROPS, start=1)]
    + [(view, 1, -1) for view in CROPS + TILTS + TURNS[1:]]
    + [(view, -1, -1) for view in TURNS]
)
"""how a copy may have been made, its sign (-1: inverted), and which version of the right image shows it; -1: a version
of the left one"""

STARTS = np.stack([view if side >= 0 else _inverse(view) for view, _, side in VIEWS])
"""(num_views, 2, 3): where in the right image a point of the left one lies"""
SIGNS = np.array([sign for _, sign, _ in VIEWS], dtype=np.float32)


def _blocks(rows: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    return (rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK))


def _described(thumbnails: NDArray[Any]) -> Floats:
    return local_contrast(shrunk(thumbnails, _COARSE), 3).reshape(len(thumbnails), -1)


def _details(thumbnails: NDArray[np.uint8]) -> list[Floats]:
    return [local_contrast(shrunk(thumbnails, side), radius) for side, radius, *_ in _LEVELS]
