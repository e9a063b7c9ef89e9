from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from medtransfer.core.errors import UserError
from medtransfer.data import mask_survey
from medtransfer.data.catalog import TASKS
from medtransfer.data.images.masks import read as read_mask
from medtransfer.data.phantoms import write
from medtransfer.data.readers.chestxray14 import LABELS as CHESTXRAY14_LABELS
from medtransfer.data.readers.reading import Picture, Sample, read

IMAGES = {"chestxray14": 30, "chexpert": 60, "drive": 6, "montgomery": 8, "rsna_pe": 60, "shenzhen": 10, "siim": 12}
REAL = {"drive": ("drive", 20, 20), "chestxray14": ("chestxray14-sample", 508, 108)}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tiny phantom of every dataset; tests that spoil one take a copy."""
    top = tmp_path_factory.mktemp("phantoms")
    for dataset, images in IMAGES.items():
        write.write(dataset, top / dataset, images=images, size=32, seed=0, contrast=1.0)
    return top


@pytest.fixture
def copy(drawn: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda dataset: Path(shutil.copytree(drawn / dataset, tmp_path / dataset))


def samples(dataset: str, root: Path) -> list[Sample]:
    return list(read(TASKS[dataset], root))


def edit(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


def refused(dataset: str, root: Path, *words: object) -> None:
    with pytest.raises(UserError) as caught:
        samples(dataset, root)
    for word in (f"dataset {dataset}", *words):
        assert str(word) in str(caught.value)


@pytest.mark.parametrize("dataset", TASKS)
def test_each_reader_reads_its_official_layout(drawn: Path, dataset: str) -> None:
    found = samples(dataset, drawn / dataset)
    task = TASKS[dataset]
    assert len(found) == IMAGES[dataset] == len({sample.id for sample in found})
    assert {sample.split for sample in found} == set(task.counts)
    for sample in found:
        assert sample.id.endswith(sample.image.path.stem)
        parts = [mask for label in sample.masks for mask in label if isinstance(mask, Picture)]
        assert all(picture.path.is_file() for picture in (sample.image, *parts, *sample.extras.values()))
        assert len(sample.labels) == len(task.labels) or (task.segmentation and not sample.labels)
        assert len(sample.masks) == (len(task.labels) if task.segmentation else 0)
    assert found == samples(dataset, drawn / dataset)


@pytest.mark.parametrize("dataset", TASKS)
def test_a_missing_or_empty_folder_is_refused_with_the_place_and_the_source(dataset: str, tmp_path: Path) -> None:
    refused(dataset, tmp_path / "nowhere", tmp_path / "nowhere", "found nothing")
    refused(dataset, tmp_path, tmp_path, "looked for", TASKS[dataset].source)


@pytest.mark.parametrize(
    ("dataset", "folder", "pattern", "wanted"),
    [
        ("chestxray14", "images", "*.png", "*.png"),
        ("drive", "training/images", "*.tif", "*.tif"),
        ("montgomery", "CXR_png", "*.png", "MCUCXR_"),
        ("shenzhen", "CXR_png", "*.png", "CHNCXR_"),
    ],
)
def test_a_folder_without_images_is_refused(
    copy: Callable[[str], Path], dataset: str, folder: str, pattern: str, wanted: str
) -> None:
    root = copy(dataset)
    for path in (root / folder).glob(pattern):
        path.unlink()
    refused(dataset, root, wanted, root / folder, TASKS[dataset].source)


@pytest.mark.parametrize(
    ("dataset", "folders"), [("drive", ["training/images", "test/images"]), ("montgomery", ["CXR_png"]),
                             ("shenzhen", ["CXR_png"]), ("chestxray14", ["images"])]
)  # fmt: skip
def test_junk_beside_the_images_is_left_alone(copy: Callable[[str], Path], dataset: str, folders: list[str]) -> None:
    root = copy(dataset)
    before = samples(dataset, root)
    for folder in folders:
        for name in ("Thumbs.db", ".DS_Store", f"._{next((root / folder).iterdir()).name}"):
            (root / folder / name).write_bytes(b"junk")
    (root / "__MACOSX").mkdir()
    assert samples(dataset, root) == before


# ChestX-ray14


def table(root: Path) -> Path:
    return root / "Data_Entry_2017.csv"


def test_chestxray14_labels_stand_in_official_order(copy: Callable[[str], Path]) -> None:
    root = copy("chestxray14")
    rows = [line.split(",") for line in table(root).read_text().splitlines()[1:]]
    texts = {row[0]: row[1] for row in rows}
    for sample in samples("chestxray14", root):
        names = [label for label, value in zip(CHESTXRAY14_LABELS, sample.labels, strict=True) if value]
        assert ("|".join(names) or "No Finding") == texts[sample.image.path.name]
        assert int(sample.patient) == int(sample.id.split("_")[0])


def test_chestxray14_lists_give_the_splits(copy: Callable[[str], Path]) -> None:
    root = copy("chestxray14")
    found = samples("chestxray14", root)
    for name, split in (("train_val_list.txt", "trainval"), ("test_list.txt", "test")):
        assert [s.image.path.name for s in found if s.split == split] == (root / name).read_text().split()


def test_chestxray14_variants_of_the_table_say_the_same(copy: Callable[[str], Path]) -> None:
    root = copy("chestxray14")
    before = samples("chestxray14", root)
    edit(table(root), ("Patient Gender", "Patient Sex"), (",\n", "\n"), ("Pleural_Thickening", "Pleural Thickening"))
    assert samples("chestxray14", root) == before
    lines = table(root).read_text().splitlines()
    aged = [lines[0], *(",".join([*f[:4], f"{int(f[4]):03d}Y", *f[5:]]) for f in (x.split(",") for x in lines[1:]))]
    (root / "Data_Entry_2017_v2020.csv").write_text("\ufeff" + "\r\n".join(aged) + "\r\n", encoding="utf-8")
    table(root).unlink()
    assert samples("chestxray14", root) == before


@pytest.mark.parametrize("inner", ["images", "."])
def test_chestxray14_images_may_lie_in_numbered_folders(copy: Callable[[str], Path], inner: str) -> None:
    root = copy("chestxray14")
    before = samples("chestxray14", root)
    for number, path in enumerate(sorted((root / "images").iterdir())):
        folder = root / f"images_{1 + number % 12:03d}" / inner
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.name)
    (root / "images").rmdir()
    found = samples("chestxray14", root)
    assert [(s.id, s.split, s.labels) for s in found] == [(s.id, s.split, s.labels) for s in before]
    assert all(sample.image.path.is_file() for sample in found)


def test_chestxray14_rows_and_images_that_no_list_names_are_left_out(copy: Callable[[str], Path]) -> None:
    root = copy("chestxray14")
    path = root / "train_val_list.txt"
    path.write_text("\n".join(path.read_text().split()[:-3]))
    assert len(samples("chestxray14", root)) == IMAGES["chestxray14"] - 3


def test_chestxray14_refuses_an_unknown_label_by_label_and_image(copy: Callable[[str], Path]) -> None:
    root = copy("chestxray14")
    edit(table(root), ("Cardiomegaly", "Large Heart"))
    rows = [line.split(",") for line in table(root).read_text().splitlines()[1:]]
    listed = (root / "train_val_list.txt").read_text().split()
    first = min((row[0] for row in rows if "Large Heart" in row[1] and row[0] in listed), key=listed.index)
    refused("chestxray14", root, "'Large_Heart'", first, "Cardiomegaly")


@pytest.mark.parametrize("name", ["Data_Entry_2017.csv", "train_val_list.txt", "test_list.txt"])
def test_chestxray14_refuses_a_missing_table_or_list(copy: Callable[[str], Path], name: str) -> None:
    root = copy("chestxray14")
    (root / name).unlink()
    refused("chestxray14", root, name, root, TASKS["chestxray14"].source)


def test_chestxray14_names_some_missing_images_and_counts_them(copy: Callable[[str], Path]) -> None:
    root = copy("chestxray14")
    names = sorted((root / "train_val_list.txt").read_text().split())
    for name in names[:5]:
        (root / "images" / name).unlink()
    refused("chestxray14", root, "5 have no images on disk", *names[:3], "...")


def test_chestxray14_names_missing_rows(copy: Callable[[str], Path]) -> None:
    root = copy("chestxray14")
    lines = table(root).read_text().splitlines()
    table(root).write_text("\n".join(lines[:-1]) + "\n")
    refused("chestxray14", root, "1 have no table rows", lines[-1].split(",")[0])


def test_chestxray14_refuses_an_image_in_both_lists_or_twice_in_one(copy: Callable[[str], Path]) -> None:
    root = copy("chestxray14")
    name = (root / "test_list.txt").read_text().split()[0]
    with open(root / "train_val_list.txt", "a") as stream:
        stream.write(f"{name}\n")
    refused("chestxray14", root, "both lists", name)
    with open(root / "train_val_list.txt", "a") as stream:
        stream.write(f"{name}\n")
    refused("chestxray14", root, "train_val_list.txt", "twice")


def test_chestxray14_refuses_a_malformed_table(copy: Callable[[str], Path]) -> None:
    root = copy("chestxray14")
    original = table(root).read_text()
    table(root).write_text(original + original.splitlines()[1] + "\n")
    refused("chestxray14", root, table(root), "twice")
    table(root).write_text(original + "00000001_000.png,Mass\n")
    refused("chestxray14", root, f"line {len(original.splitlines()) + 1}", "too few fields")
    table(root).write_text(original.replace("Finding Labels", "Labels"))
    refused("chestxray14", root, "Finding Labels", "lacks")
    table(root).write_text("")
    refused("chestxray14", root, "lacks")


# Shenzhen, Montgomery, DRIVE


@pytest.mark.parametrize(("dataset", "archive"), [("shenzhen", "ChinaSet_AllFiles"), ("montgomery", "MontgomerySet")])
def test_the_archive_s_own_folder_may_stay(drawn: Path, tmp_path: Path, dataset: str, archive: str) -> None:
    shutil.copytree(drawn / dataset, tmp_path / archive)
    inside = [(s.id, s.patient, s.labels, s.split) for s in samples(dataset, tmp_path)]
    assert inside == [(s.id, s.patient, s.labels, s.split) for s in samples(dataset, drawn / dataset)]


def test_shenzhen_labels_are_the_last_digit(drawn: Path) -> None:
    for sample in samples("shenzhen", drawn / "shenzhen"):
        assert sample.labels == (int(sample.id[-1]),)
        assert sample.patient == sample.id.split("_")[1]


@pytest.mark.parametrize(
    ("dataset", "name"), [("shenzhen", "CHNCXR_0001_0_mask.png"), ("montgomery", "MCUCXR_1_0.png")]
)
def test_other_names_are_refused(copy: Callable[[str], Path], dataset: str, name: str) -> None:
    root = copy(dataset)
    shutil.copy(next((root / "CXR_png").iterdir()), root / "CXR_png" / name)
    refused(dataset, root, name, "take it out")


def test_montgomery_repeats_share_a_patient(drawn: Path) -> None:
    found = samples("montgomery", drawn / "montgomery")
    patients = {sample.id.split("_")[1]: sample.patient for sample in found}
    assert patients["0113"] == patients["0117"]
    assert patients["0162"] == patients["0166"] == patients["0170"]
    assert len(set(patients.values())) == len(found) - 3


@pytest.mark.parametrize("side", ["leftMask", "rightMask"])
def test_montgomery_needs_both_masks(copy: Callable[[str], Path], side: str) -> None:
    root = copy("montgomery")
    mask = sorted((root / "ManualMask" / side).iterdir())[0]
    mask.unlink()
    refused("montgomery", root, mask, TASKS["montgomery"].source)


def test_drive_training_is_divided_later_and_test_is_test(drawn: Path) -> None:
    for sample in samples("drive", drawn / "drive"):
        number, folder = sample.id.split("_")
        assert sample.split == {"training": "trainval", "test": "test"}[folder]
        assert sample.patient == sample.id
        assert [m.path.name for m in sample.masks[0] if isinstance(m, Picture)] == [f"{number}_manual1.gif"]
        extras = {name: picture.path.name for name, picture in sample.extras.items()}
        wanted = {"field_of_view": f"{number}_test_mask.gif", "second_observer": f"{number}_manual2.gif"}
        assert extras == (wanted if folder == "test" else {})


def test_drive_without_masks_of_its_test_images_is_refused_with_the_reason(copy: Callable[[str], Path]) -> None:
    root = copy("drive")
    shutil.rmtree(root / "test/1st_manual")
    refused("drive", root, root / "test/1st_manual", "current download", "earlier copy")


@pytest.mark.parametrize("folder", ["training", "test"])
def test_drive_refuses_a_missing_mask_or_folder(copy: Callable[[str], Path], folder: str) -> None:
    root = copy("drive")
    mask = sorted((root / folder / "1st_manual").iterdir())[0]
    mask.unlink()
    refused("drive", root, mask)
    shutil.rmtree(root / folder)
    refused("drive", root, root / folder)


@pytest.mark.parametrize("dataset", REAL)
def test_the_real_files_are_read(top: Path, dataset: str) -> None:
    folder, trainval, test = REAL[dataset]
    root = top.parent / "shared/data" / folder
    if not root.is_dir():
        pytest.skip(f"the real {dataset} images are not beside this checkout")
    found = samples(dataset, root)
    assert Counter(sample.split for sample in found) == {"trainval": trainval, "test": test}
    patients = [{s.patient for s in found if s.split == split} for split in ("trainval", "test")]
    assert not patients[0] & patients[1]


def test_the_observers_of_the_real_drive_agree_as_published(top: Path) -> None:
    root = top.parent / "shared/data/drive"
    if not root.is_dir():
        pytest.skip("the real drive images are not beside this checkout")
    agreement = []
    settled, _ = mask_survey.settle(TASKS["drive"], samples("drive", root), workers=2)
    for sample in settled:
        if sample.split == "test":
            (first,), second, view = sample.masks[0], sample.extras["second_observer"], sample.extras["field_of_view"]
            assert isinstance(first, Picture)
            one, two, inside = (read_mask(picture) for picture in (first, second, view))
            agreement.append(2 * (one & two).sum() / (one.sum() + two.sum()))
            assert 0.6 < inside.mean() < 0.75
            assert one[inside].sum() > 0.99 * one.sum()
    assert len(agreement) == 20
    assert 0.75 < sum(agreement) / 20 < 0.82  # some of the second observer's files have a palette without true black
