"""Classification and Segmentation: model, loss, predictions and scores. The only place that asks which kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from medtransfer import metrics, models
from medtransfer import params as parameters
from medtransfer.cache import Prepared
from medtransfer.errors import UserError
from medtransfer.preparation import slug
from medtransfer.tasks import Task

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Prediction:
    """What one pass over a split gives: scores of the split and one table row per sample."""

    scores: dict[str, float]
    table: pd.DataFrame


class Objective(Protocol):
    """What the training loop needs to know of a task."""

    test_views: int
    metric: str

    def build(self, backbone: str, tensors: Mapping[str, Tensor], head_seed: int) -> nn.Module:
        """Builds the network."""

    def loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Returns the batch's mean loss."""

    def collect(self, logits: Tensor, truth: Tensor, rows: NDArray[np.int64], native: bool) -> NDArray[Any]:
        """Reduces a batch to one row of numbers per sample."""

    def finish(
        self, collected: NDArray[Any], rows: NDArray[np.int64], thresholds: NDArray[np.float64] | None
    ) -> Prediction:
        """Turns collected rows into scores and a table."""

    def thresholds(self, collected: NDArray[Any]) -> NDArray[np.float64] | None:
        """Fixes on val what test needs fixed."""


def targets(task: Task, prepared: Prepared) -> NDArray[Any]:
    """Returns what is predicted: labels (N, L) as float32, or masks (N, H, W) as bytes of 0 and 1."""
    if not task.segmentation:
        return prepared.samples[list(task.labels)].to_numpy(np.float32)
    if prepared.masks is None:
        raise UserError(f"the prepared cache of {task.name} has no masks; delete {prepared.folder} and prepare again")
    return prepared.masks


class ClassificationObjective:
    """Binary cross-entropy on one sigmoid per label, as published."""

    def __init__(
        self, task: Task, prepared: Prepared, protocol: parameters.Classification, device: torch.device
    ) -> None:
        self.task, self.prepared = task, prepared
        self.slugs = [slug(label) for label in task.labels]
        self.test_views: int = protocol.test_views
        self.metric = task.metric
        self.weight: Tensor | None = None
        if protocol.class_weights == "balanced":
            train = targets(task, prepared)[prepared.rows("train")]
            positives = train.sum(0)
            self.weight = torch.from_numpy((len(train) - positives) / np.maximum(positives, 1)).to(device)

    def build(self, backbone: str, tensors: Mapping[str, Tensor], head_seed: int) -> nn.Module:
        """Builds backbone + head."""
        return models.classifier(backbone, len(self.slugs), tensors, head_seed)

    def loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Returns the mean over batch and labels."""
        return F.binary_cross_entropy_with_logits(logits.float(), truth, pos_weight=self.weight)

    def collect(self, logits: Tensor, truth: Tensor, rows: NDArray[np.int64], native: bool) -> NDArray[Any]:
        """Averages the views' probabilities: one row per sample, (samples, L)."""
        probabilities = logits.float().sigmoid()
        views = len(rows) // len(np.unique(rows))
        return probabilities.reshape(-1, views, len(self.slugs)).mean(1).cpu().numpy().astype(np.float64)

    def finish(
        self, collected: NDArray[Any], rows: NDArray[np.int64], thresholds: NDArray[np.float64] | None
    ) -> Prediction:
        """Scores the probabilities of a split."""
        truth = targets(self.task, self.prepared)[rows].astype(np.int64)
        table = self.prepared.samples.iloc[rows][["id", "patient"]].reset_index(drop=True)
        for column, name in enumerate(self.slugs):
            table[f"target.{name}"] = truth[:, column].astype(np.int8)
            table[f"probability.{name}"] = collected[:, column]
        return Prediction(metrics.classification_scores(truth, collected, self.slugs, thresholds), table)

    def thresholds(self, collected: NDArray[Any]) -> NDArray[np.float64] | None:
        """Chooses each label's threshold on val (Youden's index)."""
        return metrics.youden_thresholds(
            targets(self.task, self.prepared)[self.prepared.rows("val")].astype(np.int64), collected
        )


