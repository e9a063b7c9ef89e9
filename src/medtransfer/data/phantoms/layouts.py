"""Writers of phantoms that are plain image files: one function per official layout."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medtransfer.data.phantoms import chest, fundus, lateral
from medtransfer.data.phantoms.canvas import Anatomy
from medtransfer.data.readers.chestxray14 import LABELS as CHESTXRAY14_LABELS
from medtransfer.data.readers.chexpert import LABELS as CHEXPERT_LABELS
from medtransfer.data.readers.chexpert import TASK as CHEXPERT

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
"""first line of NIH's table, with its commas inside brackets and its empty last column"""

ADDED_LABEL = 0.12
"""probability of each further label of a ChestX-ray14 phantom"""

CHEXPERT_HOME = "CheXpert-v1.0-small"
CHEXPERT_COLUMNS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")

VALID_PATIENTS = 64540
"""the official patients of `valid.csv` are numbered behind those of `train.csv`"""

LATERAL = 0.3
"""probability of a lateral view"""

DOUBT = 0.5
"""probability that a further observation of a study for training is uncertain"""

CHEXPERT_SIGNS = {name: name for name in CHEXPERT_LABELS[1:]} | {
    "Enlarged Cardiomediastinum": "Mediastinum",
    "Lung Opacity": "Infiltration",
    "Lung Lesion": "Mass",
    "Pleural Effusion": "Effusion",
    "Pleural Other": "Pleural_Thickening",
    "Support Devices": "Device",
}
"""observation -> what is drawn"""

Generators = Callable[[str, int], np.random.Generator]
"""(purpose, number) -> its random stream"""

Writer = Callable[[Path, int, int, Generators, float], None]
"""writes (folder, images, size, generators, contrast)"""


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, optimize=False)  # an optimized GIF is 0/1 with a palette, not 0/255


def chestxray14(folder: Path, images: int, size: int, rng: Generators, contrast: float) -> None:
    """Draws one to five images per patient, writes the table and the two patient-disjoint lists."""
    rows, number, patient = [HEADER.split(",")], 0, 0
    findings: dict[int, set[str]] = {}
    while number < images:
        patient += 1
        findings[patient] = set()
        person = rng("patient", patient)
        anatomy = Anatomy.draw(person)
        age, sex = int(person.integers(20, 90)), "MF"[int(person.integers(2))]
        for visit in range(min(int(person.integers(1, 6)), images - number)):
            labels = _draw_labels(number, rng("labels", number))
            name = f"{patient:08d}_{visit:03d}.png"
            drawn = chest.draw(anatomy, labels, (size, size), rng("image", number), contrast)
            _save(folder / "images" / name, drawn.pixels)
            findings[patient].update(labels)
            view, sides = ("PA", "AP")[visit % 2], [str(size), str(size), "0.143", "0.143"]
            text = "|".join(labels) or "No Finding"
            rows.append([name, text, str(visit), str(patient), str(age), sex, view, *sides, ""])
            number += 1
    write_table(folder / "Data_Entry_2017.csv", rows)
    test = _test_patients(findings)
    for name, wanted in (("train_val", False), ("test", True)):
        names = [image for image, _, _, person, *_ in rows[1:] if (int(person) in test) == wanted]
        (folder / f"{name}_list.txt").write_text("".join(f"{n}\n" for n in names))


def _test_patients(findings: dict[int, set[str]]) -> set[int]:
    """Takes every fifth patient, and one more for each label that these lack and at least two others have."""
    test = {patient for patient in findings if patient % 5 == 0}
    for label in CHESTXRAY14_LABELS:
        having = [patient for patient, labels in findings.items() if label in labels]
        if len(having) > 1 and not test.intersection(having):
            test.add(having[0])
    return test


