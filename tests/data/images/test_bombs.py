"""Small files that say they are large: what a decode takes, measured in a process of its own."""

from __future__ import annotations

import base64
import io
import struct
import subprocess
import sys
import textwrap
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from medtransfer.core.errors import UserError
from medtransfer.data.images import pixels
from medtransfer.data.images.masks import read as read_mask
from medtransfer.data.images.pixels import DECODE_LIMIT, PIXEL_LIMIT, Gate
from medtransfer.data.readers.reading import Picture
from tests.support.images import read_image

nifti: Any = nibabel  # only half of it has types
uid = pydicom.uid

GIGABYTE = 1 << 30
MEASURE = """
import sys
from pathlib import Path
from medtransfer.core.errors import UserError
from medtransfer.data.readers.reading import Picture
from tests.support.images import read_image
try:
    print("read", read_image(Picture(Path(sys.argv[1])), 3, ()).size)
except UserError as error:
    print("refused", error)
print([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""
"""the kernel's peak of the process itself: getrusage's would be that of the process that started it, if larger"""


def encapsulated(path: Path, data: bytes, syntax: Any, side: int, *, samples: int = 1, bits: int = 8) -> Path:
    """Writes a DICOM file whose header says `side` x `side` around a compressed image."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = syntax
    header.SOPClassUID, header.SOPInstanceUID = uid.CTImageStorage, "1.2.3"
    header.Rows = header.Columns = side
    header.SamplesPerPixel, header.PixelRepresentation = samples, 0
    header.PhotometricInterpretation = "MONOCHROME2" if samples == 1 else "RGB"
    if samples > 1:
        header.PlanarConfiguration = 0
    header.BitsAllocated, header.BitsStored, header.HighBit = 8 * -(-bits // 8), bits, bits - 1
    header.PixelData = encapsulate([data])
    header["PixelData"].VR = "OB"
    header["PixelData"].is_undefined_length = True
    header.save_as(path, enforce_file_format=True)
    return path


def resized(data: bytes, kind: str, side: int) -> bytes:
    """Writes another size into the header of a compressed image."""
    if kind == "JPEG 2000":
        place = data.index(b"\xff\x4f\xff\x51") + 8
        sizes = struct.pack(">8I", side, side, 0, 0, side, side, 0, 0)
        return data[:place] + sizes + data[place + 32 :]
    marker = {"JPEG": b"\xff\xc0", "JPEG-LS": b"\xff\xf7"}[kind]
    place = data.index(marker) + 5
    return data[:place] + struct.pack(">HH", side, side) + data[place + 4 :]


def stream(kind: str) -> tuple[bytes, Any]:
    """A compressed image of 64 x 64 and its transfer syntax."""
    plain = np.zeros((64, 64), dtype=np.uint8)
    if kind == "JPEG 2000":
        return bytes(imagecodecs.jpeg2k_encode(plain, codecformat="j2k")), uid.JPEG2000Lossless
    if kind == "JPEG-LS":
        return bytes(imagecodecs.jpegls_encode(plain)), uid.JPEGLSLossless
    out = io.BytesIO()
    Image.fromarray(plain).save(out, "JPEG")
    return out.getvalue(), uid.JPEGBaseline8Bit


KINDS = ("JPEG", "JPEG-LS", "JPEG 2000")


def test_the_streams_are_read_where_they_are_true(tmp_path: Path) -> None:
    for kind in KINDS:
        data, syntax = stream(kind)
        assert read_image(Picture(encapsulated(tmp_path / "x.dcm", data, syntax, 64)), 1, ()).size == (64, 64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("side", "words"), [(20_000, "more than the limit"), (65, r"header says 64x64 .* 65x65 of 1")])
def test_a_stream_is_held_to_its_file(tmp_path: Path, kind: str, side: int, words: str) -> None:
    data, syntax = stream(kind)
    path = encapsulated(tmp_path / "x.dcm", resized(data, kind, side), syntax, 64)
    with pytest.raises(UserError, match=words):
        read_image(Picture(path), 1, ())


def test_streams_that_are_damaged_or_of_none_of_the_kinds(tmp_path: Path) -> None:
    for kind in KINDS:
        data, syntax = stream(kind)
        for cut in (b"no stream", data[:12], b"\0" + data):
            with pytest.raises(UserError, match=r"cut off|none of the marks|cannot be decoded|no header|no codestream"):
                read_image(Picture(encapsulated(tmp_path / "x.dcm", cut, syntax, 64)), 1, ())
    data, syntax = stream("JPEG 2000")
    place = data.index(b"\xff\x4f\xff\x51") + 24
    many = resized(data, "JPEG 2000", 4000)[:place] + struct.pack(">2I", 1, 1) + data[place + 8 :]
    path_of_many = encapsulated(tmp_path / "y.dcm", many, syntax, 4000)
    with pytest.raises(UserError, match="more than 4096 tiles"):
        read_image(Picture(path_of_many), 1, ())


def test_a_run_length_frame_that_grows_beyond_its_image_is_refused(tmp_path: Path) -> None:
    data = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * 20_000
    with pytest.raises(UserError, match="40064 bytes for an image of 4096"):
        read_image(Picture(encapsulated(tmp_path / "x.dcm", data, uid.RLELossless, 64)), 1, ())


def test_a_tiff_s_parts_are_held_to_their_tiles(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8), compression="jpeg")
    content = path.read_bytes()
    place = content.index(b"\xff\xc0") + 5
    path.write_bytes(content[:place] + struct.pack(">HH", 60_000, 60_000) + content[place + 4 :])
    with pytest.raises(UserError, match="parts of 64x64 pixels, of which one says 60000x60000"):
        read_image(Picture(path), 1, ())
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8), tile=(16_384, 16_384), compression="zlib")
    assert path.stat().st_size < 1 << 20
    with pytest.raises(UserError, match="16384x16384 pixels, more than the limit"):
        read_image(Picture(path), 1, ())


