"""What the protocols on frozen features cost, beside fine-tuning.

`python benchmarks/protocols.py`: seconds of a logistic regression, its strength chosen on val, and of a vote of the
nearest images, on 5,000 cached images of 1,280 features, for every fraction of the labels; and how long 20
initializations x 5 fractions x 20 seeds take at that rate on the machine's cores, one process each.

Where a benchmark ran, `python <repository>/benchmarks/protocols.py --results data/results/cells` prints the seconds of
its finished runs by protocol and fraction, those of the features apart.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import numpy as np

IMAGES, FEATURES, VAL = 5000, 1280, 1000
FRACTIONS = (0.01, 0.05, 0.1, 0.25, 1.0)
STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0)
INITS, SEEDS = 20, 20


def one_init(init: int) -> dict[str, list[float]]:
    """Times all probes of one initialization; with all labels every seed is the same fit, so one is made."""
    from sklearn.metrics import roc_auc_score

    from medtransfer.training import probes

    rng = np.random.default_rng(init)
    values = np.maximum(rng.normal(0, 1, (IMAGES, FEATURES)), 0).astype(np.float16)
    score = values.astype(np.float32) @ rng.normal(0, 0.05, FEATURES) + rng.normal(0, 1, IMAGES)
    labels = (score > np.median(score)).astype(np.float32)[:, None]
    train, val = np.arange(IMAGES - VAL), np.arange(IMAGES - VAL, IMAGES)
    found = defaultdict(list)
    for fraction in FRACTIONS:
        for seed in range(1 if fraction == 1 else SEEDS):
            chosen = np.random.default_rng(seed).permutation(train)[: int(fraction * len(train))]
            start = time.perf_counter()
            for layer in probes.linear(values[chosen], labels[chosen], STRENGTHS):
                roc_auc_score(labels[val, 0], layer.logits(values[val])[:, 0])
            found[f"linear, {fraction:g}"].append(time.perf_counter() - start)
            start = time.perf_counter()
            probes.votes(values[chosen], labels[chosen], values[val], [1, 5, 10, 20, 50])
            found[f"knn, {fraction:g}"].append(time.perf_counter() - start)
    return found


def synthetic() -> None:
    """Prints seconds of each probe, and of the whole grid."""
    cores = multiprocessing.cpu_count()
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # the spawned processes share the cores
    start = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        parts = pool.map(one_init, range(INITS), chunksize=1)
    whole = time.perf_counter() - start
    for name in parts[0]:
        each = [seconds for part in parts for seconds in part[name]]
        print(f"{name:>14} of the labels: {fmean(each):.3f} s a run ({len(each)} runs)")
    grid = f"{INITS} inits x {len(FRACTIONS)} fractions x {SEEDS} seeds"
    print(f"{grid}, linear and knn: {whole / 60:.1f} min on {cores} cores")


def finished(folder: Path) -> None:
    """Prints the mean seconds of finished runs by protocol and fraction."""
    seconds = defaultdict(list)
    features = dict[str, float]()
    for path in sorted(folder.glob("*/*/cell.json")):
        result = json.loads(path.read_text())
        seconds[result["protocol"], result["fraction"]].append(result["cost"]["seconds"])
        if "features_seconds" in result["cost"]:
            features[f"{result['task']} {result['init']}"] = result["cost"]["features_seconds"]
    for (protocol, fraction), each in seconds.items():
        print(f"{protocol:>9}, {fraction:>7} of the labels: {fmean(each):8.2f} s a run ({len(each)} runs)")
    for name, one in features.items():
        print(f"features of {name}: {one:.1f} s, once")


def main() -> None:
    """Times synthetic features, or reads what finished runs took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    finished(options.results) if options.results else synthetic()


if __name__ == "__main__":
    main()
