"""Converted weights under `data/weights`: made once, with a receipt beside each, and read back checked."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtransfer.core import files, schema
from medtransfer.core.errors import UserError
from medtransfer.weights import locate, receipts, recipes
from medtransfer.weights.licences import commercial
from medtransfer.weights.locate import File
from medtransfer.weights.names import Initialization
from medtransfer.weights.receipts import Lineage, Receipt

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("medtransfer")

REGISTRY_FOLDER = "registry"
"""below `data/weights`: backbones that were fetched from the model registry"""
TOLERANCE = 1e-3
"""largest deviation of fingerprints that is rounding: float32 kernels of other machines differ by about 1e-5"""


def ready(init: Initialization, root: Path, folder: str = "adhoc") -> Receipt | Lineage | None:
    """Makes sure that a run can start from an initialization: converted, pre-trained or fetched; None for random.

    Raises:
        UserError: as in `obtain`, a chain is not made yet, or a registered backbone is not fetched.
    """
    if init.registered and not init.chain:
        return _read(_fetched(init, root))
    return _made(init, root) if init.chain else obtain(init, root, folder)


def obtain(init: Initialization, root: Path, folder: str = "adhoc") -> Receipt | None:
    """Makes sure that the converted weights are under `data/weights`; returns their receipt, None for random.

    `benchmark/` there belongs to the DVC stage, `adhoc/` to everything else; both are looked in.

    Raises:
        UserError: the file cannot be had, or its tensors do not account for the whole backbone.
    """
    if init.random:
        return None
    found = _existing(init, root)
    if found and (folder == "adhoc" or found.parent.name == folder) and not stale(init, found):
        return read_receipt(found)
    from safetensors.torch import save_file

    from medtransfer.weights import convert

    checkpoint = locate.find(init, root)
    target = root / "data/weights" / folder / f"{init.slug}.safetensors"
    receipt, tensors = convert.convert(init, checkpoint)
    locate.note(checkpoint, init, root)
    target.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(target) as temporary:
        save_file(tensors, temporary)
    files.write_text(target.with_suffix(".receipt.json"), json.dumps(dataclasses.asdict(receipt), indent=1))
    log.info("weights %s: %d tensors from %s", init.canonical, len(receipt.keys), receipt.source)
    if init.record.family == "yours":
        log.info("%s", "\n".join(f"  {line}" for line in (_left_out(receipt), *receipt.adapted, _input(receipt))))
    return receipt


def _made(init: Initialization, root: Path) -> Lineage:
    found = receipts.read(init, root)
    if found is None:
        command = f"pretrain --init {init.parent.canonical} --dataset {init.chain[-1]}"
        raise UserError(f"{init.canonical} is not made yet: looked for {receipts.path(init, root)}; run `{command}`")
    return found


def _fetched(init: Initialization, root: Path) -> Path:
    found = _existing(init, root)
    if found is None:
        raise UserError(
            f"{init.canonical}: looked for it in data/weights/{REGISTRY_FOLDER}, found none; fetch it again"
        )
    return found


def _existing(init: Initialization, root: Path) -> Path | None:
    folders = (REGISTRY_FOLDER,) if init.registered else ("benchmark", "adhoc")
    places = [root / "data/weights" / folder / f"{init.slug}.safetensors" for folder in folders]
    return next((p for p in places if p.is_file() and p.with_suffix(".receipt.json").is_file()), None)


def stale(init: Initialization, converted: Path) -> bool:
    """Says whether weights must be converted again: by another recipe, or because the user's own file changed."""
    try:
        receipt = read_receipt(converted)
    except UserError:  # of an earlier version of this program, or cut off
        return True
    changed = bool(init.local) and any(_differs(file, init) for file in receipt.files)
    return changed or receipt.recipe != recipes.recipe(init)


def _differs(file: File, init: Initialization) -> bool:
    """Says whether one of a user's own files is another than when it was converted."""
    path = Path(init.local).with_name(Path(file.address).name)
    return not path.is_file() or files.sha256(path) != file.sha256


def _receipt(init: Initialization, root: Path) -> Receipt | Lineage | None:
    found = _existing(init, root)
    return _read(found) if found else None


def _read(path: Path) -> Receipt | Lineage:
    """Reads the receipt beside tensors; a registered backbone may have been pre-trained here or elsewhere."""
    said = _fields(path)
    return schema.convert(said, Lineage) if "parent" in said else read_receipt(path)


def _fields(converted: Path) -> dict[str, Any]:
    """Reads what stands in the receipt beside tensors.

    Raises:
        UserError: it is cut off, or no receipt.
    """
    path = converted.with_suffix(".receipt.json")
    try:
        fields = json.loads(path.read_text())
        if not isinstance(fields, dict):
            raise ValueError("no names and values")
    except ValueError as error:
        raise UserError(f"{path} is no whole receipt ({error}); {_REMEDY.format(path=converted)}") from error
    return fields


_REMEDY = "delete it and {path}, and start the same command again, which makes both anew"


def receipt_file(init: Initialization, root: Path) -> Path | None:
    """Finds the receipt of converted or pre-trained weights; None for random."""
    found = None if init.random else receipts.path(init, root) if init.chain else _existing(init, root)
    return found and found.with_suffix(".receipt.json")


