"""Published lists of training images: which images of a task weights have seen, by name, by hash or by DICOM UID.

A list is text, JSON or CSV of any columns. A name counts by its last parts without extension, as many as tell the
task's images apart (one, where no two files of the task have the same name), or where it is the id of a sample; case
counts. A hash is that of the whole file as it lies under `data/raw`: of an image that was encoded anew it says nothing.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.errors import UserError
from medtransfer.data import cache_build, raw
from medtransfer.data.cache import Prepared
from medtransfer.data.images import dicom
from medtransfer.data.raw import Source
from medtransfer.data.readers import reading
from medtransfer.data.tasks import Listed, Task

HASHES = {32: "md5", 40: "sha1", 64: "sha256"}
"""hexadecimal digits -> what they are"""
NAMED_HASH = re.compile(r"^(?:md5|sha-?1|sha-?256)[:=]\s*", re.IGNORECASE)
UID = re.compile(r"\d+(?:\.\d+){4,}")
EXTENSION = re.compile(r"(?:\.nii)?\.[A-Za-z][A-Za-z0-9]{0,4}$")
"""of a file's name; a UID ends in digits, and keeps them"""
NUMBER = re.compile(r"[-+]?\d*\.?\d*(?:[eE][-+]?\d+)?")


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingList:
    """What a file names."""

    name: str
    sha256: str
    columns: Mapping[str, Sequence[str]]
    """name -> its entries; what holds plain numbers alone is none, unless nothing else is there"""

    @property
    def entries(self) -> int:
        """Counts the entries of the longest column."""
        return max(map(len, self.columns.values()))


@dataclass(frozen=True, kw_only=True, eq=False)
class Match:
    """Which rows of a prepared cache a list names."""

    rows: NDArray[np.bool_]
    by: tuple[str, ...]
    """what told: `name`, `sha256`, ...; empty: nothing in the list is an image of the task"""


def place(images: str, root: Path) -> Path:
    """Says where the file of a list is that a record names.

    Raises:
        UserError: it is an address.
    """
    if "://" in images:
        raise UserError(f"the list of training images {images} is an address; download it, and name its path")
    return root / os.path.expanduser(images)


def read(path: Path) -> TrainingList:
    """Reads a list once per process and state of its file.

    Raises:
        UserError: it is missing, empty, not UTF-8, or has no column that could name images.
    """
    if not path.is_file():
        raise UserError(f"looked for the list of training images {path}, found {_instead(path)}")
    stat = path.stat()
    return _read(path, stat.st_size, stat.st_mtime_ns)


def _instead(path: Path) -> str:
    return "a folder; name a file in it" if path.is_dir() else "none; put it there, or mend its path"


@functools.lru_cache(maxsize=16)
def _read(path: Path, *_state: int) -> TrainingList:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        words = f"not UTF-8 (byte {error.start}: {error.reason}); unpack it, or write it as UTF-8"
        raise _refused(path, words) from error
    if not text.strip() or "\0" in text:
        raise _refused(path, "nothing but blanks" if not text.strip() else "zero bytes: it is no text")
    columns = {name: [one.strip() for one in column if one.strip()] for name, column in _columns(path, text).items()}
    columns = {name: column for name, column in columns.items() if column}
    telling = {name: column for name, column in columns.items() if not all(map(NUMBER.fullmatch, column))}
    if not telling and len(columns) != 1:
        found = ", ".join(repr(name) for name in columns) or "none"
        raise _refused(
            path, f"no column of file names, hashes or DICOM UIDs; its columns ({found}) hold plain numbers alone"
        )
    return TrainingList(name=path.name, sha256=hashlib.sha256(content).hexdigest(), columns=telling or columns)


def _refused(path: Path, found: str) -> UserError:
    return UserError(f"the list of training images {path}: {found}")


def _columns(path: Path, text: str) -> dict[str, list[str]]:
    kind = path.suffix.lower()
    if kind == ".json":
        try:
            found: dict[str, list[str]] = {}
            for name, value in _leaves(json.loads(text), "entries"):
                found.setdefault(name, []).append(value)
        except (ValueError, RecursionError) as error:
            raise _refused(path, f"no JSON ({error})") from error
        return found
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if kind not in (".csv", ".tsv"):
        words = [re.split(r"[\s,;]+", line.strip()) for line in lines]
        ends = {"first word": [parts[0] for parts in words], "last word": [parts[-1] for parts in words]}
        return {"line": lines, **(ends if any(len(parts) > 1 for parts in words) else {})}
    separator = "\t" if kind == ".tsv" else max(",;\t", key=lambda one: lines[0].count(one) if lines else 0)
    try:
        rows = list(csv.reader(lines, delimiter=separator, strict=True))
    except csv.Error as error:
        raise _refused(path, f"no table ({error})") from error
    if not rows:
        return {}
    headed = not any(re.search(r"\d", cell) for cell in rows[0]) and len(rows) > 1
    names = [f"{number} ({name})" if headed else str(number) for number, name in enumerate(rows[0], start=1)]
    below = list(itertools.zip_longest(*rows[headed:], fillvalue=""))
    names += [str(number) for number in range(len(names) + 1, len(below) + 1)]  # of a row that is longer than the first
    return {name: list(column) for name, column in zip(names, below, strict=False)}


