"""Files of every format, whole and with defects, against a second reader: each is read as it reads, or refused.

`pytest tests/data/images/test_variants.py -m slow -s` prints the table of kinds.
"""

from __future__ import annotations

import csv
import io
import itertools
import random
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import imagecodecs
import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK
import tifffile
import yaml
from nibabel import orientations
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from medtransfer.core.errors import UserError
from medtransfer.data import catalog
from medtransfer.data.readers.reading import Picture, read
from tests.support.images import read_image

nifti: Any = nibabel  # only half of it has types
turns: Any = orientations
itk: Any = SimpleITK
uid: Any = pydicom.uid
Array = NDArray[Any]
Expected = Callable[[Path], Array]

HEIGHT, WIDTH = 24, 37
WANTED = 200
QUICK = 12
"""every so many variants one is in the quick suite"""


@dataclass(frozen=True)
class Variant:
    """A file, what a second reader makes of it, and how far the two may differ."""

    format: str
    kind: str
    write: Callable[[Path], Any]
    expected: Expected | None
    """8-bit pixels; None: it must be refused"""
    suffix: str
    channels: Literal[1, 3] = 1
    frame: int | None = None
    tolerance: int = 0


def scene(top: int = 255, channels: int = 1, seed: int = 0) -> Array:
    """A picture that is no other one when it is turned or mirrored, from 0 to `top`."""
    shape = (HEIGHT, WIDTH) if channels == 1 else (HEIGHT, WIDTH, channels)
    values = np.random.default_rng(seed).integers(0, top + 1, shape)
    values[:3, :5], values[-1, -1] = top, 0
    return values


