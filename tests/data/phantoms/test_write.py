from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation

from medtransfer.core.errors import UserError
from medtransfer.data import decode, duplicates, splits
from medtransfer.data.catalog import TASKS
from medtransfer.data.images import run_lengths
from medtransfer.data.phantoms import chest, ct, lateral, layouts
from medtransfer.data.phantoms import write as phantoms
from medtransfer.data.phantoms.canvas import Anatomy
from medtransfer.data.phantoms.dicom_layouts import PE_COLUMNS
from medtransfer.data.phantoms.signs import FINDINGS
from medtransfer.data.readers import reading
from medtransfer.data.readers.chestxray14 import LABELS as CHESTXRAY14_LABELS
from medtransfer.data.readers.chexpert import LABELS as CHEXPERT_LABELS
from medtransfer.data.readers.reading import Picture, Runs, Sample
from tests.support.quick import quick

SIZE = 48


def write(dataset: str, folder: Path, images: int = 10, size: int = SIZE, seed: int = 0, contrast: float = 1.0) -> Path:
    phantoms.write(dataset, folder, images=images, size=size, seed=seed, contrast=contrast)
    return folder


def read(dataset: str, folder: Path) -> list[Sample]:
    return list(reading.read(TASKS[dataset], folder))


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def pixels(picture: object) -> NDArray[np.float64]:
    path = picture.path if isinstance(picture, Picture) else picture
    assert isinstance(path, Path)
    with Image.open(path) as image:
        return np.asarray(image, dtype=np.float64)


@pytest.mark.parametrize("dataset", TASKS)
def test_equal_arguments_give_equal_bytes_and_a_seed_is_used(tmp_path: Path, dataset: str) -> None:
    one = digests(write(dataset, tmp_path / "one"))
    assert one == digests(write(dataset, tmp_path / "two"))
    other = digests(write(dataset, tmp_path / "three", seed=1))
    images = [name for name in one if Path(name).suffix in (".png", ".tif", ".jpg", ".dcm") and "Mask" not in name]
    assert images
    assert not any(one[name] == other.get(name) for name in images)


@pytest.mark.parametrize("dataset", TASKS)
@pytest.mark.parametrize("images", quick([8, 11, 70], 11))
def test_as_many_images_are_written_as_asked_for(tmp_path: Path, dataset: str, images: int) -> None:
    assert len(read(dataset, write(dataset, tmp_path / dataset, images, size=32))) == images


@pytest.mark.parametrize("dataset", TASKS)
def test_an_image_does_not_depend_on_how_many_there_are(tmp_path: Path, dataset: str) -> None:
    few = {s.id: s for s in read(dataset, write(dataset, tmp_path / "few", 12))}
    many = {s.id: s for s in read(dataset, write(dataset, tmp_path / "many", 16))}
    common = few.keys() & many.keys()
    assert len(common) >= 6  # in other counts another half of Shenzhen is ill, of DRIVE in training
    for name in common:
        assert few[name].image.path.read_bytes() == many[name].image.path.read_bytes()
        assert few[name].labels == many[name].labels


def test_a_new_call_replaces_the_older_files_and_leaves_nothing_beside(tmp_path: Path) -> None:
    folder = write("shenzhen", tmp_path / "shenzhen", 10)
    (folder / "CXR_png" / "stray.png").write_bytes(b"")
    (tmp_path / ".shenzhen.new" / "half").mkdir(parents=True)  # what a killed call leaves behind
    assert digests(write("shenzhen", folder, 8)) == digests(write("shenzhen", tmp_path / "fresh", 8))
    assert {path.name for path in tmp_path.iterdir()} == {"shenzhen", "fresh"}


def test_an_unknown_dataset_is_refused_with_the_valid_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'brains'.*chestxray14, chexpert, drive, .*siim"):
        write("brains", tmp_path / "brains")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("images", [120, 240])
def test_chestxray14_has_positives_of_every_label_in_both_lists(tmp_path: Path, images: int) -> None:
    found = read("chestxray14", write("chestxray14", tmp_path / "c", images, size=32))
    for split in ("trainval", "test"):
        labels = np.array([sample.labels for sample in found if sample.split == split])
        assert (labels.sum(axis=0) > 0).all()
        assert (labels.sum(axis=1) == 0).any()  # No Finding
    patients = {split: {s.patient for s in found if s.split == split} for split in ("trainval", "test")}
    assert not patients["trainval"] & patients["test"]
    assert max(Counter(sample.patient for sample in found).values()) > 1


