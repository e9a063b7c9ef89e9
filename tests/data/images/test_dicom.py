from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medtransfer.data.catalog import TASKS
from medtransfer.data.readers.reading import Picture, Runs
from tests.data.readers.test_bad_files import change, refused, samples, touch

# SIIM-ACR

ROWS = [("1.2.30", " -1"), ("1.2.10", " 5 2 1 3"), ("1.2.20", " 0 4"), ("1.2.10", " 9 1")]


def dicom(path: Path, patient: str = "", study: str = "1.2.3") -> None:
    """Writes a DICOM file that has a header alone."""
    header = pydicom.Dataset()
    header.PatientID, header.StudyInstanceUID, header.Modality = patient, study, "CR"
    header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", generate_uid()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    header.save_as(path, enforce_file_format=True)


def siim(root: Path, folder: str = "dicom-images-train", table: str = "train-rle.csv") -> Path:
    """Writes the layout with three images, one of them in two parts."""
    for number, name in enumerate(("1.2.10", "1.2.20", "1.2.30")):
        dicom(root / folder / f"study{number}" / f"series{number}" / f"{name}.dcm", patient=f"patient{number // 2}")
    lines = ["ImageId, EncodedPixels", *(f"{name},{text}" for name, text in ROWS)]
    (root / table).write_text("\n".join(lines) + "\n")
    return root


def test_siim_rows_of_an_image_are_parts_of_its_mask(tmp_path: Path) -> None:
    found = samples("siim", siim(tmp_path))
    assert [s.id for s in found] == ["1.2.30", "1.2.10", "1.2.20"]
    assert [s.labels for s in found] == [(0,), (1,), (1,)]
    assert [s.masks for s in found] == [((),), ((Runs("5 2 1 3"), Runs("9 1")),), ((Runs("0 4"),),)]
    assert [s.patient for s in found] == ["patient1", "patient0", "patient0"]
    assert {s.split for s in found} == {"all"}
    assert found[0].image == Picture(tmp_path / "dicom-images-train/study2/series2/1.2.30.dcm")


@pytest.mark.parametrize("folder", ["dicom-images-train", "other", "dicom-images-test", "."])
@pytest.mark.parametrize("table", ["train-rle.csv", "train_rle.csv", "stage_2_train.csv"])
@pytest.mark.parametrize("header", ["ImageId,EncodedPixels", "\ufeff ImageId , EncodedPixels "])
def test_siim_variants_say_the_same(tmp_path: Path, folder: str, table: str, header: str) -> None:
    before = samples("siim", siim(tmp_path / "one"))
    change(siim(tmp_path / "two", folder, table) / table, "ImageId, EncodedPixels", header)
    after = samples("siim", tmp_path / "two")
    assert [(s.id, s.patient, s.masks) for s in after] == [(s.id, s.patient, s.masks) for s in before]


def test_siim_labelled_images_may_lie_among_the_first_stage_s_test_images(tmp_path: Path) -> None:
    before = samples("siim", siim(tmp_path))
    (tmp_path / "dicom-images-test").mkdir()
    shutil.move(tmp_path / "dicom-images-train/study0", tmp_path / "dicom-images-test/study0")
    assert [(s.id, s.patient, s.masks) for s in samples("siim", tmp_path)] == [
        (s.id, s.patient, s.masks) for s in before
    ]


def test_siim_images_without_a_row_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = samples("siim", siim(tmp_path))
    dicom(tmp_path / "dicom-images-test/a/b/1.2.99.dcm")
    (tmp_path / "dicom-images-train/._1.2.10.dcm").write_bytes(b"junk")
    with caplog.at_level(logging.INFO, logger="medtransfer"):
        assert samples("siim", tmp_path) == before
    assert "1 image without a row" in caplog.text


def test_siim_without_a_patient_the_study_keeps_images_together(tmp_path: Path) -> None:
    root = siim(tmp_path)
    dicom(root / "dicom-images-train/study0/series0/1.2.10.dcm", patient="", study="1.2.7")
    dicom(root / "dicom-images-train/study1/series1/1.2.20.dcm", patient=" ", study="1.2.7")
    assert [s.patient for s in samples("siim", root)] == ["patient1", "1.2.7", "1.2.7"]
    dicom(root / "dicom-images-train/study1/series1/1.2.20.dcm", patient="", study="")
    refused("siim", root, "1.2.20.dcm", "neither PatientID nor StudyInstanceUID")


