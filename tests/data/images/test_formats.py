from __future__ import annotations

import importlib
import math
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import nibabel
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.pixels.utils import pixel_array

from medtransfer.core.errors import UserError
from medtransfer.data.images import dicom as reader
from medtransfer.data.images import formats
from medtransfer.data.images.masks import read as read_mask
from medtransfer.data.images.pixels import PIXEL_LIMIT
from medtransfer.data.readers.reading import Marking, Picture
from medtransfer.data.tasks import Windows
from tests.support.images import read_image

pytestmark = pytest.mark.filterwarnings("ignore:::pydicom")

nifti: Any = nibabel  # only half of it has types

OWN = Path(pydicom.__file__).parent / "data"
MORE = Path(str(importlib.import_module("data_store").__file__)).parent / "data"
OTHER = (".py", ".pyc", ".json", ".txt", ".md", ".dump", ".icc")
FILES = {
    path.name: path
    for path in sorted([*OWN.rglob("*"), *MORE.rglob("*")])
    if path.is_file() and path.suffix not in OTHER and "TINY_ALPHA" not in path.parts
}
NO_PIXELS = """
    DICOMDIR DICOMDIR-bigEnd DICOMDIR-empty.dcm DICOMDIR-implicit DICOMDIR-nooffset DICOMDIR-nopatient
    DICOMDIR-reordered ExplVR_BigEndNoMeta.dcm ExplVR_LitEndNoMeta.dcm UN_sequence.dcm chrJapMulti.dcm
    chrJapMultiExplicitIR6.dcm chrKoreanMulti.dcm chrSQEncoding.dcm chrSQEncoding1.dcm empty_charset_LEI.dcm fall.dcm
    hotiron.dcm hotmetalblue.dcm meta_missing_tsyntax.dcm nested_priv_SQ.dcm no_meta_group_length.dcm pet.dcm
    pet20step.dcm priv_SQ.dcm reportsi.dcm reportsi_with_empty_number_tags.dcm rtplan.dcm rtplan_truncated.dcm
    rtstruct.dcm spring.dcm summer.dcm test-SR.dcm waveform_ecg.dcm winter.dcm
"""
REFUSED = dict.fromkeys(NO_PIXELS.split(), "without pixel data") | {
    "JPEG-lossy.dcm": "12-bit precision",  # the one free decoder of 12-bit lossy JPEG has a licence that binds us
    "JPGExtended.dcm": "12-bit precision",
    "JPEG2000-embedded-sequence-delimiter.dcm": "more than the limit",  # cut at a marker inside the compressed bytes
    "MR_truncated.dcm": "cut off",
    "SC_rgb_jpeg.dcm": "cannot be decoded",  # says that it is compressed and is not
    "badVR.dcm": "header cannot be read",
    "no_meta.dcm": "none of those",
    "zipMR.gz": "none of those",
}
TWINS = [
    "MR_small MR_small_RLE MR_small_bigendian MR_small_expb MR_small_implicit MR_small_jp2klossless"
    " MR_small_jpeg_ls_lossless MR_small_padded",
    "693_UNCR 693_J2KR",
    "693_UNCI 693_J2KI",
    "MR2_UNCR MR2_J2KR",
    "MR2_UNCI MR2_J2KI",
    "RG1_UNCR RG1_J2KR",
    "RG1_UNCI RG1_J2KI",
    "RG3_UNCR RG3_J2KR",
    "RG3_UNCI RG3_J2KI",
    "US1_UNCR US1_J2KR",
    "US1_UNCI US1_J2KI",
    "emri_small emri_small_RLE emri_small_big_endian emri_small_jpeg_2k_lossless emri_small_jpeg_ls_lossless",
    "OBXXXX1A OBXXXX1A_expb OBXXXX1A_rle",
    "OBXXXX1A_2frame OBXXXX1A_expb_2frame OBXXXX1A_rle_2frame",
    "gdcm-US-ALOKA-16 gdcm-US-ALOKA-16_big",
    "SC_rgb SC_rgb_expb SC_rgb_rle SC_rgb_2frame SC_rgb_rle_2frame SC_rgb_jpeg_gdcm SC_rgb_16bit SC_rgb_expb_16bit"
    " SC_rgb_rle_16bit SC_rgb_32bit SC_rgb_expb_32bit SC_rgb_rle_32bit",
    "SC_rgb_small_odd SC_rgb_small_odd_big_endian",
    "rtdose rtdose_1frame rtdose_expb rtdose_rle",
    "liver liver_1frame liver_expb",
    "color-pl color-px",
]


