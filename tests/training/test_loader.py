from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medtransfer import params as parameters
from medtransfer.data.catalog import TASKS
from medtransfer.training.loader import Cache, Loader, _ahead
from tests.support import fakes


def make(top: Path, tmp_path: Path, **changes: object) -> tuple[Loader, parameters.Training, np.ndarray]:
    params = fakes.load_params(top)
    protocol = parameters.protocol(params, "shenzhen", False)
    data = fakes.prepared(tmp_path, segmentation=False)
    return fakes.loader(data, TASKS["shenzhen"], protocol, params, **changes), protocol, data.rows("train")


def epoch(built: tuple[Loader, parameters.Training, np.ndarray], seed: int, number: int) -> list[torch.Tensor]:
    loader, protocol, rows = built
    return [b.inputs for b in loader.train(rows, protocol.augmentation, seed, number, 1)]


def test_two_initializations_see_identical_batches_under_one_seed(top: Path, tmp_path: Path) -> None:
    """Their normalizations differ, so the pixels are compared after it is undone."""
    one = make(top, tmp_path, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    two = make(top, tmp_path, mean=(0.5, 0.4, 0.3), std=(0.25, 0.25, 0.5))
    mean, std = torch.tensor([0.5, 0.4, 0.3]).reshape(1, 3, 1, 1), torch.tensor([0.25, 0.25, 0.5]).reshape(1, 3, 1, 1)
    for a, b in zip(epoch(one, 1, 0), epoch(two, 1, 0), strict=True):
        torch.testing.assert_close(a, b * std + mean, atol=1e-6, rtol=0)
    same = make(top, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(epoch(same, 1, 2), epoch(make(top, tmp_path), 1, 2), strict=True))


def test_epochs_and_seeds_differ(top: Path, tmp_path: Path) -> None:
    built = make(top, tmp_path)
    first = epoch(built, 0, 0)[0]
    assert not torch.equal(first, epoch(built, 0, 1)[0])
    assert not torch.equal(first, epoch(built, 1, 0)[0])


def test_every_sample_comes_once_a_pass_and_batch_size_changes_no_augmentation(top: Path, tmp_path: Path) -> None:
    loader, protocol, rows = make(top, tmp_path)
    batches = list(loader.train(rows, protocol.augmentation, 0, 0, 1))
    seen = np.concatenate([b.rows for b in batches])
    assert sorted(seen) == sorted(rows)
    other, _, _ = make(top, tmp_path, batch_size=32)
    (single,) = other.train(rows, protocol.augmentation, 0, 0, 1)
    np.testing.assert_array_equal(single.rows, seen)
    torch.testing.assert_close(single.inputs, torch.cat([b.inputs for b in batches]))


def test_a_small_set_gets_whole_passes_until_min_steps(top: Path, tmp_path: Path) -> None:
    loader, protocol, rows = make(top, tmp_path)
    batches = list(loader.train(rows, protocol.augmentation, 0, 0, 10))
    assert len(batches) == 12  # 3 passes of 4 steps reach 10
    counts = np.bincount(np.concatenate([b.rows for b in batches]), minlength=len(rows))
    assert (counts[rows] == 3).all()
    visits = [b.inputs[b.rows == rows[0]] for b in batches]
    a, b, c = [v[0] for v in visits if len(v)]
    assert not torch.equal(a, b)
    assert not torch.equal(b, c)


def test_a_last_batch_of_one_is_left_out(top: Path, tmp_path: Path) -> None:
    loader, _, rows = make(top, tmp_path, batch_size=31)
    assert [len(b) for b in loader.order(rows, 0, 0, 1)] == [31]


@pytest.mark.parametrize("views", [1, 10])
def test_evaluation_sees_every_row_once_in_order(top: Path, tmp_path: Path, views: int) -> None:
    loader, _, rows = make(top, tmp_path)
    seen = np.concatenate([b.rows for b in loader.evaluate(rows, views)])
    np.testing.assert_array_equal(seen, np.repeat(rows, views))


def test_gray_is_repeated_and_normalized(top: Path, tmp_path: Path) -> None:
    loader, _, rows = make(top, tmp_path, crop_fraction=1.0, size=fakes.SIDE)
    batch = next(iter(loader.evaluate(rows[:2], 1)))
    image = torch.from_numpy(np.asarray(loader.cache._images[rows[0]])).float() / 255
    torch.testing.assert_close(batch.inputs[0, 0], (image - 0.485) / 0.229, atol=1e-4, rtol=0)
    torch.testing.assert_close(batch.inputs[0, 2], (image - 0.406) / 0.225, atol=1e-4, rtol=0)
    assert batch.inputs.is_contiguous(memory_format=torch.channels_last)


def test_a_cache_that_is_not_resident_gives_the_same_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (6, 128, 128), dtype=np.uint8)
    from medtransfer.training.augmentation import fixed_views

    kept, gathered = (Cache(images, np.zeros((6, 1), np.float32), torch.device("cpu")) for _ in range(2))
    gathered.resident = False
    views = fixed_views(6, 0.9, 1)
    torch.testing.assert_close(kept.views(np.arange(6), views, 32), gathered.views(np.arange(6), views, 32))


def test_work_ahead_keeps_order_and_hands_errors_over() -> None:
    def make_one(i: int) -> int:
        if i == 3:
            raise ValueError("three")
        return i * 10

    produced: list[Any] = list(_ahead(make_one, [0, 1, 2]))
    assert produced == [0, 10, 20]
    with pytest.raises(ValueError, match="three"):
        list(_ahead(make_one, [0, 1, 2, 3, 4]))