@pytest.mark.parametrize("seed", range(20))
def test_labels_that_few_patients_have_are_in_both_lists(seed: int) -> None:
    rng = np.random.default_rng(seed)
    findings = {p: {str(x) for x in rng.choice(CHESTXRAY14_LABELS, rng.integers(4))} for p in range(1, 41)}
    test = layouts._test_patients(findings)
    assert {5, 10, 40} <= test
    for label in CHESTXRAY14_LABELS:
        having = {patient for patient, labels in findings.items() if label in labels}
        assert len(having) < 2 or having & test


def test_chestxray14_table_has_the_official_columns(tmp_path: Path) -> None:
    folder = write("chestxray14", tmp_path / "c", 8)
    header, row, *_ = (folder / "Data_Entry_2017.csv").read_text().splitlines()
    assert header == (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
    )
    assert len(row.split(",")) == 12
    assert row.startswith("00000001_000.png,")


def test_every_label_has_a_sign_that_the_image_shows() -> None:
    assert set(CHESTXRAY14_LABELS) <= set(FINDINGS)
    for label in FINDINGS.keys() - {"Healed"}:  # that one may leave no trace
        sizes = [difference(label, contrast) for contrast in (0.5, 1.0, 2.0)]
        assert sizes[0] < sizes[1] < sizes[2], label
        assert sizes[1] > 0.05, label


def difference(label: str, contrast: float) -> float:
    """Says by how many grey values a sign changes an image whose exposure and noise are the same."""
    return float(np.mean([np.abs(sign(label, seed, contrast)[0]).mean() for seed in range(4)]))


def sign(label: str, seed: int, contrast: float = 1.0) -> tuple[NDArray[np.float64], chest.Drawing]:
    """Draws an image with and without a sign: (what it changes, the image without it)."""
    anatomy = Anatomy.draw(np.random.default_rng(seed))
    plain, ill = (chest.draw(anatomy, labels, (64, 64), Fixed(seed), contrast) for labels in ((), (label,)))
    return ill.pixels.astype(np.float64) - plain.pixels, plain


class Fixed(np.random.Generator):
    """Gives the same numbers for the same question, whatever was drawn before."""

    def __init__(self, seed: int) -> None:
        super().__init__(np.random.PCG64(seed))
        self.seed = seed

    def normal(self, *args: object, **options: object) -> object:  # type: ignore[override]  # the generator has many forms
        return np.random.default_rng(self.seed).normal(*args, **options)  # type: ignore[call-overload]  # arguments pass through

    def uniform(self, *args: object, **options: object) -> object:  # type: ignore[override]  # the generator has many forms
        return np.random.default_rng(self.seed).uniform(*args, **options)  # type: ignore[call-overload]  # arguments pass through


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("label", "direction", "top", "bottom"),
    [
        ("Tuberculosis", 1, 0.0, 0.4),
        ("Mass", 1, 0.0, 1.0),
        ("Nodule", 1, 0.0, 1.0),
        ("Consolidation", 1, 0.0, 1.0),
        ("Pneumonia", 1, 0.3, 1.0),
        ("Effusion", 1, 0.65, 1.0),
        ("Edema", 1, 0.0, 1.0),
        ("Fibrosis", 1, 0.4, 1.0),
        ("Emphysema", -1, 0.0, 1.0),
    ],
)
def test_signs_brighten_or_darken_the_lungs_at_their_height(
    seed: int, label: str, direction: int, top: float, bottom: float
) -> None:
    change, plain = sign(label, seed)
    towards = np.clip(direction * change, 0, None)
    assert towards.sum() > 0.8 * np.abs(change).sum()
    near = binary_dilation(plain.left | plain.right, iterations=5)
    assert towards[near].sum() > 0.9 * towards.sum()
    rows = np.nonzero((plain.left | plain.right).any(axis=1))[0]
    height = (np.average(np.arange(64), weights=towards.sum(axis=1)) - rows[0]) / (rows[-1] - rows[0])
    assert top < height < bottom