def read_receipt(converted: Path) -> Receipt:
    """Reads the receipt beside a converted file.

    Raises:
        UserError: it is cut off, or of another version of this program.
    """
    fields = _fields(converted)
    for name, value in fields.items():
        if isinstance(value, list):
            fields[name] = tuple(value)
    try:
        fields["files"] = tuple(File(**file) for file in fields["files"])
        fields["dropped"] = {rule: tuple(keys) for rule, keys in fields["dropped"].items()}
        return Receipt(**fields)
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{converted.with_suffix('.receipt.json')} is no receipt of this version ({error}); "
            f"{_REMEDY.format(path=converted)}"
        ) from error


def converted(root: Path) -> dict[str, list[str]]:
    """Lists what is under `data/weights`: init -> backbones."""
    found: dict[str, set[str]] = {}
    for path in (root / "data/weights").glob("*/*.receipt.json"):
        tensors = path.with_name(path.name.removesuffix(".receipt.json") + ".safetensors")
        said = _fields(tensors)
        if "parent" in said:  # pre-trained here
            continue
        if not {"init", "backbone"} <= said.keys():
            raise UserError(f"{path} is no whole receipt (it names no init); {_REMEDY.format(path=tensors)}")
        found.setdefault(said["init"], set()).add(said["backbone"])
    return {init: sorted(backbones) for init, backbones in found.items()}


def state(init: Initialization, root: Path, seed: int, random_last_bn: str) -> dict[str, Tensor]:
    """Returns the backbone's tensors: read and verified, or drawn from the seed for `random`.

    Raises:
        UserError: the converted file was changed since its receipt was written.
    """
    from safetensors.torch import load_file

    from medtransfer.weights.backbones import bare_state
    from medtransfer.weights.convert import digest

    if init.random:
        return bare_state(init.backbone, seed, random_last_bn)
    path = receipts.path(init, root) if init.chain else _existing(init, root)
    if path is None or not path.is_file():
        raise UserError(
            f"weights of {init.canonical} are not under data/weights; run `weights --init {init.record.name}`"
        )
    tensors = load_file(path)
    expected = _made(init, root) if init.chain else _read(path)
    if digest(tensors) != expected.tensors_sha256:
        raise UserError(f"{path} differs from its receipt; delete both files and convert again")
    return tensors


def verify(init: Initialization, root: Path) -> float:
    """Computes the fingerprint of converted weights here and returns its deviation from the receipt's.

    Raises:
        UserError: this machine computes other features from the same tensors than the one that converted them.
    """
    path = None if init.random else receipts.path(init, root) if init.chain else _existing(init, root)
    if path is None:
        return 0.0
    from medtransfer.weights import fingerprint

    expected = (_made(init, root) if init.chain else _read(path)).fingerprint
    found = fingerprint.fingerprint(init.backbone, state(init, root, 0, "one"), init.padding)
    deviation = fingerprint.deviation(found, expected)
    if not deviation <= TOLERANCE:  # NaN is no rounding either
        raise UserError(
            f"{path}: the features of the fixed input deviate from the receipt's by {deviation:.1e} of their size, "
            f"at most {TOLERANCE:.0e} is rounding; compare the versions of torch and timm with the receipt's"
        )
    return deviation


def _input(receipt: Receipt) -> str:
    origin = f" ({receipt.input})" if receipt.input else ""
    return f"input mean {receipt.mean}, std {receipt.std}, of [0, 1]{origin}"


def _left_out(receipt: Receipt) -> str:
    rules = ", ".join(f"{rule} ({len(keys)})" for rule, keys in receipt.dropped.items())
    return f"left out: {rules or 'nothing'}"


def summary(receipt: Receipt | Lineage) -> list[str]:
    """Says in a few lines what a receipt holds."""
    if isinstance(receipt, Lineage):
        return receipts.summary(receipt)
    dropped, counters = sum(map(len, receipt.dropped.values())), len(receipt.filled)
    lines = [f"{receipt.init}@{receipt.backbone}: {receipt.data}; {receipt.method}. {receipt.paper}"]
    lines += [f"from {file.address}, {file.bytes} bytes, sha256 {file.sha256}" for file in receipt.files]
    return [
        *lines,
        f"{len(receipt.keys)} tensors matched ({receipt.container}; {receipt.layout}), {dropped} left out by rule, "
        f"{counters} counters at zero, 0 missing, 0 unexpected; {receipt.parameters} parameters",
        *receipt.adapted,
        f"{_input(receipt)}; SAME padding: {receipt.padding or 'none'}",
        f"licence {receipt.licence}, commercial use: {commercial(receipt.licence)}",
        *([f"not known for sure: {receipt.unverified}"] if receipt.unverified else []),
        f"sha256 of the tensors {receipt.tensors_sha256}",
    ]


def description(init: Initialization, root: Path) -> str:
    """Says in Markdown what a run starts from; for people who look at it in MLflow."""
    receipt = None if init.random else _made(init, root) if init.chain else _receipt(init, root)
    if receipt is None:
        return f"{init.canonical}: drawn from the seed"
    first, *others = summary(receipt)
    return "\n".join([first, "", *(f"- {line}" for line in others)])
