"""What frozen features are worth: a nearest-neighbour vote on a labelled task's train and val, never on its test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medtransfer.core.errors import UserError
from medtransfer.data.cache import Prepared
from medtransfer.data.tasks import Task, slug
from medtransfer.statistics import metrics
from medtransfer.training.loader import Loader
from medtransfer.training.probes import knn


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
