"""What a compressed image says of its own size: decoders believe it, whatever the file around it says."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from medtransfer.core.errors import UserError
from medtransfer.data.images.pixels import check_size

JPEG, JPEG_LS, JPEG_2000 = "JPEG", "JPEG-LS", "JPEG 2000"

TILES = 1 << 12
"""tiles of a JPEG 2000 image: each has tables of its own"""

_ALONE = {0x01, *range(0xD0, 0xD8)}
"""markers of JPEG without a length"""
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_BOXED = b"\0\0\0\x0cjP  "
_START = b"\xff\x4f\xff\x51"


class Stream(NamedTuple):
    """The size that a compressed image has by its own header."""

    kind: str
    width: int
    height: int
    samples: int
    bits: int
    """of a sample"""

    @property
    def memory(self) -> int:
        """Estimates the bytes that decoding takes in all: gdcm hands pixels over as text, and colours are converted."""
        stored = 2 if self.bits > 8 else 1
        work = 9 * stored if self.samples == 1 else 11 * stored
        if self.kind == JPEG_2000 and self.samples == 1:
            work = max(work, 13)
        return self.width * self.height * self.samples * work


def read(data: bytes) -> Stream | None:
    """Reads the header of a JPEG, JPEG-LS or JPEG 2000 image; None where the bytes are none of these.

    Raises:
        UserError: the header is cut off or contradicts itself.
    """
    try:
        if data.startswith((_BOXED, _START)):
            return _jpeg_2000(data)
        return _jpeg(data) if data.startswith(b"\xff\xd8") else None
    except (struct.error, IndexError) as error:
        raise UserError("its compressed image is cut off within its header; get the file again") from error


def check(stream: Stream, width: int, height: int, samples: int) -> None:
    """Refuses a compressed image that is not what the file around it says.

    Raises:
        UserError: another size or number of samples, or more pixels than the limit.
    """
    check_size(stream.width, stream.height)
    if (stream.width, stream.height, stream.samples) != (width, height, samples):
        raise UserError(
            f"its header says {width}x{height} pixels of {samples} samples, the {stream.kind} image in it"
            f" {stream.width}x{stream.height} of {stream.samples}; one of the two is damaged: get the file again"
        )


def _jpeg(data: bytes) -> Stream | None:
    """Looks for the frame header, which stands before the pixels."""
    place = 2
    while place < len(data):
        if data[place] != 0xFF:
            raise IndexError
        while data[place] == 0xFF:  # any number of them may come before a marker
            place += 1
        marker = data[place]
        place += 1
        if marker in _ALONE:
            continue
        (length,) = struct.unpack_from(">H", data, place)
        if marker in _FRAMES:
            bits, height, width, samples = struct.unpack_from(">BHHB", data, place + 2)
            if not width or not height:
                raise UserError("its JPEG image says its size only after the pixels; save the image anew")
            return Stream(JPEG_LS if marker == 0xF7 else JPEG, width, height, samples, bits)
        if marker in (0xDA, 0xD9):  # pixels, or the end
            break
        if marker == 0xF8 and data[place + 2] == 4:  # JPEG-LS: a size in more than 16 bits
            raise UserError("its JPEG-LS image says its size in an extension that is not read; save the image anew")
        place += length
    raise UserError("its JPEG image has no header; get the file again")


def _jpeg_2000(data: bytes) -> Stream:
    place = data.index(_START) if _START in data[: 1 << 16] else -1
    if data.startswith(_BOXED):
        place = next((start for kind, start in _boxes(data) if kind == b"jp2c"), -1)
    if place < 0 or data[place : place + 4] != _START:
        raise UserError("its JPEG 2000 image has no codestream; get the file again")
    right, bottom, left, top, tile_width, tile_height, _, _, samples = struct.unpack_from(">8IH", data, place + 8)
    width, height = right - left, bottom - top
    if width <= 0 or height <= 0 or not tile_width or not tile_height:
        raise UserError("its JPEG 2000 image has no pixels by its own header; get the file again")
    check_size(width, height)
    if -(-width // tile_width) * -(-height // tile_height) > TILES:
        raise UserError(f"its JPEG 2000 image has more than {TILES} tiles; save it with larger ones")
    depths = [(data[place + 42 + 3 * number] & 0x7F) + 1 for number in range(samples)]
    return Stream(JPEG_2000, width, height, samples, max(depths, default=0))


def _boxes(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yields the kind of each box of a JP2 file and where its content starts."""
    place = 0
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        start = place + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, start)
            start += 8
        yield kind, start
        if length < 8:  # 0: up to the end
            return
        place += length
