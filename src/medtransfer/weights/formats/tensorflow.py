"""Reads TensorFlow checkpoints without TensorFlow.

A checkpoint is a table, `<prefix>.index`, of names and places, and data files of plain numbers. The layout is that of
TensorFlow's `tensor_bundle.proto` and `lib/io/table`, the latter LevelDB's (its `doc/table_format.md`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medtransfer.core.errors import UserError

END = (0xDB4775248B80FB57).to_bytes(8, "little")
"""the last bytes of a table"""
FOOTER = 48
"""bytes at the table's end that say where its index is"""
STRING = 7
TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 10: "?", 19: "<f2"}
"""number in TensorFlow's `types.proto` -> numpy's name"""
OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"
"""the entry that TensorFlow 2 adds"""


def read(path: Path) -> tuple[str, dict[str, Tensor], list[str]]:
    """Reads all tensors of the checkpoint whose index file is `path`.

    Returns:
        The container, the tensors by name, the names of strings, which are left out.

    Raises:
        UserError: a data file is missing, or a tensor or the table has a form that is not read.
    """
    entries = {key.decode(): dict(_fields(value)) for key, value in _table(path.read_bytes())}
    header = entries.pop("")
    if header.get(2):
        raise UserError("has its numbers in big-endian order, which is not read")
    strings = sorted(name for name, entry in entries.items() if entry.get(1) == STRING)
    prefix = f"{path.parent / path.name.removesuffix('.index')}"
    shards = header.get(1, 0)
    tensors = {
        name: _load(Path(f"{prefix}.data-{entry.get(3, 0):05d}-of-{shards:05d}"), name, entry)
        for name, entry in entries.items()
        if name not in strings
    }
    return "TF2 checkpoint" if OBJECTS in strings else "TF1 checkpoint", tensors, strings


def _load(path: Path, name: str, entry: dict[int, Any]) -> Tensor:
    """Reads a tensor from its data file by its BundleEntryProto."""
    if entry.get(1) not in TYPES:
        raise UserError(f"holds {name} as TensorFlow's type {entry.get(1)}; floats, int32, int64 and bool are read")
    if 7 in entry:
        raise UserError(f"holds {name} in slices, which are not read; save it whole")
    if not path.is_file():
        raise UserError(f"has its numbers in {path.name}, which is not beside it; get that file too")
    dtype = np.dtype(TYPES[entry[1]])
    shape = [dict(_fields(size)).get(1, 0) for number, size in _fields(entry.get(2, b"")) if number == 2]
    offset, size, there = entry.get(4, 0), entry.get(5, 0), path.stat().st_size
    if math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"{name} of shape {shape} has {size} bytes")
    if offset + size > there:
        raise ValueError(f"{path.name} has {there} bytes, {name} ends at {offset + size}")
    return torch.from_numpy(np.fromfile(path, dtype, math.prod(shape), offset=offset).reshape(shape))


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Gives the keys and values of a table."""
    if len(data) < FOOTER or data[-len(END) :] != END:
        raise ValueError("the table has no end")
    at = len(data) - FOOTER
    for _ in range(2):  # the place of the meta index, which is not needed
        _, at = _varint(data, at)
    last = -1
    for _, handle in _block(data, *_handle(data, at)):
        offset, size = _handle(handle, 0)
        if offset <= last:
            raise ValueError("the table's blocks are out of order")
        last = offset
        yield from _block(data, offset, size)


def _handle(data: bytes, at: int) -> tuple[int, int]:
    """Reads a block's offset and size, in bytes."""
    offset, at = _varint(data, at)
    return offset, _varint(data, at)[0]


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Gives the entries of a block: each key without what it shares with the one before, each value whole."""
    if offset + size + 5 > len(data) or size < 4:
        raise ValueError("a block ends behind the table")
    block, checksum = data[offset : offset + size + 1], data[offset + size + 1 : offset + size + 5]
    if _crc(block) != int.from_bytes(checksum, "little"):
        raise ValueError("a block's checksum is wrong")
    if block[size]:
        raise UserError("has a compressed index, which is not read; save it again with TensorFlow's own Saver")
    restarts = int.from_bytes(block[size - 4 : size], "little")
    at, key = 0, b""
    while at < size - 4 * (restarts + 1):
        shared, at = _varint(block, at)
        fresh, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + fresh]
        at += fresh + length
        yield key, block[at - length : at]


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Gives the numbers and values of a protobuf message: integers of varints, bytes of everything else."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
        else:
            length, at = _varint(data, at) if tag & 7 == 2 else ({1: 8, 5: 4}[tag & 7], at)
            yield tag >> 3, data[at : at + length]
            at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Reads an integer of seven bits a byte, the lowest first; returns it and where it ends."""
    for end in range(at, at + 10):
        if not data[end] & 128:
            return sum((byte & 127) << 7 * i for i, byte in enumerate(data[at : end + 1])), end + 1
    raise ValueError("an integer has more than ten bytes")


def _crc(data: bytes) -> int:
    """The CRC-32C of `data`, masked as LevelDB masks it."""
    crc, table = 0xFFFFFFFF, _crc_table()
    for byte in data:
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@functools.cache
def _crc_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [crc >> 1 ^ (0x82F63B78 if crc & 1 else 0) for crc in table]
    return table
