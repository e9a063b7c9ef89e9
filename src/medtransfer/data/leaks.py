"""What patients and images in more than one split lead to: refusal, rows left out, or a mark on all results."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.errors import UserError
from medtransfer.data import duplicates, manifest, overlap
from medtransfer.data.cache import Audit
from medtransfer.data.overlap import Finding, Strings
from medtransfer.data.splits import Assignment
from medtransfer.params import Data

log = logging.getLogger("medtransfer")


@dataclass(frozen=True)
class Verdict:
    """What was found, which rows must be left out, and what marks the results."""

    findings: Audit
    drop: NDArray[np.bool_]
    marks: tuple[str, ...]


def judge(
    assignment: Assignment,
    data: Data,
    ids: Strings,
    units: Strings,
    contents: Strings,
    thumbnails: Path,
    draw: Callable[[Finding], Path],
    *,
    synthetic: bool,
) -> Verdict:
    """Looks for leaks between splits, or between folds, and applies `data.on_leak`.

    Args:
        assignment: the splits.
        data: the policy.
        ids: each image's name in messages.
        units: each image's patient (study, image).
        contents: equal for images with equal prepared pixels.
        thumbnails: file of the gray thumbnails, which near duplicates are found by.
        draw: draws near duplicates side by side, for whoever must judge them, and says where.
        synthetic: phantoms, of which none is a copy: look-alikes among them are counted and lead to nothing.

    Raises:
        UserError: a leak in a split that we draw, or one that the policy does not allow.
    """
    parts = assignment.parts()
    patients, exact = (_worst([overlap.shared(keys, part, ids) for part in parts]) for keys in (units, contents))
    near, looking = duplicates.near(np.load(thumbnails, mmap_mode="r"), contents, assignment.apart(), ids)
    drop, marks = np.zeros(len(ids), dtype=bool), list[str]()
    if patients["count"] or exact["count"]:
        words = (
            f"task {assignment.task.name}: {patients['count']} {assignment.task.unit}s and {exact['count']} identical"
        )
        words += f" images are in more than one split, e.g. {_names(patients, exact)}"
        drop, mark = _apply(words, assignment, data, units, contents)
        marks.append(mark)
    if near["count"] and not synthetic:
        words = (
            f"task {assignment.task.name}: {near['count']} pairs of images in different splits look like copies of one"
            f" picture, e.g. {_names(near)}"
        )
        folds = bool(assignment.task.folds)
        if _refused(data, folds):
            words += f"; look at {draw(near)}"
        marks.append(f"{_decide(words, data, folds, 'look-alikes')} ({near['count']})")
        if data.on_leak == "drop_from_train":
            drop = drop | looking
    findings = Audit(
        shared_patients=patients,
        exact_duplicates=exact,
        near_duplicates=near,
        near_threshold=duplicates.NEAR,
        near_every=duplicates.stride(assignment.apart()),
        dropped=manifest.counts(assignment.splits[drop]),
    )
    return Verdict(findings, drop, tuple(marks))


def _refused(data: Data, folds: bool) -> bool:
    return data.on_leak == "fail" or (folds and data.on_leak == "drop_from_train")


def _decide(words: str, data: Data, folds: bool, kind: str) -> str:
    """Refuses what the policy does not allow, else gives the mark that the results bear."""
    if _refused(data, folds):
        raise UserError(
            f"{words}; data.on_leak=drop_from_train takes them out of train and val (not with folds), =report keeps"
            " them; either marks the results, see promotion.require_audit"
        )
    log.warning("%s; data.on_leak=%s", words, data.on_leak)
    return f"{kind}-reported" if data.on_leak == "report" else f"{kind}-dropped"


def _apply(
    words: str, assignment: Assignment, data: Data, units: Strings, contents: Strings
) -> tuple[NDArray[np.bool_], str]:
    for pool in ("trainval", "all"):
        rows = assignment.pools == pool
        parts = [part[rows] for part in assignment.parts()]
        if any(overlap.clashing(keys[rows], part).any() for keys in (units, contents) for part in parts):
            raise UserError(
                f"{words}; the split of `{pool}` is drawn by us and must be free of leaks: take one of each pair"
                " out of the raw files (data.partial=true if counts then differ) or set another data.split_seed"
                + (" and other benchmark.splits" if assignment.numbers else "")
            )
    mark = _decide(words, data, bool(assignment.task.folds), "leak")
    if data.on_leak == "report":
        return np.zeros(len(units), dtype=bool), mark
    splits = assignment.splits
    return overlap.giving_way(units, splits) | overlap.giving_way(contents, splits), mark


def _worst(findings: Sequence[Finding]) -> Finding:
    return max(findings, key=lambda finding: finding["count"])


def _names(*findings: Finding) -> str:
    pairs = [pair for finding in findings for pair in finding["examples"][:3]]
    return ", ".join(f"{pair['a']} and {pair['b']} ({pair['splits']})" for pair in pairs)
