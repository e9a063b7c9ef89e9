"""Self-supervised pre-training on unlabelled phantoms: what it does to the score of the probe, from several starts.

The images are ChestX-ray14 phantoms, whose labels are not looked at. The probe is the AUC of a vote of neighbours by
frozen features on train and val of Shenzhen phantoms. `best` is the epoch that the probe itself chooses, so it is too
good by that choice; `last` is not chosen. Run it anywhere:

    PYTHONPATH=src python -m benchmarks.pretraining [--seeds 3] [--cases 0 1]

Phantoms test the software: the figures say whether a method learns, and nothing about real images.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medtransfer import conversion, objectives, phantoms, preparation, selfsupervision, streams, weights
from medtransfer import params as parameters
from medtransfer.cache import Prepared
from medtransfer.initializations import Initialization, parse
from medtransfer.loading import Cache, Loader
from medtransfer.params import Augmentation, Params
from medtransfer.probing import Probe
from medtransfer.tasks import TASKS
from medtransfer.training import Trainer

SOURCE, TARGET = TASKS["chestxray14"], TASKS["shenzhen"]
IMAGES = {SOURCE.name: 1000, TARGET.name: 1000}
DRAWN, CACHED, SIDE = 128, 80, 64
"""pixels: of the phantoms, of the cache, of the network's input"""
STEPS = 32
"""of an epoch, at least"""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """A method, its start and its settings."""

    method: str
    start: str
    lr: float
    epochs: int
    batch_size: int = 64
    crop: float = 0.4
    """smallest crop, as a share of the image's area"""
    projector: int = 256


CASES = (
    Case("simclr", "random@test_resnet", lr=2e-3, epochs=8),
    Case("barlow-twins", "random@test_resnet", lr=1e-3, epochs=8, crop=0.25),
    Case("vicreg", "random@test_vit", lr=2e-3, epochs=12),
    Case("mae", "random@test_vit", lr=2e-3, epochs=12, projector=64),
    Case("simclr", "imagenet@tf_efficientnet_lite0", lr=1e-4, epochs=4, batch_size=32),
)


def load(root: Path) -> tuple[Params, Prepared, Prepared]:
    """Draws and prepares the phantoms of source and target."""
    sizes = {"cache_size": CACHED, "image_size": SIDE, "changes": {}}
    changes = {"phantoms.images": IMAGES, "tasks": dict.fromkeys(IMAGES, sizes), "data.phantoms": True}
    overrides = {name: json.dumps(value) for name, value in changes.items()}
    params = parameters.load(Path(__file__).parents[1] / "params.yaml", overrides)
    for seed, (dataset, images) in enumerate(IMAGES.items()):
        folder = root / "data/phantoms" / dataset
        phantoms.write(dataset, folder, images=images, size=DRAWN, seed=seed, contrast=1.0)
    return params, preparation.prepare(SOURCE, params, root), preparation.prepare(TARGET, params, root)


def trainer(
    case: Case, init: Initialization, params: Params, source: Prepared, probe: Probe, common: dict[str, Any], seed: int,
    root: Path,
) -> Trainer:  # fmt: skip
    """Builds the training of a case."""
    views = Augmentation(
        crop=1.0, crop_scale_min=case.crop, crop_ratio_max=4 / 3, flip=0.5, rotation=10.0, distortion=0.0, intensity=0.8
    )
    settings = selfsupervision.Settings(projector=case.projector, temperature=0.2, masked=0.6)
    goal = selfsupervision.objective(case.method, settings, probe)
    tensors = weights.state(init, root, streams.seed_of(seed, "backbone"), "one")
    cache = Cache(source.images, np.zeros((len(source.images), 0), np.float32), CPU)
    folder = Path(tempfile.mkdtemp(dir=root))
    built = Trainer(
        goal.build(init.backbone, tensors, streams.seed_of(seed, "head"), SIDE),
        goal,
        goal.loader(cache, source.samples["id"].tolist(), backbone=init.backbone, augmentation=views, **common),
        {split: source.rows(split) for split in ("train", "val")},
        protocol=dataclasses.replace(
            params.classification, optimizer="adamw", lr=case.lr, weight_decay=1e-4, batch_size=case.batch_size,
            schedule="cosine", warmup_epochs=1, max_epochs=case.epochs, min_steps=STEPS, patience=case.epochs,
            monitor="val_probe", augmentation=views,
        ),
        engine=params.engine, seed=seed, device=CPU, folder=folder,
    )  # fmt: skip
    goal.follow(built)
    return built


def run(case: Case, params: Params, source: Prepared, target: Prepared, seed: int, root: Path) -> list[float]:
    """Trains a case; returns the scores of the probe before the training and after each epoch."""
    init = parse(case.start, params.model.backbone)
    weights.obtain(init, root)
    mean, std = conversion.normalization(init, "init")
    common: dict[str, Any] = {
        "size": SIDE, "batch_size": case.batch_size, "crop_fraction": 1.0, "mean": mean, "std": std,
        "channels_last": True,
    }  # fmt: skip
    cache = Cache(target.images, objectives.targets(TARGET, target), CPU)
    loader = Loader(cache, target.samples["id"].tolist(), **common)
    probe = Probe(task=TARGET, prepared=target, loader=loader, every=1, neighbours=20, most=1000)
    built = trainer(case, init, params, source, probe, common, seed, root)
    network: Any = built.model
    before = probe.score(network.backbone)
    fit = built.run(lambda scores, epoch: None, lambda progress: None)
    return [before, *(scores["val_probe"] for scores in fit.history)]


def row(case: Case, runs: np.ndarray[Any, np.dtype[np.float64]], seconds: float) -> str:
    """Writes a row of the table."""
    before, last, best = runs[:, 0], runs[:, -1], runs[:, 1:].max(1)
    gains = ", ".join(f"{gain:+.3f}" for gain in last - before)
    steps = case.epochs * STEPS
    return (
        f"| {case.method} | {case.start} | {steps} x {case.batch_size} | {before.mean():.3f} | {last.mean():.3f} | "
        f"{best.mean():.3f} | {(last - before).mean():+.3f} ({gains}) | {seconds:.0f} |"
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cases", type=int, nargs="+", default=range(len(CASES)), help="numbers of the rows")
    options = parser.parse_args()
    logging.getLogger("medtransfer").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        params, source, target = load(root)
        counts = [len(part.rows(split)) for part, split in ((source, "train"), (target, "train"), (target, "val"))]
        print("{} unlabelled images; probe: {} of train, {} of val".format(*counts))
        print("\n| method | start | steps x images | before | last | best | last - before (seeds) | seconds |")
        print("|---|---|---|---|---|---|---|---|")
        for case in (CASES[number] for number in options.cases):
            begun = time.perf_counter()
            runs = np.array([run(case, params, source, target, seed, root) for seed in range(options.seeds)])
            print(row(case, runs, time.perf_counter() - begun), flush=True)


if __name__ == "__main__":
    main()
