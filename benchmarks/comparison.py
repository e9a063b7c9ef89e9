"""The whole `compare` at full size: 20 inits x 7 tasks x 10 seeds, 1,000 cases each, 10,000 resamples, all sections on.

Patients have three columns of groups, networks were read on another task's images and on two kinds of worse ones, the
Bayesian comparison and three conditions of promotion are asked for. Runs are made without training
(tests/support/results.py), in a temporary folder with an MLflow database of its own that does not hold them. Says
seconds of each part, of the processor too, and the peak of memory.

    PYTHONPATH=src:. python benchmarks/comparison.py [inits] [seeds] [cases] [resamples] [tasks, with commas between]
"""

from __future__ import annotations

import itertools
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from tests.support import results

from medtransfer import params
from medtransfer.comparison import findings
from medtransfer.data.catalog import TASKS
from medtransfer.report import write
from medtransfer.results.away import CORRUPTED

ROOT = Path(__file__).parents[1]


def main(inits: int = 20, seeds: int = 10, cases: int = 1000, resamples: int = 10_000, *, tasks: str = "") -> None:
    """Makes the runs, compares them and writes the report."""
    names = {f"{'imagenet' if k == 0 else f'init{k:02d}'}@resnet50": 0.02 * k for k in range(inits)}
    chosen = tuple(filter(None, tasks.split(","))) or tuple(TASKS)
    benchmark = params.Benchmark(inits=tuple(names), tasks=chosen, recipes=("fixed",), seeds=tuple(range(seeds)))
    changes = {
        "comparison.resamples": str(resamples), "comparison.bayesian": "true",
        "promotion.require": "{calibration: 0.05, worst_group_drop: 0.03, away_drop: 0.05}",
    }  # fmt: skip
    here = params.load(ROOT / "params.yaml", changes)
    with tempfile.TemporaryDirectory() as folder:
        cells = Path(folder) / "cells"
        results.write(cells, names, benchmark.tasks, benchmark.seeds, cases=cases)
        enrich(cells)
        start, processor = time.perf_counter(), time.process_time()
        found = findings.find(cells, benchmark, here, ROOT, "imagenet@resnet50")
        compared = time.perf_counter()
        write.write(found, params.load(ROOT / "presets/paper.yaml"), cells, Path(folder))
        end, spent = time.perf_counter(), time.process_time() - processor
        size = (Path(folder) / "report/index.html").stat().st_size / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{inits} inits x {len(chosen)} tasks x {seeds} seeds, {cases} cases, {resamples} resamples")
    print(
        f"statistics {compared - start:.1f} s, report {end - compared:.1f} s, whole {end - start:.1f} s, "
        f"{spent:.1f} s of the processor"
    )
    print(f"peak memory {peak:.2f} GiB, page {size:.1f} MiB")


def enrich(cells: Path) -> None:
    """Adds what the made-up runs lack: groups of patients, answers on the images of another test and on worse ones."""
    for path in sorted(cells.glob("*/*/predictions.parquet")):
        table = pd.read_parquet(path)
        whose = np.unique(table["patient"], return_inverse=True)[1]
        groups = {"sex": whose % 2, "age": whose // 2 % 4, "view": whose // 8 % 3}
        table = table.assign(**{f"group.{name}": [f"{name} {k}" for k in numbers] for name, numbers in groups.items()})
        table.to_parquet(path, index=False)
        cell = json.loads(path.with_name("cell.json").read_text())
        if cell["kind"] == "segmentation":
            continue
        labels = [name.removeprefix("target.") for name in map(str, table) if name.startswith("target.")]
        there = table.assign(patient=table["patient"] + "x")
        there.to_parquet(path.with_name("away-other.parquet"), index=False)
        kinds = itertools.product(("blur", "noise"), (1, 5))
        worse = [table.assign(kind=kind, severity=severity) for kind, severity in kinds]
        pd.concat(worse).to_parquet(path.with_name(CORRUPTED), index=False)
        cell["away"] = [
            {"task": "other", "labels": {label: label for label in labels}, "manifest_digest": "0" * 64,
             "unit": "patient", "images": len(table), "marks": [], "seen": False}
        ]  # fmt: skip
        cell["params"] |= {"corruptions.kinds": ["blur", "noise"], "corruptions.severities": [1, 5]}
        path.with_name("cell.json").write_text(json.dumps(cell))


if __name__ == "__main__":
    main(*(int(number) for number in sys.argv[1:5]), tasks="".join(sys.argv[5:6]))
