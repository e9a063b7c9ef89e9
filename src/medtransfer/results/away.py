"""What a run's network was read on besides its own test, as its result says it, and where the predictions lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

CORRUPTED = "corrupted.parquet"
"""beside a run's results: predictions of its test images made worse, with `kind` and `severity`"""


@dataclass(frozen=True, kw_only=True)
class Away:
    """Another task on whose test images a run's network was read."""

    task: str
    labels: Mapping[str, str]
    """label of the run's task -> the same finding's name in the other"""
    manifest_digest: str
    marks: tuple[str, ...]
    """of the other task's data"""
    unit: Literal["patient", "study", "image"]
    images: int
    """of its test"""
    seen: bool = False
    """whether the run's weights were pre-trained on its dataset, or on images that are in it"""


def read_after_test(parameter: str) -> bool:
    """Says whether a parameter decides what a network is read on after its own test, and nothing of that."""
    return parameter.startswith("corruptions.") or parameter.endswith(".external")


def file_of(task: str) -> str:
    """Names the file with the predictions of another task's test images."""
    return f"away-{task}.parquet"
