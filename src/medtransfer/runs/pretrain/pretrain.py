"""The verb `pretrain`: weights trained further on a dataset become an initialization like any other."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from medtransfer import tracking
from medtransfer.core import arithmetic, files, progress, rng
from medtransfer.core.errors import UserError
from medtransfer.core.identity import PROTOCOL_VERSION
from medtransfer.data import catalog, prepare
from medtransfer.params import Params
from medtransfer.runs import curves
from medtransfer.runs.execution import leases, pull
from medtransfer.runs.pretrain.link import Link, check, holds, method_settings, resolve, start_tensors
from medtransfer.runs.run import check_engine
from medtransfer.tracking import sync
from medtransfer.training import checkpoint, distributed, objectives
from medtransfer.training.distributed import Group
from medtransfer.training.fitting import NetworkSpec
from medtransfer.training.loader import Cache, Loader
from medtransfer.training.ssl import methods
from medtransfer.training.ssl.probe import Probe
from medtransfer.training.trainer import Trainer, choose_kernels
from medtransfer.weights import backbones, convert, fingerprint, licences, receipts, store
from medtransfer.weights.names import Initialization, parse
from medtransfer.weights.receipts import Lineage

log = logging.getLogger("medtransfer")

EXPERIMENT = "pretraining"
"""the experiment `medtransfer/pretraining`"""
PATIENCE = 24 * 3600.0
"""seconds that a process waits for the main one, which may prepare a large dataset; a dead one is noticed at once"""


def make(
    init: Initialization,
    params: Params,
    root: Path,
    targets: Sequence[str],
    parent_run: str | None = None,
    group: Group | None = None,
) -> Lineage:
    """Makes the weights of a chain, missing links first; what is there and still holds is left as it is.

    Of several processes the main one prepares, decides and writes; all of them train, on one shared folder.

    Args:
        init: with a chain.
        params: sections `pretraining`, `engine`, `model`, `execution`, and what `prepare` reads.
        root: the repository's top folder.
        targets: tasks whose val and test patients are kept out of the training images.
        parent_run: the launcher's run in MLflow.
        group: the processes that train together; None: this one alone.

    Raises:
        UserError: the chain cannot be made, or training failed in a way the user can mend.
    """
    check(init, params, root)
    if len(init.chain) > 1:
        make(init.parent, params, root, targets, parent_run, group)
    main = group is None or group.is_main
    link = None
    if main:
        store.ready(init.parent, root)
        link = resolve(init, params, root, targets)
    _meet(group)  # what the main process prepared is there
    link = link or resolve(init, params, root, targets)
    found = receipts.read(init, root)
    if found is not None and holds(found, link):
        log.info("%s is made already (digest %s)", init.canonical, found.digest)
        if main:
            _record_late(link, found, parent_run)
        return found
    _meet(group)  # all have looked before the main process writes
    if not main:
        return _help(link, group)
    with files.lock(link.folder / "lock", wait=False) as owned:
        if not owned:
            raise UserError(f"{init.canonical} is being pre-trained by another process here")
        return _run(link, parent_run, group)


def _meet(group: Group | None) -> None:
    if group is not None:
        group.collect(None)


def _help(link: Link, group: Group | None) -> Lineage:
    """Trains beside the main process, which alone logs and writes."""
    built = trainer(link, group)
    built.resume()
    built.run(lambda *_: None, lambda _: None)
    _meet(group)
    made = receipts.read(link.init, link.root)
    if made is None:
        raise UserError(f"{link.init.canonical}: the main process wrote no receipt; is {link.root} one folder for all?")
    return made


def _run(link: Link, parent_run: str | None, group: Group | None) -> Lineage:
    with tracking.recorded(link.root, _identity(link, parent_run), watch=True) as tracked:
        made = _train(link, tracked, group)
        _publish(link, link.folder, tracked)
    _meet(group)
    return made


def _record_late(link: Link, found: Lineage, parent_run: str | None) -> None:
    """Lets MLflow know of weights that were made here, where a kill or an outage came between."""
    folder = link.root / "data/runs" / found.digest
    if not (folder / "journal.jsonl").is_file():  # made elsewhere
        return
    with files.lock(folder / "lock", wait=False) as owned:
        try:
            known = tracking.finished(tracking.connect(link.root), EXPERIMENT, found.digest) is not None
        except tracking.Away as error:
            log.warning("%s: whether MLflow knows of it is asked later: %s", found.init, error)
            return
        if owned and not known:
            identity = dataclasses.replace(_identity(link, parent_run), digest=found.digest, folder=folder)
            with tracking.recorded(link.root, identity) as tracked:
                _publish(link, folder, tracked)


def _publish(link: Link, folder: Path, tracked: tracking.TrackedRun) -> None:
    """Names everything that a finished pre-training has for MLflow."""
    target = receipts.path(link.init, link.root)
    tracked.artifacts(target.parent, [target.name, target.with_suffix(".receipt.json").name])
    tracked.artifacts(folder, ["params.yaml", "journal.jsonl", curves.FILE])
    (folder / checkpoint.FILE).unlink(missing_ok=True)


def _identity(link: Link, parent_run: str | None) -> tracking.Identity:
    tags = {
        "verb": "pretrain",
        "init": link.init.canonical,
        "parent": link.init.parent.canonical,
        "parent_sha256": link.parent_sha256,
        "dataset": link.task.dataset,
        "manifest_digest": link.prepared.digest,
        "device": link.device,
        "arithmetic": arithmetic.kind(arithmetic.in_force(link.device)),
        "protocol_version": str(PROTOCOL_VERSION),
        "marks": ", ".join(link.prepared.marks),
        "mlflow.note.content": f"{link.init.parent.canonical} pre-trained further on {link.task.dataset}",
    }
    known = {"init": link.init.canonical, "dataset": link.task.dataset, "seed": link.params.pretraining.seed}
    return tracking.Identity(
        name=link.init.canonical, task=EXPERIMENT, digest=link.digest, tags=tags, params={**known, **link.fields},
        folder=link.folder, parent=parent_run,
    )  # fmt: skip


def trainer(link: Link, group: Group | None = None) -> Trainer:
    """Builds everything that training needs, from the link alone."""
    arithmetic.check(link.params.engine.portable, link.device)
    device = torch.device(link.device) if group is None else group.device
    choose_kernels(link.params.engine)
    pull.set_threads(link.params.execution.threads_per_run)
    settings = link.params.pretraining
    goal = _objective(link, device)
    spec = NetworkSpec.of(link.init, link.params.model, settings.image_size)
    tensors = start_tensors(link.init.parent, link.params, link.root)
    model = goal.build(spec, tensors, rng.seed_of(settings.seed, "head"))
    built = Trainer(
        model, goal, _loader(link, goal, device), _rows(link), protocol=settings, engine=link.params.engine,
        seed=settings.seed, device=device, folder=link.folder,
        micro_batch=settings.micro_batch, ema=settings.ema, group=group,
        checkpoint_seconds=link.params.execution.checkpoint_seconds,
    )  # fmt: skip
    if isinstance(goal, methods.SelfSupervised):
        goal.follow(built)
    return built


def _objective(link: Link, device: torch.device) -> objectives.Objective:
    settings = link.params.pretraining
    if link.supervised:
        return objectives.objective(link.task, link.prepared, settings.classification, device)
    return methods.objective(settings.method, method_settings(link.params), _probe(link, device))


def _loader(link: Link, goal: objectives.Objective, device: torch.device) -> Loader:
    settings, ids = link.params.pretraining, link.prepared.samples["id"].tolist()
    if isinstance(goal, methods.SelfSupervised):
        nothing = np.zeros((len(ids), 1), dtype=np.float32)  # in the place of labels
        cache = Cache(link.prepared.images, nothing, device)
        return goal.loader(cache, ids, backbone=link.init.backbone, augmentation=settings.augmentation, **_inputs(link))
    cache = Cache(link.prepared.images, objectives.targets(link.task, link.prepared), device, len(link.task.labels))
    return Loader(cache, ids, uncertain=settings.uncertain if link.task.uncertain else "", **_inputs(link))


def _probe(link: Link, device: torch.device) -> Probe | None:
    settings = link.params.pretraining
    if settings.probe == "none":
        return None
    task = catalog.lookup(settings.probe, link.root)
    prepared = prepare.prepare(task, link.params, link.root)
    cache = Cache(prepared.images, objectives.targets(task, prepared), device, len(task.labels))
    loader = Loader(cache, prepared.samples["id"].tolist(), **_inputs(link))
    return Probe(
        task=task, prepared=prepared, loader=loader, every=settings.probe_every,
        neighbours=settings.probe_neighbours, most=settings.probe_images,
    )  # fmt: skip


def _inputs(link: Link) -> dict[str, Any]:
    """Says how pixels become inputs, for every loader of a link."""
    settings = link.params.pretraining
    mean, std = link.normalization
    return {
        "size": settings.image_size, "batch_size": settings.batch_size, "crop_fraction": settings.crop_fraction,
        "mean": mean, "std": std, "channels_last": link.params.engine.channels_last,
    }  # fmt: skip


def _rows(link: Link) -> dict[str, NDArray[np.int64]]:
    """Lists the rows of train and val that are left; test is never read."""
    kept = {split: link.prepared.rows(split) for split in ("train", "val")}
    kept = {split: rows[~link.drop[rows]] for split, rows in kept.items()}
    empty = [split for split, rows in kept.items() if not len(rows)]
    if empty:
        raise UserError(
            f"{link.init.canonical}: no image of {link.task.name} is left in {' and '.join(empty)}: all are of "
            f"patients in val or test of {', '.join(link.targets)}"
        )
    return kept


def _train(link: Link, tracked: tracking.TrackedRun, group: Group | None) -> Lineage:
    built = trainer(link, group)
    counts = {split: len(rows) for split, rows in built.rows.items()}
    tracked.dataset(link.task.name, link.prepared.digest, f"data/prepared/{link.task.name}", counts)
    tracked.resumed(built.resume())
    with progress.bar(f"pretrain {link.init.canonical}", link.params.pretraining.max_epochs, "epochs") as advance:
        fit = built.run(tracked.log, lambda _: advance(), kept=tracked.kept)
    cost = {"cost_seconds": fit.seconds}
    cost |= {"cost_compile_seconds": fit.compile_seconds} if link.params.engine.compile else {}
    tracked.journal.append({"best_epoch": float(fit.best_epoch), **cost}, fit.epoch)
    tensors = backbones.backbone_of(link.init.backbone, built.best())
    made = _lineage(link, tensors, counts, built, tracked.run_id)
    files.write_text(link.folder / "params.yaml", yaml.safe_dump(link.fields))
    curves.draw(
        fit.history, f"val_{built.objective.metric}", fit.best_epoch, link.init.canonical, link.folder / curves.FILE
    )
    receipts.write(made, tensors, link.init, link.root)  # last, because its receipt says that all is there
    log.info("%s", "\n  ".join(receipts.summary(made)))
    return made


def _lineage(
    link: Link, tensors: Mapping[str, Tensor], counts: Mapping[str, int], built: Trainer, run_id: str
) -> Lineage:
    receipt = store.receipt_file(link.init.parent, link.root)
    below = json.loads(receipt.read_text()) if receipt else None
    mean, std = link.normalization
    own = (below.get("licences") or licences.parts(below["init"], below["licence"])) if below else ()
    fit = built.fit
    return Lineage(
        init=link.init.canonical,
        backbone=link.init.backbone,
        digest=link.digest,
        identity=json.loads(json.dumps(link.identity(link.dropped))),
        parent=link.init.parent.canonical,
        parent_sha256=link.parent_sha256,
        parent_receipt=below,
        dataset=link.task.dataset,
        manifest_digest=link.prepared.digest,
        dropped=link.dropped,
        targets=link.targets,
        images=counts,
        marks=tuple(link.prepared.marks),
        method=link.params.pretraining.method,
        monitor=link.params.pretraining.monitor,
        best_epoch=fit.best_epoch,
        best=fit.best,
        epochs=fit.epoch,
        seconds=fit.seconds,
        tensors_sha256=convert.digest(tensors),
        parameters=sum(t.numel() for k, t in tensors.items() if t.is_floating_point() and "running_" not in k),
        mean=mean,
        std=std,
        padding=link.init.padding,
        licences=(*own, f"images of {link.task.dataset}: {link.task.licence}"),
        fingerprint=fingerprint.fingerprint(link.init.backbone, tensors, link.init.padding),
        versions={"timm": timm.__version__, "torch": torch.__version__},
        arithmetic=fit.arithmetic,
        mlflow_run_id=run_id,
    )


def make_all(
    names: Sequence[str], params: Params, root: Path, targets: Sequence[str], parent_run: str | None = None
) -> list[Lineage]:
    """Makes every initialization of a list that has a chain; all are checked before the first is trained.

    Raises:
        UserError: as in `make`.
    """
    starts = [parse(name, params.model.backbone, params.inits) for name in names]
    chained = [init for init in starts if init.chain]
    for init in chained:
        check(init, params, root)
    if chained:
        check_engine(params, pull.resolve_device(params.execution))
        sync.sweep(root, leases.claims(leases.address(params.execution)))
    group = distributed.from_environment(pull.resolve_device(params.execution), PATIENCE) if chained else None
    with group or contextlib.nullcontext():
        return [make(init, params, root, targets, parent_run, group) for init in chained]
