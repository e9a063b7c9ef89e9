"""Raw files -> prepared cache + manifest: checks published counts, draws splits, decodes once, audits for leaks."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import os
import re
import shutil
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medtransfer import audit, datasets, files
from medtransfer.audit import SPLITS, Finding, Strings
from medtransfer.cache import ArrayFile, Audit, Facts, Manifest, Prepared, clean, keep_rows, load, moments, replace
from medtransfer.datasets import Sample
from medtransfer.decoding import RECIPE, Decoded, decode_all
from medtransfer.errors import UserError
from medtransfer.params import Data, Params, task_params
from medtransfer.sources import Source, source
from medtransfer.sources import fingerprint as fingerprint_of
from medtransfer.splits import draw_split
from medtransfer.tasks import Task

log = logging.getLogger("medtransfer")

FORMAT = 1
"""Raised by hand when the same raw files would give another cache: part of the digest, older caches are rebuilt."""

NAMED = 6
"""differences from the published counts that a message names"""


def slug(label: str) -> str:
    """Writes a label in the characters that metric names allow."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", label)


def prepare(task: Task, params: Params, root: Path, *, workers: int = 0) -> Prepared:
    """Returns a task's cache, built first where there is none or where its source or its fields changed.

    Args:
        task: what to prepare.
        params: `data` and the task's sizes are read.
        root: the repository's top folder.
        workers: threads that decode; 0 = one per core. Changes no byte.

    Raises:
        UserError: the raw files are missing, unreadable, not what was published, or leak between splits.
    """
    _check_labels(task)
    origin = source(task, params.data, root)
    folder = root / "data" / "prepared" / task.name / ("phantoms" if origin.synthetic else "real")
    fields = _fields(task, params, origin)
    fingerprint = fingerprint_of(origin.folder)
    current = _current(folder, task, params.data, fields, fingerprint)
    if current is not None:
        return current
    # Lock and temporary folders lie outside data/prepared/<task>, which DVC deletes before it runs the stage.
    stem = f".{task.name}-{folder.name}"
    with files.lock(folder.parents[1] / f"{stem}.lock"):
        clean(folder, stem)
        current = _current(
            folder, task, params.data, fields, fingerprint
        )  # another process may have built it meanwhile
        if current is not None:
            return current
        log.info("task %s: preparing the %s files of %s", task.name, origin.kind, origin.folder)
        temporary = folder.parents[1] / f"{stem}.new"
        try:
            temporary.mkdir()
            _Build(task, params, origin, fields, fingerprint, temporary, workers or os.cpu_count() or 1).run()
            replace(folder, temporary, folder.parents[1] / f"{stem}.old")
        except OSError as error:
            raise UserError(f"task {task.name}: could not build the cache {folder}: {error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return load(folder)


def _current(folder: Path, task: Task, data: Data, fields: dict[str, Any], fingerprint: str) -> Prepared | None:
    try:
        prepared = load(folder)
    except UserError:
        return None
    manifest = prepared.manifest
    same = manifest["fields"] == fields and manifest["fingerprint"] == fingerprint
    same = same and (data.partial or "partial" not in manifest["marks"])  # a sample must be accepted each time
    return prepared if same and manifest["expected"] == _published(task) else None


def _check_labels(task: Task) -> None:
    taken: dict[str, str] = {name: f"the column {name}" for name in ("id", "patient", "split")}
    for label in task.labels:
        if slug(label) in taken:
            raise UserError(
                f"task {task.name}: the labels of a task must differ in [A-Za-z0-9_.-], got {label!r} and"
                f" {taken[slug(label)]!r}, both written {slug(label)!r}; rename one"
            )
        taken[slug(label)] = label


def _fields(task: Task, params: Params, origin: Source) -> dict[str, Any]:
    """Lists what, beside the raw files, decides the content of a cache; part of the digest."""
    return {
        "format": FORMAT,
        "task": task.name,
        "source": origin.kind,
        "labels": list(task.labels),
        "channels": task.channels,
        "cache_size": task_params(params, task.name).cache_size,
        "split_seed": params.data.split_seed,
        "draw": dict(task.draw),
        "on_leak": params.data.on_leak,
    }


# Splits and published facts


def _splits(task: Task, seed: int, patients: Strings, pools: Strings, labels: NDArray[np.int8]) -> Strings:
    """Keeps official splits and divides `trainval` and `all`; each of train, val and test must get an image."""
    splits = pools.astype("<U8")
    for pool, names in (("trainval", ("val",)), ("all", ("val", "test"))):
        rows = pools == pool
        if rows.any():
            fractions = {name: task.draw[name] for name in names}
            splits[rows] = draw_split(patients[rows], labels[rows], fractions, seed)
    _check_filled(task, splits)
    return splits


def _check_filled(task: Task, splits: Strings) -> None:
    counts = _counts(splits)
    if not all(counts.values()):
        raise UserError(f"task {task.name}: each of train, val and test must have an image, got {counts}; add images")


def _counts(splits: Strings) -> dict[str, int]:
    return {split: int((splits == split).sum()) for split in SPLITS}


def _published(task: Task) -> Facts:
    return Facts(counts=dict(task.counts), positives={name: list(row) for name, row in task.positives.items()})


def _found(task: Task, pools: Strings, labels: NDArray[np.int8]) -> Facts:
    """Counts as the task's facts do: its `trainval` takes in a given train and val, its `all` every split."""
    takes = {"trainval": ("train", "val", "trainval"), "all": (*SPLITS, "trainval", "all")}
    members = {name: np.isin(pools, takes.get(name, (name,))) for name in task.counts}
    covered = np.any(list(members.values()), axis=0) if members else np.zeros(len(pools), dtype=bool)
    members |= {str(name): pools == name for name in np.unique(pools[~covered])}
    return Facts(
        counts={name: int(rows.sum()) for name, rows in members.items()},
        positives={
            name: labels[members[name]].sum(axis=0, dtype=np.int64).tolist()
            for name in task.positives
            if name in members
        },
    )


def _partial(task: Task, data: Data, expected: Facts, found: Facts) -> bool:
    """Says whether the files are not the published ones.

    Raises:
        UserError: they are not, and `data.partial` does not allow it.
    """
    if found == expected:
        return False
    words = f"task {task.name}: {_differences(task, expected, found)}"
    if not data.partial:
        raise UserError(
            f"{words}; complete the files under data/raw/{task.dataset}, or accept a sample with data.partial=true,"
            " which marks all results partial"
        )
    log.warning("%s; the results will be marked partial", words)
    return True


def _differences(task: Task, expected: Facts, found: Facts) -> str:
    """Spells out the first counts that differ from the published ones, and how many more do."""
    published, ours = _numbers(task, expected), _numbers(task, found)
    words = [
        f"{name}: published {published.get((name, unit), 0)}{unit}, found {ours.get((name, unit), 0)}"
        for name, unit in published | ours
        if published.get((name, unit)) != ours.get((name, unit))
    ]
    more = [f"and {len(words) - NAMED} more"] if len(words) > NAMED else []
    return "; ".join(words[:NAMED] + more)


def _numbers(task: Task, facts: Facts) -> dict[tuple[str, str], int]:
    """Lists facts one by one: (what is counted, its unit) -> how many."""
    numbers = {(name, " images"): count for name, count in facts["counts"].items()}
    for name, row in facts["positives"].items():
        numbers |= {(f"{name} {label} positives", ""): n for label, n in zip(task.labels, row, strict=True)}
    return numbers


# Building


class _Build:
    """One build of a cache into an empty folder; its steps in the order of `run`."""

    def __init__(
        self,
        task: Task,
        params: Params,
        origin: Source,
        fields: dict[str, Any],
        fingerprint: str,
        folder: Path,
        workers: int,
    ) -> None:
        self.task, self.data, self.origin, self.fields = task, params.data, origin, fields
        self.fingerprint, self.folder, self.workers = fingerprint, folder, workers
        self.size: int = fields["cache_size"]

    def run(self) -> None:
        """Writes all files of the cache."""
        self.read()
        self.decode()
        self.drop(self.audit())
        self.describe()

    def read(self) -> None:
        """Lists the samples, compares them with what was published and assigns splits."""
        task = self.task
        samples = list(datasets.read(task.dataset, self.origin.folder))
        _check_samples(task, samples, self.origin.folder)
        self.samples = samples
        self.ids = np.array([sample.id for sample in samples], dtype=np.str_)
        self.patients = np.array([_patient(task.dataset, sample.patient) for sample in samples], dtype=np.str_)
        self.pools = np.array([sample.split for sample in samples], dtype="<U8")
        self.labels = np.array([sample.labels for sample in samples], dtype=np.int8).reshape(len(samples), -1)
        self.expected, self.found = _published(task), _found(task, self.pools, self.labels)
        self.marks = ["synthetic"] if self.origin.synthetic else []
        if not self.origin.synthetic and _partial(task, self.data, self.expected, self.found):
            self.marks.append("partial")
        self.splits = _splits(task, self.data.split_seed, self.patients, self.pools, self.labels)

    def decode(self) -> None:
        """Decodes every sample once; all files that cannot be decoded are named in one error."""
        count, side, task = len(self.samples), self.size, self.task
        self._check_space()
        self.content, self.native_hashes, thumbnails, bad = list[str](), list[str](), [], list[str]()
        with contextlib.closing(decode_all(task, self.samples, side, self.workers)) as stream:
            images = ArrayFile(self.folder / "images.npy", self._image_shape(count))
            masks = ArrayFile(self.folder / "masks.npy", (count, side, side)) if task.segmentation else None
            for row, decoded in stream:
                if isinstance(decoded, str):
                    bad.append(decoded)
                if isinstance(decoded, str) or bad:
                    continue
                images.append(decoded.image)
                self.content.append(decoded.content)
                thumbnails.append(decoded.thumbnail)
                if masks is not None and decoded.mask is not None:
                    masks.append(decoded.mask)
                    self._keep_native(row, decoded)
        self.hashes = [images.close(), masks.close() if masks else ""]
        if bad:
            raise UserError(_bad_files(task, bad))
        self.thumbnails = np.stack(thumbnails)

    def _image_shape(self, count: int) -> tuple[int, ...]:
        return (count, self.size, self.size, *((3,) if self.task.channels == 3 else ()))

    def _check_space(self) -> None:
        layers = self.task.channels + self.task.segmentation
        needed, free = len(self.samples) * self.size**2 * layers, shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"task {self.task.name}: the cache takes {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free in"
                f" {self.folder.parent}; make room or lower tasks.{self.task.name}.cache_size"
            )

    def _keep_native(self, row: int, decoded: Decoded) -> None:
        if self.splits[row] == "test" and decoded.native is not None:
            (self.folder / "native_masks").mkdir(exist_ok=True)
            decoded.native.save(self.folder / "native_masks" / f"{row}.png")
            self.native_hashes.append(decoded.native_hash)

    def audit(self) -> NDArray[np.bool_]:
        """Looks for leaks between splits; marks the rows that the policy drops.

        Raises:
            UserError: a leak that the policy does not allow.
        """
        contents = np.array(self.content, dtype=np.str_)
        patients = audit.shared(self.patients, self.splits, self.ids)
        exact = audit.shared(contents, self.splits, self.ids)
        near = audit.near(self.thumbnails, contents, self.splits, self.ids)
        if near["count"]:
            first = _names(near)
            log.warning("task %s: %d near duplicates between splits, e.g. %s", self.task.name, near["count"], first)
        drop = np.zeros(len(self.ids), dtype=bool)
        if patients["count"] or exact["count"]:
            drop = self._judge(contents, patients, exact)
        dropped = _counts(self.splits[drop])
        self.findings = Audit(
            shared_patients=patients,
            exact_duplicates=exact,
            near_duplicates=near,
            near_threshold=audit.NEAR,
            dropped=dropped,
        )
        return drop

    def _judge(self, contents: Strings, patients: Finding, exact: Finding) -> NDArray[np.bool_]:
        words = f"task {self.task.name}: {patients['count']} patients and {exact['count']} identical images are in more"
        words += f" than one split, e.g. {_names(patients, exact)}"
        for pool in ("trainval", "all"):
            rows = self.pools == pool
            if any(audit.clashing(keys[rows], self.splits[rows]).any() for keys in (self.patients, contents)):
                raise UserError(
                    f"{words}; the split of `{pool}` is drawn by us and must be free of leaks: take one of each pair"
                    " out of the raw files (data.partial=true if counts then differ) or set another data.split_seed"
                )
        if self.data.on_leak == "fail":
            raise UserError(
                f"{words}; data.on_leak=drop_from_train takes them out of train and val, =report keeps them"
            )
        log.warning("%s; data.on_leak=%s", words, self.data.on_leak)
        if self.data.on_leak == "report":
            self.marks.append("leak-reported")
            return np.zeros(len(contents), dtype=bool)
        self.marks.append("leak-dropped")
        return audit.giving_way(self.patients, self.splits) | audit.giving_way(contents, self.splits)

    def drop(self, rows: NDArray[np.bool_]) -> None:
        """Takes rows out of arrays and table; no test row is among them."""
        if not rows.any():
            return
        kept = np.flatnonzero(~rows)
        self.ids, self.patients, self.splits = self.ids[kept], self.patients[kept], self.splits[kept]
        self.labels = self.labels[kept]
        _check_filled(self.task, self.splits)
        for index, name in enumerate(("images.npy", "masks.npy")):
            if (self.folder / name).exists():
                self.hashes[index] = keep_rows(self.folder / name, kept)
        for new, old in enumerate(kept):  # ascending, so no name is taken when its turn comes
            native = self.folder / "native_masks" / f"{old}.png"
            if new != old and native.exists():
                native.rename(native.with_name(f"{new}.png"))

    def describe(self) -> None:
        """Writes the table of samples and the manifest."""
        table = pd.DataFrame(
            {"id": self.ids.tolist(), "patient": self.patients.tolist(), "split": self.splits.tolist()}
        )
        for column in range(self.labels.shape[1]):
            table[self.task.labels[column]] = self.labels[:, column]
        table.to_parquet(self.folder / "samples.parquet", index=False)
        text = json.dumps(self._manifest(), indent=2, ensure_ascii=False)
        files.write_text(self.folder / "manifest.json", text + "\n")

    def _manifest(self) -> Manifest:
        mean, std = moments(np.load(self.folder / "images.npy", mmap_mode="r"), self.splits == "train")
        totals = {split: self._totals(split) for split in SPLITS}
        counts = _counts(self.splits)
        return Manifest(
            task=self.task.name,
            dataset=self.task.dataset,
            source=self.origin.kind,
            fingerprint=self.fingerprint,
            fields=self.fields,
            expected=self.expected,
            found=self.found,
            counts=counts,
            patients={split: len(np.unique(self.patients[self.splits == split])) for split in SPLITS},
            label_totals=totals,
            cache_size=self.size,
            channels=self.task.channels,
            mean=mean,
            std=std,
            undefined={split: self._undefined(split, totals[split], counts[split]) for split in ("val", "test")},
            audit=self.findings,
            marks=self.marks,
            recipe=RECIPE,
            split_recipe=self._split_recipe(),
            split_hash=_hash_lines(sorted(f"{i} {s}" for i, s in zip(self.ids, self.splits, strict=True))),
            digest=self._digest(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            code=_code(),
        )

    def _totals(self, split: str) -> dict[str, int]:
        """Counts positives per label; for segmentation, images whose mask is not empty."""
        rows = self.splits == split
        if self.task.segmentation:
            masks = np.load(self.folder / "masks.npy", mmap_mode="r")
            return {self.task.labels[0]: sum(bool(masks[row].any()) for row in np.flatnonzero(rows))}
        totals = self.labels[rows].sum(axis=0, dtype=np.int64).tolist()
        return dict(zip(self.task.labels, totals, strict=True))

    def _undefined(self, split: str, totals: dict[str, int], count: int) -> list[str]:
        """Lists the labels that have no positive or no negative, so that their AUC is undefined."""
        if self.task.segmentation:
            return []
        labels = [label for label, positives in totals.items() if positives in (0, count)]
        if labels:
            words = "task %s: AUC is undefined in %s for labels without positives or without negatives: %s"
            log.warning(words, self.task.name, split, ", ".join(labels))
        return labels

    def _split_recipe(self) -> str:
        official = [str(pool) for pool in np.unique(self.pools) if pool in SPLITS]
        drawn = [str(pool) for pool in np.unique(self.pools) if pool not in SPLITS]
        words = [f"{', '.join(official)}: official"] if official else []
        shares = ", ".join(f"{name} {share}" for name, share in self.task.draw.items())
        for pool in drawn:
            words.append(f"{pool}: drawn by patient, stratified by label, seed {self.data.split_seed}, shares {shares}")
        return "; ".join(words)

    def _digest(self) -> str:
        rows = zip(self.ids.tolist(), self.patients.tolist(), self.splits.tolist(), self.labels.tolist(), strict=True)
        lines = [json.dumps(self.fields, sort_keys=True), *self.hashes, *self.native_hashes]
        return _hash_lines([*lines, *(json.dumps(row) for row in rows)])


def _check_samples(task: Task, samples: list[Sample], folder: Path) -> None:
    """Holds a reader to its contract."""
    if not samples:
        raise UserError(f"task {task.name}: looked for images of {task.dataset} in {folder}, found none")
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise UserError(f"task {task.name}: ids must be unique, {sample.id!r} is there twice, again {sample.image}")
        seen.add(sample.id)
        if task.segmentation and not sample.masks:
            raise UserError(f"task {task.name}: {sample.image} has no mask file; each image needs one")
        if not task.segmentation and (len(sample.labels) != len(task.labels) or not set(sample.labels) <= {0, 1}):
            raise UserError(
                f"task {task.name}: {sample.image} must have {len(task.labels)} labels of 0 or 1, got {sample.labels}"
            )


def _patient(dataset: str, patient: str) -> str:
    return hashlib.sha256(f"{dataset}/{patient}".encode()).hexdigest()[:16]


def _bad_files(task: Task, bad: list[str]) -> str:
    listed = "".join(f"\n  {line}" for line in bad[:10])
    more = f"\n  ... and {len(bad) - 10} more" if len(bad) > 10 else ""
    return f"task {task.name}: {len(bad)} samples cannot be decoded; get their files again:{listed}{more}"


def _names(*findings: Finding) -> str:
    pairs = [pair for finding in findings for pair in finding["examples"][:3]]
    return ", ".join(f"{pair['a']} and {pair['b']} ({pair['splits']})" for pair in pairs)


def _hash_lines(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _code() -> dict[str, str | None]:
    """Names the version and, in a clone, the commit of this code."""
    version: str | None
    try:
        version = importlib.metadata.version("medtransfer")
    except importlib.metadata.PackageNotFoundError:  # run from a clone, not installed
        project = Path(__file__).parents[2] / "pyproject.toml"
        version = tomllib.loads(project.read_text())["project"]["version"] if project.exists() else None
    return {"version": version, "commit": files.git_commit(Path(__file__).parent) or None}