# What a process takes

LARGE = 8192


def png(path: Path, kind: int, bits: int, samples: int, side: int = LARGE) -> None:
    """Writes a PNG of zeros, row by row."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(side * samples * bits // 8 + 1)) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, bits, kind, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def jpeg(path: Path, side: int, **options: Any) -> None:
    Image.new("RGB", (side, side)).save(path, **options)


def tiff(path: Path, kind: Any, side: int = LARGE, **options: Any) -> None:
    tifffile.imwrite(path, np.zeros((side, side), kind), compression="zlib", rowsperstrip=64, **options)


def volume(path: Path, kind: Any, side: int) -> None:
    nifti.save(nifti.Nifti1Image(np.zeros((side, side, 1), dtype=kind), np.eye(4)), path)


def dicom_of(kind: str, side: int, samples: int, bits: int) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        shape = (side, side) if samples == 1 else (side, side, samples)
        plain = np.zeros(shape, dtype=np.uint16 if bits > 8 else np.uint8)
        syntax: Any
        plain[::2] = 200  # bytes that are no ASCII take twice the room on their way out of gdcm
        if kind == "JPEG":
            out = io.BytesIO()
            Image.fromarray(plain).save(out, "JPEG")
            data, syntax = out.getvalue(), uid.JPEGBaseline8Bit
        elif kind == "JPEG-LS":
            data, syntax = bytes(imagecodecs.jpegls_encode(plain)), uid.JPEGLSLossless
        else:
            data, syntax = bytes(imagecodecs.jpeg2k_encode(plain, codecformat="j2k")), uid.JPEG2000Lossless
        encapsulated(path, data, syntax, side, samples=samples, bits=bits)

    return write


def deflated(path: Path) -> None:
    """A deflated DICOM file of 700 MB of zeros behind a header of 64 x 64."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = uid.CTImageStorage, uid.UID("1.2.3")
    header = Dataset()
    header.file_meta = meta
    header.Rows = header.Columns = 64
    header.save_as(path, enforce_file_format=True)
    start = 144 + int.from_bytes(path.read_bytes()[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = packer.compress(
        b"\x28\0\x10\0US\2\0\x40\0\x28\0\x11\0US\2\0\x40\0" + b"\xe0\x7f\x10\0OB\0\0" + b"\xff\xff\xff\x2f"
    )
    body += b"".join(packer.compress(bytes(1 << 20)) for _ in range(700)) + packer.flush()
    path.write_bytes(path.read_bytes()[:start] + body)


HEAVY: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "png gray": ("png", lambda path: png(path, 0, 8, 1)),
    "png gray 16": ("png", lambda path: png(path, 0, 16, 1)),
    "png colour": ("png", lambda path: png(path, 2, 8, 3)),
    "png colour 16": ("png", lambda path: png(path, 2, 16, 3)),
    "png colour and opacity 16": ("png", lambda path: png(path, 6, 16, 4)),
    "jpeg": ("jpg", lambda path: jpeg(path, LARGE)),
    "jpeg progressive": ("jpg", lambda path: jpeg(path, 6200, progressive=True)),
    "gif": ("gif", lambda path: Image.new("P", (LARGE, LARGE)).save(path)),
    "bmp of run lengths": ("bmp", lambda path: Image.new("1", (LARGE, LARGE)).save(path)),
    "tiff 8": ("tif", lambda path: tiff(path, np.uint8)),
    "tiff 16": ("tif", lambda path: tiff(path, np.uint16)),
    "tiff float": ("tif", lambda path: tiff(path, np.float32, 7600)),
    "tiff double": ("tif", lambda path: tiff(path, np.float64)),
    "tiff whole numbers of 32 bits": ("tif", lambda path: tiff(path, np.uint32)),
    "nifti": ("nii.gz", lambda path: volume(path, np.int16, 6100)),
    "nifti float": ("nii.gz", lambda path: volume(path, np.float32, 5700)),
    "dicom deflated": ("dcm", deflated),
    "dicom JPEG": ("dcm", dicom_of("JPEG", 7200, 1, 8)),
    "dicom JPEG colour": ("dcm", dicom_of("JPEG", 3900, 3, 8)),
    "dicom JPEG too large": ("dcm", dicom_of("JPEG", 8000, 3, 8)),
    "dicom JPEG-LS": ("dcm", dicom_of("JPEG-LS", 5200, 1, 16)),
    "dicom JPEG 2000": ("dcm", dicom_of("JPEG 2000", 5200, 1, 16)),
    "dicom JPEG 2000 colour": ("dcm", dicom_of("JPEG 2000", 3900, 3, 8)),
}  # fmt: skip


def measure(path: Path, top: Path, code: str = MEASURE) -> tuple[str, int]:
    """Reads a file in a process of its own: what it said, and its peak in bytes."""
    answer = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(path)],
        cwd=top, env={"PYTHONPATH": "src:.", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    *words, peak = answer.stdout.strip().splitlines()
    return " ".join(words), int(peak.split()[1]) << 10


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAVY)
def test_no_file_takes_a_gigabyte(tmp_path: Path, top: Path, name: str) -> None:
    suffix, make = HEAVY[name]
    path = tmp_path / f"x.{suffix}"
    make(path)
    words, peak = measure(path, top)
    print(f"{name:32} {path.stat().st_size:>10} bytes  {peak >> 20:>4} MiB  {words[:60]}")
    assert words.startswith(("read", "refused"))
    assert peak < GIGABYTE


