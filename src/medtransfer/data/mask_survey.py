"""A look at all masks of a task before work starts: what they hold, and which of it is a label's region."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.errors import UserError
from medtransfer.core.progress import bar
from medtransfer.data.images import formats, masks
from medtransfer.data.images.pixels import gate
from medtransfer.data.readers.reading import Marking, Picture, Sample
from medtransfer.data.tasks import Task

SHARE = 0.5
"""of the largest difference from the background, above which a pixel of a mask with soft edges counts"""

DARK, BRIGHT = 1 / 8, 7 / 8
"""shares of that difference up to which a value is the background's, and from which it is the region's"""

STEPS = 16
"""different values up to which masks are taken to be made of levels, not of soft edges"""

KEPT = 4096
"""different values of a mask that are told apart"""

NAMED = 8
"""values that a message names"""

Key = float | str
"""a stored value, or a colour `#rrggbb`"""


@dataclass
class _Seen:
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

    def add(self, other: _Seen) -> None:
        """Takes another one's counts in."""
        for mine, theirs in ((self.pixels, other.pixels), (self.files, other.files), (self.flat, other.flat)):
            mine.update(theirs)
        self.patterns |= other.patterns
        self.lossy |= other.lossy
        self.masks += other.masks

    def words(self) -> str:
        """Lists the commonest values with their counts."""
        listed = [f"{_written(v)} ({n} pixels in {self.files[v]} masks)" for v, n in self.pixels.most_common(NAMED)]
        more = f" and {len(self.pixels) - NAMED} other values" if len(self.pixels) > NAMED else ""
        return ", ".join(listed) + more


@dataclass
class _Group:
    """Masks that the same labels share, seen by their colours or values and by their transparency."""

    labels: tuple[str, ...]
    markings: tuple[Marking, ...]
    plain: _Seen = field(default_factory=_Seen)
    alpha: _Seen = field(default_factory=_Seen)


def settle(task: Task, samples: Sequence[Sample], workers: int) -> tuple[list[Sample], dict[str, str]]:
    """Looks at every mask and settles which of its pixels are the region.

    Masks that cannot be read are passed over: decoding names them.

    Args:
        task: its labels, and what its `task.yaml` allows.
        samples: in any order.
        workers: threads that read.

    Returns:
        The samples with their masks' markings, and label -> words that say how its masks are read.

    Raises:
        UserError: masks contradict what `task.yaml` says of them, or can be read in more than one way.
    """
    uses: dict[tuple[Any, ...], list[tuple[str, Picture]]] = {}
    images: dict[tuple[Any, ...], Picture] = {}
    for sample in samples:
        for label, mask in _named(task, sample):
            key = (mask.path, mask.frame, mask.member)
            uses.setdefault(key, []).append((label, mask))
            images.setdefault(key, sample.image)
    groups: dict[tuple[tuple[str, ...], tuple[Marking, ...]], _Group] = {}
    with bar(f"looking at the masks of {task.name}", len(uses)) as advance, ThreadPoolExecutor(workers) as pool:
        kinds = [(tuple(label for label, _ in use), tuple(mask.marking for _, mask in use)) for use in uses.values()]
        first = [use[0][1] for use in uses.values()]
        looks = pool.map(_look, first, [kind[1] for kind in kinds], images.values())
        for kind, look in zip(kinds, looks, strict=True):
            advance()
            if look is not None:
                group = groups.setdefault(kind, _Group(*kind))
                group.plain.add(look[0])
                group.alpha.add(look[1])
    settled: dict[tuple[str, Marking, tuple[str, ...]], Marking] = {}
    words: dict[str, str] = {}
    for (labels, markings), group in groups.items():
        found = _decide(task, group)
        for label, marking, (result, said) in zip(labels, markings, found, strict=True):
            settled[label, marking, labels] = result
            words.setdefault(label, said)
    sharing = {key: tuple(label for label, _ in use) for key, use in uses.items()}

    def mark(label: str, mask: Picture) -> Picture:
        labels = sharing[mask.path, mask.frame, mask.member]
        return replace(mask, marking=settled.get((label, mask.marking, labels), mask.marking))

    marked = [
        replace(
            sample,
            masks=tuple(
                tuple(mark(n, m) if isinstance(m, Picture) else m for m in part)
                for n, part in zip(task.labels, sample.masks, strict=True)
            ),
            extras={name: mark(name, mask) for name, mask in sample.extras.items()},
        )
        for sample in samples
    ]
    return marked, words


