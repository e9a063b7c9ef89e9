"""Sources that share images with a target: under other names, at another size, brighter; and sources that do not."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from medtransfer import params
from medtransfer.core.errors import UserError
from medtransfer.data import catalog, duplicates, prepare
from medtransfer.data.cache import Manifest, Prepared
from medtransfer.data.phantoms import write
from medtransfer.runs.pretrain import contamination
from tests.support.quick import quick

PARAMS = params.load(Path(__file__).parents[3] / "params.yaml")
IMAGES = 60
PARTS = ("train", "val", "test", "test")
"""split of every copy in turn"""


def jpeg(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    return Image.open(stream)


def scaled(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BILINEAR)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "renamed": lambda image: image,
    "smaller and brighter": lambda image: scaled(image, 0.7).point(lambda v: v + 15),
    "larger and darker": lambda image: scaled(image, 1.4).point(lambda v: v * 0.9),
    "smaller, brighter, as JPEG": lambda image: jpeg(scaled(image, 0.7).point(lambda v: v + 15)),
}


def prepared(root: Path, name: str, side: int) -> Prepared:
    tasks = dict(PARAMS.tasks) | {name: replace(PARAMS.tasks["drive"], cache_size=side, image_size=32, changes={})}
    here = replace(PARAMS, tasks=tasks, data=replace(PARAMS.data, on_leak="report"))
    return prepare.prepare(catalog.lookup(name, root), here, root)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    for dataset, seed in (("chestxray14", 0), ("shenzhen", 1), ("montgomery", 2), ("siim", 3)):
        write.write(
            dataset, folder / "data/phantoms" / dataset, images=IMAGES, size=96, seed=seed, contrast=1.0
        )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def source(root: Path) -> Prepared:
    return prepared(root, "chestxray14", 92)


def released_again(root: Path, name: str, change: Callable[[Image.Image], Image.Image]) -> Prepared:
    """Makes a task of every third image of the source, each a patient of its own with another name."""
    folder = root / "data/raw" / name
    folder.mkdir(parents=True)
    rows = []
    for number, path in enumerate(originals(root)):
        change(Image.open(path)).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "who": f"q{number}", "part": PARTS[number % 4], "ill": number // 4 % 2})
    with open(folder / "images.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    said = {"kind": "binary", "labels": ["ill"], "table": "images.csv", "patient": "who", "split": "part"}
    (folder / "task.yaml").write_text(yaml.safe_dump(said | {"image_size": 32, "cache_size": 70, "channels": 1}))
    return prepared(root, name, 70)


def originals(root: Path) -> list[Path]:
    return sorted((root / "data/phantoms/chestxray14/images").glob("*.png"))[::3]


@pytest.mark.parametrize("change", quick(CHANGES, "renamed"))
@pytest.mark.slow
def test_patients_whose_images_have_other_names_are_found_and_no_others(
    root: Path, source: Prepared, change: str
) -> None:
    target = released_again(root, f"mine-{list(CHANGES).index(change)}", CHANGES[change])
    matches = contamination.shared(source, target)
    owners = source.samples.set_index("id")["patient"]
    held = [owners[path.name.removesuffix(".png")] for number, path in enumerate(originals(root)) if number % 4]
    assert set(matches.patients) == set(held)
    assert (matches.by_content, matches.by_identity) == (len(set(held)), 0)
    assert matches.rows.tolist() == source.samples["patient"].isin(held).tolist()
    assert 0 < matches.rows.sum() < len(source.samples)
    assert len(matches.examples) == len(held)
    assert "hashes of patients are salted" in matches.note


@pytest.mark.parametrize("target", quick(["shenzhen", "montgomery", "siim"], "montgomery"))
def test_phantoms_that_share_no_image_match_nobody(root: Path, source: Prepared, target: str) -> None:
    """Counts false matches: none here.

    They are rare, not impossible: 1 patient in 327,900 pairs of chest phantoms of 96 pixels, 11 in 1,299,600 of 192
    pixels, none in 70,914 pairs of real X-rays.
    """
    matches = contamination.shared(source, prepared(root, target, 86))
    assert (len(matches.patients), matches.rows.sum(), len(matches.examples)) == (0, 0, 0)


# By hand: thumbnails, patients and splits of a cache


def noise(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(
        0, 256, (count, duplicates.THUMBNAIL, duplicates.THUMBNAIL), dtype=np.uint8
    )


def made(
    folder: Path,
    thumbnails: NDArray[np.uint8],
    patients: str,
    splits: Sequence[str],
    folds: Sequence[Sequence[str]] = (),
    **manifest: Any,
) -> Prepared:
    """Makes what of a cache is compared; `patients` has a letter for each image."""
    folder.mkdir(parents=True)
    np.save(folder / "thumbnails.npy", thumbnails)
    ids = [f"{folder.name}-{number}" for number in range(len(thumbnails))]
    table = {"id": ids, "patient": list(patients), "split": list(splits)}
    table |= {f"split.{number}": list(fold) for number, fold in enumerate(folds)}
    said = {"task": folder.name, "dataset": folder.name, "source": "raw", "unit": "patient", "skipped": []}
    said |= {"folds": len(folds)} | manifest
    return Prepared(folder, cast(Manifest, said), thumbnails, None, lambda: pd.DataFrame(table))


def test_only_val_and_test_of_the_target_count(tmp_path: Path) -> None:
    images = noise(12)
    one = made(tmp_path / "one", images[:6], "aabbcd", ["train"] * 6)
    two = made(tmp_path / "two", images[[0, 2, 4, 6, 7, 8]], "uvwxyz", ["train", "val", "test", "train", "val", ""])
    matches = contamination.shared(one, two)
    assert matches.patients.tolist() == ["b", "c"]
    assert matches.rows.tolist() == [False, False, True, True, True, False]
    assert [(pair["a"], pair["b"]) for pair in matches.examples] == [("one-2", "two-1"), ("one-4", "two-2")]


def test_val_and_test_of_every_fold_count(tmp_path: Path) -> None:
    images = noise(8)
    one = made(tmp_path / "one", images[:4], "abcd", ["train"] * 4)
    folds = [["test", "val", "train", "train"], ["train", "train", "test", "train"]]
    two = made(tmp_path / "two", images[:4], "wxyz", ["train"] * 4, folds)
    assert contamination.shared(one, two).patients.tolist() == ["a", "b", "c"]


def test_patients_of_one_dataset_are_known_by_their_hash(tmp_path: Path) -> None:
    one = made(tmp_path / "one", noise(4), "aabc", ["train"] * 4, dataset="same")
    two = made(tmp_path / "two", noise(3, seed=1), "abc", ["test", "train", "val"], dataset="same")
    matches = contamination.shared(one, two)
    assert (matches.patients.tolist(), matches.by_content, matches.by_identity) == (["a", "c"], 0, 2)
    assert (matches.examples[0]["a"], matches.examples[0]["b"]) == ("one-0", "two-0")
    assert matches.note == ""


@pytest.mark.parametrize("manifest", [{"dataset": "other"}, {"dataset": "same", "source": "phantoms"}])
def test_equal_hashes_of_other_files_are_not_the_same_patient(tmp_path: Path, manifest: dict[str, str]) -> None:
    one = made(tmp_path / "one", noise(4), "aabc", ["train"] * 4, dataset="same")
    two = made(tmp_path / "two", noise(3, seed=1), "abc", ["test"] * 3, **manifest)
    matches = contamination.shared(one, two)
    assert len(matches.patients) == 0
    assert matches.note.startswith("by image alone")


def test_a_source_without_patients_says_so(tmp_path: Path) -> None:
    one = made(tmp_path / "one", noise(3), "abc", ["train"] * 3, unit="image")
    assert (
        "patients are not known" in contamination.shared(one, made(tmp_path / "two", noise(3), "x" * 3, PARTS[:3])).note
    )


def test_what_could_not_be_decoded_matches_no_black_image(tmp_path: Path) -> None:
    images = noise(6)
    images[[0, 1]] = 0
    skipped = [{"id": "one-0", "reason": "damaged"}]
    one = made(tmp_path / "one", images[[0, 2, 3]], "abc", ["", "train", "train"], skipped=skipped)
    two = made(tmp_path / "two", images[[1, 4, 5]], "xyz", ["test"] * 3)
    assert len(contamination.shared(one, two).patients) == 0


def test_a_row_that_was_left_out_still_shows_whose_it_is(tmp_path: Path) -> None:
    images = noise(6)
    one = made(tmp_path / "one", images[:3], "aab", ["", "train", "train"])
    two = made(tmp_path / "two", images[[0, 4, 5]], "xyz", ["test"] * 3)
    assert contamination.shared(one, two).rows.tolist() == [True, True, False]


# What pre-training leaves out


def test_what_is_left_out_is_for_all_targets(tmp_path: Path) -> None:
    images = noise(20)
    one = made(tmp_path / "one", images[:8], "aabcdefg", ["train"] * 7 + ["test"])
    two = made(tmp_path / "two", images[[0, 10, 11]], "xyz", ["test"] * 3)
    three = made(tmp_path / "three", images[[3, 7, 12]], "xyz", ["val"] * 3)
    expected = [True, True, False, True, False, False, False, True]
    assert contamination.drop(one, [two, three]).tolist() == expected
    assert not contamination.drop(one, []).any()


def test_the_target_s_own_test_list_is_no_source(tmp_path: Path) -> None:
    images = noise(10)
    one = made(tmp_path / "one", images[:4], "abcd", ["train", "train", "train", "val"])
    two = made(tmp_path / "two", images, "abcdefghij", ["test"] * 8 + ["val", "train"])
    words = (
        r"one is no source for two: looked for its images in val and test of two, found 4 patients with 3 of 3 train"
        r" images \(e\.g\. one-0 and two-0, .*leaves 0 .*pre-train on another dataset, or take two out of benchmark"
    )
    with pytest.raises(UserError, match=words):
        contamination.drop(one, [two])


def test_a_source_of_which_more_than_half_goes_is_refused(tmp_path: Path) -> None:
    images = noise(20)
    one = made(tmp_path / "one", images[:4], "abcd", ["train"] * 4)
    half = made(tmp_path / "half", images[[0, 1, 10]], "xyz", ["test"] * 3)
    more = made(tmp_path / "more", images[[0, 1, 2]], "xyz", ["test"] * 3)
    rest = made(tmp_path / "rest", images[[2, 3, 11]], "xyz", ["test"] * 3)
    assert contamination.drop(one, [half]).sum() == 2
    with pytest.raises(UserError, match=r"3 of 4 train images .* which leaves 1"):
        contamination.drop(one, [more])
    with pytest.raises(UserError, match=r"one is no source for rest: .* 2 of 4 train images .* which leaves 0"):
        contamination.drop(one, [half, rest])
