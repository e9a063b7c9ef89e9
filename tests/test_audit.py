from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from medtransfer import audit


def pictures(count: int, side: int = 160, seed: int = 0) -> list[Image.Image]:
    """Smooth images with a common bright disc, as fundus images have."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side - 0.5
    disc = Image.fromarray(((x**2 + y**2 < 0.2) * 255).astype(np.uint8))
    made = []
    for _ in range(count):
        noise = Image.fromarray(rng.integers(0, 256, (side // 8, side // 8), dtype=np.uint8))
        picture = noise.resize((side, side)).filter(ImageFilter.GaussianBlur(2)).point(lambda v: 50 + v * 0.6)
        made.append(Image.composite(picture, Image.new("L", (side, side)), disc))
    return made


def thumbnails(images: list[Image.Image]) -> NDArray[np.uint8]:
    side = audit.THUMBNAIL
    return np.stack([np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)) for image in images])


def reencoded(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=40)
    return Image.open(stream)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "reencoded": reencoded,
    "brighter": lambda image: image.point(lambda v: v + 25),
    "contrast": lambda image: image.point(lambda v: v * 0.7),
    "gamma": lambda image: image.point(lambda v: 255 * (v / 255) ** 0.75),
    "resized": lambda image: image.resize((149, 152), Image.Resampling.BILINEAR),
}


@pytest.mark.parametrize("change", CHANGES)
def test_finds_a_changed_copy_and_nothing_else(change: str) -> None:
    images = pictures(40)
    images[33] = CHANGES[change](images[4])
    splits = np.array(["train"] * 20 + ["val"] * 10 + ["test"] * 10)
    ids = np.array([f"i{n}" for n in range(40)])
    finding = audit.near(thumbnails(images), ids, splits, ids, block=7)
    assert finding["count"] == 1
    assert finding["examples"][0]["a"] == "i4"
    assert finding["examples"][0]["b"] == "i33"
    assert finding["examples"][0]["splits"] == "train/test"


def test_copies_within_a_split_and_identical_images_are_not_near_duplicates() -> None:
    images = pictures(20)
    images[1], images[19] = reencoded(images[0]), images[2]
    splits = np.array(["train"] * 10 + ["val"] * 5 + ["test"] * 5)
    keys = np.array([f"i{n}" for n in range(19)] + ["i2"])
    assert audit.near(thumbnails(images), keys, splits, keys)["count"] == 0


def test_featureless_images_do_not_resemble_each_other() -> None:
    flat = np.full((6, audit.THUMBNAIL, audit.THUMBNAIL), 7, dtype=np.uint8)
    splits, ids = np.array(["train", "test"] * 3), np.array(list("abcdef"))
    assert audit.near(flat, ids, splits, ids)["count"] == 0


def test_blocks_do_not_change_what_is_found() -> None:
    images = pictures(30)
    images[20:] = [reencoded(image) for image in images[:10]]
    splits = np.array(["train"] * 20 + ["test"] * 10)
    ids = np.array([f"i{n:02}" for n in range(30)])
    small, large = (audit.near(thumbnails(images), ids, splits, ids, block=block) for block in (3, 100))
    assert small["count"] == large["count"] == 10
    assert {pair["a"] for pair in small["examples"]} == {pair["a"] for pair in large["examples"]}


def test_clashing_and_giving_way_by_hand() -> None:
    keys = np.array(["a", "a", "b", "b", "c", "c", "d", "d", "e"])
    splits = np.array(["train", "test", "train", "val", "val", "test", "test", "test", "train"])
    assert audit.clashing(keys, splits).tolist() == [True] * 6 + [False] * 3
    assert audit.giving_way(keys, splits).tolist() == [True, False, True, False, True, False, False, False, False]


def test_shared_counts_keys_and_names_a_pair_of_each() -> None:
    keys = np.array(["a", "a", "a", "b", "b"])
    splits = np.array(["train", "train", "test", "val", "val"])
    finding = audit.shared(keys, splits, np.array(list("vwxyz")))
    assert finding == {"count": 1, "examples": [{"a": "v", "b": "x", "splits": "train/test"}]}


def test_examples_are_limited() -> None:
    keys = np.array([f"p{n}" for n in range(50)] * 2)
    splits = np.array(["train"] * 50 + ["test"] * 50)
    finding = audit.shared(keys, splits, keys)
    assert finding["count"] == 50
    assert len(finding["examples"]) == audit.EXAMPLES


def test_a_scratch_file_changes_no_number(tmp_path: Path) -> None:
    small = np.random.default_rng(1).integers(0, 256, (50, 32, 32), dtype=np.uint8)
    in_memory = audit.features(small, block=7)
    on_disk = audit.features(small, block=50, scratch=tmp_path / "scratch")
    np.testing.assert_allclose(on_disk, in_memory, atol=1e-6)
    assert (tmp_path / "scratch").stat().st_size == 50 * 1024 * 4


def test_millions_of_images_are_compared_by_every_kth(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = np.array(["train"] * 40 + ["test"] * 20)
    assert audit.stride(splits) == 1
    monkeypatch.setattr(audit, "PAIRS", 100)
    assert audit.stride(splits) == 3  # 800 pairs, every third of each leaves 14 x 7
    small = np.random.default_rng(2).integers(0, 256, (60, 32, 32), dtype=np.uint8)
    small[43], small[44] = small[3], small[4]  # 43 is the fourth of test, 44 the fifth
    names = np.array([str(number) for number in range(60)])
    found = audit.near(small, names, splits, names)
    assert [(pair["a"], pair["b"]) for pair in found["examples"]] == [("3", "43")]


def test_a_row_without_a_split_is_in_no_finding() -> None:
    splits = np.array(["train", "", "test", "val"])
    keys = np.array(["a", "a", "b", "b"])
    ids = np.array(["0", "1", "2", "3"])
    assert audit.shared(keys, splits, ids)["count"] == 1
    assert audit.clashing(keys, splits).tolist() == [False, False, True, True]
    assert audit.giving_way(keys, splits).tolist() == [False, False, False, True]
