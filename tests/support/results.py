"""Finished runs made without training: `cell.json` and predictions as `finetune` writes them, of a known effect."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from medtransfer import params
from medtransfer.comparison import selection
from medtransfer.core import schema
from medtransfer.data.catalog import TASKS
from medtransfer.data.tasks import Task, slug
from medtransfer.results.result import Result

ROOT = Path(__file__).parents[2]
EPOCHS = 8
LOOK_UP = selection.look_up
"""as released, see `declare`"""
Array = NDArray[Any]


def write(
    folder: Path,
    effects: Mapping[str, float],
    tasks: Sequence[str],
    seeds: Sequence[int],
    *,
    cases: int = 200,
    images_per_patient: int = 1,
    seed_std: float = 0.05,
    alike: Mapping[str, str] | None = None,
    **changes: Any,
) -> None:
    """Writes one run per init, task and seed.

    A prediction is the sum of the truth, the image's difficulty (one for all inits), what an init makes of the image
    (one for all its seeds), the seed's luck and noise of the run's own; an init's effect is added to what the truth
    counts. The datasets of an init's chain were searched for the task's patients.

    Args:
        folder: of the finished runs.
        effects: canonical init name -> how much better it is than 0, in units of the noise.
        tasks: names.
        seeds: numbers.
        cases: test images per task.
        images_per_patient: of test.
        seed_std: std of a seed's luck, in the same units.
        alike: init -> the one that it is a second name of: the same numbers in every run.
        changes: fields of every cell; `metric`, `margin` and the mark `contaminated` are declared (`declare`).
    """
    for task in tasks:
        truth, hard = _task(TASKS[task], cases)
        for init in effects:
            source = (alike or {}).get(init, init)
            own = hard + 0.4 * np.random.default_rng(_number(task, source)).standard_normal(hard.shape)
            for seed in seeds:
                rng = np.random.default_rng(_number(task, source, seed))
                strength = 1.5 + effects[source] + seed_std * rng.standard_normal()
                _run(folder, TASKS[task], init, seed, truth, own, strength, rng, images_per_patient, changes)


def write_curves(
    folder: Path,
    effects: Mapping[str, float],
    tasks: Sequence[str],
    seeds: Sequence[int],
    protocols: Mapping[str, float],
    fractions: Sequence[str],
    *,
    rise: float = 0.4,
    cases: int = 200,
    **changes: Any,
) -> None:
    """Writes one run per init, task, seed, protocol and fraction; a tenfold of labels adds `rise` to the effect.

    Args:
        folder: of the finished runs.
        effects: see `write`, by `finetune` with all labels.
        tasks: names.
        seeds: numbers.
        protocols: name -> how much better it is than `finetune`; the history of `linear` and `knn` is over strengths or
            neighbours.
        fractions: shares of the 5 x `cases` images of train.
        rise: see above.
        cases: test images per task.
        changes: as in `write`.
    """
    for protocol, more in protocols.items():
        frozen = protocol in ("linear", "knn")
        for fraction in fractions:
            own = {init: effect + more + rise * float(np.log10(float(fraction))) for init, effect in effects.items()}
            counts = {"train": round(5 * cases * float(fraction)), "val": cases, "test": cases}
            given = {"protocol": protocol, "fraction": fraction, "counts": counts} | changes
            given |= {"history": [{"val_auc": 0.5, "val_dice": 0.5}] * 6} if frozen else {}
            write(folder, own, tasks, seeds, cases=cases, **given)


def _number(*words: object) -> int:
    return int(hashlib.sha256(repr(words).encode()).hexdigest()[:12], 16)


def _task(task: Task, cases: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(_number(task.name))
    labels = 1 if task.segmentation else len(task.labels)
    truth = (rng.random((cases, labels)) < 0.3).astype(np.int8)
    truth[:2], truth[2:4] = 1, 0
    return truth, rng.standard_normal((cases, labels))


def _run(
    folder: Path,
    task: Task,
    init: str,
    seed: int,
    truth: Array,
    hard: Array,
    strength: float,
    rng: np.random.Generator,
    images_per_patient: int,
    changes: Mapping[str, Any],
) -> None:
    cases = len(truth)
    number = np.arange(cases)
    table = pd.DataFrame(
        {
            "id": [f"image{k:05d}" for k in number],
            "patient": [f"{_number(task.name, k):012x}" for k in number // images_per_patient],
        }
    )
    noise = hard + 0.5 * rng.standard_normal(truth.shape)
    scores = _segmentation(table, noise, strength) if task.segmentation else {}
    if not task.segmentation:
        scores = _classification(task, table, truth, noise, strength)
    variant = tuple(changes[name] for name in ("recipe", "protocol", "fraction") if name in changes)
    digest = hashlib.sha256(repr((task.name, init, seed, *variant)).encode()).hexdigest()[:32]
    path = folder / task.name / digest
    path.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path / "predictions.parquet", index=False)
    val = scores[f"test_{task.metric}"] + 0.002 * rng.standard_normal()
    cell = _cell(task, init, seed, digest, scores | {f"best_val_{task.metric}": float(val)}, float(val), cases)
    (path / "cell.json").write_text(json.dumps(cell | dict(changes)))


def _classification(task: Task, table: pd.DataFrame, truth: Array, noise: Array, strength: float) -> dict[str, float]:
    probability = 1 / (1 + np.exp(-(strength * truth + noise - 1)))
    scores = {}
    for column, name in enumerate(map(slug, task.labels)):
        table[f"target.{name}"], table[f"probability.{name}"] = truth[:, column], probability[:, column]
        scores[f"test_auc.{name}"] = float(roc_auc_score(truth[:, column], probability[:, column]))
    tested = [slug(label) for label in task.tested or task.labels]
    return scores | {"test_auc": float(np.mean([scores[f"test_auc.{name}"] for name in tested]))}


def _segmentation(table: pd.DataFrame, noise: Array, strength: float) -> dict[str, float]:
    dice = 1 / (1 + np.exp(-(strength + 0.5 * noise[:, 0])))
    table["predicted"] = table["target"] = 10_000
    table["intersection"] = np.round(10_000 * dice).astype(int)
    mean = float((table["intersection"] / 10_000).mean())
    return {"test_dice": mean, "test_dice_positives": mean, "test_native_dice": mean}


def declare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes what a test writes into a run's file of `metric`, `margin` and `contaminated` for what is looked up."""

    def look_up(found: list[Result], folder: Path, root: Path) -> list[Result]:
        given = []
        for before, cell in zip(found, LOOK_UP(found, folder, root), strict=True):
            path = folder / cell.task / cell.digest / "cell.json"
            tree: Any = (
                json.loads(path.read_text()) if path.is_file() else {"marks": ()}
            )  # of a run that is not there yet
            facts = {name: tree[name] for name in ("metric", "margin") if name in tree}
            marks = tuple(dict.fromkeys((*cell.marks, *(m for m in tree["marks"] if m == "contaminated"))))
            measured = (*before.measured, *([tree["metric"]] if "metric" in tree else []))
            given.append(dataclasses.replace(cell, marks=marks, measured=measured, **facts))
        return given

    monkeypatch.setattr(selection, "look_up", look_up)


