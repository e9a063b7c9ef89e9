"""Parameters of the shift on purpose: how test images are made worse after a run's own test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from medtransfer.params.limits import require

Kind = Literal["noise", "blur", "contrast", "gamma", "resolution", "jpeg", "text", "crop", "window"]
"""see `data/corruptions.py`"""
SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True, kw_only=True)
class Corruptions:
    """Test images made worse on purpose, by degrees, which every network is read on after its own test."""

    kinds: tuple[Kind, ...] = ()
    """what is done to them, one thing at a time; empty: nothing. Segmentation leaves `crop` out: masks would move"""
    severities: tuple[int, ...] = ()
    """how much: some of 1 (little) to 5"""
    seed: int = 0
    """of noise and places, which are the same ones for every init and seed"""

    def __post_init__(self) -> None:
        kinds, severities = self.kinds, self.severities
        require(len({*kinds}) == len(kinds), "corruptions.kinds has no duplicates", kinds=kinds)
        law = "corruptions.severities are some of 1 to 5, none twice"
        good = {*severities} <= {*SEVERITIES} and len({*severities}) == len(severities)
        require(good, law, severities=severities)
        both = "corruptions.kinds and corruptions.severities are both empty or both not"
        require(bool(kinds) == bool(severities), both, kinds=kinds, severities=severities)
        require(self.seed >= 0, "0 <= corruptions.seed", seed=self.seed)

    def fields(self, segmentation: bool) -> dict[str, Any]:
        """Lists what is read by a run of a kind of task, by dotted name and in one order; empty: nothing."""
        kinds = sorted(kind for kind in self.kinds if kind != "crop" or not segmentation)
        if not kinds:
            return {}
        return {
            "corruptions.kinds": kinds, "corruptions.severities": sorted(self.severities),
            "corruptions.seed": self.seed,
        }  # fmt: skip
