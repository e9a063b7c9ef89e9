"""Whether a licence permits commercial use."""

from __future__ import annotations

COMMERCIAL = {
    "apache-2.0": "yes", "mit": "yes", "bsd-3-clause": "yes", "bsd-2-clause": "yes", "bsd": "yes", "cc-by-4.0": "yes",
    "none": "yes", "cc-by-nc-4.0": "no", "fair-noncommercial-research-license": "no", "apple-amlr": "no",
    "asu non-commercial": "no",
}  # fmt: skip
"""licence in lower case -> whether it permits commercial use; any other is `unclear`: read it"""


def commercial(licence: str) -> str:
    """Says whether a licence permits commercial use: `yes`, `no` or `unclear`."""
    name = licence.lower()
    return COMMERCIAL.get(name) or COMMERCIAL.get(name.replace(" ", "-"), "unclear")
