"""Self-supervised pre-training on unlabelled phantoms: what it does to the scores of two probes, over seeds.

The images are ChestX-ray14 phantoms, whose labels are not looked at. A probe's score is the AUC of a vote of neighbours
by frozen features, from train to val: on other ChestX-ray14 phantoms (mean over labels), and on Shenzhen phantoms.
Nothing is chosen by it: the weights are those of the last epoch. Run it anywhere:

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
from numpy.typing import NDArray

from medtransfer import conversion, objectives, phantoms, preparation, selfsupervision, streams, weights
from medtransfer import params as parameters
from medtransfer.cache import Prepared
from medtransfer.initializations import Initialization, parse
from medtransfer.loading import Cache, Loader
from medtransfer.params import Augmentation, Params
from medtransfer.probing import Probe
from medtransfer.tasks import TASKS, Task
from medtransfer.training import Trainer

SOURCE = TASKS["chestxray14"]
TARGETS = (TASKS["chestxray14"], TASKS["shenzhen"])
IMAGES = {"chestxray14": 1500, "shenzhen": 1000}
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
    Case("barlow-twins", "random@test_resnet", lr=1e-3, epochs=8, crop=0.25, projector=128),
    Case("vicreg", "random@test_vit", lr=2e-3, epochs=12),
    Case("mae", "random@test_vit", lr=2e-3, epochs=12, projector=64),
    Case("simclr", "imagenet@tf_efficientnet_lite0", lr=1e-3, epochs=8, batch_size=32),
)


def load() -> Params:
    """Loads the parameters of the repository, with other sizes."""
    sizes = {"cache_size": CACHED, "image_size": SIDE, "changes": {}}
    changes = {"phantoms.images": IMAGES, "tasks": dict.fromkeys(IMAGES, sizes), "data.phantoms": True}
    overrides = {name: json.dumps(value) for name, value in changes.items()}
    return parameters.load(Path(__file__).parents[1] / "params.yaml", overrides)


def draw(task: Task, params: Params, root: Path, seed: int) -> Prepared:
    """Draws and prepares the phantoms of a task."""
    folder = root / "data/phantoms" / task.name
    phantoms.write(task.name, folder, images=IMAGES[task.name], size=DRAWN, seed=seed, contrast=1.0)
    return preparation.prepare(task, params, root)


def trainer(
    case: Case, init: Initialization, params: Params, source: Prepared, common: dict[str, Any], seed: int, root: Path
) -> Trainer:
    """Builds the training of a case."""
    views = Augmentation(
        crop=1.0, crop_scale_min=case.crop, crop_ratio_max=4 / 3, flip=0.5, rotation=10.0, distortion=0.0, intensity=0.8
    )
    settings = selfsupervision.Settings(projector=case.projector, temperature=0.2, masked=0.6)
    goal = selfsupervision.objective(case.method, settings)
    tensors = weights.state(init, root, streams.seed_of(seed, "backbone"), "one")
    cache = Cache(source.images, np.zeros((len(source.images), 0), np.float32), CPU)
    built = Trainer(
        goal.build(init.backbone, tensors, streams.seed_of(seed, "head"), SIDE),
        goal,
        goal.loader(cache, source.samples["id"].tolist(), backbone=init.backbone, augmentation=views, **common),
        {split: source.rows(split) for split in ("train", "val")},
        protocol=dataclasses.replace(
            params.classification, optimizer="adamw", lr=case.lr, weight_decay=1e-4, batch_size=case.batch_size,
            schedule="cosine", warmup_epochs=1, max_epochs=case.epochs, min_steps=STEPS, patience=case.epochs,
            monitor="val_loss", augmentation=views,
        ),
        engine=params.engine, seed=seed, device=CPU, folder=Path(tempfile.mkdtemp(dir=root)),
    )  # fmt: skip
    goal.follow(built)
    return built


def run(case: Case, params: Params, source: Prepared, targets: list[Prepared], seed: int, root: Path) -> list[float]:
    """Trains a case; returns the probes' scores before the training, then those after it."""
    init = parse(case.start, params.model.backbone)
    weights.obtain(init, root)
    mean, std = conversion.normalization(init, "init")
    common: dict[str, Any] = {
        "size": SIDE, "batch_size": case.batch_size, "crop_fraction": 1.0, "mean": mean, "std": std,
        "channels_last": True,
    }  # fmt: skip
    probes = []
    for task, data in zip(TARGETS, targets, strict=True):
        cache = Cache(data.images, objectives.targets(task, data), CPU)
        loader = Loader(cache, data.samples["id"].tolist(), **common)
        probes.append(Probe(task=task, prepared=data, loader=loader, every=1, neighbours=20, most=2000))
    built = trainer(case, init, params, source, common, seed, root)
    network: Any = built.model
    before = [probe.score(network.backbone) for probe in probes]
    built.run(lambda scores, epoch: None, lambda progress: None)
    return before + [probe.score(network.backbone) for probe in probes]


def row(case: Case, runs: NDArray[np.float64], seconds: float) -> str:
    """Writes a row of the table."""
    cells = [case.method, case.start, f"{case.epochs * STEPS} x {case.batch_size}"]
    for probe in range(len(TARGETS)):
        before, after = runs[:, probe], runs[:, len(TARGETS) + probe]
        gains = ", ".join(f"{gain:+.3f}" for gain in after - before)
        cells.append(f"{before.mean():.3f} -> {after.mean():.3f}: {(after - before).mean():+.3f} ({gains})")
    return f"| {' | '.join(cells)} | {seconds:.0f} |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cases", type=int, nargs="+", default=range(len(CASES)), help="numbers of the rows")
    options = parser.parse_args()
    logging.getLogger("medtransfer").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        params = load()
        source = draw(SOURCE, params, root, seed=0)
        targets = [draw(task, params, root / "targets", seed=1) for task in TARGETS]
        counts = [f"{len(data.rows('train'))} -> {len(data.rows('val'))}" for data in targets]
        print(f"{len(source.rows('train'))} unlabelled images; train -> val of the probes: {', '.join(counts)}\n")
        print(f"| method | start | steps x images | {' | '.join(f'probe {task.name}' for task in TARGETS)} | seconds |")
        print("|---|---|---|---|---|---|")
        for case in (CASES[number] for number in options.cases):
            begun = time.perf_counter()
            runs = np.array([run(case, params, source, targets, seed, root) for seed in range(options.seeds)])
            print(row(case, runs, time.perf_counter() - begun), flush=True)


if __name__ == "__main__":
    main()
