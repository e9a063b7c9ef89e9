"""Reads what `torch.save` wrote: zip (since 1.6), pickle (0.2 to 1.5) and tar (0.1)."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO, Any

import torch
from torch import Tensor

from medtransfer.core.errors import UserError
from medtransfer.weights.formats import archives, pickles

MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""the first number in torch's pickle files, behind a few bytes that say the protocol"""
DTYPES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool,
}  # fmt: skip
"""torch's name of a storage, less "Storage" -> the type of its numbers"""


def is_pickle(head: bytes) -> bool:
    """Says whether a file that begins so is torch's pickle format."""
    return head[:1] == b"\x80" and MAGIC in head[:32]


def read_zip(path: Path) -> Any:
    """Reads the tree of a zip file, whose tensors stay on the disk until they are used.

    Raises:
        UserError: it is TorchScript, another archive, or unsafe.
    """
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry.compress_type for entry in archive.infolist()}
        pickled = [name for name in entries if PurePosixPath(name).name == "data.pkl"]
        if any(PurePosixPath(name).name == "constants.pkl" for name in entries):
            raise UserError("is a TorchScript archive, which holds code; take timm's safetensors of these weights")
        if not pickled:
            raise UserError(f"is a zip archive, not a checkpoint; unpack it and take one of: {archives.some(entries)}")
        try:
            # Only stored entries can be mapped: torch would take the bytes of a compressed one for numbers.
            stored = set(entries.values()) == {zipfile.ZIP_STORED}
            return _load(path, mmap=stored and path.suffix != ".safetensors")
        except pickle.UnpicklingError as error:
            raise _explained(error, io.BytesIO(archive.read(pickled[0])), 1) from error


def read_pickle(path: Path) -> Any:
    """Reads the tree of a pickle file.

    Raises:
        UserError: it is unsafe.
    """
    try:
        return _load(path, mmap=False)
    except pickle.UnpicklingError as error:
        with path.open("rb") as stream:  # the magic number, the version, the system, the tree
            raise _explained(error, stream, 4) from error


def _load(path: Path, mmap: bool) -> Any:
    """Reads with torch's own safe reader, which is told to take arrays and Namespaces for stand-ins."""
    inert: list[Any] = [(pickles.stand_in(name), name) for name in ("argparse.Namespace", *pickles.NUMPY)]
    with torch.serialization.safe_globals(inert), path.open("rb") as stream:
        # A stream where there is a choice, because torch takes a path's suffix for its format.
        return torch.load(path if mmap else stream, map_location="cpu", weights_only=True, mmap=mmap)


def _explained(error: Exception, stream: IO[bytes], count: int) -> Exception:
    """Finds why torch refused a file: all names that it wants, or its form, or damage; torch's advice is left out."""
    reason = str(error).rpartition("WeightsUnpickler error:")[2].split("\n\nCheck")[0].strip()
    try:
        for _ in range(count):
            pickles.unpickle(stream, lambda key: key[1])  # the class of a module or a storage
    except UserError as unsafe:
        return unsafe
    except Exception:  # damaged, as torch found
        return ValueError(reason)
    return UserError(
        f"is in a form that torch does not read safely ({reason}); save its state dict with torch.save again"
    )


def read_tar(path: Path) -> Any:
    """Reads the tree of a tar file; its layout is that of `legacy_load` in torch's `serialization.py`.

    Raises:
        UserError: it is another tar archive, or unsafe.
    """
    with tarfile.open(path, "r:") as tar:
        parts = {entry.name: entry for entry in tar if entry.isfile()}
        if "sys_info" not in parts and "pickle" not in parts:
            raise UserError(f"is a tar archive, not a checkpoint; unpack it and take one of: {archives.some(parts)}")
        made: dict[int, Tensor] = {}
        with _part(tar, "storages") as stream:
            _read_storages(stream, parts["storages"].size, made)
        with _part(tar, "tensors") as stream:
            _read_tensors(stream, made)
        with _part(tar, "pickle") as stream:
            return pickles.unpickle(stream, lambda key: pickles.held(made[int(key)]))


def _part(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    stream = tar.extractfile(name)
    if stream is None:
        raise ValueError(f"{name} is not a file")
    return stream


def _read_storages(stream: IO[bytes], size: int, made: dict[int, Tensor]) -> None:
    """Adds each storage, and each view of one, as a flat tensor; `size` is the stream's length in bytes."""
    for _ in range(pickles.unpickle(stream)):
        key, _location, kind = pickles.unpickle(stream)
        dtype = DTYPES[kind.name.removeprefix("torch.").removesuffix("Storage")]
        length = struct.unpack("<q", stream.read(8))[0] * dtype.itemsize
        if not 0 <= length <= size - stream.tell():
            raise ValueError(f"a storage of {length} bytes in the {size} of all")
        data = bytearray(length)
        if stream.readinto(data) != length:  # type: ignore[attr-defined]  # a tar's stream has it
            raise ValueError("a storage ends early")
        made[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
    for key, root, offset, length in pickles.unpickle(stream):
        made[key] = made[root][offset : offset + length]


def _read_tensors(stream: IO[bytes], made: dict[int, Tensor]) -> None:
    """Adds each tensor as a view of its storage: the shape, the stride and the offset are in elements."""
    for _ in range(pickles.unpickle(stream)):
        key, storage, _kind = pickles.unpickle(stream)
        (dims,) = struct.unpack("<i4x", stream.read(8))
        numbers = struct.unpack(f"<{2 * dims + 1}q", stream.read(8 * (2 * dims + 1)))
        base = made[storage]
        made[key] = base.as_strided(numbers[:dims], numbers[dims:-1], numbers[-1] + base.storage_offset())
