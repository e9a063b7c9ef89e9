"""Writers of phantoms that are DICOM files: chest X-rays with a pneumothorax, and CT of pulmonary embolism.

Headers hold no time and no software version, and identifiers are hashes of numbers: equal arguments, equal bytes.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medtransfer.data.images import run_lengths
from medtransfer.data.phantoms import chest, ct
from medtransfer.data.phantoms.canvas import Anatomy
from medtransfer.data.phantoms.layouts import Generators, write_table

if TYPE_CHECKING:
    from pydicom import Dataset

SECONDARY_CAPTURE, CT_IMAGE = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.2"
JPEG, EXPLICIT = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.1"

POSITIVE = (1, 4, 7, 10, 13, 16, 19)
"""which of twenty SIIM-ACR phantoms have a pneumothorax"""

BOTH_SIDES = (4, 13)
"""and which of these on both sides, with a row for each"""

PE_COLUMNS = (
    "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "pe_present_on_image", "negative_exam_for_pe",
    "qa_motion", "qa_contrast", "flow_artifact", "rv_lv_ratio_gte_1", "rv_lv_ratio_lt_1", "leftsided_pe",
    "chronic_pe", "true_filling_defect_not_pe", "rightsided_pe", "acute_and_chronic_pe", "central_pe", "indeterminate",
)  # fmt: skip
"""of RSNA-STR's table, in its order"""

FIELD, HEIGHT = 400.0, 240.0
"""mm that a slice is wide, and that a study covers from the aortic arch to the heart"""


