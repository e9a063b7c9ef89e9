"""What masks hold: their values, how many pixels have each, and whether these fill areas."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtransfer.data.images import formats, masks
from medtransfer.data.images.pixels import gate
from medtransfer.data.readers.reading import Marking, Picture

STEPS = 16
"""different values up to which masks are taken to be made of levels, not of soft edges"""

KEPT = 4096
"""different values of a mask that are told apart"""

NAMED = 8
"""values that a message names"""

Key = float | str
"""a stored value, or a colour `#rrggbb`"""


@dataclass
class Seen:
    """What masks hold that the same labels share."""

    pixels: Counter[Key] = field(default_factory=Counter)
    """value -> how many pixels have it"""
    files: Counter[Key] = field(default_factory=Counter)
    flat: Counter[Key] = field(default_factory=Counter)
    """value -> pixels amid others of the same value, as the inside of a region has and an edge has not"""
    patterns: set[tuple[Key, ...]] = field(default_factory=set)
    """the values of single files of few values"""
    lossy: bool = False
    masks: int = 0

    def add(self, other: Seen) -> None:
        """Takes another one's counts in."""
        for mine, theirs in ((self.pixels, other.pixels), (self.files, other.files), (self.flat, other.flat)):
            mine.update(theirs)
        self.patterns |= other.patterns
        self.lossy |= other.lossy
        self.masks += other.masks

    def words(self) -> str:
        """Lists the commonest values with their counts."""
        listed = [f"{written(v)} ({n} pixels in {self.files[v]} masks)" for v, n in self.pixels.most_common(NAMED)]
        more = f" and {len(self.pixels) - NAMED} other values" if len(self.pixels) > NAMED else ""
        return ", ".join(listed) + more


def look(picture: Picture, markings: tuple[Marking, ...], image: Picture) -> tuple[Seen, Seen] | None:
    """Counts the values of one mask, and those of its transparency; None where it cannot be read."""
    try:
        place = None
        if picture.path.name.lower().endswith((".nii", ".nii.gz")):  # which of its voxels count, the image says
            place = replace(formats.load(image), image=None, values=None, alpha=None)
        content = formats.load_mask(picture, place)
        plane = masks.plane(content, replace(markings[0], values=tuple(v for m in markings for v in m.values)))
        alpha = masks.layers(content)[1]
        seen = _count(plane, content.lossy), Seen()
        return (
            seen
            if alpha is None or alpha.min() == alpha.max() == masks.full(alpha)
            else (seen[0], _count(alpha, False))
        )
    except MemoryError:
        raise
    except Exception:  # decoding reads it again, and says why it cannot
        return None
    finally:
        gate.release()


def _count(values: NDArray[Any], lossy: bool) -> Seen:
    """Counts the values of one mask's pixels, and how many of them lie amid their like."""
    found, flat = _tally(values, rough=False)
    if len(found) > KEPT:
        found, flat = _tally(values if values.ndim == 2 else values.max(axis=2), rough=True)
    seen = Seen(found, Counter(dict.fromkeys(found, 1)), flat, lossy=lossy, masks=1)
    if len(found) <= STEPS and not lossy:
        seen.patterns.add(tuple(sorted(found, key=str)))
    return seen


def _tally(values: NDArray[Any], *, rough: bool) -> tuple[Counter[Key], Counter[Key]]:
    """Counts values, to three digits where they are `rough`, and those amid their like; stops where they are many."""
    found: Counter[Key] = Counter()
    flat: Counter[Key] = Counter()
    for rows in masks.bands(values.shape):
        halo = slice(max(0, rows.start - 1), rows.stop + 1)
        numbers = _numbers(values[halo], rough)
        own = numbers[rows.start - halo.start :][: rows.stop - rows.start]
        found.update(_keys(own, values.ndim == 3))
        if len(found) > KEPT and not rough:
            return found, flat
        if len(found) > 2:
            flat.update(_keys(_amid(numbers), values.ndim == 3))
    return found, flat


def _numbers(values: NDArray[Any], rough: bool) -> NDArray[Any]:
    """Writes colours as one number each, and what is no whole number to three digits: enough for soft edges."""
    if values.ndim == 3:
        wide = np.asarray(values).astype(np.int64)
        return np.asarray(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2])
    values = masks.snapped(values)
    if values.dtype.kind != "f" and not rough:
        return values
    scale = 10.0 ** (np.floor(np.log10(np.maximum(np.abs(values.astype(np.float64)), 1e-12))) - 2)
    digits = np.rint(values / scale) * scale
    return digits if rough else np.where(values == np.rint(values), values, digits)


def _keys(numbers: NDArray[Any], colours: bool) -> Counter[Key]:
    """Counts numbers; a colour that is a gray is that value."""
    if numbers.dtype == np.uint8:
        all_counts = np.bincount(numbers.ravel(), minlength=256)
        found, counts = np.flatnonzero(all_counts), all_counts[all_counts > 0]
    else:
        found, counts = np.unique(numbers, return_counts=True)
    keys = [colour_key(int(v)) for v in found] if colours else [float(f"{v:.6g}") for v in found]
    tally: Counter[Key] = Counter()
    for key, count in zip(keys, counts.tolist(), strict=True):
        tally[key] += count
    return tally


def colour_key(number: int) -> Key:
    """Writes 0xrrggbb as masks are counted: a colour that is a gray as that value."""
    text = f"#{number:06x}"
    return float(number & 255) if text[1:3] == text[3:5] == text[5:7] else text


def _amid(numbers: NDArray[Any]) -> NDArray[Any]:
    """Gives the values of the pixels whose eight neighbours have the same."""
    if min(numbers.shape) < 3:
        return numbers[:0].ravel()
    inner = numbers[1:-1, 1:-1]
    alike = np.ones(inner.shape, dtype=bool)
    rows, columns = inner.shape
    for down in (0, 1, 2):
        for right in (0, 1, 2):
            alike &= numbers[down : down + rows, right : right + columns] == inner
    return np.asarray(inner[alike])


def written(value: Key | int, quoted: bool = False) -> str:
    """Writes a value for messages, or, quoted, as `task.yaml` has it."""
    if isinstance(value, str):
        return f"'{value}'" if quoted else value
    return f"{value:g}"
