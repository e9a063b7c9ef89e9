"""Image files of many formats -> 8-bit images and masks at their own size, frame by frame, on any number of threads."""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from medtransfer import dicom
from medtransfer.datasets import Picture
from medtransfer.errors import UserError
from medtransfer.pixels import PIXEL_LIMIT, check_frame, check_size, no_unit, own_range, pointwise, window
from medtransfer.tasks import Windows

if TYPE_CHECKING:
    from pydicom import Dataset

RECIPE = (
    "gray tasks to 8-bit luminance, colour tasks to RGB, alpha dropped; with windows: each (level, width) of the stored"
    " values in their unit to 0..255, values outside clipped, one window per channel; without: 8-bit images as they"
    " are, a DICOM file's values rescaled, then through its first VOI table or window, those without either and all"
    " other images of more or fewer bits scaled so that their own smallest value is 0 and their largest 255; DICOM"
    " palettes and YBR to RGB, MONOCHROME1 inverted unless the task has windows; 16-bit colours of a palette or a PNG"
    " by their high byte; NIfTI slices along the last axis as they are stored, turned by 90 degrees; masks: the"
    " label's own value, else stored values above 0, of a palette all but a nearly black darkest colour, of JPEG those"
    " above 127"
)

NEARLY_BLACK, HALF = 32, 127
"""brightest channel of a palette's background, and brightest gray of a JPEG's, in a mask"""

READABLE = "PNG, JPEG, TIFF, GIF, BMP, PPM/PGM, DICOM, NIfTI (.nii, .nii.gz) and arrays in .npz"
_PILLOW = ("PNG", "JPEG", "TIFF", "GIF", "BMP", "PPM")  # named ones only: others run programs or nest files
_CHUNK = 1 << 20
_lock = threading.Lock()


@dataclass(frozen=True)
class _Stored:
    """Values that are not 8-bit pixels yet, (height, width) or (height, width, 3); of DICOM with its header."""

    values: NDArray[Any]
    header: Dataset | None = None


def read_image(picture: Picture, channels: Literal[1, 3], windows: Windows) -> Image.Image:
    """Reads an image at its own size in 8 bits: mode L for one channel, RGB for three.

    With `windows` the file must hold more than 8 bits, which are taken to be in the windows' unit; a DICOM file must
    say how to rescale to it, and whether it is shown inverted does not count.

    Raises:
        UserError: the file, its frame or what the windows need is not there, or it is too large; decoders raise errors
            of their own on damaged bytes.
    """
    if len(windows) not in (0, 1, channels) or any(width <= 0 for _, width in windows):
        raise UserError(
            f"expected one window (level, width above 0) for each of {channels} channels, found {windows}; correct the"
            " task's windows"
        )
    content = _load(picture)
    if isinstance(content, _Stored):
        content = Image.fromarray(_eight_bit(content, windows))
    elif windows:
        raise no_unit("8-bit pixels")
    mode = "L" if channels == 1 else "RGB"
    return content if content.mode == mode else content.convert(mode)


def read_mask(picture: Picture) -> NDArray[np.bool_]:
    """Reads a mask, (height, width): the pixels of `picture.value`, without one those that are not black.

    Black is 0. Of a palette it is the darkest colour that occurs, if that is nearly black: some of DRIVE's GIF files
    have (4, 2, 4). In a JPEG it is all that is darker than half, as its compression leaves shadows. A palette image's
    value is its index; in a colour image all three colours must have the value.

    Raises:
        UserError: as `read_image`.
    """
    content = _load(picture)
    wanted, black = picture.value, 0
    values: NDArray[Any]
    if isinstance(content, _Stored):
        values = content.values
    elif content.mode in ("1", "L") or (content.mode == "P" and wanted is not None):
        values = np.asarray(content)
        wanted = wanted if wanted is None else wanted * content.info.get("spread", 1)
    else:
        values = np.asarray(content.convert("L" if content.mode == "LA" else "RGB"))
        darkest = int(values.max(axis=-1).min()) if content.mode == "P" else 0
        black = darkest if darkest <= NEARLY_BLACK else 0
    if isinstance(content, Image.Image) and content.format == "JPEG":
        black = HALF
    region: NDArray[np.bool_] = np.greater(values, black) if wanted is None else np.equal(values, wanted)
    if region.ndim == 3:
        region = np.asarray(region.any(axis=2) if wanted is None else region.all(axis=2))
    return region


def _load(picture: Picture) -> Image.Image | _Stored:
    """Opens a picture with the reader of its format, which its first bytes or its name tell."""
    if not picture.path.is_file():
        raise UserError(f"looked for the file {picture.path}, found none; correct the path or get the file again")
    name = picture.path.name.lower()
    if picture.member or name.endswith(".npz"):
        return _Stored(_array_row(picture))
    if name.endswith((".nii", ".nii.gz")):
        return _Stored(_nifti_slice(picture))
    with picture.path.open("rb") as file:
        head = file.read(1024)
        file.seek(0)
        if dicom.is_dicom(head):
            return _Stored(*dicom.read_frame(file, head, picture.frame))
        return _pillow_frame(file, picture.frame)


