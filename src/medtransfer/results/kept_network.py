"""The fine-tuned network of each initialization on a task: of its best seed on val, kept for `dvc pull` to bring back.

MLflow holds no network of a run, and `data/runs` is this machine's own. What is kept here is what can be promoted.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from medtransfer.core import files
from medtransfer.core.errors import UserError
from medtransfer.core.schema import read_json

FOLDER = "data/results/checkpoints"
NETWORK = "best.safetensors"
"""in the folder of a run that was trained on this machine"""


@dataclass(frozen=True, kw_only=True)
class KeptNetwork:
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
    sha256: str = ""
    """of the file"""


def path(root: Path, task: str, slug: str, recipe: str) -> Path:
    """Says where the network of an initialization is kept."""
    name = slug if recipe == "fixed" else f"{slug}--{recipe}"
    return root / FOLDER / task / f"{name}.safetensors"


def keep(source: Path, chosen: KeptNetwork, target: Path) -> None:
    """Copies a network to where it is kept, whole or not at all, and says beside it which run it is of.

    Args:
        source: the network's file.
        chosen: which run it is of; its `sha256` is taken from the copy.
        target: see `path`.
    """
    with files.replacing(target) as temporary:
        shutil.copyfile(source, temporary)
    chosen = dataclasses.replace(chosen, sha256=files.sha256(target))
    files.write_text(target.with_suffix(".json"), json.dumps(dataclasses.asdict(chosen), indent=1) + "\n")


def read(network: Path) -> KeptNetwork:
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
    chosen = read_json(note, KeptNetwork, "description of a network", advice)
    if files.sha256(network) != chosen.sha256:
        raise UserError(f"{network} is not the file that {note.name} describes; run `benchmark` again")
    return chosen
