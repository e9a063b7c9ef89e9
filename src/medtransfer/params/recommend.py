"""Parameters of the verb `recommend`, and of the race that it shares with `benchmark --race`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from medtransfer.params.limits import require

Use = Literal["research", "commercial"]

CHEAP = ("prior", "linear", "knn", "logme", "h_score")
"""what is known of a candidate before it is fine-tuned"""


@dataclass(frozen=True, kw_only=True)
class Recommend:
    """How weights are found for one task within a time."""

    candidates: tuple[str, ...]
    """inits that take part; []: all that are on disk or can be fetched without asking anybody"""
    minutes: float
    """that it may take, on the workers of `execution`"""
    use: Use
    """what the model is for; a licence that forbids it, or is unclear on it, keeps weights out"""
    max_parameters: int
    """of a backbone; 0: any number"""
    seeds: int
    """that the pick and the reference are trained and tested with: those of benchmark.seeds, then the next numbers"""
    first_seeds: int
    """that every candidate of the race is trained with"""
    rungs: tuple[float, ...]
    """shares of max_epochs after which the race is looked at, the last one 1"""
    error: float
    """chance, at most, that the race drops the candidate that is truly best by a margin"""
    sure: float
    """probability that the pick is within one margin of the best, from which on the answer is not `undecided`"""
    drift: float
    """std, in margins, of what a whole training does to a difference of two candidates: believed beside what is seen"""
    probing: float
    """share of the minutes that features and probes may take"""
    weights: Mapping[str, float]
    """of the cheap scores in the order of the race: prior (results on other tasks), linear, knn, logme, h_score"""

    def __post_init__(self) -> None:
        require(len(set(self.candidates)) == len(self.candidates), "recommend.candidates has no duplicates",
                candidates=self.candidates)  # fmt: skip
        require(self.minutes > 0, "recommend.minutes > 0", minutes=self.minutes)
        require(self.max_parameters >= 0, "recommend.max_parameters >= 0", max_parameters=self.max_parameters)
        require(2 <= self.first_seeds <= self.seeds, "2 <= recommend.first_seeds <= recommend.seeds",
                first_seeds=self.first_seeds, seeds=self.seeds)  # fmt: skip
        rising = all(one < two for one, two in zip(self.rungs, self.rungs[1:], strict=False))
        law = "recommend.rungs names rising shares above 0, the last of them 1"
        require(bool(self.rungs) and self.rungs[0] > 0 and rising and self.rungs[-1] == 1, law, rungs=self.rungs)
        require(0 < self.error < 0.5, "0 < recommend.error < 0.5", error=self.error)
        require(0.5 <= self.sure < 1, "0.5 <= recommend.sure < 1", sure=self.sure)
        require(self.drift >= 0, "recommend.drift >= 0", drift=self.drift)
        require(0 < self.probing < 1, "0 < recommend.probing < 1", probing=self.probing)
        known = set(self.weights) == set(CHEAP) and min(self.weights.values()) >= 0 < sum(self.weights.values())
        require(known, f"recommend.weights has a number >= 0 for each of {', '.join(CHEAP)}, not all 0",
                weights=dict(self.weights))  # fmt: skip