def dicom(folder: Path, values: NDArray[Any], name: str = "image.dcm", **fields: Any) -> Path:
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.SOPClassUID = pydicom.uid.CTImageStorage
    header.SOPInstanceUID = pydicom.uid.generate_uid()
    header.Rows, header.Columns = values.shape[-2:]
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 8 * values.itemsize
    header.PixelRepresentation = int(values.dtype.kind == "i")
    if values.ndim == 3:
        header.NumberOfFrames = len(values)
    for key, value in fields.items():
        setattr(header, key, value)
    header.HighBit = header.BitsStored - 1
    header.PixelData = values.tobytes()
    header["PixelData"].VR = "OW"
    header.save_as(folder / name, enforce_file_format=True)
    return folder / name


def item(**fields: Any) -> Dataset:
    made = Dataset()
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def row(path: Path, windows: Windows = (), channels: Literal[1, 3] = 1, frame: int = 0) -> list[Any]:
    found: list[Any] = np.asarray(read_image(Picture(path, frame), channels, windows))[0].tolist()
    return found


def of(value: int) -> Marking:
    """A region of one stored value."""
    return Marking(values=(value,))


def gray(*values: int, dtype: str = "u2") -> NDArray[Any]:
    return np.array([values], dtype=dtype)


def png(folder: Path, width: int, height: int) -> Path:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", size), chunk(b"IDAT", zlib.compress(b"\0" * 100)), chunk(b"IEND", b"")]
    path = folder / "image.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def test_the_real_files_are_there() -> None:
    assert len(FILES) > 160
    assert set(REFUSED) <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_real_files_are_read_or_refused_with_a_reason(name: str) -> None:
    if name in REFUSED:
        picture = Picture(FILES[name])
        for read in (lambda: read_image(picture, 1, ()), lambda: read_mask(picture)):
            with pytest.raises(UserError, match=REFUSED[name]):
                read()
        return
    header = pydicom.dcmread(FILES[name], force=True, stop_before_pixels=True)
    several = int(header.get("NumberOfFrames") or 1) > 1
    if several:
        with pytest.raises(UserError, match=f"holds {header.NumberOfFrames} frames and none is named"):
            read_image(Picture(FILES[name]), 1, ())
    picture = Picture(FILES[name], 0 if several else None)
    for channels, mode in ((1, "L"), (3, "RGB")):
        image = read_image(picture, channels, ())  # type: ignore[arg-type]  # 1 or 3
        assert (image.mode, image.size) == (mode, (header.Columns, header.Rows))
        assert np.asarray(image).dtype == np.uint8
        assert np.ptp(np.asarray(image)) > 0 or image.size == (16, 16)  # some of these are flat
    assert read_mask(picture).shape == (header.Rows, header.Columns)


def test_small_files_without_a_suffix_are_known_by_their_content() -> None:
    found = [path for path in OWN.rglob("*") if "dicomdirtests" in path.parts and path.is_file()]
    images = 0
    for path in found:
        try:
            images += read_image(Picture(path), 1, ()).size == (16, 16)
        except UserError:
            continue
    assert images == 31


@pytest.mark.parametrize("group", TWINS)
def test_stored_forms_of_one_image_decode_to_equal_pixels(group: str) -> None:
    first, *others = (np.asarray(read_image(Picture(FILES[f"{name}.dcm"], 0), 3, ())) for name in group.split())
    for other in others:
        assert np.array_equal(first, other)


@pytest.mark.parametrize("name", ["SC_rgb_jpeg_dcmtk", "SC_ybr_full_uncompressed", "SC_ybr_full_422_uncompressed"])
def test_luminance_and_chrominance_become_the_same_colours(name: str) -> None:
    colours = np.asarray(read_image(Picture(FILES["SC_rgb.dcm"]), 3, ())).astype(int)
    found = np.asarray(read_image(Picture(FILES[f"{name}.dcm"]), 3, ())).astype(int)
    assert abs(colours - found)[5::10].max() <= 5  # middles of the stripes: shared colours bleed at their edges


