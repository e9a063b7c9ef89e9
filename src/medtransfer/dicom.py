"""DICOM: one frame of any file that pydicom's decoders read, as 8-bit pixels."""

from __future__ import annotations

import logging
import warnings
import zlib
from functools import cache, partial
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medtransfer.errors import UserError
from medtransfer.pixels import (
    FEW,
    PIXEL_LIMIT,
    check_frame,
    check_size,
    finite,
    no_unit,
    own_range,
    pointwise,
    to_bytes,
    window,
)
from medtransfer.tasks import Windows

if TYPE_CHECKING:
    from pydicom import Dataset

INFLATED_LIMIT = 8 * PIXEL_LIMIT
"""bytes of a deflated file, which pydicom unpacks whole"""

CHUNK = 1 << 20
_DEFLATED = b"1.2.840.10008.1.2.1.99"


def is_dicom(head: bytes) -> bool:
    """Tells a DICOM file by its first bytes; files of old devices have no preamble and start with an element."""
    return head[128:132] == b"DICM" or head[:3] in (b"\2\0\0", b"\10\0\0", b"\10\0\5", b"\0\10\0")


@cache
def _pydicom() -> Any:
    """Imports pydicom; it reports every oddity of a header, which nobody reads by the thousand."""
    import pydicom
    import pydicom.pixels

    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"pydicom\.")
    return pydicom


def read_frame(file: BinaryIO, head: bytes, frame: int) -> tuple[NDArray[Any], Dataset]:
    """Reads one frame of a DICOM file: stored values in gray, RGB, or indices of a palette, and the header.

    Raises:
        UserError: it has no pixels, no such frame, too many pixels, or none of the decoders can read it.
    """
    header, whole = _header(file, head)
    check_size(int(header.Columns), int(header.Rows))
    check_frame(frame, int(header.get("NumberOfFrames") or 1))
    syntax = header.file_meta.get("TransferSyntaxUID") or _guess_syntax(header)
    source = header if whole else file
    try:
        values = _pydicom().pixels.pixel_array(
            source, index=frame, **({} if whole else {"transfer_syntax_uid": syntax})
        )
    except MemoryError:
        raise
    except Exception as error:  # as many kinds as there are decoders
        raise UserError(
            f"the DICOM file's pixels cannot be decoded: stored as {syntax.name}, {' '.join(str(error).split())}; the"
            " file is cut off or damaged, or its compression has no decoder here: get it again, uncompressed"
        ) from error
    _lift_frame(header, frame)
    return values, header


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
        pixels = pointwise(values, partial(_display, header=header))
        inverse = str(header.get("PresentationLUTShape") or "").upper() == "INVERSE"
        return 255 - pixels if photometric == "MONOCHROME1" or inverse else pixels
    if photometric == "PALETTE COLOR":
        values = _pydicom().pixels.apply_color_lut(values, header)[..., :3]
        if values.dtype != np.uint8:  # pydicom takes the tables of a big-endian file for little-endian
            values = (values if header.original_encoding[1] else values.byteswap()) >> 8
            return values.astype(np.uint8)
    return values if values.dtype == np.uint8 else pointwise(values, own_range)


def _display(values: NDArray[Any], header: Dataset) -> NDArray[np.uint8]:
    """Makes gray stored values 8-bit as a viewer would first show them."""
    numbers = _rescale(values, header)
    shares = _contrast(numbers, header)
    if shares is not None:
        return to_bytes(finite(shares))
    plain = header.get("BitsStored") == 8 and not header.get("PixelRepresentation")
    if plain and (numbers is values or np.array_equal(numbers, values)):
        return values.astype(np.uint8)
    return own_range(numbers)


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
    if function == "SIGMOID":
        shares = 0.5 + 0.5 * np.tanh(2 * (values - center) / width)  # equals 1 / (1 + exp(-4 x)), never overflows
        return np.asarray(shares)
    if linear:  # the standard's default: a window of whole numbers includes both ends
        center, width = center - 0.5, width - 1
    return np.clip((values - center) / width + 0.5, 0, 1) if width else (values > center).astype(np.float64)


def _number(header: Dataset, name: str) -> float | None:
    value = header.get(name)
    if hasattr(value, "append"):  # several windows: the first
        value = value[0] if len(value) else None
    return None if value is None or value == "" else float(value)


def _look_up(values: NDArray[Any], table: Dataset, header: Dataset) -> NDArray[np.float64]:
    """Maps values through a table, those outside to its ends; a length of 0 stands for 2**16, too many for 16 bits."""
    count, first, data = int(table.LUTDescriptor[0]) or FEW, int(table.LUTDescriptor[1]), table.LUTData
    if isinstance(data, bytes):
        wide = "<u2" if header.original_encoding[1] else ">u2"
        data = np.frombuffer(data, np.uint8 if len(data) < 2 * count else wide)
    entries: NDArray[np.float64] = np.asarray(data)[:count].astype(np.float64)
    places: NDArray[np.int64] = np.clip(np.rint(values).astype(np.int64) - first, 0, len(entries) - 1)
    return entries[places]
