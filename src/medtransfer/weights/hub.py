"""Names of a model hub become initializations: `hf:<owner>/<repo>[@<revision>][/<file>][@<backbone>]`.

They are described before a verb starts: the commit that a revision is, the file that holds the weights, and what card
and configuration say of backbone, input and licence become an entry of section `inits`. The weights themselves are
fetched where they are converted. The commit stands in the lock file from then on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medtransfer.core.errors import UserError, one_line
from medtransfer.params import OwnInit, Params
from medtransfer.weights import hub_client, hub_configs, hub_names
from medtransfer.weights.hub_names import HubFile
from medtransfer.weights.names import DATASETS, normal, on_hub, start_of

log = logging.getLogger("medtransfer")

USUAL = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
"""names under which libraries publish weights, the one that is taken first"""
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
_SEEN = {
    "chexpert": "chexpert",
    "chestxray14": "chestxray14",
    "chestxray8": "chestxray14",
    "nihchestxray": "chestxray14",
    "nihcxr": "chestxray14",
    "shenzhen": "shenzhen",
    "montgomery": "montgomery",
    "rsnapulmonaryembolism": "rsna_pe",
    "rsnastrpulmonaryembolism": "rsna_pe",
    "siimacr": "siim",
}
"""what the name of a data set on a hub begins or goes on with, letters and digits alone -> a dataset of ours"""


def bring(params: Params, names: Iterable[str], root: Path) -> Params:
    """Describes under `inits` what is on a hub among some names of initializations, and entries whose `file` is there.

    Raises:
        UserError: repository, revision or file are not there or not for whoever asks, the backbone is not certain, or
            no licence is stated.
    """
    inits = dict(params.inits)
    for name in names:
        spec, backbone = on_hub(name)
        own = start_of(name, params.inits)
        if spec:
            inits[f"{spec.name}@{backbone}" if backbone else spec.name] = _entry(spec, backbone, root)
        elif own in inits and hub_names.named(inits[own].file):
            inits[own] = _completed(own, inits[own], root)
    return dataclasses.replace(params, inits=inits) if inits != dict(params.inits) else params


@dataclass(frozen=True)
class _Said:
    """What is said of a file on a hub."""

    facts: hub_configs.Facts
    licence: str
    data: str
    datasets: tuple[str, ...]


def _entry(spec: HubFile, backbone: str, root: Path) -> OwnInit:
    """Describes a name that stands for itself."""
    pinned = _pinned(spec, root)
    said = _said(spec.name, pinned, root)
    if not said.licence:
        raise UserError(
            f"{spec.name}: its card ({hub_client.page(spec.repo)}) states no licence. If you know what you may do "
            "with it, give it an entry under `inits` of params.yaml, with that licence:\n"
            f"  inits:\n    {re.sub(r'[^a-z0-9-]+', '-', spec.repo.rpartition('/')[2].lower())}:\n"
            f"      file: {spec.name}\n      backbone: {backbone or said.facts.backbone or '<timm architecture>'}\n"
            "      licence: <licence>"
        )
    if not backbone and not said.facts.backbone:
        raise UserError(
            f"{spec.name}: which timm architecture is it? {said.facts.hint or 'no configuration file says so'}: name "
            f"it, as in {spec.name}@vit_base_patch16_224"
        )
    entry = OwnInit(
        file=pinned.address,
        backbone=normal(backbone or said.facts.backbone),
        mean=said.facts.mean,
        std=said.facts.std,
        licence=said.licence,
        data=said.data,
        datasets=said.datasets,
    )
    return _pin(spec, pinned, entry, root)


def _completed(name: str, entry: OwnInit, root: Path) -> OwnInit:
    """Fills in what an entry of the user's own leaves out of a file on a hub; what it states stands."""
    spec = hub_names.read(entry.file)
    pinned = _pinned(spec, root)
    said = _said(name, pinned, root)
    licence = said.licence if entry.licence == "not stated" else entry.licence
    if not licence:
        raise UserError(
            f"inits.{name}: the card of its file ({hub_client.page(spec.repo)}) states no licence. If you know what "
            f"you may do with it, say so: inits.{name}.licence"
        )
    completed = dataclasses.replace(
        entry,
        file=pinned.address,
        mean=entry.mean or said.facts.mean,
        std=entry.std or said.facts.std,
        licence=licence,
        data=said.data if entry.data == "not stated" else entry.data,
        datasets=tuple(dict.fromkeys((*entry.datasets, *said.datasets))),
    )
    return _pin(spec, pinned, completed, root)


def _said(init: str, pinned: HubFile, root: Path) -> _Said:
    """Reads card and configuration; without hub and cache, what a receipt under `data/weights` holds of them."""
    try:
        facts, card = _facts(pinned), _card(pinned)
    except hub_client.AwayError:
        if noted := _of_receipt(init, pinned, root):
            return noted
        raise
    return _Said(facts, _licence(card), ", ".join(_datasets(card)) or "not stated", _seen(card))


