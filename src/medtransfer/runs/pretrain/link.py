"""Which pre-training is which: one link of a chain, resolved and checked before any work starts."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medtransfer.core import rng, schema
from medtransfer.core.errors import UserError
from medtransfer.core.identity import PROTOCOL_VERSION, digest
from medtransfer.data import catalog, prepare
from medtransfer.data.cache import Prepared
from medtransfer.data.tasks import Task, applicable
from medtransfer.params import Params, task_params
from medtransfer.runs.execution import pull
from medtransfer.runs.pretrain import contamination
from medtransfer.training import fitting
from medtransfer.training.fitting import NetworkSpec
from medtransfer.training.ssl import methods
from medtransfer.weights import backbones, convert, receipts, recipes, store
from medtransfer.weights.backbones import shapes
from medtransfer.weights.names import Initialization, seen
from medtransfer.weights.receipts import Lineage
from medtransfer.weights.records import Triple

log = logging.getLogger("medtransfer")

SELF_SUPERVISED = ("projector", "temperature", "masked", "probe")
"""fields of `pretraining` that training by labels does not read"""
LABELLED = ("class_weights", "uncertain")
"""fields that self-supervised training does not read"""


@dataclass(frozen=True, kw_only=True)
class Link:
    """One pre-training of a chain, resolved before it starts."""

    init: Initialization
    """with the dataset that it is trained on as the last of its chain"""
    task: Task
    """of that dataset"""
    prepared: Prepared
    params: Params
    device: str
    parent_sha256: str
    drop: NDArray[np.bool_]
    """rows of the prepared data that are left out"""
    targets: Mapping[str, str]
    root: Path
    probed: str = ""
    """digest of the data of a probe that chooses the epoch"""

    @property
    def supervised(self) -> bool:
        """Says whether the dataset's labels are learnt."""
        return self.params.pretraining.method == "supervised"

    @property
    def fields(self) -> dict[str, Any]:
        """Lists the parameters that the pre-training reads, by dotted name."""
        fields = schema.flatten(self.params.pretraining, "pretraining")
        unread = SELF_SUPERVISED if self.supervised else LABELLED
        if not self.supervised and self.params.pretraining.probe == "none":
            unread = (*unread, "probe_")
        fields = {k: v for k, v in fields.items() if not k.removeprefix("pretraining.").startswith(unread)}
        fields |= self.params.engine.fields
        if self.device == "cpu":
            fields["execution.threads_per_run"] = self.params.execution.threads_per_run
        if self.init.record.family == "random":
            fields["model.random_last_bn"] = self.params.model.random_last_bn
        if self.init.padding:
            fields["model.padding"] = self.params.model.padding
        return fields

    @functools.cached_property
    def normalization(self) -> tuple[Triple, Triple]:
        """Is the mean and std of its inputs, per channel: by `init` those of what it starts from."""
        parent = self.init.parent
        return recipes.normalization(parent, self.params.pretraining.normalization, receipts.read(parent, self.root))

    @property
    def dropped(self) -> tuple[str, ...]:
        """Lists the patients that are left out, by hash."""
        return tuple(sorted(set(self.prepared.samples["patient"][self.drop])))

    def identity(self, dropped: Sequence[str]) -> dict[str, Any]:
        """Lists all that the tensors depend on, with these patients left out."""
        probe = {"probe": self.probed} if self.probed else {}
        return probe | {
            "verb": "pretrain",
            "init": self.init.canonical,
            "parent": self.parent_sha256,
            "manifest": self.prepared.digest,
            "dropped": list(dropped),
            "fields": self.fields,
            "input": list(self.normalization),
            "protocol_version": PROTOCOL_VERSION,
        }

    @property
    def digest(self) -> str:
        """Identifies the pre-training: equal digests give equal tensors."""
        return digest(self.identity(self.dropped))

    @property
    def folder(self) -> Path:
        """Holds checkpoint, journal and lock."""
        return self.root / "data/runs" / self.digest


