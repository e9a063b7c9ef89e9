"""Synthetic images in the official raw layouts: the demo's data and, tiny, the tests'.

What is drawn decides the labels. Every image has its own random stream, so it does not depend on how many there are;
only that Shenzhen numbers its normal images first lets the count decide which numbers are ill, and the last CT study
is said to have no clot if it was cut off before one.
Nothing here says anything about weights: phantoms test the software.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np

from medtransfer.core import rng
from medtransfer.core.errors import UserError
from medtransfer.data.phantoms import dicom_layouts, layouts

WRITERS: dict[str, layouts.Writer] = {
    "chestxray14": layouts.chestxray14,
    "chexpert": layouts.chexpert,
    "drive": layouts.drive,
    "montgomery": layouts.montgomery,
    "rsna_pe": dicom_layouts.rsna_pe,
    "shenzhen": layouts.shenzhen,
    "siim": dicom_layouts.siim,
}
"""dataset -> what writes its phantoms"""


def write(
    dataset: str, folder: Path, *, images: int, size: int, seed: int, contrast: float, misleading: float = 0.0
) -> None:
    """Writes a dataset's phantoms under `folder`, replacing what an earlier call wrote; equal arguments, equal bytes.

    Args:
        dataset: whose official layout.
        folder: becomes the dataset's root.
        images: how many, over all splits.
        size: pixels, the height.
        seed: of the generator.
        contrast: strength of findings and vessels.
        misleading: share of Shenzhen's images that show what the other group shows.

    Raises:
        UserError: no phantoms exist for the dataset.
    """
    if dataset not in WRITERS:
        raise UserError(f"no phantoms for dataset {dataset!r}; there are some for {', '.join(sorted(WRITERS))}")
    temporary = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    writer = WRITERS[dataset]
    if writer is layouts.shenzhen:
        writer = partial(layouts.shenzhen, misleading=misleading)
    writer(temporary, images, size, partial(_generator, seed, dataset), contrast)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def _generator(seed: int, dataset: str, purpose: str, number: int) -> np.random.Generator:
    return np.random.default_rng(rng.seed_of(seed, f"phantom {dataset} {purpose}", number))
