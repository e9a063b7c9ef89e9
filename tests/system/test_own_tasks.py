from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from medtransfer.core.errors import UserError
from medtransfer.data import catalog, raw
from medtransfer.data.readers.reading import Marking, Picture, Sample, read

Write = Callable[..., list[Sample]]

ROWS = [
    {"image": f"images/{n}.png", "who": f"p{n // 2}", "part": ("train", "train", "val", "test")[n % 4],
     "Pneumonia": str(n % 2), "Effusion": str(n % 3 % 2), "grade": str(n % 3), "mask": f"masks/{n}.png"}
    for n in range(8)
]  # fmt: skip
MULTILABEL = {
    "kind": "multilabel", "labels": ["Pneumonia", "Effusion"], "table": "images.csv", "patient": "who",
    "split": "part", "image_size": 32,
}  # fmt: skip


@pytest.fixture
def own(tmp_path: Path) -> Write:
    """Writes a task of images and a table, and reads it."""
    folder = tmp_path / "data/raw/mine"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
        for n in range(8):
            Image.new("L", (40, 30), 20 * n).save(folder / name / f"{n}.png")

    def write(rows: Iterable[dict[str, str]] | str = ROWS, delimiter: str = ",", **changes: Any) -> list[Sample]:
        (folder / "task.yaml").write_text(yaml.safe_dump(MULTILABEL | changes))
        if isinstance(rows, str):
            (folder / "images.csv").write_text(rows)
        else:
            rows = list(rows)
            with open(folder / "images.csv", "w", newline="", encoding="utf-8-sig") as stream:
                writer = csv.DictWriter(stream, rows[0], delimiter=delimiter)
                writer.writeheader()
                writer.writerows(rows)
        return list(read(catalog.lookup("mine", tmp_path), folder))

    return write


def changed(row: int, **values: str) -> list[dict[str, str]]:
    return [{**r, **values} if n == row else r for n, r in enumerate(ROWS)]


def test_labels_patients_and_splits_come_from_the_table(own: Write, tmp_path: Path) -> None:
    found = own()
    assert [sample.labels for sample in found[:3]] == [(0, 0), (1, 1), (0, 0)]
    assert [sample.patient for sample in found[:3]] == ["p0", "p0", "p1"]
    assert [sample.split for sample in found[:4]] == ["train", "train", "val", "test"]
    assert found[3].image == Picture(tmp_path / "data/raw/mine/images/3.png")


def test_names_hide_the_path_unless_a_column_gives_them(own: Write) -> None:
    assert all(len(s.id) == 12 and "images" not in s.id for s in own())
    assert {s.id for s in own(reversed(ROWS))} == {s.id for s in own()}
    assert own(changed(0, grade="first"), id="image")[0].id == "images/0.png"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_separators_of_other_countries(own: Write, delimiter: str) -> None:
    assert len(own(delimiter=delimiter)) == 8


def test_words_for_splits(own: Write) -> None:
    assert own(changed(0, part="Validation"))[0].split == "val"
    assert {s.split for s in own(split={"val": 0.2, "test": 0.2})} == {"all"}
    assert {s.split for s in own(split={"column": "part", "val": 0.2})} == {"trainval", "test"}
    assert {s.split for s in own(split={"folds": 3})} == {"all"}


def test_classes_are_names(own: Write) -> None:
    found = own(kind="multiclass", labels=[0, 1, 2], label="grade")
    assert [sample.labels for sample in found[:3]] == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert own(changed(2, grade="2.0"), kind="multiclass", labels=[0, 1, 2], label="grade")[2].labels == (0, 0, 1)


def test_uncertain_labels_where_the_task_says_so(own: Write) -> None:
    assert own(changed(1, Pneumonia="-1"), uncertain=True)[1].labels == (-1, 1)


def test_masks_and_their_absence(own: Write, tmp_path: Path) -> None:
    one = own(changed(1, mask="empty"), kind="segmentation", labels=["Lung"], mask="mask")
    assert one[0].masks == ((Picture(tmp_path / "data/raw/mine/masks/0.png"),),)
    assert one[1].masks == ((),)
    assert one[0].labels == ()
    two = own(kind="segmentation", labels=["Lung", "Heart"], mask="mask", values={"Lung": 1, "Heart": 7})
    assert [part[0].marking.values for part in two[0].masks if isinstance(part[0], Picture)] == [(1,), (7,)]


def test_frames_of_one_file(own: Write) -> None:
    rows = [{**row, "image": "images/0.png", "slice": str(n)} for n, row in enumerate(ROWS)]
    found = own(rows, frame="slice")
    assert [sample.image.frame for sample in found] == list(range(8))
    assert len({sample.id for sample in found}) == 8


def test_backslashes_are_slashes(own: Write) -> None:
    assert own(changed(0, image="images\\0.png"))[0].image.path.name == "0.png"


