"""What is known of an initialization before its file is read: the recipe of its conversion, its input, its licence."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from medtransfer.weights import locate, timm_index, variants
from medtransfer.weights.names import Initialization
from medtransfer.weights.receipts import Lineage
from medtransfer.weights.records import IMAGENET_MEAN, IMAGENET_STD, UNIT_RANGE, Triple


def recipe(init: Initialization) -> dict[str, Any]:
    """Lists all that decides what is made of a checkpoint, as plain data."""
    fields = dataclasses.asdict(locate.resolve(init))
    if not fields["rename"]:  # younger than receipts that need not be made anew
        del fields["rename"]
    stated = (init.record.mean, init.record.std) if init.record.family != "yours" else normalization(init)
    fields |= {
        "mean": stated[0],
        "std": stated[1],
        "padding": init.padding,
        "licence": init.record.licence,
    }
    plain: dict[str, Any] = json.loads(json.dumps(fields))
    return plain


def licence_of(init: Initialization) -> str:
    """Names the licence of the weights: the record's, or the timm tag's own."""
    config = None if init.record.licence else locate.tag_config(init)
    return init.record.licence or str((config and config.license) or "not stated")


def normalization(init: Initialization, rule: str = "init", made: Lineage | None = None) -> tuple[Triple, Triple]:
    """Says the mean and std that inputs in [0, 1] get, per channel in RGB order.

    Args:
        init: the initialization.
        rule: `init`: what it was trained with last, `random` takes `imagenet`'s, a file of the user's own that says
            nothing what timm takes for its architecture; `imagenet`: ImageNet's; `none`: 0 and 1.
        made: the receipt of weights that were pre-trained here.
    """
    if rule == "none":
        return UNIT_RANGE["mean"], UNIT_RANGE["std"]
    if rule == "imagenet":
        return IMAGENET_MEAN, IMAGENET_STD
    if made:
        return made.mean, made.std
    if init.record.family == "yours":
        own = timm_index.find(init.backbone)
        mean, std = (own.mean, own.std) if own else (IMAGENET_MEAN, IMAGENET_STD)
        return init.record.mean or mean, init.record.std or std
    config = _reference(init.backbone) if init.record.family == "random" else locate.tag_config(init)
    if config:
        return config.mean, config.std
    return init.record.mean or IMAGENET_MEAN, init.record.std or IMAGENET_STD


def assumed(init: Initialization) -> str:
    """Says where mean and std of a user's own file are from where nobody stated them."""
    lacks = " and ".join(name for name in ("mean", "std") if getattr(init.record, name) is None)
    if init.record.family != "yours" or not lacks:
        return ""
    config = timm_index.find(init.backbone)
    origin = f"timm's for {'.'.join(filter(None, (config.architecture, config.tag)))}" if config else "ImageNet's"
    return f"{lacks} not stated, so {origin}; if it was trained otherwise, state them in an entry under `inits`"


def _reference(backbone: str) -> timm_index.Tag | None:
    """Finds what `imagenet` is for a backbone; None where timm has no such weights."""
    architecture = variants.base(backbone)
    tags = [name.partition(".")[2] for name in timm_index.pretrained(f"{architecture}.*")]
    plain = locate.imagenet_tags(architecture, tags)
    return timm_index.find(f"{architecture}.{plain[0]}") if plain else None
