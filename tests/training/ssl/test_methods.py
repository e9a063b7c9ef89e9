from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medtransfer import params as parameters
from medtransfer.core import rng
from medtransfer.core.errors import UserError
from medtransfer.data.cache import Prepared
from medtransfer.params import Augmentation, Training
from medtransfer.training import optimizer as optimizers
from medtransfer.training.fitting import NetworkSpec
from medtransfer.training.loader import Cache
from medtransfer.training.ssl.masked_autoencoder import MaskedAutoencoder, masked_loss
from medtransfer.training.ssl.methods import METHODS, SelfSupervised, Settings, check, objective
from medtransfer.training.ssl.probe import Probe
from medtransfer.training.ssl.views import ViewLoader
from medtransfer.training.trainer import Progress, Trainer
from medtransfer.weights import backbones
from medtransfer.weights.records import IMAGENET_MEAN, IMAGENET_STD
from tests.support import fakes
from tests.support.quick import quick

VIT = "test_vit"
SETTINGS = Settings(projector=64, temperature=0.2, masked=0.75)
BACKBONES = {"simclr": fakes.BACKBONE, "barlow-twins": fakes.BACKBONE, "vicreg": VIT, "mae": VIT}
VIEWS = Augmentation(
    crop=1.0, crop_scale_min=0.5, crop_ratio_max=1.3, flip=0.5, rotation=10.0, distortion=0.0, intensity=0.8
)


def network(goal: SelfSupervised, backbone: str, *, start: int = 0, head: int = 1) -> Any:
    return goal.build(NetworkSpec(backbone=backbone, image_size=32), backbones.bare_state(backbone, start, "one"), head)


def loader(goal: SelfSupervised, data: Prepared, **changes: Any) -> ViewLoader:
    cache = Cache(data.images, np.zeros((fakes.COUNT, 0), np.float32), fakes.CPU)
    own: dict[str, Any] = {
        "backbone": VIT, "augmentation": VIEWS, "size": 32, "batch_size": 8, "crop_fraction": 1.0,
        "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "channels_last": True,
    }  # fmt: skip
    return goal.loader(cache, data.samples["id"].tolist(), **(own | changes))


def protocol(top: Path, **changes: Any) -> Training:
    section = parameters.protocol(fakes.load_params(top), "shenzhen", False)
    own: dict[str, Any] = {"max_epochs": 4, "augmentation": VIEWS}
    return dataclasses.replace(section, **(own | changes))


def trainer(
    top: Path, folder: Path, method: str, *, probe: Probe | None = None, seed: int = 0, ema: float = 0.0, **changes: Any
) -> Trainer:
    torch.set_num_threads(1)
    data = fakes.prepared(folder, segmentation=False)
    goal, backbone = objective(method, SETTINGS, probe), BACKBONES[method]
    built = Trainer(
        network(goal, backbone, head=rng.seed_of(seed, "head")),
        goal,
        loader(goal, data, backbone=backbone),
        {split: data.rows(split) for split in ("train", "val")},
        protocol=protocol(top, **changes),
        engine=fakes.load_params(top).engine,
        seed=seed,
        device=fakes.CPU,
        folder=folder,
        ema=ema,
    )
    goal.follow(built)
    return built


def fit(built: Trainer) -> list[dict[str, float]]:
    built.run(lambda metrics, step: None, lambda progress: None)
    return built.fit.history


def outputs(rows: int, width: int) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


# losses


def test_simclr_is_the_published_contrastive_loss() -> None:
    z = outputs(10, 6)
    unit = (z / z.norm(dim=1, keepdim=True)).double().numpy()
    likeness = np.exp(unit @ unit.T / SETTINGS.temperature)
    terms = []
    for i in range(10):
        partner = i + 1 if i % 2 == 0 else i - 1  # views of an image stand side by side
        terms.append(-np.log(likeness[i, partner] / sum(likeness[i, j] for j in range(10) if j != i)))
    goal = objective("simclr", SETTINGS)
    assert float(goal.loss(z, z)) == pytest.approx(np.mean(terms), rel=1e-5)


def test_barlow_twins_is_the_published_loss() -> None:
    z = outputs(12, 5)
    a, b = z[0::2].double().numpy(), z[1::2].double().numpy()
    a, b = ((v - v.mean(0)) / np.sqrt(v.var(0) + 1e-5) for v in (a, b))
    c = a.T @ b / 6
    want = sum((1 - c[i, j]) ** 2 if i == j else 0.005 * c[i, j] ** 2 for i in range(5) for j in range(5))
    assert float(objective("barlow-twins", SETTINGS).loss(z, z)) == pytest.approx(want, rel=1e-4)


