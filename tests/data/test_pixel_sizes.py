"""How large pixels are: from the files into the cache, and what is measured with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medtransfer.core.errors import UserError
from medtransfer.data import catalog, pixel_sizes
from medtransfer.data.cache import Prepared
from medtransfer.data.images import dicom
from medtransfer.data.tasks import Task
from tests.support import drawn_masks, fakes

TURNED = np.array([[0, 0.5, 0, 0], [0.25, 0, 0, 0], [0, 0, 3.0, 0], [0, 0, 0, 1]])
"""of a volume whose first axis points to the front, 0.25 mm apart, and whose second to the right, 0.5 mm"""


def header(**said: Any) -> Dataset:
    found = Dataset()
    for name, value in said.items():
        setattr(found, name, value)
    return found


def test_a_dicom_file_says_how_large_its_pixels_are() -> None:
    assert dicom.spacing(header(PixelSpacing=[0.4, 0.3]), 0) == (0.4, 0.3)
    assert dicom.spacing(header(ImagerPixelSpacing=[0.2, 0.1]), 0) == (0.2, 0.1)
    assert dicom.spacing(header(PixelSpacing=[0.4, 0.3], ImagerPixelSpacing=[0.2, 0.1]), 0) == (0.4, 0.3)
    assert dicom.spacing(header(NominalScannedPixelSpacing=[0.2, 0.1]), 0) == (0.2, 0.1)


@pytest.mark.parametrize("said", [{}, {"PixelSpacing": None}, {"PixelSpacing": [0, 0.3]}, {"PixelSpacing": [0.3]}])
def test_a_dicom_file_that_does_not_say_it_is_asked_no_further(said: dict[str, Any]) -> None:
    assert dicom.spacing(header(**said), 0) is None


def test_frames_have_pixels_of_their_own() -> None:
    frames = [header(PixelMeasuresSequence=Sequence([header(PixelSpacing=[size, 2 * size])])) for size in (0.5, 0.7)]
    multi = header(PerFrameFunctionalGroupsSequence=Sequence(frames))
    assert [dicom.spacing(multi, frame) for frame in (0, 1)] == [(0.5, 1.0), (0.7, 1.4)]
    shared = header(SharedFunctionalGroupsSequence=Sequence([frames[1]]))
    assert dicom.spacing(shared, 4) == (0.7, 1.4)


def sizes(prepared: Prepared) -> list[list[float]]:
    found = np.unique(prepared.samples[list(pixel_sizes.COLUMNS)].to_numpy(), axis=0)
    return [list(map(float, row)) for row in found]


def nifti(tmp_path: Path, top: Path, **settings: Any) -> Prepared:
    def save(plane: Any, path: Path) -> None:
        drawn_masks.volume(plane.astype(np.uint8), path, affine=TURNED)

    drawn_masks.write(tmp_path, save, suffix=".nii", image=save, image_suffix=".nii", frame=1, **settings)
    return drawn_masks.prepare(tmp_path, top)


def own(root: Path) -> Task:
    return catalog.lookup("case", root)


def test_sizes_come_into_the_cache_as_the_picture_is_shown(tmp_path: Path, top: Path) -> None:
    prepared = nifti(tmp_path, top)
    side = drawn_masks.SIDE
    ((height, width, down, right),) = sizes(prepared)
    assert (height, width) == (side, side)
    assert (down, right) == (0.25, 0.5)
    found = pixel_sizes.ruler(own(tmp_path), prepared)
    assert found is not None
    assert (found.unit, found.words) == ("mm", "2 mm")
    assert found.spacing(0, (side, side)) == (0.25, 0.5)
    assert found.spacing(0, (side // 2, 2 * side)) == (0.5, 0.25)
    table = prepared.samples.drop(columns=list(pixel_sizes.COLUMNS))  # as an earlier version wrote it
    assert pixel_sizes.ruler(own(tmp_path), dataclasses.replace(prepared, read_samples=lambda: table)) is None


def test_what_files_do_not_say_is_in_pixels_or_said_by_the_task(tmp_path: Path, top: Path) -> None:
    drawn_masks.write(tmp_path, drawn_masks.gray(255))
    prepared, task = drawn_masks.prepare(tmp_path, top), own(tmp_path)
    assert np.isnan(sizes(prepared)[0][2:]).all()
    plain = pixel_sizes.ruler(task, prepared)
    said = pixel_sizes.ruler(dataclasses.replace(task, spacing=(0.1, 0.2), tolerance=(1.5, "mm")), prepared)
    assert plain is not None
    assert said is not None
    assert (plain.words, plain.spacing(3, (drawn_masks.SIDE, drawn_masks.SIDE))) == ("2 px", (1.0, 1.0))
    assert (said.words, said.spacing(3, (drawn_masks.SIDE, drawn_masks.SIDE))) == ("1.5 mm", (0.1, 0.2))
    with pytest.raises(UserError, match=r"in mm, but the files of 9 of 9 images do not say .* `tolerance: 2 px`"):
        pixel_sizes.ruler(dataclasses.replace(task, tolerance=(1, "mm")), prepared)


def test_a_number_of_a_readme_is_not_that_of_phantoms_and_smaller_copies(tmp_path: Path) -> None:
    prepared = fakes.prepared(tmp_path, segmentation=True)
    montgomery = catalog.TASKS["montgomery"]
    units = []
    for source, side in (("raw", 4892), ("phantoms", 4892), ("raw", 1024)):
        manifest: Any = {**prepared.manifest, "source": source}
        table = prepared.samples.assign(**{"original.height": side, "original.width": side // 2})
        copy = dataclasses.replace(prepared, manifest=manifest, read_samples=table.copy)
        found = pixel_sizes.ruler(montgomery, copy)
        units.append(found and (found.unit, found.spacing(0, (side, side // 2))))
    assert units == [("mm", (0.0875, 0.0875)), ("px", (1.0, 1.0)), ("px", (1.0, 1.0))]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tolerance": "2"}, "tolerance must be a length above 0 with its unit, `2 mm` or `2 px`, got '2'"),
        ({"tolerance": "0 mm"}, "tolerance must be a length above 0"),
        ({"spacing": [0.1]}, r"spacing must be one number above 0 \(mm\) or \[height, width\], got \[0.1\]"),
        ({"spacing": 0}, "spacing must be one number above 0"),
        ({"measures": ["surfaces"]}, "surface"),
    ],
)
def test_lengths_that_are_none_are_refused(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    drawn_masks.write(tmp_path, drawn_masks.gray(255), **settings)
    with pytest.raises(UserError, match=words):
        own(tmp_path)


def test_a_task_says_its_lengths(tmp_path: Path) -> None:
    said: dict[str, Any] = {"tolerance": "0.5mm", "spacing": 0.1, "measures": ["lesions"], "metric": "lesion_f1"}
    drawn_masks.write(tmp_path, drawn_masks.gray(255), **said)
    task = own(tmp_path)
    assert (task.tolerance, task.spacing, task.measures) == ((0.5, "mm"), (0.1, 0.1), ("lesions",))
    assert "lesion_f1" in task.measured
    assert "cldice" not in task.measured
