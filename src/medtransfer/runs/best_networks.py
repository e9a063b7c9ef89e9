"""Keeps, of the finished runs of a task, the network of each initialization's best seed on val."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medtransfer.core import files
from medtransfer.results import network
from medtransfer.results.network import FOLDER, NETWORK, Chosen
from medtransfer.runs import finetune
from medtransfer.runs.run import Run

log = logging.getLogger("medtransfer")


def write(runs: Sequence[Run], task: str, root: Path) -> None:
    """Keeps, of the finished runs of a task, the network of each initialization's best seed; what else was there goes.

    A run that was restored from MLflow has no network on this disk: that is said, and nothing stands in for it.
    """
    shutil.rmtree(root / FOLDER / task, ignore_errors=True)
    (root / FOLDER / task).mkdir(parents=True)
    for run, cell in _best(runs):
        source = run.folder / NETWORK
        kept = cell.get("parts", {}).get(NETWORK)
        if not source.is_file() or (kept and not files.checked(source, kept)):
            log.warning(
                "task %s: %s is the best of its seeds on val, but %s is not on this disk (the run was restored from "
                "MLflow), or not as it was kept: its network cannot be promoted; delete the run in MLflow and train it "
                "again",
                *(task, run.name, source),
            )
            continue
        _keep(source, cell, run.record.metric, network.path(root, task, run.init.slug, _recipe(cell)))


def _best(runs: Sequence[Run]) -> list[tuple[Run, dict[str, Any]]]:
    """Finds the run with the highest score on val of each initialization and recipe; of equal ones the first."""
    found: dict[tuple[str, str], tuple[Run, dict[str, Any]]] = {}
    for run in runs:
        cell = finetune.read_cell(run)
        key = (cell["init"], _recipe(cell))
        score, metric = _val(cell, run.record.metric), run.record.metric
        if score is not None and (key not in found or (_val(found[key][1], metric) or 0.0) < score):
            found[key] = (run, cell)
    return list(found.values())


def _val(cell: dict[str, Any], metric: str) -> float | None:
    score: float | None = cell["scores"].get(f"best_val_{metric}")
    return score


def _recipe(cell: dict[str, Any]) -> str:
    return str(cell.get("recipe", "fixed"))


def _keep(source: Path, cell: dict[str, Any], metric: str, target: Path) -> None:
    chosen = Chosen(
        init=cell["init"],
        task=cell["task"],
        digest=cell["digest"],
        seed=cell["seed"],
        fold=cell["fold"],
        recipe=_recipe(cell),
        metric=metric,
        val=_val(cell, metric) or 0.0,
    )
    network.keep(source, chosen, target)
