"""What a prepared cache says of itself: its table, counts and statistics, its identity. Arrays in, plain data out."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medtransfer.core import files
from medtransfer.data.cache import Spread, Statistics
from medtransfer.data.overlap import SPLITS, Strings
from medtransfer.data.splits import Assignment
from medtransfer.data.tasks import Task

if TYPE_CHECKING:
    import pandas as pd


def table(task: Task, ids: Strings, units: Strings, labels: NDArray[np.int8], assignment: Assignment) -> pd.DataFrame:
    """Lays out one row per sample, see `cache.Prepared.samples`."""
    import pandas as pd

    columns: dict[str, Any] = {"id": ids.tolist(), "patient": units.tolist(), "split": assignment.splits.tolist()}
    columns |= {label: labels[:, number] for number, label in enumerate(task.labels)}
    columns |= {
        f"split.{fold}": column.tolist() for fold, column in zip(assignment.names, assignment.folds.T, strict=True)
    }
    return pd.DataFrame(columns)


def counts(splits: Strings) -> dict[str, int]:
    """Counts the images of each split."""
    return {split: int((splits == split).sum()) for split in SPLITS}


def totals(task: Task, labels: NDArray[np.int8], splits: Strings) -> dict[str, dict[str, int]]:
    """Counts positives per split and label; for segmentation, images whose mask is not empty."""
    return {
        split: dict(zip(task.labels, (labels[splits == split] == 1).sum(axis=0).tolist(), strict=True))
        for split in SPLITS
    }


def undefined(task: Task, labels: NDArray[np.int8], splits: Strings) -> dict[str, list[str]]:
    """Lists the labels that have no positive or no negative in val or test, so that their AUC is undefined."""
    found: dict[str, list[str]] = {}
    for split in ("val", "test"):
        own = labels[splits == split]
        one_sided = ~((own == 1).any(axis=0) & (own == 0).any(axis=0)) if len(own) else np.zeros(len(task.labels), bool)
        names = [label for label, lacks in zip(task.labels, one_sided, strict=True) if lacks]
        found[split] = [] if task.segmentation else names
    return found


def statistics(notes: NDArray[np.void], splits: Strings, pixels: int) -> Statistics:
    """Summarises the originals' sizes and the prepared images' mean gray levels, of `pixels` values each."""
    means = notes["sums"][:, :, 0].sum(axis=1) / pixels
    return Statistics(
        width=_spread(notes["width"][splits != ""]),
        height=_spread(notes["height"][splits != ""]),
        intensity={split: _spread(means[splits == split]) for split in SPLITS if (splits == split).any()},
    )


def _spread(values: NDArray[Any]) -> Spread:
    low, median, high = (round(float(value), 2) for value in (values.min(), np.median(values), values.max()))
    return Spread(low=low, median=median, high=high)


def digest(
    fields: Mapping[str, Any],
    ids: Strings,
    units: Strings,
    labels: NDArray[np.int8],
    assignment: Assignment,
    notes: NDArray[np.void],
) -> str:
    """Identifies a cache by what its numbers depend on: fields, table rows and pixels."""
    pixels = [hashlib.sha256(notes[name].tobytes()).hexdigest() for name in ("image", "mask", "native")]
    rows = zip(ids.tolist(), units.tolist(), labels.tolist(), strict=True)
    lines = [json.dumps(fields, sort_keys=True), *assignment.lines(ids), *(json.dumps(row) for row in rows)]
    return hash_lines([*lines, *pixels])


def hash_lines(lines: Sequence[str]) -> str:
    """Hashes lines of text."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def code() -> dict[str, str | None]:
    """Names the version and, in a clone, the commit of this code."""
    project = Path(__file__).parents[3] / "pyproject.toml"
    version: str | None
    try:
        version = importlib.metadata.version("medtransfer")
    except importlib.metadata.PackageNotFoundError:  # run from a clone, not installed
        version = tomllib.loads(project.read_text())["project"]["version"] if project.exists() else None
    commit = files.git_commit(project.parent) if project.exists() else ""  # else the repository is another's
    return {"version": version, "commit": commit or None}
