"""What patients and images in more than one split lead to: refusal, rows left out, or a mark on all results."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medtransfer import audit, description
from medtransfer.audit import Finding, Strings
from medtransfer.cache import Audit
from medtransfer.errors import UserError
from medtransfer.params import Data
from medtransfer.splits import Assignment

log = logging.getLogger("medtransfer")

IN_MEMORY = 4096
"""images up to which thumbnails are compared in memory, 4 KB each; more take a file"""


@dataclass(frozen=True)
class Verdict:
    """What was found, which rows must be left out, and what marks the results."""

    findings: Audit
    drop: NDArray[np.bool_]
    marks: tuple[str, ...]


def judge(
    assignment: Assignment, data: Data, ids: Strings, units: Strings, contents: Strings, thumbnails: Path
) -> Verdict:
    """Looks for leaks between splits, or between folds, and applies `data.on_leak`.

    Args:
        assignment: the splits.
        data: the policy.
        ids: each image's name in messages.
        units: each image's patient (study, image).
        contents: equal for images with equal prepared pixels.
        thumbnails: file of the gray thumbnails; near duplicates are reported only.

    Raises:
        UserError: a leak in a split that we draw, or one that the policy does not allow.
    """
    parts = assignment.parts()
    patients, exact = (_worst([audit.shared(keys, part, ids) for part in parts]) for keys in (units, contents))
    near = _near(thumbnails, contents, assignment.apart(), ids)
    if near["count"]:
        words = "task %s: %d near duplicates between splits, e.g. %s"
        log.warning(words, assignment.task.name, near["count"], _names(near))
    drop, marks = np.zeros(len(ids), dtype=bool), tuple[str, ...]()
    if patients["count"] or exact["count"]:
        words = (
            f"task {assignment.task.name}: {patients['count']} {assignment.task.unit}s and {exact['count']} identical"
        )
        words += f" images are in more than one split, e.g. {_names(patients, exact)}"
        drop, marks = _apply(words, assignment, data, units, contents)
    findings = Audit(
        shared_patients=patients,
        exact_duplicates=exact,
        near_duplicates=near,
        near_threshold=audit.NEAR,
        near_every=audit.stride(assignment.apart()),
        dropped=description.counts(assignment.splits[drop]),
    )
    return Verdict(findings, drop, marks)


def _near(path: Path, contents: Strings, part: Strings, ids: Strings) -> Finding:
    thumbnails = np.load(path, mmap_mode="r")
    scratch = path.with_name("features.tmp") if len(thumbnails) > IN_MEMORY else None
    found = audit.near(thumbnails, contents, part, ids, scratch=scratch)
    if scratch is not None:
        scratch.unlink()
    return found


def _apply(
    words: str, assignment: Assignment, data: Data, units: Strings, contents: Strings
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    for pool in ("trainval", "all"):
        rows = assignment.pools == pool
        parts = [part[rows] for part in assignment.parts()]
        if any(audit.clashing(keys[rows], part).any() for keys in (units, contents) for part in parts):
            raise UserError(
                f"{words}; the split of `{pool}` is drawn by us and must be free of leaks: take one of each pair"
                " out of the raw files (data.partial=true if counts then differ) or set another data.split_seed"
                + (" and other benchmark.splits" if assignment.numbers else "")
            )
    if data.on_leak == "fail" or (assignment.task.folds and data.on_leak == "drop_from_train"):
        raise UserError(
            f"{words}; data.on_leak=drop_from_train takes them out of train and val (not with folds), =report keeps"
            " them"
        )
    log.warning("%s; data.on_leak=%s", words, data.on_leak)
    if data.on_leak == "report":
        return np.zeros(len(units), dtype=bool), ("leak-reported",)
    splits = assignment.splits
    return audit.giving_way(units, splits) | audit.giving_way(contents, splits), ("leak-dropped",)


def _worst(findings: Sequence[Finding]) -> Finding:
    return max(findings, key=lambda finding: finding["count"])


def _names(*findings: Finding) -> str:
    pairs = [pair for finding in findings for pair in finding["examples"][:3]]
    return ", ".join(f"{pair['a']} and {pair['b']} ({pair['splits']})" for pair in pairs)