@pytest.mark.parametrize("name", ["MR2_UNCR", "MR_small", "693_UNCR", "bad_sequence", "RG1_UNCR", "RG3_J2KI"])
def test_windows_of_real_files_agree_with_pydicom(name: str) -> None:
    header = pydicom.dcmread(FILES[f"{name}.dcm"])
    voi = apply_voi_lut(apply_modality_lut(pixel_array(header), header), header).astype(float)
    ends = np.array([0, 2**header.BitsStored - 1]) - (2 ** (header.BitsStored - 1) if header.PixelRepresentation else 0)
    low, high = ends * float(header.get("RescaleSlope") or 1) + float(header.get("RescaleIntercept") or 0)
    expected = np.rint((voi - low) / (high - low) * 255)
    if header.PhotometricInterpretation == "MONOCHROME1":
        expected = 255 - expected
    found = np.asarray(read_image(Picture(FILES[f"{name}.dcm"]), 1, ()))
    assert abs(found - expected).max() <= 1  # halves may round to either side
    assert np.mean(found == expected) > 0.99


def test_windows_follow_the_standards_functions(tmp_path: Path) -> None:
    values = gray(0, 1000, 1500, 2000, 2250, 4095)
    fields: dict[str, Any] = {"BitsStored": 12, "WindowCenter": 2048, "WindowWidth": 4096}
    assert row(dicom(tmp_path, values, **fields)) == [0, 62, 93, 125, 140, 255]
    fields = {"BitsStored": 12, "WindowCenter": [2000, 1], "WindowWidth": [2000, 1]}
    assert row(dicom(tmp_path, values, VOILUTFunction="LINEAR_EXACT", **fields)) == [0, 0, 64, 128, 159, 255]
    fields = {"BitsStored": 12, "WindowCenter": 2000, "WindowWidth": 1000}
    third = round(255 / (1 + math.exp(2)))
    assert row(dicom(tmp_path, values, VOILUTFunction="SIGMOID", **fields)) == [0, 5, third, 128, 186, 255]
    fields = {"BitsStored": 12, "WindowCenter": 2000, "WindowWidth": 1}
    assert row(dicom(tmp_path, values, **fields)) == [0, 0, 0, 255, 255, 255]


def test_unusable_windows_leave_the_own_range(tmp_path: Path) -> None:
    unusable: list[dict[str, Any]] = [
        {},
        {"WindowCenter": 5, "WindowWidth": 0},
        {"WindowCenter": "", "WindowWidth": ""},
    ]
    for fields in unusable:
        assert row(dicom(tmp_path, gray(-1000, 0, 1000, 3000, dtype="i2"), **fields)) == [0, 64, 128, 255]


def test_eight_stored_bits_stay_unless_rescaled(tmp_path: Path) -> None:
    values = gray(10, 20, 210, dtype="u1")
    assert row(dicom(tmp_path, values)) == [10, 20, 210]
    assert row(dicom(tmp_path, values, RescaleSlope=1, RescaleIntercept=0)) == [10, 20, 210]
    assert row(dicom(tmp_path, values, RescaleSlope=2, RescaleIntercept=0)) == [0, 13, 255]
    assert row(dicom(tmp_path, values.astype("u2"), BitsStored=8)) == [10, 20, 210]
    assert row(dicom(tmp_path, gray(-10, 0, 10, dtype="i1"))) == [0, 128, 255]


def test_inverted_presentation_is_turned_once(tmp_path: Path) -> None:
    values = gray(10, 20, 210, dtype="u1")
    assert row(dicom(tmp_path, values, PhotometricInterpretation="MONOCHROME1")) == [245, 235, 45]
    assert row(dicom(tmp_path, values, PresentationLUTShape="INVERSE")) == [245, 235, 45]
    both: dict[str, Any] = {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}
    assert row(dicom(tmp_path, values, **both)) == [245, 235, 45]
    window: dict[str, Any] = {"WindowCenter": 2048, "WindowWidth": 4096, "BitsStored": 12}
    found = row(dicom(tmp_path, gray(0, 1000, 4095), PhotometricInterpretation="MONOCHROME1", **window))
    assert found == [255, 193, 0]


