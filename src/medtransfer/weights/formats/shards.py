"""Reads a checkpoint that its publisher cut into several files, by the index that lists which tensor is in which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from medtransfer.core.errors import UserError, some
from medtransfer.weights.formats import torch_files


def is_index(path: Path) -> bool:
    """Says whether a file is such an index: JSON with a `weight_map`, as transformers and timm write it."""
    return bool(_places(path))


def names(path: Path) -> list[str]:
    """Lists the names of the files that an index names, which lie beside it; of any other file, none.

    Raises:
        UserError: one is named as if it were in another folder; the end of a sentence.
    """
    found = sorted(set(_places(path).values()))
    outside = [name for name in found if Path(name).name != name]
    if outside:
        raise UserError(f"names files outside of its folder {some(outside)}; they are looked for beside it alone")
    return found


def files(path: Path) -> list[Path]:
    """Lists the files that an index names, beside it; of any other file, none.

    Raises:
        UserError: one is not there, or is named as if it were in another folder; the end of a sentence.
    """
    listed = names(path)
    missing = [name for name in listed if not path.with_name(name).is_file()]
    if missing:
        raise UserError(
            f"lists {len(listed)} files, {len(missing)} of which are not beside it {some(missing)}: get all of them"
        )
    return [path.with_name(name) for name in listed]


def read(path: Path) -> dict[str, Any]:
    """Reads the tensors of all files that an index names.

    Raises:
        UserError: a file or a tensor is not where the index says; the end of a sentence.
    """
    tensors: dict[str, Any] = {}
    for file in files(path):
        held = load_file(file) if file.suffix == ".safetensors" else torch_files.read_zip(file)
        wanted = [key for key, name in _places(path).items() if name == file.name]
        lost = [key for key in wanted if key not in held]
        if lost:
            raise UserError(f"says that {file.name} holds {len(lost)} tensors that it does not hold {some(lost)}")
        tensors |= {key: held[key] for key in wanted}
    return tensors


def _places(path: Path) -> dict[str, str]:
    """Reads tensor -> file; empty where a file is no index."""
    if path.suffix != ".json":
        return {}
    try:
        places = json.loads(path.read_text())["weight_map"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {str(key): str(name) for key, name in places.items()} if isinstance(places, dict) else {}