class SegmentationObjective:
    """Soft Dice over the flattened batch with smooth 1, cross-entropy, or their sum; Dice at 0.5."""

    test_views = 1

    def __init__(self, task: Task, prepared: Prepared, protocol: parameters.Segmentation, device: torch.device) -> None:
        self.task, self.prepared, self.kind = task, prepared, protocol.loss
        self.metric = task.metric
        self.weight: Tensor | None = None
        if protocol.class_weights == "balanced":
            share = max(float(targets(task, prepared)[prepared.rows("train")].mean()), 1e-6)
            self.weight = torch.tensor((1 - share) / share, device=device)

    def build(self, backbone: str, tensors: Mapping[str, Tensor], head_seed: int) -> nn.Module:
        """Builds the U-Net."""
        return models.segmenter(backbone, tensors, head_seed)

    def loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Returns the batch's loss."""
        logits, total = logits.float(), torch.zeros((), device=logits.device)
        if self.kind in ("dice", "both"):
            total = total + soft_dice_loss(logits.sigmoid(), truth)
        if self.kind in ("bce", "both"):
            total = total + F.binary_cross_entropy_with_logits(logits, truth, pos_weight=self.weight)
        return total

    def collect(self, logits: Tensor, truth: Tensor, rows: NDArray[np.int64], native: bool) -> NDArray[Any]:
        """Counts pixels per image: intersection, predicted, target; then the same at native size if asked."""
        predicted = logits.float() > 0
        terms: NDArray[Any] = _terms(predicted, truth > 0.5).cpu().numpy()
        if not native:
            return terms
        return np.concatenate(
            [terms, np.stack([self._native(p, r) for p, r in zip(logits, rows, strict=True)])], axis=1
        )

    def _native(self, logits: Tensor, row: int) -> NDArray[Any]:
        """Counts one image's pixels after its logits were enlarged to the image's own size."""
        mask = torch.from_numpy(self.prepared.native_mask(int(row))).to(logits.device)
        size = (int(mask.shape[0]), int(mask.shape[1]))
        enlarged = F.interpolate(logits.float()[None], size, mode="bilinear", align_corners=False)
        terms: NDArray[Any] = _terms(enlarged > 0, mask[None, None]).cpu().numpy()
        return cast(NDArray[Any], terms[0])

    def finish(
        self, collected: NDArray[Any], rows: NDArray[np.int64], thresholds: NDArray[np.float64] | None
    ) -> Prediction:
        """Scores the pixel counts of a split."""
        table = self.prepared.samples.iloc[rows][["id", "patient"]].reset_index(drop=True)
        scores: dict[str, float] = {}
        for prefix, terms in zip(("", "native_"), np.split(collected, collected.shape[1] // 3, axis=1), strict=False):
            scores |= metrics.dice_scores(terms, prefix)
            for column, name in enumerate(("intersection", "predicted", "target")):
                table[f"{prefix}{name}"] = terms[:, column]
        return Prediction(scores, table)

    def thresholds(self, collected: NDArray[Any]) -> NDArray[np.float64] | None:
        """Needs nothing from val: the threshold is 0.5, as published."""
        return None


def soft_dice_loss(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Returns 1 - (2 I + 1) / (A + B + 1) over the flattened batch, as published."""
    overlap = (probabilities * targets).sum()
    return 1 - (2 * overlap + 1) / (probabilities.sum() + targets.sum() + 1)


def _terms(predicted: Tensor, target: Tensor) -> Tensor:
    """Counts intersection, predicted and target pixels: (B, 3), exact."""
    planes = [predicted & target, predicted, target]
    return torch.stack([plane.flatten(1).sum(1, dtype=torch.int64) for plane in planes], dim=1)


def objective(
    task: Task, prepared: Prepared, protocol: parameters.Classification | parameters.Segmentation, device: torch.device
) -> Objective:
    """Chooses by the task's kind."""
    if isinstance(protocol, parameters.Segmentation):
        return SegmentationObjective(task, prepared, protocol, device)
    return ClassificationObjective(task, prepared, protocol, device)


def check(task: Task, image_size: int, protocol: parameters.Classification | parameters.Segmentation) -> None:
    """Refuses, before any work, sizes and monitors that the task's kind cannot have.

    Raises:
        UserError: with the law, the value and the repair.
    """
    if task.segmentation and image_size % models.STRIDE:
        raise UserError(
            f"tasks.{task.name}.image_size must be a multiple of {models.STRIDE} for a U-Net, got {image_size}"
        )
    valid = ("val_loss", f"val_{task.metric}")
    if protocol.monitor not in valid:
        raise UserError(f"monitor of task {task.name} must be one of {', '.join(valid)}, got {protocol.monitor!r}")
