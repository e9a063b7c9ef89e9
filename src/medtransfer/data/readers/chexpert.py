"""CheXpert: 223,414 chest X-rays with 14 text-mined labels, 234 more read by radiologists (Irvin et al., AAAI 2019)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from medtransfer.core.errors import UserError
from medtransfer.data.readers.columns import UNKNOWN, age_band, missing_images, present, read_rows, read_some
from medtransfer.data.readers.reading import Picture, Sample, Split, refuse
from medtransfer.data.tasks import Task

LABELS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices",
)  # fmt: skip
TASK = Task(
    name="chexpert",
    code="DXC5",
    dataset="chexpert",
    title="Five thorax diseases classification",
    kind="multilabel",
    labels=LABELS,
    tested=("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"),
    findings={"Pleural Effusion": "Effusion"},
    uncertain=True,
    hashed_ids=True,
    channels=1,
    counts={"trainval": 223_414, "test": 234},
    positives={
        "trainval": (
            22381,
            10798,
            27000,
            105581,
            9186,
            52246,
            14783,
            6039,
            33376,
            19448,
            86187,
            3523,
            9040,
            116001,
        ),
        "test": (None, None, 68, None, None, 45, 33, None, 80, None, 67, None, None, None),
    },
    draw={"val": 0.05},
    split_source="official",
    metric="auc",
    margin=0.01,
    licence="Stanford University Dataset Research Use Agreement: registration, non-commercial",
    citation="Irvin et al., CheXpert, AAAI 2019",
    source="https://stanfordmlgroup.github.io/competitions/chexpert",
)
HOW_TO_GET = (
    "register at {source} and accept the Research Use Agreement",
    "download CheXpert-v1.0-small (11 GB) or CheXpert-v1.0 (440 GB)",
    "unpack it in {folder}: train.csv, valid.csv, train/ and valid/, in the archive's own folder or without it",
)
"""what a person does, whom no program can replace"""
UNSAID = "which images are val and test; here a seeded 5% of train.csv's patients, and valid.csv."
"""what the paper of 2021 does not say of it, and what is done here"""


TABLES: tuple[tuple[str, Split], ...] = (("train", "trainval"), ("valid", "test"))
"""`train.csv` lists the images in `train/`, `valid.csv` those in `valid/`"""
HOMES = (".", "CheXpert-v1.0-small", "CheXpert-v1.0")
"""where below the dataset's folder the tables may lie: archives of both sizes bring a folder of their own"""
VALUES = {"": 0, "0": 0, "0.0": 0, "1": 1, "1.0": 1, "-1": -1, "-1.0": -1}

Rows = dict[str, tuple[str, tuple[int, ...]]]
"""path from `train/` or `valid/` on -> (patient, labels)"""


def read(root: Path) -> Iterator[Sample]:
    """Yields the images of `train.csv` as trainval and those of `valid.csv` as test, in the order of the tables.

    Tables may lie in the folder itself or in the archive's own one, `CheXpert-v1.0-small` or `CheXpert-v1.0`. Images
    lie beside them: what stands before `train/` or `valid/` in a path of a table does not count.

    Raises:
        UserError: a table or image is missing, or a table has an unknown path, a repeated one or an unknown label.
    """
    home = next((root / name for name in HOMES if (root / name / "train.csv").is_file()), None)
    if home is None:
        raise refuse("chexpert", "train.csv", root, "none, in none of " + ", ".join(HOMES))
    tables = {split: read_table(home / f"{folder}.csv") for folder, split in TABLES}
    for folder, split in TABLES:
        # one question per file: each study has a folder of its own, so that listing folders takes five times as long
        missing = [name for name in tables[split] if not os.path.isfile(home / name)]
        if missing:
            raise missing_images("chexpert", home / f"{folder}.csv", len(tables[split]), missing)
    groups = {name: found for folder, _ in TABLES for name, found in _read_groups(home / f"{folder}.csv")}
    for split, rows in tables.items():
        for name, (patient, labels) in rows.items():
            yield Sample(
                id=os.path.splitext(name)[0], patient=patient, split=split, image=Picture(home / name), labels=labels,
                groups=groups.get(name, {}),
            )  # fmt: skip


def read_table(table: Path) -> Rows:
    """Reads `train.csv` or `valid.csv`; of a label, blank is 0, and -1, uncertain, is allowed in `train.csv` alone.

    Raises:
        UserError: the table or a column is missing, or a row has an unknown path, a repeated one or an unknown label.
    """
    if not table.is_file():
        raise refuse("chexpert", table.name, table, "none")
    pattern = re.compile(rf"(?:.*/)?({table.stem}/(patient\d+)/[^/]+/[^/]+)")
    allowed = {text: value for text, value in VALUES.items() if value >= 0 or table.stem == "train"}
    rows: Rows = {}
    for line, (path, *texts) in read_rows("chexpert", table, ("Path", *LABELS)):
        match = pattern.fullmatch(path.replace("\\", "/"))
        if match is None:
            raise UserError(
                f"dataset chexpert: {table}, line {line}: expected a path {table.stem}/patient<number>/<study>/<view>"
                f".jpg, whatever stands before it, found {path!r}; get the official table"
            )
        if match[1] in rows:
            raise UserError(f"dataset chexpert: {table}, line {line}: {match[1]} is there twice; take one out")
        try:
            rows[match[1]] = (match[2], tuple([allowed[text] for text in texts]))
        except KeyError:
            raise _unknown(table, line, texts, allowed) from None
    return rows


def _read_groups(table: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Reads path from `train/` or `valid/` on -> the image's groups."""
    for row in read_some(table, ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")):
        path = re.sub(rf"^.*?(?=(?:^|(?<=/)){table.stem}/patient)", "", row["Path"].replace("\\", "/"))
        view = row["AP/PA"] or (row["Frontal/Lateral"] if row["Frontal/Lateral"] == "Lateral" else UNKNOWN)
        yield path, present({"sex": row["Sex"], "age": age_band(row["Age"]), "view": view})


def _unknown(table: Path, line: int, texts: list[str], allowed: dict[str, int]) -> UserError:
    label, text = next((k, v) for k, v in zip(LABELS, texts, strict=True) if v not in allowed)
    values = "1.0, 0.0, -1.0 or blank" if "-1.0" in allowed else "1.0, 0.0 or blank, for test labels are certain"
    return UserError(
        f"dataset chexpert: {table}, line {line}: {label} is {text!r}, expected {values}; get the official table"
    )