def smooth(channels: int = 1) -> Array:
    """One that lossy compression keeps."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    planes = [(x * 5 + y * 2) % 256 * 0.7, x * 4 + y, 200 - y * 5 + x * 0.5][:channels]
    values: Array = np.clip(np.stack(planes, axis=-1), 0, 255).astype(np.uint8)
    return values[..., 0] if channels == 1 else values


def shown(values: Array) -> Array:
    """Own range to 0..255."""
    numbers = values.astype(np.float64)
    return np.asarray(np.rint((numbers - numbers.min()) / max(float(np.ptp(numbers)), 1e-12) * 255)).astype(np.uint8)


def luminance(colours: Array) -> Array:
    return np.asarray(Image.fromarray(colours).convert("L"))


def fixed(values: Array) -> Expected:
    return lambda _: values


def by_itk(make: Callable[[Array], Array] = lambda values: values) -> Expected:
    """What SimpleITK reads, made 8-bit."""

    def expected(path: Path) -> Array:
        values = itk.GetArrayFromImage(itk.ReadImage(str(path)))
        return make(values[0] if values.ndim > 2 and len(values) == 1 else values)

    return expected


def turned(values: Array, orientation: int) -> Array:
    """Stores a picture so that its orientation tag turns it back."""
    back = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
            5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, 1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
            8: lambda a: np.rot90(a, -1)}  # fmt: skip
    return np.ascontiguousarray(back[orientation](values))


def saved(image: Image.Image, **options: Any) -> Callable[[Path], Any]:
    return lambda path: image.save(path, **options)


def written(data: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(data)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def with_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def of_palette(colours: int, seed: int = 0) -> tuple[Image.Image, Array]:
    """A palette image and its colours."""
    indices = scene(colours - 1, seed=seed).astype(np.uint8)
    table = np.random.default_rng(seed).integers(0, 256, (colours, 3)).astype(np.uint8)
    image = Image.fromarray(indices, "P")
    image.putpalette(table.tobytes())
    return image, table[indices]


# Formats


def png() -> Iterator[Variant]:
    def one(kind: str, write: Any, expected: Expected | None, channels: Literal[1, 3] = 1) -> Variant:
        return Variant("PNG", kind, write, expected, "png", channels)

    gray, colour = scene().astype(np.uint8), scene(channels=3).astype(np.uint8)
    yield one("gray 8", saved(Image.fromarray(gray)), by_itk())
    yield one("gray 8 to colour", saved(Image.fromarray(gray)), by_itk(lambda v: np.stack([v] * 3, -1)), 3)
    yield one("colour 8", saved(Image.fromarray(colour)), by_itk(), 3)
    yield one("colour 8 to gray", saved(Image.fromarray(colour)), by_itk(luminance))
    yield one("gray 1", saved(Image.fromarray(gray > 99)), fixed((gray > 99) * np.uint8(255)))
    for top in (300, 4095, 65535):
        wide = scene(top).astype(np.uint16)
        yield one(f"gray 16 to {top}", saved(Image.fromarray(wide)), by_itk(shown))
    for samples in (2, 3, 4):
        for bits in (8, 16):
            values: Any = scene(2**bits - 1, samples).astype(np.uint8 if bits == 8 else np.uint16)
            data = bytes(imagecodecs.png_encode(values))
            high = (values >> (bits - 8)).astype(np.uint8)
            bare = high[..., 0] if samples == 2 else high[..., :3]
            kind = f"{('gray and opacity', 'colour', 'colour and opacity')[samples - 2]} {bits}"
            yield one(f"{kind} by libpng", written(data), fixed(bare), 1 if samples == 2 else 3)
    for bits in (1, 2, 4, 8):
        image, colours = of_palette(2**bits)
        yield one(f"palette of {bits} bits", saved(image, bits=bits), by_itk(), 3)
        yield one(f"palette of {bits} bits to gray", saved(image, bits=bits), fixed(luminance(colours)))
        opacity = bytes(range(2**bits))
        yield one(
            f"palette of {bits} bits, transparent", saved(image, bits=bits, transparency=opacity), fixed(colours), 3
        )
    for bits in (2, 4):
        steps = scene(2**bits - 1, seed=bits).astype(np.uint8)
        yield one(f"gray {bits}", written(_small_gray(steps, bits)), by_itk())
    yield one("gray with a transparent value", saved(Image.fromarray(gray), transparency=7), fixed(gray))
    for orientation in range(1, 9):
        for values, channels in ((gray, 1), (colour, 3)):
            write = saved(Image.fromarray(turned(values, orientation)), exif=with_exif(orientation))
            yield one(f"orientation {orientation}", write, fixed(values), 1 if channels == 1 else 3)
    data = encoded(Image.fromarray(colour), "PNG")
    yield one("cut off", written(data[:-200]), None)
    yield one("bits flipped", written(data[:300] + bytes(b ^ 255 for b in data[300:340]) + data[340:]), None)
    yield one("JPEG by its content", written(encoded(Image.fromarray(smooth()), "JPEG")), fixed(_jpeg_of(smooth())))
    yield one("empty", written(b""), None)


def _small_gray(values: Array, bits: int) -> bytes:
    """Writes gray of 2 or 4 bits, which PIL does not."""
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    flags = np.unpackbits(values[..., None], axis=-1)[..., 8 - bits :].reshape(HEIGHT, -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in flags)
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _jpeg_of(values: Array, **options: Any) -> Array:
    return np.asarray(imagecodecs.jpeg8_decode(encoded(Image.fromarray(values), "JPEG", **options)))


def by_libjpeg(path: Path) -> Array:
    return np.asarray(imagecodecs.jpeg8_decode(path.read_bytes()))


def by_giflib(path: Path) -> Array:
    return np.asarray(imagecodecs.gif_decode(path.read_bytes())).reshape(HEIGHT, WIDTH, -1)[..., :3]


def jpeg() -> Iterator[Variant]:
    for channels, quality, progressive, sampling in itertools.product((1, 3), (30, 95), (False, True), (0, 1, 2)):
        if channels == 1 and sampling:
            continue
        options = {"quality": quality, "progressive": progressive, "subsampling": sampling}
        kind = f"{'gray' if channels == 1 else 'colour'} {quality} {'progressive ' * progressive}{sampling}"
        image = Image.fromarray(smooth(channels))
        second = by_itk() if not sampling else by_libjpeg  # ITK enlarges colours of less size in coarser steps
        yield Variant("JPEG", kind, saved(image, **options), second, "jpg", 1 if channels == 1 else 3, None, 3)
    for orientation in range(1, 9):
        stored = turned(smooth(3), orientation)
        write = saved(Image.fromarray(stored), quality=95, subsampling=0, exif=with_exif(orientation))
        back = [1, 2, 3, 4, 5, 8, 7, 6][orientation - 1]  # 6 and 8 undo each other
        decoded = _jpeg_of(stored, quality=95, subsampling=0)
        yield Variant("JPEG", f"orientation {orientation}", write, fixed(turned(decoded, back)), "jpg", 3, None, 3)
    data = encoded(Image.fromarray(smooth(3)), "JPEG")
    yield Variant("JPEG", "cut off", written(data[:-300]), None, "jpg")
    yield Variant("JPEG", "cut in its header", written(data[:100]), None, "jpg")
    yield Variant(
        "JPEG", "PNG by its content", written(encoded(Image.fromarray(smooth()), "PNG")), fixed(smooth()), "jpg"
    )


def tiff() -> Iterator[Variant]:
    def one(kind: str, values: Array, expected: Expected | None, channels: Literal[1, 3] = 1, frame: int | None = None,
            tolerance: int = 0, **options: Any) -> Variant:  # fmt: skip
        def write(path: Path) -> None:
            tifffile.imwrite(path, values, **options)

        return Variant("TIFF", kind, write, expected, "tif", channels, frame, tolerance)

    whole = {"u1": 255, "u2": 65535, "u4": 2**31, "i1": 100, "i2": 30_000, "i4": 2**30}
    for name, top in (whole | {"f2": 500, "f4": 9000, "f8": 9000}).items():
        number = np.dtype(name)
        values = (scene(top).astype(np.float64) - (top // 3 if number.kind in "if" else 0)).astype(number)
        right = values if name == "u1" else shown(values)
        second = by_itk((lambda v: v) if name == "u1" else shown) if name not in ("f2", "f8", "i4") else fixed(right)
        for packing in ("none", "zlib", "lzw", "packbits", "zstd"):
            found = second if packing in ("none", "lzw") and name in ("u1", "u2", "f4") else fixed(right)
            yield one(f"{name} {packing}", values, found, compression=None if packing == "none" else packing)
        if number.kind == "u":
            dark = right if name == "u1" else shown(np.iinfo(number).max - values)
            dark = 255 - values if name == "u1" else dark
            yield one(f"{name} white is 0", values, fixed(dark), photometric="miniswhite")
        yield one(f"{name} big-endian", values, fixed(right), byteorder=">")
        yield one(f"{name} tiles", values, fixed(right), tile=(16, 16))
        if number.itemsize < 8:
            yield one(f"{name} predictor", values, fixed(right), compression="zlib", predictor=True)
    for name, planar, squeeze in itertools.product(("u1", "u2"), ("contig", "separate"), (None, "zlib", "lzw")):
        values = scene(np.iinfo(name).max, 3).astype(name)
        right = values if name == "u1" else (values >> 8).astype(np.uint8)
        stored = values if planar == "contig" else np.moveaxis(values, -1, 0)
        kind = f"colour {name} {planar} {squeeze or 'none'}"
        options: dict[str, Any] = {"photometric": "rgb", "planarconfig": planar, "compression": squeeze}
        yield one(kind, np.ascontiguousarray(stored), fixed(right), 3, **options)
    for samples in (2, 4):
        values = scene(255, samples).astype(np.uint8)
        options = {"photometric": "minisblack" if samples == 2 else "rgb", "extrasamples": ["unassalpha"]}
        bare = values[..., 0] if samples == 2 else values[..., :3]
        yield one(
            f"{samples - 1} and opacity",
            values,
            fixed(bare),
            1 if samples == 2 else 3,
            planarconfig="contig",
            **options,
        )
    bits = scene(1, seed=3).astype(bool)
    yield one("bits", bits, fixed(bits * np.uint8(255)), photometric="minisblack")
    yield one("bits, white is 0", bits, fixed(~bits * np.uint8(255)), photometric="miniswhite")
    for packing in ("tiff_ccitt", "group3", "group4"):
        write = saved(Image.fromarray(bits), compression=packing)
        yield Variant("TIFF", f"bits as fax {packing}", write, fixed(bits * np.uint8(255)), "tif")
    table = np.random.default_rng(1).integers(0, 65536, (3, 256)).astype(np.uint16)
    indices = scene().astype(np.uint8)
    colours = np.moveaxis(table[:, indices] >> 8, 0, -1).astype(np.uint8)
    yield one("palette", indices, fixed(colours), 3, photometric="palette", colormap=table)
    for packing in ("jpeg", "jpeg2000"):
        for channels in (1, 3):
            options = {"photometric": "rgb" if channels == 3 else "minisblack", "compression": packing}
            count: Literal[1, 3] = 1 if channels == 1 else 3
            yield one(f"{packing} {channels}", smooth(channels), fixed(smooth(channels)), count, None, 12, **options)
    for orientation in range(1, 9):
        values = scene(65535, seed=orientation).astype(np.uint16)
        tag = [(274, "H", 1, orientation, True)]
        yield one(f"orientation {orientation}", turned(values, orientation), fixed(shown(values)), extratags=tag)
        image = Image.fromarray(turned(scene(channels=3).astype(np.uint8), orientation))
        write = saved(image, tiffinfo={274: orientation})
        yield Variant(
            "TIFF", f"orientation {orientation} by PIL", write, fixed(scene(channels=3).astype(np.uint8)), "tif", 3
        )
    pages = np.stack([scene(seed=n).astype(np.uint8) for n in range(3)])
    yield one("pages", pages, None, photometric="minisblack")
    for page in range(3):
        yield one(f"page {page}", pages, fixed(pages[page]), 1, page, photometric="minisblack")
    yield one("page 3 of 3", pages, None, 1, 3, photometric="minisblack")
    yield one("ImageJ's stack", pages, None, imagej=True, metadata={"axes": "ZYX"})
    yield one("BigTIFF", pages[0], fixed(pages[0]), bigtiff=True)
    yield one("four inks", scene(255, 4).astype(np.uint8), None, photometric="separated")
    yield one("five samples", scene(255, 5).astype(np.uint8), None, photometric="minisblack", planarconfig="contig")
    yield one("complex", scene().astype(np.complex64), None)
    yield one("not finite", np.where(scene() > 9, np.nan, 1).astype(np.float32), None)

    def cut(path: Path) -> None:
        tifffile.imwrite(path, scene(65535).astype(np.uint16))
        path.write_bytes(path.read_bytes()[:-700])

    yield Variant("TIFF", "cut off", cut, None, "tif")


def gif() -> Iterator[Variant]:
    for colours, interlace in itertools.product((2, 7, 16, 200, 256), (0, 1)):
        image, right = of_palette(colours, seed=colours)
        write = saved(image, interlace=interlace)
        second: Expected = fixed(right) if interlace else by_giflib
        yield Variant(
            "GIF",
            f"{colours} colours{', interlaced' * interlace}",
            write,
            second,
            "gif",
            3,
        )
        yield Variant(
            "GIF", f"{colours} colours to gray{', interlaced' * interlace}", write, fixed(luminance(right)), "gif"
        )
    frames = [of_palette(9, seed=n)[0] for n in range(3)]
    many = saved(frames[0], save_all=True, append_images=frames[1:], optimize=False)
    for number in range(3):
        yield Variant("GIF", f"frame {number}", many, fixed(of_palette(9, seed=number)[1]), "gif", 3, number)
    yield Variant("GIF", "frames", many, None, "gif")
    yield Variant("GIF", "frame 3 of 3", many, None, "gif", 1, 3)
    yield Variant("GIF", "cut off", written(encoded(frames[0], "GIF")[:-400]), None, "gif")


def bmp() -> Iterator[Variant]:
    gray, colour = scene().astype(np.uint8), scene(channels=3).astype(np.uint8)
    yield Variant("BMP", "gray", saved(Image.fromarray(gray)), by_itk(lambda v: v if v.ndim == 2 else v[..., 0]), "bmp")
    yield Variant("BMP", "colour", saved(Image.fromarray(colour)), by_itk(), "bmp", 3)
    yield Variant("BMP", "bits", saved(Image.fromarray(gray > 99)), fixed((gray > 99) * np.uint8(255)), "bmp")
    image, colours = of_palette(200)
    yield Variant("BMP", "palette", saved(image), fixed(colours), "bmp", 3)
    opaque = Image.fromarray(np.dstack([colour, np.full_like(gray, 255)]))
    yield Variant("BMP", "colour and opacity", saved(opaque), fixed(colour), "bmp", 3)
    data = bytearray(encoded(Image.fromarray(colour), "BMP"))
    data[22:26] = struct.pack("<i", -HEIGHT)
    yield Variant("BMP", "from the top", written(bytes(data)), fixed(colour[::-1]), "bmp", 3)
    yield Variant("BMP", "cut off", written(bytes(data[:-500])), None, "bmp")


def dicom() -> Iterator[Variant]:
    def header_of(values: Array, syntax: Any, **fields: Any) -> Dataset:
        header = Dataset()
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = syntax
        header.SOPClassUID, header.SOPInstanceUID = uid.CTImageStorage, uid.generate_uid()
        header.Rows, header.Columns = HEIGHT, WIDTH
        header.SamplesPerPixel = 3 if values.ndim == 3 else 1
        header.PhotometricInterpretation = "RGB" if values.ndim == 3 else "MONOCHROME2"
        if values.ndim == 3:
            header.PlanarConfiguration = 0
        header.BitsAllocated = header.BitsStored = 8 * values.itemsize
        header.PixelRepresentation = int(values.dtype.kind == "i")
        for name, value in fields.items():
            setattr(header, name, value)
        if "HighBit" not in fields:
            header.HighBit = header.BitsStored - 1
        return header

    def one(kind: str, values: Array, expected: Expected | None, channels: Literal[1, 3] = 1, *, tolerance: int = 0,
            syntax: Any = uid.ExplicitVRLittleEndian, data: bytes | None = None, bare: bool = False,
            frame: int | None = None, **fields: Any) -> Variant:  # fmt: skip
        def write(path: Path) -> None:
            header = header_of(values, syntax, **fields)
            big = syntax == uid.ExplicitVRBigEndian
            header.PixelData = (
                encapsulate([data]) if data else values.astype(values.dtype.newbyteorder(">" if big else "<")).tobytes()
            )
            header["PixelData"].VR = "OB" if data or values.itemsize == 1 else "OW"
            header["PixelData"].is_undefined_length = bool(data)
            if not bare:
                header.save_as(path, enforce_file_format=True)
                return
            del header.SOPClassUID, header.SOPInstanceUID
            header.ImageType = ["ORIGINAL", "PRIMARY"]  # (0008,0008): the first element of the file
            header.file_meta = FileMetaDataset()
            implicit = syntax == uid.ImplicitVRLittleEndian
            pydicom.dcmwrite(path, header, implicit_vr=implicit, little_endian=not big, enforce_file_format=False)

        return Variant("DICOM", kind, write, expected, "dcm", channels, frame, tolerance)

    syntaxes = {
        "implicit": uid.ImplicitVRLittleEndian,
        "explicit": uid.ExplicitVRLittleEndian,
        "big-endian": uid.ExplicitVRBigEndian,
    }
    for stored, (name, syntax) in itertools.product((8, 10, 12, 16), syntaxes.items()):
        values = scene(2**stored - 1, seed=stored).astype(np.uint8 if stored == 8 else np.uint16)
        second = by_itk() if stored == 8 else by_itk(shown)
        yield one(f"{stored} bits {name}", values, second, syntax=syntax, BitsStored=stored)
        yield one(
            f"{stored} bits {name} without preamble",
            values,
            fixed(values if stored == 8 else shown(values)),
            syntax=syntax,
            BitsStored=stored,
            bare=True,
        )
        if stored > 8:
            signed = (values.astype(np.int32) - 2 ** (stored - 1)).astype(np.int16)
            yield one(f"{stored} bits signed {name}", signed, by_itk(shown), syntax=syntax, BitsStored=stored)
    wide = scene(4095).astype(np.uint16)
    yield one("rescaled", wide, by_itk(shown), BitsStored=12, RescaleSlope=-2, RescaleIntercept=100)
    yield one("MONOCHROME1", wide, fixed(255 - shown(wide)), BitsStored=12, PhotometricInterpretation="MONOCHROME1")
    for high in (12, 13, 15):
        lifted = (wide << (high - 11)).astype(np.uint16)
        yield one(f"high bit {high} of 12", lifted, fixed(shown(wide)), BitsStored=12, HighBit=high)
        signed = wide.astype(np.int16) - 2048
        yield one(
            f"high bit {high} of 12 signed",
            (signed << (high - 11)).astype(np.int16),
            fixed(shown(signed)),
            BitsStored=12,
            HighBit=high,
        )
    noise = (wide | 0xA000).astype(np.uint16)
    yield one("other bits in use", noise, fixed(shown(wide)), BitsStored=12)
    yield one("high bit below the stored ones", wide, None, BitsStored=12, HighBit=7)
    for name, padding, limit in (("above", 4000, None), ("below", 0, None), ("range", 3900, 4095)):
        inside = (scene(2000, seed=5) + 500).astype(np.uint16)
        outside = np.zeros((HEIGHT, WIDTH), dtype=bool)
        outside[:, :9] = True
        values = np.where(outside, scene(limit - padding, seed=6) + padding if limit else padding, inside).astype(
            np.uint16
        )
        low, high = int(inside[~outside].min()), int(inside[~outside].max())
        shares = np.rint((inside.astype(float) - low) / (high - low) * 255)
        fields: dict[str, Any] = {"PixelPaddingValue": padding, "BitsStored": 12}
        if limit:
            fields["PixelPaddingRangeLimit"] = limit
        yield one(f"padding {name}", values, fixed(np.where(outside, 0, shares).astype(np.uint8)), **fields)
        dark = np.where(outside, 0, 255 - shares).astype(np.uint8)
        yield one(f"padding {name} MONOCHROME1", values, fixed(dark), PhotometricInterpretation="MONOCHROME1", **fields)

    def windowed(function: str, center: float, width: float) -> Expected:
        filters = itk.IntensityWindowingImageFilter()
        half = (width - 1) / 2 if function == "LINEAR" else width / 2
        middle = center - 0.5 if function == "LINEAR" else center

        def expected(path: Path) -> Array:
            image = itk.Cast(itk.ReadImage(str(path)), itk.sitkFloat64)
            filters.SetWindowMinimum(middle - half)
            filters.SetWindowMaximum(middle + half)
            filters.SetOutputMinimum(0)
            filters.SetOutputMaximum(255)
            return np.asarray(np.rint(itk.GetArrayFromImage(filters.Execute(image))[0])).astype(np.uint8)

        return expected

    for function, center, width in itertools.product(("LINEAR", "LINEAR_EXACT"), (40, 1000.5), (400, 2000, 3)):
        fields = {"RescaleSlope": 1, "RescaleIntercept": -1024, "VOILUTFunction": function, "BitsStored": 12}
        fields |= {"WindowCenter": center, "WindowWidth": width}
        yield one(f"window {function} {center} {width}", wide, windowed(function, center, width), tolerance=1, **fields)
    colour = scene(channels=3).astype(np.uint8)
    yield one("colour", colour, by_itk(), 3)
    planes = np.ascontiguousarray(np.moveaxis(colour, -1, 0))
    yield _planar(planes, colour, header_of)
    gray8 = scene().astype(np.uint8)
    streams: dict[str, tuple[bytes, Any, Array]] = {
        "JPEG 2000": (
            bytes(imagecodecs.jpeg2k_encode(wide, codecformat="j2k", reversible=True, level=0)),
            uid.JPEG2000Lossless,
            wide,
        ),
        "JPEG-LS": (bytes(imagecodecs.jpegls_encode(gray8)), uid.JPEGLSLossless, gray8),
        "JPEG lossless": (bytes(imagecodecs.ljpeg_encode(wide, bitspersample=16)), uid.JPEGLosslessSV1, wide),
    }
    for name, (data, syntax, values) in streams.items():
        right = values if values is gray8 else shown(values)
        yield one(name, values, fixed(right), syntax=syntax, data=data)
        yield one(f"{name} cut off", values, None, syntax=syntax, data=data[: len(data) // 3])
        yield one(f"{name} with a high bit", values, None, syntax=syntax, data=data, BitsStored=7, HighBit=7)
    for channels in (1, 3):
        plain = smooth(channels)
        fields = {} if channels == 1 else {"PhotometricInterpretation": "YBR_FULL_422"}
        data = encoded(Image.fromarray(plain), "JPEG", quality=95)
        count: Literal[1, 3] = 1 if channels == 1 else 3
        yield one(
            f"JPEG {channels}",
            plain,
            by_itk() if channels == 1 else fixed(_jpeg_of(plain, quality=95)),
            count,
            tolerance=3,
            syntax=uid.JPEGBaseline8Bit,
            data=data,
            **fields,
        )
    yield _frames(None, header_of)
    for number in (0, 2):
        yield _frames(number, header_of)
    yield _cut_dicom(wide, header_of)


def _planar(planes: Array, colour: Array, header_of: Any) -> Variant:
    def write(path: Path) -> None:
        header = header_of(colour, uid.ExplicitVRLittleEndian, PlanarConfiguration=1)
        header.PixelData = planes.tobytes()
        header["PixelData"].VR = "OW"
        header.save_as(path, enforce_file_format=True)

    return Variant("DICOM", "colour by planes", write, by_itk(), "dcm", 3)


def _frames(number: int | None, header_of: Any) -> Variant:
    frames = np.stack([scene(4095, seed=n) for n in range(3)]).astype(np.uint16)

    def write(path: Path) -> None:
        header = header_of(frames[0], uid.ExplicitVRLittleEndian, NumberOfFrames=3, BitsStored=12)
        header.PixelData = frames.tobytes()
        header["PixelData"].VR = "OW"
        header.save_as(path, enforce_file_format=True)

    right = None if number is None else fixed(shown(frames[number]))
    return Variant("DICOM", "frames" if number is None else f"frame {number}", write, right, "dcm", 1, number)


def _cut_dicom(values: Array, header_of: Any) -> Variant:
    def write(path: Path) -> None:
        header = header_of(values, uid.ExplicitVRLittleEndian, BitsStored=12)
        header.PixelData = values.tobytes()
        header["PixelData"].VR = "OW"
        header.save_as(path, enforce_file_format=True)
        path.write_bytes(path.read_bytes()[:-99])

    return Variant("DICOM", "cut off", write, None, "dcm")


def volumes() -> Iterator[Variant]:
    shape = (9, 11, 5)

    def canonical(frame: int) -> Expected:
        """The slice of the volume in nibabel's canonical orientation, its higher axes up."""

        def expected(path: Path) -> Array:
            image = nifti.load(path)
            axes = [int(axis) for axis in turns.io_orientation(image.affine)[:, 0]]
            signs = turns.io_orientation(image.affine)[:, 1]
            values = np.asarray(nifti.as_closest_canonical(image).dataobj)
            last = axes[2]
            place = frame if signs[2] > 0 else image.shape[2] - 1 - frame
            return shown(np.rot90(np.take(values, place, axis=last)))

        return expected

    def one(kind: str, values: Array, affine: Array | None, expected: Expected | None, frame: int | None = 1,
            suffix: str = "nii.gz", **header: Any) -> Variant:  # fmt: skip
        def write(path: Path) -> None:
            image = nifti.Nifti1Image(values, affine)
            for name, value in header.items():
                getattr(image.header, name)(*value)
            image.to_filename(path)

        return Variant("NIfTI", kind, write, expected, suffix, 1, frame)

    values = np.random.default_rng(2).integers(-900, 3000, shape).astype(np.int16)
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            affine = np.zeros((4, 4))
            affine[3, 3] = 1
            for axis in range(3):
                affine[order[axis], axis] = signs[axis] * (1.0, 0.7, 2.5)[axis]
            yield one(f"axes {order} {signs}", values, affine, canonical(1))
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    yield one("turned by 17 degrees", values, turn, canonical(1))
    for kind in ("u1", "i1", "u2", "u4", "f4", "f8"):
        numbers = (np.random.default_rng(3).random(shape) * 100).astype(kind)
        for frame in (0, 4):
            yield one(
                f"{kind} slice {frame}",
                numbers,
                np.diag([-1.0, 1, 1, 1]),
                _exact(canonical(frame), numbers, frame),
                frame,
                "nii",
            )
    yield one("scaled", values, np.eye(4), canonical(1), set_slope_inter=(2.5, -10))
    yield one("without a place", values, None, fixed(shown(np.rot90(values[..., 1]))))
    yield one(
        "one slice of four dimensions", values[:, :, 2:3, None], np.eye(4), fixed(shown(np.rot90(values[..., 2]))), None
    )
    yield one("two dimensions", values[:, :, 2], np.eye(4), fixed(shown(np.rot90(values[..., 2]))), None)
    yield one("slices", values, np.eye(4), None, None)
    yield one("slice 5 of 5", values, np.eye(4), None, 5)
    yield one("time", np.stack([values, values], -1), np.eye(4), None)
    yield one("complex", values.astype(np.complex64), np.eye(4), None)
    yield one("not finite", np.where(values > 0, np.nan, 1).astype(np.float32), np.eye(4), None)
    yield Variant("NIfTI", "damaged", written(b"\x1f\x8b" + bytes(99)), None, "nii.gz", 1, 1)


