"""Which pixels of masks are a label's region, by what they hold and what `task.yaml` says; refused where unclear."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.errors import UserError
from medtransfer.data.images import masks
from medtransfer.data.mask_values import NAMED, STEPS, Key, Seen, colour_key, written
from medtransfer.data.readers.reading import Marking
from medtransfer.data.tasks import Task

SHARE = 0.5
"""of the largest difference from the background, above which a pixel of a mask with soft edges counts"""

DARK, BRIGHT = 1 / 8, 7 / 8
"""shares of that difference up to which a value is the background's, and from which it is the region's"""


@dataclass
class Group:
    """Masks that the same labels share, seen by their colours or values and by their transparency."""

    labels: tuple[str, ...]
    markings: tuple[Marking, ...]
    plain: Seen = field(default_factory=Seen)
    alpha: Seen = field(default_factory=Seen)


def decide(task: Task, group: Group) -> list[tuple[Marking, str]]:
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
            (replace(m, alpha=by_alpha), words.format(", ".join(written(value) for value in m.values)))
            for m in group.markings
        ]
    return [_cut(task, label, m, seen, by_alpha) for label, m in zip(group.labels, group.markings, strict=True)]


def _check_values(task: Task, group: Group, seen: Seen, names: str, what: str) -> None:
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
    parts = [f"{label} is said to be {written(value)}, which no mask holds" for label, value in absent[:NAMED]]
    if strange:
        listed = ", ".join(f"{written(v)} ({n} pixels in {seen.files[v]} masks)" for v, n in strange.most_common(NAMED))
        parts.append(f"no label names {listed}{' and more' if len(strange) > NAMED else ''}")
    raise UserError(
        f"task {task.name}: the masks of {names} contradict `values`: {'; '.join(parts)}. By {what} the"
        f" {seen.masks} masks hold {seen.words()}. {_fitting(group, seen, list(strange), [n for n, _ in absent])}"
    )


def _fitting(group: Group, seen: Seen, strange: list[Key], absent: list[str]) -> str:
    """Words the reading that would fit."""
    advice = []
    if absent and len(group.labels) == 1 and len(seen.pixels) == 2 and len(strange) == 1:
        label = group.labels[0]
        advice.append(f"`values: {{{label}: {written(strange[0], quoted=True)}}}`, or no `values`, fits")
    elif seen.lossy or len(seen.pixels) > STEPS:
        advice.append(
            "Values between those that were drawn come from lossy compression or from resampling: save the masks as"
            " PNG, resampled by nearest neighbour" + (", or leave out `values`" if len(group.labels) == 1 else "")
        )
    elif strange:
        others = [] if any(isinstance(value, str) for value in strange) else [0]
        ground = [written(v, quoted=True) for v in [*others, *strange]]
        advice.append(
            "Name them among `values` (`label: [1, 2]` takes several), or, if they belong to no label, say"
            f" `background: [{', '.join(ground[: NAMED + 1])}]`"
        )
    if absent:
        advice.append(f"If nothing of it is to be expected, say `allow_empty: [{', '.join(dict.fromkeys(absent))}]`")
    return "; ".join(advice) + " in task.yaml"


def _cut(task: Task, label: str, marking: Marking, seen: Seen, by_alpha: bool) -> tuple[Marking, str]:
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
        _require_two_sides(where, label, seen, far, top)
    settled = replace(marking, cut=share * top, alpha=by_alpha)
    said = f"more than {share:g} of the largest difference, {top:g}, from {written(ground)}"
    return settled, said + (", by opacity" if by_alpha else "")


def _require_two_sides(where: str, label: str, seen: Seen, far: Mapping[Key, float], top: float) -> None:
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
    values = ", ".join(written(value, quoted=True) for value in sorted(found, key=str))
    raise UserError(
        f"{where} can be read in more than one way: they hold {seen.words()}, in {seen.masks} masks, and nothing says"
        f" which are {label}. In task.yaml say `values: {{{label}: [{values}]}}` with the ones that are,"
        f" `background: {written(found[0], quoted=True)}` for what is not, or `threshold: {SHARE}` for soft edges:"
        " more than half of the largest value"
    )


def _solid(seen: Seen, value: Key) -> bool:
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
    return colour_key(int(value[1:], 16)) if isinstance(value, str) else float(value)


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
