"""Speed of the patient bootstrap of AUC against a plain loop over sklearn's `roc_auc_score`.

    PYTHONPATH=src python -m benchmarks.resampling --models 200

The loop runs on a few resamples of one model, and its time is scaled up; both see the same kind of data.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
from sklearn.metrics import roc_auc_score

from medtransfer.statistics import bootstrap


def main() -> None:
    """Prints seconds, ratio and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--prevalence", type=float, default=0.1)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    targets = (rng.random((options.cases, 1)) < options.prevalence).astype(int)
    scores = rng.normal(size=(options.models, options.cases, 1)) + targets
    start = time.perf_counter()
    bootstrap.bootstrap(bootstrap.mean_auc(targets, scores), rng, resamples=options.resamples)
    ours = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(200):
        taken = rng.integers(0, options.cases, options.cases)
        roc_auc_score(targets[taken, 0], scores[0, taken, 0])
    loop = (time.perf_counter() - start) / 200 * options.models * options.resamples
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"ours {ours:.1f} s, loop {loop:.0f} s (scaled up), ratio {loop / ours:.0f}, peak memory {memory:.0f} MiB")


if __name__ == "__main__":
    main()
