"""The results of a run: what is written when it has been tested, and what of it MLflow gets."""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from medtransfer import tracking
from medtransfer.core import files
from medtransfer.core.identity import PROTOCOL_VERSION
from medtransfer.data import pixel_sizes
from medtransfer.data.cache import Prepared
from medtransfer.data.tasks import Task, slug
from medtransfer.results.result import PREDICTIONS
from medtransfer.runs import finished
from medtransfer.runs.further_tests import FurtherTests
from medtransfer.runs.run import Run
from medtransfer.statistics import metrics
from medtransfer.weights import store

if TYPE_CHECKING:  # torch is loaded where a run is trained: in a worker, and not where all runs have finished
    from medtransfer.training.checkpoint import Fit
    from medtransfer.training.objectives import Prediction


def write(
    run: Run, prepared: Prepared, tracked: tracking.TrackedRun, fit: Fit, val: Prediction, test: Prediction,
    more: Mapping[str, float], kept: Sequence[Path], further: FurtherTests,
) -> None:  # fmt: skip
    """Writes the results of a run; `cell.json` last, because it says that they are whole."""
    scores = {f"test_{name}": value for name, value in test.scores.items()}
    scores |= {f"best_val_{name}": value for name, value in val.scores.items() if "." not in name}
    scores |= {} if run.record.segmentation else _calibration(run.record, val, test)
    scores |= further.scores
    cost = {"epochs": fit.epoch, "images": fit.images, "seconds": fit.seconds, **more}
    cost["gpu_seconds"] = fit.seconds if run.device == "cuda" else 0.0
    told = {f"cost_{name}": float(value) for name, value in cost.items() if name != "gpu_seconds" or value}
    primary = f"test_{run.record.metric}"
    told |= {"score": scores[primary]} if primary in scores else {}  # one column for all tasks
    tracked.journal.append({**scores, **told, "best_epoch": fit.best_epoch}, fit.epoch)
    tables = {PREDICTIONS: test.table, **further.tables}
    for name, table in tables.items():
        with files.replacing(run.folder / name) as temporary:
            table.to_parquet(temporary, index=False)
    result = _result(run, prepared, fit, scores, cost) | further.notes
    result["parts"] = {path.name: files.sha256(path) for path in (*(run.folder / name for name in tables), *kept)}
    result["mlflow_run_id"] = tracked.run_id
    files.write_text(run.folder / "cell.json", json.dumps(result, indent=1))


def _calibration(task: Task, val: Prediction, test: Prediction) -> dict[str, float]:
    """Scores how the probabilities of test are calibrated, with temperatures that val alone decides."""
    from medtransfer.statistics import calibration

    slugs = [slug(label) for label in task.labels]

    def read(one: Prediction) -> tuple[Any, Any]:
        target, probability = ([f"{column}.{name}" for name in slugs] for column in ("target", "probability"))
        return one.table[target].to_numpy(), one.table[probability].to_numpy()

    tested = [slug(label) for label in task.tested]
    return calibration.scores_of_run(read(val), read(test), slugs, tested, task.kind == "multiclass")


def _result(run: Run, prepared: Prepared, fit: Fit, scores: dict[str, float], cost: dict[str, float]) -> dict[str, Any]:
    import timm
    import torch

    task, test = run.record, prepared.samples[prepared.samples["split"] == "test"]
    ruler = pixel_sizes.ruler(task, prepared) if task.segmentation else None
    tested = [] if task.segmentation else list(task.tested or task.labels)
    return {
        "digest": run.digest,
        "verb": "finetune",
        "init": run.init.canonical,
        "task": run.task,
        "seed": run.seed,
        "recipe": run.recipe,
        "protocol": run.protocol,
        "fraction": str(run.fraction),
        "study": dict(run.study),
        "fold": run.fold,
        "folds": prepared.manifest["folds"],
        "kind": task.kind,
        "measured": list(task.measured),
        **({"tolerance": ruler.words} if ruler else {}),
        "unit": task.unit,
        "dataset": task.dataset,
        "marks": list(run.marks),
        "spared": list(run.spared),
        **({"listed": dataclasses.asdict(run.listed)} if run.listed else {}),
        "labels": len(tested or task.labels),
        "undefined": metrics.undefined_labels(test[tested].to_numpy(), tested),
        "tested": [slug(label) for label in tested or task.labels],
        "scores": scores,
        "best": {"epoch": fit.best_epoch, "monitor": fit.best},
        "history": fit.history,
        "cost": cost,
        "params": run.shown,
        "counts": counts(prepared),
        "split": f"{prepared.manifest['split_recipe']}; hash {prepared.manifest['split_hash'][:12]}",
        "protocol_version": PROTOCOL_VERSION,
        "manifest_digest": run.manifest_digest,
        "weights_sha256": run.weights_sha256,
        "device": run.device,
        "arithmetic": fit.arithmetic,
        "commit": files.git_commit(run.root),
        "finished": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__},
    }


def counts(prepared: Prepared) -> dict[str, int]:
    """Counts the images of each split, in a fold or a drawn split those of its own."""
    return {split: len(prepared.rows(split)) for split in ("train", "val", "test")}


def publish(run: Run, tracked: tracking.TrackedRun) -> None:
    """Names everything that a finished run has for MLflow."""
    from medtransfer.runs import curves

    result = finished.read_finished(run)
    files.write_text(run.folder / "params.yaml", yaml.safe_dump(result["params"]))
    names = [*finished.results_of(run), "journal.jsonl", "params.yaml", *([curves.FILE] if run.trains else [])]
    title = f"{run.init.canonical}, {run.task}, seed {run.seed}"
    if run.trains:
        path, metric = run.folder / curves.FILE, f"val_{run.record.metric}"
        curves.draw(result["history"], metric, result["best"]["epoch"], title, path)
    receipt = store.receipt_file(run.init, run.root)
    if receipt is not None:
        shutil.copyfile(receipt, run.folder / "receipt.json")
        names.append("receipt.json")
    tracked.artifacts(run.folder, names)
