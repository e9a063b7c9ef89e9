"""What is known of an initialization before its file is read: a record of the zoo, or of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Triple = tuple[float, float, float]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
UNIT_RANGE: dict[str, Triple] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
"""inputs in [0, 1], as SimCLR takes them"""
SWAV_STD = (0.228, 0.224, 0.225)
"""what the code of SwAV, DeepCluster-v2 and SeLa-v2 divides by"""


MODALITIES = (
    "none", "natural", "chest-x-ray", "radiology", "ct", "fundus", "oct", "ultrasound", "dermatology", "endoscopy",
    "pathology", "medical", "not-stated",
)  # fmt: skip
"""kinds of images; `radiology` is several of it, `medical` several of all"""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One published file: where it is, what it must be, how it is packed."""

    url: str = ""
    file: str = ""
    """name under `data/downloads`; default: the last part of the address"""
    beside: tuple[str, ...] = ()
    """addresses of further files that belong to it"""
    steps: tuple[str, ...] = ()
    """what a person does where no program may fetch it"""
    sha256: str = ""
    """of the file, or the first digits of it that its publisher states"""
    md5: str = ""
    """likewise"""
    tag: str = ""
    """of timm, `<architecture>.<tag>`, in place of an address"""
    member: str = ""
    """place of the checkpoint inside an archive"""
    nested: tuple[str, ...] | None = ()
    """keys that lead to the tensors inside the file; None: looked for"""
    layout: str = "names"
    """how its keys become timm's: one of `key_rules.LAYOUTS`; `auto`: recognised"""
    prefix: str = ""
    """leading part of every backbone key in the file"""
    rename: tuple[tuple[str, str], ...] = ()
    """regular expressions and what they become, in keys behind the prefix"""
    drop: tuple[str, ...] = ()
    """patterns of keys that are left out on purpose: heads, key encoders, optimizer slots"""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of an initialization before a backbone is chosen."""

    name: str
    family: Literal["random", "supervised", "self-supervised", "domain-adapted", "medical", "yours"]
    sources: Mapping[str, Source] = field(default_factory=dict, hash=False)
    """backbone -> its file"""
    tags: tuple[str, ...] = ()
    """timm tags that are this initialization, for every backbone that has one of them"""
    data: str = ""
    """what it was pre-trained on"""
    method: str = ""
    paper: str = ""
    licence: str = ""
    """empty: the timm tag's own"""
    mean: Triple | None = None
    """of the input in [0, 1], per channel in RGB order; None: the timm tag's own"""
    std: Triple | None = None
    padding: Literal["", "pool", "all"] = ""
    """what was padded as TensorFlow's SAME does in pre-training: nothing, the max-pool, or every strided operation"""
    datasets: tuple[str, ...] = ()
    """our datasets whose images it has seen"""
    images: str = ""
    """path of a list of the images that it has seen, see `data/training_lists.py`"""
    note: str = ""
    """what a user should know of the file"""
    modality: str = "natural"
    """of the images it was pre-trained on last: one of `MODALITIES`"""
    gate: Literal["", "accept", "form"] = ""
    """what stands before the file: nothing, conditions that a person accepts on the hub's page, or a form"""
    unverified: str = ""
    """what is not known for sure of the file: it was never read here"""