def _leaves(node: Any, name: str) -> Iterator[tuple[str, str]]:
    """Yields the texts of a JSON tree with the key that they stand under, and the keys themselves."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"keys of {name}", key
            yield from _leaves(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value, name)
    elif isinstance(node, str):
        yield name, node


def match(listed: TrainingList, task: Task, prepared: Prepared, origin: Source) -> Match:
    """Finds the rows of a task's cache that a list names; asked once per process, list and cache.

    Test images are hashed where it holds hashes, and looked into where it holds UIDs.

    Raises:
        UserError: the raw files are not those that the cache was made of.
    """
    key = (listed.sha256, task.name, prepared.every_split)
    if key not in _matches:
        _matches[key] = _match(listed, task, prepared, origin)
    return _matches[key]


_matches: dict[tuple[str, str, str], Match] = {}


def _match(listed: TrainingList, task: Task, prepared: Prepared, origin: Source) -> Match:
    samples = list(reading.read(task, origin.folder))
    ids = cache_build.row_ids(task, samples)
    if ids != prepared.samples["id"].tolist():
        raise UserError(
            f"task {task.name}: the files in {origin.folder} are not those that its cache was made of; run `prepare`"
        )
    values = {NAMED_HASH.sub("", value) for column in listed.columns.values() for value in column}
    found = {"name": _by_name(values, ids, samples)}
    splits = prepared.samples.filter(regex=r"^split(\.|$)")
    tested = np.flatnonzero((splits == "test").any(axis=1))
    whole = [int(row) for row in tested if not samples[row].image.member and samples[row].image.frame is None]
    paths = [samples[row].image.path for row in whole]
    for algorithm in HASHES.values():
        if hashes := {value.lower() for value in values if _algorithm(value) == algorithm and paths}:
            digests = raw.hashed(origin, paths, algorithm)
            found[algorithm] = {row for row, digest in zip(whole, digests, strict=True) if digest in hashes}
    if uids := set(filter(UID.fullmatch, values)):
        looks = {path: dicom.uids(path) for path in {samples[row].image.path for row in tested}}
        found["DICOM UID"] = {int(row) for row in tested if uids & looks[samples[row].image.path]}
    rows = np.zeros(len(ids), dtype=np.bool_)
    rows[sorted(set[int]().union(*found.values()))] = True
    return Match(rows=rows, by=tuple(name for name, some in found.items() if some))


def _algorithm(value: str) -> str:
    return HASHES.get(len(value), "") if re.fullmatch(r"[0-9A-Fa-f]+", value) else ""


def _by_name(values: Iterable[str], ids: Sequence[str], samples: Sequence[reading.Sample]) -> set[int]:
    names: dict[str, set[int]] = {}
    parts = {path: _parts(path.as_posix()) for path in {sample.image.path for sample in samples}}
    depth = _depth(list(parts.values()))
    for row, (name, sample) in enumerate(zip(ids, samples, strict=True)):
        for key in {name, sample.id, "/".join(parts[sample.image.path][-depth:])}:
            names.setdefault(key, set()).add(row)
    found = set[int]()
    for value in values:
        own = _parts(value)
        keys = {value, "/".join(own), own[-1] if own else "", "/".join(own[-depth:])}
        found |= set[int]().union(*(names.get(key, ()) for key in keys))
    return found


def _parts(name: str) -> tuple[str, ...]:
    """Takes a path apart, without the extension of its file."""
    return PurePosixPath(EXTENSION.sub("", name.replace("\\", "/"))).parts


def _depth(paths: Sequence[tuple[str, ...]]) -> int:
    """Counts the last parts by which paths are told apart."""
    most = max(map(len, paths), default=1)
    return next((depth for depth in range(1, most) if len({path[-depth:] for path in paths}) == len(paths)), most)


def overlap(listed: TrainingList, found: Match, prepared: Prepared) -> Listed:
    """Counts the images of a cache's own test split that a list names."""
    test = prepared.rows("test")
    return Listed(
        name=listed.name, sha256=listed.sha256, entries=listed.entries, held=int(found.rows[test].sum()),
        test=len(test), by=found.by,
    )  # fmt: skip
