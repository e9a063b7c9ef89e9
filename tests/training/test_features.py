from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

from medtransfer.core.errors import UserError
from medtransfer.data.cache import Prepared
from medtransfer.data.catalog import TASKS
from medtransfer.training import features, networks
from medtransfer.training.fitting import BackboneSpec
from medtransfer.training.loader import Loader
from medtransfer.weights import backbones
from tests.support import fakes

SIZE = 32
SPEC = BackboneSpec(backbone=fakes.BACKBONE, image_size=SIZE)


def made(top: Path, folder: Path, *, segmentation: bool = False) -> tuple[torch.nn.Module, Loader, Prepared]:
    params, task = fakes.load_params(top), TASKS["montgomery" if segmentation else "shenzhen"]
    data = fakes.prepared(folder / "cache", segmentation=segmentation)
    loader = fakes.loader(data, task, params.segmentation if segmentation else params.classification, params)
    build: Any = networks.pyramid if segmentation else networks.backbone
    return build(SPEC, backbones.bare_state(fakes.BACKBONE, 0, "one")).eval(), loader, data


def compute(top: Path, folder: Path, *, segmentation: bool = False, name: str = "a") -> features.Features:
    backbone, loader, _ = made(top, folder, segmentation=segmentation)
    return features.compute(backbone, loader, folder / name, "d", 16 if segmentation else 0, lambda done, of: None)


def test_features_are_timms_own_forward_to_the_last_bit(top: Path, tmp_path: Path) -> None:
    found = compute(top, tmp_path)
    _, loader, data = made(top, tmp_path)
    model = timm.create_model(fakes.BACKBONE, pretrained=False, num_classes=0)
    model.load_state_dict(backbones.bare_state(fakes.BACKBONE, 0, "one"))
    model.eval()
    loader.batch_size = features.BATCH
    with torch.inference_mode():
        for batch in loader.evaluate(np.arange(len(data.images)), 1):
            expected = model(batch.inputs.contiguous(memory_format=torch.channels_last)).numpy().astype(np.float16)
            np.testing.assert_array_equal(found.values[batch.rows], expected)
    assert found.targets is None


def test_features_at_positions_are_those_of_enlarged_maps(top: Path, tmp_path: Path) -> None:
    found = compute(top, tmp_path, segmentation=True)
    pyramid, loader, data = made(top, tmp_path, segmentation=True)
    assert found.targets is not None
    places = features.positions(loader.keys, 16, SIZE)
    assert all(len(set(row)) == 16 for row in places)
    loader.batch_size = features.BATCH
    with torch.inference_mode():
        for batch in loader.evaluate(np.arange(len(data.images)), 1):
            maps = features.dense_maps(pyramid, batch.inputs)
            assert len(maps) > 1
            enlarged = [F.interpolate(m, (SIZE, SIZE), mode="bilinear", align_corners=False) for m in maps]
            whole = torch.cat(enlarged, dim=1).flatten(2).transpose(1, 2).numpy()
            for row, values in zip(batch.rows, whole, strict=True):
                np.testing.assert_allclose(found.values[row], values[places[row]], rtol=2e-3, atol=2e-3)
            truth = batch.targets.flatten(2)[:, 0].numpy() > 0.5
            for row, values in zip(batch.rows, truth, strict=True):
                np.testing.assert_array_equal(found.targets[row] == 1, values[places[row]])


def test_a_linear_layer_on_maps_is_that_on_features_at_each_pixel(top: Path, tmp_path: Path) -> None:
    pyramid, loader, _ = made(top, tmp_path, segmentation=True)
    width, draw = features.width(pyramid, SIZE), np.random.default_rng(0)
    weight, bias = draw.normal(0, 0.1, (2, width)), draw.normal(0, 1, 2)
    model = features.LinearSegmenter(pyramid, weight, bias).eval()
    batch = next(loader.evaluate(np.arange(4), 1))
    everywhere = torch.arange(SIZE * SIZE).repeat(len(batch.rows), 1)
    with torch.inference_mode():
        logits = model(batch.inputs).flatten(2).transpose(1, 2).numpy()
        values = features.at(features.dense_maps(pyramid, batch.inputs), everywhere, SIZE).numpy()
    np.testing.assert_allclose(logits, values @ weight.T + bias, atol=1e-4)


class Killed(Exception):
    pass


@pytest.mark.parametrize("segmentation", [False, True])
def test_a_killed_pass_goes_on_to_equal_bytes(
    top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, segmentation: bool
) -> None:
    monkeypatch.setattr(features, "BATCH", 10)
    compute(top, tmp_path, segmentation=segmentation)
    backbone, loader, _ = made(top, tmp_path, segmentation=segmentation)

    def stop(done: int, of: int) -> None:
        if done >= 20:
            raise Killed

    count = 16 if segmentation else 0
    with pytest.raises(Killed):
        features.compute(backbone, loader, tmp_path / "b", "d", count, stop)
    assert features.read(tmp_path / "b", "d") is None
    seen = list[int]()
    features.compute(backbone, loader, tmp_path / "b", "d", count, lambda done, of: seen.append(done))
    assert seen[0] == 30  # two of five batches were there
    for name in (features.VALUES, features.BITS):
        one, two = tmp_path / "a" / name, tmp_path / "b" / name
        assert one.is_file() == two.is_file() == (segmentation or name == features.VALUES)
        if one.is_file():
            assert one.read_bytes() == two.read_bytes()


def test_damaged_features_are_not_believed(top: Path, tmp_path: Path) -> None:
    found = compute(top, tmp_path)
    path = tmp_path / "a" / features.VALUES
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert features.read(tmp_path / "a", "d") is None
    again = compute(top, tmp_path)
    np.testing.assert_array_equal(found.values[:-1], again.values[:-1])
    assert features.read(tmp_path / "a", "another") is None


def test_a_feature_that_16_bits_cannot_hold_is_refused(top: Path, tmp_path: Path) -> None:
    backbone, loader, _ = made(top, tmp_path)

    class Loud(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = backbone

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.inner(inputs) + 1e6
            return found

    with pytest.raises(UserError, match=r"features of rows 0 to .* are not finite numbers of 16 bits"):
        features.compute(Loud(), loader, tmp_path / "a", "d", 0, lambda done, of: None)
