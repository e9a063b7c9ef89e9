"""What a task's labels and a reader's samples are held to before anything is decoded."""

from __future__ import annotations

from pathlib import Path

from medtransfer.core.errors import UserError
from medtransfer.data.readers.reading import Sample
from medtransfer.data.tasks import PLANES, Task, slug


def check_labels(task: Task) -> None:
    """Holds a task's labels to names that columns and metrics can have.

    Raises:
        UserError: two labels would have one name, or one has that of another column.
    """
    taken: dict[str, str] = {name: f"the column {name}" for name in ("id", "patient", "split")}
    for label in task.labels:
        if slug(label) in taken:
            raise UserError(
                f"task {task.name}: the labels of a task must differ in [A-Za-z0-9_.-], got {label!r} and"
                f" {taken[slug(label)]!r}, both written {slug(label)!r}; rename one"
            )
        if label.startswith("split."):
            raise UserError(f"task {task.name}: a label must not begin with `split.`, got {label!r}; rename it")
        taken[slug(label)] = label
    assert not task.segmentation or len(task.labels) + len(task.extras) <= PLANES


def check_samples(task: Task, samples: list[Sample], folder: Path) -> None:
    """Holds a reader to its contract.

    Raises:
        UserError: it found no images, one of them twice, or labels and masks that are not the task's.
    """
    if not samples:
        raise UserError(f"task {task.name}: looked for images of {task.dataset} in {folder}, found none")
    seen: set[str] = set()
    allowed = {0, 1, -1} if task.uncertain else {0, 1}
    for sample in samples:
        where = f"task {task.name}: {sample.image.path}"
        if sample.id in seen:
            raise UserError(
                f"task {task.name}: ids must be unique, {sample.id!r} is there twice, again {sample.image.path}"
            )
        seen.add(sample.id)
        if task.segmentation and len(sample.masks) != len(task.labels):
            raise UserError(f"{where} has masks for {len(sample.masks)} of {len(task.labels)} labels; each needs them")
        if task.segmentation and not sample.labels:
            continue
        if len(sample.labels) != len(task.labels) or not set(sample.labels) <= allowed:
            raise UserError(f"{where} must have {len(task.labels)} labels of {sorted(allowed)}, got {sample.labels}")
