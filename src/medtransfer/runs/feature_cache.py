"""`data/features`: which features a run reads, and the pass that makes them, once for all runs that read the same."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtransfer.core import files, rng
from medtransfer.core.identity import PROTOCOL_VERSION, digest
from medtransfer.data.cache import load
from medtransfer.params import task_params
from medtransfer.runs.execution import pull
from medtransfer.runs.run import Run
from medtransfer.training.fitting import BackboneSpec, NetworkSpec
from medtransfer.weights import store

if TYPE_CHECKING:
    from medtransfer.training.features import Features

log = logging.getLogger("medtransfer")

FOLDER = "data/features"


def identity(run: Run) -> str:
    """Identifies the features that a run reads: of which weights, of which images, seen how.

    Neither fold, split, fraction nor protocol is in it, and of the seed only what draws random weights.
    """
    keys = ("crop_fraction", "linear_positions")
    seen = {
        name: value
        for name, value in run.fields.items()
        if name.startswith(("engine.", "tasks.", "model.", "execution.")) or name.rpartition(".")[2] in keys
    }
    return digest(
        {
            "verb": "features",
            "weights": run.weights_sha256,
            "drawn_from": run.seed if run.init.random and run.network else None,
            "backbone": run.init.backbone,
            "manifest": load(run.prepared).every_split,
            "fields": seen,
            "input": run.normalization,
            "protocol_version": PROTOCOL_VERSION,
        }
    )


def folder(run: Run) -> Path:
    """Says where they lie."""
    return run.root / FOLDER / run.task / identity(run)


def make_all(runs: Sequence[Run]) -> None:
    """Computes what the frozen runs among these read and is not here; says before what it takes.

    Raises:
        UserError: a pass failed; those that ended are kept.
    """
    wanted = {folder(run): run for run in runs if run.frozen}
    open_runs = [run for path, run in wanted.items() if not (path / "manifest.json").is_file()]
    if not open_runs:
        return
    settings, device = open_runs[0].params.execution, open_runs[0].device
    size, images = sum(map(_bytes, open_runs)), sum(len(load(run.prepared).images) for run in open_runs)
    free = shutil.disk_usage(open_runs[0].root).free
    memory = max(map(_bytes, open_runs))
    log.info(
        "features: %d passes over %s images, %.2f GB on disk (%.0f GB are free); a run reads up to %.2f GB of them "
        "into memory, as numbers of 64 bits four times that",
        *(len(open_runs), f"{images:,}", size / 1e9, free / 1e9, memory / 1e9),
    )
    waiting = list(reversed(open_runs))
    failures = []
    for run, outcome in pull.pull(
        compute,
        lambda: waiting.pop() if waiting else None,
        settings=settings,
        device=device,
        workers=pull.worker_count(settings, device, len(open_runs)),
        report=lambda run, progress: None,
    ):
        if isinstance(outcome, Exception):
            failures.append(outcome)
            continue
        log.info("features of %s on %s: %.1f s", run.init.label if run.network else run.protocol, run.task, outcome)
    if failures:
        raise failures[0]


def _bytes(run: Run) -> int:
    """Estimates the size of a pass's result."""
    prepared = load(run.prepared)
    width = _width(run)
    positions = run.params.protocols.linear_positions if run.record.segmentation else 1
    return len(prepared.images) * positions * width * 2


def _width(run: Run) -> int:
    """Counts the features of an image, or of a pixel of it."""
    from medtransfer.training import fitting

    if not run.network:  # bounds that describe texture well enough; numbers of 32 bits
        return 2 * (20 if run.record.segmentation else 100)
    return fitting.feature_width(
        run.init.backbone, task_params(run.params, run.task).image_size, run.record.segmentation
    )


def compute(run: Run, report: Callable[[Any], None]) -> float:
    """Makes the features that a run reads if they are not here; returns the seconds that the pass took."""
    return ready(run).seconds


def ready(run: Run) -> Features:
    """Reads the features of a run, which are computed if they are not here; other processes wait for them meanwhile.

    Raises:
        UserError: the pass failed.
    """
    from medtransfer.training import features

    path, name = folder(run), identity(run)
    found = features.read(path, name)
    if found is not None:
        return found
    with files.lock(path.with_name(f".{name}.lock")):
        count = run.params.protocols.linear_positions if run.record.segmentation else 0
        if not run.network:
            from medtransfer.runs import building
            from medtransfer.training import texture

            return texture.compute(building.loader(run), path, name, count)
        backbone, loader = network(run)
        return features.compute(backbone, loader, path, name, count, lambda done, of: None)


def network(run: Run) -> tuple[Any, Any]:
    """Builds the frozen backbone, or its feature maps, and the loader of its images."""
    import torch

    from medtransfer.runs import building
    from medtransfer.training import networks
    from medtransfer.training.trainer import choose_kernels

    choose_kernels(run.params.engine)
    tensors = store.state(run.init, run.root, rng.seed_of(run.seed, "backbone"), run.params.model.random_last_bn)
    spec: BackboneSpec = NetworkSpec.of(run.init, run.params.model, task_params(run.params, run.task).image_size)
    build = networks.pyramid if run.record.segmentation else networks.backbone
    backbone = build(spec, tensors)
    layout = torch.channels_last if run.params.engine.channels_last else torch.contiguous_format
    backbone = backbone.to(torch.device(run.device), memory_format=layout)  # type: ignore[call-overload]  # torch's stub lacks it
    return backbone.eval(), building.loader(run)


def keep_only(runs: Sequence[Run], root: Path) -> None:
    """Removes features that none of these runs reads: the folder is an output of DVC's."""
    kept = {folder(run) for run in runs}
    for path in sorted((root / FOLDER).glob("*")):
        if path.is_file():
            path.unlink()
            continue
        for one in sorted(path.iterdir()):
            if one.is_file():
                one.unlink()
            elif one not in kept:
                shutil.rmtree(one)
        if not any(path.iterdir()):
            path.rmdir()
