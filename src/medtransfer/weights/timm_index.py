"""What timm knows of architectures and published weights, read without importing it: that takes seven CPU seconds.

Where timm is not installed it is what the timm of `requirements.lock` knows; `python -m tests.timm_index` writes that.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from medtransfer.core import extras
from medtransfer.core.remembered import remembered
from medtransfer.weights import variants

KEPT = Path(__file__).with_name("timm_index.json.gz")
"""answers of the timm of `requirements.lock`"""


@dataclass(frozen=True)
class Tag:
    """timm's own description of published weights, `timm.models.PretrainedCfg`, as far as it is used here."""

    architecture: str
    tag: str
    url: str
    hf_hub_id: str | None
    license: str | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    input_size: tuple[int, int, int]
    """channels, height, width in pixels"""
    fixed_input_size: bool
    """the input's side is an argument of the architecture"""
    first_conv: str | tuple[str, ...] | None
    """name of the layer that takes the image"""


@remembered("timm")
def _index() -> dict[str, object]:
    """Asks timm for all that is asked of it here."""
    import timm
    from timm.models import _registry  # nothing public lists the names that timm has renamed and still takes

    def tag(name: str) -> dict[str, Any]:
        config = timm.models.get_pretrained_cfg(name)
        return {field.name: getattr(config, field.name) for field in fields(Tag)}

    listed = timm.list_models()
    return {
        "architectures": listed,
        "renamed": sorted(set(_registry._model_entrypoints) - set(listed)),
        "pretrained": (published := timm.list_pretrained()),
        "tags": {name: tag(name) for name in (*listed, *published)},
    }


@functools.cache
def _said() -> Mapping[str, Any]:
    """Is what timm answers, or was kept of it."""
    if extras.installed("timm"):
        return _index()
    return dict(json.loads(gzip.decompress(KEPT.read_bytes())))


@functools.cache
def _tags() -> Mapping[str, Any]:
    return dict(_said()["tags"])


@functools.cache
def _names(which: str) -> tuple[str, ...]:
    return tuple(_said()[which])


def architectures() -> tuple[str, ...]:
    """Lists the architectures, as `timm.list_models` does."""
    return _names("architectures")


@functools.cache
def is_architecture(name: str) -> bool:
    """Says whether a name is a backbone's: an architecture, as `timm.is_model` says, with arguments or without."""
    if not variants.well_formed(name):
        return False
    bare = variants.base(name)
    return bare in architectures() or bare in _names("renamed")


def pretrained(pattern: str) -> list[str]:
    """Lists published weights, `<architecture>.<tag>`, as `timm.list_pretrained` does."""
    architecture, _, tag = pattern.partition(".")
    if tag == "*" and not set(architecture) & set("*?["):  # a look-up is a hundredth of a search through all names
        return list(_by_part(0).get(architecture, ()))
    if architecture == "*" and tag and not set(tag) & set("*?[."):
        return list(_by_part(2).get(tag, ()))
    return fnmatch.filter(_names("pretrained"), pattern)


@functools.cache
def _by_part(place: int) -> Mapping[str, list[str]]:
    """Sorts published weights by what is before or behind the dot of their name."""
    found: dict[str, list[str]] = {}
    for name in _names("pretrained"):
        if "." in name:
            found.setdefault(name.partition(".")[place], []).append(name)
    return found


@functools.cache
def find(name: str) -> Tag | None:
    """Returns what timm says of `<architecture>.<tag>`, or of a backbone's default weights; None: nothing."""
    if name not in _tags() and variants.well_formed(name):
        return _told(*variants.split(name))
    said: Any = _tags().get(name)
    if said is None:
        return None
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in said.items()}
    return Tag(**values)


def _told(architecture: str, arguments: Mapping[str, variants.Value]) -> Tag | None:
    """Returns what timm says of an architecture, of the side that it is told."""
    plain = find(architecture) if architecture in _tags() else None
    side = arguments.get("img_size")
    if plain is None or not isinstance(side, int):
        return plain
    return dataclasses.replace(plain, input_size=(plain.input_size[0], side, side))
