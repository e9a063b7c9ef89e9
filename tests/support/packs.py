"""Packs made without training: runs of known scores, written and read as `pack` does."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medtransfer.core.identity import PROTOCOL_VERSION
from medtransfer.packs import file
from medtransfer.packs.records import Contribution, InitCard, TaskCard
from medtransfer.results.result import Result

CPU = {
    "device": "cpu", "cpu": "AMD EPYC (x86_64)", "torch": "AVX2", "oneDNN": "AVX2", "MKL": "COMPATIBLE",
    "threads": "1", "versions": "torch 2.14.1",
}  # fmt: skip
OTHER = CPU | {"torch": "AVX512", "oneDNN": "AVX512_CORE"}
"""another kind of CPU"""


def result(
    task: str = "shenzhen", init: str = "random@resnet50", seed: int = 0, auc: float = 0.9, **changes: Any
) -> Result:
    """Makes a run; its digest is that of its task, init and seed."""
    fields: dict[str, Any] = {
        "digest": hashlib.sha256(f"{task} {init} {seed}".encode()).hexdigest()[:32], "verb": "finetune", "init": init,
        "task": task, "seed": seed, "fold": None, "folds": 0, "kind": "binary", "marks": ("synthetic",),
        "scores": {"test_auc": auc, "best_val_auc": 1 / 3}, "cost": {"epochs": 2.0, "seconds": 12.345678},
        "params": {"classification.lr": 1e-3, "classification.monitor": "val_loss"}, "labels": 1, "undefined": (),
        "device": "cpu", "versions": {"torch": "2.14.1", "timm": "1.0.31"}, "protocol_version": PROTOCOL_VERSION,
        "manifest_digest": f"m-{task}", "weights_sha256": "random", "mlflow_run_id": None,
        "counts": {"train": 10, "val": 5, "test": 5}, "split": "drawn", "dataset": task, "unit": "patient",
        "history": ({"val_auc": 0.5, "lr": 1e-3}, {"val_auc": 0.6, "lr": 5e-4}), "tested": ("Tuberculosis",),
        "measured": ("auc",), "arithmetic": CPU, "finished": "2026-01-31T12:00:00Z", "metric": "auc", "margin": 0.01,
        "images": (task,),
    }  # fmt: skip
    return Result(**fields | changes)


def contribution(results: Sequence[Result], lab: str = "Lab A", **changes: Any) -> Contribution:
    """Makes a contribution of runs, with a card for each task and initialization."""
    tasks = {
        one.task: TaskCard(title=one.task, kind=one.kind, modality="chest-x-ray", metric=one.metric, margin=0.01)
        for one in results
    }
    inits = {
        one.init: InitCard(
            title=one.init, family="random", modality="none", licence="", commercial="yes", parameters=23_508_032,
            weights_sha256="", tensors_sha256="" if one.weights_sha256 == "random" else str(one.weights_sha256),
        )
        for one in results
    }  # fmt: skip
    fields: dict[str, Any] = {
        "digest": "", "lab": lab, "created": "2026-01-31T12:00:00Z", "protocol_version": PROTOCOL_VERSION,
        "results": tuple(results), "tasks": tasks, "inits": inits,
    }  # fmt: skip
    return Contribution(**fields | changes)


def write(path: Path, whole: Contribution, tables: Mapping[str, bytes] | None = None) -> Contribution:
    """Writes a pack of one contribution; `tables` are predictions by the digest of their run."""
    hashes = {run: hashlib.sha256(content).hexdigest() for run, content in (tables or {}).items()}
    own, text = file.of_contribution(whole, hashes)
    contents: dict[str, Callable[[], bytes]] = {f"contributions/{own}.json": lambda: text}
    for one in whole.results:
        if one.digest in hashes:
            contents[file.table(own, one.task, one.digest)] = _of((tables or {})[one.digest])
    file.write(path, contents)
    return dataclasses.replace(whole, digest=own)


def _of(content: bytes) -> Callable[[], bytes]:
    return lambda: content


def members(path: Path) -> dict[str, bytes]:
    """Reads every member as it stands."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(path: Path, contents: Mapping[str, bytes]) -> None:
    """Writes members as they are, whatever they say."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def forge(source: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes a pack's only contribution and computes every hash anew, as a forger would."""
    opened = file.open_pack(source)
    tree = json.loads(next(text for name, text in opened.texts.items() if name.startswith("contributions/")))
    change(tree)
    text = json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()
    file.write(target, {f"contributions/{hashlib.sha256(text).hexdigest()}.json": lambda: text})