def _exact(expected: Expected, values: Array, frame: int) -> Expected:
    """8-bit values stay what they are."""
    plain = np.rot90(values[::-1, :, frame])
    return fixed(plain.astype(np.uint8)) if values.dtype == np.uint8 else expected


def arrays() -> Iterator[Variant]:
    for kind, packed, order in itertools.product(("u1", "u2", "i2", "f4", "f8", "?"), (False, True), "CF"):
        rows = np.stack([scene(1 if kind == "?" else 200, seed=n) for n in range(3)]).astype(kind)

        def write(path: Path, rows: Array = rows, packed: bool = packed, order: Any = order) -> None:
            (np.savez_compressed if packed else np.savez)(path, rows=np.asarray(rows, order=order))

        def second(path: Path) -> Array:
            values = np.load(path)["rows"][1]
            return np.asarray(values if values.dtype == np.uint8 else shown(values.astype(np.float64)))

        yield Variant("npz", f"{kind} {order}{' packed' * packed}", write, second, "npz", 1, 1)
    colour = np.stack([scene(channels=3, seed=n) for n in range(3)]).astype(np.uint8)
    yield Variant("npz", "colour", lambda path: np.savez(path, rows=colour), fixed(colour[2]), "npz", 3, 2)
    yield Variant("npz", "row 3 of 3", lambda path: np.savez(path, rows=colour), None, "npz", 3, 3)
    yield Variant("npz", "volumes", lambda path: np.savez(path, rows=np.zeros((2, 3, 4, 5))), None, "npz", 1, 0)
    things = np.array([None, {}], dtype=object)
    yield Variant("npz", "objects", lambda path: np.savez(path, rows=things), None, "npz", 1, 0)
    yield Variant("npz", "not finite", lambda path: np.savez(path, rows=np.full((1, 3, 3), np.inf)), None, "npz", 1, 0)
    yield Variant("npz", "damaged", written(b"PK\3\4" + bytes(99)), None, "npz", 1, 0)


