"""The same work by its usual tools and by this package: in turns within one run, by CPU time on one thread.

    PYTHONPATH=src python benchmarks/peers.py [--only input delong] [--path kornia=/folder]

3.0 in the table: the peer takes three times our CPU time. Before a pair is measured, both sides are asserted to compute
the same. `--path` names a folder that a peer is imported from, as `pip install --target /folder` fills it; a peer that
is not there is named below the table and left out.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import importlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import numpy as np
import pandas as pd
import timm
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from numpy.typing import NDArray
from PIL import Image
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no types
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import input as inputs
import pretraining
import step
from medtransfer import params as parameters
from medtransfer.data.cache import Prepared
from medtransfer.data.phantoms import write
from medtransfer.params import Augmentation
from medtransfer.statistics import bootstrap, delong
from medtransfer.training import probes
from medtransfer.training.augmentation import Views
from medtransfer.training.loader import Cache, Loader
from medtransfer.training.ssl import methods
from medtransfer.training.trainer import Trainer
from medtransfer.weights import store
from medtransfer.weights.names import parse
from medtransfer.weights.records import IMAGENET_MEAN, IMAGENET_STD

INSTALL = {
    "kornia": "kornia kornia-rs",
    "albumentations": "albumentations==2.0.8 albucore==0.0.24 stringzilla simsimd opencv-python-headless",
    "MLstatkit": "MLstatkit",
}
"""peer -> what pip installs for it, numpy and torch left as they are"""
PROGRAMS = {"mednet": "mednet", "eva": "kaiko-eva[vision]"}
"""peer that is a whole program, in an environment of its own -> what pip installs; what both environments have is taken
from this one"""
NOT_ALIKE = (
    "Optuna's bare loop: `tuning.py` measures what a study adds to its trainings",
    "the whole commands `mednet train lwnet drive` and `eva fit --config ...`: mednet validates on train, for its DRIVE"
    " has no val, and does not stop early; eva stops a probe once val's accuracy has not risen for 9 epochs, here "
    "after 10 with an AUC of 0.82 (0.6 CPU s)",
)
BATCH = 32
AUGMENTATION = Augmentation(
    crop=1.0, crop_scale_min=0.08, crop_ratio_max=4 / 3, flip=0.5, rotation=7.0, distortion=0.0, intensity=0.0
)
"""of the published classification"""
TEST_IMAGES = (1_000, 25_596)
"""of a small test set, and of ChestX-ray14's"""
STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0)
GRAY_LEVELS = 2.5
"""of 255: mean difference that two ways to interpolate noisy images may have"""

Images = NDArray[np.uint8]
View = Callable[[Images], Tensor]
"""images (B, H, W) -> one view of each, (B, 1, S, S), from 0 to 255"""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The same work by both sides."""

    work: str
    peer: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    same: Callable[[Any, Any], str]
    """(our result, theirs) -> what is equal; raises where it is not"""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Crop, flip and rotation."""

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    degrees: float = 7.0


FIXED = Geometry(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=1.0, degrees=0.0)
"""leaves nothing to chance, so that pixels can be compared"""


def usual_change(size: int, geometry: Geometry) -> transforms.Compose:
    """Builds torchvision's usual transforms of a training image."""
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size, geometry.scale, geometry.ratio),
            transforms.RandomHorizontalFlip(geometry.flip),
            transforms.RandomRotation(geometry.degrees),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


class Files(Dataset[Tensor]):
    """Images that are decoded and changed as usual."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths, self.change = paths, usual_change(inputs.SIZE, Geometry())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return cast(Tensor, self.change(Image.open(self.paths[index]).convert("RGB")))


def our_loader(images: Images) -> Loader:
    """Builds our loader of a prepared cache."""
    cache = Cache(images, np.zeros((len(images), 14), np.float32), torch.device("cpu"))
    return Loader(
        cache, [str(i) for i in range(len(images))],
        size=inputs.SIZE, batch_size=BATCH, crop_fraction=0.875, mean=IMAGENET_MEAN, std=IMAGENET_STD,
        channels_last=True,
    )  # fmt: skip


def peer(name: str) -> Any:
    """Imports a peer; where that fails, says as text how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        how = f"`pip install --no-deps --target /folder {INSTALL.get(name)}`, then `--path {name}=/folder`"
        if name in PROGRAMS:
            place = f"/folder/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
            how = f"`python -m venv /folder; /folder/bin/pip install {PROGRAMS[name]}`, then `--path {name}={place}`"
        return f"{name} ({error}): {how}"


