"""What a prepared cache is, how it is read, and how it is written whole or not at all.

A cache is `images.npy`, `masks.npy`, `samples.parquet`, `manifest.json` and, for segmentation,
`native_masks/<row>.png` of the test rows, in `data/prepared/<task>/real` or `.../phantoms`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from medtransfer import files
from medtransfer.audit import Finding
from medtransfer.errors import UserError


class Facts(TypedDict):
    """Images, and positives per label, of each official split."""

    counts: dict[str, int]
    positives: dict[str, list[int]]


class Audit(TypedDict):
    """What is in more than one split, before anything was dropped."""

    shared_patients: Finding
    exact_duplicates: Finding
    near_duplicates: Finding
    near_threshold: float
    dropped: dict[str, int]


class Manifest(TypedDict):
    """What a cache was made from, what it holds and what was found; `created` and `code` are not digested."""

    task: str
    dataset: str
    source: Literal["raw", "phantoms"]
    fingerprint: str
    fields: dict[str, Any]
    expected: Facts
    found: Facts
    counts: dict[str, int]
    patients: dict[str, int]
    label_totals: dict[str, dict[str, int]]
    cache_size: int
    channels: int
    mean: list[float]
    std: list[float]
    undefined: dict[str, list[str]]
    audit: Audit
    marks: list[str]
    recipe: str
    split_recipe: str
    split_hash: str
    digest: str
    created: str
    code: dict[str, str | None]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A task's prepared cache, its arrays memory-mapped."""

    folder: Path
    manifest: Manifest
    images: NDArray[np.uint8]
    """(n, side, side) or (n, side, side, 3)"""
    masks: NDArray[np.uint8] | None
    """(n, side, side), 0 or 1; None for classification"""
    samples: pd.DataFrame
    """id, patient (hash), split, one int8 column per label"""

    @property
    def digest(self) -> str:
        """Identifies arrays, table rows and preparation fields."""
        return self.manifest["digest"]

    @property
    def marks(self) -> tuple[str, ...]:
        """Names what bars the results from promotion: synthetic, partial, leak-reported, leak-dropped."""
        return tuple(self.manifest["marks"])

    @cached_property
    def labels(self) -> NDArray[np.int8]:
        """Holds 0 or 1 per row and label: (n, num_labels), no columns for segmentation."""
        return self.samples.iloc[:, 3:].to_numpy(np.int8)

    def rows(self, split: str) -> NDArray[np.int64]:
        """Gives a split's row numbers."""
        return np.flatnonzero(self.samples["split"].to_numpy() == split).astype(np.int64)

    def native_mask(self, row: int) -> NDArray[np.bool_]:
        """Reads a test row's mask at the size of the original image."""
        path = self.folder / "native_masks" / f"{row}.png"
        if not path.is_file():
            raise UserError(f"looked for the native mask of row {row} at {path}, found none: only test rows have one")
        with Image.open(path) as image:
            return np.array(image, dtype=bool)


def load(folder: Path) -> Prepared:
    """Opens a prepared cache.

    Raises:
        UserError: a file is missing or damaged.
    """
    try:
        manifest: Manifest = json.loads((folder / "manifest.json").read_text())
        images = np.load(folder / "images.npy", mmap_mode="r")
        has_masks = (folder / "masks.npy").exists()
        masks = np.load(folder / "masks.npy", mmap_mode="r") if has_masks else None
        samples = pd.read_parquet(folder / "samples.parquet")
        whole = len(images) == len(samples) == sum(manifest["counts"].values())
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"no usable prepared cache in {folder}: {error}; run `python -m medtransfer prepare`"
        ) from error
    if not whole or (masks is not None and len(masks) != len(images)):
        raise UserError(f"the prepared cache in {folder} is damaged: its files differ in length; delete that folder")
    return Prepared(folder, manifest, images, masks, samples)


def clean(folder: Path, stem: str) -> None:
    """Removes what killed runs left behind; brings the older cache back if it had only been set aside."""
    temporary, aside = (folder.parents[1] / f"{stem}.{end}" for end in ("new", "old"))
    if aside.exists() and not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside.rename(folder)
    for left in (temporary, aside):
        if left.exists():
            shutil.rmtree(left)


def replace(folder: Path, temporary: Path, aside: Path) -> None:
    """Puts a new cache in the place of an older one, which is set aside until then."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        folder.rename(aside)
    temporary.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)


class ArrayFile:
    """A .npy file written row by row, so that a full disk is an error and not a signal, and hashed on the way."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.hash = hashlib.sha256(repr(shape).encode())
        self._file = open(path, "wb")  # noqa: SIM115  # `close` closes it
        np.lib.format.write_array_header_1_0(self._file, {"descr": "|u1", "fortran_order": False, "shape": shape})

    def append(self, row: NDArray[np.uint8]) -> None:
        """Writes the next row."""
        data = np.ascontiguousarray(row).data
        self.hash.update(data)
        self._file.write(data)

    def close(self) -> str:
        """Makes the file durable; returns the hash of shape and rows."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self.hash.hexdigest()


def keep_rows(path: Path, rows: NDArray[np.intp]) -> str:
    """Rewrites an array with some of its rows; returns its hash."""
    old = np.load(path, mmap_mode="r")
    with files.replacing(path) as temporary:
        new = ArrayFile(temporary, (len(rows), *old.shape[1:]))
        for row in rows:
            new.append(old[row])
        return new.close()


def moments(images: NDArray[np.uint8], rows: NDArray[np.bool_]) -> tuple[list[float], list[float]]:
    """Computes mean and std per channel in [0, 1] from exact counts of the 256 values."""
    channels = 1 if images.ndim == 3 else images.shape[3]
    counts = np.zeros((channels, 256), dtype=np.int64)
    for row in np.flatnonzero(rows):
        pixels = images[row].reshape(-1, channels)
        counts += np.stack([np.bincount(pixels[:, channel], minlength=256) for channel in range(channels)])
    share = counts / counts.sum(axis=1, keepdims=True)
    values = np.arange(256) / 255
    mean = share @ values
    std = np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))
    return mean.round(6).tolist(), std.round(6).tolist()
