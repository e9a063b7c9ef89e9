"""Raw files -> prepared cache + manifest: checks published counts, draws splits, decodes once, audits for leaks."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtransfer.core import files
from medtransfer.core.errors import UserError
from medtransfer.data import cache, contact_sheets, duplicates, leaks, mask_survey, published_counts
from medtransfer.data import manifest as description
from medtransfer.data.cache import Drawn, Facts, Manifest, Prepared, Skipped, load
from medtransfer.data.decode import RECIPE, Decoder, signature
from medtransfer.data.overlap import SPLITS, Finding
from medtransfer.data.raw import Source, source
from medtransfer.data.raw import fingerprint as fingerprint_of
from medtransfer.data.readers import reading
from medtransfer.data.readers.reading import Sample
from medtransfer.data.row_writer import JOURNAL, NOTE, Rows, moments
from medtransfer.data.splits import Assignment, assign, redraws
from medtransfer.data.tasks import PLANES, Task
from medtransfer.params import Data, Params, task_params

log = logging.getLogger("medtransfer")

FORMAT = 2
"""Raised by hand when the same raw files would give another cache: part of the digest, older caches are rebuilt."""

READING = 1
"""Raised by hand when some files of own tasks are read otherwise: their older caches are rebuilt, and have another
digest where pixels changed, which are digested themselves, and only there."""

DIGESTED_RECIPE = (
    "gray tasks to 8-bit luminance, colour tasks to RGB, alpha dropped; with windows: each (level, width) of the stored"
    " values in their unit to 0..255, values outside clipped, one window per channel; without: 8-bit images as they"
    " are, a DICOM file's values rescaled, then through its first VOI table or window, those without either and all"
    " other images of more or fewer bits scaled so that their own smallest value is 0 and their largest 255; DICOM"
    " palettes and YBR to RGB, MONOCHROME1 inverted unless the task has windows; 16-bit colours of a palette or a PNG"
    " by their high byte; NIfTI slices along the last axis as they are stored, turned by 90 degrees; masks: the"
    " label's own value, else stored values above 0, of a palette all but a nearly black darkest colour, of JPEG those"
    " above 127; resized to a square by antialiased bilinear, aspect not kept; masks: union of a label's parts,"
    " resized likewise, set where at least half is covered"
)
"""What digests have held since there are any; how files are read today is `RECIPE`, see `READING`."""

IDENTITY = "build.txt"
NOTES = (IDENTITY, JOURNAL)
"""files that a build leaves itself: what it builds, and which rows are done"""

NOT_DECODING = ("split_seed", "splits", "draw", "folds", "on_leak")
"""fields that change no pixel: a build that stopped over them goes on with what it had decoded"""

NAMED = 20
"""files that a message names; a file lists all"""


def slug(label: str) -> str:
    """Writes a label in the characters that metric names allow."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", label)


def current(task: Task, params: Params, root: Path) -> Prepared | None:
    """Returns a task's cache if it is there and still holds; builds nothing.

    Raises:
        UserError: there are no raw files to compare it with.
    """
    origin = source(task, params.data, root)
    folder = _folder(task, origin, root)
    fingerprint = functools.partial(fingerprint_of, origin, keep=False)
    return _current(folder, task, params.data, _fields(task, params, origin), fingerprint)


def _folder(task: Task, origin: Source, root: Path) -> Path:
    return root / "data" / "prepared" / task.name / ("phantoms" if origin.synthetic else "real")