def _named(task: Task, sample: Sample) -> list[tuple[str, Picture]]:
    """Lists a sample's mask files with the label, or the extra, that each is of."""
    of_labels: list[tuple[str, Any]] = [
        (label, mask) for label, part in zip(task.labels, sample.masks, strict=True) for mask in part
    ]
    return [(name, mask) for name, mask in (*of_labels, *sample.extras.items()) if isinstance(mask, Picture)]


def _look(picture: Picture, markings: tuple[Marking, ...], image: Picture) -> tuple[_Seen, _Seen] | None:
    """Counts the values of one mask, and those of its transparency; None where it cannot be read."""
    try:
        place = None
        if picture.path.name.lower().endswith((".nii", ".nii.gz")):  # which of its voxels count, the image says
            place = replace(formats.load(image), image=None, values=None, alpha=None)
        content = formats.load_mask(picture, place)
        plane = masks.plane(content, replace(markings[0], values=tuple(v for m in markings for v in m.values)))
        alpha = masks.layers(content)[1]
        seen = _count(plane, content.lossy), _Seen()
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


def _count(values: NDArray[Any], lossy: bool) -> _Seen:
    """Counts the values of one mask's pixels, and how many of them lie amid their like."""
    found, flat = _tally(values, rough=False)
    if len(found) > KEPT:
        found, flat = _tally(values if values.ndim == 2 else values.max(axis=2), rough=True)
    seen = _Seen(found, Counter(dict.fromkeys(found, 1)), flat, lossy=lossy, masks=1)
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
    keys = [_colour(int(v)) for v in found] if colours else [float(f"{v:.6g}") for v in found]
    tally: Counter[Key] = Counter()
    for key, count in zip(keys, counts.tolist(), strict=True):
        tally[key] += count
    return tally


def _colour(number: int) -> Key:
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


# What they say


def _decide(task: Task, group: _Group) -> list[tuple[Marking, str]]:
    """Settles the markings of labels that share masks.

    Raises:
        UserError: they contradict what was said, or can be read in more than one way.
    """
    seen, by_alpha = group.plain, False
    if len(seen.pixels) == 1 and len(group.alpha.pixels) > 1:  # one colour, drawn by its opacity
        seen, by_alpha = group.alpha, True
    names = " and ".join(group.labels)
    if any(marking.values for marking in group.markings):
        _check_values(task, group, seen, names, "opacity" if by_alpha else "value")
        words = "pixels of {}" + (" in the transparency" if by_alpha else "")
        return [
            (replace(m, alpha=by_alpha), words.format(", ".join(_written(value) for value in m.values)))
            for m in group.markings
        ]
    return [_cut(task, label, m, seen, by_alpha) for label, m in zip(group.labels, group.markings, strict=True)]


def _check_values(task: Task, group: _Group, seen: _Seen, names: str, what: str) -> None:
    said = {label: marking.values for label, marking in zip(group.labels, group.markings, strict=True)}
    background = {_key(value) for marking in group.markings for value in marking.background}
    wanted = {_key(value) for values in said.values() for value in values}
    absent = [
        (label, value)
        for label, values in said.items()
        for value in values
        if _key(value) not in seen.pixels and label not in _allowed(task, "allow_empty")
    ]
    strange = Counter({v: n for v, n in seen.pixels.items() if v not in wanted | background})
    if not absent and not strange:
        return
    parts = [f"{label} is said to be {_written(value)}, which no mask holds" for label, value in absent[:NAMED]]
    if strange:
        listed = ", ".join(
            f"{_written(v)} ({n} pixels in {seen.files[v]} masks)" for v, n in strange.most_common(NAMED)
        )
        parts.append(f"no label names {listed}{' and more' if len(strange) > NAMED else ''}")
    raise UserError(
        f"task {task.name}: the masks of {names} contradict `values`: {'; '.join(parts)}. By {what} the"
        f" {seen.masks} masks hold {seen.words()}. {_fitting(group, seen, list(strange), [n for n, _ in absent])}"
    )


