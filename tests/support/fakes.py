"""Prepared caches made in memory, for tests of what comes after `prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from medtransfer import params as parameters
from medtransfer.core import rng
from medtransfer.data.cache import Prepared
from medtransfer.data.catalog import TASKS
from medtransfer.data.tasks import Task
from medtransfer.params import Params
from medtransfer.training import objectives
from medtransfer.training.fitting import NetworkSpec
from medtransfer.training.loader import Cache, Loader
from medtransfer.training.trainer import TaskTrainer
from medtransfer.weights import backbones
from medtransfer.weights.records import IMAGENET_MEAN, IMAGENET_STD

BACKBONE = "test_resnet"
"""timm's own test network, a few hundred thousand parameters"""
SIDE, COUNT = 40, 48
CPU = torch.device("cpu")


def prepared(folder: Path, *, segmentation: bool, seed: int = 0) -> Prepared:
    """Makes bright discs on noise: present or not for classification, where for segmentation."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    images, masks, labels = [], [], []
    for i in range(COUNT):
        shown = int(segmentation or i % 2)
        cx, cy, r = rng.integers(12, 28), rng.integers(12, 28), rng.integers(5, 9)
        disc = ((x - cx) ** 2 + (y - cy) ** 2 < r**2) & bool(shown)
        images.append(np.clip(90 + rng.normal(0, 20, (SIDE, SIDE)) + 80 * disc, 0, 255).astype(np.uint8))
        masks.append(disc.astype(np.uint8))
        labels.append(shown)
    split = np.array(["train"] * 32 + ["val"] * 8 + ["test"] * 8)
    table: dict[str, Any] = {"id": [f"i{i}" for i in range(COUNT)], "patient": [f"p{i}" for i in range(COUNT)]}
    table["split"] = split
    if not segmentation:
        table["Tuberculosis"] = np.array(labels, np.int8)
    if segmentation:
        size = {"original.height": 3 * SIDE, "original.width": 2 * SIDE, "pixel.height": np.nan, "pixel.width": np.nan}
        table |= {name: np.full(COUNT, value) for name, value in size.items()}
        (folder / "native_masks").mkdir(parents=True, exist_ok=True)
        for row in np.flatnonzero(split == "test"):
            native = Image.fromarray(masks[row]).resize((SIDE * 2, SIDE * 3), Image.Resampling.NEAREST)
            native.save(folder / "native_masks" / f"{row}.png")
    manifest: Any = {
        "digest": f"fake{seed}",
        "source": "phantoms",
        "marks": ["synthetic"],
        "folds": 0,
        "split_hash": "none",
        "split_recipe": "fake",
    }
    return Prepared(
        folder, manifest, np.stack(images), np.stack(masks) if segmentation else None, lambda: pd.DataFrame(table)
    )


def load_params(top: Path, **overrides: str) -> Params:
    """Loads params.yaml for tiny runs; double underscores stand for dots."""
    small = {
        "model.backbone": BACKBONE,
        "tasks.shenzhen.image_size": "32",
        "tasks.montgomery.image_size": "32",
        "classification.batch_size": "8",
        "classification.max_epochs": "3",
        "classification.min_steps": "1",
        "segmentation.batch_size": "8",
        "segmentation.max_epochs": "3",
        "segmentation.min_steps": "1",
    }
    small |= {key.replace("__", "."): value for key, value in overrides.items()}
    return parameters.load(top / "params.yaml", small)


def trainer(
    top: Path, folder: Path, *, segmentation: bool = False, seed: int = 0, **overrides: str
) -> tuple[TaskTrainer, Prepared]:
    """Builds a trainer as the verb does, on a cache made in memory."""
    task: Task = TASKS["montgomery" if segmentation else "shenzhen"]
    data = prepared(folder, segmentation=segmentation)
    return assemble(load_params(top, **overrides), task, data, folder, seed)


def assemble(params: Params, task: Task, data: Prepared, folder: Path, seed: int = 0) -> tuple[TaskTrainer, Prepared]:
    """Builds the trainer of any task and cache; the task's sizes are those of its name."""
    torch.set_num_threads(1)
    protocol = parameters.protocol(params, task.name, task.segmentation)
    goal = objectives.objective(task, data, protocol, CPU)
    tensors = backbones.bare_state(BACKBONE, rng.seed_of(seed, "backbone"), "one")
    size = parameters.task_params(params, task.name).image_size
    spec = NetworkSpec(backbone=BACKBONE, image_size=size, decoder=params.model.decoder)
    built = TaskTrainer(
        goal.build(spec, tensors, rng.seed_of(seed, "head")),
        goal,
        loader(data, task, protocol, params),
        {split: data.rows(split) for split in ("train", "val", "test")},
        protocol=protocol,
        engine=params.engine,
        seed=seed,
        device=CPU,
        folder=folder,
    )
    return built, data


def loader(data: Prepared, task: Task, protocol: parameters.Training, params: Params, **changes: Any) -> Loader:
    """Builds the loader of a task."""
    settings: dict[str, Any] = {
        "size": parameters.task_params(params, task.name).image_size,
        "batch_size": protocol.batch_size,
        "crop_fraction": protocol.crop_fraction,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "channels_last": params.engine.channels_last,
    }
    cache = Cache(data.images, objectives.targets(task, data), CPU, len(task.labels))
    return Loader(cache, data.samples["id"].tolist(), **(settings | changes))
