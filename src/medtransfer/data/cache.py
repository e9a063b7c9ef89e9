"""What a prepared cache is, how it is read, and how it is written whole or not at all.

A cache is `images.npy`, `thumbnails.npy`, `samples.parquet`, `manifest.json`, for people `samples.png`, and for
segmentation `masks.npy` and `native_masks/<row>.png` of the test rows, in `data/prepared/<task>/real` or
`.../phantoms`. Bit k of a mask's byte is the task's label k; in a native mask the task's extras follow.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medtransfer.core import files
from medtransfer.core.errors import UserError
from medtransfer.data.overlap import Finding

if TYPE_CHECKING:
    import pandas as pd


class Facts(TypedDict):
    """Images, and positives per label, of each official split."""

    counts: dict[str, int]
    positives: dict[str, list[int | None]]
    """None where the number is not published"""


class Audit(TypedDict):
    """What is in more than one split, before anything was dropped."""

    shared_patients: Finding
    exact_duplicates: Finding
    near_duplicates: Finding
    near_threshold: float
    near_every: int
    """1: all pairs of images in different splits were compared; k: of every k-th image only"""
    dropped: dict[str, int]


class Skipped(TypedDict):
    """A sample that could not be decoded and was left out, as `data.skip_bad` allowed."""

    id: str
    reason: str


class Spread(TypedDict):
    """Smallest, median and largest value over images."""

    low: float
    median: float
    high: float


class Statistics(TypedDict):
    """What a person looks at first: sizes of the originals, gray levels of the prepared images per split."""

    width: Spread
    height: Spread
    intensity: dict[str, Spread]
    """split -> mean gray level of an image, 0 to 255"""


class Drawn(TypedDict):
    """One of the drawn splits of `benchmark.splits`."""

    number: int
    counts: dict[str, int]
    split_recipe: str
    split_hash: str
    digest: str
    """that of the whole cache if `data.split_seed` were this number"""


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
    rows: int
    """of the arrays: those of the three splits, and dropped and skipped ones, which have no split"""
    folds: int
    """runs of a cross-validation; 0: one split"""
    unit: str
    units: dict[str, int]
    """patients (studies, images) per split"""
    label_totals: dict[str, dict[str, int]]
    cache_size: int
    channels: int
    mean: list[float]
    std: list[float]
    undefined: dict[str, list[str]]
    audit: Audit
    skipped: list[Skipped]
    statistics: Statistics
    marks: list[str]
    recipe: str
    mask_readings: dict[str, str]
    """label -> which pixels of its masks are its region; none for masks as run lengths"""
    split_recipe: str
    split_hash: str
    digest: str
    parts: dict[str, str]
    """file, or folder of files -> the hash it had when it was written"""
    splits: NotRequired[list[Drawn]]
    created: str
    code: dict[str, str | None]


def counted(numbers: Mapping[str, int], folds: int) -> str:
    """Words how much each split has; what folds divide is in another split with each of them."""
    if not folds:
        return ", ".join(f"{split} {number:,}" for split, number in numbers.items())
    same = f", test {numbers['test']:,} in all of them" if numbers["test"] else ""
    return f"{numbers['train']:,} in {'train and val' if same else 'train, val and test'} of {folds} folds{same}"


@dataclass(frozen=True, eq=False)
class Prepared:
    """A task's prepared cache, its arrays memory-mapped."""

    folder: Path
    manifest: Manifest
    images: NDArray[np.uint8]
    """(n, side, side) or (n, side, side, 3)"""
    masks: NDArray[np.uint8] | None
    """(n, side, side), bit k for label k; None for classification"""
    read_samples: Callable[[], pd.DataFrame]
    """reads `samples`: pandas takes a second to import, and who asks for counts and digests does without"""

    @functools.cached_property
    def samples(self) -> pd.DataFrame:
        """Is the table of samples: id, patient (hash), split, and one int8 column per label.

        Labels are 0, 1, -1 for uncertain, for segmentation whether the mask has a pixel. With folds there is also
        `split.<fold>`, with drawn splits `split.<number>`, with masks `pixel_sizes.COLUMNS`. A row whose split is empty
        was left out.

        Raises:
            UserError: the table is damaged.
        """
        return self.read_samples()

    @property
    def digest(self) -> str:
        """Identifies arrays, table rows and preparation fields."""
        return self.manifest["digest"]

    @property
    def marks(self) -> tuple[str, ...]:
        """Names what may bar the results from promotion: synthetic, partial, leaks and look-alikes kept or dropped."""
        return tuple(self.manifest["marks"])

    @property
    def parts(self) -> dict[int | None, str]:
        """Lists folds, or numbers of drawn splits, and the digest of what their runs read; None: the one split."""
        drawn: dict[int | None, str] = {one["number"]: one["digest"] for one in self.manifest.get("splits", ())}
        return drawn or dict.fromkeys(range(self.manifest["folds"]) or (None,), self.digest)

    @property
    def every_split(self) -> str:
        """Identifies the cache with all its drawn splits."""
        drawn = [one["digest"] for one in self.manifest.get("splits", ())]
        return hashlib.sha256(" ".join([self.digest, *drawn]).encode()).hexdigest() if drawn else self.digest

    def of_fold(self, fold: int | None) -> Prepared:
        """Gives the cache with the split of one fold, or of a drawn split's number, as its own; None: the one split."""
        if fold is None:
            return self
        manifest = self.manifest
        for drawn in self.manifest.get("splits", ()):
            if drawn["number"] == fold:
                manifest = manifest.copy()
                manifest["counts"], manifest["digest"] = drawn["counts"], drawn["digest"]
                manifest["split_recipe"], manifest["split_hash"] = drawn["split_recipe"], drawn["split_hash"]

        def read() -> pd.DataFrame:
            return self.samples.assign(split=self.samples[f"split.{fold}"])

        return replace(self, read_samples=read, manifest=manifest)

    def rows(self, split: str) -> NDArray[np.int64]:
        """Gives a split's row numbers."""
        return np.flatnonzero(self.samples["split"].to_numpy() == split).astype(np.int64)

    def native_mask(self, row: int) -> NDArray[np.uint8]:
        """Reads a test row's masks at the size of the original image: bit k for label k, then for the task's extras."""
        path = self.folder / "native_masks" / f"{row}.png"
        if not path.is_file():
            raise UserError(f"looked for the native mask of row {row} at {path}, found none: only test rows have one")
        with Image.open(path) as image:
            return np.array(image, dtype=np.uint8)


