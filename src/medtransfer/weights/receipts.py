"""Receipts: of a published file that was converted, and of weights pre-trained further here, with their whole chain."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtransfer.core import files
from medtransfer.core.errors import UserError
from medtransfer.core.schema import convert
from medtransfer.weights.locate import File
from medtransfer.weights.names import Initialization
from medtransfer.weights.records import Triple

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "data/weights/pretrained"


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What was loaded, from where, and what became of every key of the file."""

    init: str
    backbone: str
    files: tuple[File, ...]
    container: str
    beside: tuple[str, ...]
    """what else was in the file, not looked at"""
    layout: str
    """the rule that turned the file's keys into timm's"""
    recipe: Mapping[str, Any]
    """what was asked for; weights whose recipe is another one are converted again"""
    keys: Mapping[str, str]
    """timm's key -> key in the file"""
    dropped: Mapping[str, tuple[str, ...]]
    """rule -> keys that it left out"""
    filled: tuple[str, ...]
    """counters of batch norm that the file lacks; they start at zero"""
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    adapted: tuple[str, ...]
    """what was changed in the numbers, in words"""
    tensors_sha256: str
    parameters: int
    mean: Triple
    std: Triple
    padding: str
    data: str
    method: str
    paper: str
    licence: str
    commercial: str
    """whether the licence permits commercial use: yes, no, or unclear"""
    note: str
    fingerprint: tuple[float, ...]
    """numbers of the features of a fixed input, in evaluation mode"""
    versions: Mapping[str, str]
    input: str = ""
    """where mean and std are from, if the init does not state them"""
    datasets: tuple[str, ...] = ()
    """of ours, whose images the weights have seen"""
    unverified: str = ""
    """what is not known for sure of the file"""

    @property
    def source(self) -> str:
        """Names the first file for messages."""
        return self.files[0].address


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """What a pre-training started from, what it saw, how, and what came out."""

    init: str
    """canonical name"""
    backbone: str
    digest: str
    """of the pre-training: equal digests give equal tensors"""
    identity: Mapping[str, Any]
    """what the digest is of, as plain data"""
    parent: str
    """canonical name of what it started from"""
    parent_sha256: str
    """of the tensors that it started from, drawn ones too"""
    parent_receipt: Mapping[str, Any] | None
    """of what it started from, with the chain below it; None for drawn weights"""
    dataset: str
    manifest_digest: str
    dropped: tuple[str, ...]
    """hashes of the patients that were left out, because they are in val or test of a target"""
    targets: Mapping[str, str]
    """tasks whose val and test were looked through -> their manifest digest"""
    images: Mapping[str, int]
    """split -> images it was trained on, or chosen by"""
    marks: tuple[str, ...]
    """of the data: `synthetic`, `partial`, ..."""
    method: str
    monitor: str
    best_epoch: int
    best: float
    """monitored score of the chosen epoch"""
    epochs: int
    seconds: float
    tensors_sha256: str
    parameters: int
    mean: Triple
    std: Triple
    """of the inputs it was trained with, per channel"""
    padding: str
    licences: tuple[str, ...]
    """of the weights it started from and of the images it saw; the strictest counts"""
    fingerprint: tuple[float, ...]
    """numbers of the features of a fixed input, in evaluation mode"""
    versions: Mapping[str, str]
    mlflow_run_id: str
    arithmetic: Mapping[str, str] = field(default_factory=dict)
    """see `arithmetic.in_force`; empty: written by an earlier version"""


def path(init: Initialization, root: Path) -> Path:
    """Says where the tensors of a pre-trained initialization are."""
    return root / FOLDER / f"{init.slug}.safetensors"


def read(init: Initialization, root: Path) -> Lineage | None:
    """Reads the receipt; None where the weights are not made yet, or by an earlier version of this program."""
    receipt = path(init, root).with_suffix(".receipt.json")
    if not receipt.is_file() or not path(init, root).is_file():
        return None
    try:
        found: Lineage = convert(json.loads(receipt.read_text()), Lineage)
    except (ValueError, UserError):
        return None
    return found


def made(root: Path) -> list[str]:
    """Lists, in a line each, what was pre-trained further here."""
    return [_in_a_line(path) for path in sorted((root / FOLDER).glob("*.receipt.json"))]


def _in_a_line(receipt: Path) -> str:
    try:
        said = json.loads(receipt.read_text())
        return f"{said['init']}: {said['method']}, digest {said['digest'][:8]}"
    except (ValueError, KeyError, TypeError):
        return f"{receipt} is no whole receipt: `pretrain` makes it anew"


def write(lineage: Lineage, tensors: Mapping[str, Tensor], init: Initialization, root: Path) -> None:
    """Writes the tensors, then the receipt, which says that they are whole."""
    from safetensors.torch import save_file

    target = path(init, root)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_suffix(".receipt.json").unlink(missing_ok=True)
    with files.replacing(target) as temporary:
        save_file(dict(tensors), temporary)
    files.write_text(target.with_suffix(".receipt.json"), json.dumps(dataclasses.asdict(lineage), indent=1))


def summary(lineage: Lineage) -> list[str]:
    """Says in a few lines what a receipt holds, the chain from its end to its start."""
    counts = ", ".join(f"{split} {count}" for split, count in lineage.images.items())
    dropped = (
        f"; {len(lineage.dropped)} patients left out, who are in val or test of a target" if lineage.dropped else ""
    )
    marks = f" ({', '.join(lineage.marks)})" if lineage.marks else ""
    lines = [
        f"{lineage.init}: {lineage.parent} pre-trained further on {lineage.dataset}{marks}, {lineage.method}",
        f"images: {counts}{dropped}; looked through: {', '.join(lineage.targets) or 'no target'}",
        f"{lineage.epochs} epochs, the best by {lineage.monitor} is {lineage.best_epoch} ({lineage.best:.4f}), "
        f"{lineage.seconds:.0f} s; MLflow run {lineage.mlflow_run_id}, digest {lineage.digest}",
        f"licences: {'; '.join(lineage.licences)}",
        f"sha256 of the tensors {lineage.tensors_sha256}, of those it started from {lineage.parent_sha256}",
    ]
    below: Any = lineage.parent_receipt
    while below is not None:
        name = below["init"] if "parent" in below else f"{below['init']}@{below['backbone']}"
        lines.append(f"started from {name}, sha256 of the tensors {below['tensors_sha256']}")
        below = below.get("parent_receipt")
    return lines
