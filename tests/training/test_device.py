"""What a GPU would be asked to do: nothing that the host waits for, and few kernels of input a batch.

`meta` stands in for the GPU: tensors there have no values, so that whatever reads one on the host fails, and every
kernel is seen by a dispatch mode. Only what is of CUDA alone (pinned memory, streams) is not run.
"""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from medtransfer.data.catalog import TASKS
from medtransfer.params import Augmentation
from medtransfer.training import loader as loading
from medtransfer.training import objectives
from medtransfer.training.augmentation import fixed_views
from medtransfer.training.loader import Cache, Loader
from medtransfer.training.rivals import Rivals, Seat
from tests.support import fakes

GPU = torch.device("meta")
VIEWS = {
    "aten.view", "aten.view.dtype", "aten._unsafe_view", "aten.slice", "aten.select", "aten.unsqueeze", "aten.expand",
    "aten.detach", "aten.alias", "aten.empty", "aten.unbind", "aten.empty_strided", "aten.permute", "aten.reshape",
}  # fmt: skip
"""what launches no kernel"""
PUBLISHED = {
    "crop": 1.0, "crop_scale_min": 0.08, "crop_ratio_max": 4 / 3, "flip": 0.5, "rotation": 7.0, "distortion": 0.0,
    "intensity": 0.0,
}  # fmt: skip


