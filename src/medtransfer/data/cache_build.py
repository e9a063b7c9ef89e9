"""One build of a prepared cache: samples read, decoded, looked through for leaks, described."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtransfer.core import files
from medtransfer.core.errors import UserError
from medtransfer.data import (
    cache,
    checks,
    contact_sheets,
    duplicates,
    leaks,
    manifest,
    mask_rules,
    mask_survey,
    pixel_sizes,
    published_counts,
    subgroups,
)
from medtransfer.data.cache import Drawn, Manifest, Skipped
from medtransfer.data.decode import RECIPE, Decoder, signature
from medtransfer.data.overlap import SPLITS, Finding
from medtransfer.data.raw import Source
from medtransfer.data.readers import reading
from medtransfer.data.readers.reading import Sample
from medtransfer.data.row_writer import JOURNAL, NOTE, Rows, moments
from medtransfer.data.splits import Assignment, assign
from medtransfer.data.tasks import Task
from medtransfer.params import Params

log = logging.getLogger("medtransfer")

IDENTITY = "build.txt"
NOTES = (IDENTITY, JOURNAL)
"""files that a build leaves itself: what it builds, and which rows are done"""

NOT_DECODING = ("split_seed", "splits", "draw", "folds", "on_leak")
"""fields that change no pixel: a build that stopped over them goes on with what it had decoded"""

NAMED = 20
"""files that a message names; a file lists all"""


class Build:
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
        checks.check_samples(task, self.samples, self.origin.folder)
        self.ids = np.array(row_ids(task, self.samples), dtype=np.str_)
        self.units = np.array([_hashed(task.dataset, sample.patient) for sample in self.samples], dtype=np.str_)
        self.groups = subgroups.settle(self.samples, self.units, self.origin.folder)
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
        words = published_counts.differences(self.task, self.expected, self.found)
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
            mask_rules.refuse_uniform(task, self.assignment.columns, pixels, sizes)

    def _open(self, keep_native: NDArray[np.bool_]) -> None:
        """Makes the folder, or keeps that of an earlier build whose rows are those of this one."""
        fields = {name: value for name, value in _numeric(self.fields).items() if name not in NOT_DECODING}
        rows = [f"{sample.id} {kept}" for sample, kept in zip(self.samples, keep_native, strict=True)]
        identity = manifest.hash_lines([json.dumps([fields, NOTE.descr], sort_keys=True), *rows])
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
        table = manifest.table(self.task, self.ids, self.units, self.labels, self.assignment)
        if self.task.segmentation:
            table[[*pixel_sizes.COLUMNS]] = pixel_sizes.columns(self.notes)
        table = table.assign(**self.groups)
        table.to_parquet(self.folder / "samples.parquet", index=False)
        found = self._manifest()
        images = np.load(self.folder / "images.npy", mmap_mode="r")
        masks = np.load(self.folder / "masks.npy", mmap_mode="r") if self.task.segmentation else None
        contact_sheets.samples(self.folder / "samples.png", self.task, images, masks, table, found)
        contact_sheets.pairs(
            self.folder / "near_duplicates.png", self.findings["near_duplicates"], self._image_of(images)
        )
        files.write_text(self.folder / "manifest.json", json.dumps(found, indent=2, ensure_ascii=False) + "\n")

    def _image_of(self, images: NDArray[np.uint8]) -> contact_sheets.ImageOf:
        row = {str(name): number for number, name in enumerate(self.ids)}
        return lambda name: images[row[name]]

    def _manifest(self) -> Manifest:
        task, splits = self.task, self.assignment.splits
        whole = self.assignment.one() if self.numbers else self.assignment
        mean, std = moments(self.notes[splits == "train"], task.channels, self.size**2)
        undefined = manifest.undefined(task, self.labels, splits)
        for split, labels in undefined.items():
            if labels:
                words = "task %s: AUC is undefined in %s for labels without positives or without negatives: %s"
                log.warning(words, task.name, split, ", ".join(labels))
        found = Manifest(
            task=task.name,
            dataset=task.dataset,
            source=self.origin.kind,
            fingerprint=self.fingerprint,
            fields=self.fields,
            expected=self.expected,
            found=self.found,
            counts=manifest.counts(splits),
            rows=len(self.ids),
            folds=0 if self.numbers else self.assignment.folds.shape[1],
            unit=task.unit,
            units={split: len(np.unique(self.units[splits == split])) for split in SPLITS},
            label_totals=manifest.totals(task, self.labels, splits),
            cache_size=self.size,
            channels=task.channels,
            mean=mean,
            std=std,
            undefined=undefined,
            audit=self.findings,
            skipped=self.skipped,
            statistics=manifest.statistics(self.notes, splits, task.channels * self.size**2),
            marks=self.marks,
            recipe=RECIPE,
            mask_readings=self.mask_readings,
            split_recipe=whole.recipe(),
            split_hash=manifest.hash_lines(sorted(whole.lines(self.ids))),
            parts=cache.parts(self.folder),
            digest=self._digest(whole),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            code=manifest.code(),
        )
        if self.numbers:
            found["splits"] = [self._drawn(number) for number in self.numbers]
        return found

    def _drawn(self, number: int) -> Drawn:
        one = self.assignment.one(number)
        return Drawn(
            number=number,
            counts=manifest.counts(one.splits),
            split_recipe=one.recipe(),
            split_hash=manifest.hash_lines(sorted(one.lines(self.ids))),
            digest=self._digest(one),
        )

    def _digest(self, assignment: Assignment) -> str:
        digested = {name: value for name, value in _numeric(self.fields).items() if name not in ("reading", "splits")}
        digested["split_seed"], notes = assignment.seed, self.notes
        if self.numbers:  # what another split tests is none of this one's, so that more splits change no digest
            notes = notes.copy()
            notes["native"][~assignment.tested] = 0
        return manifest.digest(digested, self.ids, self.units, self.labels, assignment, notes)


def row_ids(task: Task, samples: Sequence[Sample]) -> list[str]:
    """Names the rows of a cache after their samples."""
    return [_hashed(task.dataset, sample.id) if task.hashed_ids else sample.id for sample in samples]


def _numeric(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out what changes no number of a run: subgroups are looked at when all is done."""
    layout = fields.get("layout")
    kept = {name: value for name, value in layout.items() if name != "subgroups"} if layout else layout
    return {**fields, "layout": kept}


def _hashed(dataset: str, name: str) -> str:
    return hashlib.sha256(f"{dataset}/{name}".encode()).hexdigest()[:16]


def _nameless(reason: str, sample: Sample) -> str:
    """Takes the file's name, which may say who the patient is, out of a reason that enters the cache."""
    text = reason.partition(": ")[2] or reason
    for name in (str(sample.image.path), sample.image.path.name):
        text = text.replace(name, "the file")
    return text
