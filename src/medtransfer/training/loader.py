"""Prepared cache -> batches on the device: gather, prefilter, sample, normalize.

Legend: N images of the cache, B batch, C channels, H and W the cache's sides, S the network's input side.
"""

from __future__ import annotations

import copy
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medtransfer.core import rng
from medtransfer.params import Augmentation
from medtransfer.training.augmentation import Intensity, Views, fixed_views, random_views, sample, shrink
from medtransfer.weights.records import Triple

RESIDENT_SHARE = 0.5
"""share of a GPU's free memory that the cache may take; a larger one is gathered from the memory map"""


@dataclass(frozen=True)
class Part:
    """What one forward of this process takes of the batch of an optimizer step: its places from `start` to `stop`."""

    start: int
    stop: int
    joint: int
    """images that the forwards of all processes take at this moment"""
    images: int
    """of the whole batch"""
    last: bool
    """the optimizer steps after it"""

    @property
    def count(self) -> int:
        """Counts the images of this forward."""
        return self.stop - self.start


@dataclass(frozen=True)
class Share:
    """Which part of every training batch a process takes, and how many images at a time.

    Parts are as equal as they can be. So n processes that take m images at a time see together what one process that
    takes n x m images at a time sees.
    """

    rank: int = 0
    size: int = 1
    """number of processes"""
    micro_batch: int = 0
    """images of one forward, at most; 0: all"""

    def parts(self, images: int) -> list[Part]:
        """Cuts a batch; in a small one, a process may have nothing to take."""
        count = -(-images // (self.micro_batch * self.size)) if self.micro_batch else 1
        edges = [images * number // count for number in range(count + 1)]
        cuts = [
            [low + (high - low) * rank // self.size for rank in (self.rank, self.rank + 1)]
            for low, high in pairwise(edges)
        ]
        return [
            Part(start, stop, high - low, images, high == images)
            for (start, stop), (low, high) in zip(cuts, pairwise(edges), strict=True)
        ]


@dataclass(frozen=True)
class Batch:
    """Inputs (B, 3, S, S), normalized, and targets: labels (B, L), 0 to 1 or -1 for none, or masks (B, L, S, S)."""

    inputs: Tensor
    targets: Tensor
    rows: NDArray[np.int64]
    part: Part | None = None
    """what it is of a training batch; None: all of it"""

    @property
    def place(self) -> Part:
        """Says what it is of the batch of an optimizer step."""
        count = len(self.rows)
        return self.part or Part(0, count, count, count, True)


class Cache:
    """The images (and masks) of a prepared task, resident on the device when they fit.

    A pyramid of half-octave levels is the prefilter: a view that shrinks the image reads the level at which one
    pixel of the output covers about one of the level, so that nothing aliases.
    """

    def __init__(self, images: NDArray[np.uint8], targets: NDArray[Any], device: torch.device, planes: int = 1) -> None:
        """Takes labels (N, L) as floats or masks (N, H, W) as bytes, whose first `planes` bits are the labels."""
        self.device = device
        self.masks = targets if targets.dtype == np.uint8 else None
        self.planes = planes if self.masks is not None else 0
        self.labels = None if self.masks is not None else torch.from_numpy(np.array(targets, dtype=np.float32))
        self.side = images.shape[1]
        self.channels = 1 if images.ndim == 3 else 3
        self._images = images
        self._levels: dict[int, Tensor] = {}
        self.resident = self._fits()
        if self.resident and device.type == "cuda":
            self._levels[0] = self._gather(slice(None)).to(device)

    @property
    def width(self) -> int:
        """Counts the labels; 0 for masks."""
        return 0 if self.labels is None else self.labels.shape[1]

    def _fits(self) -> bool:
        """A memory map is resident on a CPU by nature; on a GPU all levels together must fit."""
        if self.device.type == "cpu":
            return True
        need = 2 * self._images.nbytes + (2 * self.planes * self.masks.nbytes if self.masks is not None else 0)
        return need < RESIDENT_SHARE * torch.cuda.mem_get_info(self.device)[0]

    def _gather(self, rows: Any) -> Tensor:
        """Copies images, with each label's mask scaled to 0 and 255 as a further channel, as (B, C, H, W) bytes."""
        images = np.asarray(self._images[rows])
        parts = [images[:, None] if images.ndim == 3 else np.moveaxis(images, 3, 1)]
        if self.masks is not None:
            bits = np.arange(self.planes, dtype=np.uint8)[:, None, None]
            parts.append((np.asarray(self.masks[rows])[:, None] >> bits & 1) * np.uint8(255))
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        pixels = torch.from_numpy(np.ascontiguousarray(joined))
        return pixels.pin_memory() if self.device.type == "cuda" else pixels

    def pixels(self, rows: NDArray[np.int64], level: int) -> Tensor:
        """Returns (B, C, h, w) bytes of one level: 0 is the cache, each next one has its side divided by sqrt 2."""
        if level in self._levels:
            return self._levels[level][torch.from_numpy(rows).to(self.device)]
        if level == 0 or not self.resident:
            return self._level_of(self._gather(rows).to(self.device, non_blocking=True), level)
        self._levels[level] = self._level_of_all(level)
        return self.pixels(rows, level)

    def _level_of(self, pixels: Tensor, level: int) -> Tensor:
        if level == 0:
            return pixels
        side = round(self.side * 2 ** (-level / 2))
        if pixels.device.type == "cuda":  # its kernel takes floats only
            return F.interpolate(pixels.float(), (side, side), mode="bilinear", antialias=True).round_().to(torch.uint8)
        return F.interpolate(pixels, (side, side), mode="bilinear", antialias=True)

    def _level_of_all(self, level: int) -> Tensor:
        count = len(self._images)
        chunks = [np.arange(i, min(i + 64, count)) for i in range(0, count, 64)]
        return torch.cat([self._level_of(self.pixels(chunk, 0), level) for chunk in chunks])

    def views(self, rows: NDArray[np.int64], views: Views, size: int) -> Tensor:
        """Reads one view per row: (B, C, S, S) floats from 0 to 255, masks as the last channels."""
        levels = (2 * torch.log2(shrink(views, self.side, size).clamp(min=1))).round().long().numpy()
        if (levels == levels[0]).all():
            return sample(self.pixels(rows, int(levels[0])).float(), views.to(self.device), size)
        channels = self.channels + self.planes
        out = torch.empty((len(rows), channels, size, size), device=self.device)
        for level in np.unique(levels):
            chosen = np.flatnonzero(levels == level)
            pixels = self.pixels(rows[chosen], int(level)).float()
            part = sample(pixels, views.select(chosen).to(self.device), size)
            out[torch.from_numpy(chosen).to(self.device)] = part
        return out


def passes_of(rows: int, batch_size: int, min_steps: int) -> int:
    """Counts the whole passes of an epoch: one, or as many as reach `min_steps` steps."""
    return max(1, -(-min_steps * batch_size // rows))


class Loader:
    """Batches of one task for one run: order and augmentation come from the run's named streams alone."""

    def __init__(
        self,
        cache: Cache,
        ids: list[str],
        *,
        size: int,
        batch_size: int,
        crop_fraction: float,
        mean: Triple,
        std: Triple,
        channels_last: bool,
        uncertain: str = "",
    ) -> None:
        """Takes the cache and how its batches are made; `uncertain` is the policy for labels of -1.

        `share` may be set after: what this process takes of every training batch.
        """
        self.uncertain, self.share = uncertain, Share()
        self.cache, self.size, self.batch_size, self.crop_fraction = cache, size, batch_size, crop_fraction
        self.keys = rng.sample_keys(ids)
        mean_1311, std_1311 = (torch.tensor(v, device=cache.device).reshape(1, 3, 1, 1) for v in (mean, std))
        self.scale, self.shift = 1 / (255 * std_1311), -mean_1311 / std_1311
        self.layout = torch.channels_last if channels_last else torch.contiguous_format

    def over(self, cache: Cache) -> Loader:
        """Gives a loader of other images that are seen in the same way."""
        other = copy.copy(self)
        other.cache = cache
        return other

    def order(self, rows: NDArray[np.int64], seed: int, epoch: int, min_steps: int) -> list[NDArray[np.int64]]:
        """Cuts an epoch into batches of row numbers: whole shuffled passes, as many as reach `min_steps`.

        A last batch of a single sample is left out, because batch norm cannot be trained on one.
        """
        passes = passes_of(len(rows), self.batch_size, min_steps)
        shuffled = [
            np.random.default_rng(rng.seed_of(seed, "order", epoch, number)).permutation(rows)
            for number in range(passes)
        ]
        joined = np.concatenate(shuffled)
        batches = [joined[i : i + self.batch_size] for i in range(0, len(joined), self.batch_size)]
        return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches

    def train(
        self, rows: NDArray[np.int64], augmentation: Augmentation, seed: int, epoch: int, min_steps: int
    ) -> Iterator[Batch]:
        """Yields an epoch of augmented batches, cut as `share` says; a sample seen twice in it is augmented twice.

        A process that has nothing to take of a part gets one image all the same, because not every network can be run
        on none.
        """
        seen = np.zeros(len(self.keys), dtype=np.int64)
        plan: list[tuple[NDArray[np.int64], NDArray[np.int64], Part]] = []
        for batch in self.order(rows, seed, epoch, min_steps):
            plan.extend((batch, seen[batch], part) for part in self.share.parts(len(batch)))
            np.add.at(seen, batch, 1)

        def make(item: tuple[NDArray[np.int64], NDArray[np.int64], Part]) -> Batch:
            batch, visit, part = item
            taken = slice(part.start, part.stop if part.count else part.start + 1)
            made = self._augmented(batch[taken], visit[taken], augmentation, seed, epoch)
            return Batch(made.inputs, made.targets, made.rows, part)

        yield from self._produce(make, plan)

    def _augmented(
        self, rows: NDArray[np.int64], visit: NDArray[np.int64], augmentation: Augmentation, seed: int, epoch: int
    ) -> Batch:
        stream = rng.seed_of(seed, "augmentation", epoch)
        keys = self.keys[rows] + visit.astype(np.uint64)
        views, intensity = random_views(augmentation, stream, keys)
        uniform = rng.uniforms(rng.seed_of(seed, "uncertain", epoch), keys, self.cache.width)
        return self._finish(self.cache.views(rows, views, self.size), rows, intensity, torch.from_numpy(uniform))

    def evaluate(self, rows: NDArray[np.int64], views: int) -> Iterator[Batch]:
        """Yields every row once, in order; with ten views a batch holds all views of a sample one after the other."""
        step = max(1, self.batch_size // views)
        plan = [rows[i : i + step] for i in range(0, len(rows), step)]
        yield from self._produce(lambda part: self._fixed(part, views), plan)

    def _fixed(self, rows: NDArray[np.int64], views: int) -> Batch:
        repeated = np.repeat(rows, views)
        pixels = self.cache.views(repeated, fixed_views(len(rows), self.crop_fraction, views), self.size)
        return self._finish(pixels, repeated, None)

    def _finish(
        self, pixels: Tensor, rows: NDArray[np.int64], intensity: Intensity | None, uniform: Tensor | None = None
    ) -> Batch:
        """Splits masks off, changes intensity, repeats gray to three channels and normalizes."""
        images = pixels[:, : self.cache.channels]
        if intensity is not None:
            device = self.cache.device
            images = images.mul(intensity.gain.to(device) / 255).add_(intensity.offset.to(device)).clamp_(0, 1)
            images = images.pow_(intensity.gamma.to(device)).mul_(255)
        shape = (len(images), 3, self.size, self.size)
        inputs = torch.empty(shape, device=images.device, memory_format=self.layout)
        torch.addcmul(self.shift, images, self.scale, out=inputs)
        if self.cache.labels is not None:
            labels = self.cache.labels[torch.from_numpy(rows)]
            targets = certain(labels, self.uncertain, uniform).to(self.cache.device)
        else:
            targets = (pixels[:, self.cache.channels :] > 127.5).float()
        return Batch(inputs, targets, rows)

    def _produce(self, make: Any, plan: list[Any]) -> Iterator[Batch]:
        """Makes batches one ahead in a thread where a GPU waits for a memory map; in line otherwise."""
        if self.cache.resident:
            yield from map(make, plan)
        else:
            yield from _ahead(make, plan)


def certain(labels: Tensor, policy: str, uniform: Tensor | None = None) -> Tensor:
    """Puts numbers in the place of uncertain labels, as published for CheXpert; `ignore` leaves them -1.

    Args:
        labels: (B, L) of 0, 1 and -1.
        policy: `classification.uncertain`; empty where no label is uncertain.
        uniform: (B, L) in [0, 1), for training; without it the mean is taken, so that val and test never change.
    """
    if policy in ("", "ignore"):
        return labels
    low, high = {"ones": (1.0, 1.0), "zeros": (0.0, 0.0), "lsr-ones": (0.55, 0.85), "lsr-zeros": (0.0, 0.3)}[policy]
    share = torch.full_like(labels, 0.5) if uniform is None else uniform
    return torch.where(labels < 0, low + (high - low) * share, labels)


def _ahead(make: Any, plan: list[Any], depth: int = 2) -> Iterator[Batch]:
    made: queue.Queue[Any] = queue.Queue(depth)
    stop = threading.Event()

    def work() -> None:
        try:
            for item in plan:
                if stop.is_set():
                    return
                made.put(make(item))
            made.put(None)
        except BaseException as error:  # handed to the consumer, which raises it
            made.put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := made.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        while not made.empty():
            made.get_nowait()
