"""Takes one checkpoint out of a zip or tar archive."""

from __future__ import annotations

import contextlib
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from medtransfer.core.errors import UserError

LARGEST = 16 << 30
"""bytes of an archive's entry that is still unpacked"""


def unpack(path: Path, member: str, folder: Path) -> Path:
    """Copies a file of an archive into `folder`, and with a TensorFlow index its data files.

    Args:
        path: of a zip, tar or tar.gz.
        member: the end of the entry's path; of a TensorFlow checkpoint, the index file or the prefix.
        folder: where the copy goes, under its own name.

    Returns:
        The copy.

    Raises:
        UserError: `path` is not an archive, not exactly one entry ends so, or the entry is too large.
    """
    with _archive(path) as (sizes, extract):
        found = _ending(sizes, member) or _ending(sizes, f"{member}.index")
        if len(found) != 1:
            raise UserError(f"matches {len(found)} entries where one was looked for: {some(found or sizes)}")
        prefix = found[0].removesuffix(".index")
        shards = [name for name in sizes if prefix != found[0] and name.startswith(f"{prefix}.data-")]
        for name in found + shards:
            if sizes[name] > LARGEST:
                raise UserError(f"says that {name} has {sizes[name]} bytes; at most {LARGEST} are unpacked")
            with extract(name) as source, (folder / PurePosixPath(name).name).open("wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
    return folder / PurePosixPath(found[0]).name


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[tuple[dict[str, int], Callable[[str], IO[bytes]]]]:
    """Opens an archive; gives the size of each file in it, in bytes, and the way to open one."""
    if not path.is_file():
        raise UserError("was looked for and is not there")
    with path.open("rb") as stream:
        packed = stream.read(2) == b"PK"  # `is_zipfile` takes a tar that ends in a zip for one
    if packed:
        with zipfile.ZipFile(path) as archive:
            yield {entry.filename: entry.file_size for entry in archive.infolist() if not entry.is_dir()}, archive.open
    elif tarfile.is_tarfile(path):
        with tarfile.open(path) as tar:
            sizes = {entry.name: entry.size for entry in tar if entry.isfile()}
            yield sizes, tar.extractfile  # type: ignore[misc]  # it gives None for what is not a file, such as a link
    else:
        raise UserError("is not a whole zip, tar or tar.gz archive; delete it and get it again")


def _ending(names: Iterable[str], end: str) -> list[str]:
    return [name for name in names if f"/{name}".endswith(f"/{end}")]


def some(names: Iterable[object]) -> str:
    """Lists names for a message, the first dozen of them."""
    shown = [str(name) for name in names]
    return (", ".join(shown[:12]) or "none") + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")
