"""Shenzhen chest X-rays: normal or tuberculosis (Jaeger et al., Quant Imaging Med Surg 2014)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from medtransfer.core.errors import UserError
from medtransfer.data.readers.reading import Archive, Picture, Sample, find_folder, list_files
from medtransfer.data.tasks import Task

TASK = Task(
    name="shenzhen",
    code="TXC",
    dataset="shenzhen",
    title="Tuberculosis detection",
    kind="binary",
    labels=("Tuberculosis",),
    channels=1,
    counts={"all": 662},
    positives={"all": (336,)},
    draw={"val": 0.1, "test": 0.2},
    split_source="drawn",
    metric="auc",
    margin=0.01,
    licence="free use with citation (NLM)",
    citation="Jaeger et al., Quant Imaging Med Surg 2014",
    source="https://lhncbc.nlm.nih.gov/LHC-downloads/downloads.html",
)
ARCHIVE = Archive("https://openi.nlm.nih.gov/imgs/collections/ChinaSet_AllFiles.zip", 8_000_000_000)
UNSAID = "how the split was drawn; the authors publish lists, here a seeded, patient-disjoint draw."
"""what the paper of 2021 does not say of it, and what is done here"""


NAME = re.compile(r"CHNCXR_(\d{4})_([01])\.png")


def read(root: Path) -> Iterator[Sample]:
    """Yields every image of `CXR_png`, the label being the last digit of its name; no split is published.

    Raises:
        UserError: the folder is missing, or a file is not named as published.
    """
    folder = find_folder("shenzhen", root, "CXR_png", "ChinaSet_AllFiles/CXR_png")
    for image in list_files("shenzhen", folder, "*.png", "CHNCXR_<id>_<0 or 1>.png"):
        match = NAME.fullmatch(image.name)
        if match is None:
            raise UserError(
                f"dataset shenzhen: {image} is not named CHNCXR_<4 digits>_<0 normal, 1 tuberculosis>.png, so it has "
                "no label; take it out of the folder"
            )
        yield Sample(id=image.stem, patient=match[1], split="all", image=Picture(image), labels=(int(match[2]),))
