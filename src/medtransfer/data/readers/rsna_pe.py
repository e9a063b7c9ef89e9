"""RSNA-STR Pulmonary Embolism CT: 1,790,594 slices of 7,279 studies (Colak et al., Radiology: AI 2021)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from medtransfer.core.errors import UserError
from medtransfer.data.readers.columns import find_columns, missing_images
from medtransfer.data.readers.reading import Picture, Sample, refuse, require_folder
from medtransfer.data.tasks import Task

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

TASK = Task(
    name="rsna_pe",
    code="ECC",
    dataset="rsna_pe",
    title="Pulmonary embolism detection",
    kind="binary",
    labels=("Pulmonary embolism",),
    hashed_ids=True,
    channels=3,
    windows=((-600, 1500), (100, 700), (40, 400)),
    counts={"all": 1_790_594},
    positives={"all": (96_540,)},
    draw={"val": 0.1, "test": 0.2},
    split_source="drawn",
    unit="study",
    metric="auc",
    margin=0.01,
    licence="RSNA-STR competition rules: registration, non-commercial",
    citation="Colak et al., Radiology: Artificial Intelligence 2021",
    source="https://www.kaggle.com/c/rsna-str-pulmonary-embolism-detection/data",
)
HOW_TO_GET = (
    "sign in at {source} and accept the competition's rules",
    "download train.csv and the folder train, and put both into {folder}: train/<study>/<series>/<slice>.dcm",
)
"""what a person does, whom no program can replace"""
UNSAID = "split, windowing and level; here drawn by study, three windows, slices (exams beside them)."
"""what the paper of 2021 does not say of it, and what is done here"""


STUDY, SERIES, SLICE = "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"
LABEL, NEGATIVE = "pe_present_on_image", "negative_exam_for_pe"
"""the one label of a slice, and what its whole study is said to be"""


def read(root: Path) -> Iterator[Sample]:
    """Yields every slice of `train.csv`, ordered by study and SOPInstanceUID; the patient is the study.

    The table has no slice index, so slices of a study are not in anatomical order; scores of slices need none, and
    finding it would take the header of every file.

    Raises:
        UserError: the table, a column or a file is missing, or a row is malformed or contradicts its study.
    """
    rows = read_table(root / "train.csv")
    folder = require_folder("rsna_pe", root / "train")
    _require_files(folder, rows)
    for study, series, name, label in zip(*(rows[column] for column in (STUDY, SERIES, SLICE, LABEL)), strict=True):
        image = Picture(folder / study / series / f"{name}.dcm")
        yield Sample(id=name, patient=study, split="all", image=image, labels=(int(label),))


def read_table(table: Path) -> pd.DataFrame:
    """Reads the three identifiers and the label of every slice, ordered by study and SOPInstanceUID.

    Raises:
        UserError: the table or a column is missing, a field is blank or unknown, a slice is there twice, or is
            positive in a negative study.
    """
    rows = _parse(table)
    for column in (STUDY, SERIES, SLICE):
        _refuse_first(table, rows, (rows[column] == "").to_numpy(), column, "an identifier")
    for column in rows.columns.drop([STUDY, SERIES, SLICE]):
        _refuse_first(table, rows, ~rows[column].isin(["0", "1"]).to_numpy(), column, "0 or 1")
    _refuse_first(table, rows, rows[SLICE].duplicated().to_numpy(), SLICE, "each slice once")
    if NEGATIVE in rows:
        negative = rows[STUDY].isin(rows.loc[rows[NEGATIVE] == "1", STUDY].unique())
        clash = ((rows[LABEL] == "1") & negative).to_numpy()
        _refuse_first(table, rows, clash, LABEL, f"0, as the study has {NEGATIVE} = 1")
    rows = rows[[STUDY, SERIES, SLICE]].assign(**{LABEL: (rows[LABEL] == "1").to_numpy("int8")})
    return rows.sort_values([STUDY, SLICE], ignore_index=True)


def _parse(table: Path) -> pd.DataFrame:
    """Reads the columns of use as text; the index is the line number."""
    import pandas as pd  # half a second: whoever asks which tasks there are does not wait for it

    if not table.is_file():
        raise refuse("rsna_pe", table.name, table, "none")
    try:
        header = [str(name) for name in pd.read_csv(table, nrows=0, encoding="utf-8-sig")]
        find_columns("rsna_pe", table, header, (STUDY, SERIES, SLICE, LABEL))
        wanted = {STUDY, SERIES, SLICE, LABEL, NEGATIVE}
        rows = pd.read_csv(
            table,
            usecols=[name for name in header if name.strip() in wanted],
            dtype=str,
            index_col=False,  # else a comma at the end of every row shifts all columns
            encoding="utf-8-sig",
            keep_default_na=False,
            skip_blank_lines=False,  # so that rows count as lines do
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"dataset rsna_pe: {table} is no table of commas: {error}; get the official one") from error
    rows.index += 2
    rows.columns = rows.columns.str.strip()
    for column in rows:
        rows[column] = rows[column].fillna("").str.strip()
    kept: pd.DataFrame = rows[(rows != "").any(axis=1)]
    return kept


def _refuse_first(table: Path, rows: pd.DataFrame, wrong: np.ndarray, column: str, expected: str) -> None:
    if wrong.any():
        line = rows.index[int(wrong.argmax())]
        raise UserError(
            f"dataset rsna_pe: {table}, line {line}: {column} is {rows.at[line, column]!r}, expected {expected}; "
            f"{int(wrong.sum())} rows are wrong so; get the official table"
        )


def _require_files(folder: Path, rows: pd.DataFrame) -> None:
    """Compares the slices with what lies in the folder of each series: a folder is listed once, no file asked for."""
    missing: list[str] = []
    count = 0
    for (study, series), names in rows.groupby([STUDY, SERIES], sort=False)[SLICE]:
        try:
            present = set(os.listdir(folder / str(study) / str(series)))
        except (FileNotFoundError, NotADirectoryError):
            present = set()
        absent = [f"{study}/{series}/{name}.dcm" for name in names if f"{name}.dcm" not in present]
        count += len(absent)
        missing += absent[: 3 - len(missing)]
    if count:
        raise missing_images("rsna_pe", folder.parent / "train.csv", len(rows), missing, count)
