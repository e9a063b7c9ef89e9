"""Image files of many formats -> 8-bit images and masks at their own size, frame by frame, on any number of threads."""

from __future__ import annotations

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
from PIL import GifImagePlugin, Image, ImageOps, UnidentifiedImageError

from medtransfer.core.errors import UserError
from medtransfer.data.images import dicom, nifti, tiff
from medtransfer.data.images.grids import Grid, require_equal
from medtransfer.data.images.pixels import (
    PIXEL_LIMIT,
    check_frame,
    check_size,
    gate,
    no_unit,
    own_range,
    pointwise,
    window,
)
from medtransfer.data.readers.reading import Picture
from medtransfer.data.tasks import Windows

if TYPE_CHECKING:
    from pydicom import Dataset

RECIPE = (
    "gray tasks to 8-bit luminance, colour tasks to RGB, alpha dropped, orientation tags applied; with windows: each"
    " (level, width) of the stored values in their unit to 0..255, values outside clipped, one window per channel;"
    " without: 8-bit images as they are, a DICOM file's values rescaled, then through its first VOI table or window,"
    " those without either and all other images of more bits scaled so that their own smallest value is 0 and their"
    " largest 255, DICOM's padding left out of that and black; fewer bits spread over 0..255; DICOM palettes and YBR to"
    " RGB, MONOCHROME1 and MINISWHITE inverted, MONOCHROME1 not if the task has windows; 16-bit colours of a palette,"
    " a PNG or a TIFF by their high byte; NIfTI slices along the last stored axis, turned so that right, front and top"
    " come first to the right and then to the top; masks: the pixels of the label's own values or colours, else those"
    " that differ from the background by more than half of the largest difference in all of the task's masks"
)

READABLE = "PNG, JPEG, TIFF, GIF, BMP, PPM/PGM, DICOM, NIfTI (.nii, .nii.gz) and arrays in .npz"
_PILLOW = ("PNG", "JPEG", "GIF", "BMP", "PPM")  # named ones only: others run programs or nest files
_CHUNK = 1 << 20
_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class Content:
    """What a file holds of one picture: 8-bit pixels as PIL has them, or values."""

    image: Image.Image | None = None
    values: NDArray[Any] | None = None
    """(height, width) or (height, width, 3)"""
    header: Dataset | None = None
    """of DICOM"""
    alpha: NDArray[Any] | None = None
    """of values, 0 for what is not to be seen"""
    step: int = 1
    """of an image that was stored in fewer bits: what one step of its stored values became"""
    lossy: bool = False
    grid: Grid | None = None
    """where the pixels lie, if the file says so"""
    volume: Path | None = None
    """the file, if it is NIfTI"""
    spacing: tuple[float, float] | None = None
    """height and width of a pixel in mm, if the file says them; a resolution for printing is none"""


def to_image(content: Content, channels: Literal[1, 3], windows: Windows) -> Image.Image:
    """Makes what a file holds an image at its own size in 8 bits: mode L for one channel, RGB for three.

    With `windows` the file must hold more than 8 bits, which are taken to be in the windows' unit; a DICOM file must
    say how to rescale to it, and whether it is shown inverted does not count.

    Raises:
        UserError: what the windows need is not there.
    """
    if len(windows) not in (0, 1, channels) or any(width <= 0 for _, width in windows):
        raise UserError(
            f"expected one window (level, width above 0) for each of {channels} channels, found {windows}; correct the"
            " task's windows"
        )
    image = content.image
    if image is None:
        image = Image.fromarray(_eight_bit(content, windows))
    elif windows:
        raise no_unit("8-bit pixels")
    image.info.pop("transparency", None)  # alpha is dropped, and PIL would warn of it
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def load(picture: Picture) -> Content:
    """Opens a picture with the reader of its format, which its first bytes or its name tell.

    The memory that it takes is held in `pixels.gate`, until the thread's next picture; after its last one the caller
    releases it, or others would wait for ever.

    Raises:
        UserError: as `read_image`.
    """
    if not picture.path.is_file():
        raise UserError(f"looked for the file {picture.path}, found none; correct the path or get the file again")
    name = picture.path.name.lower()
    if picture.member or name.endswith(".npz"):
        return Content(values=_array_row(picture))
    if name.endswith((".nii", ".nii.gz")):
        values, grid = nifti.read_slice(picture.path, picture.frame)
        return Content(values=values, grid=grid, volume=picture.path, spacing=grid.spacing if grid else None)
    with picture.path.open("rb") as file:
        head = file.read(1024)
        file.seek(0)
        if dicom.is_dicom(head):
            values, header = dicom.read_frame(file, head, picture.frame)
            grid = dicom.grid(header, values.shape[:2], picture.frame or 0)
            spacing = dicom.spacing(header, picture.frame or 0)
            return Content(values=values, header=header, grid=grid, spacing=spacing)
        if tiff.is_tiff(head):
            return _tiff_content(tiff.read_page(file, picture.frame))
        return _pillow_frame(file, picture.frame)