def test_tables_map_values(tmp_path: Path) -> None:
    voi = item(LUTDescriptor=[4, 10, 8], LUTData=bytes([0, 50, 100, 255]))
    path = dicom(tmp_path, gray(5, 10, 11, 12, 13, 20), VOILUTSequence=[voi], WindowCenter=1, WindowWidth=2)
    assert row(path) == [0, 0, 50, 100, 255, 255]
    modality = item(
        LUTDescriptor=[3, 0, 16], LUTData=np.array([1000, 500, 0], dtype="<u2").tobytes(), ModalityLUTType="HU"
    )
    path = dicom(tmp_path, gray(0, 1, 2, 3), ModalityLUTSequence=[modality])
    assert row(path) == [255, 128, 0, 0]
    assert row(path, ((500, 500),)) == [255, 128, 0, 0]


def test_windows_of_a_task_lie_on_rescaled_values(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 1, "WindowWidth": 2}
    path = dicom(tmp_path, gray(0, 864, 964, 1064, 1264, 4000), BitsStored=12, **fields)
    assert row(path, ((40, 400),)) == [0, 0, 64, 128, 255, 255]
    assert row(path, ((40, 400),), channels=3)[2] == [64, 64, 64]
    assert row(path, ((40, 400), (-1024, 10), (0, 2048)), channels=3)[0] == [0, 128, 0]
    signed = dicom(tmp_path, gray(-160, -60, 40, 240, dtype="i2"), RescaleSlope=1, RescaleIntercept=0)
    assert row(signed, ((40, 400),)) == [0, 64, 128, 255]
    inverse = dicom(tmp_path, gray(864, 1264), PhotometricInterpretation="MONOCHROME1", **fields)
    assert row(inverse, ((40, 400),)) == [0, 255]  # the task says which values are bright


def test_windows_are_refused_where_no_unit_is_known(tmp_path: Path) -> None:
    Image.new("L", (2, 2)).save(tmp_path / "eight.png")
    colours = np.zeros((2, 2, 2, 3), dtype=np.uint16)
    np.savez(tmp_path / "arrays.npz", colours=colours, eight=colours[..., 0].astype(np.uint8))
    pictures = [
        Picture(dicom(tmp_path, gray(0, 1))),
        Picture(FILES["SC_rgb.dcm"]),
        Picture(tmp_path / "eight.png"),
        Picture(tmp_path / "arrays.npz", 0, "colours"),
        Picture(tmp_path / "arrays.npz", 0, "eight"),
    ]
    for picture in pictures:
        with pytest.raises(UserError, match="physical unit"):
            read_image(picture, 1, ((40, 400),))
    for windows in (((40, 400), (1, 2)), ((40, 0),)):
        with pytest.raises(UserError, match="one window"):
            read_image(pictures[0], 3, windows)


def test_wide_images_take_the_windows_as_they_are_stored(tmp_path: Path) -> None:
    values = np.array([[-160, -60, 40, 240]], dtype=np.float32)
    Image.fromarray(values).save(tmp_path / "image.tif")
    assert row(tmp_path / "image.tif", ((40, 400),)) == [0, 64, 128, 255]


def test_rescale_and_window_of_enhanced_files_are_found_per_frame(tmp_path: Path) -> None:
    def group(intercept: float, center: float) -> Dataset:
        unit = item(RescaleSlope=1, RescaleIntercept=intercept)
        voi = item(WindowCenter=center, WindowWidth=401)
        return item(PixelValueTransformationSequence=[unit], FrameVOILUTSequence=[voi])

    values = np.array([[[864, 1064, 1264]], [[0, 200, 400]]], dtype=np.uint16)
    path = dicom(
        tmp_path,
        values,
        SharedFunctionalGroupsSequence=[group(-1024, 40.5)],
        PerFrameFunctionalGroupsSequence=[item(), group(0, 200.5)],
    )
    assert row(path) == row(path, frame=1) == [0, 128, 255]
    assert row(path, ((40, 400),)) == [0, 128, 255]
    assert row(path, ((200, 400),), frame=1) == [0, 128, 255]