def siim(folder: Path, images: int, size: int, rng: Generators, contrast: float) -> None:
    """Draws labelled images under `dicom-images-train`, and a few more without labels under `dicom-images-test`."""
    rows = [["ImageId", " EncodedPixels"]]
    for number in range(images):
        # every sixth image is another one of the patient before
        patient = number - (number % 6 == 5)
        findings = ("Large_Pneumothorax",) * ((number % 20 in POSITIVE) + (number % 20 in BOTH_SIDES))
        drawn = _draw_chest("", number, patient, findings, size, rng, contrast)
        name = _write_chest(folder / "dicom-images-train", f"image {number}", f"{patient:06d}", drawn)
        # a region may be smaller than a pixel
        texts = [run_lengths.encode(region) for region in drawn.pneumothorax if region.any()] or [run_lengths.EMPTY]
        rows += [[name, f" {text}"] for text in texts]
    for number in range(max(2, images // 10)):
        findings = ("Large_Pneumothorax",) * (number % 2)
        drawn = _draw_chest("unlabelled ", number, number, findings, size, rng, contrast)
        _write_chest(folder / "dicom-images-test", f"unlabelled {number}", f"{900_000 + number}", drawn)
    write_table(folder / "train-rle.csv", rows)


def _draw_chest(
    kind: str, number: int, patient: int, findings: tuple[str, ...], size: int, rng: Generators, contrast: float
) -> chest.Drawing:
    anatomy, stream = Anatomy.draw(rng(f"{kind}patient", patient)), rng(f"{kind}image", number)
    if not findings or stream.random() < 0.5:  # other findings tell nothing of free air
        findings = (*findings, "Healed")
    return chest.draw(anatomy, findings, (size, size), stream, contrast)


def _write_chest(top: Path, name: str, patient: str, drawn: chest.Drawing) -> str:
    """Writes a JPEG inside of a DICOM file, as the official ones are; returns the image's identifier."""
    from pydicom.encaps import encapsulate
    from pydicom.uid import generate_uid

    uids = [str(generate_uid(entropy_srcs=["siim", level, name])) for level in ("study", "series", "image")]
    stream = io.BytesIO()
    Image.fromarray(drawn.pixels).save(stream, format="JPEG", quality=95)
    dataset = _header(SECONDARY_CAPTURE, uids, JPEG)
    dataset.Modality, dataset.ConversionType, dataset.ViewPosition = "CR", "WSD", ("PA", "AP")[int(patient) % 2]
    dataset.PatientID = dataset.PatientName = patient
    dataset.LossyImageCompression, dataset.LossyImageCompressionMethod = "01", "ISO_10918_1"
    _describe_pixels(dataset, drawn.pixels.shape, bits=8, signed=False)
    dataset.PixelSpacing = [0.143, 0.143]
    dataset.PixelData = encapsulate([stream.getvalue()])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    _save(dataset, top / uids[0] / uids[1] / f"{uids[2]}.dcm")
    return uids[2]


@dataclass(frozen=True, kw_only=True)
class _Exam:
    """A CT study before it is drawn."""

    anatomy: ct.Anatomy
    slices: int
    ill: range
    """slices with clots"""
    sides: tuple[str, ...]
    """arteries with clots, where a slice shows them"""
    facts: dict[str, int]
    """columns that say something of a study with clots, or of any"""

    def clots(self, place: int) -> tuple[str, ...]:
        """Gives the arteries of a slice that have a clot."""
        shown = ct.arteries(self.anatomy, self.height(place)) if place in self.ill else {}
        return tuple(side for side in self.sides if side in shown)

    def height(self, place: int) -> float:
        """Gives the height of a slice between the arch and the lower heart."""
        return (place + 0.5) / self.slices


def _plan_exam(number: int, rng: np.random.Generator) -> _Exam:
    """Plans a study: every third has clots, in about half of its slices, which follow each other."""
    slices = int(rng.integers(6, 11))
    count = int(rng.integers(slices // 2, slices // 2 + 2))
    start = int(rng.integers(0, slices - count + 1))
    motion, late, mixed, wide, chronic, both, central = rng.random(7) < (0.05, 0.05, 0.15, 0.4, 0.25, 0.1, 0.3)
    sides = (("right",), ("left",), ("right", "left"))[int(rng.integers(3))]
    of_clots = {"rv_lv_ratio_gte_1": wide, "rv_lv_ratio_lt_1": not wide, "chronic_pe": chronic and not both}
    of_clots["acute_and_chronic_pe"] = both
    quality = {"qa_motion": motion, "qa_contrast": late, "flow_artifact": mixed}
    ill = number % 3 == 1
    return _Exam(
        anatomy=ct.Anatomy.draw(rng, motion=bool(motion), late=bool(late), mixed=bool(mixed)),
        slices=slices,
        ill=range(start, start + count) if ill else range(0),
        sides=(*sides, "central") if central else sides,
        facts={name: int(value) for name, value in (quality | of_clots if ill else quality).items()},
    )


def rsna_pe(folder: Path, images: int, size: int, rng: Generators, contrast: float) -> None:
    """Draws six to ten slices per study, and writes the table with one row per slice."""
    from pydicom import config

    rows, number, study = [list(PE_COLUMNS)], 0, 0
    while number < images:
        study += 1
        exam = _plan_exam(study, rng("study", study))
        places = range(min(exam.slices, images - number))
        clots = [exam.clots(place) for place in places]
        facts = _study_columns(exam, {name for names in clots for name in names})
        for place in places:
            stream = rng("slice", 100 * study + place)
            units = ct.draw(exam.anatomy, exam.height(place), clots[place], size, stream, contrast)
            uids = [_hex("study", study), _hex("series", study), _hex("slice", 100 * study + place)]
            with config.disable_value_validation():  # official identifiers are no valid UIDs either
                _write_slice(folder / "train", uids, units, -HEIGHT * exam.height(place))
            values = facts | {"pe_present_on_image": int(bool(clots[place]))}
            rows.append([*uids, *(str(values.get(column, 0)) for column in PE_COLUMNS[3:])])
            number += 1
    write_table(folder / "train.csv", rows)


def _study_columns(exam: _Exam, clots: set[str]) -> dict[str, int]:
    """Says what is the same for all slices; clots that the last study was cut off before do not count."""
    quality = {name: exam.facts[name] for name in ("qa_motion", "qa_contrast", "flow_artifact")}
    if not clots:
        unclear = quality["qa_motion"] and quality["qa_contrast"]
        return quality | {"indeterminate" if unclear else "negative_exam_for_pe": 1}
    where = {"right": "rightsided_pe", "left": "leftsided_pe", "central": "central_pe"}
    return exam.facts | {where[name]: 1 for name in clots}


def _hex(level: str, number: int) -> str:
    """Gives 12 hexadecimal digits, as the official identifiers have."""
    return hashlib.sha256(f"rsna_pe {level} {number}".encode()).hexdigest()[:12]


def _write_slice(top: Path, uids: list[str], units: NDArray[np.int16], z: float) -> None:
    dataset = _header(CT_IMAGE, uids, EXPLICIT)
    spacing = FIELD / len(units)
    dataset.Modality = "CT"
    dataset.ImagePositionPatient = [-FIELD / 2, -FIELD / 2, round(z, 3)]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = [round(spacing, 6)] * 2
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = -1024, 1, "HU"
    dataset.WindowCenter, dataset.WindowWidth = 40, 400
    _describe_pixels(dataset, units.shape, bits=16, signed=True)
    dataset.PixelData = (units + 1024).astype("<i2").tobytes()
    dataset["PixelData"].VR = "OW"
    _save(dataset, top / uids[0] / uids[1] / f"{uids[2]}.dcm")


def _header(kind: str, uids: list[str], syntax: str) -> Dataset:
    """Starts a data set with its file meta information; `uids` name study, series and image."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, generate_uid

    dataset, meta = Dataset(), FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(kind), UID(uids[2])
    meta.TransferSyntaxUID = UID(syntax)
    meta.ImplementationClassUID = generate_uid(entropy_srcs=["medtransfer", "phantoms"])
    meta.ImplementationVersionName = "PHANTOMS"
    dataset.file_meta, dataset.SOPClassUID = meta, UID(kind)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID = (UID(uid) for uid in uids)
    dataset.PatientID = uids[0]
    return dataset


def _describe_pixels(dataset: Dataset, shape: tuple[int, ...], *, bits: int, signed: bool) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = shape
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, int(signed)


def _save(dataset: Dataset, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