def test_a_file_of_two_kilobytes_takes_no_memory(tmp_path: Path, top: Path) -> None:
    data, syntax = stream("JPEG 2000")
    path = encapsulated(tmp_path / "x.dcm", resized(data, "JPEG 2000", 20_000), syntax, 64)
    assert path.stat().st_size < 2048
    words, peak = measure(path, top)
    assert "20000x20000 pixels, more than the limit" in words
    assert peak < 200 << 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_request_to_a_served_model_takes_no_gigabyte(tmp_path: Path, top: Path, kind: str) -> None:
    data, syntax = stream(kind)
    path = encapsulated(tmp_path / "x.dcm", resized(data, kind, 20_000), syntax, 64)
    (tmp_path / "x.txt").write_text(base64.b64encode(path.read_bytes()).decode())
    words, peak = measure(
        tmp_path / "x.txt",
        top,
        """
        import sys
        from pathlib import Path
        from types import SimpleNamespace
        from medtransfer.core.errors import UserError
        from medtransfer.data.catalog import TASKS
        from medtransfer.registry import serve
        spec = SimpleNamespace(record=TASKS["shenzhen"], cache_size=64, windows=())
        try:
            serve._decode(spec, Path(sys.argv[1]).read_text(), 0)
        except UserError as error:
            print("refused", error)
        print([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
        """,
    )
    assert "refused image 0 cannot be decoded: 20000x20000 pixels, more than the limit" in words
    assert peak < GIGABYTE


# Threads


def test_threads_that_need_much_wait_for_each_other() -> None:
    gate, held, most = Gate(lambda: 100), [0], [0]
    lock = threading.Lock()

    def work(needed: int) -> None:
        for _ in range(5):
            gate.hold(needed)
            with lock:
                held[0] += needed
                most[0] = max(most[0], held[0])
            time.sleep(0.001)
            with lock:
                held[0] -= needed
        gate.release()

    threads = [threading.Thread(target=work, args=(needed,)) for needed in (60, 50, 30, 20, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert not any(thread.is_alive() for thread in threads)
    assert most[0] <= 100
    assert gate._held == 0


def test_one_image_may_be_larger_than_all_together_but_not_than_the_limit() -> None:
    gate = Gate(lambda: 100)
    gate.hold(500)  # alone it goes on
    gate.release()
    with pytest.raises(UserError, match="about 513 MiB, more than the limit of 512"):
        gate.hold(DECODE_LIMIT + (1 << 20))
    assert gate._held == 0
    assert pixels._at_once() >= DECODE_LIMIT


def test_all_that_is_held_is_given_back_whether_an_image_is_read_or_refused(tmp_path: Path) -> None:
    Image.new("L", (64, 64)).save(tmp_path / "x.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "x.png").read_bytes()[:60])
    before = pixels.gate._held
    assert read_image(Picture(tmp_path / "x.png"), 1, ()).size == (64, 64)
    assert not read_mask(Picture(tmp_path / "x.png")).any()
    with pytest.raises((UserError, OSError)):
        read_image(Picture(tmp_path / "cut.png"), 1, ())
    assert pixels.gate._held == before
    assert PIXEL_LIMIT == LARGE * LARGE
