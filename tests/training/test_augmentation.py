from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from torchvision.transforms import TenCrop

from medtransfer.core import rng
from medtransfer.params import Augmentation
from medtransfer.training.augmentation import Views, fixed_views, random_views, sample
from medtransfer.training.loader import Cache

SIZE = 32
OFF = Augmentation(
    crop=0.0, crop_scale_min=0.1, crop_ratio_max=1.0, flip=0.0, rotation=0.0, distortion=0.0, intensity=0.0
)


def smooth(count: int, side: int) -> np.ndarray:
    y, x = np.mgrid[0 : 6 : side * 1j, 0 : 6 : side * 1j]
    return (
        np.stack([127 + 60 * np.sin(x + i) + 60 * np.cos(1.3 * y - i) for i in range(count)]).round().astype(np.uint8)
    )


def keys(count: int) -> np.ndarray:
    return rng.sample_keys([str(i) for i in range(count)])


def cache(images: np.ndarray, masks: np.ndarray | None = None) -> Cache:
    targets = np.zeros((len(images), 1), np.float32) if masks is None else masks
    return Cache(images, targets, torch.device("cpu"))


def view(box: tuple[float, float, float, float], flip: float = 1.0, angle: float = 0.0) -> Views:
    return Views(torch.tensor([box]), torch.tensor([flip]), torch.tensor([angle]), angle != 0)


@pytest.mark.parametrize(("side", "crop", "tolerance"), [(64, 32, 0.51), (256, 128, 1.0), (256, 256, 1.0)])
def test_crop_and_flip_are_torchvisions(side: int, crop: int, tolerance: float) -> None:
    images = smooth(1, side)
    box = (2 * (crop / 2) / side - 1, 1 - 2 * (crop / 2) / side, crop / side, crop / side)  # lower left corner
    got = cache(images).views(np.array([0]), view(box, flip=-1.0), SIZE)
    source = torch.from_numpy(images)[None].float()
    want = TF.horizontal_flip(TF.resized_crop(source, side - crop, 0, crop, crop, [SIZE, SIZE], antialias=True))
    assert (got - want).abs().mean() < tolerance


@pytest.mark.parametrize("degrees", [7.0, -7.0, 40.0, 90.0, 180.0])
def test_rotation_is_torchvisions_with_black_corners(degrees: float) -> None:
    images = smooth(1, SIZE) | 1  # nowhere zero
    got = sample(torch.from_numpy(images)[None].float(), view((0, 0, 1, 1), angle=math.radians(degrees)), SIZE)
    want = TF.rotate(torch.from_numpy(images)[None].float(), degrees, interpolation=TF.InterpolationMode.BILINEAR)
    inside = (want > 0) & (got > 0)
    assert (got - want).abs()[inside].mean() < 2.0  # torchvision blends the border with black, we do not
    assert ((want > 0) != (got > 0)).float().mean() < 0.08


def test_shrinking_does_not_alias() -> None:
    board = np.tile(np.array([[0, 255], [255, 0]], np.uint8), (64, 64))[None]
    got = cache(board).views(np.array([0]), view((0, 0, 1, 1)), SIZE)
    assert (got - 127.5).abs().max() < 3


def test_ten_views_are_torchvisions_tencrop() -> None:
    images = smooth(1, 64)
    crop = TenCrop(56)(torch.from_numpy(images))
    got = cache(images).views(np.zeros(10, np.int64), fixed_views(1, 0.875, 10), 56)
    torch.testing.assert_close(got, torch.stack(list(crop)).float(), atol=1e-2, rtol=0)


def test_image_and_mask_bend_together() -> None:
    masks = (smooth(6, 96) > 127).astype(np.uint8)
    everything = Augmentation(
        crop=1.0, crop_scale_min=0.3, crop_ratio_max=1.3, flip=0.5, rotation=20.0, distortion=1.0, intensity=0.0
    )
    views, _ = random_views(everything, 3, keys(6))
    got = cache(masks * np.uint8(255), masks).views(np.arange(6), views, SIZE)
    torch.testing.assert_close(got[:, 0], got[:, 1])


def test_nothing_asked_nothing_changed() -> None:
    images = smooth(4, SIZE)
    views, intensity = random_views(OFF, 0, keys(4))
    assert intensity is None
    got = cache(images).views(np.arange(4), views, SIZE)
    torch.testing.assert_close(got[:, 0], torch.from_numpy(images).float(), atol=1e-3, rtol=0)


def test_crops_have_the_asked_area_and_stay_inside() -> None:
    asked = Augmentation(
        crop=1.0, crop_scale_min=0.08, crop_ratio_max=4 / 3, flip=0.5, rotation=7.0, distortion=0.0, intensity=0.0
    )
    views, _ = random_views(asked, 1, keys(4000))
    x, y, w, h = views.boxes.T
    assert (x.abs() + w).max() <= 1 + 1e-6
    assert (y.abs() + h).max() <= 1 + 1e-6
    assert 0.079 < (w * h).min() < 0.1
    assert 0.5 < (w * h).mean() < 0.56
    assert abs((views.flip < 0).float().mean() - 0.5) < 0.03
    assert math.radians(6.9) < views.angle.abs().max() <= math.radians(7)


def test_distortions_and_intensity_come_as_often_as_asked_and_are_mild() -> None:
    asked = Augmentation(
        crop=0.0, crop_scale_min=0.5, crop_ratio_max=1.0, flip=0.0, rotation=0.0, distortion=0.3, intensity=0.3
    )
    views, intensity = random_views(asked, 1, keys(3000))
    assert views.kinds is not None
    assert intensity is not None
    np.testing.assert_allclose(np.bincount(views.kinds, minlength=4) / 3000, [0.7, 0.1, 0.1, 0.1], atol=0.02)
    gain, offset, gamma = intensity.unbind()
    linear, power = (gain != 1).float().mean(), (gamma != 1).float().mean()
    assert abs(linear - 0.15) < 0.02
    assert abs(power - 0.15) < 0.02
    assert 0.8 <= gain.min() <= gain.max() <= 1.2
    assert offset.abs().max() <= 0.2


@pytest.mark.slow
def test_elastic_field_has_the_published_strength() -> None:
    asked = Augmentation(
        crop=0.0, crop_scale_min=0.5, crop_ratio_max=1.0, flip=0.0, rotation=0.0, distortion=1.0, intensity=0.0
    )
    from medtransfer.training.augmentation import sampling_grid

    views, _ = random_views(asked, 1, keys(300))
    assert views.kinds is not None
    plain, _ = sampling_grid(Views(views.boxes, views.flip, views.angle), 224)
    bent, _ = sampling_grid(views, 224)
    pixels = (bent - plain)[torch.from_numpy(views.kinds == 1)] * 112
    assert 2.5 < pixels.std() < 3.6  # 3.25 at the knots, a little less between them