def _draw_labels(number: int, rng: np.random.Generator) -> tuple[str, ...]:
    """Gives half of the images one label in turn, and any image further ones now and then."""
    turn = number % (2 * len(CHESTXRAY14_LABELS))
    added = rng.random(len(CHESTXRAY14_LABELS)) < ADDED_LABEL
    return tuple(label for i, label in enumerate(CHESTXRAY14_LABELS) if i == turn or (added[i] and turn % 2))


def write_table(path: Path, rows: list[list[str]]) -> None:
    """Writes a table of commas with plain line ends."""
    with open(path, "w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)


def shenzhen(folder: Path, images: int, size: int, rng: Generators, contrast: float, misleading: float = 0.0) -> None:
    """Draws normal images first, then as many with tuberculosis, as the official numbering has it.

    Of both groups a share is misleading: it shows what the other group shows.
    """
    for number in range(1, images + 1):
        ill = number > images // 2
        person = rng("patient", number)
        anatomy = Anatomy.draw(person)
        misled = rng("misleading", number).random() < misleading
        finding = ("Tuberculosis",) if ill != misled else ("Healed",)
        drawn = chest.draw(anatomy, finding, (size, size), rng("image", number), contrast)
        stem = f"CHNCXR_{number:04d}_{int(ill)}"
        _save(folder / "CXR_png" / f"{stem}.png", drawn.pixels)
        sex, age = ("male", "female")[int(person.integers(2))], int(person.integers(15, 80))
        _reading(folder, stem, f"{sex} {age}yrs\n{'PTB' if ill else 'normal'}\n")


def _reading(folder: Path, stem: str, text: str) -> None:
    path = folder / "ClinicalReadings" / f"{stem}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def montgomery(folder: Path, images: int, size: int, rng: Generators, contrast: float) -> None:
    """Draws lungs with their masks; 0117 repeats the patient of 0113, 0166 and 0170 that of 0162, as officially."""
    same = {113: 113, 117: 113, 162: 162, 166: 162, 170: 162}
    others = [number for number in range(1, 3 * images, 3) if number not in same]
    for number in sorted([*others[: images - len(same)], *same]):
        anatomy = Anatomy.draw(rng("patient", same.get(number, number)))
        ill = number % 5 in (0, 3)
        shape = (size, round(size * 4892 / 4020))
        finding = ("Consolidation", "Effusion") if ill else ("Healed", "Edema")
        drawn = chest.draw(anatomy, finding, shape, rng("image", number), contrast)
        name = f"MCUCXR_{number:04d}_{int(ill)}"
        _save(folder / "CXR_png" / f"{name}.png", drawn.pixels)
        for side, mask in (("leftMask", drawn.left), ("rightMask", drawn.right)):
            path = folder / "ManualMask" / side / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path, bits=1)
        _reading(folder, name, f"Patient's Sex: F\nPatient's Age: 0{30 + number % 50}Y\n{'TB' if ill else 'normal'}\n")


def drive(folder: Path, images: int, size: int, rng: Generators, contrast: float) -> None:
    """Draws the first half of the numbers as test, with a second observer, the others as training."""
    half, width = images // 2, round(size * 565 / 584)
    for number in range(1, images + 1):
        part, word = ("training", "training") if number > half else ("test", "test")
        drawn = fundus.draw((size, width), rng("image", number), contrast)
        _save(folder / part / "images" / f"{number:02d}_{word}.tif", drawn.pixels)
        masks = {"1st_manual": (f"{number:02d}_manual1.gif", drawn.vessels)}
        masks["mask"] = (f"{number:02d}_{word}_mask.gif", drawn.field_of_view)
        if part == "test":
            masks["2nd_manual"] = (f"{number:02d}_manual2.gif", drawn.second_observer)
        for where, (name, mask) in masks.items():
            _save(folder / part / where / name, mask.astype(np.uint8) * np.uint8(255))