def _eight_bit(stored: _Stored, windows: Windows) -> NDArray[np.uint8]:
    if stored.header is not None:
        return dicom.eight_bit(stored.values, stored.header, windows)
    if windows and (stored.values.ndim == 3 or stored.values.dtype.itemsize == 1):
        raise no_unit(f"{stored.values.dtype} values, {'colour' if stored.values.ndim == 3 else 'gray'}")
    if stored.values.dtype == np.uint8:
        return stored.values
    return pointwise(stored.values, partial(window, windows=windows) if windows else own_range)


def _pillow_frame(file: BinaryIO, frame: int) -> Image.Image | _Stored:
    """Reads an image that PIL knows; one of more than 8 bits as values."""
    try:
        image: Image.Image = Image.open(file, formats=_PILLOW)
    except UnidentifiedImageError as error:
        raise UserError(f"its format is none of those that are read: {READABLE}; convert the file to one") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"more pixels than the limit of {PIXEL_LIMIT}: {error}; give a smaller image") from error
    check_size(*image.size)
    if frame:
        check_frame(frame, getattr(image, "n_frames", 1))
        image.seek(frame)
        check_size(*image.size)
    image.load()
    if image.mode == "F" or image.mode.startswith("I"):
        return _Stored(np.asarray(image))
    image.info.pop("transparency", None)  # alpha is dropped, and PIL would warn of it
    return image


def _nifti_slice(picture: Picture) -> NDArray[Any]:
    """Reads one slice along the last axis, scaled by the header and turned so that the second axis points up."""
    import nibabel

    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # it reports every oddity of a header
    try:
        volume: Any = nibabel.load(picture.path)
    except nibabel.filebasedimages.ImageFileError as error:
        raise UserError(f"cannot be read as NIfTI: {error}; the file is damaged or has a wrong suffix") from error
    shape = volume.shape
    if len(shape) not in (2, 3, 4) or shape[3:] not in ((), (1,)) or not all(shape):
        raise UserError(f"looked for a NIfTI image of 2 or 3 dimensions, found {shape}; split the file by time first")
    if volume.get_data_dtype().kind not in "biuf":
        raise UserError(f"looked for a NIfTI image of numbers, found {volume.get_data_dtype()}; convert it to one")
    check_size(shape[0], shape[1])
    check_frame(picture.frame, shape[2] if len(shape) > 2 else 1)
    values = np.asarray(volume.dataobj[(..., picture.frame, 0)[: len(shape) - 1]])
    return np.ascontiguousarray(np.rot90(values))


def _array_row(picture: Picture) -> NDArray[Any]:
    """Reads one row of an array in a `.npz` file, whatever the array's size."""
    try:
        stamp = picture.path.stat().st_mtime_ns
        with _lock:  # two threads that miss at once would both unpack
            array = _array(picture.path, picture.member, stamp)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError) as error:
        raise UserError(f"cannot be read as an .npz file: {error}; the file is damaged, get it again") from error
    check_frame(picture.frame, len(array))
    return np.array(array[picture.frame])


@lru_cache(maxsize=8)
def _array(path: Path, member: str, stamp: int) -> NDArray[Any]:
    """Maps an array of a `.npz` file into memory; `stamp` tells versions of the file apart."""
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if member not in names:
            raise UserError(f"looked for the array {member!r}, found {', '.join(names) or 'none'}; correct its name")
        info = archive.infolist()[names.index(member)]
        with archive.open(info) as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, columns_first, dtype = read(stream)
            skip = stream.tell()
        _check_array(member, shape, dtype)
        with _uncompressed(archive, info, path) as (file, start):
            order: Literal["F", "C"] = "F" if columns_first else "C"
            return np.memmap(file, dtype, "r", offset=start + skip, shape=shape, order=order)


def _check_array(member: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "biuf":
        raise UserError(f"looked for numbers in the array {member}, found {dtype}; store it as numbers")
    if len(shape) != 3 and not (len(shape) == 4 and shape[3] == 3):
        kind = "volumes are not read, " if len(shape) > 3 else ""
        raise UserError(f"looked for (images, height, width) or (..., 3) in {member}, found {shape}; {kind}reshape it")
    if not all(shape):
        raise UserError(f"looked for images in the array {member}, found none: {shape}; get the file again")
    check_size(shape[2], shape[1])


@contextmanager
def _uncompressed(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """Opens a file that holds a member's bytes as they are; yields it and where they start."""
    if info.compress_type == zipfile.ZIP_STORED:
        with path.open("rb") as file:
            file.seek(info.header_offset)
            local = file.read(30)  # a name and extra fields of the lengths at its end stand before the bytes
            lengths = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
            yield file, info.header_offset + 30 + lengths
        return
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if info.file_size > free:
        raise UserError(
            f"the array {info.filename} unpacks to {info.file_size} bytes, {tempfile.gettempdir()} has {free} free;"
            " store the file with np.savez, or set TMPDIR to a larger disk"
        )
    with tempfile.TemporaryFile() as file, archive.open(info) as stream:
        shutil.copyfileobj(stream, file, _CHUNK)
        file.flush()
        yield file, 0
