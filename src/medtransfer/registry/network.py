"""A fine-tuned network as a folder: `model.safetensors`, and `model.json` with all that inputs and outputs need.

It is read back as a plain module that can be trained further. Nothing is pickled.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from medtransfer.core.errors import UserError
from medtransfer.core.schema import convert, read_json, unflatten
from medtransfer.data.cache import Prepared
from medtransfer.data.tasks import Task
from medtransfer.params import Classification, Segmentation
from medtransfer.results.result import Result, kind_of
from medtransfer.training import objectives
from medtransfer.training.fitting import NetworkSpec
from medtransfer.training.loader import Cache, Loader
from medtransfer.training.objectives import TaskObjective
from medtransfer.weights import backbones
from medtransfer.weights.records import Triple

SPEC, WEIGHTS = "model.json", "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Spec:
    """All that stands between an image and the answer, but for the weights."""

    task: str
    kind: str
    labels: tuple[str, ...]
    channels: int
    windows: tuple[tuple[float, ...], ...]
    """(level, width) per channel"""
    init: str
    """canonical name of what it was fine-tuned from"""
    backbone: str
    decoder: str
    """of segmentation; else empty"""
    padding: str
    """what the backbone pads as TensorFlow does"""
    cache_size: int
    """pixels: side that an image is decoded to"""
    image_size: int
    """pixels: side of the network's input"""
    mean: Triple
    std: Triple
    """of the inputs in [0, 1]"""
    channels_last: bool
    precision: str
    protocol: Mapping[str, Any]
    """that it was trained and tested under: dotted names without the section"""

    @property
    def segmentation(self) -> bool:
        """Says whether the answer is a mask."""
        return self.kind == "segmentation"

    @property
    def record(self) -> Task:
        """Is the task, as far as an image without a known answer needs it."""
        blank: Any = {"code": "", "dataset": "", "title": "", "counts": {}, "draw": {}, "split_source": "given"}
        texts: Any = {"metric": "", "margin": 0.0, "licence": "", "citation": "", "source": ""}
        return Task(
            name=self.task, kind=cast(Any, self.kind), labels=self.labels, channels=cast(Any, self.channels),
            windows=cast(Any, self.windows), **blank, **texts,
        )  # fmt: skip

    @property
    def network(self) -> NetworkSpec:
        """Says which network it is."""
        return NetworkSpec(
            backbone=self.backbone, image_size=self.image_size, decoder=self.decoder or "auto", padding=self.padding
        )

    @property
    def settings(self) -> Classification | Segmentation:
        """Is the protocol; what balances training alone is off."""
        kind: type[Classification] | type[Segmentation] = Segmentation if self.segmentation else Classification
        tree = unflatten(self.protocol) | {"class_weights": "none"}
        if not self.segmentation:
            tree.setdefault("uncertain", "ignore")  # not read by a task without uncertain labels
        return convert(tree, kind)


def spec(result: Result, task: Task, mean: Triple, std: Triple, padding: str) -> Spec:
    """Describes the network of a run.

    Args:
        result: the run.
        task: its task's record.
        mean: of its inputs.
        std: likewise.
        padding: of its initialization.
    """
    said, section = result.params, f"{kind_of(result)}."
    return Spec(
        task=task.name,
        kind=task.kind,
        labels=task.labels,
        channels=task.channels,
        windows=task.windows,
        init=result.init,
        backbone=result.backbone,
        decoder=said.get("model.decoder", ""),
        padding=padding if said.get("model.padding", "init") == "init" else "",
        cache_size=said[f"tasks.{task.name}.cache_size"],
        image_size=said[f"tasks.{task.name}.image_size"],
        mean=mean,
        std=std,
        channels_last=said["engine.channels_last"],
        precision=said["engine.precision"],
        protocol={name.removeprefix(section): value for name, value in said.items() if name.startswith(section)},
    )


def write(folder: Path, described: Spec, weights: Path) -> None:
    """Writes the folder of a network."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SPEC).write_text(json.dumps(dataclasses.asdict(described), indent=1) + "\n")
    shutil.copyfile(weights, folder / WEIGHTS)


def read(folder: Path) -> Spec:
    """Reads what a network needs.

    Raises:
        UserError: the folder holds no network.
    """
    if not (folder / SPEC).is_file():
        raise UserError(f"looked for {SPEC} in {folder}, found none: this is no fine-tuned model of medtransfer")
    return read_json(folder / SPEC, Spec, "description of a network", "get the model from the registry again")


def load(folder: Path, device: str = "cpu") -> nn.Module:
    """Builds the network with its fine-tuned weights: a plain module, in evaluation mode, that can be trained further.

    Raises:
        UserError: the folder holds no network.
    """
    said, where = read(folder), torch.device(device)
    tensors = backbones.bare_state(said.backbone, 0, "one")  # of no matter: all are replaced
    goal = objective(said, where)
    model = goal.build(said.network, tensors, 0)
    model.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    return model.to(where).eval()


def objective(said: Spec, device: torch.device) -> TaskObjective:
    """Builds what knows of losses and answers; it has no data, so it can score nothing."""
    return objectives.objective(said.record, cast(Prepared, None), said.settings, device)


def loader(said: Spec, images: Sequence[NDArray[np.uint8]], device: torch.device) -> Loader:
    """Builds the loader of decoded images, (side, side) or (side, side, 3) each; crops and inputs are the test's."""
    blank: NDArray[Any] = np.zeros((len(images), len(said.labels)), dtype=np.float32)  # in the place of labels
    return Loader(
        Cache(np.stack(images), blank, device),
        [str(number) for number in range(len(images))],
        size=said.image_size,
        batch_size=said.settings.batch_size,
        crop_fraction=said.settings.crop_fraction,
        mean=said.mean,
        std=said.std,
        channels_last=said.channels_last,
    )


def logits(model: nn.Module, said: Spec, inputs: Tensor) -> Tensor:
    """Runs the network in the precision that it was tested in."""
    reduced = said.precision != "fp32"
    with torch.inference_mode(), torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=reduced):
        found: Tensor = model(inputs)
    return found.float()
