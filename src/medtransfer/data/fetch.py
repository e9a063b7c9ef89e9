"""Brings open datasets under `data/raw`, ready for `prepare`, and says how to get those that are not open."""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib
import importlib.util
import logging
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from medtransfer.core import downloads, progress
from medtransfer.core.errors import UserError
from medtransfer.data.catalog import DATASETS, TASKS
from medtransfer.data.readers.reading import Archive, module_of

log = logging.getLogger("medtransfer")

KINDS = {
    "binary-class": "binary", "multi-label, binary-class": "multilabel", "multi-class": "multiclass",
    "ordinal-regression": "multiclass",
}  # fmt: skip
"""MedMNIST's words for what a set's labels are -> ours"""
SIZES = (28, 64, 128, 224)
"""pixels of a side in which MedMNIST publishes its 2D sets"""
SMALLEST_INPUT = 64
"""28 pixels are enlarged to this: networks halve five times, and below 64 a single cell is left to pool"""
DERIVED = {"chestmnist": ["chestxray14"]}
"""MedMNIST set -> our datasets whose images it re-releases"""
RUBBISH = {"__MACOSX", ".DS_Store", "Thumbs.db"}
"""what file managers left in published archives"""


ARCHIVES: dict[str, Archive] = {
    module.TASK.dataset: module.ARCHIVE for module in reversed(DATASETS) if hasattr(module, "ARCHIVE")
}
"""NLM publishes no checksums, so the lock file holds every download to the first one"""

GATED: dict[str, tuple[str, ...]] = {
    module.TASK.dataset: module.HOW_TO_GET for module in DATASETS if hasattr(module, "HOW_TO_GET")
}


def fetch(dataset: str, root: Path, size: int) -> None:
    """Brings a dataset to `data/raw/<dataset>`.

    Args:
        dataset: a 2D set of MedMNIST, `montgomery` or `shenzhen`.
        root: of the repository.
        size: pixels of a side, of a MedMNIST set; others come as they are published.

    Raises:
        UserError: a person must get it, it cannot be had, or its folder holds something already.
    """
    if dataset in GATED:
        raise _gated(dataset, root)
    sets = medmnist()
    flat = [name for name in sets if not name.endswith("3d")]
    if dataset not in flat and dataset not in ARCHIVES:
        valid = [*ARCHIVES, *GATED, *flat]
        near = difflib.get_close_matches(dataset, valid, n=3)
        why = "is of volumes, tasks are of 2D images" if dataset in sets else "is not known"
        hint = f"; the nearest names: {', '.join(near)}" if near else ""
        raise UserError(f"dataset {dataset!r} {why}{hint}. Datasets: {', '.join(valid)}")
    target = root / "data/raw" / dataset
    if target.is_symlink() or (target.exists() and any(target.iterdir())):
        raise UserError(
            f"dataset {dataset}: {target} is there already, and fetch never overwrites files. Go on with "
            f"`{_next(dataset)}`, or move the folder away and fetch again"
        )
    if dataset in ARCHIVES:
        _fetch_archive(dataset, root, target)
    else:
        _fetch_medmnist(dataset, sets[dataset], size, root, target)
    log.info("dataset %s is in %s; next: %s", dataset, target, _next(dataset))


def _next(dataset: str) -> str:
    return f"python -m medtransfer prepare --task {dataset}"


def _gated(dataset: str, root: Path) -> UserError:
    task = next(task for task in TASKS.values() if task.dataset == dataset)
    words = [step.format(source=task.source, folder=root / "data/raw" / dataset) for step in GATED[dataset]]
    steps = "\n".join(f"  {number}. {step}" for number, step in enumerate([*words, _next(dataset)], 1))
    return UserError(f"dataset {dataset} cannot be fetched by a program. Licence: {task.licence}. Get it so:\n{steps}")