def torchvision_view(geometry: Geometry) -> View:
    """Draws views by torchvision's transforms of PIL images."""
    steps = [
        transforms.RandomResizedCrop(inputs.SIZE, geometry.scale, geometry.ratio),
        transforms.RandomHorizontalFlip(geometry.flip),
        transforms.RandomRotation(geometry.degrees),
    ]
    change = transforms.Compose(steps if geometry.degrees else steps[:2])
    return lambda images: torch.stack(
        [torch.from_numpy(np.array(change(Image.fromarray(one))))[None] for one in images]
    )


def kornia_view(module: Any, geometry: Geometry) -> View:
    """Draws views by kornia, a batch at a time."""
    size, side = (inputs.SIZE, inputs.SIZE), {"align_corners": False}
    steps = [
        module.RandomResizedCrop(size, geometry.scale, geometry.ratio, **side),
        module.RandomHorizontalFlip(p=geometry.flip),
        module.RandomRotation(geometry.degrees, p=1.0, **side),
    ]
    change = nn.Sequential(*(steps if geometry.degrees else steps[:2]))
    return lambda images: cast(Tensor, change(torch.from_numpy(images)[:, None].float()))


def albumentations_view(module: Any, geometry: Geometry) -> View:
    """Draws views by albumentations."""
    importlib.import_module("cv2").setNumThreads(1)
    steps = [
        module.RandomResizedCrop((inputs.SIZE, inputs.SIZE), geometry.scale, geometry.ratio),
        module.HorizontalFlip(p=geometry.flip),
        module.Rotate(geometry.degrees, p=1.0),
    ]
    change = module.Compose(steps if geometry.degrees else steps[:2])
    return lambda images: torch.stack([torch.from_numpy(change(image=one)["image"])[None] for one in images])


def all_batches(view: View, images: Images) -> int:
    """Makes the batches of an epoch, normalized, in three channels."""
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    order, done = np.random.permutation(len(images)), 0
    for start in range(0, len(order), BATCH):
        done += len((view(images[order[start : start + BATCH]]) / 255 - mean) / std)
    return done


