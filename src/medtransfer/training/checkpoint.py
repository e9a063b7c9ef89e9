"""A training's checkpoint: how far it is, and the file that it goes on from after a kill."""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from medtransfer.core.errors import UserError

FILE = "checkpoint.pt"


@dataclass
class Fit:
    """What training knows at the end of an epoch; saved in every checkpoint."""

    epoch: int = 0
    """epochs done"""
    best: float = math.nan
    best_epoch: int = -1
    seconds: float = 0.0
    compile_seconds: float = 0.0
    """of them, what torch took to compile; 0 where the worker had compiled it before"""
    images: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    plateau: dict[str, Any] = field(default_factory=dict)
    arithmetic: dict[str, str] = field(default_factory=dict)
    """see `arithmetic.in_force`; where a training went on under another one, both"""

    @property
    def stale(self) -> int:
        """Counts epochs since the best one."""
        return self.epoch - 1 - self.best_epoch


def last_fit(folder: Path) -> Fit:
    """Reads what the checkpoint in a folder says of its training; a fresh one where there is none or it is damaged."""
    try:
        content = torch.load(folder / FILE, map_location="cpu", weights_only=True)
        return Fit(**content["fit"])
    except Exception:  # whatever a missing or damaged file makes torch raise
        return Fit()


def read(path: Path, device: torch.device) -> dict[str, Any]:
    """Reads a checkpoint whose every part is as it was written.

    Raises:
        UserError: a part is damaged. Whatever else a damaged file makes zipfile and torch raise comes as it is.
    """
    # A flipped bit of the optimizer would change numbers: every part has a checksum, which torch does not read.
    if damaged := zipfile.ZipFile(path).testzip():
        raise UserError(f"its part {damaged} is damaged")
    content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return content