def _fitting(group: _Group, seen: _Seen, strange: list[Key], absent: list[str]) -> str:
    """Words the reading that would fit."""
    advice = []
    if absent and len(group.labels) == 1 and len(seen.pixels) == 2 and len(strange) == 1:
        label = group.labels[0]
        advice.append(f"`values: {{{label}: {_written(strange[0], quoted=True)}}}`, or no `values`, fits")
    elif seen.lossy or len(seen.pixels) > STEPS:
        advice.append(
            "Values between those that were drawn come from lossy compression or from resampling: save the masks as"
            " PNG, resampled by nearest neighbour" + (", or leave out `values`" if len(group.labels) == 1 else "")
        )
    elif strange:
        others = [] if any(isinstance(value, str) for value in strange) else [0]
        ground = [_written(v, quoted=True) for v in [*others, *strange]]
        advice.append(
            "Name them among `values` (`label: [1, 2]` takes several), or, if they belong to no label, say"
            f" `background: [{', '.join(ground[: NAMED + 1])}]`"
        )
    if absent:
        advice.append(f"If nothing of it is to be expected, say `allow_empty: [{', '.join(dict.fromkeys(absent))}]`")
    return "; ".join(advice) + " in task.yaml"


def _cut(task: Task, label: str, marking: Marking, seen: _Seen, by_alpha: bool) -> tuple[Marking, str]:
    """Settles the difference from the background above which a pixel counts."""
    ground = marking.background[0]
    far = {value: _far(value, ground) for value in seen.pixels}
    top = max(far.values(), default=0.0)
    where = f"task {task.name}: the masks of {label}"
    if top == 0:
        if label not in _allowed(task, "allow_empty"):
            raise UserError(
                f"{where} hold nothing but {seen.words()}: the label is empty in all {seen.masks}; mend the column or"
                f" the masks, or, if that is right, say `allow_empty: [{label}]` in task.yaml"
            )
        return replace(marking, alpha=by_alpha), "empty"
    share = SHARE if marking.threshold is None else marking.threshold
    if marking.threshold is None:
        _require_two_sides(where, label, marking, seen, far, top)
    settled = replace(marking, cut=share * top, alpha=by_alpha)
    said = f"more than {share:g} of the largest difference, {top:g}, from {_written(ground)}"
    return settled, said + (", by opacity" if by_alpha else "")


def _require_two_sides(
    where: str, label: str, marking: Marking, seen: _Seen, far: Mapping[Key, float], top: float
) -> None:
    """Refuses masks of several levels or colours, of which it is not said which are the region.

    Raises:
        UserError: with what they hold and the readings that would fit.
    """
    levels: list[Key] = []
    few = len(seen.pixels) <= STEPS
    for pattern in seen.patterns:
        low = [value for value in pattern if far[value] <= DARK * top]
        middle = [value for value in pattern if DARK * top < far[value] < BRIGHT * top]
        odd = [*(low if len(low) > 1 else []), *middle]
        # Among masks of many values one of few may have soft edges too, but no inside of a value between.
        levels += odd if few or len(pattern) <= 2 else [value for value in odd if _solid(seen, value)]
    middle = [value for value in seen.pixels if DARK * top < far[value] < BRIGHT * top]
    levels += [value for value in middle if _solid(seen, value)]
    bright = [value for value in seen.pixels if far[value] >= BRIGHT * top]
    if few and any(isinstance(value, str) for value in bright) and _apart(bright) > top / 4:
        levels += bright
    between = sum(n for value, n in seen.pixels.items() if 0.25 * top < far[value] <= 0.75 * top)
    full = sum(n for value, n in seen.pixels.items() if far[value] > 0.75 * top)
    if not levels and between <= full:
        return
    found = [value for value in seen.pixels if far[value] > 0]
    found = sorted(found, key=lambda value: -seen.pixels[value])[:2]
    values = ", ".join(_written(value, quoted=True) for value in sorted(found, key=str))
    raise UserError(
        f"{where} can be read in more than one way: they hold {seen.words()}, in {seen.masks} masks, and nothing says"
        f" which are {label}. In task.yaml say `values: {{{label}: [{values}]}}` with the ones that are,"
        f" `background: {_written(found[0], quoted=True)}` for what is not, or `threshold: {SHARE}` for soft edges:"
        " more than half of the largest value"
    )


