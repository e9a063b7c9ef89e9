"""What packs cost: bytes of one, seconds and memory of writing, reading and merging, with made-up runs.

A run has what a real one has: the scores of its task by label, 30 epochs, 150 parameters, and noise in every digit.

    PYTHONPATH=src python benchmarks/packs.py [--packs 100] [--epochs 30] [--params 150]
"""

from __future__ import annotations

import argparse
import hashlib
import random
import resource
import tempfile
import time
from pathlib import Path

from medtransfer.data.catalog import TASKS
from medtransfer.data.tasks import Task, slug
from medtransfer.packs import columns, file, merge
from medtransfer.packs.records import Contribution, InitCard, TaskCard
from medtransfer.results.result import Result

WHOLE = ("auc", "average_precision", "sensitivity", "specificity", "brier")
PIXELS = ("dice", "dice_positives", "dice_pooled", "native_dice", "precision", "recall")


def scores(task: Task, rng: random.Random) -> dict[str, float]:
    """Draws what a run of a task measures."""
    labels = [slug(label) for label in task.labels]
    names = [*PIXELS] if task.segmentation else [*WHOLE, *(f"{name}.{label}" for name in WHOLE for label in labels)]
    found = {f"test_{name}": rng.random() for name in names}
    found |= {f"best_val_{name}": rng.random() for name in names if "." not in name}
    shares = {} if task.segmentation else {f"test_prevalence.{label}": 1 / (k + 3) for k, label in enumerate(labels)}
    return found | shares


def result(task: Task, init: str, seed: int, lab: str, epochs: int, params: int) -> Result:
    """Draws a run."""
    rng = random.Random(f"{task.name} {init} {seed} {lab}")
    curves = [f"val_{name}" for name in (PIXELS[:3] if task.segmentation else WHOLE[:2])] + ["train_loss", "val_loss"]
    history = tuple({name: rng.random() for name in curves} | {"lr": 2e-4 * 0.5 ** (e // 9)} for e in range(epochs))
    return Result(
        digest=hashlib.sha256(f"{task.name} {init} {seed} {lab}".encode()).hexdigest()[:32], verb="finetune", init=init,
        task=task.name, seed=seed, fold=None, folds=0, kind=task.kind, marks=(), scores=scores(task, rng),
        cost={"epochs": float(epochs), "seconds": 1e4 * rng.random(), "gpu_seconds": 1e4 * rng.random(), "images": 1e6},
        params={f"section.parameter_{k}": f"{task.name if k < 5 else ''} {k * 0.1}" for k in range(params)},
        labels=len(task.labels), undefined=(), device="NVIDIA A100", versions={"torch": "2.14.1", "timm": "1.0.31"},
        protocol_version=1, manifest_digest=hashlib.sha256(task.name.encode()).hexdigest(),
        weights_sha256=hashlib.sha256(init.encode()).hexdigest(), mlflow_run_id=None,
        counts={"train": 1000, "val": 100, "test": 100}, split="official; hash 0123456789ab", dataset=task.dataset,
        unit="patient", history=history, measured=tuple(task.measured), tested=tuple(map(slug, task.labels)),
        arithmetic={"device": "NVIDIA A100", "cpu": "AMD EPYC (x86_64)", "versions": "torch 2.14.1"},
        finished=f"2026-01-{rng.randint(1, 28):02}T{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:00Z",
    )  # fmt: skip


def make(target: Path, lab: str, inits: int, seeds: int, epochs: int, params: int) -> int:
    """Writes a pack of all seven tasks; returns its runs."""
    names = [f"init{number}@resnet50" for number in range(inits)]
    runs = [result(task, init, seed, lab, epochs, params) for task in TASKS.values() for init in names
            for seed in range(seeds)]  # fmt: skip
    tasks = {t.name: TaskCard(title=t.title, kind=t.kind, modality="ct", metric=t.metric, margin=t.margin)
             for t in TASKS.values()}  # fmt: skip
    cards = {
        name: InitCard(
            title=name, family="supervised", modality="natural", licence="MIT", commercial="yes", parameters=23_508_032,
            weights_sha256="", tensors_sha256=hashlib.sha256(name.encode()).hexdigest(),
        )
        for name in names
    }  # fmt: skip
    whole = Contribution(
        digest="", lab=lab, created="2026-01-31T12:00:00Z", protocol_version=1, results=tuple(runs), tasks=tasks,
        inits=cards,
    )  # fmt: skip
    own, text = file.of_contribution(whole, {})
    file.write(target, {f"contributions/{own}.json": lambda: text})
    return len(runs)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packs", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--params", type=int, default=150)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        began = time.perf_counter()
        runs = make(folder / "large.pack", "Lab", 20, 10, options.epochs, options.params)
        print(f"20 inits x 7 tasks x 10 seeds: {runs} runs, {(folder / 'large.pack').stat().st_size / 1e3:,.0f} kB, "
              f"made in {time.perf_counter() - began:.1f} s")  # fmt: skip
        began = time.perf_counter()
        pack = file.read(folder / "large.pack")
        print(f"read in {time.perf_counter() - began:.1f} s")
        began = time.perf_counter()
        columns.write(pack.contributions[0].results)
        print(f"laid out as columns in {time.perf_counter() - began:.1f} s")
        del pack
        began = time.perf_counter()
        paths = [folder / f"{number}.pack" for number in range(options.packs)]
        for number, path in enumerate(paths):
            make(path, f"Lab {number}", 5, 4, options.epochs, options.params)
        size = sum(path.stat().st_size for path in paths)
        print(f"{len(paths)} packs of 5 x 7 x 4: {size / len(paths) / 1e3:,.0f} kB each, "
              f"made in {time.perf_counter() - began:.1f} s")  # fmt: skip
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        merge.merge(paths, folder / "all.pack", merge.TOLERANCE)
        seconds, peak = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"merged in {seconds:.1f} s, {(folder / 'all.pack').stat().st_size / 1e6:.1f} MB; "
              f"peak memory {peak / 1024:.0f} MB, {before / 1024:.0f} before")  # fmt: skip


if __name__ == "__main__":
    main()
