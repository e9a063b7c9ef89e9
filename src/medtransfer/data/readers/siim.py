"""SIIM-ACR Pneumothorax Segmentation: 12,047 chest X-rays, of which 2,669 have masks as run lengths (2019).

The table of 12,047 images also labels what the first stage of the competition kept as its test set, so a labelled
image may lie in `dicom-images-test/`: what the table names counts, wherever it lies.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from medtransfer.core.errors import UserError, quantity
from medtransfer.data.images import run_lengths
from medtransfer.data.readers.columns import missing_images, read_rows, some
from medtransfer.data.readers.reading import Picture, Runs, Sample, refuse
from medtransfer.data.tasks import Task

TASK = Task(
    name="siim",
    code="PXS",
    dataset="siim",
    title="Pneumothorax segmentation",
    kind="segmentation",
    labels=("Pneumothorax",),
    hashed_ids=True,
    channels=1,
    counts={"all": 12_047},
    positives={"all": (2_669,)},
    draw={"val": 0.1, "test": 0.2},
    split_source="drawn",
    derived_from=("chestxray14",),
    metric="dice_positives",
    margin=0.01,
    measures=("surface", "lesions"),
    licence="SIIM-ACR competition rules: registration, non-commercial",
    citation="SIIM-ACR Pneumothorax Segmentation, 2019",
    source="https://www.kaggle.com/c/siim-acr-pneumothorax-segmentation/data",
)
HOW_TO_GET = (
    "sign in at {source} and accept the competition's rules",
    "download the DICOM images and the table stage_2_train.csv, or train-rle.csv, which must name 12,047 images",
    "put one of the tables into {folder}, and the .dcm files anywhere below it",
)
"""what a person does, whom no program can replace"""
UNSAID = "the split, and whether empty images count; here drawn by patient, Dice on images with a mask."
"""what the paper of 2021 does not say of it, and what is done here"""


TABLES = ("train-rle.csv", "train_rle.csv", "stage_2_train.csv")
COLUMNS = ("ImageId", "EncodedPixels")

log = logging.getLogger("medtransfer")


def read(root: Path) -> Iterator[Sample]:
    """Yields the images that the table names, in its order; the parts of a mask are one row each.

    Images without a row are left out.

    Raises:
        UserError: the table or an image is missing or there twice, a row is malformed, or a file is no DICOM.
    """
    table = _find_table(root)
    rows, images = read_table(table), _find_images(root)
    missing = [name for name in rows if name not in images]
    if missing:
        raise missing_images("siim", table, len(rows), missing)
    log.info("dataset siim: left out %s without a row in %s", quantity(len(images) - len(rows), "image"), table)
    for name, parts in rows.items():
        yield Sample(
            id=name,
            patient=_patient(images[name]),
            split="all",
            image=Picture(images[name]),
            labels=(int(bool(parts)),),
            masks=(tuple(Runs(part) for part in parts),),
        )


def read_table(table: Path) -> dict[str, list[str]]:
    """Reads image -> run lengths, one text per row of the image, none where the image has no pneumothorax.

    Raises:
        UserError: a column is missing, or an image is said to have a pneumothorax and none.
    """
    rows: dict[str, list[str]] = {}
    empty: set[str] = set()
    for line, (name, text) in read_rows("siim", table, COLUMNS):
        parts = rows.setdefault(name, [])
        if run_lengths.is_empty(text):
            empty.add(name)
        else:
            parts.append(text)
        if parts and name in empty:
            raise UserError(
                f"dataset siim: {table}, line {line}: {name} has both run lengths and -1, no pneumothorax; take out "
                "what is wrong"
            )
    if not rows:
        raise refuse("siim", "rows", table, "none")
    return rows


def _find_table(root: Path) -> Path:
    found = [root / name for name in TABLES if (root / name).is_file()]
    if not found:
        raise refuse("siim", " or ".join(TABLES), root, "none")
    if len(found) > 1:
        raise UserError(
            f"dataset siim: looked for one table in {root}, found {', '.join(path.name for path in found)}, of which "
            "each may label other images; take out all but one, the full one names 12,047 images"
        )
    return found[0]


def _find_images(root: Path) -> dict[str, Path]:
    images: dict[str, Path] = {}
    twice: list[str] = []
    for path in sorted(root.rglob("*.dcm")):
        if not path.name.startswith("."):  # macOS puts `._x.dcm` beside `x.dcm`
            if path.stem in images:
                twice.append(f"{images[path.stem]} and {path}")
            images[path.stem] = path
    if twice:
        raise UserError(
            f"dataset siim: {quantity(len(twice), 'image', 'are')} there twice: {some(twice)}; take one of each out"
        )
    if not images:
        raise refuse("siim", "*.dcm", root / "dicom-images-train", "none")
    return images


def _patient(image: Path) -> str:
    """Reads the patient from a DICOM header, or the study where that is blank."""
    import pydicom  # an import of a second, of which other datasets have no use

    try:
        header = pydicom.dcmread(image, stop_before_pixels=True, specific_tags=["PatientID", "StudyInstanceUID"])
    except (pydicom.errors.InvalidDicomError, OSError, EOFError) as error:
        raise UserError(f"dataset siim: {image} is no DICOM file: {error}; get it again") from error
    found = str(header.get("PatientID") or "").strip() or str(header.get("StudyInstanceUID") or "").strip()
    if not found:
        raise UserError(
            f"dataset siim: {image} has neither PatientID nor StudyInstanceUID in its header, so splits cannot keep "
            "patients together; get it again"
        )
    return found
