"""A backbone as a folder that other code loads: timm and segmentation-models-pytorch by `local-dir:`, without us.

`config.json` is what timm writes beside weights on a model hub: architecture and input. The tensors are those that
were evaluated, in timm's keys, without a classifier.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import save_file
from torch import Tensor

from medtransfer.core.errors import UserError
from medtransfer.data import training_lists
from medtransfer.weights import architectures, licences, receipts, recipes, store, variants
from medtransfer.weights.backbones import width
from medtransfer.weights.names import Initialization
from medtransfer.weights.receipts import Lineage, Receipt
from medtransfer.weights.records import Triple

CONFIG, WEIGHTS, RECEIPT, LIST = "config.json", "model.safetensors", "receipt.json", "training_images"
INHERITED = ("input_size", "fixed_input_size", "pool_size", "crop_pct", "interpolation", "first_conv", "classifier")
"""fields of timm's own configuration of an architecture"""
NOT_WRITTEN = ("mlp_layer",)
"""arguments of a backbone whose value timm takes as a class, not by its name"""


@dataclass(frozen=True, kw_only=True)
class Pack:
    """The tensors of an initialization, and what is known of them."""

    init: Initialization
    receipt: Receipt | Lineage
    tensors: Mapping[str, Tensor]
    mean: Triple
    std: Triple

    @property
    def licences(self) -> tuple[str, ...]:
        """Lists the licences of the weights and of the images that they were trained on here."""
        if isinstance(self.receipt, Lineage):
            return tuple(dict.fromkeys(self.receipt.licences))
        return licences.parts(self.receipt.init, self.receipt.licence)


def gather(init: Initialization, root: Path) -> Pack | None:
    """Reads an initialization's tensors as a run would start from them; None where the seed draws them.

    Raises:
        UserError: they are not here, or not what their receipt says.
    """
    if init.random:
        return None
    receipt = store.ready(init, root)
    if receipt is None:
        raise UserError(f"{init.canonical} has no receipt; run `weights --init {init.record.name}`")
    mean, std = recipes.normalization(init, "init", receipts.read(init, root))
    return Pack(init=init, receipt=receipt, tensors=store.state(init, root, 0, "one"), mean=mean, std=std)


def write(folder: Path, pack: Pack, root: Path) -> None:
    """Writes the folder of a backbone: tensors, timm's configuration, the receipt."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(pack.tensors), folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config(pack), indent=2) + "\n")
    receipt = store.receipt_file(pack.init, root)
    if receipt is not None:
        shutil.copyfile(receipt, folder / RECEIPT)
    if pack.init.record.images:
        images = training_lists.place(pack.init.record.images, root)
        (folder / LIST).mkdir()
        shutil.copyfile(images, folder / LIST / images.name)


def config(pack: Pack) -> dict[str, Any]:
    """Describes the backbone as timm reads it."""
    architecture, arguments = variants.split(pack.init.backbone)
    known = timm.models.get_pretrained_cfg(architecture).to_dict()
    side = architectures.published_side(pack.init.backbone)
    told = {key: value for key, value in arguments.items() if key not in NOT_WRITTEN}
    return {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": width(pack.init.backbone, side),
        **({"model_args": told} if told else {}),
        "pretrained_cfg": {
            **{name: known[name] for name in INHERITED if name in known},
            "input_size": [3, side, side],
            "tag": "medtransfer",
            "custom_load": False,
            "num_classes": 0,
            "mean": list(pack.mean),
            "std": list(pack.std),
            "license": licences.joined(pack.licences),
        },
    }