VARIANTS = [*png(), *jpeg(), *tiff(), *gif(), *bmp(), *dicom(), *volumes(), *arrays()]


def outcome(variant: Variant, folder: Path) -> str:
    """Reads a variant with both readers: read, refused, or what is wrong."""
    path = folder / f"x.{variant.suffix}"
    path.unlink(missing_ok=True)
    variant.write(path)
    picture = Picture(path, variant.frame, "rows" if variant.suffix == "npz" else "")
    try:
        found = np.asarray(read_image(picture, variant.channels, ()))
    except (UserError, OSError, SyntaxError, EOFError, ValueError):  # decoders have errors of their own
        return "refused" if variant.expected is None else "refused, though it should be read"
    if variant.expected is None:
        return "wrong: read"
    right = np.asarray(variant.expected(path))
    if found.shape != right.shape:
        return f"wrong: {found.shape} is not {right.shape}"
    far = int(np.abs(found.astype(int) - right.astype(int)).max())
    return "read" if far <= variant.tolerance else f"wrong by {far}"


def check(variants: list[Variant], folder: Path) -> dict[str, Counter[str]]:
    """Reads variants; returns format -> outcome -> count, and fails where one is wrong."""
    table: dict[str, Counter[str]] = defaultdict(Counter)
    wrong = []
    for variant in variants:
        found = outcome(variant, folder)
        word = found.split(":")[0].split(" ")[0].rstrip(",")
        table[variant.format][word] += 1
        if found not in ("read", "refused"):
            wrong.append(f"{variant.format} {variant.kind}: {found}")
    assert not wrong, "\n".join(wrong)
    return table


