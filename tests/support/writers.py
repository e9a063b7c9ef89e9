"""Writes checkpoint files as TensorFlow, DeepMind's BYOL and old torch wrote them, without these libraries."""

from __future__ import annotations

import io
import os
import pickle
import shlex
import struct
import sys
import tarfile
import types
from collections import namedtuple
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

TF_TYPES = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "complex64": 8, "int64": 9, "bool": 10, "float16": 19}
"""numpy's name -> number in TensorFlow's types.proto"""
BLOCK = 1024
"""bytes after which a table block is closed: small, so that a few dozen keys make several"""


class Harm:
    """Its unpickling runs a command that makes the file `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {shlex.quote(str(self.path))}",)


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum of `data`, bit by bit, masked as LevelDB does."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def field(number: int, value: int | bytes) -> bytes:
    """One protobuf field: an integer as a varint, bytes with their length."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def entry(array: np.ndarray, shard: int, offset: int, extra: bytes = b"") -> bytes:
    """A BundleEntryProto."""
    shape = b"".join(field(2, field(1, size)) for size in array.shape)
    place = field(3, shard) + field(4, offset) + field(5, array.nbytes)
    checksum = varint(6 << 3 | 5) + struct.pack("<I", 0)  # of the data: medtransfer does not read it
    return field(1, TF_TYPES[array.dtype.name]) + field(2, shape) + place + checksum + extra


def write_tf_bundle(prefix: Path, arrays: Mapping[str, np.ndarray], shards: int = 1) -> None:
    """Writes `prefix`.index and its data files; arrays go to the shards in turn."""
    values = {b"": field(1, shards) + field(3, field(1, 1))}
    data = [bytearray() for _ in range(shards)]
    for number, name in enumerate(sorted(arrays)):
        array, shard = np.ascontiguousarray(arrays[name]).reshape(arrays[name].shape), number % shards
        values[name.encode()] = entry(array, shard, len(data[shard]))
        data[shard] += array.tobytes()
    write_table(prefix.with_name(f"{prefix.name}.index"), values)
    for shard, content in enumerate(data):
        prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}").write_bytes(content)


def write_table(path: Path, values: Mapping[bytes, bytes]) -> None:
    """Writes a LevelDB-style table."""
    out, handles, pending = bytearray(), {}, dict[bytes, bytes]()
    for key in sorted(values):
        pending[key] = values[key]
        if sum(map(len, pending.values())) >= BLOCK:
            handles[key], pending = _append(out, pending), {}
    if pending:
        handles[max(pending)] = _append(out, pending)
    footer = _append(out, {}) + _append(out, handles)
    path.write_bytes(out + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57))


def _shared(last: bytes, key: bytes) -> int:
    """Says how many leading bytes two keys have in common."""
    return next((n for n, (a, b) in enumerate(zip(last, key, strict=False)) if a != b), min(len(last), len(key)))


def _append(out: bytearray, values: Mapping[bytes, bytes]) -> bytes:
    """Appends a block, uncompressed, and returns its handle."""
    block, restarts, last = bytearray(), [], b""
    for number, (key, value) in enumerate(values.items()):
        shared = _shared(last, key) if number % 16 else 0
        if not number % 16:
            restarts.append(len(block))
        block += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    block += struct.pack(f"<{max(len(restarts), 1) + 1}I", *(restarts or [0]), max(len(restarts), 1))
    handle = varint(len(out)) + varint(len(block))
    out += block + b"\0" + struct.pack("<I", crc32c(bytes(block) + b"\0"))
    return handle


class _Pickler(pickle.Pickler):
    """Saves as dill 0.3.1 does: named tuples by their fields, functions of numpy by way of their module's name."""

    def reducer_override(self, obj: Any) -> Any:
        dill = sys.modules["dill._dill"]
        if isinstance(obj, type) and hasattr(obj, "_fields"):
            return dill._create_namedtuple, (obj.__name__, obj._fields, obj.__module__)
        if isinstance(obj, types.BuiltinFunctionType):
            return dill._get_attr, (sys.modules[obj.__module__], obj.__name__)
        if isinstance(obj, types.ModuleType):
            return dill._import_module, (obj.__name__.replace("numpy._core", "numpy.core"),)  # as numpy 1 says it
        return (dill._load_type, ("bytes",)) if obj is bytes else NotImplemented


def _named(name: str) -> Any:
    """Makes a function that is only named in the file."""

    def function(*_: Any) -> None: ...

    function.__module__, function.__qualname__ = "dill._dill", name
    return function


