"""How costs grow: the exponent of seconds, or of bytes, over images, runs, inits and seeds. 1: twice as many, twice.

Sizes double; the exponent is the slope of a line through the logarithms, and the last step's own stands beside it,
which tells what fixed costs hide. Seconds are of the processor, the best of three.

    PYTHONPATH=src:. python benchmarks/scale.py
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from tests.support import results, workspace

from medtransfer import params as parameters
from medtransfer.comparison import findings
from medtransfer.params import Augmentation
from medtransfer.runs import dry_run
from medtransfer.runs.run import plan
from medtransfer.statistics import bootstrap
from medtransfer.training.loader import Cache, Loader

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Prints the table."""
    print("| cost | over | sizes | costs | exponent | last step |\n|---|---|---|---|---|---|")
    cores = tuple(2**k for k in range(len(os.sched_getaffinity(0)).bit_length()))
    show(
        "bootstrap of 18 models' AUC on 14 labels of 25,596 images, 192 resamples, by the clock", "cores", cores, spread
    )
    show("bootstrap of 5 models' AUC, 500 resamples", "test images", (3200, 6400, 12800, 25600), resampled)
    with tempfile.TemporaryDirectory() as folder:
        root = workspace.make(Path(folder), ROOT, "shenzhen")
        show("runs planned, named and ordered", "runs", (200, 400, 800, 1600), lambda count: planned(root, count))
    show("compare, 3 tasks x 5 seeds, 300 cases", "inits", (5, 10, 20, 40), lambda count: compared(count, 5))
    show("compare, 3 tasks x 10 inits, 300 cases", "seeds", (5, 10, 20), lambda count: compared(10, count))
    show("private memory of a worker, 1024 px", "images", (1250, 2500, 5000, 10000), held, of="MB")


def show(name: str, over: str, sizes: Sequence[int], cost: Callable[[int], float], of: str = "s") -> None:
    """Measures a cost at each size and prints a line."""
    found = [cost(size) if of == "MB" else min(cost(size) for _ in range(3)) for size in sizes]
    slope = float(np.polyfit(np.log(sizes), np.log(found), 1)[0])
    last = float(np.log(found[-1] / found[-2]) / np.log(sizes[-1] / sizes[-2]))
    costs = ", ".join(f"{value:.3g}" for value in found)
    print(f"| {name} | {over} | {', '.join(map(str, sizes))} | {costs} {of} | {slope:.2f} | {last:.2f} |", flush=True)


def resampled(images: int) -> float:
    """Takes the area under the curve of resampled patients."""
    rng = np.random.default_rng(0)
    targets = (rng.random((images, 1)) < 0.1).astype(int)
    scores = rng.normal(size=(5, images, 1)) + targets
    start = time.process_time()
    bootstrap.bootstrap(bootstrap.mean_auc(targets, scores), rng, resamples=500)
    return time.process_time() - start


def spread(cores: int) -> float:
    """Takes the mean area over labels of resampled patients on so many cores."""
    rng, every = np.random.default_rng(0), os.sched_getaffinity(0)
    targets = (rng.random((25_596, 14)) < 0.1).astype(int)
    statistic = bootstrap.mean_auc(targets, rng.normal(size=(18, *targets.shape)) + targets)
    os.sched_setaffinity(0, sorted(every)[:cores])
    try:
        start = time.perf_counter()
        bootstrap.bootstrap(statistic, rng, resamples=192)
        return time.perf_counter() - start
    finally:
        os.sched_setaffinity(0, every)


def planned(root: Path, count: int) -> float:
    """Plans a benchmark, whose cache is there."""
    here = parameters.load(root / "params.yaml")
    plan(here, root, ["random"], ["shenzhen"], [0])  # prepares
    start = time.process_time()
    runs = plan(here, root, ["random"], ["shenzhen"], range(count))
    assert len({run.digest for run in dry_run.longest_first(runs)}) == count
    return time.process_time() - start


def compared(inits: int, seeds: int) -> float:
    """Compares runs that are made, not trained."""
    names = {f"{'imagenet' if k == 0 else f'init{k:02d}'}@resnet50": 0.02 * k for k in range(inits)}
    tasks = ("shenzhen", "montgomery", "rsna_pe")
    benchmark = parameters.Benchmark(inits=tuple(names), tasks=tasks, recipes=("fixed",), seeds=tuple(range(seeds)))
    here = parameters.load(ROOT / "params.yaml", {"comparison.resamples": "1000"})
    with tempfile.TemporaryDirectory() as folder:
        cells = Path(folder) / "cells"
        results.write(cells, names, tasks, benchmark.seeds, cases=300)
        start = time.process_time()
        findings.find(cells, benchmark, here, ROOT, "imagenet@resnet50")
        return time.process_time() - start


def held(images: int) -> float:
    """Says what memory a process has to itself after some batches from a cache on disk, which has no values."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(images, 1024, 1024))
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(_batches, (path,))


def _batches(path: Path) -> float:
    torch.set_num_threads(1)
    images = np.load(path, mmap_mode="r")
    loader = Loader(
        Cache(images, np.zeros((len(images), 1), np.float32), torch.device("cpu")),
        [str(number) for number in range(len(images))], size=224, batch_size=16,
        crop_fraction=0.875, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), channels_last=True,
    )  # fmt: skip
    augmentation = Augmentation(
        crop=1.0, crop_scale_min=0.08, crop_ratio_max=4 / 3, flip=0.5, rotation=7.0, distortion=0.0, intensity=0.0
    )
    for _ in loader.train(np.arange(256), augmentation, 0, 0, 1):
        pass
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return float(status["RssAnon"].split()[0]) / 1e3  # without the pages of the file, which processes share


if __name__ == "__main__":
    main()