def _solid(seen: _Seen, value: Key) -> bool:
    """Says whether a value fills areas, as no soft edge does."""
    return seen.flat[value] >= 9 and seen.flat[value] >= seen.pixels[value] / 4


def _apart(colours: Sequence[Key]) -> float:
    """Gives the largest difference of two colours in any channel."""
    channels = np.array([masks.rgb(colour) if isinstance(colour, str) else np.full(3, colour) for colour in colours])
    return float((channels.max(axis=0) - channels.min(axis=0)).max())


def _far(value: Key, background: int | str) -> float:
    pixel = masks.rgb(value)[None, None] if isinstance(value, str) else np.array([[value]])
    return float(masks.distance(pixel, background)[0, 0])


def _key(value: int | str) -> Key:
    """Writes a declared value as masks are counted: a colour that is a gray as that value."""
    return _colour(int(value[1:], 16)) if isinstance(value, str) else float(value)


def _written(value: Key | int, quoted: bool = False) -> str:
    if isinstance(value, str):
        return f"'{value}'" if quoted else value
    return f"{value:g}"


def _allowed(task: Task, name: str) -> tuple[str, ...]:
    return getattr(task.layout, name) if task.layout else ()


# Prepared masks


def refuse_uniform(
    task: Task, splits: Iterable[NDArray[np.str_]], pixels: NDArray[np.int64], sizes: NDArray[np.int64]
) -> None:
    """Refuses a label that is empty, or full, in every image of a split, or covers half of every image.

    Args:
        task: one of a `task.yaml`, whose `allow_empty` and `allow_full` name labels for which that is right.
        splits: the split of each image, (n,), for each division.
        pixels: of each label's region, (n, labels).
        sizes: of the images in pixels, (n,).

    Raises:
        UserError: with the label, the split and the counts.
    """
    shares = pixels / np.maximum(sizes, 1)[:, None]
    for number, label in enumerate(task.labels):
        own = shares[:, number]
        marking = f"`values: {{{label}: ...}}`"
        for division in splits:
            for split in sorted(set(division.tolist()) - {""}):
                some = own[division == split]
                if not some.any() and label not in _allowed(task, "allow_empty"):
                    raise UserError(
                        f"task {task.name}: {label} is empty in all {len(some)} images of {split}; look at the masks"
                        f" and at {marking}, or the split. If that is right, say `allow_empty: [{label}]` in task.yaml"
                    )
                if (some == 1).all() and label not in _allowed(task, "allow_full"):
                    raise UserError(
                        f"task {task.name}: {label} fills all {len(some)} images of {split} to the last pixel; look at"
                        f" the masks and at {marking}. If that is right, say `allow_full: [{label}]` in task.yaml"
                    )
        said = bool(task.layout and (task.layout.values or task.layout.background))
        if len(own) and own.min() >= 0.5 and not said and label not in _allowed(task, "allow_full"):
            raise UserError(
                f"task {task.name}: {label} covers at least half of every image, {own.min():.0%} to {own.max():.0%} of"
                " its pixels, as the white background of masks that are drawn in black does; then say `background: 255`"
                f" in task.yaml (`background: '#ffffff'` for colours). If it is right, say `allow_full: [{label}]`"
            )