def test_a_share_of_all_variants_is_read_as_a_second_reader_reads_it(tmp_path: Path) -> None:
    check(VARIANTS[::QUICK], tmp_path)


@pytest.mark.slow
def test_every_variant_is_read_as_a_second_reader_reads_it_or_is_refused(tmp_path: Path) -> None:
    assert len(VARIANTS) + len(TABLES) >= WANTED
    assert len({(v.format, v.kind, v.channels) for v in VARIANTS}) == len(VARIANTS)
    table = check(VARIANTS, tmp_path)
    table["CSV"] = Counter(table_outcome(name, tmp_path / str(n)) for n, name in enumerate(TABLES))
    print(f"\n{'format':8}{'read':>6}{'refused':>9}{'wrong':>7}")
    for name, counts in table.items():
        print(f"{name:8}{counts['read']:>6}{counts['refused']:>9}{counts['wrong']:>7}")
    total = sum(table.values(), Counter())
    print(f"{'all':8}{total['read']:>6}{total['refused']:>9}{total['wrong']:>7}")
    assert total["wrong"] == 0


# Tables, against pandas

COLUMNS = ("image", "who", "part", "ill")


def rows(count: int = 6) -> list[list[str]]:
    return [[f"{n}.png", f"p{n // 2}", ("train", "val", "test")[n % 3], str(n % 2)] for n in range(count)]


