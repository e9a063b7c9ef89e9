from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from medtransfer.core.errors import UserError
from medtransfer.data.catalog import TASKS
from medtransfer.data.readers.chestxray14 import LABELS as CHESTXRAY14_LABELS
from medtransfer.data.readers.chestxray14 import read_labels
from medtransfer.data.readers.chexpert import LABELS as CHEXPERT_LABELS
from medtransfer.data.readers.reading import Picture, Sample, read


def samples(dataset: str, root: Path) -> list[Sample]:
    return list(read(TASKS[dataset], root))


def refused(dataset: str, root: Path, *words: object) -> None:
    with pytest.raises(UserError) as caught:
        samples(dataset, root)
    for word in (f"dataset {dataset}", *words):
        assert str(word) in str(caught.value)


def touch(root: Path, names: Iterable[str]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


# CheXpert

HEADER = ",".join(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_LABELS])
TRAIN = {
    "train/patient00001/study1/view1_frontal": "1.0,,,,,,,,,0.0,,,,1.0",
    "train/patient00002/study2/view1_frontal": ",,-1.0,1.0,,-1.0,-1.0,,-1.0,,-1.0,,1.0,",
    "train/patient00002/study1/view2_lateral": ",,,,,,,,,,,,,",
}
VALID = {
    "valid/patient64541/study1/view1_frontal": "0.0,1.0,1.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,0.0,0.0,0.0",
    "valid/patient64542/study1/view1_frontal": "0.0,0.0,0.0,,0.0,0.0,0.0,0.0,0.0,0.0,1.0,0.0,0.0,1.0",
}


