"""Masks against what is said of them: nine images of noise with a white corner, which is the region."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medtransfer.core.errors import UserError
from medtransfer.data import contact_sheets
from tests.support.drawn_masks import (
    SIDE,
    Array,
    Save,
    gray,
    lying,
    nifti,
    prepare,
    require_region,
    volume,
    write,
)


@pytest.fixture(autouse=True)
def _no_sheets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws nothing for people: it takes most of the time."""
    monkeypatch.setattr(contact_sheets, "samples", lambda *_: None)
    monkeypatch.setattr(contact_sheets, "pairs", lambda *_: None)


# Orientation and place


def turned(image: Array, path: Path) -> None:
    """Stores an image turned by 90 degrees, with the tag that makes every viewer show it upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    options: dict[str, Any] = {"quality": 100} if path.suffix == ".jpg" else {}
    Image.fromarray(np.rot90(image, 1)).save(path, exif=exif, **options)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_orientation_tags_are_applied_in_every_format(tmp_path: Path, top: Path, suffix: str) -> None:
    write(tmp_path, gray(255), image=turned, image_suffix=suffix)
    require_region(prepare(tmp_path, top))


def slices(image: Array, path: Path) -> None:
    volume(lying(image).astype(np.int16), path)


def flipped(axes: tuple[int, ...], affine: Array | None = None) -> Array:
    """The affine of a volume whose axes are stored the other way round, so that its voxels stay in place."""
    affine = np.diag([1.0, 1, 3, 1]) if affine is None else affine
    shape = np.array([SIDE, SIDE, 3])
    result = affine.copy()
    for axis in axes:
        result[:3, 3] += affine[:3, axis] * (shape[axis] - 1)
        result[:3, axis] *= -1
    return result


def voxels(kept: Any = np.uint8, **options: Any) -> Save:
    return lambda region, path: volume(lying(region).astype(kept), path, **options)


def dusty(region: Array, path: Path) -> None:
    volume(np.where(lying(region), 0.9999, 1e-7).astype(np.float32), path)


def across(region: Array, path: Path) -> None:
    """Stores the same voxels with the axes in another order."""
    stack = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    stack[..., 1] = lying(region)
    affine = np.diag([1.0, 1, 3, 1])[:, [2, 0, 1, 3]]
    nifti.save(nifti.Nifti1Image(np.transpose(stack, (2, 0, 1)), affine), path)


VOLUMES: dict[str, tuple[Save, dict[str, Any]]] = {
    "as the image": (voxels(), {}),
    "first axis flipped": (lambda r, p: volume(lying(r)[::-1].astype(np.uint8), p, affine=flipped((0,))), {}),
    "both axes flipped": (lambda r, p: volume(lying(r)[::-1, ::-1].astype(np.uint8), p, affine=flipped((0, 1))), {}),
    "slices from below": (voxels(affine=flipped((2,))), {}),
    "axes in another order": (across, {}),
    "scaled to 1.00000006": (voxels(np.float32, kind=np.uint8), {"values": {"lesion": 1}}),
    "dust": (dusty, {}),
    "dust and a value": (dusty, {"values": {"lesion": 1}}),
    "a place that is not true": (voxels(affine=np.diag([-1.0, 2, 1, 1])), {"align": "pixels"}),
}  # fmt: skip


@pytest.mark.parametrize("name", VOLUMES)
def test_masks_of_volumes_are_laid_where_they_lie(tmp_path: Path, top: Path, name: str) -> None:
    save, settings = VOLUMES[name]
    write(tmp_path, save, suffix=".nii.gz", image=slices, image_suffix=".nii.gz", frame=1, **settings)
    require_region(prepare(tmp_path, top))


def test_a_volume_stored_otherwise_is_shown_the_same_way_up(tmp_path: Path, top: Path) -> None:
    def image(pixels: Array, path: Path) -> None:
        volume(lying(pixels)[::-1].astype(np.int16), path, affine=flipped((0,)))

    folder = write(tmp_path, gray(255), image=image, image_suffix=".nii.gz", frame=1, align="pixels")
    table = (folder / "images.csv").read_text()
    assert table.count(",1\n") + table.count(",1\r\n") == 9
    for number in range(9):  # a mask without slices: three pages of which the second counts
        blank, mask = Image.new("L", (SIDE, SIDE)), Image.open(folder / f"m{number}.png").copy()
        blank.save(folder / f"m{number}.tif", save_all=True, append_images=[mask, blank])
    (folder / "images.csv").write_text(table.replace(".png", ".tif"))
    require_region(prepare(tmp_path, top))


@pytest.mark.parametrize(
    ("save", "suffix", "frame", "words"),
    [
        (voxels(affine=np.diag([1.0, 1, 2, 1])), ".nii.gz", 1, "lies elsewhere"),
        (voxels(affine=np.diag([2.0, 2, 3, 1])), ".nii.gz", 1, "lies elsewhere"),
        (lambda r, p: volume(lying(r)[1:].astype(np.uint8), p), ".nii.gz", 1, "lies elsewhere"),
        (voxels(), ".nii.gz", None, "holds 3 slices and none is named"),
        (gray(255), ".png", 0, "its image is NIfTI, it is not"),
    ],
)  # fmt: skip
def test_masks_of_another_place_are_refused(
    tmp_path: Path, top: Path, save: Save, suffix: str, frame: int | None, words: str
) -> None:
    write(tmp_path, save, suffix=suffix, image=slices, image_suffix=".nii.gz", frame=frame)
    with pytest.raises(UserError, match=words):
        prepare(tmp_path, top)


def test_a_volume_as_the_mask_of_a_plain_image_is_refused(tmp_path: Path, top: Path) -> None:
    def flat(region: Array, path: Path) -> None:
        nifti.save(nifti.Nifti1Image(lying(region).astype(np.uint8), np.eye(4)), path)

    write(tmp_path, flat, suffix=".nii")
    with pytest.raises(UserError, match="it is NIfTI, its image is not"):
        prepare(tmp_path, top)
