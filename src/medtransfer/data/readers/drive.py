"""DRIVE: 40 fundus images with the vessels drawn by hand (Staal et al., IEEE TMI 2004)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medtransfer.core.errors import UserError
from medtransfer.data.readers.reading import Picture, Sample, Split, list_files, refuse, require_folder

FOLDERS: tuple[tuple[str, Split], ...] = (("training", "trainval"), ("test", "test"))


def read(root: Path) -> Iterator[Sample]:
    """Yields the images of `training` (our draw takes val out of them) and `test`, in order of their numbers.

    Raises:
        UserError: a folder, the images or a first observer's mask is missing.
    """
    for folder, split in FOLDERS:
        for image in list_files("drive", require_folder("drive", root / folder / "images"), "*.tif", "*.tif"):
            mask = Picture(_mask(root, folder, image))
            extras = _extras(root, image) if split == "test" else {}
            yield Sample(
                id=image.stem, patient=image.stem, split=split, image=Picture(image), masks=((mask,),), extras=extras
            )


def _extras(root: Path, image: Path) -> dict[str, Picture]:
    """Finds a test image's field of view and second observer; a download may lack them."""
    number = image.stem.split("_")[0]
    places = {
        "field_of_view": root / "test/mask" / f"{image.stem}_mask.gif",
        "second_observer": root / "test/2nd_manual" / f"{number}_manual2.gif",
    }
    return {name: Picture(path) for name, path in places.items() if path.is_file()}


def _mask(root: Path, folder: str, image: Path) -> Path:
    mask = root / folder / "1st_manual" / f"{image.stem.split('_')[0]}_manual1.gif"
    if mask.is_file():
        return mask
    if folder == "test" and not mask.parent.is_dir():
        raise UserError(
            f"dataset drive: looked for {mask.parent}, found nothing there. The current download of DRIVE holds no "
            "masks of its test images; get them from an earlier copy of the official archive"
        )
    raise refuse("drive", f"the mask of {image.name}", mask, "none")