def chexpert(home: Path, prefix: str = "CheXpert-v1.0-small/") -> Path:
    """Writes the layout with five images."""
    for name, rows in (("train", TRAIN), ("valid", VALID)):
        touch(home, (f"{path}.jpg" for path in rows))
        lines = [HEADER, *(f"{prefix}{path}.jpg,Female,68,Frontal,AP,{values}" for path, values in rows.items())]
        (home / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return home


def test_chexpert_rows_become_samples(tmp_path: Path) -> None:
    found = samples("chexpert", chexpert(tmp_path))
    assert [s.id for s in found] == [*TRAIN, *VALID]
    assert [s.split for s in found] == ["trainval"] * 3 + ["test"] * 2
    assert [s.patient for s in found][:3] == ["patient00001", "patient00002", "patient00002"]
    assert [s.image for s in found] == [Picture(tmp_path / f"{s.id}.jpg") for s in found]
    assert found[0].labels == (1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)
    assert found[1].labels == (0, 0, -1, 1, 0, -1, -1, 0, -1, 0, -1, 0, 1, 0)
    assert found[2].labels == (0,) * 14
    assert found[3].labels == (0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0)


@pytest.mark.parametrize("home", [".", "CheXpert-v1.0-small", "CheXpert-v1.0"])
@pytest.mark.parametrize(
    "prefix", ["", "CheXpert-v1.0-small/", "CheXpert-v1.0/", "CheXpert-v1.0 batch 2 (train 1)/", "a/train/b/"]
)
def test_chexpert_folders_and_prefixes_are_independent(tmp_path: Path, home: str, prefix: str) -> None:
    plain = samples("chexpert", chexpert(tmp_path / "plain", prefix=""))
    chexpert(tmp_path / "other" / home, prefix)
    found = samples("chexpert", tmp_path / "other")
    assert [(s.id, s.labels, s.split) for s in found] == [(s.id, s.labels, s.split) for s in plain]
    assert all(s.image.path.is_file() for s in found)


def test_chexpert_columns_count_by_name_and_backslashes_are_slashes(tmp_path: Path) -> None:
    before = samples("chexpert", chexpert(tmp_path))
    for name in ("train", "valid"):
        rows = [line.split(",") for line in (tmp_path / f"{name}.csv").read_text().splitlines()]
        turned = [",".join([*row[:4:-1], row[0].replace("/", "\\")]) for row in rows]
        (tmp_path / f"{name}.csv").write_text("\ufeff" + "\r\n".join(turned) + "\r\n", encoding="utf-8")
    assert before[0].groups == {"sex": "Female", "age": "60 and above", "view": "AP"}
    assert samples("chexpert", tmp_path) == [replace(sample, groups={}) for sample in before]  # those columns are gone


@pytest.mark.parametrize("name", ["train.csv", "valid.csv"])
def test_chexpert_needs_both_tables(tmp_path: Path, name: str) -> None:
    (chexpert(tmp_path) / name).unlink()
    refused("chexpert", tmp_path, name, tmp_path, TASKS["chexpert"].source)


@pytest.mark.parametrize(
    ("table", "old", "new", "words"),
    [
        ("train.csv", "Pleural Other", "Pleural Others", ["it lacks Pleural Other", "'Pleural Others'"]),
        ("train.csv", "Path", "File", ["it lacks Path"]),
        ("train.csv", "1.0,,,", "2.0,,,", ["line 2", "No Finding is '2.0'", "-1.0"]),
        ("train.csv", ",,-1.0,", ",,maybe,", ["line 3", "Cardiomegaly is 'maybe'"]),
        ("train.csv", "patient00002/study1", "P2/study1", ["line 4", "P2/study1/view2_lateral.jpg"]),
        ("train.csv", "train/patient00001", "valid/patient00001", ["line 2", "valid/patient00001"]),
        ("train.csv", "study1/view2_lateral", "study2/view1_frontal", ["line 4", "study2/view1_frontal", "twice"]),
        ("train.csv", ",0.0,,,,1.0", ",0.0", ["line 2", "too few fields"]),
        ("valid.csv", "0.0,1.0,1.0", "0.0,1.0,-1.0", ["line 2", "Cardiomegaly is '-1.0'", "test labels are certain"]),
        ("valid.csv", "patient64542", "patient64541", ["line 3", "twice"]),
    ],
)
def test_chexpert_refuses_what_is_wrong_in_a_table(
    tmp_path: Path, table: str, old: str, new: str, words: list[str]
) -> None:
    change(chexpert(tmp_path) / table, old, new)
    refused("chexpert", tmp_path, tmp_path / table, *words)


def test_chexpert_counts_missing_images_and_names_three(tmp_path: Path) -> None:
    chexpert(tmp_path)
    (tmp_path / "valid/patient64541/study1/view1_frontal.jpg").unlink()
    refused("chexpert", tmp_path, "valid.csv names 2 images, 1 are not", "valid/patient64541/study1/view1_frontal.jpg")
    shutil.rmtree(tmp_path / "train")
    refused("chexpert", tmp_path, "train.csv names 3 images, 3 are not", *(f"{name}.jpg" for name in TRAIN))


# ChestX-ray14: variants of the archive and the paper's own lists

FINDINGS = ["Mass|Pleural Thickening", "No Finding", "Hernia", "Edema", "Mass", "No Finding"]
NAMES = [f"{patient:08d}_{number:03d}.png" for patient in (1, 2, 3) for number in (0, 1)]


def chestxray14(root: Path, lists: dict[str, list[str]]) -> Path:
    """Writes the layout with six images of three patients and the given lists."""
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,View Position,OriginalImage[Wi"
    rows = [f"{name},{text},0,{int(name[:8])},058Y,M,PA,2682," for name, text in zip(NAMES, FINDINGS, strict=True)]
    touch(root / "images_001/images", NAMES[:3])
    touch(root / "images", NAMES[3:])
    (root / "Data_Entry_2017.csv").write_text("\n".join([header, *rows]) + "\n")
    for name, listed in lists.items():
        (root / name).write_text("\n".join(listed) + "\n")
    return root


OFFICIAL = {"train_val_list.txt": NAMES[:4], "test_list.txt": NAMES[4:]}
OWN = {"train_list.txt": NAMES[2:4], "val_list.txt": NAMES[:2]}


def test_chestxray14_official_lists(tmp_path: Path) -> None:
    found = samples("chestxray14", chestxray14(tmp_path, OFFICIAL))
    assert [s.split for s in found] == ["trainval"] * 4 + ["test"] * 2
    assert found[0].labels == (0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0)
    assert all(s.image.path.is_file() for s in found)


@pytest.mark.parametrize("official", [["test_list.txt"], ["train_val_list.txt", "test_list.txt"]])
@pytest.mark.parametrize("behind", ["", " 0 1 0 0 0 0 0 0 0 0 0 0 0 0", "\t1"])
def test_chestxray14_own_lists_take_the_place_of_the_official_one(
    tmp_path: Path, official: list[str], behind: str
) -> None:
    lists = {**OWN, **{name: OFFICIAL[name] for name in official}}
    chestxray14(tmp_path, {name: [line + behind for line in listed] for name, listed in lists.items()})
    found = samples("chestxray14", tmp_path)
    assert [s.image.path.name for s in found] == [*OWN["train_list.txt"], *OWN["val_list.txt"], *NAMES[4:]]
    assert [s.split for s in found] == ["train"] * 2 + ["val"] * 2 + ["test"] * 2


def alter(**lists: list[str]) -> dict[str, list[str]]:
    return {**OFFICIAL, **OWN, **{f"{name}.txt": listed for name, listed in lists.items()}}


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        (alter(val_list=NAMES[:1]), ["train_val_list.txt", "1 are only in one", NAMES[1]]),
        (alter(val_list=[*NAMES[:2], NAMES[4]]), ["train_val_list.txt", "1 are only in one", NAMES[4]]),
        (alter(train_list=NAMES[1:4]), ["both lists", "train and val", NAMES[1]]),
        ({**OWN, "test_list.txt": NAMES[1:]}, ["both lists", "train and test", NAMES[2]]),
        ({"train_list.txt": NAMES[:4], "test_list.txt": NAMES[4:]}, ["found train_list.txt alone"]),
        (OWN, ["test_list.txt"]),
        ({"test_list.txt": NAMES[4:]}, ["train_val_list.txt"]),
        (alter(val_list=[NAMES[0], *NAMES[:2]]), ["val_list.txt", "twice", NAMES[0]]),
    ],
)
def test_chestxray14_refuses_lists_that_do_not_fit(
    tmp_path: Path, lists: dict[str, list[str]], words: list[str]
) -> None:
    refused("chestxray14", chestxray14(tmp_path, lists), *words)


# Labels


@given(st.lists(st.sampled_from(CHESTXRAY14_LABELS), unique=True), st.booleans(), st.integers(0, 2))
def test_labels_of_an_nih_row_are_those_it_names_in_any_order_and_spelling(
    names: list[str], spaced: bool, padding: int
) -> None:
    words = [name.replace("_", " ") if spaced else name for name in names]
    text = "|".join(" " * padding + word + " " * padding for word in words) or "No Finding"
    values = read_labels("x.png", text)
    assert {name for name, value in zip(CHESTXRAY14_LABELS, values, strict=True) if value} == set(names)
    assert set(values) <= {0, 1}


@given(st.text(alphabet=st.characters(exclude_characters="|"), min_size=1))
def test_labels_of_an_nih_row_that_are_unknown_are_refused(word: str) -> None:
    known = {*CHESTXRAY14_LABELS, "No_Finding"}
    assume(word.strip().replace(" ", "_") not in known)
    with pytest.raises(UserError, match="has the label"):
        read_labels("x.png", f"Mass|{word}")
