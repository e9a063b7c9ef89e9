"""A trained network read on other images than its own test: another task's, or test images made worse on purpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medtransfer.data.cache import Prepared
from medtransfer.data.corruptions import corrupt
from medtransfer.data.tasks import Task
from medtransfer.training import objectives
from medtransfer.training.loader import Cache
from medtransfer.training.objectives import Prediction, TaskObjective
from medtransfer.training.trainer import TaskTrainer

CHUNK = 256
"""images that are held, and made worse, at once"""


def away(built: TaskTrainer, labels: Sequence[str], task: Task, prepared: Prepared) -> Prediction:
    """Reads the network on the test images of another task, as it reads its own: same views, size and normalization.

    Args:
        built: whose best epoch's model was tested.
        labels: of the network's outputs.
        task: with some of these labels, in their order; see `away.seen_as`.
        prepared: the images.
    """
    places = [labels.index(label) for label in task.labels]
    goal = _goal(built, task, prepared)
    rows = prepared.rows("test")
    collected = _collect(built, goal, task, prepared, rows, places, lambda images, _: images)
    thresholds = None if built.thresholds is None else built.thresholds[places]
    return goal.finish(collected, rows, thresholds)


def corrupted(built: TaskTrainer, task: Task, prepared: Prepared, kind: str, severity: int, seed: int) -> Prediction:
    """Reads the network on its own test images, made worse.

    Args:
        built: whose best epoch's model was tested.
        task: its own.
        prepared: its own cache, with its split.
        kind: see `corruptions.CORRUPTIONS`.
        severity: 1 to 5; 0 changes nothing.
        seed: of what is drawn; an image's number is its row in the cache.
    """
    task = replace(task, extras=(), measures=())
    goal = _goal(built, task, prepared)
    rows = prepared.rows("test")

    def change(images: NDArray[np.uint8], numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        pairs = zip(images, numbers.tolist(), strict=True)
        return np.stack([corrupt(image, kind, severity, seed=seed, number=number) for image, number in pairs])

    collected = _collect(built, goal, task, prepared, rows, range(len(task.labels)), change)
    return goal.finish(collected, rows, built.thresholds)


def _goal(built: TaskTrainer, task: Task, prepared: Prepared) -> TaskObjective:
    protocol: Any = replace(built.protocol, class_weights="none")  # type: ignore[call-arg]  # a task's protocol has it
    return objectives.objective(task, prepared, protocol, built.device)


@torch.inference_mode()
def _collect(
    built: TaskTrainer, goal: TaskObjective, task: Task, prepared: Prepared, rows: NDArray[np.int64],
    places: Sequence[int], change: Callable[[NDArray[np.uint8], NDArray[np.int64]], NDArray[np.uint8]],
) -> NDArray[Any]:  # fmt: skip
    """Collects what the objective needs of every row, of the network's outputs at these places."""
    built.model.eval()
    targets, views = objectives.targets(task, prepared), built.objective.test_views
    step = max(1, built.loader.batch_size // views)
    size = step * max(1, CHUNK // step)  # so that batches are those of a whole test
    found = []
    for start in range(0, len(rows), size):
        chunk = rows[start : start + size]
        images = change(np.asarray(prepared.images[chunk]), chunk)
        loader = built.loader.over(Cache(images, targets[chunk], built.device, len(task.labels)))
        for batch in loader.evaluate(np.arange(len(chunk)), views):
            with built.autocast():
                logits = built.forward(batch.inputs)
            found.append(goal.collect(logits[:, list(places)], batch.targets, chunk[batch.rows], False))
    return np.concatenate(objectives.on_host(found))
