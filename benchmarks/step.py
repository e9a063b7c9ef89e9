"""Training step: end-to-end training images/s, validation excluded, against the bare step of the same model.

The bare step is forward, backward and optimizer on one batch that already lies on the device. Both are measured in
turns in one run, and the ratio is printed; of a precision or a way beside the first also how many times faster its bare
step is: below 1, `engine.precision` or `engine.compile` had better stay what it is on this machine. What compiling took
is in the last column: the plan (`benchmark --dry-run`) says after how much it pays.

    PYTHONPATH=src python benchmarks/step.py [--threads 2] [--precisions fp32,bf16] [--ways eager,compiled]
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np
import pandas as pd
import torch

from medtransfer import params as parameters
from medtransfer.data.cache import Prepared
from medtransfer.data.catalog import TASKS
from medtransfer.params import Params
from medtransfer.training import allocator, compiled, objectives
from medtransfer.training.fitting import NetworkSpec
from medtransfer.training.loader import Cache, Loader
from medtransfer.training.trainer import Trainer, choose_kernels
from medtransfer.weights import backbones
from medtransfer.weights.records import IMAGENET_MEAN, IMAGENET_STD

ROUNDS = 7


def make_trainer(backbone: str, size: int, segmentation: bool, params: Params, device: torch.device) -> Trainer:
    """Builds a trainer on random images, under the parameters of the repository, with the kernels of a run."""
    choose_kernels(params.engine)
    task = TASKS["montgomery" if segmentation else "shenzhen"]
    protocol = parameters.protocol(params, task.name, segmentation)
    rng = np.random.default_rng(0)
    side, count = size * 8 // 7, 4 * protocol.batch_size
    images = rng.integers(0, 255, (count, side, side), dtype=np.uint8)
    table = pd.DataFrame({"id": [str(i) for i in range(count)], "patient": "p", "split": "train"})
    table["Tuberculosis"] = np.arange(count, dtype=np.int8) % 2
    masks = (images > 127).astype(np.uint8) if segmentation else None
    data = Prepared(Path(), cast(Any, {"digest": "", "marks": [], "counts": {}}), images, masks, lambda: table)
    goal = objectives.objective(task, data, protocol, device)
    loader = Loader(
        Cache(images, objectives.targets(task, data), device), table["id"].tolist(),
        size=size, batch_size=protocol.batch_size, crop_fraction=protocol.crop_fraction,
        mean=IMAGENET_MEAN, std=IMAGENET_STD, channels_last=params.engine.channels_last,
    )  # fmt: skip
    spec = NetworkSpec(backbone=backbone, image_size=size, decoder="auto")
    return Trainer(
        goal.build(spec, backbones.bare_state(backbone, 0, "one"), 0), goal, loader,
        {"train": data.rows("train"), "val": data.rows("train")},
        protocol=protocol, engine=params.engine, seed=0, device=device, folder=Path(tempfile.gettempdir()),
    )  # fmt: skip


def measure(trainer: Trainer, steps: int) -> tuple[float, float]:
    """Measures images/s end to end and bare, in alternating rounds; returns the medians."""
    batch = next(iter(trainer.loader.train(trainer.rows["train"], trainer.protocol.augmentation, 0, 0, 1)))
    images = steps * len(batch.rows)

    def sync() -> None:
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()

    def whole(epoch: int) -> float:
        sync()
        start = time.perf_counter()
        _, done = trainer._train(epoch)
        sync()
        return done / (time.perf_counter() - start)

    def bare() -> float:
        trainer.model.train()
        sync()
        start = time.perf_counter()
        for _ in range(steps):
            trainer.step(batch)
        sync()
        return images / (time.perf_counter() - start)

    whole(0)
    bare()
    pairs = [(whole(epoch), bare()) for epoch in range(1, ROUNDS + 1)]
    return statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--precisions", default="fp32", help="of engine.precision, with commas between")
    parser.add_argument("--ways", default="eager", help="eager, compiled, or both with a comma between")
    parser.add_argument("--models", default="", help="of those below, with commas between; all without it")
    parser.add_argument("--give-back", action="store_true", help="freed memory goes back to the kernel, as glibc does")
    options = parser.parse_args()
    if options.give_back:
        mock.patch.object(allocator, "keep_freed", return_value=False).start()
    torch.set_num_threads(options.threads)
    cases = [
        ("tf_efficientnet_lite0", False),
        ("resnet18", False),
        ("resnet50", False),
        ("tf_efficientnet_lite0", True),
    ]
    print(f"{options.device}, {options.threads} threads, {options.size} px, median of {ROUNDS} rounds in turns\n")
    cases = [case for case in cases if not options.models or case[0] in options.models.split(",")]
    header = ("model", "batch", "precision", "way", "end to end, images/s", "bare step, images/s", "ratio",
              "times the first", "compiling, s")  # fmt: skip
    print(f"| {' | '.join(header)} |\n{'|---' * len(header)}|")
    first: dict[tuple[str, bool], float] = {}
    every = itertools.product(cases, options.precisions.split(","), options.ways.split(","))
    for (backbone, segmentation), precision, way in every:
        kind = "segmentation" if segmentation else "classification"
        changes = {f"{kind}.min_steps": "4", "engine.precision": precision}
        changes["engine.compile"] = "true" if way == "compiled" else "false"
        params = parameters.load(Path(__file__).parent.parent / "params.yaml", changes)
        trainer = make_trainer(backbone, options.size, segmentation, params, torch.device(options.device))
        steps = len(trainer.loader.order(trainer.rows["train"], 0, 0, trainer.protocol.min_steps))
        before = compiled.CLOCK.seconds
        end_to_end, bare = measure(trainer, steps)
        name = f"{backbone}{' U-Net' if segmentation else ''}"
        batch = trainer.protocol.batch_size
        times = bare / first.setdefault((backbone, segmentation), bare)
        rates = f"{end_to_end:.1f} | {bare:.1f} | {100 * end_to_end / bare:.1f} %"
        took = compiled.CLOCK.seconds - before
        print(f"| {name} | {batch} | {precision} | {way} | {rates} | {times:.2f} | {took:.0f} |", flush=True)


if __name__ == "__main__":
    main()