def text(body: list[list[str]], delimiter: str = ",", end: str = "\n", quoting: Any = csv.QUOTE_MINIMAL) -> str:
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows([list(COLUMNS), *body])
    return stream.getvalue()


def changed(column: int, *values: str) -> list[list[str]]:
    body = rows()
    for row, value in zip(body, values, strict=False):
        row[column] = value
    return body


TABLES: dict[str, tuple[bytes, bool]] = {
    **{
        f"{name} {end!r} {'quoted' if quoting else 'plain'}": (text(rows(), sign, end, quoting).encode(), True)
        for (name, sign), end, quoting in itertools.product(
            {"comma": ",", "semicolon": ";", "tab": "\t"}.items(), ("\n", "\r\n"), (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
        )
    },
    "BOM": (text(rows()).encode("utf-8-sig"), True),
    "no end of the last line": (text(rows()).rstrip("\n").encode(), True),
    "blank lines": (text(rows()).replace("\n", "\n\n").encode(), True),
    "spaces": (text([[f" {cell} " for cell in row] for row in rows()]).encode(), True),
    "words": (text(changed(1, "Ärzte", "Ärzte", "名前", "名前")).encode(), True),
    "a separator in a cell": (text(changed(1, "a,b", "a,b", "c;d", "c;d")).encode(), True),
    "a line in a cell": (text(changed(1, "a\u2028b", "a\u2028b", "c\x0bd", "c\x0bd")).encode(), True),
    "quotes in a cell": (text(changed(1, 'a "b"', 'a "b"')).encode(), True),
    "True and False": (text(changed(3, *["False", "True"] * 3)).encode(), True),
    "numbers with a point": (text(changed(3, *["0.0", "1.0"] * 3)).encode(), True),
    "yes and no": (text(changed(3, *["no", "yes"] * 3)).encode(), True),
    "patients 1 and 1.0": (text(changed(1, "1", "1.0", "2", "2.0", "3", "3.0")).encode(), True),
    "patients with zeros": (text(changed(1, "7", "007")).encode(), False),
    "patient NA": (text(changed(1, "NA", "NA")).encode(), False),
    "a label without a value": (text(changed(3, "", "1")).encode(), False),
    "a cell too many": (text([*rows(), ["a"] * 5]).encode(), False),
    "a quote that is not closed": ((text(rows()) + '"x,p,train,1').encode(), False),
    "Latin": (text(changed(1, "Ärzte")).encode("latin-1"), False),
    "a column twice": (text(rows()).replace("ill", "who").encode(), False),
    "a path out": (text(changed(0, "../x.png")).encode(), False),
}


def table_outcome(name: str, root: Path) -> str:
    """Reads a table with both readers."""
    content, readable = TABLES[name]
    folder = root / "data/raw/mine"
    folder.mkdir(parents=True)
    for number in range(6):
        Image.new("L", (4, 4), number).save(folder / f"{number}.png")
    (folder / "t.csv").write_bytes(content)
    tree = {"kind": "binary", "labels": ["ill"], "table": "t.csv", "patient": "who", "split": "part", "image_size": 32}
    (folder / "task.yaml").write_text(yaml.safe_dump(tree))
    try:
        found = list(read(catalog.lookup("mine", root), folder))
    except UserError:
        return "wrong" if readable else "refused"
    second = pd.read_csv(folder / "t.csv", sep=None, engine="python", encoding="utf-8-sig", skipinitialspace=True,
                         true_values=["yes", "True"], false_values=["no", "False"])  # fmt: skip
    second.columns = second.columns.str.strip()
    whole = [
        (str(row.image).strip(), str(row.part).strip(), int(str(row.ill) in ("1", "1.0", "True")))
        for row in second.astype(object).itertuples()
    ]
    same = [(s.image.path.name, s.split, s.labels[0]) for s in found] == whole
    groups = pd.Series([sample.patient for sample in found]).groupby(second["who"].to_numpy()).nunique()
    split = second["who"].groupby(np.array([sample.patient for sample in found])).nunique()
    return "read" if readable and same and groups.max() == split.max() == 1 else "wrong"


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_read_as_pandas_reads_them_or_refused(tmp_path: Path, name: str) -> None:
    assert table_outcome(name, tmp_path) == ("read" if TABLES[name][1] else "refused")


def test_damage_anywhere_is_no_crash(tmp_path: Path) -> None:
    chance = random.Random(0)
    for variant in VARIANTS[:: 5 * QUICK]:
        path = tmp_path / f"x.{variant.suffix}"
        variant.write(path)
        content = bytearray(path.read_bytes())
        for _ in range(4):
            for _ in range(min(20, len(content))):
                content[chance.randrange(len(content))] = chance.randrange(256)
            path.write_bytes(content)
            try:
                read_image(Picture(path, variant.frame, "rows" if variant.suffix == "npz" else ""), 1, ())
            except MemoryError:
                raise
            except Exception:  # decoders raise nearly anything, which `decoding` names
                continue
