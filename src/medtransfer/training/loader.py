"""Prepared cache -> batches on the device: gather, prefilter, sample, normalize.

Legend: N images of the cache, B batch, C channels, H and W the cache's sides, S the network's input side.
"""

from __future__ import annotations

import copy
import hashlib
import pickle
import queue
import threading
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medtransfer.core import rng
from medtransfer.params import Augmentation
from medtransfer.training.augmentation import Bends, Views, bends, fixed_views, grid_of, lines, random_views, shrink
from medtransfer.weights.records import Triple

if TYPE_CHECKING:
    from medtransfer.training.rivals import Seat

RESIDENT_SHARE = 0.5
"""share of a GPU's free memory that the cache may take; a larger one is gathered from the memory map"""
KEPT_LEVELS = 256 << 20
"""bytes of the levels of all images that a process keeps for a CPU, see `Cache`"""
CHUNK = 64
"""images of which a level is made at a time"""
Made = TypeVar("Made")
ALIGNED = 16
"""bytes to whose multiples tensors are laid that travel together"""
EVALUATED = 4
"""training batches' images that a GPU takes at a time where nothing is learnt: no activation is kept"""


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


def send(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Brings tensors of the host to a device in one copy that the host does not wait for."""
    if device.type == "cpu":
        return list(tensors)
    sizes = [-(-tensor.numel() * tensor.element_size() // ALIGNED) * ALIGNED for tensor in tensors]
    edges = list(accumulate(sizes, initial=0))
    packed = staged((edges[-1],))
    for tensor, start in zip(tensors, edges, strict=False):
        flat = tensor.contiguous().reshape(-1).view(torch.uint8)
        packed[start : start + len(flat)] = flat
    there = packed.to(device, non_blocking=True)
    return [
        there[start : start + tensor.numel() * tensor.element_size()].view(tensor.dtype).view(tensor.shape)
        for tensor, start in zip(tensors, edges, strict=False)
    ]


def staged(shape: Sequence[int]) -> Tensor:
    """Makes room for bytes on the host that a GPU can fetch by itself."""
    return torch.empty(tuple(shape), dtype=torch.uint8, pin_memory=torch.cuda.is_available())


class Cache:
    """The images (and masks) of a prepared task, resident on the device when they fit.

    A pyramid of half-octave levels is the prefilter: a view that shrinks the image reads the level at which one
    pixel of the output covers about one of the level, so that nothing aliases. A GPU that holds the images holds the
    levels; on a CPU they are kept while they are small, else made anew for each batch.
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
        if self.resident and device.type != "cpu":
            self._levels[0] = self._all_of(0)

    @property
    def width(self) -> int:
        """Counts the labels; 0 for masks."""
        return 0 if self.labels is None else self.labels.shape[1]

    def _fits(self) -> bool:
        """A memory map is resident on a CPU by nature; on a GPU all levels together must fit."""
        if self.device.type != "cuda":
            return True
        need = 2 * self._images.nbytes + (2 * self.planes * self.masks.nbytes if self.masks is not None else 0)
        return need < RESIDENT_SHARE * torch.cuda.mem_get_info(self.device)[0]

    def _gather(self, rows: NDArray[np.int64]) -> Tensor:
        """Copies images, with each label's mask scaled to 0 and 255 as a further channel, as (B, C, H, W) bytes."""
        shape = (len(rows), self.channels + self.planes, *self._images.shape[1:3])
        pixels = torch.empty(shape, dtype=torch.uint8) if self.device.type == "cpu" else staged(shape)
        out = pixels.numpy()
        images = np.asarray(self._images[rows])
        out[:, : self.channels] = images[:, None] if images.ndim == 3 else np.moveaxis(images, 3, 1)
        if self.masks is not None:
            bits = np.arange(self.planes, dtype=np.uint8)[:, None, None]
            np.multiply(np.asarray(self.masks[rows])[:, None] >> bits & 1, np.uint8(255), out=out[:, self.channels :])
        return pixels

    def _level(self, rows: NDArray[np.int64], places: Tensor, level: int) -> Tensor:
        """Returns (B, C, h, w) bytes of one level: 0 is the cache, each next one has its side divided by sqrt 2.

        Args:
            rows: of the images.
            places: the same, on the device.
            level: of the pyramid.
        """
        if level not in self._levels and self._keeps(level):
            self._levels[level] = self._all_of(level)
        if level in self._levels:
            return self._levels[level][places]
        return self._shrunk(self._gather(rows).to(self.device, non_blocking=True), level)

    def _keeps(self, level: int) -> bool:
        """Says whether a level of all images is made once."""
        if self.device.type != "cpu" or not self.resident:
            return self.resident
        bytes_of_all = len(self._images) * (self.channels + self.planes) * self._side(level) ** 2
        return level > 0 and bytes_of_all + sum(each.numel() for each in self._levels.values()) <= KEPT_LEVELS

    def _side(self, level: int) -> int:
        return round(float(self.side * 2 ** (-level / 2)))

    def _shrunk(self, pixels: Tensor, level: int) -> Tensor:
        if level == 0:
            return pixels
        side = self._side(level)
        if pixels.device.type != "cpu":  # a GPU's kernel takes floats only
            return F.interpolate(pixels.float(), (side, side), mode="bilinear", antialias=True).round_().to(torch.uint8)
        return F.interpolate(pixels, (side, side), mode="bilinear", antialias=True)

    def _all_of(self, level: int) -> Tensor:
        """Makes a level of all images, some at a time."""
        count, side = len(self._images), self._side(level)
        found = torch.empty((count, self.channels + self.planes, side, side), dtype=torch.uint8, device=self.device)
        for start in range(0, count, CHUNK):
            stop = min(start + CHUNK, count)
            whole = self._levels[0][start:stop] if 0 in self._levels else self._gather(np.arange(start, stop))
            found[start:stop] = self._shrunk(whole.to(self.device, non_blocking=True), level)
        return found

    def views(self, rows: NDArray[np.int64], views: Views, size: int) -> Tensor:
        """Reads one view per row: (B, C, S, S) floats from 0 to 255, masks as the last channels."""
        return self.read(rows, views, size)[0]

    def read(
        self, rows: NDArray[np.int64], views: Views, size: int, beside: Sequence[Tensor] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """Reads one view per row, and brings tensors that belong to them to the device in the same copy.

        What decides which kernels run stays on the host, which never waits for a GPU here.
        """
        levels = (2 * torch.log2(shrink(views, self.side, size).clamp(min=1))).round().long().numpy()
        order = np.argsort(levels, kind="stable")
        bent = bends(views.select(order))
        sent = [lines(views.select(order), size), torch.from_numpy(rows[order]), torch.from_numpy(np.argsort(order))]
        sent += [tensor for each in bent for tensor in (each.rows, each.numbers)]
        drawn, places, back, *rest = send([*sent, *beside], self.device)
        numbers = [Bends(each.kind, *rest[2 * at : 2 * at + 2]) for at, each in enumerate(bent)]
        grid, outside = grid_of(drawn, numbers)
        parts, start = [], 0
        for level, count in zip(*np.unique(levels, return_counts=True), strict=True):
            part = slice(start, start + count)
            pixels = self._level(rows[order[part]], places[part], int(level)).float()
            parts.append(F.grid_sample(pixels, grid[part], mode="bilinear", padding_mode="border", align_corners=False))
            start += count
        out = parts[0] if len(parts) == 1 else torch.cat(parts)
        if outside is not None:
            out.masked_fill_(outside[:, None], 0.0)
        return (out if len(parts) == 1 else out[back]), rest[2 * len(bent) :]


def passes_of(rows: int, batch_size: int, min_steps: int) -> int:
    """Counts the whole passes of an epoch: one, or as many as reach `min_steps` steps."""
    return max(1, -(-min_steps * batch_size // rows))


class Loader:
    """Batches of one task for one run: order and augmentation come from the run's named streams alone."""

    views = 1
    """inputs of each image in a batch of training or val"""

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

        `share` may be set after: what this process takes of every training batch; and `seat`, where networks of this
        process train on equal batches.
        """
        self.uncertain, self.share = uncertain, Share()
        self.seat: Seat | None = None
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

        yield from self._produce(make, plan, 2 * epoch, (augmentation, seed))

    def _augmented(
        self, rows: NDArray[np.int64], visit: NDArray[np.int64], augmentation: Augmentation, seed: int, epoch: int
    ) -> Batch:
        stream = rng.seed_of(seed, "augmentation", epoch)
        keys = self.keys[rows] + visit.astype(np.uint64)
        views, intensity = random_views(augmentation, stream, keys)
        uniform = rng.uniforms(rng.seed_of(seed, "uncertain", epoch), keys, self.cache.width)
        return self._read(rows, views, intensity, torch.from_numpy(uniform))

    def evaluation_step(self, views: int) -> int:
        """Says how many images a batch of `evaluate` holds."""
        return max(1, self.batch_size * (1 if self.cache.device.type == "cpu" else EVALUATED) // views)

    def evaluate(self, rows: NDArray[np.int64], views: int, after: int | None = None) -> Iterator[Batch]:
        """Yields every row once, in order; with ten views a batch holds all views of a sample one after the other.

        `after` is the epoch that all rivals read these rows after; None: each reads them for itself.
        """
        step = self.evaluation_step(views)
        plan = [rows[i : i + step] for i in range(0, len(rows), step)]
        stream = None if after is None else 2 * after + 1
        yield from self._produce(lambda part: self._fixed(part, views), plan, stream, (views,))

    def _fixed(self, rows: NDArray[np.int64], views: int) -> Batch:
        return self._read(np.repeat(rows, views), fixed_views(len(rows), self.crop_fraction, views), None)

    def _read(
        self, rows: NDArray[np.int64], views: Views, intensity: Tensor | None, uniform: Tensor | None = None
    ) -> Batch:
        """Reads views, splits masks off and changes intensity; what is normalized is equal for all initializations."""
        labels = None if self.cache.labels is None else certain(self.cache.labels[rows], self.uncertain, uniform)
        beside = [tensor for tensor in (intensity, labels) if tensor is not None]
        pixels, sent = self.cache.read(rows, views, self.size, beside)
        images = pixels[:, : self.cache.channels]
        if intensity is not None:
            gain, offset, gamma = sent[0].unbind()
            images = images.mul(gain / 255).add_(offset).clamp_(0, 1)
            images = images.pow_(gamma).mul_(255)
        targets = (pixels[:, self.cache.channels :] > 127.5).float() if labels is None else sent[-1]
        return Batch(images, targets, rows)

    def _normalized(self, batch: Batch) -> Batch:
        """Repeats gray to three channels and normalizes."""
        images = batch.inputs
        shape = (len(images), 3, self.size, self.size)
        inputs = torch.empty(shape, device=images.device, memory_format=self.layout)
        if images.device.type == "cpu":  # channel by channel: together they are written four times as slowly
            for place in range(3):
                one = slice(place, place + 1)
                gray = images[:, one] if self.cache.channels == 3 else images
                torch.addcmul(self.shift[:, one], gray, self.scale[:, one], out=inputs[:, one])
        else:
            torch.addcmul(self.shift, images, self.scale, out=inputs)
        return Batch(inputs, batch.targets, batch.rows, batch.part)

    def _produce(
        self, make: Callable[[Any], Batch], plan: list[Any], stream: int | None, drawn: tuple[Hashable, ...]
    ) -> Iterator[Batch]:
        """Makes batches, or takes them in step with rivals; `drawn` says how views are drawn, for both to be equal."""
        if self.seat is None or stream is None:
            yield from self._made(lambda item: self._normalized(make(item)), plan)
            return
        planned = hashlib.blake2b(pickle.dumps(plan)).hexdigest()
        of = (id(self.cache), self.size, self.crop_fraction, self.uncertain, drawn, planned)
        for batch in self.seat.batches(stream, of, lambda: self._made(make, plan)):
            yield self._normalized(batch)

    def _made(self, make: Callable[[Any], Batch], plan: list[Any]) -> Generator[Batch, None, None]:
        """Makes batches ahead in a thread where a GPU computes meanwhile; in line on a CPU."""
        if self.cache.device.type == "cpu" and self.cache.resident:
            yield from map(make, plan)
        elif self.cache.device.type != "cuda":
            yield from _ahead(make, plan)
        else:
            yield from _beside(make, plan, self.cache.device)


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


def _ahead(make: Callable[[Any], Made], plan: list[Any], depth: int = 2) -> Iterator[Made]:
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


def _beside(make: Callable[[Any], Batch], plan: list[Any], device: torch.device) -> Iterator[Batch]:
    """Makes batches ahead on a stream of their own, so that copies and input do not wait for the network's kernels."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's own stub is untyped
    stream.wait_stream(torch.cuda.current_stream(device))  # what the cache is made on

    def made(item: Any) -> tuple[Batch, torch.cuda.Event]:
        with torch.cuda.stream(stream):
            return make(item), stream.record_event()

    for batch, ready in _ahead(made, plan):
        current = torch.cuda.current_stream(device)
        current.wait_event(ready)
        for tensor in (batch.inputs, batch.targets):
            tensor.record_stream(current)  # its memory is not given out again before the network has read it
        yield batch
