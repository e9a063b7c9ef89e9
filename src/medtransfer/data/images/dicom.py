"""DICOM: one frame of any file that pydicom's decoders read, as 8-bit pixels."""

from __future__ import annotations

import logging
import warnings
import zlib
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.errors import UserError
from medtransfer.data.images import codestreams
from medtransfer.data.images.grids import Grid
from medtransfer.data.images.pixels import (
    FEW,
    PIXEL_LIMIT,
    check_frame,
    check_size,
    finite,
    gate,
    no_unit,
    own_range,
    pointwise,
    to_bytes,
    window,
)
from medtransfer.data.tasks import Windows

if TYPE_CHECKING:
    from pydicom import Dataset

INFLATED_LIMIT = 3 * PIXEL_LIMIT
"""bytes of a deflated file, which pydicom unpacks whole"""

CHUNK = 1 << 20
_DEFLATED = b"1.2.840.10008.1.2.1.99"


def is_dicom(head: bytes) -> bool:
    """Tells a DICOM file by its first bytes; files of old devices have no preamble and start with an element.

    That is one of group 2 or 8, whose number is small: (0002,0000), (0008,0000), (0008,0005), (0008,0008) and so on.
    """
    if head[128:132] == b"DICM":
        return True
    little, big = head[:1] in (b"\2", b"\10") and head[1:2] == b"\0", head[:2] == b"\0\10"
    return len(head) > 8 and ((little and head[3] <= 1) or (big and head[2] <= 1))


@cache
def _pydicom() -> Any:
    """Imports pydicom; it reports every oddity of a header, which nobody reads by the thousand."""
    import pydicom
    import pydicom.pixels

    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"pydicom\.")
    return pydicom


def uids(path: Path) -> set[str]:
    """Reads by which UIDs a file's image is known: its own, its series', its study's; none where it is no DICOM."""
    with open(path, "rb") as stream:
        if stream.read(132)[128:] != b"DICM":
            return set()
    names = ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"]
    header = _pydicom().dcmread(path, stop_before_pixels=True, specific_tags=names)
    return {str(header.get(name)) for name in names} - {"None", ""}


def read_frame(file: BinaryIO, head: bytes, frame: int | None) -> tuple[NDArray[Any], Dataset]:
    """Reads one frame of a DICOM file: stored values in gray, RGB, or indices of a palette, and the header.

    Raises:
        UserError: it has no pixels, no such frame, too many pixels, or none of the decoders can read it.
    """
    header, whole = _header(file, head)
    check_size(int(header.Columns), int(header.Rows))
    frame = check_frame(frame, int(header.get("NumberOfFrames") or 1))
    syntax = header.file_meta.get("TransferSyntaxUID") or _guess_syntax(header)
    options: dict[str, Any] = {} if whole else {"transfer_syntax_uid": syntax}
    shift = _shift(header, syntax)
    if shift:
        options["correct_unused_bits"] = False
    _reserve(file, header, syntax, frame, whole)
    try:
        values = _pydicom().pixels.pixel_array(header if whole else file, index=frame, **options)
    except MemoryError:
        raise
    except Exception as error:  # as many kinds as there are decoders
        raise _undecodable(syntax, " ".join(str(error).split())) from error
    if shift:
        width = 8 * values.itemsize
        values = np.right_shift(np.left_shift(values, width - 1 - int(header.HighBit)), width - int(header.BitsStored))
    _lift_frame(header, frame)
    return values, header


def _undecodable(syntax: Any, words: str) -> UserError:
    return UserError(
        f"the DICOM file's pixels cannot be decoded: stored as {syntax.name}, {words}; the file is cut off or damaged,"
        " or its compression has no decoder here: get it again, uncompressed"
    )


def _shift(header: Dataset, syntax: Any) -> bool:
    """Says whether the stored bits do not begin at the lowest one, as in files of old devices.

    Raises:
        UserError: so in a compressed file, whose decoders know nothing of it, or the bits leave their cell.
    """
    stored, allocated = header.get("BitsStored"), header.get("BitsAllocated")
    high = header.get("HighBit")
    if None in (stored, allocated, high) or high == stored - 1 or header.get("SamplesPerPixel") != 1:
        return False
    if not stored - 1 <= high < allocated or syntax.is_compressed:
        raise UserError(
            f"the DICOM header says HighBit {high} with {stored} of {allocated} bits stored"
            f"{', in a compressed file' if syntax.is_compressed else ''}, which says nothing certain of its values;"
            " get the file again, or export it uncompressed"
        )
    return True