PARTS = ("images.npy", "masks.npy", "thumbnails.npy", "samples.parquet", "native_masks")


def parts(folder: Path) -> dict[str, str]:
    """Hashes what a cache consists of, but for pictures for people."""
    return {name: files.digest(folder / name) for name in PARTS if (folder / name).exists()}


def load(folder: Path) -> Prepared:
    """Opens a prepared cache, each of whose parts must be what was written.

    That is checked once per process, at the cost that `files.checked` names: 7 GB of ChestX-ray14 at 256 pixels take 4
    to 8 s in each worker, the demo's 4 MB nothing.

    Raises:
        UserError: a file is missing or damaged.
    """
    try:
        manifest: Manifest = json.loads((folder / "manifest.json").read_text())
        images = np.load(folder / "images.npy", mmap_mode="r")
        has_masks = (folder / "masks.npy").exists()
        masks = np.load(folder / "masks.npy", mmap_mode="r") if has_masks else None
        content = (folder / "samples.parquet").read_bytes()
        whole = len(images) == manifest["rows"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"no usable prepared cache in {folder}: {error}; run `python -m medtransfer prepare`"
        ) from error
    if not whole or (masks is not None and len(masks) != len(images)):
        raise UserError(f"the prepared cache in {folder} is damaged: its files differ in length; delete that folder")
    changed = [name for name, digest in manifest.get("parts", {}).items() if not files.checked(folder / name, digest)]
    if changed:
        raise UserError(
            f"the prepared cache in {folder} is damaged: not what was written there: {', '.join(changed)}; "
            f"`python -m medtransfer prepare --task {manifest['task']}` builds it again"
        )
    return Prepared(folder, manifest, images, masks, functools.partial(_samples, content, folder, manifest["rows"]))


def _samples(content: bytes, folder: Path, rows: int) -> pd.DataFrame:
    """Makes the table of a file's bytes: those that lay there when the cache was opened, whatever lies there now."""
    import pandas as pd

    try:
        table = pd.read_parquet(io.BytesIO(content))
    except (OSError, ValueError) as error:
        raise UserError(
            f"no usable prepared cache in {folder}: {error}; run `python -m medtransfer prepare`"
        ) from error
    if len(table) != rows:
        raise UserError(f"the prepared cache in {folder} is damaged: its files differ in length; delete that folder")
    return table


def clean(folder: Path, aside: Path) -> None:
    """Brings the older cache back if a killed run had only set it aside, else removes it."""
    if aside.exists() and not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside.rename(folder)
    if aside.exists():
        shutil.rmtree(aside)


def put(folder: Path, temporary: Path, aside: Path) -> None:
    """Puts a new cache in the place of an older one, which is set aside until then."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        folder.rename(aside)
    temporary.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)