@pytest.mark.parametrize("text", ["-1", " -1", ""])
def test_siim_refuses_an_image_with_runs_and_none(tmp_path: Path, text: str) -> None:
    table = siim(tmp_path) / "train-rle.csv"
    table.write_text(table.read_text() + f"1.2.20,{text}\n")
    refused("siim", tmp_path, table, "line 6", "1.2.20", "both")


def test_siim_refuses_rows_without_image(tmp_path: Path) -> None:
    table = siim(tmp_path) / "train-rle.csv"
    table.write_text(table.read_text() + "".join(f"9.{number},-1\n" for number in range(4)))
    refused("siim", tmp_path, table, "names 7 images, 4 are not on disk", "9.0, 9.1, 9.2, ...")


def test_siim_refuses_a_wrong_table(tmp_path: Path) -> None:
    root = siim(tmp_path)
    change(root / "train-rle.csv", "EncodedPixels", "EncodedPixel")
    refused("siim", root, "it lacks EncodedPixels", "'EncodedPixel'")
    (root / "train-rle.csv").write_text("ImageId, EncodedPixels\n")
    refused("siim", root, "rows", "none")
    (root / "train-rle.csv").write_text("ImageId, EncodedPixels\n1.2.10\n")
    refused("siim", root, "line 2", "too few fields")
    (root / "train-rle.csv").rename(root / "train-rle-sample.csv")
    refused("siim", root, "train-rle.csv or train_rle.csv or stage_2_train.csv", TASKS["siim"].source)


def test_siim_refuses_two_tables_and_an_image_that_is_there_twice(tmp_path: Path) -> None:
    root = siim(tmp_path)
    shutil.copy(root / "train-rle.csv", root / "stage_2_train.csv")
    refused("siim", root, "train-rle.csv, stage_2_train.csv", "take out all but one")
    (root / "stage_2_train.csv").unlink()
    dicom(root / "dicom-images-test/1.2.10.dcm")
    refused("siim", root, "1 image is there twice", root / "dicom-images-test/1.2.10.dcm")


def test_siim_refuses_what_is_no_dicom_and_a_folder_without_images(tmp_path: Path) -> None:
    root = siim(tmp_path)
    (root / "dicom-images-train/study0/series0/1.2.10.dcm").write_bytes(b"<html>not found</html>")
    refused("siim", root, "1.2.10.dcm is no DICOM file")
    shutil.rmtree(root / "dicom-images-train")
    refused("siim", root, "*.dcm", TASKS["siim"].source)


# RSNA-STR Pulmonary Embolism

COLUMNS = (
    "StudyInstanceUID,SeriesInstanceUID,SOPInstanceUID,pe_present_on_image,negative_exam_for_pe,qa_motion,qa_contrast,"
    "flow_artifact,rv_lv_ratio_gte_1,rv_lv_ratio_lt_1,leftsided_pe,chronic_pe,true_filling_defect_not_pe,"
    "rightsided_pe,acute_and_chronic_pe,central_pe,indeterminate"
)
SLICES = [  # study, series, slice, label, negative study; identifiers that a number or a float would spoil
    ("b00000000001", "c1", "000000000012", 1, 0),
    ("b00000000001", "c1", "000000000003", 0, 0),
    ("0000000000e1", "c2", "0000000001e5", 0, 1),
    ("0000000000e1", "c2", "00000000000a", 0, 1),
]
REST = ",0" * 12


def rsna_pe(root: Path) -> Path:
    """Writes the layout with four slices of two studies."""
    touch(root, (f"train/{study}/{series}/{name}.dcm" for study, series, name, *_ in SLICES))
    (root / "train.csv").write_text("\n".join([COLUMNS, *(",".join(map(str, row)) + REST for row in SLICES)]) + "\n")
    return root


def test_rsna_pe_slices_stand_by_study_and_identifier(tmp_path: Path) -> None:
    found = samples("rsna_pe", rsna_pe(tmp_path))
    assert [s.id for s in found] == ["00000000000a", "0000000001e5", "000000000003", "000000000012"]
    assert [s.patient for s in found] == ["0000000000e1"] * 2 + ["b00000000001"] * 2
    assert [s.labels for s in found] == [(0,), (0,), (0,), (1,)]
    assert {s.split for s in found} == {"all"}
    assert found[3].image == Picture(tmp_path / "train/b00000000001/c1/000000000012.dcm")
    assert all(s.image.path.is_file() for s in found)