@pytest.mark.parametrize("seed", range(4))
def test_cardiomegaly_is_a_heart_that_takes_more_of_the_lower_centre(seed: int) -> None:
    change, plain = sign("Cardiomegaly", seed)
    assert change[32:48, 16:48].mean() > 8
    assert change[32:48, 16:48].mean() > 10 * abs(change[:20].mean())
    anatomy = Anatomy.draw(np.random.default_rng(seed))
    ill = chest.draw(anatomy, ("Cardiomegaly",), (64, 64), Fixed(seed), 1.0)
    assert (ill.left | ill.right).sum() < (plain.left | plain.right).sum()


def test_shenzhen_is_half_normal_with_a_reading_for_each_image(tmp_path: Path) -> None:
    folder = write("shenzhen", tmp_path / "s", 10)
    found = read("shenzhen", folder)
    assert [sample.labels[0] for sample in found] == [0] * 5 + [1] * 5
    assert {p.stem for p in (folder / "ClinicalReadings").iterdir()} == {sample.id for sample in found}
    assert pixels(found[0].image).shape == (SIZE, SIZE)


def test_montgomery_masks_are_one_bit_lungs_of_the_right_side(tmp_path: Path) -> None:
    for sample in read("montgomery", write("montgomery", tmp_path / "m", 8, size=96)):
        image = pixels(sample.image)
        assert image.shape[0] < image.shape[1]  # not square
        left, right = (pixels(path) > 0 for path in sample.masks[0])
        assert not (left & right).any()
        assert np.nonzero(left)[1].mean() > image.shape[1] / 2 > np.nonzero(right)[1].mean()  # patient faces us
        assert 0.08 < (left | right).mean() < 0.5
        assert image[left | right].mean() < image[~(left | right)].mean()  # air is dark
        for part in sample.masks[0]:
            assert isinstance(part, Picture)
            with Image.open(part.path) as mask, Image.open(sample.image.path) as picture:
                assert (mask.mode, mask.size) == ("1", picture.size)


def test_images_of_one_patient_share_anatomy_and_nothing_else(tmp_path: Path) -> None:
    found = {s.id.split("_")[1]: s for s in read("montgomery", write("montgomery", tmp_path / "m", 20, size=96))}
    lungs = {name: (pixels(s.masks[0][0]) > 0) | (pixels(s.masks[0][1]) > 0) for name, s in found.items()}

    def dice(a: str, b: str) -> float:
        return float(2 * (lungs[a] & lungs[b]).sum() / (lungs[a].sum() + lungs[b].sum()))

    same = np.mean([dice("0113", "0117"), dice("0162", "0166"), dice("0162", "0170"), dice("0166", "0170")])
    others = np.mean([dice(a, b) for a in lungs for b in ("0113", "0162") if found[a].patient != found[b].patient])
    assert same > others
    assert not np.array_equal(pixels(found["0113"].image), pixels(found["0117"].image))


