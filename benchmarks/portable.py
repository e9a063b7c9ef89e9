"""What `engine.portable` costs: training images per CPU second under the pinned instructions, and without.

Each row is measured in processes of its own, because libraries choose their instructions once; rounds with and without
take turns, and the ratio of the medians is printed.

    PYTHONPATH=src python benchmarks/portable.py [--threads 1] [--size 96] [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from medtransfer.core import arithmetic

CASES = [("tf_efficientnet_lite0", False), ("vit_tiny_patch16_224", False), ("resnet18", True), ("resnet50", False)]
"""backbone, segmentation"""
STEPS = 3


def measure(backbone: str, segmentation: bool, size: int, threads: int, portable: bool) -> float:
    """Measures images per CPU second in a process of its own."""
    plain = {name: value for name, value in os.environ.items() if name not in arithmetic.PINNED}
    words = ["--one", backbone, "--size", str(size), "--threads", str(threads)]
    done = subprocess.run(
        [sys.executable, __file__, *words, *(["--segmentation"] if segmentation else [])],
        env=plain | (dict(arithmetic.PINNED) if portable else {}),
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout)


def one(backbone: str, segmentation: bool, size: int, threads: int) -> float:
    """Measures images per CPU second of the training step in this process."""
    import torch

    import step  # beside this file
    from medtransfer import params as parameters

    torch.set_num_threads(threads)
    params = parameters.load(Path(__file__).parent.parent / "params.yaml")
    trainer = step.make_trainer(backbone, size, segmentation, params, torch.device("cpu"))
    batch = next(iter(trainer.loader.train(trainer.rows["train"], trainer.protocol.augmentation, 0, 0, 1)))
    trainer.model.train()
    trainer.step(batch)
    start = time.process_time()
    for _ in range(STEPS):
        trainer.step(batch)
    return STEPS * len(batch.rows) / (time.process_time() - start)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", default="", help="measure this backbone alone, in this process")
    parser.add_argument("--segmentation", action="store_true")
    options = parser.parse_args()
    if options.one:
        print(one(options.one, options.segmentation, options.size, options.threads))
        return
    print(f"{options.threads} threads, {options.size} px, median of {options.rounds} rounds in turns\n")
    print("| model | images per CPU second | portable | time, ratio |")
    print("|---|---|---|---|")
    for backbone, segmentation in CASES:
        size = 224 if backbone.endswith("_224") else options.size
        rounds = [
            [measure(backbone, segmentation, size, options.threads, portable) for portable in (False, True)]
            for _ in range(options.rounds)
        ]
        free, held = (statistics.median(column) for column in zip(*rounds, strict=True))
        name = f"{backbone}{' U-Net' if segmentation else ''}, {size} px"
        print(f"| {name} | {free:.1f} | {held:.1f} | {free / held:.2f} |", flush=True)


if __name__ == "__main__":
    main()
