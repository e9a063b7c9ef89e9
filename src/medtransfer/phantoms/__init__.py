"""Synthetic images in the official raw layouts: the demo's data and, tiny, the tests'.

What is drawn decides the labels. Every image has its own random stream, so it does not depend on how many there are;
only that Shenzhen numbers its normal images first lets the count decide which numbers are ill.
Nothing here says anything about weights: phantoms test the software.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medtransfer import streams
from medtransfer.errors import UserError
from medtransfer.phantoms import chest, fundus
from medtransfer.tasks import CHESTXRAY14_LABELS

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
"""first line of NIH's table, with its commas inside brackets and its empty last column"""

ADDED_LABEL = 0.12
"""probability of each further label of a ChestX-ray14 phantom"""


def write(dataset: str, folder: Path, *, images: int, size: int, seed: int, contrast: float) -> None:
    """Writes a dataset's phantoms under `folder`, replacing what an earlier call wrote; equal arguments, equal bytes.

    Args:
        dataset: whose official layout.
        folder: becomes the dataset's root.
        images: how many, over all splits.
        size: pixels, the height.
        seed: of the generator.
        contrast: strength of findings and vessels, 1 = the demo's.

    Raises:
        UserError: no phantoms exist for the dataset.
    """
    if dataset not in WRITERS:
        raise UserError(f"no phantoms for dataset {dataset!r}; there are some for {', '.join(sorted(WRITERS))}")
    temporary = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    WRITERS[dataset](temporary, images, size, partial(_generator, seed, dataset), contrast)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


Generators = Callable[[str, int], np.random.Generator]
"""(purpose, number) -> its random stream"""


def _generator(seed: int, dataset: str, purpose: str, number: int) -> np.random.Generator:
    return np.random.default_rng(streams.seed_of(seed, f"phantom {dataset} {purpose}", number))


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, optimize=False)  # an optimized GIF is 0/1 with a palette, not 0/255


def _chestxray14(folder: Path, images: int, size: int, rng: Generators, contrast: float) -> None:
    """Draws one to five images per patient, writes the table and the two patient-disjoint lists."""
    rows, number, patient = [HEADER.split(",")], 0, 0
    findings: dict[int, set[str]] = {}
    while number < images:
        patient += 1
        findings[patient] = set()
        person = rng("patient", patient)
        anatomy = chest.Anatomy.draw(person)
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
    _write_table(folder / "Data_Entry_2017.csv", rows)
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


def _write_table(path: Path, rows: list[list[str]]) -> None:
    with open(path, "w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)


def _shenzhen(folder: Path, images: int, size: int, rng: Generators, contrast: float) -> None:
    """Draws normal images first, then as many with tuberculosis, as the official numbering has it."""
    for number in range(1, images + 1):
        ill = number > images // 2
        person = rng("patient", number)
        anatomy = chest.Anatomy.draw(person)
        finding = ("Tuberculosis",) if ill else ("Healed",)
        drawn = chest.draw(anatomy, finding, (size, size), rng("image", number), contrast)
        stem = f"CHNCXR_{number:04d}_{int(ill)}"
        _save(folder / "CXR_png" / f"{stem}.png", drawn.pixels)
        sex, age = ("male", "female")[int(person.integers(2))], int(person.integers(15, 80))
        _reading(folder, stem, f"{sex} {age}yrs\n{'PTB' if ill else 'normal'}\n")


def _reading(folder: Path, stem: str, text: str) -> None:
    path = folder / "ClinicalReadings" / f"{stem}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _montgomery(folder: Path, images: int, size: int, rng: Generators, contrast: float) -> None:
    """Draws lungs with their masks; 0117 repeats the patient of 0113, 0166 and 0170 that of 0162, as officially."""
    same = {113: 113, 117: 113, 162: 162, 166: 162, 170: 162}
    others = [number for number in range(1, 3 * images, 3) if number not in same]
    for number in sorted([*others[: images - len(same)], *same]):
        anatomy = chest.Anatomy.draw(rng("patient", same.get(number, number)))
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


def _drive(folder: Path, images: int, size: int, rng: Generators, contrast: float) -> None:
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


WRITERS: dict[str, Callable[[Path, int, int, Generators, float], None]] = {
    "chestxray14": _chestxray14,
    "shenzhen": _shenzhen,
    "montgomery": _montgomery,
    "drive": _drive,
}