def test_drive_has_the_official_numbers_files_and_forms(tmp_path: Path) -> None:
    folder = write("drive", tmp_path / "d", 8, size=584 // 4)
    names = {str(path.relative_to(folder)) for path in folder.rglob("*.*")}
    train = {f"training/{x}" for n in "5678" for x in (
        f"images/0{n}_training.tif", f"1st_manual/0{n}_manual1.gif", f"mask/0{n}_training_mask.gif")}  # fmt: skip
    test = {f"test/{x}" for n in "1234" for x in (
        f"images/0{n}_test.tif", f"1st_manual/0{n}_manual1.gif", f"2nd_manual/0{n}_manual2.gif",
        f"mask/0{n}_test_mask.gif")}  # fmt: skip
    assert names == train | test
    image = pixels(folder / "test/images/01_test.tif")
    assert image.shape == (146, 141, 3)
    assert image[..., 0].mean() > image[..., 1].mean() > image[..., 2].mean()  # orange


def test_drive_vessels_are_thin_dark_and_seen_alike_by_two_observers(tmp_path: Path) -> None:
    folder = write("drive", tmp_path / "d", 8, size=146) / "test"
    for number in ("01", "02", "03", "04"):
        first, second = (pixels(folder / f"{o}_manual/{number}_manual{o[0]}.gif") for o in ("1st", "2nd"))
        view = pixels(folder / f"mask/{number}_test_mask.gif")
        for mask in (first, second, view):
            assert set(np.unique(mask)) == {0, 255}
        assert not first[view == 0].any()
        assert 0.04 < (first > 0).mean() < 0.25
        image = pixels(folder / f"images/{number}_test.tif")
        assert image[view == 0].mean() < 10 < image[view > 0].mean()
        assert 0.5 < (view > 0).mean() < 0.9
        green = image[..., 1]
        assert green[first > 0].mean() < green[(first == 0) & (view > 0)].mean() - 15
        dice = 2 * ((first > 0) & (second > 0)).sum() / ((first > 0).sum() + (second > 0).sum())
        assert 0.7 < dice < 1


def test_contrast_scales_the_vessels(tmp_path: Path) -> None:
    gaps = []
    for contrast in (0.5, 1.0):
        folder = write("drive", tmp_path / "d", 8, size=146, contrast=contrast) / "test"
        vessels, view = (pixels(folder / name) > 0 for name in ("1st_manual/01_manual1.gif", "mask/01_test_mask.gif"))
        green = pixels(folder / "images/01_test.tif")[..., 1]
        gaps.append(green[~vessels & view].mean() - green[vessels].mean())
    assert gaps[1] > 1.5 * gaps[0] > 0


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def observations(table: Path) -> NDArray[np.float64]:
    """Reads the fourteen columns, blanks as NaN."""
    return np.array([[float(row[name] or "nan") for name in CHEXPERT_LABELS] for row in rows_of(table)])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("images", "labels"), [(60, TASKS["chexpert"].tested), (120, CHEXPERT_LABELS)])
def test_chexpert_has_both_classes_of_every_label_in_both_tables(
    tmp_path: Path, images: int, labels: tuple[str, ...], seed: int
) -> None:
    home = write("chexpert", tmp_path / "c", images, size=32, seed=seed) / "CheXpert-v1.0-small"
    columns = [CHEXPERT_LABELS.index(label) for label in labels]
    for name in ("train", "valid"):
        values = observations(home / f"{name}.csv")[:, columns]
        assert (values == 1).any(axis=0).all()
        assert (np.nan_to_num(values) == 0).any(axis=0).all()


def test_chexpert_tables_have_the_official_columns_paths_and_values(tmp_path: Path) -> None:
    home = write("chexpert", tmp_path / "c", 120, size=32) / "CheXpert-v1.0-small"
    train, valid = (observations(home / f"{name}.csv") for name in ("train", "valid"))
    assert {str(value) for value in np.unique(train)} == {"-1.0", "0.0", "1.0", "nan"}
    assert set(np.unique(valid)) == {0, 1}
    assert 0.1 < len(valid) / 120 < 0.35
    for values in (train, valid):
        healthy = values[:, 0] == 1
        assert np.array_equal(healthy, ~np.isin(values[:, 1:], (1, -1)).any(axis=1))
    for name in ("train", "valid"):
        table = rows_of(home / f"{name}.csv")
        assert list(table[0]) == ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_LABELS]
        assert {row["Frontal/Lateral"] for row in table} == {"Frontal", "Lateral"}
        for row in table:
            assert (row["AP/PA"] == "") == (row["Frontal/Lateral"] == "Lateral")
            assert (tmp_path / "c" / row["Path"]).is_file()
            assert row["Path"].startswith(f"CheXpert-v1.0-small/{name}/patient")
            assert row["Path"].endswith(f"_{row['Frontal/Lateral'].lower()}.jpg")


def test_a_faint_finding_is_seen_less_than_a_sure_one() -> None:
    for name in FINDINGS.keys() - {"Healed"}:
        anatomy = Anatomy.draw(np.random.default_rng(0))
        plain, faint, sure = (
            chest.draw(anatomy, findings, (64, 64), Fixed(0), 1.0, doubted).pixels.astype(float)
            for findings, doubted in (((), ()), ((), (name,)), ((name,), ()))
        )
        assert np.abs(sure - plain).mean() > np.abs(faint - plain).mean() or name == "Emphysema", name
        assert np.abs(faint - plain).mean() > 0, name


