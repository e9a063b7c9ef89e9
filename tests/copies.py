"""How many changed copies of real images are found, and how many different ones are taken for copies.

`python -m tests.copies` prints the table of docs/data.md from the images beside the checkout (shared/data).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from medtransfer.data import duplicates

Change = Callable[[Image.Image], Image.Image]

SETS = {"chest X-rays": ("chestxray14-sample/images", "*.png"), "fundus images": ("drive", "*/images/*.tif")}
COPIED = 100
"""images of each set that are copied, at most"""


def cut(left: float = 0, top: float = 0, right: float = 0, bottom: float = 0) -> Change:
    """Takes shares of the width and the height away."""
    return lambda image: image.crop(
        (
            round(left * image.width),
            round(top * image.height),
            round((1 - right) * image.width),
            round((1 - bottom) * image.height),
        )
    )


def framed(share: float) -> Change:
    """Puts a black border around an image."""
    return lambda image: ImageOps.expand(image, round(share * image.width))


def barred(share: float) -> Change:
    """Puts black bars beside an image, as letterboxing does."""
    return lambda image: ImageOps.expand(image, (round(share * image.width), 0))


def jpeg(quality: int) -> Change:
    def encoded(image: Image.Image) -> Image.Image:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality)
        return Image.open(stream)

    return encoded


def scaled(factor: float) -> Change:
    return lambda image: image.resize((round(image.width * factor), round(image.height * factor)))


def tilted(degrees: float) -> Change:
    return lambda image: image.rotate(degrees, Image.Resampling.BILINEAR)


def turned(quarters: int) -> Change:
    return lambda image: image.rotate(90 * quarters, expand=True)


CHANGES: dict[str, Change] = {
    "JPEG, quality 20": jpeg(20),
    "size x 0.5": scaled(0.5),
    "brighter by 30": lambda image: image.point(lambda v: v + 30),
    "gamma 1.4": lambda image: image.point(lambda v: 255 * (v / 255) ** 1.4),
    "crop of 3 % at every edge": cut(0.03, 0.03, 0.03, 0.03),
    "crop of 5 % at every edge": cut(0.05, 0.05, 0.05, 0.05),
    "crop of 10 % at every edge": cut(0.1, 0.1, 0.1, 0.1),
    "crop of 15 % at every edge": cut(0.15, 0.15, 0.15, 0.15),
    "crop of 3 % at the left": cut(left=0.03),
    "crop of 10 % at the left": cut(left=0.1),
    "crop of 20 % at the bottom": cut(bottom=0.2),
    "crop of 5 % at two edges": cut(left=0.05, top=0.05),
    "crop of 15 % at two edges": cut(left=0.15, top=0.15),
    "mirrored": ImageOps.mirror,
    "upside down": ImageOps.flip,
    "turned by 90 degrees": turned(1),
    "turned by 180 degrees": turned(2),
    "turned by 270 degrees": turned(3),
    "tilted by 3 degrees": tilted(3),
    "tilted by 5 degrees": tilted(-5),
    "tilted by 10 degrees": tilted(10),
    "inverted": ImageOps.invert,
    "black border of 5 %": framed(0.05),
    "black border of 15 %": framed(0.15),
    "black bars of 20 %": barred(0.2),
    "mirrored, inverted": lambda image: ImageOps.invert(ImageOps.mirror(image)),
    "mirrored, crop of 3 %, JPEG": lambda image: jpeg(40)(cut(0.03, 0.03, 0.03, 0.03)(ImageOps.mirror(image))),
    "crop of 5 %, gamma, JPEG": lambda image: jpeg(40)(cut(0.05, 0.05, 0.05, 0.05)(image).point(lambda v: v * 0.8)),
}


def pictures(name: str, data: Path) -> tuple[list[Image.Image], NDArray[np.str_]]:
    """Reads a set's images in gray, and whose each is."""
    folder, pattern = SETS[name]
    files = sorted((data / folder).glob(pattern))
    owners = np.array([file.stem.split("_")[0] if "chest" in name else file.stem for file in files])
    return [Image.open(file).convert("L") for file in files], owners


def thumbnails(images: list[Image.Image]) -> NDArray[np.uint8]:
    return np.stack([duplicates.thumbnail(image) for image in images])


def found(images: list[Image.Image], change: Change) -> float:
    """Gives the share of changed copies that are found among all other images of the set."""
    copied = min(COPIED, len(images))
    looks = duplicates.Looks(thumbnails(images), thumbnails([change(image) for image in images[:copied]]))
    originals = np.arange(len(images))
    one, two, _ = looks.alike(len(images) + np.arange(copied), originals)
    pairs = set(zip((one - len(images)).tolist(), two.tolist(), strict=True))
    return sum((number, number) in pairs for number in range(copied)) / copied


def mistaken(images: list[Image.Image], owners: NDArray[np.str_]) -> tuple[int, int, float]:
    """Looks through pairs of images of different patients, one half of the patients against the other.

    Returns:
        How many pairs that are, how many of them are taken for copies, and the greatest likeness.
    """
    looks = duplicates.Looks(thumbnails(images))
    names = np.unique(owners)
    half = np.isin(owners, names[np.random.default_rng(0).permutation(len(names))[::2]])
    one, two = np.flatnonzero(half), np.flatnonzero(~half)
    first, _, likeness = looks.laid(one, two)
    return len(one) * len(two), int((likeness > duplicates.limit(first, likeness)).sum()), float(likeness.max())


def main(data: Path) -> None:
    sets = {name: pictures(name, data) for name in SETS}
    for name, (images, owners) in sets.items():
        pairs, wrong, greatest = mistaken(images, owners)
        print(
            f"{name}: {wrong} of {pairs:,} pairs of different patients taken for copies, likeness up to {greatest:.2f}"
        )
    print("| copy | " + " | ".join(f"{name} found" for name in sets) + " |")
    print("|---|" + "---:|" * len(sets))
    for words, change in CHANGES.items():
        print(
            f"| {words} | " + " | ".join(f"{found(images, change):.2f}" for images, _ in sets.values()) + " |",
            flush=True,
        )


if __name__ == "__main__":
    main(Path(__file__).parents[2] / "shared/data")
