"""Classification and Segmentation: model, loss, predictions and scores. The only place that asks which kind."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from medtransfer.core.errors import UserError
from medtransfer.data import pixel_sizes
from medtransfer.data.cache import Prepared
from medtransfer.data.tasks import GROUP, Task, slug
from medtransfer.params import Classification, Segmentation
from medtransfer.statistics import mask_shapes, metrics
from medtransfer.statistics.dice import TERMS
from medtransfer.training import networks
from medtransfer.training.fitting import BackboneSpec, NetworkSpec

log = logging.getLogger("medtransfer")

PREFIXES = {"field_of_view": "fov_", "second_observer": "observer2_"}
"""extra mask of a test image -> prefix of the scores at native size inside it, or against it"""


Collected = Tensor | NDArray[Any]
"""one row of numbers per sample"""


@dataclass(frozen=True)
class Prediction:
    """What one pass over a split gives: scores of the split and one table row per sample."""

    scores: dict[str, float]
    table: pd.DataFrame


class Objective(Protocol):
    """What the training loop needs to know of what is learnt, with labels or without."""

    metric: str
    """what val is shown by: one of the scores"""
    needs_whole_batch: bool
    """whether `loss` must see the outputs of all processes, as where it is no mean over the images"""

    def build(self, spec: NetworkSpec, tensors: Mapping[str, Tensor], head_seed: int) -> nn.Module:
        """Builds the network: the backbone holds `tensors`, what is behind it is drawn from `head_seed`."""

    def loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Returns the batch's mean loss."""

    def collect(self, logits: Tensor, truth: Tensor, rows: NDArray[np.int64], native: bool) -> Collected:
        """Reduces a batch to one row of numbers per sample, on the device where nothing of it must be looked at."""

    def score(self, collected: NDArray[Any], rows: NDArray[np.int64]) -> dict[str, float]:
        """Scores the collected rows of val after an epoch."""


class TaskObjective(Objective, Protocol):
    """What is needed besides to test a network on a task."""

    test_views: int

    def finish(
        self, collected: NDArray[Any], rows: NDArray[np.int64], thresholds: NDArray[np.float64] | None
    ) -> Prediction:
        """Turns collected rows into scores and a table."""

    def thresholds(self, collected: NDArray[Any]) -> NDArray[np.float64] | None:
        """Fixes on val what test needs fixed."""


def on_host(parts: Sequence[Collected]) -> list[NDArray[Any]]:
    """Reads back what was found of several batches; a GPU is waited for once."""
    moved = [part.to("cpu", non_blocking=True) if isinstance(part, Tensor) else part for part in parts]
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return [part.numpy() if isinstance(part, Tensor) else part for part in moved]


def targets(task: Task, prepared: Prepared) -> NDArray[Any]:
    """Returns what is predicted: labels (N, L) as float32, -1 for uncertain, or masks (N, H, W), bit k for label k."""
    if not task.segmentation:
        return prepared.samples[list(task.labels)].to_numpy(np.float32)
    if prepared.masks is None:
        raise UserError(f"the prepared cache of {task.name} has no masks; delete {prepared.folder} and prepare again")
    return prepared.masks


def _named(prepared: Prepared, rows: NDArray[np.int64]) -> pd.DataFrame:
    """Begins a table of predictions: names, patients, and the groups that the cache knows."""
    groups = [name for name in prepared.samples.columns if name.startswith(GROUP)]
    return prepared.samples.iloc[rows][["id", "patient", *groups]].reset_index(drop=True)


