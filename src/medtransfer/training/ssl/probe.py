"""What frozen features are worth: a nearest-neighbour vote on a labelled task's train and val, never on its test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medtransfer.core.errors import UserError
from medtransfer.data.cache import Prepared
from medtransfer.data.tasks import Task, slug
from medtransfer.statistics import metrics
from medtransfer.training.loader import Loader

TEMPERATURE = 0.07
"""of the neighbours' votes, as in Wu et al., CVPR 2018"""
CHUNK = 256
"""samples whose neighbours are looked for at a time"""


def features(backbone: nn.Module, loader: Loader, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Computes the features of images in evaluation mode: (rows, F); every module's mode is put back."""
    modes = {module: module.training for module in backbone.modules()}
    backbone.eval()
    try:
        with torch.inference_mode():
            parts = [backbone(batch.inputs).float().cpu().numpy() for batch in loader.evaluate(rows, 1)]
    finally:
        for module, training in modes.items():
            module.training = training
    return np.concatenate(parts)


def knn(train: NDArray[Any], labels: NDArray[Any], val: NDArray[Any], k: int) -> NDArray[np.float64]:
    """Predicts labels by the votes of the k nearest samples of train, weighted by exp(cosine / 0.07).

    Wu et al., Unsupervised feature learning via non-parametric instance discrimination, CVPR 2018. Features are
    centred on train before the cosine is taken: those behind a ReLU all point the same way otherwise.

    Args:
        train: features, (n, F).
        labels: (n, L), 0 or 1; one below 0 is none and has no vote.
        val: features, (m, F).
        k: neighbours; all of train if there are fewer.

    Returns:
        The share of the votes for each label, (m, L); 0.5 where none of the neighbours has a vote.
    """
    centre = train.mean(0)
    known, wanted = _unit(train - centre), _unit(val - centre)
    parts = [_vote(known, labels, wanted[i : i + CHUNK], min(k, len(train))) for i in range(0, len(wanted), CHUNK)]
    return np.concatenate(parts)


def _vote(train: NDArray[np.float64], labels: NDArray[Any], val: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    cosine = val @ train.T
    nearest = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    closest = np.take_along_axis(cosine, nearest, axis=1)
    weights = np.exp((closest - closest[:, :1]) / TEMPERATURE)[:, :, None]  # a common factor changes no share
    votes = weights * (labels[nearest] >= 0)
    total = votes.sum(1)
    return np.where(total > 0, (votes * labels[nearest]).sum(1) / np.where(total > 0, total, 1), 0.5)


def _unit(vectors: NDArray[Any]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Scores a backbone on a labelled task while it is pre-trained on other images."""

    task: Task
    """of classification"""
    prepared: Prepared
    loader: Loader
    """of the task, at the side and with the normalization that the backbone is trained with"""
    every: int
    """epochs from one score to the next"""
    neighbours: int
    most: int
    """images of train, and of val, that are looked at: the same ones in every epoch"""

    def __post_init__(self) -> None:
        if self.task.segmentation:
            raise UserError(f"a probe needs labels of images, and task {self.task.name} has masks; name another task")
        for name in ("every", "neighbours", "most"):
            if getattr(self, name) < 1:
                raise UserError(f"`probe {name} >= 1` must hold, got {getattr(self, name)}")

    def rows(self, split: str) -> NDArray[np.int64]:
        """Takes a split's rows; of too many those whose sample keys come first, which is as good as by lot."""
        rows = self.prepared.rows(split)
        chosen = rows[np.argsort(self.loader.keys[rows])][: self.most]
        return np.sort(chosen)

    def score(self, backbone: nn.Module) -> float:
        """Returns the AUC on val, the mean over the labels that have both classes there.

        Raises:
            UserError: no label has both classes in val.
        """
        train, val = self.rows("train"), self.rows("val")
        labels = self.prepared.samples[list(self.task.labels)].to_numpy(np.int64)
        votes = knn(
            features(backbone, self.loader, train), labels[train], features(backbone, self.loader, val), self.neighbours
        )
        slugs, tested = ([slug(name) for name in names] for names in (self.task.labels, self.task.tested))
        scores = metrics.classification_scores(labels[val], votes, slugs, None, tested)
        if "auc" not in scores:
            raise UserError(
                f"the probe on task {self.task.name} has no score: no label has both classes in the {len(val)} images "
                "of val that are looked at; look at more of them, or name another task"
            )
        return scores["auc"]
