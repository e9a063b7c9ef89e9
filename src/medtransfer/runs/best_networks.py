"""Keeps, of the finished runs of a task, the network of each initialization's best seed on val."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medtransfer.core import files
from medtransfer.results import kept_network
from medtransfer.results.kept_network import FOLDER, NETWORK, KeptNetwork
from medtransfer.runs import finished
from medtransfer.runs.run import Run

log = logging.getLogger("medtransfer")


def write(runs: Sequence[Run], task: str, root: Path) -> None:
    """Keeps, of the finished runs of a task, the network of each initialization's best seed; what else was there goes.

    A run that was restored from MLflow has no network on this disk: that is said, and nothing stands in for it.
    """
    shutil.rmtree(root / FOLDER / task, ignore_errors=True)
    (root / FOLDER / task).mkdir(parents=True)
    for run, result in _best(runs):
        source = run.folder / NETWORK
        kept = result.get("parts", {}).get(NETWORK)
        if not source.is_file() or (kept and not files.checked(source, kept)):
            log.warning(
                "task %s: %s is the best of its seeds on val, but %s is not on this disk (the run was restored from "
                "MLflow), or not as it was kept: its network cannot be promoted; delete the run in MLflow and train it "
                "again",
                *(task, run.name, source),
            )
            continue
        _keep(source, result, run.record.metric, kept_network.path(root, task, run.init.slug, _recipe(result)))


def _best(runs: Sequence[Run]) -> list[tuple[Run, dict[str, Any]]]:
    """Finds the run with the highest score on val of each initialization and recipe; of equal ones the first."""
    found: dict[tuple[str, str], tuple[Run, dict[str, Any]]] = {}
    for run in runs:
        if run.protocol != "finetune" or not run.fraction.whole:  # what is promoted was fine-tuned on all labels
            continue
        result = finished.read_finished(run)
        key = (result["init"], _recipe(result))
        score, metric = _val(result, run.record.metric), run.record.metric
        if score is not None and (key not in found or (_val(found[key][1], metric) or 0.0) < score):
            found[key] = (run, result)
    return list(found.values())


def _val(result: dict[str, Any], metric: str) -> float | None:
    score: float | None = result["scores"].get(f"best_val_{metric}")
    return score


def _recipe(result: dict[str, Any]) -> str:
    return str(result.get("recipe", "fixed"))


def _keep(source: Path, result: dict[str, Any], metric: str, target: Path) -> None:
    chosen = KeptNetwork(
        init=result["init"],
        task=result["task"],
        digest=result["digest"],
        seed=result["seed"],
        fold=result["fold"],
        recipe=_recipe(result),
        metric=metric,
        val=_val(result, metric) or 0.0,
    )
    kept_network.keep(source, chosen, target)
