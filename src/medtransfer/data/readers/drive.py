"""DRIVE: 40 fundus images with the vessels drawn by hand (Staal et al., IEEE TMI 2004)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medtransfer.core.errors import UserError
from medtransfer.data.readers.reading import Picture, Sample, Split, list_files, refuse, require_folder
from medtransfer.data.tasks import Task

TASK = Task(
    name="drive",
    code="VFS",
    dataset="drive",
    title="Blood vessels segmentation",
    kind="segmentation",
    labels=("Vessel",),
    channels=3,
    counts={"trainval": 20, "test": 20},
    draw={"val": 0.2},
    split_source="official",
    extras=("field_of_view", "second_observer"),
    metric="dice",
    margin=0.005,
    measures=("surface", "centre_line"),
    tolerance=(2, "px"),
    licence="research use with citation",
    citation="Staal et al., IEEE TMI 2004",
    source="https://drive.grand-challenge.org",
)
HOW_TO_GET = (
    "register at {source} and join the challenge",
    "download training.zip and test.zip; today's test.zip has no masks, they are in earlier copies of it",
    "unpack both in {folder}, so that training/ and test/ hold images/, 1st_manual/ and mask/",
)
"""what a person does, whom no program can replace"""
UNSAID = "size and validation share of the augmented copy used; here the original files, 4 of 20 for val."
"""what the paper of 2021 does not say of it, and what is done here"""


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
