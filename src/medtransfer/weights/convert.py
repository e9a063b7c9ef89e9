"""A checkpoint becomes backbone tensors in timm's layout, with a receipt that accounts for every key of the file.

Nothing is loaded leniently: every backbone tensor is found with its shape, and every other tensor of the file is left
out by a named rule, or the file is refused.
"""

from __future__ import annotations

import fnmatch
import hashlib
import itertools
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import timm
import torch
from torch import Tensor

from medtransfer.core.errors import UserError, some
from medtransfer.weights import recipes, recognise
from medtransfer.weights.backbones import bare_backbone
from medtransfer.weights.fingerprint import fingerprint
from medtransfer.weights.formats import read
from medtransfer.weights.formats.read import Content
from medtransfer.weights.key_rules import LAYOUTS
from medtransfer.weights.licences import commercial
from medtransfer.weights.locate import Checkpoint
from medtransfer.weights.names import Initialization
from medtransfer.weights.provenance import Found
from medtransfer.weights.receipts import Receipt
from medtransfer.weights.records import Source

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""types in which weights are saved as they are; integers, bits and float8 mean them by a scale that stands elsewhere"""
TABLES = ("periods", "freqs")
"""last part of the names of rotary positions, which timm computes"""
TABLE_TOLERANCE = 0.02
"""relative: some publishers keep theirs in bfloat16"""
LEAST = 256
"""numbers of the smallest matrix that is looked for twice in a file"""


def convert(init: Initialization, checkpoint: Checkpoint) -> tuple[Receipt, dict[str, Tensor]]:
    """Reads a checkpoint and accounts for every key of it and of the backbone.

    Raises:
        UserError: unreadable file, missing or unexpected keys, or wrong shapes.
    """
    source = checkpoint.source
    content = read.read(checkpoint.path, source.nested, source.member)
    with torch.device("meta"):
        wanted = dict(bare_backbone(init.backbone).state_dict())
    try:
        taken = _by_timm(source.tag, content) if source.tag else _by_layout(init, checkpoint, content, wanted)
        tensors = _fit(init, taken, wanted)
        _check_finite(tensors, taken.found)
        _check_zeros(tensors, taken.found)
        used = {key for keys, _ in taken.found.values() for key in keys}
        if not source.tag:  # whose tensors are those that timm loaded
            _check_copies(content.tensors, used)
    except UserError as error:
        part = re.search(r"-\d+-of-\d+\.", checkpoint.path.name)
        index = " It is one of several parts: name their index, the .json beside them." if part else ""
        raise UserError(f"{checkpoint.path} is not the checkpoint of {init.canonical}: {error}{index}") from error
    gone = {key for keys in taken.dropped.values() for key in keys}
    unexpected = tuple(key for key in content.tensors if key not in used | gone)
    if unexpected:
        raise UserError(
            f"{checkpoint.path} is not the checkpoint of {init.canonical}: {len(unexpected)} unexpected "
            f"{some(unexpected)} that no rule leaves out. {_advice(init, taken.advice)}"
        )
    adapted = (*_choice(init, content), *taken.adapted)
    return _receipt(init, checkpoint, content, taken, tensors, adapted), tensors


def _check_finite(tensors: Mapping[str, Tensor], found: Found) -> None:
    bad = [
        found[name][0][0] for name, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())
    ]
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


def _check_tables(backbone: str, dropped: Mapping[str, Tensor]) -> None:
    """Refuses rotary positions that timm would compute otherwise: the file's own table of them is not loaded."""
    held = {key: tensor for key, tensor in dropped.items() if key.rpartition(".")[2] in TABLES}
    buffers = dict(bare_backbone(backbone).named_buffers()) if held else {}
    for key, tensor in held.items():
        own = next((b for name, b in buffers.items() if name.endswith(f"rope.{key.rpartition('.')[2]}")), None)
        if own is None or own.shape != tensor.shape:
            continue
        if not torch.allclose(own.float(), tensor.float(), rtol=TABLE_TOLERANCE, atol=0.0):
            raise UserError(
                f"{key} is not what timm computes for {backbone}: the positions of its attention have another base, so "
                "no backbone of timm computes what this file was trained to"
            )


