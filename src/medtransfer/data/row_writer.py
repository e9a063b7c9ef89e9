"""The arrays of a cache while it is built: written row by row, in any order, by many threads, and resumable.

A journal notes each row after its pixels were written. A row counts as done when its files are those of the note
and its pixels have the noted digest, so neither a kill nor a power cut passes off half a row as a whole one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medtransfer.core.progress import bar

JOURNAL = "rows.journal"

NOTE = np.dtype(
    [
        ("row", "<i8"),
        ("signature", "u1", 16),
        ("image", "u1", 16),
        ("mask", "u1", 16),
        ("native", "u1", 16),
        ("width", "<i4"),
        ("height", "<i4"),
        ("present", "u1"),
        ("covered", "<i8", (8,)),
        ("sums", "<i8", (3, 2)),
        ("spacing", "<f8", (2,)),
    ]
)
"""digests of source files, image, mask and native mask; original size in pixels; which labels' masks
have a pixel there, one per bit, and how many; per channel the sum of pixel values
and of their squares; height and width of a pixel in mm, nan: not known"""


def digest(*parts: bytes | memoryview) -> bytes:
    """Hashes bytes to 16; blake2b is quick on any machine, sha256 only where it has instructions of its own."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        state.update(part)
    return state.digest()


class RowFile:
    """A .npy file of bytes whose rows are written in any order."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        """Opens the file, keeping the rows of one that has this shape already."""
        self.path, self.shape = path, shape
        whole = False
        with contextlib.suppress(OSError, ValueError):  # how numpy says that there is none, or half of one
            whole = np.load(path, mmap_mode="r").shape == shape
        if not whole:
            with open(path, "wb") as stream:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(stream, header)
        with open(path, "rb") as stream:
            np.lib.format.read_magic(stream)
            np.lib.format.read_array_header_1_0(stream)
            self._start = stream.tell()
        self._row = int(np.prod(shape[1:]))
        self._file = os.open(path, os.O_RDWR)
        os.ftruncate(self._file, self._start + self._row * shape[0])  # sparse: takes no room until it is written

    def write(self, row: int, values: NDArray[np.uint8]) -> bytes:
        """Writes a row; returns its digest."""
        data = np.ascontiguousarray(values).data.cast("B")
        place, left = self._start + row * self._row, data
        while left:
            written = os.pwrite(self._file, left, place)
            place, left = place + written, left[written:]
        return digest(data)

    def digest(self, row: int) -> bytes:
        """Hashes a row as it stands in the file."""
        return digest(os.pread(self._file, self._row, self._start + row * self._row))

    def close(self) -> None:
        """Makes the file durable."""
        os.fsync(self._file)
        os.close(self._file)


class Rows:
    """Images, masks, thumbnails and native masks of a cache that is being built, and the journal of what is done."""

    def __init__(self, folder: Path, count: int, side: int, channels: int, thumbnail: int, *, masks: bool) -> None:
        self.folder, self.side = folder, side
        plane = (count, side, side)
        self.images = RowFile(folder / "images.npy", (*plane, 3) if channels == 3 else plane)
        self.masks = RowFile(folder / "masks.npy", plane) if masks else None
        self.thumbnails = RowFile(folder / "thumbnails.npy", (count, thumbnail, thumbnail))
        self.natives = folder / "native_masks"
        if masks:
            self.natives.mkdir(exist_ok=True)
        self.notes = np.zeros(count, NOTE)
        self.done = np.zeros(count, dtype=bool)
        self._journal = os.open(folder / JOURNAL, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self._lock = threading.Lock()

    def journal_length(self) -> int:
        """Counts the notes of earlier processes."""
        return os.fstat(self._journal).st_size // NOTE.itemsize

    def resume(self, signatures: Sequence[bytes]) -> int:
        """Takes over the rows that an earlier process finished; returns how many.

        Args:
            signatures: of each row's source files as they are now.
        """
        notes = np.frombuffer(os.pread(self._journal, self.journal_length() * NOTE.itemsize, 0), NOTE)
        os.ftruncate(self._journal, len(notes) * NOTE.itemsize)  # a full disk may have cut the last note
        with bar("checking what is there", len(notes), "rows") as advance:
            for note in notes:
                row = int(note["row"])
                if 0 <= row < len(self.done) and note["signature"].tobytes() == signatures[row] and self._whole(note):
                    self.notes[row], self.done[row] = note, True
                advance()
        return int(self.done.sum())

    def _whole(self, note: NDArray[np.void]) -> bool:
        row = int(note["row"])
        whole = self.images.digest(row) == note["image"].tobytes()
        whole = whole and (self.masks is None or self.masks.digest(row) == note["mask"].tobytes())
        return whole and (not note["native"].any() or self._native_file(row).is_file())

    def write(
        self,
        row: int,
        image: NDArray[np.uint8],
        mask: NDArray[np.uint8] | None,
        thumbnail: NDArray[np.uint8],
        native: NDArray[np.uint8] | None,
        *,
        signature: bytes,
        present: int,
        covered: NDArray[np.int64],
        sums: NDArray[np.int64],
        size: tuple[int, int],
        spacing: tuple[float, float] | None,
    ) -> None:
        """Writes a row and then its note; called by many threads, each with rows of its own."""
        note = np.zeros((), NOTE)
        note["row"], note["width"], note["height"] = row, *size
        note["spacing"] = np.nan if spacing is None else spacing
        note["signature"] = np.frombuffer(signature, np.uint8)
        note["image"] = np.frombuffer(self.images.write(row, image), np.uint8)
        note["present"], note["covered"], note["sums"] = present, covered, sums
        self.thumbnails.write(row, thumbnail)
        if self.masks is not None and mask is not None:
            note["mask"] = np.frombuffer(self.masks.write(row, mask), np.uint8)
        if native is not None:
            note["native"] = np.frombuffer(digest(f"{native.shape}".encode(), native.data), np.uint8)
            Image.fromarray(native).save(self._native_file(row))
        with self._lock:
            self.notes[row], self.done[row] = note, True
            os.write(self._journal, note.tobytes())

    def _native_file(self, row: int) -> Path:
        return self.natives / f"{row}.png"

    def close(self) -> None:
        """Makes everything durable; the journal stays, for a later process to go on."""
        for file in (self.images, self.masks, self.thumbnails):
            if file is not None:
                file.close()
        os.close(self._journal)


def moments(notes: NDArray[np.void], channels: int, pixels: int) -> tuple[list[float], list[float]]:
    """Computes mean and std per channel in [0, 1] over rows of `pixels` pixels each, exactly."""
    total = pixels * len(notes)
    first, second = notes["sums"][:, :channels].sum(axis=0).T / total
    return (first / 255).round(6).tolist(), (np.sqrt(np.maximum(second - first**2, 0)) / 255).round(6).tolist()
