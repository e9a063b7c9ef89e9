"""The full official tables, as the package torchxrayvision ships them: hand-made ones cannot have all their traps."""

from __future__ import annotations

import csv
import gzip
import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medtransfer.data.catalog import TASKS
from medtransfer.data.images import run_lengths
from medtransfer.data.readers import chestxray14, chexpert, siim
from medtransfer.data.readers.chestxray14 import LABELS as CHESTXRAY14_LABELS
from medtransfer.data.readers.chexpert import LABELS as CHEXPERT_LABELS
from medtransfer.data.readers.reading import Sample, read
from medtransfer.data.splits import draw_split
from tests.data.images.test_dicom import dicom
from tests.data.readers.test_bad_files import touch

NIH_TABLE = "Data_Entry_2017_v2020.csv"
UNCERTAIN = {
    "Atelectasis": 33_739, "Cardiomegaly": 8_087, "Consolidation": 27_742, "Edema": 12_984, "Pleural Effusion": 11_628,
}  # fmt: skip
Labelled = tuple[NDArray[np.str_], NDArray[np.int8]]
"""patients and labels of all images"""


def unpack(name: str, path: Path) -> Path:
    """Unpacks a table of the package without importing it, which takes seconds."""
    spec = importlib.util.find_spec("torchxrayvision")
    assert spec is not None
    assert spec.submodule_search_locations
    packed = Path(spec.submodule_search_locations[0]) / "data" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.decompress(packed.read_bytes()))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("tables")
    unpack("Data_Entry_2017_v2020.csv.gz", top / NIH_TABLE)
    unpack("chexpert_train.csv.gz", top / "train.csv")
    unpack("siim-pneumothorax-train-rle.csv.gz", top / "train-rle.csv")
    return top


@pytest.fixture(scope="module")
def nih(folder: Path) -> Labelled:
    table = chestxray14.read_table(folder)
    labels = [chestxray14.read_labels(name, text) for name, (text, _) in table.items()]
    return np.array([patient for _, patient in table.values()]), np.array(labels, dtype=np.int8)


@pytest.fixture(scope="module")
def stanford(folder: Path) -> Labelled:
    rows = chexpert.read_table(folder / "train.csv").values()
    return np.array([patient for patient, _ in rows]), np.array([labels for _, labels in rows], dtype=np.int8)


def positives(task: str, split: str) -> NDArray[Any]:
    return np.array(TASKS[task].positives[split])


# ChestX-ray14


def test_nih_table_has_the_published_counts(nih: Labelled) -> None:
    patients, labels = nih
    assert labels.shape == (112_120, 14)
    assert len(labels) == sum(TASKS["chestxray14"].counts.values())
    assert len(np.unique(patients)) == 30_805
    assert (labels.sum(axis=0) == positives("chestxray14", "trainval") + positives("chestxray14", "test")).all()


def test_nih_patients_are_the_first_digits_of_the_names(folder: Path) -> None:
    assert all(int(name[:8]) == int(patient) for name, (_, patient) in chestxray14.read_table(folder).items())


def test_nih_boxes_are_of_known_images_and_of_labels_that_these_have(folder: Path) -> None:
    table = chestxray14.read_table(folder)
    boxes = list(csv.reader(unpack("BBox_List_2017.csv.gz", folder / "BBox_List_2017.csv").open()))[1:]
    assert len(boxes) == 984
    for image, label, *_ in boxes:
        found = chestxray14.read_labels(image, table[image][0])
        assert found[CHESTXRAY14_LABELS.index({"Infiltrate": "Infiltration"}.get(label, label))] == 1


@pytest.mark.slow
def test_nih_is_read_whole(folder: Path, nih: Labelled, tmp_path: Path) -> None:
    names, kept = list(chestxray14.read_table(folder)), in_train_val(nih)
    unpack("Data_Entry_2017_v2020.csv.gz", tmp_path / NIH_TABLE)
    (tmp_path / "images").mkdir()
    touch(tmp_path / "images", names)
    for name, listed in (("train_val_list.txt", kept), ("test_list.txt", ~kept)):
        (tmp_path / name).write_text("\n".join(np.array(names)[listed]))
    found = list(read(TASKS["chestxray14"], tmp_path))
    assert Counter(s.split for s in found) == {"trainval": int(kept.sum()), "test": int((~kept).sum())}
    assert len({s.id for s in found}) == 112_120
    order = np.concatenate([np.flatnonzero(kept), np.flatnonzero(~kept)])
    assert [s.patient for s in found] == nih[0][order].tolist()
    assert (np.array([s.labels for s in found]) == nih[1][order]).all()


# CheXpert


def test_chexpert_table_has_the_published_counts(stanford: Labelled) -> None:
    patients, labels = stanford
    assert labels.shape == (TASKS["chexpert"].counts["trainval"], 14) == (223_414, 14)
    assert len(np.unique(patients)) == 64_540
    assert ((labels == 1).sum(axis=0) == positives("chexpert", "trainval")).all()
    uncertain = dict(zip(CHEXPERT_LABELS, (labels == -1).sum(axis=0).tolist(), strict=True))
    assert {label: uncertain[label] for label in UNCERTAIN} == UNCERTAIN
    assert uncertain["No Finding"] == 0
    assert sum(uncertain.values()) == 139_958


