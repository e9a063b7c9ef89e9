"""Batches of several augmented views of each image, or of images with a mask: all on the one sampling grid.

Legend: B images of a batch, V views of each, S the network's input side, P patches of an image.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medtransfer.core import rng
from medtransfer.params import Augmentation
from medtransfer.training.augmentation import random_views
from medtransfer.training.loader import Batch, Cache, Loader


class ViewLoader(Loader):
    """Batches of V augmented views of each image, those of an image one after the other: inputs (B * V, 3, S, S).

    Every view has a random stream of its own. Where patches are hidden, a fourth channel is 1 on them, and the targets
    are the inputs. The views of val are drawn once for all: equal in every epoch and for every seed.
    """

    def __init__(
        self,
        cache: Cache,
        ids: list[str],
        *,
        views: int,
        patch: int,
        shown: int,
        augmentation: Augmentation,
        **own: Any,
    ) -> None:
        """Takes how views are drawn.

        Args:
            cache: of the images; its labels are not looked at.
            ids: of the images.
            views: of each image.
            patch: side of a patch, in pixels.
            shown: patches of an image that are not hidden; 0: none is hidden.
            augmentation: of the views of val; those of training have that of the training.
            own: what else `Loader` takes.
        """
        super().__init__(cache, ids, **own)
        self.views, self.patch, self.shown, self.augmentation = views, patch, shown, augmentation

    def order(self, rows: NDArray[np.int64], seed: int, epoch: int, min_steps: int) -> list[NDArray[np.int64]]:
        """Cuts an epoch into batches; where images are compared, a last one that is not full is left out."""
        batches = super().order(rows, seed, epoch, min_steps)
        short = self.views > 1 and len(batches[-1]) < self.batch_size
        return batches[:-1] if short and len(batches) > 1 else batches

    def _augmented(
        self, rows: NDArray[np.int64], visit: NDArray[np.int64], augmentation: Augmentation, seed: int, epoch: int
    ) -> Batch:
        stream = functools.partial(rng.seed_of, seed, "view", epoch)
        return self._draw(rows, self.keys[rows] + visit.astype(np.uint64), augmentation, stream)

    def _fixed(self, rows: NDArray[np.int64], views: int) -> Batch:
        return self._draw(rows, self.keys[rows], self.augmentation, functools.partial(rng.seed_of, 0, "fixed view"))

    def _draw(
        self,
        rows: NDArray[np.int64],
        keys: NDArray[np.uint64],
        augmentation: Augmentation,
        stream: Callable[[int], int],
    ) -> Batch:
        """Draws the views 0 to V - 1 from the streams of these numbers; that of V says what is hidden."""
        drawn = []
        for number in range(self.views):
            views, intensity = random_views(augmentation, stream(number), keys)
            drawn.append(super()._normalized(self._read(rows, views, intensity)))
        inputs, targets = (
            torch.stack(parts, dim=1).flatten(0, 1)
            for parts in ([batch.inputs for batch in drawn], [batch.targets for batch in drawn])
        )
        if self.shown:
            hidden = self._hidden(keys, stream(self.views)).repeat_interleave(self.views, 0)
            inputs = targets = torch.cat([inputs, hidden.to(inputs.device)], dim=1)
        return Batch(inputs.contiguous(memory_format=self.layout), targets, np.repeat(rows, self.views))

    def _normalized(self, batch: Batch) -> Batch:
        """Gives a batch as it is: each of its views was normalized when it was drawn."""
        return batch

    def _hidden(self, keys: NDArray[np.uint64], stream: int) -> Tensor:
        """Draws which patches are hidden, as many in every image: (B, 1, S, S) of 0 and 1."""
        side = self.size // self.patch
        rank = rng.uniforms(stream, keys, side**2).argsort(axis=1).argsort(axis=1)
        hidden = torch.from_numpy(rank >= self.shown).float().reshape(-1, 1, side, side)
        return hidden.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)
