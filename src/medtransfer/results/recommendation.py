"""What `recommend` leaves under `data/recommend/<task>`: the answer, and all that it rests on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from medtransfer.core import files, schema

FOLDER = Path("data/recommend")
FILE = "answer.json"

Verdict = Literal["start", "any of", "undecided"]
Status = Literal["pick", "level", "racing", "dropped", "stopped", "failed", "not raced", "left out"]
"""level: equal to the pick within the margin; racing: not told apart; dropped: worse, or out of reach; stopped: the
time did not reach for more of it; not raced: it did not reach for any fine-tuning"""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An init, and how far it came."""

    init: str
    status: Status
    why: str = ""
    """of what is not in the race any more"""
    val: float | None = None
    """mean score on val over seeds when it was last looked at"""
    seeds: int = 0
    epochs: int = 0
    """of a training, at that look"""
    seconds: float = 0.0
    """of one worker that its trainings took"""
    parameters: int = 0
    licence: str = ""
    scores: Mapping[str, float | None]
    """what was known before it was fine-tuned"""
    place: float | None = None
    """weighted mean of its places by these scores: 0 the last, 1 the first"""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A candidate at a look."""

    minutes: float
    """since the start"""
    init: str
    score: float
    """mean on val"""
    low: float | None
    """ends of its difference to the leader; None: not measured"""
    high: float | None
    epochs: int
    seeds: int
    status: str


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What the time went to."""

    name: str
    minutes: float
    """of the clock"""


@dataclass(frozen=True, kw_only=True)
class OnTest:
    """The pick against the reference on test; read once, for the seeds that both have."""

    seeds: tuple[int, ...]
    pick: float
    """mean score"""
    reference: float
    low: float | None
    """ends of the difference; None: not measured"""
    high: float | None
    level: float
    method: str
    """what the interval is over"""
    controls: Mapping[str, float] = field(default_factory=dict)
    """control of the study that is not below the pick -> its mean score"""


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The answer of `recommend` for a task."""

    digest: str
    """of what was asked and of all that decides the answer but time"""
    task: str
    metric: str
    margin: float
    reference: str
    minutes: float
    """asked for"""
    seconds: float
    """spent, by the clock, all calls together"""
    workers: int
    device: str
    verdict: Verdict
    pick: str | None
    equals: tuple[str, ...]
    """what cannot be told from the pick within the margin, the pick first"""
    probability: float | None
    """that the pick is within one margin of the best of those that raced; None: there was no race"""
    decided: bool
    """all that are left are equal within the margin"""
    val_images: int = 0
    val_units: int = 0
    """patients (studies, images) of val"""
    unit: str = "patient"
    raced: int
    looks: int
    error: float
    candidates: tuple[Candidate, ...]
    points: tuple[Point, ...]
    stages: tuple[Stage, ...]
    more: str
    """what more time would buy"""
    tested: OnTest | None = None
    sentences: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    test_runs: tuple[str, ...] = ()
    """digests of the runs of pick and reference whose test was read"""
    settings: Mapping[str, Any]
    """the section `recommend`"""
    finished: str = ""
    """when, in UTC"""
    commit: str = ""

    def of(self, init: str) -> Candidate:
        """Finds a candidate."""
        return next(one for one in self.candidates if one.init == init)


def path(root: Path, task: str) -> Path:
    """Says where the answer for a task lies."""
    return root / FOLDER / task / FILE


def write(answer: Recommendation, where: Path) -> None:
    """Writes an answer whole or not at all."""
    files.write_text(where, json.dumps(asdict(answer), indent=1) + "\n")


def read(where: Path) -> Recommendation | None:
    """Reads an answer; None where there is none.

    Raises:
        UserError: the file is no such answer.
    """
    if not where.is_file():
        return None
    return schema.read_json(where, Recommendation, "an answer of `recommend`", "remove it and ask again")