def _check_zeros(tensors: Mapping[str, Tensor], found: Found) -> None:
    """Refuses matrices that hold nothing: what a file has whose space was taken and never filled."""
    empty = [
        found[name][0][0]
        for name, t in tensors.items()
        if name.endswith("weight") and t.ndim > 1 and t.numel() >= LEAST and not bool(t.any())
    ]
    if empty:
        raise UserError(
            f"{len(empty)} matrices hold zeros alone {some(empty)}: the file was not written, or not fetched, to its "
            "end; get it again"
        )


def _check_copies(tensors: Mapping[str, Tensor], used: Collection[str]) -> None:
    """Refuses a file in which one matrix stands in two places: a slip in saving makes that, training never does."""
    met: dict[tuple[object, ...], list[str]] = {}
    for key in used:
        tensor = tensors[key]
        if tensor.ndim > 1 and tensor.numel() >= LEAST:
            met.setdefault((tensor.shape, *tensor.flatten()[:8].tolist()), []).append(key)
    for keys in met.values():
        for first, second in itertools.combinations(keys, 2):
            one = tensors[first]
            if torch.equal(one, tensors[second]) and not bool((one == one.flatten()[0]).all()):
                raise UserError(
                    f"{first} and {second} hold the same numbers: a copy of one stands in the other's place, so one of "
                    "them is lost; get the file again"
                )


@dataclass(frozen=True)
class _Taken:
    found: Found
    dropped: dict[str, tuple[str, ...]]
    rule: str
    adapted: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    failure: str = ""
    advice: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    """keys of the file that neither the backbone nor a rule accounts for"""


def _by_layout(init: Initialization, checkpoint: Checkpoint, content: Content, wanted: Mapping[str, Tensor]) -> _Taken:
    source, tensors = checkpoint.source, content.tensors
    if source.layout == "auto":
        return _recognised(init, source, tensors, wanted)
    found: Found = {
        name: ((key,), tensor)
        for name, (key, tensor) in LAYOUTS[source.layout](tensors, wanted, init.backbone, source.prefix).items()
        if name in wanted
    }
    left = [key for key in tensors if key not in {key for keys, _ in found.values() for key in keys}]
    dropped: dict[str, tuple[str, ...]] = {}
    for rule in source.drop:
        matched = tuple(key for key in left if fnmatch.fnmatchcase(key, rule))
        left = [key for key in left if key not in matched]
        dropped |= {rule: matched} if matched else {}
    adapted = ("conv1: channels turned round, trained on BGR",) if source.layout == "radimagenet" else ()
    return _Taken(found, dropped, f"{source.layout}, prefix {source.prefix!r}", adapted)


def _recognised(
    init: Initialization,
    source: Source,
    tensors: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
) -> _Taken:
    """Looks for the naming, of what no rule of the source leaves out."""
    dropped = {rule: keys for rule in source.drop if (keys := tuple(fnmatch.filter(tensors, rule)))}
    gone = {key for keys in dropped.values() for key in keys}
    kept = {key: tensor for key, tensor in tensors.items() if key not in gone}
    reading = recognise.recognise(kept, wanted, init.backbone, prefix=source.prefix, rename=source.rename)
    used = {key for keys, _ in reading.found.values() for key in keys}
    rules = dropped | recognise.leave_out([key for key in kept if key not in used], reading, source.prefix)
    _check_tables(init.backbone, {key: kept[key] for keys in rules.values() for key in keys if key in kept})
    accounted = {key for keys in rules.values() for key in keys} | used
    return _Taken(
        reading.found,
        rules,
        f"{reading.words}" + (f", renamed by {len(source.rename)} rules" if source.rename else ""),
        tuple(reading.adapted),
        tuple(reading.shapes),
        reading.failure,
        tuple(recognise.advice(reading, kept, wanted, init.backbone)),
        tuple(key for key in kept if key not in accounted),
    )


