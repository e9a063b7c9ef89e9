from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from medtransfer.core.errors import UserError
from medtransfer.data.cache import Prepared
from medtransfer.data.catalog import TASKS
from medtransfer.training import probes
from medtransfer.training.loader import Batch, Loader
from medtransfer.training.probes import knn
from medtransfer.training.ssl.probe import Probe, features
from medtransfer.weights import backbones
from tests.support import fakes


class Watched(Loader):
    """Remembers which rows were read."""

    read: NDArray[np.int64]

    def evaluate(self, rows: NDArray[np.int64], views: int, after: int | None = None) -> Iterator[Batch]:
        self.read = np.union1d(getattr(self, "read", rows), rows)
        yield from super().evaluate(rows, views, after)


class Spots(nn.Module):
    """Gives two features: how bright an image is, and how much it varies; the discs of the fakes raise both."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.stack([inputs.mean((1, 2, 3)), inputs.std((1, 2, 3))], dim=1)


def probe(top: Path, folder: Path, *, data: Prepared | None = None, **changes: Any) -> Probe:
    task, params = TASKS["shenzhen"], fakes.load_params(top)
    data = data or fakes.prepared(folder, segmentation=False)
    made = fakes.loader(data, task, params.classification, params, crop_fraction=1.0)
    made.__class__ = Watched
    own: dict[str, Any] = {"every": 1, "neighbours": 5, "most": 1000}
    return Probe(task=task, prepared=data, loader=made, **(own | changes))


def backbone() -> nn.Module:
    model = backbones.bare_backbone(fakes.BACKBONE)
    model.load_state_dict(backbones.bare_state(fakes.BACKBONE, 0, "one"))
    return model


def plain_knn(train: NDArray[Any], labels: NDArray[Any], val: NDArray[Any], k: int) -> NDArray[Any]:
    """Votes sample by sample, in plain words."""
    centre, out = train.mean(0), np.full((len(val), labels.shape[1]), 0.5)
    for i, x in enumerate(val - centre):
        cosines = [float(x @ t / np.linalg.norm(x) / np.linalg.norm(t)) for t in train - centre]
        near = sorted(range(len(train)), key=lambda j: -cosines[j])[:k]
        for label in range(labels.shape[1]):
            votes = [(np.exp(cosines[j] / 0.07), labels[j, label]) for j in near if labels[j, label] >= 0]
            if votes:
                out[i, label] = sum(w * y for w, y in votes) / sum(w for w, _ in votes)
    return out


@pytest.mark.parametrize("k", [1, 3, 100])
def test_neighbours_vote_as_in_a_plain_second_implementation(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "CHUNK", 4)
    rng = np.random.default_rng(0)
    train, val = rng.normal(3, 1, (20, 6)).astype(np.float32), rng.normal(3, 1, (9, 6)).astype(np.float32)
    labels = rng.integers(-1, 2, (20, 3))
    np.testing.assert_allclose(knn(train, labels, val, k), plain_knn(train, labels, val, min(k, 20)), atol=1e-6)


def test_neighbours_without_a_label_have_no_vote() -> None:
    train = np.array([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.0]])
    labels = np.array([[-1, -1], [1, -1], [0, 0]])
    np.testing.assert_array_equal(knn(train, labels, np.array([[1.0, 0.05]]), 2), [[1.0, 0.5]])


def test_features_are_those_of_evaluation_mode_and_every_mode_is_put_back(top: Path, tmp_path: Path) -> None:
    made, model = probe(top, tmp_path), backbone()
    rows = made.prepared.rows("val")
    model.train()
    frozen: Any = model
    frozen.bn1.eval()
    modes, state = [m.training for m in model.modules()], {k: v.clone() for k, v in model.state_dict().items()}
    found = features(model, made.loader, rows)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    model.eval()
    with torch.inference_mode():
        want = torch.cat([model(batch.inputs) for batch in made.loader.evaluate(rows, 1)])
    np.testing.assert_array_equal(found, want.numpy())


def test_modes_are_put_back_after_a_fault_too(top: Path, tmp_path: Path) -> None:
    class Broken(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            raise ValueError

    made, model = probe(top, tmp_path), Broken()
    with pytest.raises(ValueError, match=r"^$"):
        features(model, made.loader, made.prepared.rows("val"))
    assert model.training


def test_the_probe_never_reads_a_test_row(top: Path, tmp_path: Path) -> None:
    made = probe(top, tmp_path)
    made.score(Spots())
    loader: Any = made.loader
    assert set(loader.read) == {*made.prepared.rows("train"), *made.prepared.rows("val")}


def test_the_score_does_not_depend_on_test(top: Path, tmp_path: Path) -> None:
    data = fakes.prepared(tmp_path, segmentation=False)
    images, samples = data.images.copy(), data.samples.copy()
    images[data.rows("test")] = 0
    samples.loc[data.rows("test"), "Tuberculosis"] = 1
    other = dataclasses.replace(data, images=images, read_samples=lambda: samples)
    assert probe(top, tmp_path, data=other).score(backbone()) == probe(top, tmp_path, data=data).score(backbone())


def test_the_score_is_the_auc_of_the_votes(top: Path, tmp_path: Path) -> None:
    made, model = probe(top, tmp_path), backbone()
    train, val = (made.prepared.rows(split) for split in ("train", "val"))
    labels = made.prepared.samples[["Tuberculosis"]].to_numpy()
    x, y = (features(model, made.loader, rows) for rows in (train, val))
    want = roc_auc_score(labels[val, 0], plain_knn(x, labels[train], y, 5)[:, 0])
    assert made.score(model) == pytest.approx(want)


def test_features_that_tell_the_classes_apart_score_one(top: Path, tmp_path: Path) -> None:
    assert probe(top, tmp_path).score(Spots()) == 1.0


def test_a_score_is_found_again_and_the_global_generator_is_left_alone(top: Path, tmp_path: Path) -> None:
    made, model = probe(top, tmp_path), backbone()
    torch.manual_seed(3)
    want = torch.rand(4)
    torch.manual_seed(3)
    assert made.score(model) == made.score(model)
    assert torch.equal(torch.rand(4), want)


def test_of_many_images_the_same_ones_are_looked_at(top: Path, tmp_path: Path) -> None:
    made = probe(top, tmp_path, most=6)
    train = made.rows("train")
    assert len(train) == 6
    assert set(train) < set(made.prepared.rows("train"))
    assert (train == made.rows("train")).all()
    assert (np.diff(train) != 1).any()  # not the first ones of the table


def test_a_task_with_masks_is_refused(top: Path, tmp_path: Path) -> None:
    made = probe(top, tmp_path)
    with pytest.raises(UserError, match="task montgomery has masks; name another task"):
        dataclasses.replace(made, task=TASKS["montgomery"])


def test_a_val_of_one_class_is_refused(top: Path, tmp_path: Path) -> None:
    data = fakes.prepared(tmp_path, segmentation=False)
    data.samples.loc[data.rows("val"), "Tuberculosis"] = 1
    with pytest.raises(UserError, match="no label has both classes in the 8 images of val"):
        probe(top, tmp_path, data=data).score(Spots())
