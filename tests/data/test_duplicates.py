from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from medtransfer.data import duplicates
from tests import copies
from tests.copies import CHANGES, jpeg, thumbnails

reencoded = jpeg(40)


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


@pytest.mark.parametrize("change", CHANGES)
def test_finds_a_changed_copy_and_nothing_else(change: str) -> None:
    images = pictures(40)
    images[33] = CHANGES[change](images[4])
    splits = np.array(["train"] * 20 + ["val"] * 10 + ["test"] * 10)
    ids = np.array([f"i{n}" for n in range(40)])
    finding, drop = duplicates.near(thumbnails(images), ids, splits, ids)
    assert finding["count"] == 1
    assert finding["examples"][0]["a"] == "i4"
    assert finding["examples"][0]["b"] == "i33"
    assert finding["examples"][0]["splits"] == "train/test"
    assert np.flatnonzero(drop).tolist() == [4]


def test_of_a_pair_in_val_and_test_val_gives_way_and_of_three_copies_all_but_test() -> None:
    images = pictures(30)
    images[22], images[23], images[12] = reencoded(images[14]), reencoded(images[3]), copies.cut(left=0.1)(images[3])
    splits = np.array(["train"] * 10 + ["val"] * 10 + ["test"] * 10)
    ids = np.array([f"i{n}" for n in range(30)])
    finding, drop = duplicates.near(thumbnails(images), ids, splits, ids)
    assert finding["count"] == 4
    assert np.flatnonzero(drop).tolist() == [3, 12, 14]


def test_copies_within_a_split_and_identical_images_are_not_near_duplicates() -> None:
    images = pictures(20)
    images[1], images[19] = reencoded(images[0]), images[2]
    splits = np.array(["train"] * 10 + ["val"] * 5 + ["test"] * 5)
    keys = np.array([f"i{n}" for n in range(19)] + ["i2"])
    finding, drop = duplicates.near(thumbnails(images), keys, splits, keys)
    assert (finding["count"], drop.sum()) == (0, 0)


def test_featureless_images_do_not_resemble_each_other() -> None:
    flat = np.full((6, duplicates.THUMBNAIL, duplicates.THUMBNAIL), 7, dtype=np.uint8)
    splits, ids = np.array(["train", "test"] * 3), np.array(list("abcdef"))
    assert duplicates.near(flat, ids, splits, ids)[0]["count"] == 0


def test_blocks_and_places_do_not_change_what_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    images = pictures(30)
    images[20:] = [reencoded(image) for image in images[:10]]
    small = thumbnails(images)
    np.save(tmp_path / "thumbnails.npy", small)
    splits = np.array(["train"] * 20 + ["test"] * 10)
    ids = np.array([f"i{n:02}" for n in range(30)])
    whole = duplicates.near(small, ids, splits, ids)[0]
    monkeypatch.setattr(duplicates, "_BLOCK", 7)
    blocks = duplicates.near(np.load(tmp_path / "thumbnails.npy", mmap_mode="r"), ids, splits, ids)[0]
    assert whole["count"] == blocks["count"] == 10
    assert {pair["a"] for pair in whole["examples"]} == {pair["a"] for pair in blocks["examples"]}


def test_the_limit_follows_what_different_images_of_the_set_reach() -> None:
    rng = np.random.default_rng(0)

    def limit(mean: float, std: float, copied: int) -> float:
        likeness = rng.normal(mean, std, (100, 5)).astype(np.float32)
        likeness[:copied, 2] = 0.98
        return duplicates.limit(np.repeat(np.arange(100), 5), likeness.ravel())

    for copied in (0, 30, 100):
        assert limit(0.3, 0.05, copied) == duplicates.NEAR
        assert limit(0.8, 0.1, copied) == duplicates.ALWAYS
        assert 0.74 < limit(0.6, 0.05, copied) < 0.88  # five std above the middle
    alone = np.full((40, 5), -1, dtype=np.float32)
    alone[:, 0] = 0.8  # nothing but the copies resembles anything
    assert duplicates.limit(np.repeat(np.arange(40), 5), alone.ravel()) == duplicates.NEAR


def test_several_arrays_are_one_set() -> None:
    small = thumbnails(pictures(12))
    looks = duplicates.Looks(small[:5], small[5:5], small[5:])
    rows = np.array([11, 0, 5, 4])
    assert (looks.pick(rows) == small[rows]).all()


def test_a_uniform_border_is_not_part_of_a_thumbnail() -> None:
    image = pictures(1)[0].crop((40, 40, 120, 120))
    framed = Image.new("L", (160, 100), 0)
    framed.paste(image, (50, 10))
    difference = duplicates.thumbnail(framed).astype(int) - duplicates.thumbnail(image)
    assert np.abs(difference).mean() < 8
    blank = Image.new("L", (160, 100), 80)
    assert (duplicates.thumbnail(blank) == 80).all()


def test_millions_of_images_are_compared_by_every_kth(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = np.array(["train"] * 40 + ["test"] * 20)
    assert duplicates.stride(splits) == 1
    monkeypatch.setattr(duplicates, "PAIRS", 100)
    assert duplicates.stride(splits) == 3  # 800 pairs, every third of each leaves 14 x 7
    small = np.random.default_rng(2).integers(0, 256, (60, 64, 64), dtype=np.uint8)
    small[43], small[44] = small[3], small[4]  # 43 is the fourth of test, 44 the fifth
    names = np.array([str(number) for number in range(60)])
    found, _ = duplicates.near(small, names, splits, names)
    assert [(pair["a"], pair["b"]) for pair in found["examples"]] == [("3", "43")]


@pytest.mark.slow
@pytest.mark.parametrize("name", copies.SETS)
def test_copies_of_real_images_are_found_and_different_ones_are_not(name: str, top: Path) -> None:
    if not (top.parent / "shared/data").is_dir():
        pytest.skip("the real images are not beside this checkout")
    images, owners = copies.pictures(name, top.parent / "shared/data")
    pairs, wrong, _ = copies.mistaken(images, owners)
    assert wrong <= pairs / 100_000
    for words in (
        "crop of 3 % at every edge",
        "mirrored",
        "turned by 90 degrees",
        "tilted by 3 degrees",
        "inverted",
        "black bars of 20 %",
    ):
        assert copies.found(images, CHANGES[words]) >= 0.95, words