def _reserve(file: BinaryIO, header: Dataset, syntax: Any, frame: int, whole: bool) -> None:
    """Waits for the memory that decoding takes, by what the compressed image itself says of its size.

    Raises:
        UserError: that is not what the header says, or takes more than one image may.
    """
    rows, columns, samples = int(header.Rows), int(header.Columns), int(header.get("SamplesPerPixel") or 1)
    plain = rows * columns * samples * -(-int(header.get("BitsAllocated") or 8) // 8)
    needed = (11 if "YBR" in str(header.get("PhotometricInterpretation")) else 3) * plain
    if syntax.is_encapsulated and not whole:
        data = _encapsulated(file, header, syntax, frame)
        if syntax.is_deflated or syntax.name.startswith("RLE"):
            if len(data) > 2 * plain + codestreams.TILES:  # packed as badly as can be it grows by less
                raise _undecodable(syntax, f"{len(data)} bytes for an image of {plain}")
        else:
            stream = codestreams.read(data)
            if stream is None:
                raise _undecodable(syntax, "which begins with none of the marks of JPEG, JPEG-LS and JPEG 2000")
            codestreams.check(stream, columns, rows, samples)
            needed = stream.memory + len(data)
    # Values of more than 16 bits are worked on as they are, others by tables.
    wide = rows * columns * 40 if int(header.get("BitsAllocated") or 8) > 16 else rows * columns
    gate.hold(needed + wide)


def _encapsulated(file: BinaryIO, header: Dataset, syntax: Any, frame: int) -> bytes:
    """Reads a compressed frame, as pydicom will; the file stands where its pixels begin.

    Raises:
        UserError: it is not there.
    """
    place = file.tell()
    file.seek(place + 12)  # tag, VR and length
    offsets = [header.get(name) for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")]
    try:
        data: bytes = _pydicom().encaps.get_frame(
            file,
            frame,
            number_of_frames=int(header.get("NumberOfFrames") or 1),
            extended_offsets=tuple(offsets) if all(offsets) else None,
        )
    except MemoryError:
        raise
    except Exception as error:
        raise _undecodable(syntax, " ".join(str(error).split())) from error
    file.seek(place)
    return data


def grid(header: Dataset, shape: tuple[int, int], frame: int) -> Grid | None:
    """Says where the pixels lie in the patient; None where the header does not."""
    found: dict[str, Any] = {}
    shared, single = header.get("SharedFunctionalGroupsSequence"), header.get("PerFrameFunctionalGroupsSequence")
    groups = [header, *(s[i] for s, i in ((shared, 0), (single, frame)) if s and i < len(s))]
    for group in groups:
        for sequence in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"):
            for place in (group, *(group.get(sequence) or [])[:1]):
                for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
                    if place.get(name) is not None and len(place.get(name)):
                        found[name] = [float(number) for number in place.get(name)]
    if len(found) < 3 or [len(found[name]) for name in sorted(found)] != [6, 3, 2]:
        return None
    turn = np.array([-1.0, -1.0, 1.0])  # DICOM's left and back are positive, a grid's right and front
    along = np.array(found["ImageOrientationPatient"]).reshape(2, 3) * turn
    down, right = along[1] * found["PixelSpacing"][0], along[0] * found["PixelSpacing"][1]
    return Grid(np.array(found["ImagePositionPatient"]) * turn, down, right, shape)


def spacing(header: Dataset, frame: int) -> tuple[float, float] | None:
    """Reads height and width of a pixel in mm; None where the header does not say them.

    Of a projection without a calibrated spacing it is that of the detector: what lies in front of it is smaller by the
    magnification, which no header says for sure.
    """
    shared, single = header.get("SharedFunctionalGroupsSequence"), header.get("PerFrameFunctionalGroupsSequence")
    groups = [*(s[i] for s, i in ((single, frame), (shared, 0)) if s and i < len(s)), header]
    places = [place for group in groups for place in (*(group.get("PixelMeasuresSequence") or [])[:1], group)]
    for name in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        for place in places:
            said = place.get(name)
            if said is not None and hasattr(said, "append") and len(said) == 2:
                height, width = float(said[0]), float(said[1])
                if np.isfinite([height, width]).all() and min(height, width) > 0:
                    return height, width
    return None


def _header(file: BinaryIO, head: bytes) -> tuple[Dataset, bool]:
    """Reads what stands before the pixels; returns also whether these were read too."""
    whole = _DEFLATED in head
    if whole:
        _check_inflated(file, 144 + int.from_bytes(head[140:144], "little"))
    try:
        header = _pydicom().dcmread(file, force=True, stop_before_pixels=not whole)
        rows, columns, frames = (header.get(name) for name in ("Rows", "Columns", "NumberOfFrames"))
        shaped = min(int(rows or 0), int(columns or 0), int(frames or 1)) > 0
        uid = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
        kind = getattr(uid, "name", "of an unknown kind")
    except Exception as error:
        raise UserError(f"the DICOM header cannot be read: {error}; the file is damaged, get it again") from error
    found = any(name in header for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"))
    if not shaped or not (found if whole else file.peek(1)):  # type: ignore[attr-defined]  # buffered
        raise UserError(
            f"looked for an image, found a DICOM file without pixel data ({kind}, {rows} rows, {columns} columns); it"
            " is cut off or no image: get it again or leave it out"
        )
    return header, whole


def _check_inflated(file: BinaryIO, start: int) -> None:
    """Refuses a deflated file that grows beyond all images, counting its bytes without keeping them."""
    unpacker, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    file.seek(start)
    data = file.read(CHUNK)
    while data and size <= INFLATED_LIMIT:
        try:
            size += len(unpacker.decompress(data, CHUNK))
        except zlib.error as error:
            raise UserError(f"the deflated DICOM file is damaged: {error}; get it again") from error
        data = unpacker.unconsumed_tail or file.read(CHUNK)
    if size > INFLATED_LIMIT:
        raise UserError(f"the deflated DICOM file unpacks to more than the limit of {INFLATED_LIMIT} bytes")
    file.seek(0)


def _guess_syntax(header: Dataset) -> Any:
    """Names the transfer syntax that a file without one must have been written in."""
    implicit, little = header.original_encoding
    uid = _pydicom().uid
    return uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian


def _lift_frame(header: Dataset, frame: int) -> None:
    """Copies rescale and window of an enhanced multi-frame file to where single images have them."""
    shared, single = header.get("SharedFunctionalGroupsSequence"), header.get("PerFrameFunctionalGroupsSequence")
    for groups, place in ((shared, 0), (single, frame)):
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            if groups and place < len(groups) and groups[place].get(name):
                header.update(groups[place][name].value[0])


def eight_bit(values: NDArray[Any], header: Dataset, windows: Windows) -> NDArray[np.uint8]:
    """Makes stored values 8-bit: by the task's windows, else as a viewer would first show them.

    Raises:
        UserError: there are windows, and the values have no physical unit.
    """
    photometric = str(header.get("PhotometricInterpretation") or "")
    gray = values.ndim == 2 and photometric != "PALETTE COLOR"
    if windows and not (gray and _rescaled(header)):
        raise no_unit(f"a DICOM file of {photometric} without rescale" if gray else f"a DICOM file of {photometric}")
    if windows:
        return pointwise(values, lambda some: window(_rescale(some, header), windows))
    if gray:
        return pointwise(values, partial(_shown, header=header, photometric=photometric))
    if photometric == "PALETTE COLOR":
        values = _pydicom().pixels.apply_color_lut(values, header)[..., :3]
        if values.dtype != np.uint8:  # pydicom takes the tables of a big-endian file for little-endian
            values = (values if header.original_encoding[1] else values.byteswap()) >> 8
            return values.astype(np.uint8)
    return values if values.dtype == np.uint8 else pointwise(values, own_range)


def _shown(values: NDArray[Any], header: Dataset, photometric: str) -> NDArray[np.uint8]:
    """Makes gray stored values 8-bit as a viewer would first show them; without a window padding is black."""
    numbers = _rescale(values, header)
    shares = _contrast(numbers, header)
    plain = header.get("BitsStored") == 8 and not header.get("PixelRepresentation")
    padding = None
    if shares is not None:
        pixels = to_bytes(finite(shares))
    elif plain and (numbers is values or np.array_equal(numbers, values)):
        pixels = values.astype(np.uint8)
    else:
        padding = _padding(values, header)
        pixels = own_range(numbers, None if padding is None else ~padding)
    if photometric == "MONOCHROME1" or str(header.get("PresentationLUTShape") or "").upper() == "INVERSE":
        pixels = 255 - pixels
    if padding is not None:
        pixels[padding] = 0
    return pixels


def _padding(values: NDArray[Any], header: Dataset) -> NDArray[np.bool_] | None:
    """Marks stored values that stand for no measurement; None where the header names none."""
    first = _number(header, "PixelPaddingValue")
    last = _number(header, "PixelPaddingRangeLimit")
    if first is None:
        return None
    low, high = sorted((first, first if last is None else last))
    return np.asarray((values >= low) & (values <= high))


def _rescaled(header: Dataset) -> bool:
    names = ("RescaleSlope", "RescaleIntercept")
    return bool(header.get("ModalityLUTSequence")) or any(_number(header, name) is not None for name in names)


def _rescale(values: NDArray[Any], header: Dataset) -> NDArray[Any]:
    """Brings stored values to their unit by the modality table, slope and intercept, or not at all."""
    if header.get("ModalityLUTSequence"):
        return _look_up(values, header.ModalityLUTSequence[0], header)
    slope, intercept = _number(header, "RescaleSlope"), _number(header, "RescaleIntercept")
    if slope is None and intercept is None:
        return values
    return values.astype(np.float64) * (1.0 if slope is None else slope) + (intercept or 0.0)


def _contrast(values: NDArray[Any], header: Dataset) -> NDArray[np.float64] | None:
    """Applies the first VOI table, else the first window: 0..1; None without a usable one."""
    for table in (header.get("VOILUTSequence") or [])[:1]:
        if table.get("LUTDescriptor") and table.get("LUTData") is not None:
            return _look_up(values, table, header) / float(2 ** int(table.LUTDescriptor[2]) - 1)
    center, width = _number(header, "WindowCenter"), _number(header, "WindowWidth")
    function = str(header.get("VOILUTFunction") or "LINEAR").upper()
    linear = function not in ("LINEAR_EXACT", "SIGMOID")
    if center is None or width is None or width <= 0 or (linear and width < 1):
        return None
    if linear and width == 1:  # pydicom divides by nothing
        return (values > center - 0.5).astype(np.float64)
    own = _pydicom().Dataset()  # without a rescale the range that a window is mapped to is known
    own.PhotometricInterpretation, own.BitsStored, own.PixelRepresentation = "MONOCHROME2", 16, 0
    own.WindowCenter, own.WindowWidth, own.VOILUTFunction = center, width, "LINEAR" if linear else function
    with np.errstate(over="ignore"):
        return np.asarray(_pydicom().pixels.apply_windowing(values, own) / float(2**16 - 1))


def _number(header: Dataset, name: str) -> float | None:
    value = header.get(name)
    if hasattr(value, "append"):  # several windows: the first
        value = value[0] if len(value) else None
    return None if value is None or value == "" else float(value)


def _look_up(values: NDArray[Any], table: Dataset, header: Dataset) -> NDArray[np.float64]:
    """Maps values through a table, those outside to its ends; a length of 0 stands for 2**16, too many for 16 bits.

    pydicom's own functions read 8-bit entries, which may be packed two to a word, as if they were not.
    """
    count, first, data = int(table.LUTDescriptor[0]) or FEW, int(table.LUTDescriptor[1]), table.LUTData
    if isinstance(data, bytes):
        wide = "<u2" if header.original_encoding[1] else ">u2"
        data = np.frombuffer(data, np.uint8 if len(data) < 2 * count else wide)
    entries: NDArray[np.float64] = np.asarray(data)[:count].astype(np.float64)
    places: NDArray[np.int64] = np.clip(np.rint(values).astype(np.int64) - first, 0, len(entries) - 1)
    return entries[places]
