"""Compares two folders of results, say of two machines: `python examples/compare_two_folders.py results_a results_b`.

Run it in the repository's top folder, whose params.yaml names the benchmark that both are the runs of.
"""

from __future__ import annotations

import sys
from typing import Any

import pandas as pd

import medtransfer as mt

NO_INTERVALS: dict[str, Any] = {"comparison.resamples": 0}  # means need none over patients


def compare(one: str, other: str) -> pd.DataFrame:
    """Returns one row per task and init: both means over the seeds and what the first has more."""
    means = {}
    for folder in (one, other):
        comparison = mt.compare(folder, **NO_INTERVALS)
        means[folder] = comparison.table().dropna(subset="mean").set_index(["task", "init"])["mean"]
        print(f"{folder}: {comparison.answer}")
    table = pd.DataFrame(means)
    table.index.names = ["task", "init"]
    table["difference"] = table[one] - table[other]
    return table


if __name__ == "__main__":
    print(compare(sys.argv[1], sys.argv[2]).to_string())