@pytest.mark.slow
def test_chexpert_is_read_whole(folder: Path, stanford: Labelled, tmp_path: Path) -> None:
    table = unpack("chexpert_train.csv.gz", tmp_path / "CheXpert-v1.0-small/train.csv")
    lines = table.read_text().splitlines()
    row = lines[1].replace("/train/", "/valid/")
    table.with_name("valid.csv").write_text(f"{lines[0]}\n{row}\n")
    touch(table.parent, [*chexpert.read_table(table), row.split(",")[0].split("/", 1)[1]])
    found = list(read(TASKS["chexpert"], tmp_path))
    assert Counter(s.split for s in found) == {"trainval": 223_414, "test": 1}
    assert len({s.id for s in found}) == 223_415
    assert [s.patient for s in found[:-1]] == stanford[0].tolist()
    assert (np.array([s.labels for s in found[:-1]]) == stanford[1]).all()


# SIIM-ACR


def test_siim_table_has_the_published_counts(folder: Path) -> None:
    rows = siim.read_table(folder / "train-rle.csv")
    assert len(rows) == TASKS["siim"].counts["all"] == 12_047
    assert sum(map(bool, rows.values())) == TASKS["siim"].positives["all"][0] == 2_669
    assert sum(max(1, len(parts)) for parts in rows.values()) == 12_954
    assert max(map(len, rows.values())) == 10


@pytest.mark.slow
def test_siim_run_lengths_fit_their_canvas_and_are_written_as_they_were_read(folder: Path) -> None:
    texts = [text for parts in siim.read_table(folder / "train-rle.csv").values() for text in parts]
    assert len(texts) == 3_576
    for text in texts:
        mask = run_lengths.decode(text, 1024, 1024)
        assert int(mask.sum()) == sum(map(int, text.split()[1::2]))
        assert run_lengths.encode(mask) == text


@pytest.mark.slow
def test_siim_is_read_whole(folder: Path, tmp_path: Path) -> None:
    unpack("siim-pneumothorax-train-rle.csv.gz", tmp_path / "train-rle.csv")
    dicom(tmp_path / "one", patient="somebody")
    header = (tmp_path / "one").read_bytes()
    rows = siim.read_table(tmp_path / "train-rle.csv")
    for number, name in enumerate(rows):
        path = tmp_path / "dicom-images-train" / str(number) / "series" / f"{name}.dcm"
        path.parent.mkdir(parents=True)
        path.write_bytes(header)
    found: list[Sample] = list(read(TASKS["siim"], tmp_path))
    assert [s.id for s in found] == list(rows)
    assert [len(s.masks[0]) for s in found] == [len(parts) for parts in rows.values()]
    assert sum(s.labels[0] for s in found) == 2_669


# Draws


def in_train_val(nih: Labelled) -> NDArray[np.bool_]:
    """Marks images as train_val by their patients, of whom the published split has 28,008."""
    patients = np.unique(nih[0])
    drawn = np.random.default_rng(0).permutation(patients)[: 24_342 + 3_666]
    return np.isin(nih[0], drawn)


def by_patient(patients: NDArray[np.str_], values: NDArray[Any]) -> NDArray[Any]:
    """Takes the largest value of each patient's images."""
    names, number = np.unique(patients, return_inverse=True)
    largest = np.full((len(names), *values.shape[1:]), values.min())
    np.maximum.at(largest, number, values)
    return largest


def prevalences(labels: NDArray[Any], val: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Divides each label's share of positives in val by that in train."""
    return np.asarray((labels[val] > 0).mean(axis=0) / (labels[~val] > 0).mean(axis=0))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("task", ["chestxray14", "chexpert"])
def test_a_draw_from_the_full_table_is_fair(task: str, seed: int, request: pytest.FixtureRequest) -> None:
    patients, labels = request.getfixturevalue({"chestxray14": "nih", "chexpert": "stanford"}[task])
    if task == "chestxray14":
        kept = in_train_val((patients, labels))
        patients, labels = patients[kept], labels[kept]
    share = TASKS[task].draw["val"]
    val = draw_split(patients, labels, {"val": share}, seed) == "val"
    drawn = by_patient(patients, val)
    assert (by_patient(patients, ~val) == ~drawn).all()  # a patient is in one of the two
    assert abs(drawn.sum() - share * len(drawn)) <= 1
    frequent = (labels > 0).sum(axis=0) > 1000
    assert frequent.sum() >= 13
    assert (np.abs(prevalences(by_patient(patients, labels), drawn)[frequent] - 1) < 0.01).all()
    # some patients have a hundred images, so that images cannot be as even as patients are
    assert (np.abs(prevalences(labels, val)[frequent] - 1) < 0.25).all()
