"""Self-supervised pre-training on images without labels: what it does to the scores of probes, over seeds.

A probe's score is the AUC of a vote of 20 neighbours by frozen features, from train to val of a labelled task. Every
case is probed before and after its training, at the last epoch: nothing is chosen by a probe. Run it anywhere:

    PYTHONPATH=src python -m benchmarks.pretraining [--seeds 3] [--cases 0 1] [--xrays FOLDER]

On phantoms, 1500 of ChestX-ray14 are drawn: their train is the source, its labels are not looked at. Probes: 1500 other
ChestX-ray14 phantoms (mean over the labels), and 1000 of Shenzhen. They test the software: the figures say whether a
method learns, and nothing about real images. With `--xrays`, a folder in ChestX-ray14's official layout, which may be a
sample of it, its train is the source, and the probe tells Pneumonia on its train and val, half of the patients each.

Settings: 64 px, whole images to the probes; views are crops of 0.4 of the area or more (Barlow Twins: 0.25), flips,
turns of 10 degrees and changes of intensity; AdamW, weight decay 1e-4, cosine after one epoch of warm-up; temperature
0.2, 0.6 of the patches hidden. Rate, batch, steps and projector stand in `CASES`. The controls take as many steps at a
rate of 1e-12: what is left is what the batch norms' statistics do, which they adapt to the source.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medtransfer import params as parameters
from medtransfer.core import rng
from medtransfer.data import prepare
from medtransfer.data.cache import Prepared
from medtransfer.data.catalog import TASKS
from medtransfer.data.phantoms import write
from medtransfer.data.tasks import Task
from medtransfer.params import Augmentation, Params
from medtransfer.training import objectives
from medtransfer.training.fitting import NetworkSpec
from medtransfer.training.loader import Cache, Loader
from medtransfer.training.ssl import methods
from medtransfer.training.ssl.probe import Probe
from medtransfer.training.trainer import Trainer
from medtransfer.weights import recipes, store
from medtransfer.weights.names import Initialization, parse

XRAYS, SHENZHEN = TASKS["chestxray14"], TASKS["shenzhen"]
IMAGES = {"chestxray14": 1500, "shenzhen": 1000}
DRAWN, CACHED, SIDE = 128, 80, 64
"""pixels: of the phantoms, of the cache, of the network's input"""
STEPS = 32
"""of an epoch, at least"""
STILL = 1e-12
"""rate of the controls"""
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


RANDOM, VIT, IMAGENET = "random@test_resnet", "random@test_vit", "imagenet@tf_efficientnet_lite0"
CASES = (
    Case("simclr", RANDOM, lr=2e-3, epochs=8),
    Case("simclr", RANDOM, lr=STILL, epochs=8),
    Case("vicreg", VIT, lr=2e-3, epochs=12),
    Case("mae", VIT, lr=2e-3, epochs=12, projector=64),
    Case("simclr", IMAGENET, lr=1e-3, epochs=4, batch_size=32),
    Case("simclr", IMAGENET, lr=STILL, epochs=4, batch_size=32),
    Case("barlow-twins", RANDOM, lr=1e-3, epochs=8, crop=0.25, projector=128),
)
USUAL = range(5)
"""cases that together take about 12 minutes on one core with three seeds"""


@dataclass(frozen=True)
class Data:
    """Images to learn from, and what the features are tried on."""

    source: Prepared
    targets: Sequence[tuple[Task, Prepared]]


def load() -> Params:
    """Loads the parameters of the repository, with other sizes."""
    sizes = {"cache_size": CACHED, "image_size": SIDE, "changes": {}}
    changes = {
        "phantoms.images": IMAGES, "tasks": dict.fromkeys(IMAGES, sizes), "data.phantoms": True, "data.partial": True,
    }  # fmt: skip
    overrides = {name: json.dumps(value) for name, value in changes.items()}
    return parameters.load(Path(__file__).parents[1] / "params.yaml", overrides)


def draw(task: Task, params: Params, root: Path, seed: int) -> Prepared:
    """Draws and prepares the phantoms of a task."""
    folder = root / "data/phantoms" / task.name
    write.write(task.name, folder, images=IMAGES[task.name], size=DRAWN, seed=seed, contrast=1.0)
    return prepare.prepare(task, params, root)


def synthetic(params: Params, root: Path) -> Data:
    """Draws all images."""
    targets = [(task, draw(task, params, root / "targets", seed=1)) for task in (XRAYS, SHENZHEN)]
    return Data(draw(XRAYS, params, root, seed=0), targets)