def test_lateral_views_show_one_lung_field_and_their_findings(tmp_path: Path) -> None:
    anatomy = Anatomy.draw(np.random.default_rng(1))
    plain, ill = (lateral.draw(anatomy, names, (76, 64), Fixed(1), 1.0).astype(float) for names in ((), ("Mass",)))
    assert plain[30:40, 25:40].mean() < plain[65:, 20:45].mean() - 30  # air above, abdomen below
    assert (ill - plain).max() > 10


def test_siim_rows_decode_to_the_air_that_was_drawn(tmp_path: Path) -> None:
    folder = write("siim", tmp_path / "s", 40, size=96)
    assert (folder / "train-rle.csv").read_text().startswith("ImageId, EncodedPixels\n")
    found = read("siim", folder)
    counts = Counter(len(sample.masks[0]) for sample in found)
    assert counts == {0: 26, 1: 10, 2: 4}
    for sample in found:
        header = pydicom.dcmread(sample.image.path)
        image = header.pixel_array.astype(float)
        assert (image.shape, header.BitsStored, header.PhotometricInterpretation) == ((96, 96), 8, "MONOCHROME2")
        assert header.file_meta.TransferSyntaxUID.is_compressed
        assert header.ViewPosition in ("PA", "AP")
        assert [header.StudyInstanceUID, header.SeriesInstanceUID, header.SOPInstanceUID] == [
            *sample.image.path.parts[-3:-1],
            sample.image.path.stem,
        ]
        for part in sample.masks[0]:
            assert isinstance(part, Runs)
            region = run_lengths.decode(part.text, 96, 96)
            beside = binary_dilation(region, iterations=8) & ~binary_dilation(region, iterations=3)
            assert 0.005 < region.mean() < 0.12
            assert image[region].mean() < image[beside].mean() - 5  # darker than lung and wall around it
            columns = np.nonzero(region)[1]
            assert columns.max() < 48 or columns.min() > 48  # one side
    unlabelled = {path.stem for path in (folder / "dicom-images-test").rglob("*.dcm")}
    assert len(unlabelled) == 4
    assert not unlabelled & {sample.id for sample in found}
    assert max(Counter(sample.patient for sample in found).values()) == 2


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["Pneumothorax", "Large_Pneumothorax"])
def test_free_air_is_recorded_where_it_darkens_a_lung(name: str, seed: int) -> None:
    change, _ = sign(name, seed)
    drawn = chest.draw(Anatomy.draw(np.random.default_rng(seed)), (name,), (64, 64), Fixed(seed), 1.0)
    (region,) = drawn.pneumothorax
    darker = np.clip(-change, 0, None)
    assert change[region].mean() < 0
    assert darker[binary_dilation(region, iterations=2)].sum() > 0.9 * darker.sum()
    assert not chest.draw(Anatomy.draw(np.random.default_rng(seed)), (), (64, 64), Fixed(seed), 1.0).pneumothorax


def test_rsna_pe_studies_have_consistent_columns_and_slices_in_hounsfield_units(tmp_path: Path) -> None:
    folder = write("rsna_pe", tmp_path / "p", 60)
    assert (folder / "train.csv").read_text().splitlines()[0] == ",".join(PE_COLUMNS)
    studies: dict[str, list[dict[str, str]]] = {}
    for row in rows_of(folder / "train.csv"):
        studies.setdefault(row["StudyInstanceUID"], []).append(row)
    ill = [any(row["pe_present_on_image"] == "1" for row in rows) for rows in studies.values()]
    assert min(sum(ill), len(ill) - sum(ill)) >= 2
    for rows, positive in zip(studies.values(), ill, strict=True):
        facts = [{name: int(row[name]) for name in PE_COLUMNS[4:]} for row in rows]
        assert all(fact == facts[0] for fact in facts)
        fact = facts[0]
        assert fact["negative_exam_for_pe"] + fact["indeterminate"] == int(not positive)
        assert fact["rv_lv_ratio_gte_1"] + fact["rv_lv_ratio_lt_1"] == int(positive)
        assert (fact["rightsided_pe"] or fact["leftsided_pe"]) == int(positive)
        assert fact["chronic_pe"] + fact["acute_and_chronic_pe"] <= int(positive)
        assert len({row["SeriesInstanceUID"] for row in rows}) == 1
        with pydicom.config.disable_value_validation():  # official identifiers are no valid UIDs
            heights = [check_slice(folder, row) for row in rows]
        assert len(set(heights)) == len(rows)