def test_frames_are_read_one_by_one(tmp_path: Path) -> None:
    whole = pixel_array(FILES["emri_small.dcm"])
    for name in ("emri_small", "emri_small_RLE", "emri_small_jpeg_ls_lossless"):
        for frame in (0, 4, 9):
            found = np.asarray(read_image(Picture(FILES[f"{name}.dcm"], frame), 1, ())).astype(float)
            own = (whole[frame] - float(whole[frame].min())) / np.ptp(whole[frame]) * 255
            assert abs(found - own).max() <= 0.5
    pages = [Image.new("L", (3, 2), shade) for shade in (10, 20, 30)]
    for name in ("pages.tif", "pages.gif"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        assert [row(tmp_path / name, frame=frame)[0] for frame in range(3)] == [10, 20, 30]
    np.savez(tmp_path / "rows.npz", rows=np.zeros((3, 2, 2), dtype=np.uint8))
    nifti.save(nifti.Nifti1Image(np.zeros((2, 2, 3)), np.eye(4)), tmp_path / "v.nii")
    for picture in (
        Picture(FILES["emri_small.dcm"], 10),
        Picture(tmp_path / "pages.tif", 3),
        Picture(tmp_path / "pages.gif", -1),
        Picture(png(tmp_path, 1, 1), 1),
        Picture(tmp_path / "rows.npz", 3, "rows"),
        Picture(tmp_path / "v.nii", 3),
    ):
        with pytest.raises(UserError, match=f"frame {picture.frame}, found \\d+"):
            read_image(picture, 1, ())


def test_a_file_cut_off_is_refused(tmp_path: Path) -> None:
    names = "MR_small MR_small_RLE MR_small_jp2klossless SC_rgb_jpeg_dcmtk SC_rgb_jpeg_gdcm"
    for name in (*names.split(), "image_dfl", "JPGLosslessP14SV1_1s_1f_8b"):
        whole = FILES[f"{name}.dcm"].read_bytes()
        for share in (0.97, 0.8, 0.6):
            (tmp_path / "cut.dcm").write_bytes(whole[: int(len(whole) * share)])
            with pytest.raises(UserError, match=r"cut off|damaged"):
                read_image(Picture(tmp_path / "cut.dcm"), 1, ())


def test_dicom_without_pixels_or_with_unknown_compression_says_so(tmp_path: Path) -> None:
    header = pydicom.dcmread(FILES["CT_small.dcm"])
    del header.PixelData
    header.save_as(tmp_path / "empty.dcm")
    with pytest.raises(UserError, match=r"without pixel data .CT Image Storage, 128 rows"):
        read_image(Picture(tmp_path / "empty.dcm"), 1, ())
    header = pydicom.dcmread(FILES["JPEG2000.dcm"])
    header.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
    header.save_as(tmp_path / "video.dcm")
    with pytest.raises(UserError, match=r"MPEG2.*not supported"):
        read_image(Picture(tmp_path / "video.dcm"), 1, ())


def test_oddities_of_headers_are_not_printed(top: Path) -> None:
    names = ("MR_small_padded", "explicit_VR-UN", "bad_sequence", "badVR", "emri_small_jpeg_2k_lossless_too_short")
    code = """import logging, sys
logging.basicConfig()
from pathlib import Path
from medtransfer.core.errors import UserError
from medtransfer.data.readers.reading import Picture
from tests.support.images import read_image
for name in sys.argv[1:]:
    try:
        read_image(Picture(Path(name)), 1, ())
    except UserError:
        pass
"""
    command = [sys.executable, "-W", "always::UserWarning", "-c", code, *(str(FILES[f"{name}.dcm"]) for name in names)]
    answer = subprocess.run(command, cwd=top, env={"PYTHONPATH": "src:."}, capture_output=True, text=True, check=True)
    assert answer.stdout + answer.stderr == ""


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_huge_images_are_refused_by_their_headers(tmp_path: Path) -> None:
    side = math.isqrt(PIXEL_LIMIT) + 1
    small = dicom(tmp_path, gray(0, 1))
    header = pydicom.dcmread(small)
    header.Rows = header.Columns = 60000
    header.save_as(tmp_path / "huge.dcm")
    size = nifti.Nifti1Header()
    size.set_data_shape((side, side, 2))
    size["magic"], size["vox_offset"] = b"n+1", 352
    (tmp_path / "huge.nii").write_bytes(size.binaryblock + b"\0" * 8)
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive, archive.open("rows.npy", "w") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (1, side, side)})
    for number, (width, height) in enumerate(((side, side), (12_000, 12_000), (2**31 - 1, 2**31 - 1))):
        bomb = png(tmp_path, width, height).rename(tmp_path / f"{number}.png")
        with pytest.raises(UserError, match="limit"):
            read_image(Picture(bomb), 1, ())
    for picture in (
        Picture(tmp_path / "huge.dcm"),
        Picture(tmp_path / "huge.nii"),
        Picture(tmp_path / "huge.npz", member="rows"),
    ):
        with pytest.raises(UserError, match="more than the limit"):
            read_image(picture, 1, ())


