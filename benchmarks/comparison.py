"""The whole `compare` at full size: 20 inits x 7 tasks x 10 seeds, 1,000 cases each, 10,000 resamples.

Runs are made without training (tests/support/results.py), in a temporary folder with an MLflow database of its own that
does not hold them. Says seconds of each part and the peak of memory.

    PYTHONPATH=src:. python benchmarks/comparison.py [inits] [seeds] [cases] [resamples]
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

from tests.support import results

from medtransfer import params
from medtransfer.comparison import findings
from medtransfer.data.catalog import TASKS
from medtransfer.report import write

ROOT = Path(__file__).parents[1]


def main(inits: int = 20, seeds: int = 10, cases: int = 1000, resamples: int = 10_000) -> None:
    """Makes the runs, compares them and writes the report."""
    names = {f"{'imagenet' if k == 0 else f'init{k:02d}'}@resnet50": 0.02 * k for k in range(inits)}
    benchmark = params.Benchmark(inits=tuple(names), tasks=tuple(TASKS), recipes=("fixed",), seeds=tuple(range(seeds)))
    here = params.load(ROOT / "params.yaml", {"comparison.resamples": str(resamples)})
    with tempfile.TemporaryDirectory() as folder:
        cells = Path(folder) / "cells"
        results.write(cells, names, benchmark.tasks, benchmark.seeds, cases=cases)
        start = time.perf_counter()
        found = findings.find(cells, benchmark, here, ROOT, "imagenet@resnet50")
        compared = time.perf_counter()
        write.write(found, params.load(ROOT / "presets/paper.yaml"), cells, Path(folder))
        end = time.perf_counter()
        size = (Path(folder) / "report/index.html").stat().st_size / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{inits} inits x {len(TASKS)} tasks x {seeds} seeds, {cases} cases, {resamples} resamples")
    print(f"statistics {compared - start:.1f} s, report {end - compared:.1f} s, whole {end - start:.1f} s")
    print(f"peak memory {peak:.2f} GiB, page {size:.1f} MiB")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