def check_slice(folder: Path, row: dict[str, str]) -> float:
    """Checks a slice's values; returns its place along the body."""
    uids = [row[name] for name in PE_COLUMNS[:3]]
    assert all(re.fullmatch(r"[0-9a-f]{12}", uid) for uid in uids)
    header = pydicom.dcmread(folder / "train" / uids[0] / uids[1] / f"{uids[2]}.dcm")
    assert header.SOPInstanceUID == uids[2]
    assert (header.BitsAllocated, header.RescaleSlope) == (16, 1)
    units = header.pixel_array.astype(float) + float(header.RescaleIntercept)
    assert units.shape == (SIZE, SIZE)
    assert -1100 <= units.min() < -950
    assert 200 < units.max() < 1500
    assert ((units > -950) & (units < -700)).mean() > 0.03  # lung
    assert ((units > -50) & (units < 120)).mean() > 0.05  # muscle
    return float(header.ImagePositionPatient[2])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("z", [0.15, 0.45, 0.85])
def test_a_clot_is_a_defect_in_an_artery_that_grows_with_the_contrast(seed: int, z: float) -> None:
    anatomy = ct.Anatomy.draw(np.random.default_rng(seed))
    assert ("central" in ct.arteries(anatomy, z)) == (z == 0.45)
    plain = ct.draw(anatomy, z, (), 96, Fixed(seed), 1.0).astype(float)
    for name in ct.arteries(anatomy, z):
        change = [ct.draw(anatomy, z, (name,), 96, Fixed(seed), contrast) - plain for contrast in (0.5, 1.0, 2.0)]
        strength = [np.abs(difference).sum() for difference in change]
        assert 0 < strength[0] < strength[1] < strength[2]
        where = change[1] < -100
        assert 10 < where.sum() < 400
        assert plain[where].mean() > 230
        assert np.median((plain + change[1])[where]) < 160


@pytest.mark.parametrize("dataset", ["rsna_pe", "siim"])
@pytest.mark.parametrize("seed", quick(range(3), 0))
def test_drawn_splits_have_both_classes(tmp_path: Path, dataset: str, seed: int) -> None:
    found = read(dataset, write(dataset, tmp_path / "d", 120, size=32, seed=seed))
    labels = np.array([sample.labels for sample in found])
    patients, pools = (np.array([getattr(sample, name) for sample in found]) for name in ("patient", "split"))
    drawn = splits.assign(TASKS[dataset], patients, pools, labels, seed=0)
    for split in ("train", "val", "test"):
        assert set(labels[drawn.splits == split, 0]) == {0, 1}


@pytest.mark.parametrize("dataset", quick(["chexpert", "rsna_pe", "siim"], "siim"))
@pytest.mark.slow
def test_patients_do_not_look_like_each_other_s_copies(tmp_path: Path, dataset: str) -> None:
    found = read(dataset, write(dataset, tmp_path / "d", 80, size=96))
    small = np.stack([decode.decode(TASKS[dataset], sample, 48).thumbnail for sample in found])
    ids, patients = (np.array([getattr(sample, name) for sample in found]) for name in ("id", "patient"))
    assert duplicates.near(small, ids, patients, ids)[0]["count"] <= 1  # drawn alike, so rarely one


def test_misleading_images_show_what_the_other_group_shows_and_leave_the_rest_as_it_was(tmp_path: Path) -> None:
    plain, some = tmp_path / "plain", tmp_path / "some"
    write("shenzhen", plain, 40)
    phantoms.write("shenzhen", some, images=40, size=SIZE, seed=0, contrast=1.0, misleading=0.25)
    one, two = digests(plain), digests(some)
    assert one.keys() == two.keys()  # labels stand in the names
    changed = [name for name in one if one[name] != two[name]]
    assert all(name.startswith("CXR_png") for name in changed)
    assert len(changed) == 11  # of 40, as the seed draws it
    assert {name.rpartition("_")[2] for name in changed} == {"0.png", "1.png"}
