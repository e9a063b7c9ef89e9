"""TIFF: one page of any kind that tifffile and imagecodecs know, as it is shown."""

from __future__ import annotations

import logging
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.errors import UserError
from medtransfer.data.images import codestreams
from medtransfer.data.images.pixels import check_frame, check_size, gate

COMPRESSIONS = {
    1: "none", 2: "CCITT", 3: "CCITT fax 3", 4: "CCITT fax 4", 5: "LZW", 7: "JPEG", 8: "deflate", 32773: "PackBits",
    32946: "deflate", 33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000",
    50000: "Zstandard",
}  # fmt: skip
"""those whose decoders cannot be made to write more than the tile's own size, or say it in a header that is read"""

STREAMS = (7, 33003, 33004, 33005, 34712)
MINISWHITE, MINISBLACK, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6


class Page(NamedTuple):
    """One image of a TIFF file, upright."""

    values: NDArray[Any]
    """gray or indices (height, width), or colours (height, width, 3)"""
    bits: int
    """of a value"""
    alpha: NDArray[Any] | None = None
    palette: NDArray[np.uint8] | None = None
    """(colours, 3), where the values are indices"""
    lossy: bool = False


def is_tiff(head: bytes) -> bool:
    """Tells a TIFF or BigTIFF file by its first bytes."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_page(file: BinaryIO, frame: int | None) -> Page:
    """Reads a page; black is the lowest value whatever the file's own order is, and its orientation is applied.

    Raises:
        UserError: no such page, too many pixels, or a kind that is not read; the message names it.
    """
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it reports every oddity of a tag
    try:
        with tifffile.TiffFile(file) as content:
            pages: list[Any] = [
                page for page in map(_whole, content.pages) if not page.is_reduced
            ]  # small copies of an image are none
            count = max(len(pages), _stacked(content))
            number = check_frame(frame, count, "pages")
            if number >= len(pages):
                raise UserError(
                    f"holds {count} images in {len(pages)} pages, as ImageJ saves a stack; save each as a page"
                )
            page = pages[number]
            _check(page)
            _reserve(file, page)
            values = page.asarray()
            return _page(page, values)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # as many kinds as there are codecs
        raise UserError(f"cannot be read as TIFF: {error or type(error).__name__}; get the file again") from error


def _whole(page: Any) -> Any:
    """Gives a page with all of its tags."""
    return page.aspage()


def _stacked(content: Any) -> int:
    """Counts the images that ImageJ says are in the file: only the first has a page of its own."""
    return int((content.imagej_metadata or {}).get("images", 1)) if content.is_imagej else 1


def _check(page: Any) -> None:
    """Refuses a page of a kind that is not read, by name.

    Raises:
        UserError: with what was found.
    """
    check_size(page.imagewidth, page.imagelength)
    check_size(page.tilewidth or 0, page.tilelength or 0)
    photometric, samples = int(page.photometric), page.samplesperpixel - len(page.extrasamples)
    name = getattr(page.photometric, "name", str(photometric))
    found = (
        f"{name} in {samples} samples (and {len(page.extrasamples)} more) of {page.bitspersample} bits, compression"
        f" {getattr(page.compression, 'name', page.compression)}"
    )
    wanted = {MINISWHITE: 1, MINISBLACK: 1, RGB: 3, PALETTE: 1, YCBCR: 3}.get(photometric)
    known = samples == wanted and len(page.extrasamples) <= 1 and int(page.compression) in COMPRESSIONS
    known = known and page.imagedepth == 1 and page.dtype is not None and page.dtype.kind in "biuf"
    known = known and not (photometric == YCBCR and int(page.compression) != 7)
    known = known and not (photometric == PALETTE and (page.colormap is None or page.bitspersample > 8))
    known = known and not (photometric == MINISWHITE and page.dtype.kind not in "bu")
    if not known:
        raise UserError(
            f"is a TIFF file of a kind that is not read: {found}; save it as gray, RGB or palette without compression"
        )


def _reserve(file: BinaryIO, page: Any) -> None:
    """Waits for the memory that decoding takes; compressed parts must not be larger than their tile.

    Raises:
        UserError: one is.
    """
    item = page.dtype.itemsize if page.dtype else 1
    wide = 2 if item > 2 else 1
    needed = page.imagewidth * page.imagelength * page.samplesperpixel * (item * wide + 1)
    if int(page.compression) in STREAMS:
        width, height = page.tilewidth or page.imagewidth, page.tilelength or min(page.rowsperstrip, page.imagelength)
        largest = 0
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            if not count:
                continue
            file.seek(offset)
            stream = codestreams.read(file.read(count))
            if stream is None:
                raise UserError("is a TIFF file whose compressed parts are not what it says; get it again")
            if stream.width > width or stream.height > height:
                raise UserError(
                    f"is a TIFF file of parts of {width}x{height} pixels, of which one says {stream.width}x"
                    f"{stream.height} of itself; get it again"
                )
            largest = max(largest, stream.memory)
        needed += largest
    else:
        needed += (page.tilewidth or 0) * (page.tilelength or 0) * page.samplesperpixel * item
    gate.hold(needed)


def _page(page: Any, values: NDArray[Any]) -> Page:
    samples = page.samplesperpixel
    if samples > 1 and int(page.planarconfig) == 2:
        values = np.moveaxis(values, 0, -1)
    values = _upright(values.reshape(page.imagelength, page.imagewidth, samples), _tag(page, "Orientation", 1))
    colours = 3 if int(page.photometric) in (RGB, YCBCR) else 1
    alpha = values[..., colours] if samples > colours else None
    main = np.ascontiguousarray(values[..., :colours] if colours == 3 else values[..., 0])
    bits = 1 if page.dtype.kind == "b" else page.bitspersample
    if int(page.photometric) == MINISWHITE:
        main = ~main if main.dtype.kind == "b" else np.subtract(2**bits - 1, main, dtype=main.dtype)
    palette = None
    if int(page.photometric) == PALETTE:
        wide = np.asarray(page.colormap)
        palette = np.ascontiguousarray((wide >> 8 if wide.max() > 255 else wide).astype(np.uint8).T)
    return Page(main, bits, alpha, palette, int(page.compression) in STREAMS)


def _tag(page: Any, name: str, default: int) -> int:
    tag = page.tags.get(name)
    return default if tag is None else int(tag.value)


def _upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turns pixels as TIFF's orientation says: 1 to 8, first row and column at the top left and so on."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    vertical, horizontal = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(
        orientation, (1, 1)
    )
    return values[::vertical, ::horizontal]