def prepare(task: Task, params: Params, root: Path, *, workers: int = 0, check: bool = False) -> Prepared:
    """Returns a task's cache, built first where there is none or where its source or its fields changed.

    A build that was killed, or that met files it could not decode, goes on from what it had done.

    Args:
        task: what to prepare.
        params: `data` and the task's sizes are read.
        root: the repository's top folder.
        workers: threads that decode; 0 = one per core. Changes no byte.
        check: hash every raw file again, also where size and times say that nothing changed.

    Raises:
        UserError: the raw files are missing, unreadable, not what was published, or leak between splits.
    """
    _check_labels(task)
    origin = source(task, params.data, root)
    folder = _folder(task, origin, root)
    fields = _fields(task, params, origin)
    fingerprint = functools.cache(functools.partial(fingerprint_of, origin, whole=check))
    found = _current(folder, task, params.data, fields, fingerprint)
    if found is not None:
        return found
    # Lock and temporary folders lie outside data/prepared/<task>, which DVC deletes before it runs the stage.
    stem = str(folder.parents[1] / f".{task.name}-{folder.name}")
    with files.lock(Path(f"{stem}.lock")):
        cache.clean(folder, Path(f"{stem}.old"))
        found = _current(folder, task, params.data, fields, fingerprint)  # another process may have built it
        if found is not None:
            return found
        log.info("task %s: preparing the %s files of %s", task.name, origin.kind, origin.folder)
        temporary = Path(f"{stem}.new")
        try:
            if any((temporary / name).exists() for name in NOTES) or not _current(
                temporary, task, params.data, fields, fingerprint
            ):  # else a kill came between the end of a build and its place
                _Build(task, params, origin, fields, fingerprint(), temporary, workers or os.cpu_count() or 1).run()
            cache.put(folder, temporary, Path(f"{stem}.old"))
            Path(f"{stem}.bad.txt").unlink(missing_ok=True)
            Path(f"{stem}.near_duplicates.png").unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"task {task.name}: could not build the cache {folder}: {error}; what is decoded is kept, the same "
                "command goes on from there"
            ) from error
    return load(folder)


def _current(
    folder: Path, task: Task, data: Data, fields: dict[str, Any], fingerprint: Callable[[], str]
) -> Prepared | None:
    try:
        prepared = load(folder)
    except UserError as error:
        if (folder / "manifest.json").is_file():
            log.warning("task %s: %s", task.name, error)
        return None
    manifest = prepared.manifest
    same = (
        "parts" in manifest
        and manifest["fields"] == fields
        and manifest["expected"] == published_counts.published(task)
    )
    # Look-alikes of an earlier rule are none of today's.
    same = same and manifest["audit"]["near_threshold"] == duplicates.NEAR
    same = same and manifest["fingerprint"] == fingerprint()
    # What was left out, or is a sample, must be accepted each time.
    same = same and len(manifest["skipped"]) <= data.skip_bad
    sampled = "synthetic" not in manifest["marks"] and _differs(task, manifest["expected"], manifest["found"])
    return prepared if same and (data.partial or not sampled) else None


def _differs(task: Task, expected: Facts, found: Facts) -> str:
    """Words what differs from the published counts; an own task without counts has nothing to differ from."""
    return published_counts.differences(task, expected, found) if task.counts else ""


def _check_labels(task: Task) -> None:
    taken: dict[str, str] = {name: f"the column {name}" for name in ("id", "patient", "split")}
    for label in task.labels:
        if slug(label) in taken:
            raise UserError(
                f"task {task.name}: the labels of a task must differ in [A-Za-z0-9_.-], got {label!r} and"
                f" {taken[slug(label)]!r}, both written {slug(label)!r}; rename one"
            )
        if label.startswith("split."):
            raise UserError(f"task {task.name}: a label must not begin with `split.`, got {label!r}; rename it")
        taken[slug(label)] = label
    assert not task.segmentation or len(task.labels) + len(task.extras) <= PLANES


def _fields(task: Task, params: Params, origin: Source) -> dict[str, Any]:
    """Lists what, beside the raw files, decides the content of a cache; part of the digest."""
    layout = _layout(task)
    return {
        "format": FORMAT,
        "recipe": DIGESTED_RECIPE,
        **({"reading": READING} if layout else {}),
        "task": task.name,
        "kind": task.kind,
        "source": origin.kind,
        "labels": list(task.labels),
        "uncertain": task.uncertain,
        "extras": list(task.extras),
        "channels": task.channels,
        "windows": [list(window) for window in task.windows],
        "unit": task.unit,
        "hashed_ids": task.hashed_ids,
        "layout": layout,
        "cache_size": task_params(params, task.name).cache_size,
        "split_seed": params.data.split_seed,
        **({"splits": list(numbers)} if (numbers := splits_of(task, params)) else {}),
        "draw": dict(task.draw),
        "folds": [task.folds.count, task.folds.repeats] if task.folds else None,
        "on_leak": params.data.on_leak,
    }