def check(init: Initialization, params: Params, root: Path) -> None:
    """Refuses a chain that cannot be made, before any work.

    Raises:
        UserError: an unknown dataset, one without labels for the method, one that the weights have seen already, or
            sizes that do not fit.
    """
    _check_side(init.backbone, params.pretraining.image_size)
    before = seen(dataclasses.replace(init, chain=()).canonical)
    for dataset in init.chain:
        task = catalog.lookup(dataset, root)
        if not applicable(before, task.dataset):
            raise UserError(f"{init.canonical}: its weights have seen {task.dataset} before; leave `+{dataset}` out")
        if params.pretraining.method == "supervised" and task.segmentation:
            raise UserError(
                f"{init.canonical}: {dataset} has masks, no labels of images; set pretraining.method to a "
                "self-supervised one"
            )
        before.add(task.dataset)
        sizes = task_params(params, task.name)
        if params.pretraining.image_size > sizes.cache_size:
            raise UserError(
                f"pretraining.image_size <= tasks.{task.name}.cache_size must hold, got "
                f"{params.pretraining.image_size} and {sizes.cache_size}"
            )
        _check_method(init, task, params, root)


def _check_side(backbone: str, image_size: int) -> None:
    """Refuses a side that the backbone cannot take, or from which its tensors cannot be brought back."""
    spec = NetworkSpec(backbone=backbone, image_size=image_size)
    if reason := fitting.misfit(spec):
        sides = ", ".join(map(str, fitting.fitting_sides(spec))) or "none near it"
        raise UserError(f"pretraining.image_size {image_size} does not fit {backbone}: {reason}; {sides} would do")
    with torch.device("meta"):
        trained = {f"backbone.{key}": torch.empty(shape) for key, shape in shapes(backbone, image_size).items()}
        backbones.backbone_of(backbone, trained)


def _check_method(init: Initialization, task: Task, params: Params, root: Path) -> None:
    settings = params.pretraining
    if settings.method == "supervised":
        if settings.probe != "none":
            raise UserError("pretraining.probe is for self-supervised methods; by labels the dataset's own val tells")
        spec = NetworkSpec.of(init, params.model, settings.image_size)
        fitting.check(task, settings.classification, spec)
        return
    probed = settings.probe != "none"
    methods.check(settings.method, init.backbone, method_settings(params), settings, probed)
    if probed:
        catalog.lookup(settings.probe, root)


def method_settings(params: Params) -> methods.Settings:
    """Takes what a self-supervised method reads."""
    p = params.pretraining
    return methods.Settings(projector=p.projector, temperature=p.temperature, masked=p.masked)


def holds(found: Lineage, link: Link) -> bool:
    """Says whether weights are what a link would make, but for patients that were left out in addition."""
    return set(link.dropped) <= set(found.dropped) and found.digest == digest(link.identity(found.dropped))


def resolve(init: Initialization, params: Params, root: Path, targets: Sequence[str]) -> Link:
    """Resolves the last pre-training of a chain; what it starts from is made already.

    Args:
        init: with a chain.
        params: as in `pretrain.make`.
        root: the repository's top folder.
        targets: tasks whose val and test patients are left out.
    """
    task = catalog.lookup(init.chain[-1], root)
    prepared = prepare.prepare(task, params, root)
    others = [catalog.lookup(name, root) for name in dict.fromkeys(targets)]
    looked = [prepare.prepare(other, params, root) for other in others if other.dataset != task.dataset]
    drop = contamination.drop(prepared, looked)
    if drop.any():
        log.info("%s: %d of its images are of patients in val or test of a target, left out", task.name, drop.sum())
    return Link(
        init=init,
        task=task,
        prepared=prepared,
        params=params,
        device=pull.resolve_device(params.execution),
        parent_sha256=convert.digest(start_tensors(init.parent, params, root)),
        drop=drop,
        targets={one.manifest["task"]: one.every_split for one in looked},
        root=root.resolve(),
        probed=_probed(params, root),
    )


def _probed(params: Params, root: Path) -> str:
    settings = params.pretraining
    if settings.probe == "none" or settings.monitor != "val_probe":
        return ""
    return prepare.prepare(catalog.lookup(settings.probe, root), params, root).digest


def start_tensors(init: Initialization, params: Params, root: Path) -> dict[str, Tensor]:
    """Reads what a pre-training starts from; drawn weights are drawn from its seed."""
    seed = rng.seed_of(params.pretraining.seed, "backbone")
    return store.state(init, root, seed, params.model.random_last_bn)