def load_mask(picture: Picture, image: Content | None = None) -> Content:
    """Opens a mask; one that says where it lies is laid on its image there.

    Args:
        picture: the mask.
        image: its image's content, of which the place is taken.

    Raises:
        UserError: as `load`, or the mask lies elsewhere, or only one of the two says where it lies.
    """
    nifti_mask = picture.path.name.lower().endswith((".nii", ".nii.gz"))
    space = picture.marking.align == "space"
    if image is None or not (image.volume or nifti_mask):
        content = load(picture)
        if image and image.grid and content.grid and space:
            require_equal(content.grid, image.grid)
        return content
    if image.grid and nifti_mask and space:
        values = nifti.read_on(picture.path, image.grid)
        if values is not None:
            return Content(values=values, volume=picture.path)
    if image.volume and nifti_mask:  # as both are stored: one of them does not say where it lies, or not truly
        return Content(values=nifti.read_slice(picture.path, picture.frame, image.volume)[0], volume=picture.path)
    content = load(picture)
    if image.grid and content.grid and space:
        require_equal(content.grid, image.grid)
    elif space:
        raise UserError(
            f"the mask {picture.path.name} cannot be laid on its image:"
            f" {'its image is NIfTI, it is not' if image.volume else 'it is NIfTI, its image is not'}, and nothing says"
            " which corner they begin at; save both in one format, or, if they show the same way up as they are read"
            " (a volume's right and front, or top, lie to the right and to the top), say `align: pixels` in task.yaml"
        )
    return content


def _eight_bit(content: Content, windows: Windows) -> NDArray[np.uint8]:
    values = content.values
    assert values is not None
    if content.header is not None:
        return dicom.eight_bit(values, content.header, windows)
    if windows and (values.ndim == 3 or values.dtype.itemsize == 1):
        raise no_unit(f"{values.dtype} values, {'colour' if values.ndim == 3 else 'gray'}")
    if values.dtype == np.uint8:
        return values
    return pointwise(values, partial(window, windows=windows) if windows else own_range)


def _tiff_content(page: tiff.Page) -> Content:
    """Makes a page an 8-bit image where PIL has a mode for it; 16-bit colours by their high byte."""
    values, alpha, step = page.values, page.alpha, 1
    if page.palette is not None:
        image = Image.fromarray(values.astype(np.uint8), "P")
        image.putpalette(page.palette.tobytes())
        return Content(image=image, lossy=page.lossy)
    if values.ndim == 3 and values.dtype == np.uint16:
        values, alpha = (values >> 8).astype(np.uint8), None if alpha is None else alpha >> 8
    if values.dtype == np.uint8 and page.bits < 8 and values.ndim == 2:
        step = 255 // (2**page.bits - 1)
        values = values * np.uint8(step)
    if values.dtype.kind == "b" or values.dtype == np.uint8:
        if alpha is not None and values.dtype == np.uint8:
            values = np.concatenate([values.reshape(*values.shape[:2], -1), alpha[..., None].astype(np.uint8)], axis=-1)
        return Content(image=Image.fromarray(values), step=step, lossy=page.lossy)
    return Content(values=values, alpha=alpha, lossy=page.lossy)


def _pillow_frame(file: BinaryIO, frame: int | None) -> Content:
    """Reads an image that PIL knows; one of more than 8 bits as values."""
    GifImagePlugin.LOADING_STRATEGY = GifImagePlugin.LoadingStrategy.RGB_AFTER_DIFFERENT_PALETTE_ONLY
    try:
        image: Image.Image = Image.open(file, formats=_PILLOW)
    except UnidentifiedImageError as error:
        raise UserError(f"its format is none of those that are read: {READABLE}; convert the file to one") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"more pixels than the limit of {PIXEL_LIMIT}: {error}; give a smaller image") from error
    check_size(*image.size)
    lossy = image.format in ("JPEG", "MPO")
    count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # a camera's small copies are no frames
    number = check_frame(frame, count)
    wide = 4 if image.mode == "F" or image.mode.startswith("I") else 1
    bands = len(image.getbands())
    progressive = 6 if "progressive" in image.info else 0
    frames = 3 if count > 1 else 1
    gate.hold(image.width * image.height * (bands * wide * frames + progressive + 4))
    if number:
        image.seek(number)
        check_size(*image.size)
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "F" or image.mode.startswith("I"):
        return Content(values=np.asarray(image))
    return Content(image=image, step=_step(file, image), lossy=lossy)


def _step(file: BinaryIO, image: Image.Image) -> int:
    """Says what PIL made of one step of a gray PNG of 2 or 4 bits: it spreads them over 8."""
    if image.format != "PNG" or image.mode != "L":
        return 1
    file.seek(24)  # the bits stand in the first chunk, which has its fixed place
    bits = file.read(1)[0]
    return 255 // (2**bits - 1) if bits in (2, 4) else 1


def _array_row(picture: Picture) -> NDArray[Any]:
    """Reads one row of an array in a `.npz` file, whatever the array's size."""
    try:
        stamp = picture.path.stat().st_mtime_ns
        with _lock:  # two threads that miss at once would both unpack
            array = _array(picture.path, picture.member, stamp)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError) as error:
        raise UserError(f"cannot be read as an .npz file: {error}; the file is damaged, get it again") from error
    frame = check_frame(picture.frame, len(array), "rows")
    row = array[frame]
    gate.hold(2 * row.nbytes + row.size)
    return np.array(row)


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
