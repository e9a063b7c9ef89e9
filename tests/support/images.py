"""An image file on its way through the product's decoders."""

from __future__ import annotations

from typing import Literal

from PIL import Image

from medtransfer.data.images import formats
from medtransfer.data.images.pixels import gate
from medtransfer.data.readers.reading import Picture
from medtransfer.data.tasks import Windows


def read_image(picture: Picture, channels: Literal[1, 3], windows: Windows) -> Image.Image:
    """Reads an image at its own size in 8 bits: mode L for one channel, RGB for three."""
    try:
        return formats.to_image(formats.load(picture), channels, windows)
    finally:
        gate.release()