class Kernels(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own is untyped
    """Counts what is launched on the device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.launched = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        there = [each for each in (out if isinstance(out, (list, tuple)) else [out]) if isinstance(each, torch.Tensor)]
        name = str(func).removesuffix(".default")
        base = ".".join(name.split(".")[:2])
        if any(each.device.type == GPU.type for each in there) and base not in VIEWS and name not in VIEWS:
            self.launched[name] += 1
        return out


def loader_of(shape: tuple[int, ...], size: int, masks: int = 0, resident: bool = True) -> Loader:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, shape, dtype=np.uint8)
    targets = rng.integers(0, 4, shape[:3], dtype=np.uint8) if masks else np.zeros((shape[0], 14), np.float32)
    cache = Cache(images, targets, GPU, masks or 1)
    if not resident:
        cache.resident, cache._levels = False, {}
    return Loader(
        cache, [str(number) for number in range(shape[0])], size=size, batch_size=8, crop_fraction=0.875,
        mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), channels_last=True, uncertain="" if masks else "lsr-ones",
    )  # fmt: skip


@pytest.fixture(autouse=True)
def in_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes batches in this thread, in which alone a dispatch mode sees them."""
    monkeypatch.setattr(loading, "_ahead", map)


def launched(loader: Loader, augmentation: Augmentation) -> list[int]:
    """Counts the kernels of each batch of an epoch, after one in which the levels were made."""
    rows, counts = np.arange(len(loader.keys)), list[int]()
    list(loader.train(rows, augmentation, 0, 0, 1))
    batches = iter(loader.train(rows, augmentation, 0, 1, 1))
    while True:
        with Kernels() as kernels:
            if next(batches, None) is None:
                return counts
        counts.append(sum(kernels.launched.values()))


@pytest.mark.parametrize(
    ("shape", "size", "masks", "changes", "most"),
    [
        ((32, 256, 256), 224, 0, {}, 12),  # the published classification: one level
        ((32, 256, 256), 224, 0, {"intensity": 0.5}, 17),
        ((32, 256, 256), 64, 0, {}, 22),  # four levels
        ((32, 224, 224), 224, 1, {"rotation": 0.0, "intensity": 0.3, "crop": 0.25}, 16),
    ],
)
def test_a_batch_of_input_takes_few_kernels_and_the_host_never_waits(
    shape: tuple[int, ...], size: int, masks: int, changes: dict[str, float], most: int
) -> None:
    loader = loader_of(shape, size, masks)
    augmentation = Augmentation(**PUBLISHED | changes)
    counts = launched(loader, augmentation)
    assert len(counts) == 4
    assert 8 <= min(counts) <= max(counts) <= most, counts
    (batch, *_) = loader.train(np.arange(8), augmentation, 0, 0, 1)
    assert batch.inputs.device == batch.targets.device == GPU


def test_distortions_are_the_only_thing_that_takes_many_kernels() -> None:
    augmentation = Augmentation(**PUBLISHED | {"rotation": 0.0, "distortion": 0.3, "intensity": 0.3})
    assert max(launched(loader_of((32, 224, 224), 224, 1), augmentation)) <= 50


def test_a_cache_that_a_gpu_does_not_hold_comes_from_the_memory_map() -> None:
    counts = launched(loader_of((32, 256, 256), 224, 0, resident=False), Augmentation(**PUBLISHED))
    assert max(counts) <= 13, counts  # one copy more


def test_rivals_add_one_kernel_of_input_each() -> None:
    augmentation = Augmentation(**PUBLISHED)
    (alone, *_) = launched(loader_of((32, 256, 256), 224, 0), augmentation)
    rivals = Rivals(3)
    first = loader_of((32, 256, 256), 224, 0)
    loaders = [first, first.over(first.cache), first.over(first.cache)]
    found = list[list[int]]()

    def work(loader: Loader, seat: Seat) -> None:
        loader.seat = seat
        found.append(launched(loader, augmentation))
        seat.leave()

    threads = [threading.Thread(target=work, args=pair) for pair in zip(loaders, rivals.seats, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(map(sum, found)) == 4 * (alone + 2)


def test_val_is_read_back_once(top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the network says stays on the device until the last batch, and a batch is larger than in training."""
    trainer, data = fakes.trainer(top, tmp_path)
    read: list[int] = []

    def on_host(parts: list[Any]) -> list[Any]:
        assert all(part.device == GPU for part in parts)
        read.append(len(parts))
        return [np.zeros(tuple(part.shape)) for part in parts]

    monkeypatch.setattr("medtransfer.training.trainer.on_host", on_host)
    trainer.model.to(GPU)
    trainer.loader.cache = Cache(data.images, objectives.targets(TASKS["shenzhen"], data), GPU)
    trainer.loader.scale, trainer.loader.shift = (each.to(GPU) for each in (trainer.loader.scale, trainer.loader.shift))
    trainer.predict("val", views=10)
    step = loading.EVALUATED * trainer.protocol.batch_size // 10
    batches = -(-len(data.rows("val")) // step)
    assert read == [batches, batches]


def test_tensors_that_travel_together_arrive_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packing is tried with a device that is not called cpu, and a copy that stays."""
    sent = [torch.arange(5), torch.rand(3, 7), torch.tensor([True, False, True]), torch.zeros(0, 2), torch.rand(2)[1]]
    copies: list[torch.Tensor] = []

    class Staged(torch.Tensor):
        def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            assert kwargs == {"non_blocking": True}
            copies.append(self.as_subclass(torch.Tensor))
            return copies[-1]

    monkeypatch.setattr(loading, "staged", lambda shape: torch.empty(shape, dtype=torch.uint8).as_subclass(Staged))
    found = loading.send(sent, GPU)
    assert len(copies) == 1
    for one, other in zip(found, sent, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
        assert one.data_ptr() % loading.ALIGNED == 0 or not one.numel()


@pytest.mark.parametrize("kept", [0, 1 << 30])
def test_levels_that_are_kept_or_made_anew_are_equal(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process keeps of a growing dataset is bounded; the pixels are the same."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (70, 128, 128), dtype=np.uint8)
    masks = rng.integers(0, 2, (70, 128, 128), dtype=np.uint8)
    monkeypatch.setattr(loading, "KEPT_LEVELS", kept)
    cache = Cache(images, masks, fakes.CPU)
    views = fixed_views(70, 0.9, 1)
    found = cache.views(np.arange(70), views, 32)
    assert bool(cache._levels) == bool(kept)
    want = torch.nn.functional.interpolate(
        torch.from_numpy(np.stack([images, masks * 255], axis=1)), (32, 32), mode="bilinear", antialias=True
    )
    level = cache._level(np.arange(70), torch.arange(70), 4)
    assert torch.equal(level, want)
    assert found.shape == (70, 2, 32, 32)