class ClassificationObjective:
    """Binary cross-entropy on one sigmoid per label, as published."""

    needs_whole_batch = True  # labels that are not known count for nothing, and how many there are differs

    def __init__(self, task: Task, prepared: Prepared, protocol: Classification, device: torch.device) -> None:
        self.task, self.prepared = task, prepared
        self.slugs = [slug(label) for label in task.labels]
        self.test_views: int = protocol.test_views
        self.metric = task.metric
        self.weight: Tensor | None = None
        if protocol.class_weights == "balanced":
            self.weight = self._balance(targets(task, prepared)[prepared.rows("train")]).to(device)

    def _balance(self, train: NDArray[np.float32]) -> Tensor:
        positives, negatives = (train == 1).sum(0), (train == 0).sum(0)
        return torch.from_numpy((negatives / np.maximum(positives, 1)).astype(np.float32))

    def build(self, spec: BackboneSpec, tensors: Mapping[str, Tensor], head_seed: int) -> nn.Module:
        """Builds backbone + head; there is no decoder."""
        return networks.classifier(spec, len(self.slugs), tensors, head_seed)

    def loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Returns the mean over batch and labels; a target below 0 is none."""
        if not self.task.uncertain:
            return F.binary_cross_entropy_with_logits(logits.float(), truth, pos_weight=self.weight)
        known = (truth >= 0).float()
        each = F.binary_cross_entropy_with_logits(
            logits.float(), truth.clamp(min=0), pos_weight=self.weight, reduction="none"
        )
        return (each * known).sum() / known.sum().clamp(min=1)

    def _probabilities(self, logits: Tensor) -> Tensor:
        return logits.float().sigmoid()

    def collect(self, logits: Tensor, truth: Tensor, rows: NDArray[np.int64], native: bool) -> Collected:
        """Averages the views' probabilities: one row per sample, (samples, L)."""
        probabilities = self._probabilities(logits)
        views = len(rows) // len(np.unique(rows))
        return probabilities.reshape(-1, views, len(self.slugs)).mean(1).double()

    def score(self, collected: NDArray[Any], rows: NDArray[np.int64]) -> dict[str, float]:
        """Scores what was collected, without what val fixes for test."""
        return self.finish(collected, rows, None).scores

    def finish(
        self, collected: NDArray[Any], rows: NDArray[np.int64], thresholds: NDArray[np.float64] | None
    ) -> Prediction:
        """Scores the probabilities of a split."""
        truth = targets(self.task, self.prepared)[rows].astype(np.int64)
        table = _named(self.prepared, rows)
        for column, name in enumerate(self.slugs):
            table[f"target.{name}"] = truth[:, column].astype(np.int8)
            table[f"probability.{name}"] = collected[:, column]
        scores = self._scores(truth, collected, thresholds)
        if self.task.unit == "study":
            scores |= metrics.exam_scores(table["patient"].tolist(), truth, collected)
        return Prediction(scores, table)

    def _scores(
        self, truth: NDArray[np.int64], collected: NDArray[Any], thresholds: NDArray[np.float64] | None
    ) -> dict[str, float]:
        tested = [slug(label) for label in self.task.tested]
        return metrics.classification_scores(truth, collected, self.slugs, thresholds, tested)

    def thresholds(self, collected: NDArray[Any]) -> NDArray[np.float64] | None:
        """Chooses each label's threshold on val (Youden's index)."""
        return metrics.youden_thresholds(
            targets(self.task, self.prepared)[self.prepared.rows("val")].astype(np.int64), collected
        )


