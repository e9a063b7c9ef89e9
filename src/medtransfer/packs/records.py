"""What a pack holds: contributions, each of one lab and never changed once written, and certificates of re-runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from medtransfer.results.result import Result
from medtransfer.results.study import Ledger

FORMAT = 1
"""of the file; raised where an older program could not read it rightly"""


@dataclass(frozen=True, kw_only=True)
class TaskCard:
    """What a reader must know of a task, who has not its data."""

    title: str
    kind: str
    """as `Result.kind`"""
    modality: str
    """of the images, in the words of `weights.records.MODALITIES`; `not-stated` where nobody said"""
    metric: str
    margin: float
    derived_from: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class InitCard:
    """What a reader must know of an initialization, who has not its weights."""

    title: str
    """as the tables of a report name it"""
    family: str
    modality: str
    """of the images that it was pre-trained on last"""
    licence: str
    """of the weights, as published; empty: not stated"""
    commercial: str
    """yes, no or unclear, as `weights.licences` reads the strictest of its chain"""
    parameters: int
    """of the backbone without classifier; 0: not known"""
    weights_sha256: str
    """of the published file, as its receipt says; empty: random, or several files"""
    tensors_sha256: str
    """of the tensors that runs began with, as its receipt says; empty: random, or not known"""


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """Finished runs of one lab, under one protocol version."""

    digest: str
    """SHA-256 over its bytes and those of its predictions; names it"""
    lab: str
    """whose it is"""
    created: str
    """when the last of its runs finished, in UTC, as in `2026-01-31T12:00:00Z`"""
    protocol_version: int
    results: tuple[Result, ...]
    """with what is looked up of the task cards"""
    tasks: Mapping[str, TaskCard]
    inits: Mapping[str, InitCard]
    """canonical name -> its card"""
    ledgers: tuple[Ledger, ...] = ()
    """of the studies whose values the runs were trained with"""
    params: Mapping[str, Any] = field(default_factory=dict)
    """the study's parameter file"""
    environment: Mapping[str, str] = field(default_factory=dict)
    """machine and versions it was packed on; each run has its own"""
    predictions: bool = False
    """whether the runs' test predictions are in the pack"""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One run that another lab trained again."""

    run: str
    """digest"""
    verdict: Literal["equal", "within", "different", "failed"]
    """to the last digit; within the spread that equal seeds have between runs of this kind of machine; neither; no
    score came out"""
    claimed: float | None
    """the primary score of the pack"""
    found: float | None
    """of the re-run"""
    spread: float | None
    """what `within` allows: largest difference that equal code and seeds were seen to make; None: it was not needed"""
    note: str = ""
    """why it failed, or what differs beside the score"""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What came out when a share of a contribution was trained again."""

    contribution: str
    """its digest"""
    by: str
    """lab that trained again"""
    finished: str
    """in UTC"""
    share: float
    """of its runs, that was asked for"""
    draw: int
    """seed that the runs were drawn with"""
    machine: str
    """kind of arithmetic, see `core.arithmetic.kind`"""
    versions: Mapping[str, str]
    checked: tuple[Checked, ...]
    rule: str = ""
    """how the spread that `within` allows was come by, in words"""
    tasks: tuple[str, ...] = ()
    """that the draw was limited to, where data of others were not there; empty: it was not"""

    @property
    def holds(self) -> bool:
        """Says whether every drawn run came out equal, or within the spread."""
        return bool(self.checked) and all(one.verdict in ("equal", "within") for one in self.checked)

    @property
    def refutes(self) -> bool:
        """Says whether a drawn run came out different; one that could not be trained says nothing."""
        return any(one.verdict == "different" for one in self.checked)


@dataclass(frozen=True, kw_only=True)
class Pack:
    """A file of contributions."""

    contributions: tuple[Contribution, ...]
    certificates: tuple[Certificate, ...] = ()
    digest: str = ""
    """SHA-256 over all its members"""

    def status(self, contribution: str) -> Literal["claimed", "verified", "refuted"]:
        """Says what re-runs by labs other than its own found of a contribution.

        Args:
            contribution: its digest.
        """
        labs = {one.digest: one.lab for one in self.contributions}
        mine = [one for one in self.certificates if one.contribution == contribution]
        if any(one.refutes for one in mine):
            return "refuted"
        return "verified" if any(one.holds and one.by != labs.get(contribution) for one in mine) else "claimed"
