"""How much of a task's train has labels: a share of its images, or so many images of each class."""

from __future__ import annotations

import re
from dataclasses import dataclass

from medtransfer.params.limits import require

LAW = "a fraction is a share of train, above 0 and at most 1, or images of each class, such as 16-shot"


@dataclass(frozen=True)
class Fraction:
    """An amount of labels."""

    share: float = 1.0
    """of the images of train; with shots it has no meaning"""
    shots: int = 0
    """images of each class; 0: a share is meant"""

    @property
    def whole(self) -> bool:
        """Says whether it is all of train."""
        return not self.shots and self.share == 1

    def __str__(self) -> str:
        """Writes it as runs, tables and digests name it: `0.1`, `1` or `16-shot`."""
        return f"{self.shots}-shot" if self.shots else f"{self.share:g}"


WHOLE = Fraction()
"""all of train"""


def parse_fraction(value: object) -> Fraction:
    """Reads a share, as a number or a text, or shots, as in `16-shot`.

    Raises:
        UserError: it is neither, or out of bounds.
    """
    found = re.fullmatch(r"(\d+)-shot", str(value))
    if found:
        require(int(found[1]) >= 1, LAW, fraction=value)
        return Fraction(shots=int(found[1]))
    try:
        share = float("nan") if isinstance(value, bool) else float(str(value))
    except ValueError:
        share = float("nan")
    require(0 < share <= 1, LAW, fraction=value)
    require(float(f"{share:g}") == share, "a fraction has six digits at most", fraction=value)
    return Fraction(share=share)