def test_rsna_pe_variants_say_the_same(tmp_path: Path) -> None:
    before = samples("rsna_pe", rsna_pe(tmp_path))
    lines = (tmp_path / "train.csv").read_text().splitlines()
    (tmp_path / "train.csv").write_text("\ufeff" + "\r\n".join([lines[0], *lines[:0:-1], ""]), encoding="utf-8")
    assert samples("rsna_pe", tmp_path) == before
    short = [", ".join(line.split(",")[:4][::-1]) for line in lines]
    (tmp_path / "train.csv").write_text("\n\n".join(short))
    assert samples("rsna_pe", tmp_path) == before
    (tmp_path / "train.csv").write_text("\n".join([lines[0], *(f"{line}," for line in lines[1:])]))
    assert samples("rsna_pe", tmp_path) == before
    touch(tmp_path, ["train/b00000000001/c1/more.dcm", "test/x/y/z.dcm"])
    assert samples("rsna_pe", tmp_path) == before


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("pe_present_on_image", "pe_present", ["it lacks pe_present_on_image", "'pe_present'"]),
        ("SOPInstanceUID", "SOP", ["it lacks SOPInstanceUID"]),
        ("000000000003,0", "000000000003,2", ["line 3", "pe_present_on_image is '2'", "expected 0 or 1"]),
        ("000000000003,0", "000000000003,", ["line 3", "pe_present_on_image is ''"]),
        ("000000000003,0,0", "000000000003,0,x", ["line 3", "negative_exam_for_pe is 'x'"]),
        ("000000000003", "000000000012", ["line 3", "SOPInstanceUID is '000000000012'", "each slice once"]),
        ("0000000001e5,0", "0000000001e5,1", ["line 4", "the study has negative_exam_for_pe = 1"]),
        ("000000000012,1,0", "000000000012,1,1", ["line 2", "the study has negative_exam_for_pe = 1"]),
        ("000000000003,0,0", "000000000003,0,1", ["line 2", "the study has negative_exam_for_pe = 1"]),
        ("c2", "", ["line 4", "SeriesInstanceUID is ''", "an identifier"]),
        ("c2,0000000001e5,0,1" + REST, "c2", ["line 4", "SOPInstanceUID is ''", "1 rows"]),
        ("c2,0", 'c2,"0', ["is no table of commas"]),
    ],
)
def test_rsna_pe_refuses_what_is_wrong_in_the_table(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    change(rsna_pe(tmp_path) / "train.csv", old, new)
    refused("rsna_pe", tmp_path, tmp_path / "train.csv", *words)


def test_rsna_pe_blank_lines_do_not_shift_line_numbers(tmp_path: Path) -> None:
    table = rsna_pe(tmp_path) / "train.csv"
    table.write_text(table.read_text().replace("\n", "\n\n").replace("000000000003,0", "000000000003,5"))
    refused("rsna_pe", tmp_path, "line 5", "'5'")


def test_rsna_pe_counts_missing_files_and_names_three(tmp_path: Path) -> None:
    root = rsna_pe(tmp_path)
    (root / "train/b00000000001/c1/000000000012.dcm").unlink()
    refused("rsna_pe", root, "names 4 images, 1 are not on disk", "b00000000001/c1/000000000012.dcm")
    shutil.rmtree(root / "train/b00000000001")
    (root / "train/b00000000001").touch()
    refused("rsna_pe", root, "2 are not on disk")
    shutil.rmtree(root / "train/0000000000e1")
    refused("rsna_pe", root, "4 are not on disk", "0000000000e1/c2/00000000000a.dcm", ", ...")


def test_rsna_pe_refuses_a_missing_or_empty_table_and_a_missing_folder(tmp_path: Path) -> None:
    root = rsna_pe(tmp_path)
    shutil.rmtree(root / "train")
    refused("rsna_pe", root, root / "train", TASKS["rsna_pe"].source)
    (root / "train.csv").write_text("")
    refused("rsna_pe", root, "train.csv is no table")
    (root / "train.csv").unlink()
    refused("rsna_pe", root, "train.csv", TASKS["rsna_pe"].source)