def medmnist() -> dict[str, dict[str, Any]]:
    """Reads MedMNIST's own table of its sets: addresses, checksums, labels, numbers.

    The table is read without importing the package, which takes ten seconds and makes a folder in the user's home.

    Raises:
        UserError: the package is not installed, or holds no such table.
    """
    spec = importlib.util.find_spec("medmnist")
    if spec is None or spec.origin is None:
        raise UserError("the Python package medmnist, which lists its sets, is not installed; `pip install medmnist`")
    path = Path(spec.origin).with_name("info.py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "INFO" for t in node.targets):
            table: dict[str, dict[str, Any]] = ast.literal_eval(node.value)
            return table
    raise UserError(f"looked for the table INFO in {path}, found none; install medmnist 3.0.2")


def describe(flag: str, info: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Words the `task.yaml` of a MedMNIST set."""
    kind, labels = KINDS[info["task"]], [info["label"][str(index)] for index in range(len(info["label"]))]
    ordinal = info["task"] == "ordinal-regression"
    side = max(size, SMALLEST_INPUT)
    return {
        "title": f"{info['python_class']}, {size} pixels",
        "kind": kind,
        "labels": labels[1:] if kind == "binary" else labels,
        **({"ordinal": True} if ordinal else {}),
        "arrays": _file(flag, size),
        "patient": "none",
        "split": "official",
        "channels": info["n_channels"],
        "image_size": side,
        "cache_size": side,
        "metric": "kappa" if ordinal else "auc",
        "margin": 0.01,
        "counts": {split: info["n_samples"][split] for split in ("train", "val", "test")},
        "derived_from": DERIVED.get(flag, []),
        "licence": info["license"],
        "citation": "Yang et al., MedMNIST v2, Scientific Data 2023, and the article of the images' own source",
        "source": "https://doi.org/10.5281/zenodo.10519652",
    }


def _file(flag: str, size: int) -> str:
    return f"{flag}.npz" if size == 28 else f"{flag}_{size}.npz"


def _fetch_medmnist(flag: str, info: Mapping[str, Any], size: int, root: Path, target: Path) -> None:
    if size not in SIZES:
        raise UserError(f"dataset {flag}: size must be one of {', '.join(map(str, SIZES))} pixels, got {size}")
    suffix = "" if size == 28 else f"_{size}"
    said = describe(flag, info, size)
    log.info("dataset %s: licence %s; cite %s", flag, said["licence"], said["citation"])
    file = root / "data/downloads" / said["arrays"]
    downloads.download(info[f"url{suffix}"], file, md5=info[f"MD5{suffix}"], what=f"dataset {flag}")
    with _appearing(target) as folder:
        (folder / "task.yaml").write_text(yaml.safe_dump(said, sort_keys=False, allow_unicode=True, width=120))
        shutil.move(file, folder / file.name)


def _fetch_archive(dataset: str, root: Path, target: Path) -> None:
    archive, task = ARCHIVES[dataset], TASKS[dataset]
    log.info("dataset %s: licence %s; cite %s; from %s", dataset, task.licence, task.citation, task.source)
    file = root / "data/downloads" / PurePosixPath(archive.url).name
    found = downloads.download(archive.url, file, what=f"dataset {dataset}")
    with _appearing(target) as folder:
        unpack(file, folder, archive.bound)
        try:
            images = sum(1 for _ in module_of(dataset).read(folder))
        except UserError as error:
            raise UserError(f"dataset {dataset}: {file} does not hold the published files: {error}") from error
        downloads.remember(root / downloads.LOCK_FILE, file.name, found, file)  # last, so that no damaged file is noted
    file.unlink()
    log.info("dataset %s: %d images; %s was unpacked and removed", dataset, images, file)


@contextlib.contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """Gives a folder that takes its place under `data/raw` when the block ends well, whole or not at all."""
    above = target.with_name(f".fetch-{target.name}")  # two levels, so that no half-made task.yaml is found
    shutil.rmtree(above, ignore_errors=True)
    folder = above / target.name
    try:
        folder.mkdir(parents=True)
        yield folder
        os.rename(folder, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}; mend that and fetch again") from error
    finally:
        shutil.rmtree(above, ignore_errors=True)


def unpack(file: Path, folder: Path, bound: int) -> None:
    """Unpacks a zip file, checked as a whole before anything is written.

    Raises:
        UserError: it is damaged, would write outside of `folder`, holds a link, or more than `bound` bytes.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = [(entry, PurePosixPath(entry.filename.replace("\\", "/"))) for entry in archive.infolist()]
            entries = [(entry, path) for entry, path in entries if not RUBBISH & set(path.parts)]
            _inspect(file, entries, bound, shutil.disk_usage(folder).free)
            with progress.bar(f"unpack {file.name}", len(entries), "files") as advance:
                for entry, path in entries:
                    if not entry.is_dir():
                        (folder / path).parent.mkdir(parents=True, exist_ok=True)
                        with archive.open(entry) as source, open(folder / path, "xb") as out:
                            shutil.copyfileobj(source, out, 1 << 20)  # ends at the size that the entry states
                    advance()
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as error:  # RuntimeError: a password, a method
        raise UserError(f"{file} cannot be unpacked: {error}; delete it and fetch again") from error


def _inspect(file: Path, entries: list[tuple[zipfile.ZipInfo, PurePosixPath]], bound: int, room: int) -> None:
    for entry, path in entries:
        outside = path.is_absolute() or ".." in path.parts or ":" in entry.filename
        if outside or stat.S_ISLNK(entry.external_attr >> 16):
            raise UserError(f"{file} is refused: its entry {entry.filename!r} is a link or leads out of the folder")
    total = sum(entry.file_size for entry, _ in entries)
    if total > bound:
        raise UserError(f"{file} is refused: it unpacks to {total} bytes, expected at most {bound}; look into it")
    if total > room:
        raise UserError(f"{file} needs {total} bytes to unpack, {room} are free; make room and fetch again")
