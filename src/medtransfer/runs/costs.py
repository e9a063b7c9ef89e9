"""What finished runs took, by what runs share that cost about the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from medtransfer.runs.run import Run

DECIDING = ("engine.", "execution.", "model.decoder", "classification.batch_size", "segmentation.batch_size")
"""beginnings of the parameters that decide how fast a step is"""
UNCOMPILED = {"engine.compile": "False"}
"""of the same run without compiling, which has no `engine.graphs`"""


class Kind(NamedTuple):
    """What runs share that cost about the same."""

    task: str
    backbone: str
    device: str
    image_size: int
    max_epochs: int
    protocol: str = "finetune"
    fraction: str = "1"
    """a fraction takes as many steps as the whole; its val is smaller"""
    settings: tuple[tuple[str, str], ...] = ()
    """parameters of `DECIDING`, in order: precision, compiled or not, batch, threads, ..."""

    @property
    def uncompiled(self) -> Kind:
        """Is that of the same runs without compiling."""
        kept = {name: value for name, value in self.settings if name != "engine.graphs"}
        return self._replace(settings=tuple((kept | UNCOMPILED).items()))


class Cost(NamedTuple):
    """What finished runs of a kind took on average."""

    seconds: float
    """without what torch took to compile"""
    bytes: float
    """of a finished run's folder"""
    compiling: float = 0.0
    """the most seconds that one of them compiled; 0: their workers had compiled before, or they do not compile"""


def measured(root: Path) -> dict[Kind, Cost]:
    """Reads what the finished runs under `data/runs` took, on average per kind."""
    found: dict[Kind, list[Cost]] = {}
    for path in (root / "data/runs").glob("*/cell.json"):
        try:
            result = json.loads(path.read_text())
            variant = (result.get("protocol", "finetune"), result.get("fraction", "1"))
            of = _kind(result["task"], result["init"], result["device"], result["params"], variant)
            size = sum(file.stat().st_size for file in path.parent.iterdir())
            compiling = result["cost"].get("compile_seconds", 0.0)
            cost = Cost(result["cost"]["seconds"] - compiling, size, compiling)
        except (
            KeyError,
            ValueError,
            TypeError,
            AttributeError,
            OSError,
        ):  # of an earlier version, or removed meanwhile
            continue
        found.setdefault(of, []).append(cost)
    return {of: _joined(costs) for of, costs in found.items()}


def _joined(costs: list[Cost]) -> Cost:
    return Cost(
        fmean(cost.seconds for cost in costs), fmean(cost.bytes for cost in costs),
        max(cost.compiling for cost in costs),
    )  # fmt: skip


def _kind(task: str, init: str, device: str, fields: Mapping[str, Any], variant: tuple[str, str]) -> Kind:
    epochs = fields.get("classification.max_epochs", fields.get("segmentation.max_epochs"))
    backbone = init.rpartition("@")[2].partition("+")[0]
    settings = tuple(sorted((name, str(value)) for name, value in fields.items() if name.startswith(DECIDING)))
    return Kind(task, backbone, device, fields[f"tasks.{task}.image_size"], int(epochs or 0), *variant, settings)


def kind(run: Run) -> Kind:
    """Says which runs a run is like in cost."""
    return _kind(run.task, run.init.canonical, run.device, run.fields, (run.protocol, str(run.fraction)))