def splits_of(task: Task, params: Params) -> tuple[int, ...]:
    """Lists the drawn splits of a task; none where its files or its folds say all."""
    return params.benchmark.splits if redraws(task) else ()


def _layout(task: Task) -> dict[str, Any] | None:
    """Lists an own task's layout as JSON has it; keys that came later stand there only where they say something."""
    if task.layout is None:
        return None
    fields: dict[str, Any] = json.loads(json.dumps(asdict(task.layout)))
    fields["values"] = {label: some[0] if len(some) == 1 else some for label, some in fields["values"].items()}
    del fields["outside"]  # a place; what lies there is in the fingerprint
    later: dict[str, Any] = {"background": [], "threshold": None, "allow_empty": [], "allow_full": [], "align": "space"}
    return {name: value for name, value in fields.items() if name not in later or value != later[name]}


class _Build:
    """One build of a cache into its own folder; its steps in the order of `run`."""

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
        self.numbers: tuple[int, ...] = tuple(fields.get("splits", ()))
        self.mask_readings: dict[str, str] = {}

    def run(self) -> None:
        """Writes all files of the cache."""
        self.read()
        self.decode()
        self.audit()
        self.describe()
        for name in NOTES:  # only now: a build that is killed before must find them
            (self.folder / name).unlink()

    def read(self) -> None:
        """Lists the samples, compares them with what was published and assigns splits."""
        task = self.task
        self.samples = list(reading.read(task, self.origin.folder))
        _check_samples(task, self.samples, self.origin.folder)
        names = [_hashed(task.dataset, s.id) if task.hashed_ids else s.id for s in self.samples]
        self.ids = np.array(names, dtype=np.str_)
        self.units = np.array([_hashed(task.dataset, sample.patient) for sample in self.samples], dtype=np.str_)
        self.pools = np.array([sample.split for sample in self.samples], dtype="<U8")
        given = [sample.labels or (0,) * len(task.labels) for sample in self.samples]
        self.labels = np.array(given, dtype=np.int8).reshape(len(given), -1)
        self.expected, self.found = (
            published_counts.published(task),
            published_counts.found(task, self.pools, self.labels),
        )
        self.marks = ["synthetic"] if self.origin.synthetic else []
        if not self.origin.synthetic and self._partial():
            self.marks.append("partial")
        if task.unit == "image" and task.layout is not None:
            self.marks.append("patients unknown")
        self.assignment = assign(task, self.units, self.pools, self.labels, self.data.split_seed, self.numbers)

    def _partial(self) -> bool:
        """Says whether the files are not the published ones.

        Raises:
            UserError: they are not, and `data.partial` does not allow it.
        """
        words = _differs(self.task, self.expected, self.found)
        if words and not self.data.partial:
            raise UserError(
                f"task {self.task.name}: {words}; complete the files under data/raw/{self.task.dataset}, or accept a"
                " sample with data.partial=true, which marks all results partial"
            )
        if words:
            log.warning("task %s: %s; the results will be marked partial", self.task.name, words)
        return bool(words)

    def decode(self) -> None:
        """Decodes every sample once, going on from an earlier build of the same samples.

        Raises:
            UserError: more samples cannot be decoded than `data.skip_bad` allows; all are named.
        """
        count, task, masks = len(self.samples), self.task, self.task.segmentation
        if masks:
            self.samples, self.mask_readings = mask_survey.settle(task, self.samples, self.workers)
        keep_native = self.assignment.tested & masks
        self._open(keep_native)
        rows = Rows(self.folder, count, self.size, task.channels, duplicates.THUMBNAIL, masks=masks)
        try:
            if rows.journal_length():
                done = rows.resume([signature(sample) for sample in self.samples])
                log.info("task %s: %d of %d images were decoded before", task.name, done, count)
            bad = Decoder(task, self.samples, rows, keep_native).run(self.workers)
            if len(bad) > self.data.skip_bad:
                raise UserError(self._bad_files(bad))
        finally:
            rows.close()
        self.notes = rows.notes
        self._skip(bad)
        if masks and task.layout:
            pixels, sizes = self.notes["covered"][:, : len(task.labels)], self.notes["width"] * self.notes["height"]
            mask_survey.refuse_uniform(task, self.assignment.columns, pixels, sizes)

    def _open(self, keep_native: NDArray[np.bool_]) -> None:
        """Makes the folder, or keeps that of an earlier build whose rows are those of this one."""
        fields = {name: value for name, value in self.fields.items() if name not in NOT_DECODING}
        rows = [f"{sample.id} {kept}" for sample, kept in zip(self.samples, keep_native, strict=True)]
        identity = description.hash_lines([json.dumps([fields, NOTE.descr], sort_keys=True), *rows])
        note = self.folder / IDENTITY
        if not note.is_file() or note.read_text() != identity:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            self._check_space()
            files.write_text(note, identity)

    def _check_space(self) -> None:
        layers = self.task.channels + self.task.segmentation
        needed = len(self.samples) * (self.size**2 * layers + duplicates.THUMBNAIL**2)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            shutil.rmtree(self.folder)
            raise UserError(
                f"task {self.task.name}: the cache takes {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free in"
                f" {self.folder.parent}; make room or lower tasks.{self.task.name}.cache_size"
            )

    def _bad_files(self, bad: dict[int, str]) -> str:
        lines = [bad[row] for row in sorted(bad)]
        place = self.folder.with_suffix(".bad.txt")
        files.write_text(place, "".join(f"{line}\n" for line in lines))
        more = f"\n  ... and {len(lines) - NAMED} more, all in {place}" if len(lines) > NAMED else ""
        return (
            f"task {self.task.name}: {len(lines)} of {len(self.samples)} samples cannot be decoded; get their files"
            f" again, or leave them out with --skip-bad {len(lines)}. The others are kept, the same command goes on"
            " from there:" + "".join(f"\n  {line}" for line in lines[:NAMED]) + more
        )

    def _skip(self, bad: dict[int, str]) -> None:
        """Takes samples that cannot be decoded out of all splits."""
        reasons = {row: _nameless(bad[row], self.samples[row]) for row in sorted(bad)}
        self.skipped = [Skipped(id=str(self.ids[row]), reason=reason) for row, reason in reasons.items()]
        if not bad:
            return
        log.warning("task %s: %d samples cannot be decoded and are left out", self.task.name, len(bad))
        self.assignment.leave_out(np.isin(np.arange(len(self.ids)), list(bad)))
        if "partial" not in self.marks:
            self.marks.append("partial")

    def audit(self) -> None:
        """Looks for leaks between splits and applies the policy; no test row is left out.

        Raises:
            UserError: a leak that the policy does not allow.
        """
        contents = np.array([digest.tobytes().hex() for digest in self.notes["image"]], dtype=np.str_)
        thumbnails = self.folder / "thumbnails.npy"
        synthetic = self.origin.synthetic
        verdict = leaks.judge(
            self.assignment, self.data, self.ids, self.units, contents, thumbnails, self._draw, synthetic=synthetic
        )
        self.findings = verdict.findings
        self.marks += verdict.marks
        if verdict.drop.any():
            self.assignment.leave_out(verdict.drop)

    def _draw(self, found: Finding) -> Path:
        """Draws the near duplicates beside the cache, where they stay when the policy refuses them."""
        place = self.folder.with_suffix(".near_duplicates.png")
        contact_sheets.pairs(place, found, self._image_of(np.load(self.folder / "images.npy", mmap_mode="r")))
        return place

    def describe(self) -> None:
        """Writes the table of samples, the sheets for people and, last, the manifest."""
        if self.task.segmentation:
            bits = np.arange(len(self.task.labels), dtype=np.uint8)
            self.labels = (self.notes["present"][:, None] >> bits & 1).astype(np.int8)
        table = description.table(self.task, self.ids, self.units, self.labels, self.assignment)
        table.to_parquet(self.folder / "samples.parquet", index=False)
        manifest = self._manifest()
        images = np.load(self.folder / "images.npy", mmap_mode="r")
        masks = np.load(self.folder / "masks.npy", mmap_mode="r") if self.task.segmentation else None
        contact_sheets.samples(self.folder / "samples.png", self.task, images, masks, table, manifest)
        contact_sheets.pairs(
            self.folder / "near_duplicates.png", self.findings["near_duplicates"], self._image_of(images)
        )
        files.write_text(self.folder / "manifest.json", json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")

    def _image_of(self, images: NDArray[np.uint8]) -> contact_sheets.ImageOf:
        row = {str(name): number for number, name in enumerate(self.ids)}
        return lambda name: images[row[name]]

    def _manifest(self) -> Manifest:
        task, splits = self.task, self.assignment.splits
        whole = self.assignment.one() if self.numbers else self.assignment
        mean, std = moments(self.notes[splits == "train"], task.channels, self.size**2)
        undefined = description.undefined(task, self.labels, splits)
        for split, labels in undefined.items():
            if labels:
                words = "task %s: AUC is undefined in %s for labels without positives or without negatives: %s"
                log.warning(words, task.name, split, ", ".join(labels))
        manifest = Manifest(
            task=task.name,
            dataset=task.dataset,
            source=self.origin.kind,
            fingerprint=self.fingerprint,
            fields=self.fields,
            expected=self.expected,
            found=self.found,
            counts=description.counts(splits),
            rows=len(self.ids),
            folds=0 if self.numbers else self.assignment.folds.shape[1],
            unit=task.unit,
            units={split: len(np.unique(self.units[splits == split])) for split in SPLITS},
            label_totals=description.totals(task, self.labels, splits),
            cache_size=self.size,
            channels=task.channels,
            mean=mean,
            std=std,
            undefined=undefined,
            audit=self.findings,
            skipped=self.skipped,
            statistics=description.statistics(self.notes, splits, task.channels * self.size**2),
            marks=self.marks,
            recipe=RECIPE,
            mask_readings=self.mask_readings,
            split_recipe=whole.recipe(),
            split_hash=description.hash_lines(sorted(whole.lines(self.ids))),
            parts=cache.parts(self.folder),
            digest=self._digest(whole),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            code=description.code(),
        )
        if self.numbers:
            manifest["splits"] = [self._drawn(number) for number in self.numbers]
        return manifest

    def _drawn(self, number: int) -> Drawn:
        one = self.assignment.one(number)
        return Drawn(
            number=number,
            counts=description.counts(one.splits),
            split_recipe=one.recipe(),
            split_hash=description.hash_lines(sorted(one.lines(self.ids))),
            digest=self._digest(one),
        )

    def _digest(self, assignment: Assignment) -> str:
        digested = {name: value for name, value in self.fields.items() if name not in ("reading", "splits")}
        digested["split_seed"], notes = assignment.seed, self.notes
        if self.numbers:  # what another split tests is none of this one's, so that more splits change no digest
            notes = notes.copy()
            notes["native"][~assignment.tested] = 0
        return description.digest(digested, self.ids, self.units, self.labels, assignment, notes)


def _check_samples(task: Task, samples: list[Sample], folder: Path) -> None:
    """Holds a reader to its contract."""
    if not samples:
        raise UserError(f"task {task.name}: looked for images of {task.dataset} in {folder}, found none")
    seen: set[str] = set()
    allowed = {0, 1, -1} if task.uncertain else {0, 1}
    for sample in samples:
        where = f"task {task.name}: {sample.image.path}"
        if sample.id in seen:
            raise UserError(
                f"task {task.name}: ids must be unique, {sample.id!r} is there twice, again {sample.image.path}"
            )
        seen.add(sample.id)
        if task.segmentation and len(sample.masks) != len(task.labels):
            raise UserError(f"{where} has masks for {len(sample.masks)} of {len(task.labels)} labels; each needs them")
        if task.segmentation and not sample.labels:
            continue
        if len(sample.labels) != len(task.labels) or not set(sample.labels) <= allowed:
            raise UserError(f"{where} must have {len(task.labels)} labels of {sorted(allowed)}, got {sample.labels}")


def _hashed(dataset: str, name: str) -> str:
    return hashlib.sha256(f"{dataset}/{name}".encode()).hexdigest()[:16]


def _nameless(reason: str, sample: Sample) -> str:
    """Takes the file's name, which may say who the patient is, out of a reason that enters the cache."""
    text = reason.partition(": ")[2] or reason
    for name in (str(sample.image.path), sample.image.path.name):
        text = text.replace(name, "the file")
    return text