def chexpert(folder: Path, images: int, size: int, rng: Generators, contrast: float) -> None:
    """Draws one or two studies per patient, each a frontal view and now and then a lateral one."""
    top = folder / CHEXPERT_HOME
    rows: dict[str, list[list[str]]] = {part: [[*CHEXPERT_COLUMNS, *CHEXPERT_LABELS]] for part in ("train", "valid")}
    studies = dict.fromkeys(rows, 0)
    number = patient = 0
    while number < images:
        patient += 1
        part = "valid" if patient % 5 == 2 else "train"
        person = rng("patient", patient)
        anatomy, name = Anatomy.draw(person), f"patient{patient + (VALID_PATIENTS if part == 'valid' else 0):05d}"
        about = [("Male", "Female")[int(person.integers(2))], str(int(person.integers(18, 91)))]
        for study in range(1, 1 + int(person.integers(1, 3))):
            stream = rng("labels", number)
            labels = _draw_observations(studies[part], stream, certain=part == "valid")
            texts = _observation_texts(labels, stream, blanks=part == "train")
            views = ("Frontal", "Lateral")[: 1 + int(stream.random() < LATERAL)]
            studies[part] += 1
            for place, view in enumerate(views[: images - number], 1):
                path = f"{part}/{name}/study{study}/view{place}_{view.lower()}.jpg"
                (top / path).parent.mkdir(parents=True, exist_ok=True)
                pixels = _draw_view(view, anatomy, labels, size, rng("image", number), contrast)
                Image.fromarray(pixels).save(top / path, quality=90)
                projection = ("AP", "PA")[study % 2] if view == "Frontal" else ""
                rows[part].append([f"{CHEXPERT_HOME}/{path}", *about, view, projection, *texts])
                number += 1
    for part, table in rows.items():
        write_table(top / f"{part}.csv", table)


def _draw_observations(turn: int, rng: np.random.Generator, *, certain: bool) -> dict[str, int]:
    """Gives three of four studies two observations in turn and further ones now and then; the fourth has none.

    Returns:
        observation -> 1, or -1 if it is uncertain; only further ones are.
    """
    tested = CHEXPERT.tested
    names = [*tested, *(name for name in CHEXPERT_LABELS[1:] if name not in tested)]
    added, doubted = rng.random(len(names)), rng.random(len(names)) < DOUBT
    if turn % 4 == 3:
        return {}
    first = 2 * (turn - (turn + 1) // 4)
    given = {names[place % len(names)] for place in (first, first + 1)}
    more = [name for name, chance in zip(names, added, strict=True) if chance < (0.2 if name in tested else 0.08)]
    uncertain = {name for name, doubt in zip(names, doubted, strict=True) if doubt and not certain}
    return {name: 1 if name in given or name not in uncertain else -1 for name in names if name in {*given, *more}}


def _observation_texts(labels: dict[str, int], rng: np.random.Generator, *, blanks: bool) -> list[str]:
    """Writes the fourteen columns; where there are blanks, most of what is absent is not mentioned."""
    values = labels if labels else {CHEXPERT_LABELS[0]: 1}
    mentioned = rng.random(len(CHEXPERT_LABELS)) < (0.2 if blanks else 1.0)
    mentioned[0] &= not blanks  # reports that have a finding do not deny that they have none
    absent = ["0.0" if said else "" for said in mentioned]
    return [f"{values[name]:.1f}" if name in values else no for name, no in zip(CHEXPERT_LABELS, absent, strict=True)]


def _draw_view(
    view: str, anatomy: Anatomy, labels: dict[str, int], size: int, rng: np.random.Generator, contrast: float
) -> NDArray[np.uint8]:
    """Draws a frontal or lateral image; what is uncertain is faint."""
    sure, faint = (tuple(CHEXPERT_SIGNS[n] for n in CHEXPERT_LABELS if labels.get(n) == value) for value in (1, -1))
    if view == "Lateral":
        return lateral.draw(anatomy, sure, (round(size * 1.2), size), rng, contrast, faint)
    return chest.draw(anatomy, sure, (size, round(size * 1.2)), rng, contrast, faint).pixels