def real(folder: Path, params: Params, root: Path) -> Data:
    """Prepares real images, with a val that is large enough to tell scores apart."""
    (root / "data/raw").mkdir(parents=True)
    (root / "data/raw/chestxray14").symlink_to(folder.resolve())
    prepared = prepare.prepare(dataclasses.replace(XRAYS, draw={"val": 0.5}), params, root)
    return Data(prepared, [(dataclasses.replace(XRAYS, labels=("Pneumonia",)), prepared)])


def trainer(
    case: Case, init: Initialization, params: Params, source: Prepared, common: dict[str, Any], seed: int, root: Path
) -> Trainer:
    """Builds the training of a case."""
    views = Augmentation(
        crop=1.0, crop_scale_min=case.crop, crop_ratio_max=4 / 3, flip=0.5, rotation=10.0, distortion=0.0, intensity=0.8
    )
    settings = methods.Settings(projector=case.projector, temperature=0.2, masked=0.6)
    goal = methods.objective(case.method, settings)
    tensors = store.state(init, root, rng.seed_of(seed, "backbone"), "one")
    cache = Cache(source.images, np.zeros((len(source.images), 0), np.float32), CPU)
    built = Trainer(
        goal.build(NetworkSpec(backbone=init.backbone, image_size=SIDE), tensors, rng.seed_of(seed, "head")),
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


def run(case: Case, params: Params, data: Data, seed: int, root: Path) -> list[float]:
    """Trains a case; returns the probes' scores before the training, then those after it."""
    init = parse(case.start, params.model.backbone)
    store.obtain(init, root)
    mean, std = recipes.normalization(init)
    common: dict[str, Any] = {
        "size": SIDE, "batch_size": case.batch_size, "crop_fraction": 1.0, "mean": mean, "std": std,
        "channels_last": True,
    }  # fmt: skip
    probes = []
    for task, prepared in data.targets:
        cache = Cache(prepared.images, objectives.targets(task, prepared), CPU)
        loader = Loader(cache, prepared.samples["id"].tolist(), **common)
        probes.append(Probe(task=task, prepared=prepared, loader=loader, every=1, neighbours=20, most=2000))
    built = trainer(case, init, params, data.source, common, seed, root)
    network: Any = built.model
    before = [probe.score(network.backbone) for probe in probes]
    built.run(lambda scores, epoch: None, lambda progress: None)
    return before + [probe.score(network.backbone) for probe in probes]


def row(case: Case, runs: NDArray[np.float64], seconds: float) -> str:
    """Writes a row of the table; stds are over seeds, of the gains those of the differences."""
    method = f"control of {case.method}" if case.lr == STILL else case.method
    cells = [method, case.start, f"{case.epochs * STEPS} x {case.batch_size}"]
    for before, after in zip(*np.split(runs.T, 2), strict=True):
        gains = after - before
        cells += [_spread(before), _spread(after), f"{_spread(gains, '+')} ({', '.join(f'{g:+.3f}' for g in gains)})"]
    return f"| {' | '.join(cells)} | {seconds:.0f} |"


def _spread(scores: NDArray[np.float64], sign: str = "") -> str:
    return f"{scores.mean():{sign}.3f} ± {scores.std(ddof=1) if len(scores) > 1 else 0:.3f}"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cases", type=int, nargs="+", default=USUAL, help=f"of 0 to {len(CASES) - 1}")
    parser.add_argument("--xrays", type=Path, help="folder of real images in ChestX-ray14's official layout")
    options = parser.parse_args()
    logging.getLogger("medtransfer").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        root, params = Path(name), load()
        data = real(options.xrays, params, root) if options.xrays else synthetic(params, root)
        counts = [f"{task.name} {len(one.rows('train'))} -> {len(one.rows('val'))}" for task, one in data.targets]
        print(f"{len(data.source.rows('train'))} images without labels; probes: {', '.join(counts)}\n")
        columns = [f"{task.name} before | after | gain (per seed)" for task, _ in data.targets]
        print(f"| method | start | steps x images | {' | '.join(columns)} | CPU s |")
        print(f"|---|---|---|{'---|---|---|' * len(columns)}---|")
        for case in (CASES[number] for number in options.cases):
            begun = time.process_time()
            runs = np.array([run(case, params, data, seed, root) for seed in range(options.seeds)])
            print(row(case, runs, time.process_time() - begun), flush=True)


if __name__ == "__main__":
    main()
