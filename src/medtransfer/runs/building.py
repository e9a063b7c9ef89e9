"""What a run trains with, built from the run alone: labelled data, protocol, loader, trainer."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from medtransfer.core import arithmetic, rng
from medtransfer.core.errors import UserError
from medtransfer.data import catalog, permuted
from medtransfer.data.cache import Prepared, load
from medtransfer.params import Classification, Segmentation, task_params
from medtransfer.runs import variants
from medtransfer.runs.run import Run
from medtransfer.training.fitting import NetworkSpec
from medtransfer.weights import store

if TYPE_CHECKING:  # torch is loaded where a run is trained: in a worker, and not where all runs have finished
    from medtransfer.training.loader import Cache, Loader
    from medtransfer.training.rivals import Seat
    from medtransfer.training.trainer import TaskTrainer


@functools.lru_cache(maxsize=2)
def _prepared(folder: Path, digest: str) -> Prepared:
    prepared = load(folder)
    if digest not in (prepared.digest, *prepared.parts.values()):
        raise UserError(f"the prepared cache {folder} was replaced since this run was planned; start it again")
    return prepared


@functools.lru_cache(maxsize=2)
def _cache(folder: Path, digest: str, device: str, task: str, root: Path) -> Cache:
    """Keeps the caches of a worker's last tasks, so that its next run reads nothing again."""
    import torch

    from medtransfer.training import objectives
    from medtransfer.training.loader import Cache

    prepared, record = _prepared(folder, digest), catalog.lookup(task, root)
    return Cache(prepared.images, objectives.targets(record, prepared), torch.device(device), len(record.labels))


def labelled(run: Run) -> Prepared:
    """Opens the cache with the run's fold or drawn split, and the labels that a fraction or a permutation leaves."""
    found = variants.labelled(_prepared(run.prepared, run.manifest_digest).of_fold(run.fold), run)
    return permuted.permute(found, run.record, run.seed) if run.protocol == "permuted" else found


def protocol_of(run: Run) -> Classification | Segmentation:
    """Gives what it is trained under; with a fraction of the labels an epoch has as many steps as with all.

    Fewer labels would else be less training too, and a score would not say which of the two it is short of.
    """
    protocol = run.training
    if run.fraction.whole:
        return protocol
    images = len(_prepared(run.prepared, run.manifest_digest).of_fold(run.fold).rows("train"))
    return dataclasses.replace(protocol, min_steps=max(protocol.min_steps, -(-images // protocol.batch_size)))


def loader(run: Run) -> Loader:
    """Builds what makes batches of the run's images."""
    from medtransfer.training import objectives
    from medtransfer.training.loader import Cache, Loader

    task, protocol = run.record, run.training
    whole = _prepared(run.prepared, run.manifest_digest)
    mean, std = run.normalization
    cache = _cache(run.prepared, whole.digest, run.device, run.task, run.root)
    if run.protocol == "permuted":
        truth = objectives.targets(task, labelled(run))
        cache = Cache(whole.images, truth, cache.device, len(task.labels))
    return Loader(
        cache,
        whole.samples["id"].tolist(),
        size=task_params(run.params, run.task).image_size,
        batch_size=protocol.batch_size,
        crop_fraction=protocol.crop_fraction,
        mean=mean,
        std=std,
        channels_last=run.params.engine.channels_last,
        uncertain=protocol.uncertain if task.uncertain and isinstance(protocol, Classification) else "",
    )


def trainer(run: Run, seat: Seat | None = None) -> tuple[TaskTrainer, Prepared]:
    """Builds everything that training needs, from the run alone; at a seat it trains beside rivals."""
    with seat.turn() if seat else contextlib.nullcontext():
        return _built(run, seat)


def _built(run: Run, seat: Seat | None) -> tuple[TaskTrainer, Prepared]:
    import torch

    from medtransfer.training import lora, objectives, optimizer
    from medtransfer.training.trainer import TaskTrainer, choose_kernels

    arithmetic.check(run.params.engine.portable, run.device)  # this may be a worker on another machine
    choose_kernels(run.params.engine)
    task, device = run.record, torch.device(run.device)
    prepared, protocol = labelled(run), protocol_of(run)
    goal = objectives.objective(task, prepared, protocol, device)
    tensors = store.state(run.init, run.root, rng.seed_of(run.seed, "backbone"), run.params.model.random_last_bn)
    size = task_params(run.params, run.task).image_size
    model = goal.build(NetworkSpec.of(run.init, run.params.model, size), tensors, rng.seed_of(run.seed, "head"))
    if run.protocol == "partial":
        optimizer.freeze_but_last(model, run.params.protocols.partial_blocks)
    if run.protocol == "lora":
        settings = run.params.protocols
        lora.adapt(model, settings.lora_rank, settings.lora_alpha, rng.seed_of(run.seed, "lora"))
    rows = {split: prepared.rows(split) for split in ("train", "val", "test")}
    built = TaskTrainer(
        model, goal, loader(run), rows,
        protocol=protocol, engine=run.params.engine, seed=run.seed, device=device, folder=run.folder,
        checkpoint_seconds=run.params.execution.checkpoint_seconds, seat=seat,
    )  # fmt: skip
    return built, prepared
