"""One mask: which of its pixels are a label's region, by what its `Marking` says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.errors import UserError
from medtransfer.data.images import formats
from medtransfer.data.images.formats import Content
from medtransfer.data.images.pixels import BLOCK, gate
from medtransfer.data.readers.reading import Marking, Picture

TOLERANCE = 1e-3
"""by which a value may differ from a whole number that it means: resampling and scaling leave such remains"""


def read(picture: Picture, image: Content | None = None) -> NDArray[np.bool_]:
    """Reads a mask, (height, width): the pixels that its `Marking` says.

    Raises:
        UserError: as `formats.load_mask`.
    """
    try:
        return region(formats.load_mask(picture, image), picture.marking)
    finally:
        gate.release()


def region(content: Content, marking: Marking) -> NDArray[np.bool_]:
    """Says which pixels of a mask's content are the region."""
    values = plane(content, marking)
    found = np.empty(values.shape[:2], dtype=bool)
    for rows in bands(found.shape):
        band = snapped(values[rows])
        if marking.values:
            found[rows] = _among(band, marking.values)
        else:
            found[rows] = distance(band, marking.background[0]) > marking.cut
    return found


def bands(shape: tuple[int, ...]) -> list[slice]:
    """Cuts a picture into bands of rows, so that arithmetic on it takes little memory."""
    step = max(1, BLOCK // shape[1])
    return [slice(start, start + step) for start in range(0, shape[0], step)]


def _among(values: NDArray[Any], wanted: Iterable[int | str]) -> NDArray[np.bool_]:
    """Says which pixels have one of some values or colours; a number among colours is that gray."""
    found = np.zeros(values.shape[:2], dtype=bool)
    for value in wanted:
        pixel = rgb(value) if isinstance(value, str) else np.full(3, value)
        if values.ndim == 3:
            found |= (values == pixel).all(axis=2)
        elif (pixel == pixel[0]).all():  # a colour that is none is no gray
            found |= values == pixel[0]
    return found


def plane(content: Content, marking: Marking) -> NDArray[Any]:
    """Gives what a mask's values are matched in: (height, width), or (height, width, 3) of colours that are no grays.

    Whole numbers are matched with a palette's indices and with the steps of few bits; what cannot be seen for
    transparency is black.
    """
    colour, alpha, indices = layers(content)
    if marking.alpha:
        return alpha if alpha is not None else np.full(colour.shape[:2], 255, dtype=np.uint8)
    if indices is not None and marking.values and not any(isinstance(value, str) for value in marking.values):
        return indices
    if colour.ndim == 3 and (colour == colour[..., :1]).all():
        colour = colour[..., 0]
    if alpha is not None and alpha.min() < alpha.max():
        weight = (alpha > 0) if marking.values else alpha.astype(np.float32) / np.float32(full(alpha))
        colour = colour * (weight if colour.ndim == 2 else weight[..., None])
    return colour


def full(alpha: NDArray[Any]) -> float:
    """Gives the value of full opacity."""
    return float(np.iinfo(alpha.dtype).max) if alpha.dtype.kind in "iu" else 1.0


def layers(content: Content) -> tuple[NDArray[Any], NDArray[Any] | None, NDArray[Any] | None]:
    """Splits a mask's content: gray or colours, opacity, and a palette's indices or the stored steps of few bits."""
    image = content.image
    if image is None:
        assert content.values is not None
        values = content.values
        return (values.astype(np.uint8) if values.dtype.kind == "b" else values), content.alpha, None
    if image.mode == "1":
        bits = np.asarray(image)
        return bits * np.uint8(255), None, bits.astype(np.uint8)
    indices = np.asarray(image) if image.mode == "P" else None
    if content.step > 1:
        indices = np.asarray(image) // content.step
    if "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("RGB")
    pixels = np.asarray(image)
    if image.mode in ("LA", "RGBA"):
        colour = pixels[..., 0] if image.mode == "LA" else pixels[..., :3]
        return colour, pixels[..., -1], indices
    return pixels, None, indices


def snapped(values: NDArray[Any]) -> NDArray[Any]:
    """Makes floating-point values that mean whole numbers whole.

    Raises:
        UserError: one is not a finite number.
    """
    if values.dtype.kind != "f":
        return values
    if not np.isfinite(values).all():
        raise UserError("has pixels that are not finite numbers; mend or leave out the mask")
    whole = np.rint(values)
    return np.where(np.abs(values - whole) <= TOLERANCE, whole, values)


def distance(values: NDArray[Any], background: int | str) -> NDArray[np.float64]:
    """Measures how far each pixel is from the background; of colours the channel that is farthest."""
    if isinstance(background, str) or values.ndim == 3:
        colours = values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)
        ground = rgb(background) if isinstance(background, str) else np.full(3, background)
        return np.asarray(np.abs(colours.astype(np.float64) - ground).max(axis=2))
    return np.abs(values.astype(np.float64) - background)


def rgb(text: str) -> NDArray[np.int64]:
    """Reads a colour, `#rrggbb`: three values."""
    return np.array([int(text[start : start + 2], 16) for start in (1, 3, 5)])
