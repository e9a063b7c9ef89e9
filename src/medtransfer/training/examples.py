"""Chooses the worst and the best test predictions of a run: images, targets, and what it looked at.

Legend: n examples, L labels, S the network's input side, h and w those of its last feature map.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medtransfer.data.tasks import Task, slug
from medtransfer.results.examples import Examples

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

    from medtransfer.training.loader import Batch
    from medtransfer.training.trainer import Trainer

COUNT = 3
"""most examples of a kind"""
SMALLEST = 1e-7
"""probability: about what a 32-bit number near 1 can lack; keeps the cross-entropy finite"""
NO_GRID = "no heat map: the features of this architecture are no grid of places"
NO_PLACE = "no heat map: the head reads no place of the image by itself (a class token)"


def choose(errors: NDArray[np.float64], patients: Sequence[str], count: int = COUNT) -> tuple[list[int], list[int]]:
    """Chooses the images of the largest and of the smallest errors in turn, at most one of each patient.

    Of equal errors the earlier image is the worse and the later one the better. An error of nan is never chosen.

    Returns:
        Places of the worst and of the best, the most extreme first; no more than `count` of each.
    """
    order = [int(place) for place in np.argsort(-errors, kind="stable") if not math.isnan(errors[place])]
    worst: list[int] = []
    best: list[int] = []
    seen: set[str] = set()
    for _ in range(count):
        for queue, chosen in ((order, worst), (order[::-1], best)):
            place = next((place for place in queue if patients[place] not in seen), None)
            if place is not None:
                chosen.append(place)
                seen.add(patients[place])
    return worst, best


def collect(trainer: Trainer, task: Task, table: pd.DataFrame) -> Examples | None:
    """Gathers the examples of a run whose test was just read; draws no random number and changes no weight.

    An image's error is its mean cross-entropy over the labels that are defined and tested (of a multiclass task: that
    of the true class). Masks are ranked by Dice, their pixels summed over labels; two empty masks agree: 1.0.

    Args:
        trainer: holds the model that was tested.
        task: whose test it was.
        table: the test's predictions, a row for each of the trainer's test rows.

    Returns:
        None if no image has a defined label.
    """
    losses = None if task.segmentation else cross_entropies(task, table)
    errors = -dice(task, table) if losses is None else _row_means(losses)
    worst, best = choose(errors, table["patient"].tolist())
    places = np.array([*worst, *best], dtype=np.int64)
    if not len(places):
        return None
    trainer.model.eval()
    rows = trainer.rows["test"][places]
    kind = np.array(["worst"] * len(worst) + ["best"] * len(best))
    found = _masks(trainer, rows) if losses is None else _classes(trainer, task, table, losses, places, kind)
    return Examples(
        kind=kind,
        score=-errors[places] if losses is None else errors[places],
        labels=np.array(task.labels),
        images=_images(trainer, rows),
        **found,
    )


def dice(task: Task, table: pd.DataFrame) -> NDArray[np.float64]:
    """Returns each image's Dice, its pixels summed over labels; 1.0 where target and prediction are empty."""
    suffixes = [f".{slug(label)}" for label in task.labels] if len(task.labels) > 1 else [""]
    overlap, predicted, target = (
        table[[term + suffix for suffix in suffixes]].to_numpy(np.float64).sum(axis=1)
        for term in ("intersection", "predicted", "target")
    )
    total = predicted + target
    agreement: NDArray[np.float64] = np.where(total == 0, 1.0, 2 * overlap / np.maximum(total, 1))
    return agreement


def cross_entropies(task: Task, table: pd.DataFrame) -> NDArray[np.float64]:
    """Returns the cross-entropy of each image and label in nats, (images, L); nan where it does not count.

    That is where a label is uncertain or not tested and, as softmax has one loss, where a class is not the true one.
    """
    targets, probabilities = (_columns(task, table, name).astype(np.float64) for name in ("target", "probability"))
    of_target = np.where(targets == 1, probabilities, 1 - probabilities)
    counts = (targets == 1) if task.kind == "multiclass" else (targets >= 0)
    counts &= np.isin(task.labels, task.tested or task.labels)
    losses: NDArray[np.float64] = np.where(counts, -np.log(np.maximum(of_target, SMALLEST)), np.nan)
    return losses


def _columns(task: Task, table: pd.DataFrame, name: str) -> NDArray[Any]:
    return table[[f"{name}.{slug(label)}" for label in task.labels]].to_numpy()


