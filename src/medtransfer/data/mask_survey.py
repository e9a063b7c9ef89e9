"""A look at all masks of a task before work starts, which settles how each is read."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from medtransfer.core.progress import bar
from medtransfer.data.mask_rules import Group, decide
from medtransfer.data.mask_values import look
from medtransfer.data.readers.reading import Marking, Picture, Sample
from medtransfer.data.tasks import Task


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
    groups: dict[tuple[tuple[str, ...], tuple[Marking, ...]], Group] = {}
    with bar(f"looking at the masks of {task.name}", len(uses)) as advance, ThreadPoolExecutor(workers) as pool:
        kinds = [(tuple(label for label, _ in use), tuple(mask.marking for _, mask in use)) for use in uses.values()]
        first = [use[0][1] for use in uses.values()]
        looks = pool.map(look, first, [kind[1] for kind in kinds], images.values())
        for kind, seen in zip(kinds, looks, strict=True):
            advance()
            if seen is not None:
                group = groups.setdefault(kind, Group(*kind))
                group.plain.add(seen[0])
                group.alpha.add(seen[1])
    settled: dict[tuple[str, Marking, tuple[str, ...]], Marking] = {}
    words: dict[str, str] = {}
    for (labels, markings), group in groups.items():
        found = decide(task, group)
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
