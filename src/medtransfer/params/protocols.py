"""Parameters of the protocols beside `finetune`, in which the backbone stays as it is, or most of it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

from medtransfer.params.limits import require

Protocol = Literal["finetune", "linear", "knn", "partial", "lora"]
"""finetune: all is trained; linear: logistic regression on frozen features; knn: a vote of the nearest images; partial:
the last blocks; lora: low-rank changes of a transformer's attention"""
FROZEN = ("linear", "knn")
"""protocols that need features alone"""
Control = Literal["prior", "permuted", "random-frozen", "texture"]
"""prior: the labels' shares, or the mean mask, of train; permuted: fine-tuning on labels drawn anew among the images of
train and val; random-frozen: linear on random weights; texture: linear on intensities and texture"""
STILL = {f"augmentation.{name}": 0.0 for name in ("crop", "flip", "rotation", "distortion")}
"""what permuted masks are trained with: where masks are another image's, that the frame moves would be learnt"""


@dataclass(frozen=True, kw_only=True)
class Protocols:
    """What each protocol needs beside the fields of the task's kind."""

    linear_strengths: tuple[float, ...]
    """L2 penalties, per sum of the log loss on standardized features, of which val chooses one"""
    linear_positions: int
    """segmentation: pixels of an image whose features are kept, the same ones for every init"""
    knn_neighbours: tuple[int, ...]
    """numbers of neighbours, of which val chooses one"""
    partial_blocks: int
    """blocks of the backbone, counted from its end, that are trained"""
    lora_rank: int
    """rank of the change of each linear layer of the attention"""
    lora_alpha: int
    """the change is scaled by alpha / rank"""

    def __post_init__(self) -> None:
        for name, least in (("linear_strengths", 0.0), ("knn_neighbours", 0)):
            values = getattr(self, name)
            law = f"protocols.{name} names values above 0, each larger than the one before"
            ordered = all(one < two for one, two in itertools.pairwise(values))
            require(bool(values) and min(values) > least and ordered, law, **{name: values})
        for name in ("linear_positions", "partial_blocks", "lora_rank"):
            require(getattr(self, name) >= 1, f"protocols.{name} >= 1", **{name: getattr(self, name)})
        require(self.lora_alpha > 0, "protocols.lora_alpha > 0", lora_alpha=self.lora_alpha)