def test_a_deflated_file_is_counted_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "INFLATED_LIMIT", 512 * 512)
    with pytest.raises(UserError, match="unpacks to more"):
        read_image(Picture(FILES["image_dfl.dcm"]), 1, ())


def test_common_images_keep_their_pixels(tmp_path: Path) -> None:
    colours = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10
    for mode in ("1", "L", "P", "RGB", "LA", "RGBA"):
        image = Image.fromarray(colours).convert(mode)
        image.save(tmp_path / f"{mode}.png")
        for channels, wanted in ((1, "L"), (3, "RGB")):
            found = read_image(Picture(tmp_path / f"{mode}.png"), channels, ())  # type: ignore[arg-type]  # 1 or 3
            assert np.array_equal(np.asarray(found), np.asarray(image.convert(wanted)))
            assert found.resize((1, 1)).size == (1, 1)  # usable after its file is closed
    for suffix in ("jpg", "bmp", "gif", "tif", "ppm"):
        Image.fromarray(colours).save(tmp_path / f"image.{suffix}")
        with Image.open(tmp_path / f"image.{suffix}") as image:
            expected = np.asarray(image.convert("RGB"))
        assert np.array_equal(np.asarray(read_image(Picture(tmp_path / f"image.{suffix}"), 3, ())), expected)


@pytest.mark.filterwarnings("error")
def test_transparent_colours_of_a_palette_stay_colours(tmp_path: Path) -> None:
    image = Image.fromarray(gray(0, 1, dtype="u1")).convert("P")
    image.putpalette([200, 100, 50, 10, 20, 30])
    image.save(tmp_path / "image.png", transparency=bytes([0, 128]))
    assert row(tmp_path / "image.png", channels=3) == [[200, 100, 50], [10, 20, 30]]


def test_an_image_in_its_own_mode_is_not_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (4, 4), 7).save(tmp_path / "gray.png")
    Image.new("RGB", (4, 4), (7, 8, 9)).save(tmp_path / "colour.jpg")
    monkeypatch.setattr(Image.Image, "convert", None)
    monkeypatch.setattr(Image.Image, "copy", None)
    assert read_image(Picture(tmp_path / "gray.png"), 1, ()).getpixel((0, 0)) == 7
    assert read_image(Picture(tmp_path / "colour.jpg"), 3, ()).mode == "RGB"


def test_wide_images_are_scaled_by_their_own_range(tmp_path: Path) -> None:
    Image.fromarray(gray(1000, 2000, 3000, 5000)).save(tmp_path / "wide.png")
    Image.fromarray(gray(-3, -2, -1, 1, dtype="i4")).save(tmp_path / "whole.tif")
    Image.fromarray(gray(0, 1, 2, 4, dtype="f4") * 1e-3).save(tmp_path / "float.tif")
    for name in ("wide.png", "whole.tif", "float.tif"):
        assert row(tmp_path / name) == [0, 64, 128, 255]
        assert row(tmp_path / name, channels=3)[1] == [64, 64, 64]
    Image.fromarray(gray(7, 7)).save(tmp_path / "flat.png")
    assert row(tmp_path / "flat.png") == [0, 0]
    Image.fromarray(np.array([[1, np.nan]], dtype=np.float32)).save(tmp_path / "odd.tif")
    with pytest.raises(UserError, match="not finite"):
        read_image(Picture(tmp_path / "odd.tif"), 1, ())