def _row_means(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the mean of what is defined in each row; nan where nothing is."""
    count = (~np.isnan(losses)).sum(axis=1)
    means: NDArray[np.float64] = np.where(count > 0, np.nansum(losses, axis=1) / np.maximum(count, 1), np.nan)
    return means


def shown_label(losses: NDArray[np.float64], targets: NDArray[Any], kind: str) -> int:
    """Chooses the label that an image is shown with.

    It is the one of the largest cross-entropy: for a multiclass task the true class. Of the best images that have
    labels present it is the present one of the smallest, so that what was found is shown.

    Args:
        losses: (L,), nan where a label does not count.
        targets: (L,).
        kind: worst or best.
    """
    present = np.where(targets == 1, losses, np.nan)
    if kind == "best" and not np.isnan(present).all():
        return int(np.nanargmin(present))
    return int(np.nanargmax(losses))


def _classes(
    trainer: Trainer,
    task: Task,
    table: pd.DataFrame,
    losses: NDArray[np.float64],
    places: NDArray[np.int64],
    kind: NDArray[np.str_],
) -> dict[str, NDArray[Any]]:
    """Gathers labels, probabilities and heat maps."""
    targets = _columns(task, table, "target")[places].astype(np.int8)
    chosen = [shown_label(losses[place], row, k) for place, row, k in zip(places, targets, kind, strict=True)]
    maps, note = _maps(trainer, trainer.rows["test"][places], chosen)
    return {
        "targets": targets,
        "predictions": _columns(task, table, "probability")[places].astype(np.float32),
        "shown": np.array(chosen, dtype=np.int64),
        "maps": maps,
        "note": np.array(note),
    }


def _maps(trainer: Trainer, rows: NDArray[np.int64], labels: Sequence[int]) -> tuple[NDArray[np.float16], str]:
    """Returns each image's map, scaled to a largest magnitude of 1, and an empty note; or none and the reason."""
    none: NDArray[np.float16] = np.zeros((0, 0, 0), dtype=np.float16)
    pairs = zip(_one_by_one(trainer, rows), labels, strict=True)
    found = [evidence(trainer.model, batch.inputs, label) for batch, label in pairs]
    whole = [each.float().cpu().numpy() for each in found if each is not None]
    if len(whole) < len(found):
        return none, NO_GRID
    maps = np.stack(whole)
    peaks = np.abs(maps).max(axis=(1, 2), keepdims=True)
    if not peaks.any():
        return none, NO_PLACE
    return (maps / np.where(peaks > 0, peaks, 1)).astype(np.float16), ""


def evidence(model: nn.Module, inputs: Tensor, label: int) -> Tensor | None:
    """Computes where in an image a label's logit comes from: HiResCAM (Draelos and Carney, 2020).

    It is the gradient of the logit with respect to timm's last features, times these, summed over channels. Under
    global average pooling and a linear head that is the class activation map (Zhou et al., CVPR 2016) divided by the
    number of places. Under pooling by a class token all of it is 0: the head reads no other token.

    Args:
        model: as `networks.classifier` built it, in evaluation mode.
        inputs: one image, (1, 3, S, S), normalized.
        label: which logit.

    Returns:
        (h, w); None if the features are no grid of two places or more a side.
    """
    import torch

    network: Any = model
    backbone = network.backbone
    with torch.no_grad():
        features = backbone.forward_features(inputs)
    if not isinstance(features, torch.Tensor):  # such as CrossViT's, one for each size of patches
        return None
    features = features.detach().requires_grad_()
    logit = network.head(backbone.forward_head(features))[0, label]
    (gradient,) = torch.autograd.grad(logit, features)
    return _grid((gradient * features.detach())[0], getattr(backbone, "num_prefix_tokens", 0))


def _grid(values: Tensor, prefix: int) -> Tensor | None:
    """Sums features of one image over channels and lays them out as (h, w).

    timm's are (C, h, w), (h, w, C), or (tokens, C) with `prefix` tokens that stand for no place at the front.
    """
    if values.ndim == 2:
        side = math.isqrt(len(values) - prefix)
        if side**2 != len(values) - prefix:
            return None
        values = values[prefix:].reshape(side, side, -1)
    last = values.shape[0] == values.shape[1] != values.shape[2]  # inputs are square, so the two equal sides are h, w
    summed = values.sum(2 if last else 0)
    return summed if min(summed.shape) > 1 else None


def _masks(trainer: Trainer, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Predicts masks in the precision that they were tested in, and lays those of the targets beside them."""
    import torch

    targets, predictions = [], []
    for batch in _one_by_one(trainer, rows):
        reduced = trainer.engine.precision == "bf16"
        with torch.no_grad(), torch.autocast(trainer.device.type, dtype=torch.bfloat16, enabled=reduced):
            logits = trainer.model(batch.inputs)
        predictions.append((logits > 0).cpu().numpy()[0])
        targets.append((batch.targets > 0.5).cpu().numpy()[0])
    return {
        "targets": np.stack(targets).astype(np.int8),
        "predictions": np.stack(predictions).astype(np.int8),
        "shown": np.zeros(0, dtype=np.int64),
        "maps": np.zeros((0, 0, 0), dtype=np.float16),
        "note": np.array(""),
    }


def _one_by_one(trainer: Trainer, rows: NDArray[np.int64]) -> Iterator[Batch]:
    for row in rows:
        yield from trainer.loader.evaluate(np.array([row]), 1)


def _images(trainer: Trainer, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Reads the images as the network saw them, before normalization: (n, S, S) or (n, S, S, 3)."""
    from medtransfer.training.augmentation import fixed_views

    loader = trainer.loader
    pixels = loader.cache.views(rows, fixed_views(len(rows), loader.crop_fraction, 1), loader.size)
    planes = pixels[:, : loader.cache.channels].round().cpu().numpy().astype(np.uint8)
    return planes[:, 0] if loader.cache.channels == 1 else np.moveaxis(planes, 1, -1)