def test_vicreg_is_the_published_loss() -> None:
    z = outputs(12, 5)
    a, b = z[0::2].double().numpy(), z[1::2].double().numpy()
    variance = np.mean([np.maximum(0, 1 - np.sqrt(v.var(0, ddof=1) + 1e-4)).mean() for v in (a, b)])
    covariance = 0.0
    for v in (a, b):
        c = np.cov(v, rowvar=False)
        covariance += (c[~np.eye(5, dtype=bool)] ** 2).sum() / 5
    want = 25 * ((a - b) ** 2).mean() + 25 * variance + covariance
    assert float(objective("vicreg", SETTINGS).loss(z, z)) == pytest.approx(want, rel=1e-4)


def test_the_masked_loss_looks_at_hidden_patches_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    images, mask = torch.rand(2, 3, 8, 8, generator=generator), torch.zeros(2, 1, 8, 8)
    mask[0, :, :4, 4:] = 1  # patch 1 of the first image
    mask[1, :, 4:, :4] = 1  # patch 2 of the second
    predicted = torch.randn(2, 4, 48, generator=generator)
    want = []
    for image, patch, (top, left) in ((0, 1, (0, 4)), (1, 2, (4, 0))):
        pixels = images[image, :, top : top + 4, left : left + 4].permute(1, 2, 0).flatten()
        pixels = (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()
        want.append(float(((predicted[image, patch] - pixels) ** 2).mean()))
    targets = torch.cat([images, mask], 1)
    assert float(masked_loss(predicted, targets)) == pytest.approx(np.mean(want), rel=1e-5)
    predicted[:, 0] += 100  # shown in both
    assert float(masked_loss(predicted, targets)) == pytest.approx(np.mean(want), rel=1e-5)


def test_an_image_alone_has_nothing_to_be_compared_with() -> None:
    z = outputs(2, 5).requires_grad_()
    loss = objective("barlow-twins", SETTINGS).loss(z, z)
    loss.backward()  # type: ignore[no-untyped-call]  # torch's own stub is untyped
    assert float(loss.detach()) == 0
    assert z.grad is not None
    assert not z.grad.any()


# batches


def test_two_views_differ_and_stand_side_by_side(tmp_path: Path) -> None:
    data = fakes.prepared(tmp_path, segmentation=False)
    for batch in loader(objective("simclr", SETTINGS), data).train(data.rows("train"), VIEWS, 0, 0, 1):
        assert batch.inputs.shape == (16, 3, 32, 32)
        assert (batch.rows[0::2] == batch.rows[1::2]).all()
        assert len(np.unique(batch.rows)) == 8
        assert all(not torch.equal(a, b) for a, b in zip(batch.inputs[0::2], batch.inputs[1::2], strict=True))


def test_views_of_an_image_are_nearer_to_each_other_than_to_others(tmp_path: Path) -> None:
    data = fakes.prepared(tmp_path, segmentation=False)
    noise = np.random.default_rng(0).integers(0, 256, (fakes.COUNT, 1, 1), dtype=np.uint8)
    flat = dataclasses.replace(data, images=np.broadcast_to(noise, data.images.shape).copy())  # one gray each
    still = dataclasses.replace(VIEWS, rotation=0.0, intensity=0.0)
    batches = list(loader(objective("simclr", SETTINGS), flat).train(flat.rows("train"), still, 0, 0, 1))
    for batch in batches:
        assert torch.allclose(batch.inputs[0::2], batch.inputs[1::2], atol=1e-4)


def test_views_are_functions_of_seed_epoch_and_sample(tmp_path: Path) -> None:
    data = fakes.prepared(tmp_path, segmentation=False)

    def views(seed: int, epoch: int, batch_size: int) -> dict[int, Tensor]:
        made = loader(objective("simclr", SETTINGS), data, batch_size=batch_size)
        batches = made.train(data.rows("train"), VIEWS, seed, epoch, 1)
        return {int(b.rows[i]): b.inputs[i : i + 2] for b in batches for i in range(0, len(b.rows), 2)}

    first, cut, other, later = views(0, 0, 8), views(0, 0, 16), views(1, 0, 8), views(0, 1, 8)
    assert all(torch.allclose(first[row], cut[row], atol=1e-5) for row in first)
    assert all(not torch.equal(first[row], other[row]) for row in first)
    assert all(not torch.equal(first[row], later[row]) for row in first)


def test_a_batch_that_is_not_full_is_left_out_where_images_are_compared(tmp_path: Path) -> None:
    data = fakes.prepared(tmp_path, segmentation=False)
    rows = data.rows("train")[:21]
    sizes = {
        name: [len(np.unique(b.rows)) for b in loader(objective(name, SETTINGS), data).train(rows, VIEWS, 0, 0, 1)]
        for name in ("simclr", "mae")
    }
    assert sizes == {"simclr": [8, 8], "mae": [8, 8, 5]}


def test_the_views_of_val_never_change(tmp_path: Path) -> None:
    data = fakes.prepared(tmp_path, segmentation=False)
    made = loader(objective("simclr", SETTINGS), data)
    first, again = (list(made.evaluate(data.rows("val"), 1)) for _ in range(2))
    assert [len(b.rows) for b in first] == [16]
    assert torch.equal(first[0].inputs, again[0].inputs)
    assert not torch.equal(first[0].inputs[0], first[0].inputs[1])


def test_as_many_patches_are_hidden_in_every_image_and_others_in_each(tmp_path: Path) -> None:
    data = fakes.prepared(tmp_path, segmentation=False)
    goal = objective("mae", SETTINGS)
    batch = next(iter(loader(goal, data, size=64).train(data.rows("train"), VIEWS, 0, 0, 1)))
    assert batch.inputs.shape == (8, 4, 64, 64)
    assert torch.equal(batch.inputs, batch.targets)
    patches = batch.inputs[:, 3].unfold(1, 16, 16).unfold(2, 16, 16).flatten(1, 2).flatten(2)  # (B, P, 256)
    assert (patches == patches[:, :, :1]).all()
    assert (patches[:, :, 0].sum(1) == 12).all()
    assert len(torch.unique(patches[:, :, 0], dim=0)) > 4


# networks


@pytest.mark.parametrize("method", METHODS)
def test_the_backbone_is_filled_and_the_head_is_of_its_seed(method: str) -> None:
    goal, backbone = objective(method, SETTINGS), BACKBONES[method]
    start = backbones.bare_state(backbone, 0, "one")
    first, again, other = (network(goal, backbone, head=seed) for seed in (1, 1, 2))
    held = first.backbone.state_dict()
    assert held.keys() == start.keys()
    assert all(torch.equal(held[key], start[key]) for key in start if "pos_embed" not in key)  # fitted to the side
    states = [{k: v for k, v in m.state_dict().items() if not k.startswith("backbone.")} for m in (first, again, other)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])