def test_unknown_and_missing_files_are_refused(tmp_path: Path) -> None:
    Image.new("L", (2, 2)).save(tmp_path / "other.tga")  # PIL would open it
    for content in (b"", b"text", (tmp_path / "other.tga").read_bytes()):
        (tmp_path / "image.png").write_bytes(content)
        with pytest.raises(UserError, match=r"PNG, JPEG.*DICOM"):
            read_image(Picture(tmp_path / "image.png"), 1, ())
    for name in ("absent.png", "absent.nii", "absent.npz"):
        with pytest.raises(UserError, match="found none"):
            read_image(Picture(tmp_path / name), 1, ())


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_nifti_slices_stand_upright(tmp_path: Path, suffix: str) -> None:
    values = np.zeros((2, 3, 4), dtype=np.int16)  # right, front, up
    values[0, 2, 1], values[1, 0, 1], values[1, 1, 1] = 100, 40, 20
    path = tmp_path / f"volume.{suffix}"
    nifti.save(nifti.Nifti1Image(values, np.eye(4)), path)
    expected = [[255, 0], [0, 51], [0, 102]]
    assert np.asarray(read_image(Picture(path, 1), 1, ())).tolist() == expected
    assert read_mask(Picture(path, 1)).tolist() == (np.array(expected) > 0).tolist()
    assert read_mask(Picture(path, 1, marking=of(40))).tolist() == [[False, False], [False, False], [False, True]]
    assert not read_mask(Picture(path, 0)).any()


def test_nifti_values_are_scaled_by_the_header(tmp_path: Path) -> None:
    image = nifti.Nifti1Image(np.array([[0, 50, 100, 200]], dtype=np.int16), np.eye(4))
    image.header.set_slope_inter(2, -160)
    path = tmp_path / "flat.nii"
    image.to_filename(path)
    assert np.asarray(read_image(Picture(path), 1, ((40, 400),)))[::-1, 0].tolist() == [0, 64, 128, 255]
    nifti.save(nifti.Nifti1Image(np.ones((2, 2, 2, 1), dtype=np.uint8), np.eye(4)), tmp_path / "one.nii")
    assert np.asarray(read_image(Picture(tmp_path / "one.nii", 1), 1, ())).tolist() == [[1, 1], [1, 1]]


def test_nifti_of_time_or_colour_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "volume.nii"
    for values in (np.zeros((2, 2, 2, 2)), np.zeros((2, 2, 2, 1, 3)), np.zeros(2)):
        nifti.save(nifti.Nifti1Image(values, np.eye(4)), path)
        with pytest.raises(UserError, match="dimensions"):
            read_image(Picture(path), 1, ())
    nifti.save(nifti.Nifti1Image(np.zeros((2, 2, 2), dtype=np.complex64), np.eye(4)), path)
    with pytest.raises(UserError, match="numbers"):
        read_image(Picture(path), 1, ())
    path.write_bytes(b"text")
    with pytest.raises(UserError, match="NIfTI"):
        read_image(Picture(path), 1, ())


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_rows_of_arrays(tmp_path: Path, save: Any) -> None:
    rng = np.random.default_rng(0)
    gray_rows = rng.integers(0, 256, (3, 4, 5)).astype(np.uint8)
    colour_rows = rng.integers(0, 256, (3, 4, 5, 3)).astype(np.uint8)
    wide = np.asfortranarray(np.arange(24, dtype=np.int16).reshape(2, 3, 4) * 100)
    path = tmp_path / "arrays.npz"
    save(path, gray=gray_rows, colour=colour_rows, wide=wide, masks=gray_rows > 100)
    for frame in range(3):
        assert np.array_equal(np.asarray(read_image(Picture(path, frame, "gray"), 1, ())), gray_rows[frame])
        assert np.array_equal(np.asarray(read_image(Picture(path, frame, "colour"), 3, ())), colour_rows[frame])
        assert np.array_equal(read_mask(Picture(path, frame, "masks")), gray_rows[frame] > 100)
        assert np.array_equal(read_mask(Picture(path, frame, "gray", marking=of(7))), gray_rows[frame] == 7)
    assert np.asarray(read_image(Picture(path, 1, "wide"), 1, ()))[-1].tolist() == [185, 209, 232, 255]
    assert isinstance(formats._array(path, "gray", path.stat().st_mtime_ns), np.memmap)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_memory_does_not_grow_with_an_array(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "arrays.npz"
    save(path, rows=np.ones((500, 256, 256), dtype=np.uint8))
    read_image(Picture(path, 0, "rows"), 1, ())  # imports and caches of numpy's own
    formats._array.cache_clear()
    tracemalloc.start()
    try:
        for frame in range(0, 500, 50):
            read_image(Picture(path, frame, "rows"), 1, ())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 << 20  # the array has 31 MiB
    assert formats._array.cache_info().misses == 1


def test_a_replaced_array_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    for value in (1, 2):
        (tmp_path / "new.npz").unlink(missing_ok=True)
        np.savez(tmp_path / "new.npz", rows=np.full((1, 2, 2), value, dtype=np.uint8))
        (tmp_path / "new.npz").replace(path)
        assert np.asarray(read_image(Picture(path, 0, "rows"), 1, ())).max() == value


def test_arrays_that_are_no_images_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    np.savez(
        path,
        things=np.array([None, {}], dtype=object),
        words=np.array([[["a"]]]),
        volumes=np.zeros((2, 3, 4, 5)),
        flat=np.zeros((2, 3)),
        none=np.zeros((0, 3, 4)),
    )
    reasons = {"things": "numbers", "words": "numbers", "volumes": "volumes", "flat": "reshape", "none": "found none"}
    for member, reason in {**reasons, "absent": "things, words"}.items():
        with pytest.raises(UserError, match=reason):
            read_image(Picture(path, 0, member), 1, ())
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="damaged"):
        read_image(Picture(path, 0, "flat"), 1, ())


