"""Tasks of a `task.yaml` whose masks are drawn in every way that people draw them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from medtransfer import params
from medtransfer.data import catalog
from medtransfer.data import prepare as preparation
from medtransfer.data.cache import Prepared

nifti: Any = nibabel  # only half of it has types
Array = NDArray[Any]
Save = Callable[[Array, Path], None]

SIDE = 48
REGION = np.zeros((SIDE, SIDE), dtype=bool)
REGION[:20, :12] = True
SIZE = int(REGION.sum())


def gray(inside: int, outside: int = 0, **options: Any) -> Save:
    return lambda region, path: Image.fromarray(np.where(region, inside, outside).astype(np.uint8)).save(
        path, **options
    )


def colour(inside: tuple[int, ...], outside: tuple[int, ...]) -> Save:
    def save(region: Array, path: Path) -> None:
        Image.fromarray(np.where(region[..., None], inside, outside).astype(np.uint8)).save(path)

    return save


def palette(colours: list[int], **options: Any) -> Save:
    def save(region: Array, path: Path) -> None:
        image = Image.fromarray(region.astype(np.uint8), "P")
        image.putpalette(colours)
        image.save(path, **options)

    return save


def soft(region: Array, path: Path) -> None:
    """A region of antialiased edges."""
    big = Image.fromarray((region * 255).astype(np.uint8)).resize((SIDE * 8, SIDE * 8), Image.Resampling.NEAREST)
    big.filter(ImageFilter.GaussianBlur(9)).resize((SIDE, SIDE), Image.Resampling.BOX).save(path)


def halves(region: Array, path: Path) -> None:
    """A region of two values."""
    pixels = np.where(region, 3, 0)
    pixels[:10, :12] = 9
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def levels(*values: int) -> Save:
    """A region of the first value, and rectangles of the others beside it."""

    def save(region: Array, path: Path) -> None:
        pixels = np.where(region, values[0], 0)
        for number, value in enumerate(values[1:]):
            pixels[24 + 8 * number : 30 + 8 * number, 20:40] = value
        Image.fromarray(pixels.astype(np.uint8)).save(path)

    return save


def volume(plane: Array, path: Path, *, affine: Array | None = None, kind: Any = None, where: int = 1) -> None:
    stack = np.zeros((*plane.shape, 3), dtype=plane.dtype)
    stack[..., where] = plane
    image = nifti.Nifti1Image(stack, np.diag([1.0, 1, 3, 1]) if affine is None else affine)
    if kind is not None:
        image.header.set_data_dtype(kind)
    nifti.save(image, path)


def lying(region: Array) -> Array:
    """Turns a picture as it lies in a volume whose axes point to the right and to the front."""
    return np.rot90(region, -1)


def scene(number: int) -> Array:
    image = np.random.default_rng(number).integers(0, 200, (SIDE, SIDE)).astype(np.uint8)
    image[REGION] = 255
    return image


def write(root: Path, save: Save, *, suffix: str = ".png", image: Save | None = None, image_suffix: str = ".png",
          frame: int | None = None, **settings: Any) -> Path:  # fmt: skip
    """Writes a task; returns its folder."""
    folder = root / "data/raw/case"
    folder.mkdir(parents=True)
    tree = {"kind": "segmentation", "labels": ["lesion"], "table": "images.csv", "image": "file", "mask": "mask",
            "patient": "patient", "split": "split", "image_size": SIDE, "channels": 1}  # fmt: skip
    if frame is not None:
        tree["frame"] = "frame"
    (folder / "task.yaml").write_text(yaml.safe_dump(tree | settings))
    rows = [["file", "mask", "patient", "split", "frame"]]
    for number in range(9):
        names = f"i{number}{image_suffix}", f"m{number}{suffix}"
        (image or gray_image)(scene(number), folder / names[0])
        save(REGION, folder / names[1])
        rows.append([*names, f"p{number}", ("train", "val", "test")[number % 3], str(frame)])
    with open(folder / "images.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return folder


def gray_image(image: Array, path: Path) -> None:
    Image.fromarray(image).save(path)


def prepare(root: Path, top: Path) -> Prepared:
    loaded = params.load(top / "params.yaml", {}, catalog.sizes(root))
    return preparation.prepare(catalog.lookup("case", root), loaded, root, workers=1)


def require_region(prepared: Prepared) -> None:
    """Asserts that every mask is the white of its image, and has the region's size."""
    assert prepared.masks is not None
    for image, mask in zip(prepared.images, prepared.masks, strict=True):
        assert int((mask > 0).sum()) == SIZE
        assert (image[mask > 0] >= 250).all()