def _flat_mapping(form: str) -> type:
    """A class of the name, and with the pickled form, of one of haiku's generations of mappings."""
    slots = {"storage": ("_storage", "_keys", "_hash"), "mapping": ("_structure", "_leaves", "_mapping")}

    def reduce(self: Any) -> tuple[Any, ...]:
        return type(self), (self.content,)

    body = {"__slots__": slots[form]} if form in slots else {"__reduce__": reduce}
    return type("FlatMapping", (), {"__module__": "haiku._src.data_structures", **body})


def _wrap(kind: type, form: str, values: Mapping[str, Any]) -> Any:
    content = {k: _wrap(kind, form, v) if isinstance(v, Mapping) else v for k, v in values.items()}
    flat = kind()
    if form == "storage":
        flat._storage, flat._keys, flat._hash = content, tuple(content), 0
    elif form == "mapping":
        flat._mapping, flat._leaves, flat._structure = content, (), None
    else:
        flat.content = content
    return flat


def write_haiku_pickle(
    path: Path, state: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]], form: str = "storage"
) -> None:
    """Writes a checkpoint as BYOL's code does: {"experiment_state": named tuple, "step": ..., "rng": ...}, protocol 2.

    Args:
        path: of the file.
        state: {"online_params": {module: {name: array}}, "online_state": ..., ...}.
        form: of haiku's mappings: "storage", "mapping" (slots of those names) or "argument" (of the class).
    """
    kind = _flat_mapping(form)
    made = namedtuple("_ByolExperimentState", list(state), module="byol.byol_experiment")  # type: ignore[misc]  # the caller's
    names = ("haiku", "haiku._src", "haiku._src.data_structures", "dill", "dill._dill")
    modules: dict[str, Any] = {name: types.ModuleType(name) for name in names}
    modules["haiku._src.data_structures"].FlatMapping = kind
    for name in ("_create_namedtuple", "_get_attr", "_import_module", "_load_type"):
        setattr(modules["dill._dill"], name, _named(name))
    tree = {"experiment_state": made(*(_wrap(kind, form, v) for v in state.values()))}
    rest = {"step": 300000, "rng": np.array([0, 42], np.uint32)}
    with mock.patch.dict(sys.modules, modules), path.open("wb") as stream:
        _Pickler(stream, protocol=2).dump(tree | rest)


class _TarPickler(pickle.Pickler):
    """Notes tensors and leaves only their keys in the pickle."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, protocol=2)
        self.tensors: dict[int, torch.Tensor] = {}

    def persistent_id(self, obj: Any) -> str | None:
        if not isinstance(obj, torch.Tensor):
            return None
        self.tensors[id(obj)] = obj
        return str(id(obj))


def write_legacy_tar(path: Path, content: object) -> None:
    """Writes torch's format of 2016: a tar with sys_info, pickle, storages and tensors.

    Args:
        path: of the file.
        content: an OrderedDict of tensors, or a dict that holds one. A storage that several tensors share is written as
            a view of a root storage.
    """
    stream = io.BytesIO()
    pickler = _TarPickler(stream)
    pickler.dump(content)
    roots = {t.untyped_storage().data_ptr(): t for t in pickler.tensors.values()}
    pointers = [t.untyped_storage().data_ptr() for t in pickler.tensors.values()]
    views = [(p + 1, p, 0, _length(roots[p])) for p in roots if pointers.count(p) > 1]
    members = {
        "sys_info": pickle.dumps({"protocol_version": 1000, "little_endian": True}, 2),
        "pickle": stream.getvalue(),
        "storages": _storages(roots) + pickle.dumps(views, 2),
        "tensors": pickle.dumps(len(pickler.tensors), 2),
    }
    for key, tensor in pickler.tensors.items():
        pointer = tensor.untyped_storage().data_ptr()
        members["tensors"] += _tensor(key, tensor, pointer + (pointers.count(pointer) > 1))
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))


def _length(tensor: torch.Tensor) -> int:
    """Elements in the tensor's storage."""
    return tensor.untyped_storage().nbytes() // tensor.element_size()


def _storages(roots: Mapping[int, torch.Tensor]) -> bytes:
    out = pickle.dumps(len(roots), 2)
    for pointer, tensor in roots.items():
        kind = getattr(torch, tensor.type().removeprefix("torch.").replace("Tensor", "Storage"))
        data = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
        out += pickle.dumps((pointer, "cpu", kind), 2) + struct.pack("<q", _length(tensor)) + data.numpy().tobytes()
    return out


def _tensor(key: int, tensor: torch.Tensor, storage: int) -> bytes:
    kind = getattr(torch, tensor.type().removeprefix("torch."))
    numbers = (*tensor.shape, *tensor.stride(), tensor.storage_offset())
    layout = struct.pack(f"<ii{len(numbers)}q", tensor.dim(), 0, *numbers)
    return pickle.dumps((key, storage, kind), 2) + layout