@pytest.mark.parametrize(
    ("row", "values", "settings", "words"),
    [
        (2, {"image": "C:\\scans\\2.png"}, {}, r"images\.csv, line 4: 'C:.*2\.png' is a path of a Windows"),
        (2, {"image": "images/9.png"}, {}, r"1 of the files it names are not there: line 4: .*images/9\.png"),
        (2, {"image": ""}, {}, "line 4: image is blank"),
        (2, {"image": "images/1.png"}, {}, r"line 4: the image 1\.png was in line 3 already"),
        (2, {"grade": "0"}, {"id": "grade"}, "line 4: the id '0' was in line 2 already"),
        (2, {"Pneumonia": "2"}, {}, "line 4: Pneumonia must be 0 or 1, got '2'"),
        (2, {"Pneumonia": "nan"}, {}, "got 'nan'. A blank or NaN is no label"),
        (2, {"Pneumonia": ""}, {}, "got ''. A blank or NaN is no label"),
        (2, {"Pneumonia": "-1"}, {}, "For uncertain labels say `uncertain: true`"),
        (2, {"part": "holdout"}, {}, "line 4: the split must be train, val or test, got 'holdout'"),
        (2, {"part": "trainval"}, {}, "to be divided"),
        (2, {"who": ""}, {}, r"line 4: the patient \(who\) is blank"),
        (2, {"grade": "9"}, {"kind": "multiclass", "labels": [0, 1, 2], "label": "grade"}, "one of 0, 1, 2, got '9'"),
        (2, {"mask": ""}, {"kind": "segmentation", "labels": ["L"], "mask": "mask"}, "or write `empty`"),
        (2, {"grade": "a"}, {"frame": "grade"}, "line 4: a frame is a whole number from 0, got 'a'"),
        (2, {}, {"patient": "patient_id"}, "has no column 'patient_id'. Its columns: image, who"),
        (2, {}, {"patient": "whom"}, "has no column 'whom'; did you mean 'who'?"),
        (2, {}, {"table": "image.csv"}, r"looked for the table .*image\.csv, found images\.csv in that folder"),
    ],
)
def test_bad_rows_are_refused_with_line_and_value(
    own: Write, row: int, values: dict[str, str], settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        own(changed(row, **values), **settings)


@pytest.mark.parametrize(("yes", "no"), [("True", "False"), ("yes", "no"), ("on", "OFF"), ("TRUE", "0"), ("1.0", "No")])
def test_words_for_one_and_zero(own: Write, yes: str, no: str) -> None:
    rows = [{**row, "Pneumonia": yes if row["Pneumonia"] == "1" else no} for row in ROWS]
    assert [sample.labels for sample in own(rows)] == [sample.labels for sample in own()]
    words = [{**row, "grade": (no, yes)[n % 2]} for n, row in enumerate(ROWS)]
    if "0" not in no and "1" not in yes:
        found = own(words, kind="multiclass", labels=[False, True], label="grade")
        assert [sample.labels for sample in found[:2]] == [(1, 0), (0, 1)]


def test_a_patient_is_one_however_pandas_writes_the_number(own: Write) -> None:
    names = ["1", "1.0", "2", "02x", "2.00", "3.0", "a", "10"]
    found = own([{**row, "who": name} for row, name in zip(ROWS, names, strict=True)])
    assert [sample.patient for sample in found] == ["1", "1", "2", "02x", "2", "3.0", "a", "10"]


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("7", "007", "line 3: the patient '007' may be '7' of line 2"),
        ("P1", "p1", "line 3: the patient 'p1' may be 'P1' of line 2"),
        ("a", "NA", r"line 3: the patient \(who\) is 'NA', which says that it is not known"),
        ("a", "nan", "line 3: .* is 'nan'"),
        ("a", "Unknown", "`patient: none`"),
    ],
)
def test_patients_that_may_be_one_or_none_are_refused(own: Write, first: str, second: str, words: str) -> None:
    rows = changed(1, who=second)
    rows[0] = rows[0] | {"who": first}
    with pytest.raises(UserError, match=words):
        own(rows)


def test_numbers_of_a_place_and_a_patient_are_not_made_one(own: Write) -> None:
    names = ["1.0", "1", "1.1", "1.2", "2.1", "2.2", "3.1", "3.2"]
    with pytest.raises(UserError, match=r"line 3: the patient '1' may be '1\.0'"):
        own([{**row, "who": name} for row, name in zip(ROWS, names, strict=True)])
    found = own([{**row, "who": name} for row, name in zip(ROWS, ["1.0", "2.0", *names[2:]], strict=True)])
    assert [sample.patient for sample in found[:3]] == ["1.0", "2.0", "1.1"]


@pytest.mark.parametrize("way", ["..", "absolute", "link", "linked folder"])
def test_paths_lead_out_of_the_folder_only_where_it_is_said(own: Write, tmp_path: Path, way: str) -> None:
    folder, elsewhere = tmp_path / "data/raw/mine", tmp_path / "scans"
    elsewhere.mkdir()
    Image.new("L", (40, 30), 99).save(elsewhere / "x.png")
    path = {"..": "../../../scans/x.png", "absolute": str(elsewhere / "x.png")}.get(way, "images/x.png")
    if way == "link":
        (folder / "images/x.png").symlink_to(elsewhere / "x.png")
    if way == "linked folder":
        (folder / "linked").symlink_to(elsewhere)
        path = "linked/x.png"
    with pytest.raises(UserError, match=rf"images\.csv, line 2: '.*x\.png' leads out .*`outside: \[{elsewhere}\]`"):
        own(changed(0, image=path))
    for place in (str(elsewhere), "../../../scans"):
        assert own(changed(0, image=path), outside=[place])[0].image.path.samefile(elsewhere / "x.png")
    source = raw.Source(folder.name, synthetic=False, root=folder.parents[2])
    before = raw.fingerprint(source)
    Image.new("L", (400, 300), 99).save(elsewhere / "x.png")
    assert raw.fingerprint(source) != before