@functools.cache
def _read(task: str) -> dict[str, Any]:
    """Lays out what a run under params.yaml reads."""
    kind = "segmentation" if TASKS[task].segmentation else "classification"
    here = params.load(ROOT / "params.yaml")
    return schema.flatten(params.protocol(here, task, TASKS[task].segmentation), kind)


def _cell(
    task: Task, init: str, seed: int, digest: str, scores: dict[str, float], val: float, cases: int
) -> dict[str, Any]:
    rise = [val - 0.2 * 0.5**epoch for epoch in range(EPOCHS)]
    history = [{"train_loss": 1 - v, "val_loss": 1.1 - v, "lr": 1e-3, f"val_{task.metric}": v} for v in rise]
    return {
        "digest": digest, "verb": "finetune", "init": init, "task": task.name, "seed": seed, "fold": None, "folds": 0,
        "kind": task.kind, "measured": list(task.measured), "spared": init.rpartition("@")[2].split("+")[1:],
        "unit": task.unit, "dataset": task.dataset, "marks": ["synthetic"],
        "labels": len(task.tested or task.labels), "undefined": [], "scores": scores,
        "tested": [slug(label) for label in task.tested or task.labels],
        "best": {"epoch": EPOCHS - 1, "monitor": 0.1}, "history": history,
        "cost": {"epochs": EPOCHS, "images": 1000, "seconds": 30.5, "gpu_seconds": 30.5},
        "params": _read(task.name) | {f"tasks.{task.name}.image_size": 96},
        "counts": {"train": 5 * cases, "val": cases, "test": cases},
        "split": "test: official; hash 0123456789ab", "protocol_version": 1, "manifest_digest": f"m-{task.name}",
        "weights_sha256": f"w-{init}", "device": "cpu", "versions": {"torch": "2.14.1"}, "mlflow_run_id": None,
    }  # fmt: skip