def _of_receipt(init: str, pinned: HubFile, root: Path) -> _Said | None:
    """Finds what the receipts of converted weights hold, which DVC may have brought here; None where they differ."""
    found = []
    for path in (root / "data/weights").glob("*/*.receipt.json"):
        with contextlib.suppress(ValueError, LookupError, TypeError):
            held = json.loads(path.read_text())
            if held["init"] == init and held["recipe"]["url"] == pinned.address:
                facts = hub_configs.Facts(held["backbone"], "", tuple(held["mean"]), tuple(held["std"]))
                found.append(_Said(facts, held["licence"], held["data"], tuple(held["datasets"])))
    return found[0] if found and all(one == found[0] for one in found) else None


def _pinned(spec: HubFile, root: Path) -> HubFile:
    """Finds the commit and the file that a name stands for: as it was pinned, or as the hub says now."""
    from medtransfer.core import downloads

    if before := downloads.known(root / downloads.LOCK_FILE, spec.name):
        pinned = hub_names.read(before)
        _say_moved(spec, pinned)
        return pinned
    commit = hub_client.resolve(spec)
    there = hub_client.listing(dataclasses.replace(spec, revision=commit))
    pinned = dataclasses.replace(spec, revision=commit, file=_choose(spec, there))
    if hub_client.on_disk(pinned) is None:
        hub_client.stated(pinned)  # who may not read it learns so now
    return pinned


def _pin(spec: HubFile, pinned: HubFile, entry: OwnInit, root: Path) -> OwnInit:
    """Notes what a name stands for, once its description is whole, and says it the first time."""
    from medtransfer.core import downloads

    if downloads.pin(root / downloads.LOCK_FILE, spec.name, pinned.address):
        log.info(
            "%s: revision %s is commit %s, the file is %s; backbone %s, licence %s",
            spec.name, spec.revision or "main", pinned.revision[:12], pinned.file, entry.backbone, entry.licence,
        )  # fmt: skip
    return entry


@functools.cache
def _say_moved(spec: HubFile, pinned: HubFile) -> None:
    """Says, once, where the hub has another commit by now."""
    now = "" if spec.pinned else hub_client.moved(spec)
    if now and now != pinned.revision:
        log.warning(
            "%s: on the hub %s is commit %s by now; %s is used, as pinned in downloads.lock.json. To follow, take the "
            "line %r out of that file and give `medtransfer weights`",
            spec.name, spec.revision or "main", now[:12], pinned.revision[:12], spec.name,
        )  # fmt: skip


def _choose(spec: HubFile, there: tuple[str, ...]) -> str:
    """Names the file that holds the weights."""
    page = hub_client.page(spec.repo)
    if spec.file in there:
        return spec.file
    if spec.file:
        raise UserError(f"{spec.name}: looked for {spec.file} in {page}, found none{hub_client.near(spec.file, there)}")
    if usual := next((name for name in USUAL if name in there), ""):
        return usual
    others = [name for name in there if name.endswith(SUFFIXES)]
    if len(others) == 1:
        return others[0]
    found = f"{len(others)} that might be it" if others else "none that looks like weights"
    raise UserError(
        f"{spec.name}: which file of {page} holds the weights? Found {found}; name one, as in {spec.name}/<file>. It "
        f"holds: {', '.join(others or there) or 'nothing'}"
    )


def _facts(pinned: HubFile) -> hub_configs.Facts:
    config = _json(pinned, "config.json")
    bare = "architecture" not in config and "model_type" not in config
    clip = _json(pinned, "open_clip_config.json") if bare else {}
    preprocessor = {} if "architecture" in config or clip else _json(pinned, "preprocessor_config.json")
    return hub_configs.read(config, clip, preprocessor)


def _json(pinned: HubFile, name: str) -> Mapping[str, Any]:
    path = hub_client.small(pinned, name)
    try:
        tree = json.loads(path.read_text()) if path else {}
    except ValueError as error:
        raise UserError(
            f"{pinned.name}: its {name} is not JSON ({one_line(error)}); its owners must mend it"
        ) from error
    return tree if isinstance(tree, Mapping) else {}


def _card(pinned: HubFile) -> Mapping[str, Any]:
    """Reads the head of a repository's card; empty where it has none."""
    path = hub_client.small(pinned, "README.md")
    text = path.read_text(errors="replace").lstrip("\ufeff") if path else ""
    match = re.match(r"---\s*\n(.*?)\n---\s*(?:\n|$)", text, re.DOTALL)
    try:
        head = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError as error:
        raise UserError(f"{pinned.name}: the head of its card is not YAML ({one_line(error)})") from error
    return head if isinstance(head, Mapping) else {}


def _licence(card: Mapping[str, Any]) -> str:
    """Names the licence that a card states: `other` means the one that it names beside."""
    said = card.get("license")
    licences = [str(one) for one in (said if isinstance(said, list) else [said]) if one]
    if licences == ["other"]:
        licences = [str(card.get("license_name") or card.get("license_link") or "other")]
    return ", ".join(licences)


def _datasets(card: Mapping[str, Any]) -> list[str]:
    said = card.get("datasets")
    return [str(one) for one in (said if isinstance(said, list) else [said]) if one]


def _seen(card: Mapping[str, Any]) -> tuple[str, ...]:
    """Lists the datasets of ours among those that a card says it was trained on."""
    bare = [re.sub("[^a-z0-9]", "", name.rpartition("/")[2].lower()) for name in _datasets(card)]
    found = {ours for theirs, ours in _SEEN.items() for name in bare if theirs in name}
    return tuple(sorted(found & DATASETS))
