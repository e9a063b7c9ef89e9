"""Parameters of data, of weights and of the network around them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from medtransfer.core.addresses import Address
from medtransfer.core.errors import UserError
from medtransfer.params.limits import require, require_names


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where raw files come from and how splits are drawn."""

    phantoms: bool
    """use synthetic images for a dataset that has no folder under `data/raw`"""
    partial: bool
    """accept a sample of a dataset: counts that differ from the published ones mark the results `partial`"""
    skip_bad: int
    """samples that may be left out because they cannot be decoded; any at all mark the results `partial`"""
    split_seed: int
    """seed of every split that we draw"""
    on_leak: Literal["fail", "drop_from_train", "report"]
    """what an image or patient shared between official splits does, and images of any splits that look like copies of
    one another; patients and identical images shared by drawn splits always fail"""

    def __post_init__(self) -> None:
        require(self.split_seed >= 0, "0 <= data.split_seed", split_seed=self.split_seed)
        require(self.skip_bad >= 0, "0 <= data.skip_bad", skip_bad=self.skip_bad)


@dataclass(frozen=True, kw_only=True)
class Phantoms:
    """Synthetic images in the official layouts."""

    seed: int
    """what is drawn on them"""
    size: int
    """pixels: side of the square images that are written"""
    contrast: float
    """1 = the strength of a drawn finding or vessel at which the demo was frozen"""
    misleading: float
    """share of Shenzhen's images that show what the other group shows; the best AUC that a network can have is about 1
    minus that"""
    images: Mapping[str, int]
    """dataset -> number of images"""

    def __post_init__(self) -> None:
        require(0 <= self.misleading < 0.5, "0 <= phantoms.misleading < 0.5", misleading=self.misleading)
        require(self.size >= 32, "phantoms.size >= 32", size=self.size)
        require(self.contrast > 0, "phantoms.contrast > 0", contrast=self.contrast)
        require_names(self.images, "phantoms.images")
        require(all(n >= 8 for n in self.images.values()), "phantoms.images.* >= 8", images=dict(self.images))


@dataclass(frozen=True, kw_only=True)
class External:
    """Another task, on whose test images the networks of a task are read after their own test."""

    task: str
    labels: Mapping[str, str] = field(default_factory=dict)
    """label of the own task -> the same finding's name in the other; empty: what both records map"""

    def __post_init__(self) -> None:
        require_names([self.task], "tasks.*.external.task")
        names = list(self.labels.values())
        require(len({*names}) == len(names), "tasks.*.external.labels names each label once", labels=dict(self.labels))


@dataclass(frozen=True, kw_only=True)
class TaskParams:
    """Sizes of one task, and the protocol fields in which it differs from its kind's section."""

    cache_size: int
    """pixels: side of the square images that `prepare` keeps"""
    image_size: int
    """pixels: side of the network input"""
    changes: Mapping[str, Any]
    """fields of `classification` or `segmentation` that this task sets otherwise, by dotted name"""
    external: tuple[External, ...] = ()
    """tasks on whose test images its networks are read too, without training"""

    def __post_init__(self) -> None:
        names = [one.task for one in self.external]
        require(len({*names}) == len(names), "tasks.*.external names each task once", external=names)
        require(
            16 <= self.image_size <= self.cache_size,
            "16 <= image_size <= cache_size",
            image_size=self.image_size,
            cache_size=self.cache_size,
        )


@dataclass(frozen=True, kw_only=True)
class Model:
    """The network around the weights."""

    backbone: str
    """timm architecture that an init without `@` takes, unless it exists for one backbone only"""
    random_last_bn: Literal["one", "zero"]
    """weight of each residual block's last batch norm under `random`: one as in torchvision, zero as in timm"""
    decoder: Literal["auto", "unet", "upernet", "dpt"]
    """segmentation; auto: unet for feature maps of stride 2 to 32, dpt for maps of one stride, else upernet"""
    padding: Literal["init", "torch"]
    """init: as TensorFlow's SAME where the init's pre-training padded so; torch: as torch for all inits"""


@dataclass(frozen=True, kw_only=True)
class OwnInit:
    """An initialization of the user's own: a checkpoint, and how its keys become the backbone's."""

    file: str
    """path, an address that begins with http://, https:// or s3://, or hf:<owner>/<repo>[@<revision>][/<file>]"""
    backbone: str
    """timm architecture"""
    prefix: str = ""
    """leading part of the backbone's keys in the file; empty: looked for"""
    rename: Mapping[str, str] = field(default_factory=dict)
    """regular expressions and what they become, in keys behind the prefix, one after the other"""
    drop: tuple[str, ...] = ()
    """patterns of whole keys that are left out, as `module.fc.*`; `*` is any text"""
    nested: tuple[str, ...] | None = None
    """keys that lead to the tensors in the file, as [state_dict]; null: looked for"""
    member: str = ""
    """place of the checkpoint inside a zip or tar archive"""
    sha256: str = ""
    """of the file, if known"""
    mean: tuple[float, float, float] | None = None
    """of the input in [0, 1], red, green, blue; null: what timm takes for the architecture"""
    std: tuple[float, float, float] | None = None
    """likewise"""
    padding: Literal["", "pool", "all"] = ""
    """what was padded as TensorFlow's SAME does: nothing, the max-pool, or every strided operation"""
    data: str = "not stated"
    """what it was pre-trained on"""
    method: str = "not stated"
    """how it was pre-trained"""
    licence: str = "not stated"
    """of the weights; decides whether they can become champion where promotion.use is commercial"""
    datasets: tuple[str, ...] = ()
    """our datasets whose images it has seen"""
    images: str = ""
    """path of a list of the images that it has seen: names, hashes or DICOM UIDs, as CSV, text or JSON"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "file", Address(self.file))
        require(bool(self.file), "inits.*.file is a path or an address", file=self.file)
        for expression, name in self.rename.items():
            _check_expression(expression, name)
        require(all(s > 0 for s in self.std or ()), "inits.*.std > 0", std=self.std)


def _check_expression(expression: str, name: str) -> None:
    """Refuses a rule that cannot rename.

    Raises:
        UserError: it is no regular expression, or its replacement names a group that it lacks.
    """
    try:
        re.compile(f"{expression}|").sub(name, "")
    except (re.error, IndexError) as error:
        raise UserError(
            f"inits.*.rename: {expression!r} -> {name!r} is no regular expression and its replacement ({error})"
        ) from error
