"""A registered backbone comes back as an initialization: `registry:<registered model>/<alias or version>`.

It is fetched before a verb starts, because learning code knows no tracker; the facts that its name does not hold
(input, licence, images it has seen) become an entry of section `inits`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from safetensors.torch import load_file

from medtransfer import tracking
from medtransfer.core import files
from medtransfer.core.errors import UserError
from medtransfer.core.schema import read_json
from medtransfer.params import OwnInit, Params
from medtransfer.registry import aliases
from medtransfer.registry.timm_folder import CONFIG, LIST, RECEIPT, WEIGHTS
from medtransfer.tracking.store import masked
from medtransfer.weights import convert
from medtransfer.weights.names import REGISTRY, parse, registered
from medtransfer.weights.store import REGISTRY_FOLDER

log = logging.getLogger("medtransfer")


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What is noted beside a fetched backbone."""

    version: str
    key: str
    """sha256 of its tensors"""
    entry: OwnInit


def bring(params: Params, names: Iterable[str], root: Path) -> Params:
    """Fetches the registered backbones among some names of initializations and describes them under `inits`.

    Where the registry cannot be reached, a backbone that was fetched before is used, and that is said.

    Raises:
        UserError: a backbone is not in the registry, or can neither be fetched nor was fetched before.
    """
    wanted = dict.fromkeys(name for name in map(registered, names) if name)
    entries = {name: _entry(name, root) for name in wanted}
    return dataclasses.replace(params, inits={**params.inits, **entries})


def _entry(name: str, root: Path) -> OwnInit:
    folder = root / "data/weights" / REGISTRY_FOLDER
    note = folder / f"{name.removeprefix(REGISTRY).replace('/', '--')}.json"
    before = _noted(note)
    try:
        client = tracking.connect(root)
    except UserError as error:
        if before is None:
            raise
        log.warning("%s: %s; version %s, fetched before, is used", name, error, before.version)
        return before.entry
    found = _version(client, name)
    if before is None or before.key != found.tags["key"] or not _here(before.entry, root):
        before = _fetch(client, name, found, folder)
        files.write_text(note, json.dumps(dataclasses.asdict(before), indent=1) + "\n")
        log.info("%s: fetched version %s, sha256 of its tensors %s", name, found.version, before.key)
    return before.entry


def _here(entry: OwnInit, root: Path) -> bool:
    """Says whether all files that an entry names were fetched."""
    return all((root / name).is_file() for name in (entry.file, entry.images) if name)


def _noted(note: Path) -> Fetched | None:
    """Reads what was noted when a backbone was fetched; None where it was not, or the note is damaged."""
    try:
        return read_json(note, Fetched, "note", "it is fetched again") if note.is_file() else None
    except UserError as damage:
        log.warning("%s", damage)
        return None


def _version(client: MlflowClient, name: str) -> ModelVersion:
    """Finds the version that a name means."""
    model, _, wanted = name.removeprefix(REGISTRY).partition("/")
    there = aliases.owned(client, model)
    if there and wanted.isdigit():
        versions = client.search_model_versions(f"name = '{model}'")
        found = next((one for one in versions if str(one.version) == wanted), None)
    else:
        found = aliases.version_of(client, model, wanted)
    if found is None:
        known = ", ".join(sorted(client.get_registered_model(model).aliases)) if there else ""
        words = f"its aliases: {known or 'none'}" if there else "there is no such registered model"
        raise UserError(f"looked for {wanted} of {model}, found none ({words}); see `mlflow ui`")
    if found.tags.get(aliases.TAG) != "backbone":
        raise UserError(f"version {found.version} of {model} is no backbone; name a medtransfer-backbone-...")
    return found


def _fetch(client: MlflowClient, name: str, version: ModelVersion, folder: Path) -> Fetched:
    """Puts tensors and receipt where `weights` looks for them, checked against the version's key."""
    with tempfile.TemporaryDirectory() as temporary:
        try:
            brought = Path(client.download_artifacts(version.run_id, "backbone", temporary))
        except (MlflowException, OSError) as error:
            raise UserError(
                f"{name}: looked for the artifacts of version {version.version} (folder backbone of run "
                f"{version.run_id}), found none: {masked(error)}. Put MLflow's artifacts back where they were, or name "
                "another version"
            ) from error
        key = convert.digest(load_file(brought / WEIGHTS))
        if key != version.tags["key"]:
            raise UserError(
                f"{name}: the tensors of version {version.version} ({key[:12]}) are not those that were registered "
                f"({version.tags['key'][:12]}): its artifacts were changed; use another version"
            )
        entry = _describe(name, json.loads((brought / CONFIG).read_text()), json.loads((brought / RECEIPT).read_text()))
        entry = dataclasses.replace(entry, datasets=tuple(version.tags.get("seen", "").split()))
        target = folder / f"{parse(name, '', {name: entry}).slug}.safetensors"
        folder.mkdir(parents=True, exist_ok=True)
        target.with_suffix(".receipt.json").unlink(missing_ok=True)
        pairs = [(brought / WEIGHTS, target), (brought / RECEIPT, target.with_suffix(".receipt.json"))]
        if seen := version.tags.get("training_list"):
            images = next((brought / LIST).glob("*"), brought / LIST)
            if not images.is_file() or files.sha256(images) != seen:
                raise UserError(
                    f"{name}: looked among the artifacts of version {version.version} for the list of images that it "
                    f"has seen (sha256 {seen[:12]}), found none; use another version"
                )
            beside = f"{target.stem}-images"
            (folder / beside).mkdir(exist_ok=True)
            pairs.append((images, folder / beside / images.name))
            entry = dataclasses.replace(entry, images=f"data/weights/{REGISTRY_FOLDER}/{beside}/{images.name}")
        for source, end in pairs:
            with files.replacing(end) as partial:
                shutil.copyfile(source, partial)
    file = f"data/weights/{REGISTRY_FOLDER}/{target.name}"
    return Fetched(version=str(version.version), key=key, entry=dataclasses.replace(entry, file=file))


def _describe(name: str, config: dict[str, Any], receipt: dict[str, Any]) -> OwnInit:
    """Makes an entry of `inits` of what timm's configuration and the receipt say."""
    given = config["pretrained_cfg"]
    made = f"{receipt['parent']}, then {receipt['dataset']}" if "parent" in receipt else receipt["data"]
    return OwnInit(
        file=name,
        backbone=receipt["backbone"],
        mean=tuple(given["mean"]),
        std=tuple(given["std"]),
        padding=receipt["padding"],
        data=made,
        method=receipt["method"],
        licence=given.get("license") or "not stated",
    )