def test_masks_of_every_kind(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 2, 200]], dtype=np.uint8)
    palette = Image.fromarray(labels).convert("P")
    palette.putpalette([0, 0, 0, 0, 0, 1, 255, 0, 0] + [9] * 759)
    palette.save(tmp_path / "palette.png")
    palette.save(tmp_path / "palette.gif")
    Image.fromarray(labels).save(tmp_path / "gray.png")
    Image.fromarray(labels.astype(np.uint16) * 300).save(tmp_path / "wide.png")
    Image.fromarray(labels > 0).save(tmp_path / "bit.png")
    colours = np.stack([labels, labels * 0, labels], axis=-1)
    Image.fromarray(colours).save(tmp_path / "colour.png")
    opaque = np.full_like(labels, 255)
    Image.fromarray(np.stack([labels, labels, labels, opaque], axis=-1)).save(tmp_path / "alpha.png")
    Image.fromarray(np.stack([labels, opaque], axis=-1)).save(tmp_path / "gray_alpha.png")
    for path in sorted(tmp_path.iterdir()):
        assert read_mask(Picture(path)).tolist() == [[False, True, True, True]], path.name
    for name, value in (("palette.png", 2), ("palette.gif", 2), ("gray.png", 2), ("wide.png", 600), ("alpha.png", 2)):
        assert read_mask(Picture(tmp_path / name, marking=of(value))).tolist() == [[False, False, True, False]], name
    assert read_mask(Picture(tmp_path / "bit.png", marking=of(1))).sum() == 3
    assert not read_mask(Picture(tmp_path / "colour.png", marking=of(2))).any()
    assert read_mask(Picture(tmp_path / "colour.png", marking=of(0))).sum() == 1


def test_masks_of_dicom_are_stored_values(tmp_path: Path) -> None:
    path = dicom(tmp_path, gray(0, 1, 2, 3), PhotometricInterpretation="MONOCHROME1", WindowCenter=2, WindowWidth=1)
    assert read_mask(Picture(path)).tolist() == [[False, True, True, True]]
    assert read_mask(Picture(path, marking=of(2))).tolist() == [[False, False, True, False]]
    organ = pixel_array(FILES["liver.dcm"])
    for frame in range(3):
        assert np.array_equal(read_mask(Picture(FILES["liver.dcm"], frame)), organ[frame] > 0)


def test_many_threads_read_as_one_does(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "rows.npz", rows=np.arange(4096, dtype=np.uint16).reshape(4, 32, 32))
    nifti.save(nifti.Nifti1Image(np.random.default_rng(1).normal(size=(9, 8, 7)), np.eye(4)), tmp_path / "v.nii.gz")
    names = ("MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "SC_rgb_jpeg_gdcm", "image_dfl")
    pictures = [Picture(FILES[f"{name}.dcm"]) for name in names]
    pictures += [Picture(tmp_path / "rows.npz", 3, "rows"), Picture(tmp_path / "v.nii.gz", 5)]
    expected = [read_image(picture, 1, ()).tobytes() for picture in pictures]
    formats._array.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda picture: read_image(picture, 1, ()).tobytes(), pictures * 12))
    assert found == expected * 12