def training_input() -> Iterator[Pair | str]:
    """Compares augmented batches: 224 px from gray images of 256 px in memory, and from PNG."""
    images = inputs.make_images(128, 256)
    loader, rows, epochs = our_loader(images), np.arange(len(images)), count()

    def ours() -> int:
        return sum(len(batch.inputs) for batch in loader.train(rows, AUGMENTATION, 0, next(epochs), 1))

    def alike(fixed: View) -> Callable[[Any, Any], str]:
        def same(mine: Any, other: Any) -> str:
            whole = Views(torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 8), torch.full((8,), -1.0), torch.zeros(8))
            apart = float((loader.cache.views(rows[:8], whole, inputs.SIZE) - fixed(images[:8])).abs().mean())
            assert mine == other == len(images), (mine, other)
            assert apart < GRAY_LEVELS, apart
            return f"pixels of a resized, flipped image: {apart:.1f} of 255 apart"

        return same

    found: dict[str, Any] = {"torchvision on PIL": torchvision_view}
    for name, module, make in (
        ("kornia", "kornia.augmentation", kornia_view),
        ("albumentations", "albumentations", albumentations_view),
    ):
        there = peer(name)
        if isinstance(there, str):
            yield there
        else:
            found[name] = functools.partial(make, importlib.import_module(module))
    for title, draws in found.items():
        yield Pair(
            work="input: batches from arrays in memory", peer=title, ours=ours,
            theirs=functools.partial(all_batches, draws(Geometry()), images), same=alike(draws(FIXED)),
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for side in (256, 1024):
            paths = [Path(folder) / f"{side}_{i}.png" for i in range(64)]
            for path, image in zip(paths, inputs.make_images(len(paths), side), strict=True):
                Image.fromarray(image).save(path)
            batches = DataLoader(Files(paths * 2), BATCH, shuffle=True)
            yield Pair(
                work=f"input: after `prepare`; the peer decodes PNG of {side} px", peer="torchvision on PIL",
                ours=ours, theirs=functools.partial(lambda batches: sum(map(len, batches)), batches),
                same=alike(torchvision_view(FIXED)),
            )  # fmt: skip


def equal_counts(already: str) -> Callable[[Any, Any], str]:
    """Asserts that both sides saw as many images; what else is equal was asserted before."""

    def same(mine: Any, other: Any) -> str:
        assert mine == other, (mine, other)
        return already

    return same


class Arrays(Dataset[tuple[Tensor, Tensor]]):
    """Images in memory with labels, changed as usual."""

    def __init__(self, images: Images, labels: Tensor, change: Callable[[Any], Any]) -> None:
        self.images, self.labels, self.change = images, labels, change

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        return self.change(Image.fromarray(self.images[index]).convert("RGB")), self.labels[index]


def usual_epoch(
    model: nn.Module,
    batches: DataLoader[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    layout: torch.memory_format,
) -> int:
    """Trains one epoch by the loop that everybody writes."""
    criterion, done, total = nn.BCEWithLogitsLoss(), 0, 0.0
    model.train()
    for images, labels in batches:
        optimizer.zero_grad()
        loss = criterion(model(images.to(memory_format=layout)), labels)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(images)
        done += len(images)
    return done


def training_loop() -> Iterator[Pair | str]:
    """Compares an epoch of fine-tuning at 96 px, from images in memory."""
    layouts = {"torchvision, torch in a loop": torch.contiguous_format, "the same, channels_last": torch.channels_last}
    for backbone in ("resnet18", "tf_efficientnet_lite0"):
        for title, layout in layouts.items():
            yield _epochs(backbone, 96, title, layout)


def _epochs(backbone: str, size: int, title: str, layout: torch.memory_format) -> Pair:
    params = parameters.load(Path(__file__).parent.parent / "params.yaml", {})
    trainer = step.make_trainer(backbone, size, False, params, torch.device("cpu"))
    cache, protocol, number = trainer.loader.cache, trainer.protocol, count()
    ours: Any = trainer.model
    theirs: Any = timm.create_model(backbone, num_classes=1)
    theirs.load_state_dict(ours.backbone.state_dict(), strict=False)
    theirs.get_classifier().load_state_dict(ours.head.state_dict())
    theirs.to(memory_format=layout)
    seen = torch.randn(4, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(seen), theirs.eval()(seen), rtol=1e-3, atol=1e-5)
    drawn = protocol.augmentation
    geometry = Geometry(scale=(drawn.crop_scale_min, 1.0), flip=drawn.flip, degrees=drawn.rotation)
    change = usual_change(size, geometry)
    assert cache.labels is not None
    batches = DataLoader(Arrays(cache._images, cache.labels, change), protocol.batch_size, shuffle=True)
    optimizer = torch.optim.Adam(theirs.parameters(), protocol.lr)
    return Pair(
        work=f"training: epoch of {backbone} at {size} px, batches of {protocol.batch_size}", peer=title,
        ours=lambda: trainer._train(next(number))[1], same=equal_counts("logits of equal weights"),
        theirs=lambda: usual_epoch(theirs, batches, optimizer, layout),
    )  # fmt: skip


class OtherNetwork(nn.Module):
    """Another program's network, all of it as the backbone."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.encoder = SimpleNamespace(name="resnet18", model=backbone)  # any name of timm's: no layer has its own lr

    def forward(self, images: Tensor) -> Any:
        """Answers as the network does."""
        return self.backbone(images)


def program_on_drive() -> Iterator[Pair | str]:
    """Compares epochs of the little W-Net in mednet's program with our trainer of the same network, loss and images.

    Neither side augments, validates or shows a bar; mednet writes a log and a checkpoint per epoch, as it always does.
    """
    there = peer("mednet")
    if isinstance(there, str):
        yield there
        return
    size, batch, epochs, numbers = 256, 4, 2, count()
    program, devices, source = (
        importlib.import_module(f"mednet.{name}") for name in ("engine.trainer", "engine.device", "data.segment.drive")
    )
    model = importlib.import_module("mednet.config.segment.models.lwnet").model
    splits = Path(importlib.import_module("mednet.config.segment.data.drive").__path__[0]) / "default.json"
    model.model_transforms = [type(one)(size) if hasattr(one, "size") else one for one in model.model_transforms]
    quiet = functools.partial(
        program.lightning.pytorch.Trainer, num_sanity_val_steps=0, enable_progress_bar=False, enable_model_summary=False
    )
    with tempfile.TemporaryDirectory() as folder:
        write.write("drive", Path(folder) / "drive", images=40, size=584, seed=0, contrast=1.0)
        (Path(folder) / "mednet.toml").write_text(f'[datadir]\ndrive = "{folder}/drive"\n')
        os.environ["XDG_CONFIG_HOME"] = folder  # where mednet looks for its settings

        def theirs(data: Any, images: int) -> int:
            place, device = Path(folder) / str(next(numbers)), devices.DeviceManager("cpu")
            with mock.patch.object(program.lightning.pytorch, "Trainer", quiet):
                program.run(model, data, epochs + 1, "loss", "min", device, epochs, place, 5.0, 1, None)
            return epochs * images

        for title, cached in (("mednet, which decodes in each epoch", False), ("mednet --cache-samples", True)):
            data = source.DataModule(splits)
            program.setup_datamodule(data, model, batch, False, cached, -1)
            samples = list(data.unshuffled_train_dataloader())
            images, masks = (torch.cat([one[name] for one in samples]) for name in ("image", "target"))
            if not model.normalizer_is_set():
                model.set_normalizer_from_dataloader(data.unshuffled_train_dataloader())
            trainer = _trainer_of(OtherNetwork(copy.deepcopy(model)), model.train_loss, images, masks, batch)
            yield Pair(
                work=f"program: {epochs} epochs of the little W-Net on DRIVE's layout, {size} px, batches of {batch}",
                peer=title, ours=functools.partial(_train_epochs, trainer, epochs, count()),
                theirs=functools.partial(theirs, data, len(images)),
                same=equal_counts("loss of equal weights and images to 1 %"),
            )  # fmt: skip


def _train_epochs(trainer: Trainer, epochs: int, numbers: Iterator[int]) -> int:
    return sum(trainer._train(next(numbers))[1] for _ in range(epochs))


def _trainer_of(model: nn.Module, criterion: nn.Module, images: Tensor, masks: Tensor, batch: int) -> Trainer:
    """Builds our trainer of another program's network and loss on its own images; asserts that the loss is as there."""
    params = parameters.load(Path(__file__).parent.parent / "params.yaml", {})
    pixels = (images * 255).round().byte().movedim(1, 3).numpy()
    device, still = torch.device("cpu"), {field.name: 0.0 for field in dataclasses.fields(Augmentation)}
    loader = Loader(
        Cache(pixels, masks[:, 0].byte().numpy(), device), [str(i) for i in range(len(pixels))],
        size=pixels.shape[1], batch_size=batch, crop_fraction=1.0, mean=(0.0,) * 3, std=(1.0,) * 3,
        channels_last=params.engine.channels_last,
    )  # fmt: skip
    protocol = dataclasses.replace(
        parameters.protocol(params, "drive", True), batch_size=batch, lr=0.01, min_steps=1,
        augmentation=Augmentation(**{**still, "crop_scale_min": 1.0, "crop_ratio_max": 1.0}),
    )  # fmt: skip
    goal: Any = SimpleNamespace(loss=criterion, needs_whole_batch=True)
    trainer = Trainer(
        model, goal, loader, {"train": np.arange(len(pixels))},
        protocol=protocol, engine=params.engine, seed=0, device=device, folder=Path(tempfile.gettempdir()),
    )  # fmt: skip
    mine = next(iter(loader.evaluate(np.arange(batch), 1)))
    with torch.no_grad():
        pairs = (mine.inputs, mine.targets), (images[:batch], masks[:batch])
        losses = [criterion(model.eval()(seen), truth) for seen, truth in pairs]
    torch.testing.assert_close(*losses, rtol=1e-2, atol=0.0)
    return trainer


def two_models(images: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Draws labels (images) of 10 % positives, and the scores of two models (2, images)."""
    rng = np.random.default_rng(0)
    targets = (rng.random(images) < 0.1).astype(np.int64)
    common = rng.normal(size=images)
    return targets, common + rng.normal(size=(2, images)) + targets * np.array([[1.0], [1.2]])


def areas() -> Iterator[Pair | str]:
    """Compares DeLong's test of two models."""
    there = peer("MLstatkit")
    if isinstance(there, str):
        yield there
        return

    def ours(targets: NDArray[np.int64], scores: NDArray[np.float64]) -> tuple[float, ...]:
        parts = delong.placements(targets[:, None], scores[:, :, None])
        one, two, between = delong.area(parts, 0), delong.area(parts, 1), delong.difference(parts, 1, 0)
        return tuple(cast(float, x) for x in (one.estimate, two.estimate, between.z, between.error))

    def theirs(targets: NDArray[np.int64], scores: NDArray[np.float64]) -> tuple[float, ...]:
        z, _, _, _, one, two, info = there.Delong_test(targets, *scores)
        return one, two, z, float(np.sqrt(info["var_diff"]))

    def same(mine: Any, other: Any) -> str:
        np.testing.assert_allclose(mine, other, rtol=1e-9)
        return "areas, z and standard error"

    for images in TEST_IMAGES:
        data = two_models(images)
        yield Pair(
            work=f"DeLong: 2 models on {images:,} images", peer="MLstatkit", same=same,
            ours=functools.partial(ours, *data), theirs=functools.partial(theirs, *data),
        )  # fmt: skip


def resampling() -> Iterator[Pair | str]:
    """Compares the bootstrap of AUC on the same resamples; ours leaves each patient out, too."""

    def ours(targets: NDArray[np.int64], scores: NDArray[np.float64], resamples: int) -> NDArray[Any]:
        statistic = bootstrap.mean_auc(targets[:, None], scores[:, :, None])
        return bootstrap.bootstrap(statistic, np.random.default_rng(0), resamples=resamples).values

    def by_sklearn(targets: NDArray[np.int64], scores: NDArray[np.float64], resamples: int) -> NDArray[Any]:
        rng, found = np.random.default_rng(0), np.empty((len(scores), resamples))
        for number in range(resamples):
            drawn = rng.integers(0, len(targets), len(targets))
            for model, values in enumerate(scores):
                found[model, number] = roc_auc_score(targets[drawn], values[drawn])
        return found

    def by_numpy(targets: NDArray[np.int64], scores: NDArray[np.float64], resamples: int) -> NDArray[Any]:
        rng, found = np.random.default_rng(0), np.empty((len(scores), resamples))
        orders = np.argsort(scores, axis=1)
        for number in range(resamples):
            drawn = np.bincount(rng.integers(0, len(targets), len(targets)), minlength=len(targets))
            for model, order in enumerate(orders):
                weight, positive = drawn[order], targets[order]
                positives = weight * positive
                negatives = weight - positives
                pairs = positives.sum() * negatives.sum()
                found[model, number] = positives @ np.cumsum(negatives) / pairs
        return found

    def same(mine: Any, other: Any) -> str:
        np.testing.assert_allclose(mine, other, rtol=1e-5)  # ours adds weights as floats of 32 bits
        return "AUC of each resample"

    for title, theirs, number in (
        ("sklearn in a loop", by_sklearn, 200),
        ("numpy in a loop, one sort", by_numpy, 1000),
    ):
        for images in TEST_IMAGES:
            data = *two_models(images), number
            yield Pair(
                work=f"bootstrap: {number:,} resamples of 2 models on {images:,} images", peer=title, same=same,
                ours=functools.partial(ours, *data), theirs=functools.partial(theirs, *data),
            )  # fmt: skip


def made_features(images: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Draws features as they are behind a ReLU, and labels that depend on them, half of them 1."""
    rng = np.random.default_rng(0)
    features = np.maximum(rng.normal(size=(images, width)) + rng.normal(size=(images, 1)), 0)
    score = features @ rng.normal(0, 3 / width**0.5, width) + rng.normal(size=images)
    return features, (score > np.median(score)).astype(np.int64)


def linear_probe() -> Iterator[Pair | str]:
    """Compares logistic regressions on frozen features, one for each strength of the penalty."""

    def ours(features: NDArray[np.float64], labels: NDArray[np.int64]) -> list[NDArray[Any]]:
        return [one.weight[0] for one in probes.linear(features, labels[:, None].astype(np.float32), STRENGTHS)]

    def theirs(features: NDArray[np.float64], labels: NDArray[np.int64]) -> list[NDArray[Any]]:
        scaler = StandardScaler()
        values, found = scaler.fit_transform(features), []
        for strength in STRENGTHS:
            model = LogisticRegression(C=1 / strength, tol=probes.TOLERANCE, max_iter=probes.MOST_ITERATIONS)
            found.append(model.fit(values, labels).coef_[0] / scaler.scale_)
        return found

    def same(mine: Any, other: Any) -> str:
        apart = max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(mine, other, strict=True))
        assert apart < 1e-3, apart
        return f"coefficients to {apart:.0e}"

    for images, width in ((250, 1280), (2000, 320)):
        data = made_features(images, width)
        yield Pair(
            work=f"linear probe: {images:,} images, {width:,} features, {len(STRENGTHS)} strengths",
            peer="sklearn in a loop", same=same,
            ours=functools.partial(ours, *data), theirs=functools.partial(theirs, *data),
        )  # fmt: skip


class Embeddings(Dataset[tuple[Tensor, Tensor, dict[str, Any]]]):
    """Features and labels as eva's datasets give them."""

    def __init__(self, features: NDArray[np.float64], labels: NDArray[np.int64]) -> None:
        self.features, self.labels = (torch.tensor(each, dtype=torch.float32) for each in (features, labels))

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, dict[str, Any]]:
        return self.features[index], self.labels[index], {}


def program_of_probes() -> Iterator[Pair | str]:
    """Compares a linear head on given features: eva's module under its published optimizer, and our whole grid.

    eva takes one step of SGD an epoch, as its batch of 4,096 holds all, and scores val after it; it gets as many epochs
    as its AUC on test needs to come near ours. Of our strengths val chooses one by the log loss, as in a run.
    """
    there = peer("eva")
    if isinstance(there, str):
        yield there
        return
    lightning = importlib.import_module("lightning.pytorch")
    head = importlib.import_module("eva.core.models.modules.head").HeadModule
    metrics = importlib.import_module("eva.core.metrics")
    epochs, budget, most = 400, 12_500, 4096
    features, labels = made_features(3500, 320)
    parts = {"train": slice(0, 2000), "val": slice(2000, 2500), "test": slice(2500, None)}
    data = {name: Embeddings(features[part], labels[part]) for name, part in parts.items()}

    def area(logits: NDArray[Any]) -> float:
        return float(roc_auc_score(labels[parts["test"]], logits))

    def ours() -> float:
        train, val = parts["train"], parts["val"]
        layers = probes.linear(features[train], labels[train, None].astype(np.float32), STRENGTHS)
        best = min(layers, key=lambda one: log_loss(labels[val], expit(one.logits(features[val])[:, 0])))
        return area(best.logits(features[parts["test"]])[:, 0])

    def theirs() -> float:
        torch.manual_seed(0)
        module = head(
            nn.Linear(features.shape[1], 1), nn.BCEWithLogitsLoss(),
            optimizer=lambda weights: torch.optim.SGD(weights, lr=0.01, momentum=0.9),
            lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=budget),
            metrics=metrics.structs.MetricsSchema(
                common=[metrics.AverageLoss(), metrics.BinaryClassificationMetrics()]
            ),
        )  # fmt: skip
        trainer = lightning.Trainer(
            accelerator="cpu", max_steps=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0,
        )  # fmt: skip
        trainer.fit(module, DataLoader(data["train"], most, shuffle=True), DataLoader(data["val"], most))
        with torch.no_grad():
            return area(module(data["test"].features).numpy())

    def same(mine: Any, other: Any) -> str:
        assert abs(mine - other) < 5e-3, (mine, other)
        return f"AUC on test: {other:.3f} there, {mine:.3f} here"

    yield Pair(
        work=f"program: linear head on 2,000 images, 320 features; {len(STRENGTHS)} strengths here",
        peer=f"eva's HeadModule, {epochs} epochs", ours=ours, theirs=theirs, same=same,
    )  # fmt: skip


def self_supervision() -> Iterator[Pair | str]:
    """Compares an epoch of SimCLR with the loop of lightly's examples; loss and head are lightly's on both sides."""
    size, batch, width, images = 64, 32, 256, inputs.make_images(130, 80)
    splits = ["train"] * 128 + ["val"] * 2
    table = pd.DataFrame({"id": [str(i) for i in range(len(images))], "patient": "p", "split": splits})
    source = Prepared(Path(), cast(Any, {"digest": "", "marks": [], "counts": {}}), images, None, lambda: table)
    common = {
        "size": size, "batch_size": batch, "crop_fraction": 1.0, "mean": IMAGENET_MEAN, "std": IMAGENET_STD,
        "channels_last": True,
    }  # fmt: skip
    case = pretraining.Case("simclr", "random@resnet18", lr=1e-3, epochs=1, batch_size=batch, projector=width)
    params = pretraining.load()
    with tempfile.TemporaryDirectory() as folder:
        init = parse(case.start, params.model.backbone)
        store.obtain(init, Path(folder))
        trainer = pretraining.trainer(case, init, params, source, common, 0, Path(folder))
    trainer.protocol = dataclasses.replace(trainer.protocol, min_steps=1)
    ours: Any = trainer.model
    theirs = nn.Sequential(
        timm.create_model("resnet18", num_classes=0),
        SimCLRProjectionHead(512, width, methods.EMBEDDING),
    )
    theirs[0].load_state_dict(ours.backbone.state_dict())
    theirs[1].load_state_dict(ours.head.state_dict())
    change = SimCLRTransform(
        input_size=size, cj_prob=0.8, cj_sat=0.0, cj_hue=0.0, min_scale=case.crop, random_gray_scale=0.0,
        gaussian_blur=0.0, rr_prob=1.0, rr_degrees=10.0,
    )  # fmt: skip
    batches = DataLoader(Arrays(images[:128], torch.zeros(128), change), batch, shuffle=True, drop_last=True)
    optimizer, criterion = torch.optim.AdamW(theirs.parameters(), 1e-3, weight_decay=1e-4), NTXentLoss(0.2)
    epochs = count()

    def epoch() -> int:
        theirs.train()
        done, total = 0, 0.0
        for (one, two), _ in batches:
            loss = criterion(theirs(one), theirs(two))
            total += float(loss.detach())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            done += len(one)
        return done

    with torch.no_grad():
        views = [torch.randn(8, 3, size, size) for _ in range(2)]
        joined = torch.stack(views, dim=1).flatten(0, 1)
        mine = trainer.objective.loss(ours.eval()(joined), joined)
        torch.testing.assert_close(mine, criterion(*(theirs.eval()(one) for one in views)), rtol=1e-4, atol=1e-5)

    yield Pair(
        work=f"SimCLR: epoch of resnet18 at {size} px, batches of {batch}", peer="lightly's example",
        ours=lambda: trainer._train(next(epochs))[1], theirs=epoch,
        same=equal_counts("loss of equal weights and views"),
    )  # fmt: skip


SECTIONS = {
    "input": training_input,
    "training": training_loop,
    "drive": program_on_drive,
    "delong": areas,
    "bootstrap": resampling,
    "linear": linear_probe,
    "eva": program_of_probes,
    "simclr": self_supervision,
}


def seconds(work: Callable[[], Any]) -> float:
    """Measures CPU time, that of processes too which it starts and ends."""

    def spent() -> float:
        times = os.times()
        return time.process_time() + times.children_user + times.children_system

    start = spent()
    work()
    return spent() - start


def row(pair: Pair, rounds: int) -> str:
    """Asserts that both sides agree, which warms them up, and measures them in turns."""
    equal = pair.same(pair.ours(), pair.theirs())
    spent = np.empty((rounds, 2))
    for number in range(rounds):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            spent[number, side] = seconds((pair.ours, pair.theirs)[side])
    ratios = spent[:, 1] / spent[:, 0]
    middle = f"{statistics.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
    return f"| {pair.work} | {pair.peer} | {middle} | {np.median(spent[:, 0]):.3g} | {equal} |"


def main() -> None:
    """Prints the table and what is left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--path", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    sys.path += [folder for _, _, folder in (each.partition("=") for each in options.path)]
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it asks a server for its newest version
    torch.set_num_threads(1)
    left_out = []
    print(f"One thread, median of {options.rounds} rounds in turns (smallest to largest)\n")
    print("| work | peer | the peer's CPU time / ours | ours, CPU s | equal on both sides |")
    print("|---|---|---|---|---|")
    with threadpool_limits(1):
        for name in options.only:
            for found in SECTIONS[name]():
                if isinstance(found, str):
                    left_out.append(found)
                else:
                    print(row(found, options.rounds), flush=True)
    print("\nLeft out:\n")
    print("\n".join(f"- {line}" for line in (*left_out, *NOT_ALIKE)))


if __name__ == "__main__":
    main()
