"""NIH ChestX-ray14: 112,120 frontal chest X-rays with 14 text-mined labels (Wang et al., CVPR 2017)."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from medtransfer.datasets import Sample, Split, refuse, require_folder
from medtransfer.errors import UserError
from medtransfer.tasks import CHESTXRAY14_LABELS

TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
LISTS: tuple[tuple[str, Split], ...] = (("train_val_list.txt", "trainval"), ("test_list.txt", "test"))
COLUMNS = ("Image Index", "Finding Labels", "Patient ID")
"""the first columns of every version of the table have these names; later ones differ (`Patient Sex`)"""


def read(root: Path) -> Iterator[Sample]:
    """Yields the images that the official lists name, first those of train_val, then those of test.

    Images may lie in `images/` or in `images_001/images/` to `images_012/images/`. Table rows and images that no list
    names are left out.

    Raises:
        UserError: a table, list or image is missing, a label is unknown, or an image is in both lists.
    """
    table, images = _read_table(root), _find_images(root)
    lists = {split: _read_list(root / name) for name, split in LISTS}
    both = sorted(set(lists["trainval"]) & set(lists["test"]))
    if both:
        raise UserError(f"dataset chestxray14: {len(both)} images are in both lists under {root}: {_some(both)}")
    for split, names in lists.items():
        for missing, where in ((set(names) - set(images), "images on disk"), (set(names) - set(table), "table rows")):
            if missing:
                raise UserError(
                    f"dataset chestxray14: the {split} list names {len(names)} images, {len(missing)} have no {where} "
                    f"under {root}: {_some(sorted(missing))}. Complete the files or shorten the list"
                )
        for name in names:
            labels, patient = table[name]
            yield Sample(
                id=Path(name).stem, patient=patient, split=split, image=images[name], labels=_labels(name, labels)
            )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _read_table(root: Path) -> dict[str, tuple[str, str]]:
    """Reads image name -> (finding labels, patient).

    The header has commas inside brackets: behind the first of them, names and fields no longer stand below each other.
    """
    path = next((root / name for name in TABLES if (root / name).is_file()), None)
    if path is None:
        raise refuse("chestxray14", " or ".join(TABLES), root, "none")
    with open(path, newline="", encoding="utf-8-sig") as stream:
        rows = csv.reader(stream)
        header = next(rows, [])
        absent = [column for column in COLUMNS if column not in header]
        if absent:
            raise UserError(f"dataset chestxray14: {path} must have the columns {COLUMNS}, lacks {absent}: {header}")
        image, labels, patient = (header.index(column) for column in COLUMNS)
        table: dict[str, tuple[str, str]] = {}
        for row in filter(None, rows):  # blank lines are none
            if len(row) <= max(image, labels, patient):
                raise UserError(f"dataset chestxray14: {path}, line {rows.line_num}: too few fields: {row}")
            if row[image] in table:
                raise UserError(f"dataset chestxray14: {path}, line {rows.line_num}: {row[image]} is there twice")
            table[row[image]] = (row[labels], row[patient])
    return table


def _find_images(root: Path) -> dict[str, Path]:
    folders = [root / "images", *sorted(root.glob("images_*/images")), *sorted(root.glob("images_*"))]
    found = {path.name: path for folder in folders if folder.is_dir() for path in folder.glob("*.png")}
    if not found:
        require_folder("chestxray14", root / "images")
        raise refuse("chestxray14", "*.png", root / "images", "none")
    return found


def _read_list(path: Path) -> list[str]:
    if not path.is_file():
        raise refuse("chestxray14", f"the official list {path.name}", path, "none")
    names = path.read_text().split()
    if len(set(names)) < len(names):
        raise UserError(f"dataset chestxray14: {path} names an image twice")
    return names


def _labels(name: str, text: str) -> tuple[int, ...]:
    findings = {part.strip().replace(" ", "_") for part in text.split("|")} - {"No_Finding"}
    unknown = sorted(findings - set(CHESTXRAY14_LABELS))
    if unknown:
        raise UserError(
            f"dataset chestxray14: {name} has the label {unknown[0]!r}, which is not one of "
            f"{', '.join(CHESTXRAY14_LABELS)}"
        )
    return tuple(int(label in findings) for label in CHESTXRAY14_LABELS)
