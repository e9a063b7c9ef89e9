"""A checkpoint becomes backbone tensors in timm's layout, with a receipt that accounts for every key of the file.

Nothing is loaded leniently: every backbone tensor is found with its shape, and every other tensor of the file is left
out by a named rule, or the file is refused.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import timm
import torch
from torch import Tensor

from medtransfer.core.errors import UserError, some
from medtransfer.weights import architectures, recipes
from medtransfer.weights.backbones import bare_backbone
from medtransfer.weights.fingerprint import fingerprint
from medtransfer.weights.formats import read
from medtransfer.weights.formats.read import Content
from medtransfer.weights.key_rules import LAYOUTS, Found, spread_gray
from medtransfer.weights.licences import commercial
from medtransfer.weights.locate import Checkpoint
from medtransfer.weights.names import Initialization
from medtransfer.weights.receipts import Receipt

HEADS = (
    "fc.*",
    "classifier.*",
    "cls_head.*",
    "head.*",
    "head_dist.*",
    "heads.*",
    "mlp_head.*",
    "dino_head.*",
    "ibot_head.*",
    "projector.*",
    "projection.*",
    "projection_head.*",
    "predictor.*",
    "prediction_head.*",
    "prototypes.*",
)
"""keys behind the backbone's prefix, or beside the backbone, that are left out of users' own files"""


def convert(init: Initialization, checkpoint: Checkpoint) -> tuple[Receipt, dict[str, Tensor]]:
    """Reads a checkpoint and accounts for every key of it and of the backbone.

    Raises:
        UserError: unreadable file, missing or unexpected keys, or wrong shapes.
    """
    source = checkpoint.source
    content = read.read(checkpoint.path, source.nested, source.member)
    wanted = dict(bare_backbone(init.backbone).state_dict())
    try:
        taken = _by_timm(source.tag, content) if source.tag else _by_layout(init, checkpoint, content, wanted)
        tensors, adapted = _fit(init, taken.found, wanted)
        _check_finite(tensors, taken.found)
    except UserError as error:
        raise UserError(f"{checkpoint.path} is not the checkpoint of {init.canonical}: {error}") from error
    used = {key for key, _ in taken.found.values()}
    gone = {key for keys in taken.dropped.values() for key in keys}
    unexpected = tuple(key for key in content.tensors if key not in used | gone)
    if unexpected:
        raise UserError(
            f"{checkpoint.path} is not the checkpoint of {init.canonical}: {len(unexpected)} unexpected "
            f"{some(unexpected)} that no rule leaves out. {_advice(init)}"
        )
    adapted = (*_choice(init, content), *adapted)
    return _receipt(init, checkpoint, content, taken, tensors, adapted), tensors


def _check_finite(tensors: Mapping[str, Tensor], found: Found) -> None:
    bad = [found[name][0] for name, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if bad:
        raise UserError(
            f"{len(bad)} tensors hold values that are not finite (NaN or infinite) {some(bad)}: the training that "
            "wrote it diverged, or the file is damaged; take an earlier checkpoint"
        )


def _choice(init: Initialization, content: Content) -> tuple[str, ...]:
    """Says which of several weights in a user's own file were taken, and how to get the others."""
    if init.record.family != "yours" or not content.others:
        return ()
    kind = "averaged weights (EMA), as timm does" if content.place[0] in read.EMA else "weights"
    others = ", ".join(content.others)
    return (
        f"took the {kind}, of {'.'.join(content.place)}; the file holds tensors under {others}, too: choose by "
        f"`nested: [{content.others[0]}]` of an entry under `inits` of params.yaml",
    )


@dataclass(frozen=True)
class _Taken:
    found: Found
    dropped: dict[str, tuple[str, ...]]
    rule: str


def _by_layout(init: Initialization, checkpoint: Checkpoint, content: Content, wanted: Mapping[str, Tensor]) -> _Taken:
    source, tensors = checkpoint.source, content.tensors
    found = LAYOUTS[source.layout](tensors, wanted, init.backbone, source.prefix)
    found = {name: value for name, value in found.items() if name in wanted}
    used = {key for key, _ in found.values()}
    prefix, drop = source.prefix, source.drop
    if source.layout == "found":
        prefix = next((key.removesuffix(name) for name, (key, _) in found.items()), "")
        parts = prefix.split(".")[:-1]  # of `module.backbone.` heads stand under itself, `module.` and the top
        roots = [".".join((*parts[:count], "")) for count in range(len(parts), -1, -1)] if parts else [prefix]
        drop = tuple(root + head for root in roots for head in HEADS)
    left = [key for key in tensors if key not in used]
    dropped: dict[str, tuple[str, ...]] = {}
    for rule in drop:
        matched = tuple(key for key in left if fnmatch.fnmatchcase(key, rule))
        left = [key for key in left if key not in matched]
        dropped |= {rule: matched} if matched else {}
    return _Taken(found, dropped, f"{source.layout}, prefix {prefix!r}")


