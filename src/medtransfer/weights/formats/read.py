"""Reads the tensors out of a published checkpoint file; nothing in a file can run code.

The format is told by the file's content: safetensors, an index of several files, torch's zip, pickle and tar formats,
TensorFlow checkpoints, and pickles of arrays such as BYOL's. The modules beside this one read one family each; a
`UserError` of theirs is the end of a sentence that begins with the file's name, any other exception of theirs means
that the file is damaged.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from medtransfer.core.errors import UserError, some
from medtransfer.weights.formats import archives, pickles, shards, tensorflow, torch_files

EMA = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
"""keys under which training code puts the averaged weights, which timm takes before the raw ones"""
PLACES = (*EMA, "state_dict", "model", "model_state_dict", "resnet", "teacher", "student", "net")
"""keys under which training code puts the state dict, in the order of preference"""
HEADS = {
    r"$": "it is empty; delete it and get it again",
    r"\s*<(!doctype\s+)?html": "an HTML page: a login or share page was saved in place of the file",
    r"\s*<\?xml": "an XML page: a server's error message was saved in place of the file",
    r"\s*[{\[]": "JSON text: a server's answer was saved in place of the file",
    r"version https://git-lfs": "a Git LFS pointer: the file itself is still to be fetched (git lfs pull)",
    r"\x89hdf\r\n": "Keras HDF5; convert it to safetensors first",
    r"\x1f\x8b": "a gzip file; unpack it and take the checkpoint in it",
}
"""how the first bytes look, in lower case -> what the file is"""


@dataclass(frozen=True)
class Content:
    """What a checkpoint file holds."""

    tensors: dict[str, Tensor]
    """key -> tensor exactly as in the file, on the CPU"""
    container: str
    """the format and the place in it: "safetensors", "torch state_dict", "torch ['model']", "TF1 checkpoint", ..."""
    beside: tuple[str, ...]
    """names of what else the file holds, sorted, with dots between levels"""
    place: tuple[str, ...] = ()
    """keys that lead to the tensors"""
    others: tuple[str, ...] = ()
    """keys at the top that lead to other tensors"""


def read(path: Path, nested: tuple[str, ...] | None = None, member: str = "") -> Content:
    """Reads the tensors of a checkpoint file.

    Args:
        path: of the file; for a TensorFlow checkpoint its index file or its prefix.
        nested: keys that lead to the state dict, () if the file itself is one; None looks at the top and at `PLACES`.
        member: the end of the file's path in the archive (zip, tar, tar.gz) at `path`; "" if it is not in one.

    Raises:
        UserError: the file cannot be read, is damaged, is no known format, could run code, or holds no tensors there.
    """
    name = f"{path} ({member})" if member else str(path)
    try:
        return _choose(*(_parse_member(path, member) if member else _parse(path)), nested)
    except UserError as error:
        raise UserError(f"{name} {error}") from error
    except Exception as error:  # decoders raise anything on damaged bytes
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"{name} cannot be read ({error.strerror})") from error
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(f"{name} is damaged or not complete ({reason}); delete it and get it again") from error


def _parse_member(path: Path, member: str) -> tuple[str, Any, list[str]]:
    with tempfile.TemporaryDirectory() as folder:
        return _parse(archives.unpack(path, member, Path(folder)))


def _parse(path: Path) -> tuple[str, Any, list[str]]:
    """Reads a whole file; returns the container, the tree in it, and names of what was left out of the tree."""
    index = path.with_name(f"{path.name}.index")
    if not path.is_file():
        if not index.is_file():
            raise UserError("is a folder, not a checkpoint" if path.is_dir() else "was looked for and is not there")
        path = index
    with path.open("rb") as stream:
        head = stream.read(512)
        stream.seek(max(path.stat().st_size - 8, 0))
        tail = stream.read()
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= 100_000_000:  # the format's own limit
        return "safetensors", load_file(path), []
    if head.startswith(b"PK\x03\x04"):
        return "torch", torch_files.read_zip(path), []
    if torch_files.is_pickle(head):
        return "torch", torch_files.read_pickle(path), []
    if head.startswith(b"\x80"):
        return pickles.read(path)
    if head[257:262] == b"ustar":
        return "legacy tar", torch_files.read_tar(path), []
    if head.startswith(b"{") and shards.is_index(path):
        return "shards", shards.read(path), []
    text = head.decode("latin1").lower()
    meaning = next((meaning for pattern, meaning in HEADS.items() if re.match(pattern, text)), "")
    if tail == tensorflow.END or (path.suffix == ".index" and not meaning):
        return tensorflow.read(path)
    raise UserError(f"is not a checkpoint that can be read: {meaning or f'it begins with {head[:16]!r}'}")


def _choose(container: str, level: Any, left_out: list[str], nested: tuple[str, ...] | None) -> Content:
    top, where = level, _look(level) if nested is None else nested
    beside = list(left_out)
    for depth, key in enumerate(where):
        if not isinstance(level, Mapping) or key not in level:
            raise UserError(f"has no {_path(where[: depth + 1])}; at that level is {_kind(level)}")
        beside += [".".join((*where[:depth], str(other))) for other in level if other != key]
        level = level[key]
    values = level if isinstance(level, Mapping) else {}
    tensors = {k: t for k, v in values.items() if isinstance(k, str) and (t := _tensor(v)) is not None}
    if not tensors:
        raise UserError(f"holds no tensors {'at ' + _path(where) if where else 'at its top'}; there is {_kind(level)}")
    unread = {key: form for key, tensor in tensors.items() if (form := _form(tensor))}
    if unread:
        raise UserError(
            f"holds {len(unread)} tensors that are {', '.join(sorted(set(unread.values())))} {some(list(unread))}; "
            "save them as plain tensors (`to_dense`, `dequantize`), or take another file"
        )
    beside += [".".join((*where, str(key))) for key in values if key not in tensors]
    shown = f"{container} {_path(where)}" if where else {"torch": "torch state_dict"}.get(container, container)
    others = tuple(sorted(str(k) for k, v in top.items() if k != where[0] and _holds_tensors(v))) if where else ()
    return Content(tensors, shown, tuple(sorted(beside)), where, others)


def _look(top: Any) -> tuple[str, ...]:
    """Finds the state dict: under one of `PLACES`, else at the top, else under the only key that holds tensors.

    The top is not first, because training code leaves single tensors, such as the best score, beside a state dict.
    """
    for place in PLACES:
        value = top.get(place) if isinstance(top, Mapping) else None
        if _holds_tensors(value):
            return (place,)
        if isinstance(value, Mapping) and (
            deeper := [key for key in (*PLACES, "module") if _holds_tensors(value.get(key))]
        ):
            return place, deeper[0]
    if not isinstance(top, Mapping) or _holds_tensors(top):
        return ()
    others = [(key,) for key, value in top.items() if isinstance(key, str) and _holds_tensors(value)]
    if len(others) != 1:
        raise UserError(
            f"holds {len(others) or 'no'} dicts of tensors where one was looked for; at its top is {_kind(top)}. "
            f"{_hint(top)}"
        )
    return others[0]


def _hint(top: Mapping[object, object]) -> str:
    """Says by which keys dicts of tensors can be chosen, those two and three levels deep, too."""
    found: list[tuple[str, ...]] = []
    level: list[tuple[tuple[str, ...], object]] = [((), top)]
    for _ in range(3):
        level = [
            ((*where, key), inner)
            for where, value in level
            if isinstance(value, Mapping)
            for key, inner in value.items()
            if isinstance(key, str)
        ]
        found += [where for where, value in level if _holds_tensors(value)]
    if not found:
        return "Save the state dict that you want by itself"
    ways = " or ".join(f"`nested: [{', '.join(where)}]`" for where in found[:3])
    return f"Choose one by {ways} of an entry under `inits` of params.yaml" + (", ..." if len(found) > 3 else "")


def _holds_tensors(value: object) -> bool:
    """Says whether a value is a mapping to tensors, numbers aside."""
    return isinstance(value, Mapping) and any((t := _tensor(v)) is not None and t.dim() for v in value.values())


def _tensor(value: object) -> Tensor | None:
    return value.detach() if isinstance(value, Tensor) else pickles.array(value)


def _form(tensor: Tensor) -> str:
    """Names what is no plain tensor: one whose numbers do not stand in the file as they are; empty for others."""
    if tensor.is_meta:
        return "without numbers (meta)"
    return "quantized" if tensor.is_quantized else "sparse" if tensor.layout != torch.strided else ""


def _path(where: tuple[str, ...]) -> str:
    return "".join(f"[{key!r}]" for key in where)


def _kind(level: object) -> str:
    return (
        f"the keys {archives.some(level)}"
        if isinstance(level, Mapping)
        else f"an object of type {type(level).__name__}"
    )
