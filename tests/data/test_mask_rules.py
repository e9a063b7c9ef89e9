from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from medtransfer.core.errors import UserError
from medtransfer.data import catalog, contact_sheets
from tests.support.drawn_masks import (
    REGION,
    SIDE,
    SIZE,
    Save,
    colour,
    gray,
    halves,
    levels,
    palette,
    prepare,
    require_region,
    scene,
    soft,
    write,
)


@pytest.fixture(autouse=True)
def _no_sheets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws nothing for people: it takes most of the time."""
    monkeypatch.setattr(contact_sheets, "samples", lambda *_: None)
    monkeypatch.setattr(contact_sheets, "pairs", lambda *_: None)


HUES = [0, 0, 0, 0, 90, 200]
HUED = {"values": {"lesion": "#008007"}, "background": "#fa0000"}

READ: dict[str, tuple[Save, dict[str, Any]]] = {
    "255": (gray(255), {}),
    "1": (gray(1), {}),
    "7 of 255": (gray(7), {}),
    "opacity, all black": (colour((0, 0, 0, 255), (0, 0, 0, 0)), {}),
    "opacity, all white": (colour((255, 255, 255, 255), (255, 255, 255, 0)), {}),
    "opacity of gray": (colour((0, 200), (0, 0)), {}),
    "opacity and a value of it": (colour((0, 0, 0, 255), (0, 0, 0, 0)), {"values": {"lesion": 255}}),
    "red on what cannot be seen": (colour((255, 0, 0, 255), (255, 255, 255, 0)), {}),
    "palette with transparency": (palette([9, 9, 9, 9, 9, 9], transparency=bytes([0, 255])), {}),
    "opaque colours": (colour((255, 0, 0, 255), (0, 0, 0, 255)), {}),
    "one colour": (colour((99, 0, 0), (0, 0, 0)), {}),
    "a colour by its name": (colour((0, 128, 7), (250, 0, 0)), HUED),
    "white on a colour": (colour((255, 255, 255), (250, 0, 0)), {"background": "#fa0000"}),
    "palette index 1": (palette(HUES), {"values": {"lesion": 1}}),
    "palette colour": (palette(HUES), {"values": {"lesion": "#005ac8"}}),
    "palette without a value": (palette(HUES), {}),
    "palette nearly black": (palette([4, 2, 4, 252, 254, 252]), {}),
    "palette upside down": (palette([255, 255, 255, 3, 3, 3]), {"values": {"lesion": 1}}),
    "two bits": (palette([0, 0, 0, 255, 255, 255], bits=2), {"values": {"lesion": 1}}),
    "black on white": (gray(0, 255), {"background": 255}),
    "several values": (halves, {"values": {"lesion": [3, 9]}}),
    "two of three levels": (levels(2, 1), {"values": {"lesion": 2}, "background": [0, 1]}),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_masks_that_say_one_thing_are_read(tmp_path: Path, top: Path, name: str) -> None:
    save, settings = READ[name]
    write(tmp_path, save, **settings)
    require_region(prepare(tmp_path, top))


@pytest.mark.parametrize(("inside", "quality"), [(1, 95), (255, 95), (255, 30)])
def test_lossy_masks_are_read_at_half_of_their_maximum(tmp_path: Path, top: Path, inside: int, quality: int) -> None:
    write(tmp_path, gray(inside, quality=quality), suffix=".jpg")
    prepared = prepare(tmp_path, top)
    assert prepared.masks is not None
    wrong = (np.asarray(prepared.masks) > 0) != REGION
    assert wrong.sum(axis=(1, 2)).max() <= 0.02 * SIZE


def test_soft_edges_are_cut_at_half_of_the_maximum(tmp_path: Path, top: Path) -> None:
    write(tmp_path, soft)
    prepared = prepare(tmp_path, top)
    assert prepared.masks is not None
    pixels = np.asarray(Image.open(tmp_path / "data/raw/case/m0.png"))
    assert ((pixels > 0) & (pixels < 255)).sum() > 50
    assert np.array_equal(prepared.masks[0] > 0, pixels > 127)


REFUSED: dict[str, tuple[Save, dict[str, Any], str]] = {
    "a colour for the background": (
        colour((0, 128, 7), (250, 0, 0)),
        {"values": {"lesion": "#008007"}},
        r"`background: \['#fa0000'\]`",
    ),
    "value 1 of 255": (
        gray(255),
        {"values": {"lesion": 1}},
        r"lesion is said to be 1, which no mask holds; no label names 255 \(2160 pixels in 9 masks\).*"
        r"`values: \{lesion: 255\}`, or no `values`, fits",
    ),
    "255 of red": (colour((255, 0, 0), (0, 0, 0)), {"values": {"lesion": 255}}, r"`values: \{lesion: '#ff0000'\}`"),
    "opacity 1 of 255": (
        colour((0, 0, 0, 255), (0, 0, 0, 0)),
        {"values": {"lesion": 1}},
        r"By opacity the 9 masks hold 0 .*, 255 ",
    ),
    "no palette index": (palette(HUES), {"values": {"lesion": 200}}, r"hold 0 .*, 1 \(2160"),
    "black on white": (gray(0, 255), {}, r"covers at least half of every image, 90% to 90%.*`background: 255`"),
    "black on white, without colours": (gray(0, 1), {}, "covers at least half"),
    "empty": (gray(0), {}, r"hold nothing but 0 .*the label is empty in all 9.*`allow_empty: \[lesion\]`"),
    "full": (gray(1, 1), {}, r"lesion fills all 3 images of test to the last pixel.*`allow_full: \[lesion\]`"),
    "three levels": (levels(2, 1), {}, r"more than one way: they hold 0 .*, 2 .*, 1 .*`values: \{lesion: \[1, 2\]\}`"),
    "uncertain level": (levels(255, 128), {}, "more than one way"),
    "a level of hardly any": (levels(255, 1), {}, "more than one way"),
    "a level without a label": (
        levels(1, 2),
        {"values": {"lesion": 1}},
        r"no label names 2 \(1080 pixels in 9 masks\).*`background: \[0, 2\]`",
    ),
    "an image for a mask": (lambda _, path: Image.fromarray(scene(3)).save(path), {}, "more than one way"),
    "two colours": (
        lambda r, p: Image.fromarray(
            np.where(r[..., None], (255, 0, 0), np.where(r[::-1, :, None], (0, 255, 0), 0)).astype(np.uint8)
        ).save(p),
        {},
        "#00ff00.*more than one way|more than one way.*#00ff00",
    ),
    "red on white": (colour((255, 0, 0), (255, 255, 255)), {}, r"more than one way.*#ff0000"),
    "soft edges with a value": (soft, {"values": {"lesion": 255}}, "resampled by nearest neighbour"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_masks_that_contradict_what_is_said_are_refused(tmp_path: Path, top: Path, name: str) -> None:
    save, settings, words = REFUSED[name]
    write(tmp_path, save, **settings)
    with pytest.raises(UserError, match=words):
        prepare(tmp_path, top)


@pytest.mark.parametrize(
    ("save", "settings", "size"),
    [
        (gray(0), {"allow_empty": ["lesion"]}, 0),
        (gray(1, 1), {"allow_full": ["lesion"]}, SIDE * SIDE),
        (gray(0, 255), {"allow_full": ["lesion"]}, SIDE * SIDE - SIZE),
        (levels(255, 128), {"threshold": 0.4}, SIZE + 120),
        (levels(255, 128), {"threshold": 0.6}, SIZE),
    ],
)
def test_what_is_allowed_by_name_is_taken(
    tmp_path: Path, top: Path, save: Save, settings: dict[str, Any], size: int
) -> None:
    write(tmp_path, save, **settings)
    prepared = prepare(tmp_path, top)
    assert prepared.masks is not None
    assert (np.asarray(prepared.masks) > 0).sum(axis=(1, 2)).tolist() == [size] * 9


def test_a_label_that_is_empty_in_one_split_is_refused(tmp_path: Path, top: Path) -> None:
    folder = write(tmp_path, gray(255))
    for number in range(9):
        if number % 3 == 1:
            gray(0)(REGION, folder / f"m{number}.png")
    with pytest.raises(UserError, match=r"lesion is empty in all 3 images of val"):
        prepare(tmp_path, top)


def test_masks_of_two_codes_in_one_task_are_refused(tmp_path: Path, top: Path) -> None:
    folder = write(tmp_path, gray(255))
    gray(1)(REGION, folder / "m4.png")
    with pytest.raises(UserError, match=r"1 \(240 pixels in 1 masks\)"):
        prepare(tmp_path, top)


def test_a_mask_without_any_of_it_is_no_soft_one(tmp_path: Path, top: Path) -> None:
    folder = write(tmp_path, gray(255, quality=30), suffix=".jpg")
    shadows = np.random.default_rng(0).integers(0, 12, (SIDE, SIDE)).astype(np.uint8)
    Image.fromarray(shadows).save(folder / "m4.jpg", quality=90)
    prepared = prepare(tmp_path, top)
    assert prepared.masks is not None
    assert not prepared.masks[4].any()
    assert prepared.manifest["mask_readings"] == {"lesion": "more than 0.5 of the largest difference, 255, from 0"}


def test_several_labels_of_one_file_and_of_one_array(tmp_path: Path, top: Path) -> None:
    folder = write(tmp_path, levels(2, 5), labels=["lesion", "node"], values={"lesion": 2, "node": 5})
    found = prepare(tmp_path, top).masks
    assert found is not None
    assert [int((found[0] >> bit & 1).sum()) for bit in (0, 1)] == [SIZE, 120]
    tree = yaml.safe_load((folder / "task.yaml").read_text()) | {"values": {"lesion": 2, "node": 4}}
    (folder / "task.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError, match=r"masks of lesion and node .*node is said to be 4.*no label names 5"):
        prepare(tmp_path, top)
    arrays: dict[str, Any] = {}
    for start, split in ((0, "train"), (3, "val"), (6, "test")):
        arrays[f"{split}_images"] = np.stack([scene(number) for number in range(start, start + 3)])
        arrays[f"{split}_masks"] = np.stack([REGION.astype(np.uint8)] * 3)
    np.savez(folder / "rows.npz", **arrays)
    tree = {"kind": "segmentation", "labels": ["lesion", "node"], "arrays": "rows.npz", "patient": "none",
            "split": "official", "image_size": SIDE, "channels": 1}  # fmt: skip
    (folder / "task.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError, match=r"node is said to be 2, which no mask holds.*`allow_empty: \[node\]`"):
        prepare(tmp_path, top)
    (folder / "task.yaml").write_text(yaml.safe_dump(tree | {"allow_empty": ["node"]}))
    found = prepare(tmp_path, top).masks
    assert found is not None
    assert np.array_equal(found[5] == 1, REGION)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"values": {"lesion": "red"}}, "a value of a mask is a whole number or a colour in quotes"),
        ({"values": {"lesion": True}}, "a whole number or a colour"),
        ({"threshold": 1.5}, "0 < threshold < 1"),
        ({"threshold": 0.5, "values": {"lesion": 1}}, "`threshold` is for masks without `values`"),
        ({"allow_empty": ["lesions"]}, "name labels of"),
        ({"background": [0, 1]}, "without `values` a mask has one background"),
        ({"values": {"lesion": [1, "#ff0000"]}}, "all numbers or all colours"),
    ],
)
def test_what_cannot_be_said_of_masks(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    write(tmp_path, gray(1), **settings)
    with pytest.raises(UserError, match=words):
        catalog.lookup("case", tmp_path)