def test_a_folder_that_is_itself_a_link_is_no_way_out(own: Write, tmp_path: Path) -> None:
    own()
    (tmp_path / "data/raw/mine").rename(tmp_path / "elsewhere")
    (tmp_path / "data/raw/mine").symlink_to(tmp_path / "elsewhere")
    assert len(list(read(catalog.lookup("mine", tmp_path), tmp_path / "data/raw/mine"))) == 8


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (
            'image,who,part,Pneumonia,Effusion\nimages/0.png,a,train,1,"0\n' + "images/1.png,b,train,1,0\n" * 9,
            "a quote is opened",
        ),
        (
            'image,who,part,Pneumonia,Effusion\nimages/0.png,"a,train,1,0\n' + "x" * 140_000,
            "field larger than field limit.*a quote",
        ),
        ('image,who,part,Pneumonia,Effusion\nimages/0.png,"a"b,train,1,0\n', "line 2: .*a quote"),
        ("image,who,part,Pneumonia,Effusion\nimages/0.png,a,train,1\n", "line 2: 4 fields, the header has 5"),
        ("image,who,who,part\n", "column 'who' is there twice"),
    ],
)
def test_broken_tables(own: Write, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        own(text)


# Arrays


def arrays(folder: Path, **content: Any) -> list[Sample]:
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"arrays": "a.npz", "table": "", "patient": "none", "split": "official"} | content.pop("settings", {})
    (folder / "task.yaml").write_text(yaml.safe_dump(MULTILABEL | settings))
    np.savez_compressed(folder / "a.npz", **content)
    return list(read(catalog.lookup(folder.name, folder.parents[2]), folder))


def medmnist(labels: Callable[[int], Any], **others: Any) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for split, count in (("train", 6), ("val", 3), ("test", 4)):
        content[f"{split}_images"] = np.zeros((count, 28, 28), dtype=np.uint8)
        content[f"{split}_labels"] = np.array([labels(n) for n in range(count)], dtype=np.uint8)
    return content | others


def test_arrays_of_every_kind(tmp_path: Path) -> None:
    folder = tmp_path / "data/raw/set"
    found = arrays(folder, **medmnist(lambda n: [n % 2, 1]))
    assert [sample.split for sample in found] == ["train"] * 6 + ["val"] * 3 + ["test"] * 4
    assert found[1].labels == (1, 1)
    assert found[7].image == Picture(folder / "a.npz", frame=1, member="val_images")
    assert len({sample.id for sample in found}) == 13
    found = arrays(folder, settings={"kind": "binary", "labels": ["ill"]}, **medmnist(lambda n: [n % 2]))
    assert found[1].labels == (1,)
    found = arrays(folder, settings={"kind": "multiclass", "labels": ["a", "b", "c"]}, **medmnist(lambda n: [n % 3]))
    assert found[2].labels == (0, 0, 1)
    masks = {f"{split}_masks": np.zeros((9, 28, 28), np.uint8) for split in ("train", "val", "test")}
    found = arrays(folder, settings={"kind": "segmentation", "labels": ["L", "H"]}, **medmnist(lambda n: [0], **masks))
    assert found[0].masks[1] == (
        Picture(folder / "a.npz", frame=0, member="train_masks", marking=Marking(values=(2,))),
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"other": np.zeros(3)}, r"must hold train_images, .* holds \['other'\]"),
        ({"images": np.zeros((3, 8, 8), np.uint8)}, "has no array labels"),
        (medmnist(lambda n: [n % 2]), "train_labels has 1 columns, the multilabel task 2"),
        (medmnist(lambda n: [0, 3]), r"must hold 0 to 1, row 0 holds \[0, 3\]"),
        (medmnist(lambda n: [0, 1], train_labels=np.zeros((5, 2), np.uint8)), "must be 6 rows"),
        (medmnist(lambda n: [0, 1], val_labels=np.full((3, 2), np.nan)), "rows of whole numbers"),
    ],
)
def test_broken_arrays(tmp_path: Path, content: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        arrays(tmp_path / "data/raw/set", **content)


def test_a_file_that_is_no_npz(tmp_path: Path) -> None:
    folder = tmp_path / "data/raw/set"
    arrays(folder, **medmnist(lambda n: [0, 1]))
    (folder / "a.npz").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"cannot be read as an \.npz"):
        list(read(catalog.lookup("set", tmp_path), folder))
    (folder / "a.npz").unlink()
    with pytest.raises(UserError, match=r"found no \.npz"):
        list(read(catalog.lookup("set", tmp_path), folder))