def test_the_head_does_not_depend_on_the_weights_of_the_backbone() -> None:
    goal = objective("simclr", SETTINGS)
    first, other = (network(goal, fakes.BACKBONE, start=start) for start in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.head.parameters(), other.head.parameters(), strict=True))


def test_building_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    want = torch.rand(4)
    torch.manual_seed(3)
    for method, backbone in BACKBONES.items():
        network(objective(method, SETTINGS), backbone)
    assert torch.equal(torch.rand(4), want)


@pytest.mark.parametrize("method", METHODS)
def test_every_weight_of_backbone_and_head_learns(top: Path, tmp_path: Path, method: str) -> None:
    built = trainer(top, tmp_path, method)
    before = {name: weight.detach().clone() for name, weight in built.model.named_parameters()}
    batch = next(iter(built.loader.train(built.rows["train"], VIEWS, 0, 0, 1)))
    built.step(batch)
    still = [n for n, w in built.model.named_parameters() if w.requires_grad and torch.equal(w, before[n])]
    assert not still
    assert any(name.startswith("backbone.") for name in before)


def test_the_backbone_has_a_rate_of_its_own(top: Path) -> None:
    for method, backbone in BACKBONES.items():
        model = network(objective(method, SETTINGS), backbone)
        optimizer = optimizers.build_optimizer(model, protocol(top, backbone_lr=0.1))
        slow = {id(weight) for weight in optimizer.param_groups[1]["params"]}
        assert slow == {id(weight) for weight in model.backbone.parameters()}


def test_hidden_pixels_do_not_reach_the_prediction() -> None:
    model: MaskedAutoencoder = network(objective("mae", Settings(projector=64, temperature=1, masked=0.5)), VIT)
    inputs = torch.zeros(1, 4, 32, 32)
    inputs[:, :3] = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    inputs[:, 3, :16] = 1  # the upper two of four patches
    changed, seen = inputs.clone(), inputs.clone()
    changed[:, :3, :16] += 1
    seen[:, :3, 20, 20] += 1
    model.eval()
    with torch.inference_mode():
        assert torch.equal(model(inputs), model(changed))
        assert not torch.equal(model(inputs), model(seen))


@pytest.mark.parametrize(
    "backbone",
    [fakes.BACKBONE, "deit_tiny_distilled_patch16_224", "vit_tiny_r_s16_p8_224", "vit_small_patch16_rope_224"],
)
def test_masking_refuses_what_is_no_plain_vision_transformer(backbone: str) -> None:
    with pytest.raises(UserError, match=f"plain vision transformer.*{backbone} is none.*simclr, barlow-twins, vicreg"):
        objective("mae", SETTINGS).build(NetworkSpec(backbone=backbone, image_size=32), {}, 0)