class MulticlassObjective(ClassificationObjective):
    """Cross-entropy on a softmax over the classes."""

    def _balance(self, train: NDArray[np.float32]) -> Tensor:
        counts = np.maximum(train.sum(0), 1)
        return torch.from_numpy((len(train) / (len(counts) * counts)).astype(np.float32))

    def loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Returns the mean over the batch."""
        return F.cross_entropy(logits.float(), truth, weight=self.weight)

    def _probabilities(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(1)

    def _scores(
        self, truth: NDArray[np.int64], collected: NDArray[Any], thresholds: NDArray[np.float64] | None
    ) -> dict[str, float]:
        return metrics.multiclass_scores(truth, collected, self.slugs, self.task.ordinal)

    def thresholds(self, collected: NDArray[Any]) -> NDArray[np.float64] | None:
        """Needs nothing from val: the most probable class is the answer."""
        return None


class SegmentationObjective:
    """Soft Dice over the flattened batch with smooth 1, cross-entropy, or their sum; Dice at 0.5.

    Every label has a sigmoid of its own, so regions may overlap; the loss is the mean over labels.
    """

    test_views = 1
    needs_whole_batch = True

    def __init__(self, task: Task, prepared: Prepared, protocol: Segmentation, device: torch.device) -> None:
        self.task, self.prepared, self.kind = task, prepared, protocol.loss
        self.slugs = [slug(label) for label in task.labels]
        self.metric = task.metric
        self.primary: tuple[str, ...] = ()
        self.ruler: pixel_sizes.Ruler | None = None
        if prepared is not None:  # else it only answers, and scores nothing
            self._measure_with(task, prepared, protocol.monitor.removeprefix("val_"))
        self.weight: Tensor | None = None
        if protocol.class_weights == "balanced":
            masks = targets(task, prepared)[prepared.rows("train")]
            shares = [max(float((masks >> bit & 1).mean()), 1e-6) for bit in range(len(self.slugs))]
            self.weight = torch.tensor([(1 - s) / s for s in shares], device=device).reshape(-1, 1, 1)

    def _measure_with(self, task: Task, prepared: Prepared, monitor: str) -> None:
        """Takes what shapes of masks are measured with, on val too where the primary or the monitored metric needs it.

        Raises:
            UserError: one of them needs sizes of images that the cache has not.
        """
        needed = {name: metrics.METRICS[name].group for name in (task.metric, monitor) if name in metrics.METRICS}
        self.primary = tuple(group for group in mask_shapes.GROUPS if group in needed.values())
        self.ruler = pixel_sizes.ruler(task, prepared)
        if self.ruler is None:
            words = (
                f"the sizes of the images of {task.name}, which an earlier version did not keep; delete "
                f"{prepared.folder} and prepare again: its digest and finished runs stay"
            )
            if self.primary:
                raise UserError(f"{next(name for name, group in needed.items() if group)} needs {words}")
            log.warning("no distances between masks: they need %s", words)

    def build(self, spec: NetworkSpec, tensors: Mapping[str, Tensor], head_seed: int) -> nn.Module:
        """Builds encoder + decoder."""
        return networks.segmenter(spec, len(self.slugs), tensors, head_seed)

    def loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Returns the batch's loss."""
        logits, total = logits.float(), torch.zeros((), device=logits.device)
        if self.kind in ("dice", "both"):
            total = total + soft_dice_loss(logits.sigmoid(), truth)
        if self.kind in ("bce", "both"):
            total = total + F.binary_cross_entropy_with_logits(logits, truth, pos_weight=self.weight)
        return total

    def collect(self, logits: Tensor, truth: Tensor, rows: NDArray[np.int64], native: bool) -> Collected:
        """Counts pixels and measures shapes per image, block and label: (samples, blocks, L, 3 and more).

        The first block is at the network's size. If asked, there follow one at the image's own size and one for each
        of the task's extras: inside the field of view, against the second observer; -1 where an image lacks the extra.
        Shapes are measured in the first two blocks, nan in the others: see `_groups`.
        """
        predicted, target = logits.float() > 0, truth > 0.5
        counted = _terms(predicted, target)[:, None]
        if not native and not self.primary:
            return counted
        terms: NDArray[Any] = counted.cpu().numpy()
        found = [self._with_shapes(terms, list(zip(predicted, target, strict=True)), rows, native, self.primary)]
        if native:
            own = [self._native(sample, int(row)) for sample, row in zip(logits, rows, strict=True)]
            found.append(np.stack(own))
        return np.concatenate(found, axis=1)

    def _groups(self, native: bool) -> tuple[str, ...]:
        """Says what is measured of shapes: of test all that the task asks for, else what its primary metric needs."""
        if self.ruler is None or not native:
            return self.primary
        return tuple(group for group in mask_shapes.GROUPS if group in (*self.task.measures, *self.primary))

    def names(self, native: bool) -> tuple[str, ...]:
        """Names the last axis of what is collected."""
        unit = self.ruler.unit if self.ruler else "px"
        return (*TERMS, *mask_shapes.names(self._groups(native), unit))

    def _with_shapes(
        self, terms: NDArray[Any], masks: Sequence[tuple[Tensor, Tensor]], rows: NDArray[np.int64], native: bool,
        groups: Sequence[str],
    ) -> NDArray[Any]:  # fmt: skip
        """Puts behind the counts of each image, (samples, blocks, L, 3), what is measured of these groups, else nan.

        Args:
            terms: of several images, of which the first block is measured.
            masks: the predicted and the true ones of each, (L, height, width).
            rows: of the images.
            native: what room there is for, see `names`.
            groups: what is measured.
        """
        names = self.names(native)
        if len(names) == len(TERMS):
            return terms
        found = np.full((*terms.shape[:-1], len(names)), np.nan)
        found[..., : len(TERMS)] = terms
        if not groups or self.ruler is None:
            return found
        places = [names.index(name) for name in mask_shapes.names(groups, self.ruler.unit)]
        for image, ((predicted, target), row) in enumerate(zip(masks, rows, strict=True)):
            spacing = self.ruler.spacing(int(row), (int(target.shape[-2]), int(target.shape[-1])))
            for label, planes in enumerate(zip(predicted.cpu().numpy(), target.cpu().numpy(), strict=True)):
                found[image, 0, label, places] = mask_shapes.measure(*planes, groups, spacing, self.ruler.tolerance)
        return found

    def _native(self, logits: Tensor, row: int) -> NDArray[Any]:
        """Counts and measures one image after its logits were enlarged to its own size: (blocks, L, 3 and more)."""
        planes = torch.from_numpy(self.prepared.native_mask(row)).to(logits.device)
        size = (int(planes.shape[0]), int(planes.shape[1]))
        enlarged = F.interpolate(logits.float()[None], size, mode="bilinear", align_corners=False) > 0
        masks = torch.stack([planes >> bit & 1 for bit in range(len(self.slugs) + len(self.task.extras))])[None].bool()
        labels = masks[:, : len(self.slugs)]
        blocks = [_terms(enlarged, labels)]
        for name, extra in zip(self.task.extras, masks[0, len(self.slugs) :], strict=True):
            if not extra.any():  # not on disk: no image is without a field of view or wholly free of vessels
                blocks.append(torch.full_like(blocks[0], -1))
            elif name == "field_of_view":
                blocks.append(_terms(enlarged & extra, labels & extra))
            else:
                blocks.append(_terms(enlarged, extra[None, None].expand_as(labels)))
        counted: NDArray[Any] = torch.cat(blocks).cpu().numpy()[None]
        both = [(enlarged[0], labels[0])]
        found: NDArray[Any] = self._with_shapes(counted, both, np.array([row]), True, self._groups(native=True))[0]
        return found

    def score(self, collected: NDArray[Any], rows: NDArray[np.int64]) -> dict[str, float]:
        """Scores what was collected, without what val fixes for test."""
        return self.finish(collected, rows, None).scores

    def finish(
        self, collected: NDArray[Any], rows: NDArray[np.int64], thresholds: NDArray[np.float64] | None
    ) -> Prediction:
        """Scores the pixel counts of a split, and the shapes where they were measured."""
        table = _named(self.prepared, rows)
        scores: dict[str, float] = {}
        prefixes = ["", "native_", *(PREFIXES[name] for name in self.task.extras)]
        native = collected.shape[1] > 1
        every, unit = self.names(native), self.ruler.unit if self.ruler else "px"
        groups = {"": self.primary, "native_": self._groups(native)}
        for prefix, block in zip(prefixes, np.moveaxis(collected, 1, 0), strict=False):
            names = (*TERMS, *mask_shapes.names(groups.get(prefix, ()), unit))
            terms = block[..., [every.index(name) for name in names]]
            if (terms < 0).any():
                continue
            scores |= metrics.mask_scores(terms, self.slugs, prefix, names)
            for label, name in enumerate(self.slugs):
                suffix = f".{name}" if len(self.slugs) > 1 else ""
                for column, term in enumerate(names):
                    values = terms[:, label, column]
                    table[f"{prefix}{term}{suffix}"] = values.astype(np.int64) if term in TERMS else values
        return Prediction(scores, table)

    def thresholds(self, collected: NDArray[Any]) -> NDArray[np.float64] | None:
        """Needs nothing from val: the threshold is 0.5, as published."""
        return None


def soft_dice_loss(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Returns 1 - (2 I + 1) / (A + B + 1) over the flattened batch, as published, averaged over labels.

    Both are (B, L, S, S).
    """
    sums = (0, 2, 3)
    overlap = (probabilities * targets).sum(sums)
    return (1 - (2 * overlap + 1) / (probabilities.sum(sums) + targets.sum(sums) + 1)).mean()


def _terms(predicted: Tensor, target: Tensor) -> Tensor:
    """Counts intersection, predicted and target pixels: (B, L, 3), exact."""
    planes = [predicted & target, predicted, target]
    return torch.stack([plane.flatten(2).sum(2, dtype=torch.int64) for plane in planes], dim=2)


def objective(
    task: Task, prepared: Prepared, protocol: Classification | Segmentation, device: torch.device
) -> TaskObjective:
    """Chooses by the task's kind."""
    if isinstance(protocol, Segmentation):
        return SegmentationObjective(task, prepared, protocol, device)
    kind = MulticlassObjective if task.kind == "multiclass" else ClassificationObjective
    return kind(task, prepared, protocol, device)
