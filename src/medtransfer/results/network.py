"""The fine-tuned network of each initialization on a task: of its best seed on val, kept for `dvc pull` to bring back.

MLflow holds no network of a run, and `data/runs` is this machine's own. What is kept here is what can be promoted.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtransfer.core import files
from medtransfer.core.errors import UserError
from medtransfer.core.schema import read_json
from medtransfer.runs import finetune
from medtransfer.runs.run import Run

log = logging.getLogger("medtransfer")

FOLDER = "data/results/checkpoints"
NETWORK = "best.safetensors"
"""in the folder of a run that was trained on this machine"""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Which run a kept network is of."""

    init: str
    """canonical name"""
    task: str
    digest: str
    """of the run"""
    seed: int
    fold: int | None
    """or the number of a drawn split"""
    recipe: str
    metric: str
    val: float
    """primary metric on val, by which the run was chosen"""
    sha256: str
    """of the file"""


def path(root: Path, task: str, slug: str, recipe: str) -> Path:
    """Says where the network of an initialization is kept."""
    name = slug if recipe == "fixed" else f"{slug}--{recipe}"
    return root / FOLDER / task / f"{name}.safetensors"


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
        _keep(source, cell, run.record.metric, path(root, task, run.init.slug, _recipe(cell)))


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
    with files.replacing(target) as temporary:
        shutil.copyfile(source, temporary)
    chosen = Chosen(
        init=cell["init"],
        task=cell["task"],
        digest=cell["digest"],
        seed=cell["seed"],
        fold=cell["fold"],
        recipe=_recipe(cell),
        metric=metric,
        val=_val(cell, metric) or 0.0,
        sha256=files.sha256(target),
    )
    files.write_text(target.with_suffix(".json"), json.dumps(dataclasses.asdict(chosen), indent=1) + "\n")


def read(network: Path) -> Chosen:
    """Reads which run a kept network is of.

    Raises:
        UserError: it is not there, or it is not the file that was kept.
    """
    note = network.with_suffix(".json")
    if not network.is_file() or not note.is_file():
        raise UserError(
            f"looked for a fine-tuned network in {network}, found none: run `benchmark` where the run was trained, or "
            "`dvc pull`"
        )
    advice = "remove it and run `benchmark` again where the run was trained, or `dvc pull`"
    chosen = read_json(note, Chosen, "description of a network", advice)
    if files.sha256(network) != chosen.sha256:
        raise UserError(f"{network} is not the file that {note.name} describes; run `benchmark` again")
    return chosen