# training


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, b.state_dict()[key]) for key, x in a.state_dict().items())


def numbers(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in scores.items() if k != "images_per_second"} for scores in history]


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_resumes_to_the_same_weights_and_other_seeds_give_others(
    top: Path, tmp_path: Path, method: str
) -> None:
    class KilledError(Exception):
        pass

    def die(progress: Progress) -> None:
        if progress.epoch == 1:
            raise KilledError

    for name in ("whole", "killed", "other"):
        (tmp_path / name).mkdir()
    whole = trainer(top, tmp_path / "whole", method, max_epochs=2)
    fit(whole)
    killed = trainer(top, tmp_path / "killed", method, max_epochs=2)
    with pytest.raises(KilledError):
        killed.run(lambda metrics, step: None, die)
    resumed = trainer(top, tmp_path / "killed", method, max_epochs=2)
    assert resumed.resume() == 1
    fit(resumed)
    assert numbers(resumed.fit.history) == numbers(whole.fit.history)
    assert same(whole.model, resumed.model)
    other = trainer(top, tmp_path / "other", method, seed=1, max_epochs=1)
    fit(other)
    assert not same(whole.model, other.model)


@pytest.mark.parametrize("method", quick(METHODS, "mae", "simclr"))
def test_the_loss_falls(top: Path, tmp_path: Path, method: str) -> None:
    history = fit(trainer(top, tmp_path, method, max_epochs=5, min_steps=8, lr=3e-3))
    assert history[-1]["train_loss"] < 0.95 * history[0]["train_loss"]
    assert "val_probe" not in history[0]


class FakeProbe:
    """Counts how often it is asked; the score rises with each."""

    every = 2

    def __init__(self) -> None:
        self.asked: list[nn.Module] = []

    def score(self, backbone: nn.Module) -> float:
        self.asked.append(backbone)
        return 0.5 + 0.1 * len(self.asked)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_probe_is_asked_every_other_epoch_and_chooses_the_best(top: Path, tmp_path: Path, ema: float) -> None:
    probe: Any = FakeProbe()
    built = trainer(top, tmp_path, "simclr", probe=probe, ema=ema, monitor="val_probe")
    scores = [scores["val_probe"] for scores in fit(built)]
    assert scores == pytest.approx([0.6, 0.6, 0.7, 0.7])
    assert built.fit.best_epoch == 2
    assert all(asked is built.model.backbone for asked in probe.asked)


def test_a_resumed_run_keeps_the_last_score_of_the_probe(top: Path, tmp_path: Path) -> None:
    first: Any = FakeProbe()
    fit(trainer(top, tmp_path, "simclr", probe=first, max_epochs=3))
    again: Any = FakeProbe()
    resumed = trainer(top, tmp_path, "simclr", probe=again)
    assert resumed.resume() == 3
    assert fit(resumed)[3]["val_probe"] == pytest.approx(0.7)
    assert not again.asked


# refusals


def test_unknown_methods_are_answered_with_a_near_one() -> None:
    with pytest.raises(UserError, match="'simclear'; the nearest valid name is simclr"):
        objective("simclear", SETTINGS)


@pytest.mark.parametrize(
    ("method", "changes", "words"),
    [
        ("simclr", {"batch_size": 1}, "batch_size >= 2 must hold for simclr.*got 1"),
        ("mae", {"monitor": "val_auc"}, "monitor of mae must be one of val_loss, got 'val_auc'; val_probe needs"),
    ],
)
def test_protocols_that_do_not_fit_are_refused(top: Path, method: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check(method, VIT, SETTINGS, protocol(top, **changes), probed=False)


def test_protocols_that_fit_are_taken(top: Path) -> None:
    check("mae", VIT, SETTINGS, protocol(top, batch_size=1), probed=False)
    check("simclr", fakes.BACKBONE, SETTINGS, protocol(top, monitor="val_probe"), probed=True)


def test_a_decoder_of_odd_width_is_refused(top: Path) -> None:
    with pytest.raises(UserError, match="projector must be a multiple of 32 for mae, got 80"):
        check("mae", VIT, dataclasses.replace(SETTINGS, projector=80), protocol(top), probed=False)


def test_a_split_of_one_image_is_refused_where_images_are_compared(top: Path, tmp_path: Path) -> None:
    built = trainer(top, tmp_path, "simclr")
    built.rows = {"train": np.arange(8), "val": np.arange(8, 9)}
    with pytest.raises(UserError, match="simclr compares images: it needs two or more in val"):
        objective("simclr", SETTINGS).follow(built)


def test_every_method_names_its_paper() -> None:
    assert all(name == method.name and method.paper for name, method in METHODS.items())