def _by_timm(tag: str, content: Content) -> _Taken:
    """Lets timm load its own file, strictly and with its classifier, and takes the backbone out of that."""
    overlay = {"state_dict": dict(content.tensors), "custom_load": False}
    try:
        model = timm.create_model(tag, pretrained=True, pretrained_cfg_overlay=overlay)
    except (RuntimeError, KeyError, AttributeError, ValueError) as error:
        raise UserError(f"timm cannot load it as {tag}: {' '.join(str(error).split())[:600]}") from error
    whole = model.state_dict()
    bare = bare_backbone(tag.partition(".")[0]).state_dict()
    same: Found = {name: ((name,), whole[name]) for name in bare if name in whole}
    classifier = tuple(key for key in content.tensors if key in whole and key not in bare)
    renamed = tuple(key for key in content.tensors if key not in whole)
    dropped = {"timm's classifier": classifier} if classifier else {}
    return _Taken(same, dropped | ({"renamed or left out by timm": renamed} if renamed else {}), f"timm's {tag}")


def _fit(init: Initialization, taken: _Taken, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Holds what was found to the backbone's names and shapes."""
    found = taken.found
    missing = [k for k in wanted if k not in found and not k.endswith("num_batches_tracked")]
    shapes = taken.shapes or [
        f"{found[k][0][0]} {tuple(found[k][1].shape)} for {tuple(w.shape)}"
        for k, w in wanted.items()
        if k in found and found[k][1].shape != w.shape
    ]
    if missing or shapes or taken.failure:
        named = {"are missing": missing, "have another shape": shapes}
        words = ", ".join(f"{len(keys)} {what} {some(keys)}" for what, keys in named.items() if keys)
        words = words or taken.failure
        left = f"; the file holds {len(taken.left)} of other names {some(taken.left)}" if taken.left else ""
        raise UserError(
            f"of the {len(wanted)} tensors of the backbone {init.backbone}, {words}{left}. "
            f"{_advice(init, taken.advice)}"
        )
    coded = [k for k, w in wanted.items() if k in found and w.is_floating_point() and found[k][1].dtype not in FLOATS]
    if coded:
        types = ", ".join(sorted({str(found[k][1].dtype).removeprefix("torch.") for k in coded}))
        raise UserError(
            f"{len(coded)} tensors of the backbone are of the type {types} {some([found[k][0][0] for k in coded])}, of "
            "which nobody knows the scale: get the weights in float32, float16 or bfloat16, or convert them by the "
            "library that quantized them"
        )
    return {
        k: found[k][1].to(w.dtype).contiguous().clone() if k in found else torch.zeros(w.shape, dtype=w.dtype)
        for k, w in wanted.items()
    }


def _advice(init: Initialization, shown: Sequence[str] = ()) -> str:
    hints = "".join(f"It looks as if {one}. " for one in shown)
    if init.record.family == "yours":
        return f"{hints}Name its backbone with @<backbone>, or give a key rule under `inits` of params.yaml."
    return f"{hints}Its publisher may have changed it: get it again, or use file:<path> for a file of your own."


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
    computed = fingerprint(init.backbone, tensors, init.padding)
    if not all(map(math.isfinite, computed)):
        raise UserError(
            f"{checkpoint.path}: every tensor fits, and yet {init.canonical} computes features that are not finite "
            "(NaN or infinite) of a plain image: numbers in the file are too large, or a variance is negative; take "
            "another checkpoint"
        )
    return Receipt(
        init=record.name,
        backbone=init.backbone,
        files=checkpoint.files,
        container=content.container,
        beside=content.beside,
        layout=taken.rule,
        recipe=recipes.recipe(init),
        keys={name: " + ".join(keys) for name, (keys, _) in taken.found.items()},
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
        fingerprint=computed,
        versions={"timm": timm.__version__, "torch": torch.__version__},
        input=recipes.assumed(init),
        datasets=record.datasets,
        unverified=record.unverified,
    )


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Hashes tensors by name, type, shape and bytes, independent of their order."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
