"""NIH ChestX-ray14: 112,120 frontal chest X-rays with 14 text-mined labels (Wang et al., CVPR 2017)."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from medtransfer.core.errors import UserError
from medtransfer.data.readers.columns import age_band, present, read_rows, read_some, some
from medtransfer.data.readers.reading import Picture, Sample, Split, refuse, require_folder
from medtransfer.data.tasks import Task

LABELS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
TASK = Task(
    name="chestxray14",
    code="DXC14",
    dataset="chestxray14",
    title="Fourteen thorax diseases classification",
    kind="multilabel",
    labels=LABELS,
    channels=1,
    counts={"trainval": 86_524, "test": 25_596},
    positives={
        "trainval": (8280, 1707, 8659, 13782, 4034, 4708, 876, 2637, 2852, 1378, 1423, 1251, 2242, 141),
        "test": (3279, 1069, 4658, 6112, 1748, 1623, 555, 2665, 1815, 925, 1093, 435, 1143, 86),
    },
    draw={"val": 0.13},
    split_source="official",
    metric="auc",
    margin=0.01,
    licence="free use with acknowledgement (NIH Clinical Center)",
    citation="Wang et al., ChestX-ray8, CVPR 2017",
    source="https://nihcc.app.box.com/v/ChestXray-NIHCC",
)
HOW_TO_GET = (
    "open {source} in a browser; it is open, but a Box folder has no address for a program",
    "download images/images_001.tar.gz to images_012.tar.gz (about 42 GB), Data_Entry_2017_v2020.csv, "
    "train_val_list.txt and test_list.txt",
    "unpack all in {folder}, so that it holds images/00000001_000.png..., the table and lists beside images/",
)
"""what a person does, whom no program can replace"""
UNSAID = "how val patients were drawn; here a seeded, patient-disjoint 13% of train_val."
"""what the paper of 2021 does not say of it, and what is done here"""


TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
COLUMNS = ("Image Index", "Finding Labels", "Patient ID")
"""the first columns of every version of the table have these names; later ones differ (`Patient Sex`)"""

Lists = dict[Split, list[str]]
"""split -> names of its images"""


def read(root: Path) -> Iterator[Sample]:
    """Yields the images that the lists name: those of train_val, or of train and then of val, and those of test.

    Images may lie in `images/` or in `images_001/images/` to `images_012/images/`. Table rows and images that no list
    names are left out. Who has the paper's own lists puts them beside the official ones as `train_list.txt` and
    `val_list.txt`; they take the place of `train_val_list.txt`.

    Raises:
        UserError: a table, list or image is missing, a label is unknown, an image is in two lists, or train and val
            are together not train_val.
    """
    table, images, lists = read_table(root), _find_images(root), _read_lists(root)
    groups = _read_groups(root)
    for split, names in lists.items():
        for missing, where in ((set(names) - set(images), "images on disk"), (set(names) - set(table), "table rows")):
            if missing:
                raise UserError(
                    f"dataset chestxray14: the {split} list names {len(names)} images, {len(missing)} have no {where} "
                    f"under {root}: {some(sorted(missing))}. Complete the files or shorten the list"
                )
        for name in names:
            labels, patient = table[name]
            yield Sample(
                id=Path(name).stem,
                patient=patient,
                split=split,
                image=Picture(images[name]),
                labels=read_labels(name, labels),
                groups=groups.get(name, {}),
            )


def read_table(root: Path) -> dict[str, tuple[str, str]]:
    """Reads image name -> (finding labels, patient).

    The header has commas inside brackets: behind the first of them, names and fields no longer stand below each other.

    Raises:
        UserError: the table or a column is missing, or a row is too short or there twice.
    """
    path = _table(root)
    table: dict[str, tuple[str, str]] = {}
    for line, (image, labels, patient) in read_rows("chestxray14", path, COLUMNS):
        if image in table:
            raise UserError(f"dataset chestxray14: {path}, line {line}: {image} is there twice; take one out")
        table[image] = (labels, patient)
    return table


def _table(root: Path) -> Path:
    path = next((root / name for name in TABLES if (root / name).is_file()), None)
    if path is None:
        raise refuse("chestxray14", " or ".join(TABLES), root, "none")
    return path


def _read_groups(root: Path) -> dict[str, dict[str, str]]:
    """Reads image name -> its groups; of later tables one column of two is there."""
    found = {}
    for row in read_some(
        _table(root), ("Image Index", "Patient Age", "Patient Gender", "Patient Sex", "View Position")
    ):
        sex = row["Patient Sex"] or row["Patient Gender"]
        groups = {"sex": sex, "age": age_band(row["Patient Age"]), "view": row["View Position"]}
        found[row["Image Index"]] = present(groups)
    return found


def _find_images(root: Path) -> dict[str, Path]:
    folders = [root / "images", *sorted(root.glob("images_*/images")), *sorted(root.glob("images_*"))]
    found = {path.name: path for folder in folders if folder.is_dir() for path in folder.glob("*.png")}
    if not found:
        require_folder("chestxray14", root / "images")
        raise refuse("chestxray14", "*.png", root / "images", "none")
    return found


def _read_lists(root: Path) -> Lists:
    own = [name for name in ("train_list.txt", "val_list.txt") if (root / name).is_file()]
    if len(own) == 1:
        raise UserError(
            f"dataset chestxray14: looked for train_list.txt and val_list.txt in {root}, found {own[0]} alone; add the "
            "other one or take this one out"
        )
    official = root / "train_val_list.txt"
    first: Lists = {"trainval": _read_list(official)} if official.is_file() or not own else {}
    if own:
        train, val = (_read_list(root / name) for name in own)
        _require_same({*train, *val}, first.get("trainval"), root)
        first = {"train": train, "val": val}
    lists: Lists = {**first, "test": _read_list(root / "test_list.txt")}
    for one, other in itertools.combinations(lists, 2):
        both = sorted(set(lists[one]) & set(lists[other]))
        if both:
            raise UserError(
                f"dataset chestxray14: {len(both)} images are in both lists under {root}, {one} and {other}: "
                f"{some(both)}; take them out of one"
            )
    return lists


def _require_same(own: set[str], official: list[str] | None, root: Path) -> None:
    differing = sorted(own ^ set(official)) if official is not None else []
    if differing:
        raise UserError(
            f"dataset chestxray14: train_list.txt and val_list.txt in {root} must together name the images of "
            f"train_val_list.txt; {len(differing)} are only in one or the other: {some(differing)}. Mend the two lists "
            "or take train_val_list.txt out"
        )


def _read_list(path: Path) -> list[str]:
    """Reads one image name per line; the paper's lists have the labels behind it."""
    if not path.is_file():
        raise refuse("chestxray14", f"the list {path.name}", path, "none")
    names = [line.split()[0] for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"dataset chestxray14: {path} names an image twice: {some(repeated)}; take one out")
    return names


def read_labels(name: str, text: str) -> tuple[int, ...]:
    """Translates `Finding Labels` of an image, such as `Mass|Edema` or `No Finding`.

    Raises:
        UserError: a label is unknown.
    """
    findings = {part.strip().replace(" ", "_") for part in text.split("|")} - {"No_Finding"}
    unknown = sorted(findings - set(LABELS))
    if unknown:
        raise UserError(
            f"dataset chestxray14: {name} has the label {unknown[0]!r}, which is not one of "
            f"{', '.join(LABELS)}; get the official table"
        )
    return tuple(int(label in findings) for label in LABELS)
