"""Montgomery chest X-rays with lung masks (Jaeger et al., Quant Imaging Med Surg 2014)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from medtransfer.core.errors import UserError
from medtransfer.data.readers.reading import Archive, Picture, Sample, find_folder, list_files, refuse
from medtransfer.data.tasks import Task

TASK = Task(
    name="montgomery",
    code="LXS",
    dataset="montgomery",
    title="Lung segmentation",
    kind="segmentation",
    labels=("Lung",),
    channels=1,
    counts={"all": 138},
    draw={"val": 0.1, "test": 0.2},
    split_source="drawn",
    metric="dice",
    margin=0.005,
    spacing=(0.0875, 0.0875),  # as the readme of the images says, of this size
    spacing_side=4892,
    licence="free use with citation (NLM)",
    citation="Jaeger et al., Quant Imaging Med Surg 2014",
    source="https://lhncbc.nlm.nih.gov/LHC-downloads/downloads.html",
)
ARCHIVE = Archive("https://openi.nlm.nih.gov/imgs/collections/NLM-MontgomeryCXRSet.zip", 1_500_000_000)
UNSAID = "the split; here a seeded, patient-disjoint draw."
"""what the paper of 2021 does not say of it, and what is done here"""


NAME = re.compile(r"MCUCXR_(\d{4})_[01]\.png")
REPEATS = {"0117": "0113", "0166": "0162", "0170": "0162"}
"""image number -> first image of the same patient, by the clinical readings: 138 images are of 135 patients"""


def read(root: Path) -> Iterator[Sample]:
    """Yields every image of `CXR_png` with its left and right lung masks; no split is published.

    Other files in the folders (`Thumbs.db`, `.DS_Store`, `._*.png`) are left alone.

    Raises:
        UserError: a folder or a mask is missing, or an image is not named as published.
    """
    folder = find_folder("montgomery", root, "CXR_png", "MontgomerySet/CXR_png")
    for image in list_files("montgomery", folder, "*.png", "MCUCXR_<id>_<0 or 1>.png"):
        match = NAME.fullmatch(image.name)
        if match is None:
            raise UserError(f"dataset montgomery: {image} is not named MCUCXR_<4 digits>_<0 or 1>.png; take it out")
        masks = tuple(folder.parent / "ManualMask" / side / image.name for side in ("leftMask", "rightMask"))
        for mask in masks:
            if not mask.is_file():
                raise refuse("montgomery", f"a lung mask of {image.name}", mask, "none")
        patient = REPEATS.get(match[1], match[1])
        yield Sample(
            id=image.stem, patient=patient, split="all", image=Picture(image), masks=(tuple(map(Picture, masks)),)
        )