def _by_timm(tag: str, content: Content) -> _Taken:
    """Lets timm load its own file, strictly and with its classifier, and takes the backbone out of that."""
    overlay = {"state_dict": dict(content.tensors), "custom_load": False}
    try:
        model = timm.create_model(tag, pretrained=True, pretrained_cfg_overlay=overlay)
    except (RuntimeError, KeyError, AttributeError, ValueError) as error:
        raise UserError(f"timm cannot load it as {tag}: {' '.join(str(error).split())[:600]}") from error
    whole = model.state_dict()
    bare = bare_backbone(tag.partition(".")[0]).state_dict()
    same = {name: (name, whole[name]) for name in bare if name in whole}
    classifier = tuple(key for key in content.tensors if key in whole and key not in bare)
    renamed = tuple(key for key in content.tensors if key not in whole)
    dropped = {"timm's classifier": classifier} if classifier else {}
    return _Taken(same, dropped | ({"renamed or left out by timm": renamed} if renamed else {}), f"timm's {tag}")


def _fit(init: Initialization, found: Found, wanted: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Holds what was found to the backbone's names and shapes."""
    adapted: list[str] = []
    if init.record.family == "yours":
        found, adapted = _spread(init, found, wanted)
    missing = [k for k in wanted if k not in found and not k.endswith("num_batches_tracked")]
    shapes = [
        f"{found[k][0]} {tuple(found[k][1].shape)} for {tuple(w.shape)}"
        for k, w in wanted.items()
        if k in found and found[k][1].shape != w.shape
    ]
    if missing or shapes:
        named = {"are missing": missing, "have another shape": shapes}
        words = ", ".join(f"{len(keys)} {what} {some(keys)}" for what, keys in named.items() if keys)
        raise UserError(f"of the {len(wanted)} tensors of the backbone {init.backbone}, {words}. {_advice(init)}")
    if init.source is not None and init.source.layout == "radimagenet":
        adapted.append("conv1: channels turned round, trained on BGR")
    return {
        k: found[k][1].to(w.dtype).contiguous().clone() if k in found else torch.zeros_like(w)
        for k, w in wanted.items()
    }, tuple(adapted)


def _spread(init: Initialization, found: Found, wanted: Mapping[str, Tensor]) -> tuple[Found, list[str]]:
    """Lets a first convolution of gray images take three equal channels."""
    first = architectures.published(init.backbone).first_conv
    name = f"{first}.weight"
    if not isinstance(first, str) or name not in found or name not in wanted:
        return found, []
    key, tensor = found[name]
    like = wanted[name]
    if tensor.ndim != 4 or tensor.shape[1] != 1 or tensor[:, 0].shape != like[:, 0].shape:
        return found, []
    return {**found, name: (key, spread_gray(tensor, like))}, [f"{name}: one channel spread over three by thirds"]


def _advice(init: Initialization) -> str:
    if init.record.family == "yours":
        return "Name its backbone with @<backbone>, or give a key rule under `inits` of params.yaml."
    return "Its publisher may have changed it: get it again, or use file:<path> for a file of your own."


def _receipt(
    init: Initialization,
    checkpoint: Checkpoint,
    content: Content,
    taken: _Taken,
    tensors: Mapping[str, Tensor],
    adapted: tuple[str, ...],
) -> Receipt:
    mean, std = recipes.normalization(init)
    licence = recipes.licence_of(init)
    record = init.record
    return Receipt(
        init=record.name,
        backbone=init.backbone,
        files=checkpoint.files,
        container=content.container,
        beside=content.beside,
        layout=taken.rule,
        recipe=recipes.recipe(init),
        keys={name: key for name, (key, _) in taken.found.items()},
        dropped=taken.dropped,
        filled=tuple(name for name in tensors if name not in taken.found),
        missing=(),
        unexpected=(),
        adapted=adapted,
        tensors_sha256=digest(tensors),
        parameters=sum(t.numel() for k, t in tensors.items() if t.is_floating_point() and "running_" not in k),
        mean=mean,
        std=std,
        padding=record.padding,
        data=record.data,
        method=record.method,
        paper=record.paper,
        licence=licence,
        commercial=commercial(licence),
        note=record.note,
        fingerprint=fingerprint(init.backbone, tensors, init.padding),
        versions={"timm": timm.__version__, "torch": torch.__version__},
        input=recipes.assumed(init),
    )


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Hashes tensors by name, type, shape and bytes, independent of their order."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
