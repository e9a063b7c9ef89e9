"""Masks against what is said of them: nine images of noise with a white corner, which is the region."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from medtransfer import params
from medtransfer.core.errors import UserError
from medtransfer.data import catalog, contact_sheets
from medtransfer.data import prepare as preparation
from medtransfer.data.cache import Prepared

nifti: Any = nibabel  # only half of it has types
Array = NDArray[Any]
Save = Callable[[Array, Path], None]

SIDE = 48
REGION = np.zeros((SIDE, SIDE), dtype=bool)
REGION[:20, :12] = True
SIZE = int(REGION.sum())


@pytest.fixture(autouse=True)
def _no_sheets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws nothing for people: it takes most of the time."""
    monkeypatch.setattr(contact_sheets, "samples", lambda *_: None)
    monkeypatch.setattr(contact_sheets, "pairs", lambda *_: None)


def gray(inside: int, outside: int = 0, **options: Any) -> Save:
    return lambda region, path: Image.fromarray(np.where(region, inside, outside).astype(np.uint8)).save(
        path, **options
    )


def colour(inside: tuple[int, ...], outside: tuple[int, ...]) -> Save:
    def save(region: Array, path: Path) -> None:
        Image.fromarray(np.where(region[..., None], inside, outside).astype(np.uint8)).save(path)

    return save


def palette(colours: list[int], **options: Any) -> Save:
    def save(region: Array, path: Path) -> None:
        image = Image.fromarray(region.astype(np.uint8), "P")
        image.putpalette(colours)
        image.save(path, **options)

    return save


def soft(region: Array, path: Path) -> None:
    """A region of antialiased edges."""
    big = Image.fromarray((region * 255).astype(np.uint8)).resize((SIDE * 8, SIDE * 8), Image.Resampling.NEAREST)
    big.filter(ImageFilter.GaussianBlur(9)).resize((SIDE, SIDE), Image.Resampling.BOX).save(path)


def halves(region: Array, path: Path) -> None:
    """A region of two values."""
    pixels = np.where(region, 3, 0)
    pixels[:10, :12] = 9
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def levels(*values: int) -> Save:
    """A region of the first value, and rectangles of the others beside it."""

    def save(region: Array, path: Path) -> None:
        pixels = np.where(region, values[0], 0)
        for number, value in enumerate(values[1:]):
            pixels[24 + 8 * number : 30 + 8 * number, 20:40] = value
        Image.fromarray(pixels.astype(np.uint8)).save(path)

    return save


def volume(plane: Array, path: Path, *, affine: Array | None = None, kind: Any = None, where: int = 1) -> None:
    stack = np.zeros((*plane.shape, 3), dtype=plane.dtype)
    stack[..., where] = plane
    image = nifti.Nifti1Image(stack, np.diag([1.0, 1, 3, 1]) if affine is None else affine)
    if kind is not None:
        image.header.set_data_dtype(kind)
    nifti.save(image, path)


def lying(region: Array) -> Array:
    """Turns a picture as it lies in a volume whose axes point to the right and to the front."""
    return np.rot90(region, -1)


def scene(number: int) -> Array:
    image = np.random.default_rng(number).integers(0, 200, (SIDE, SIDE)).astype(np.uint8)
    image[REGION] = 255
    return image


def write(root: Path, save: Save, *, suffix: str = ".png", image: Save | None = None, image_suffix: str = ".png",
          frame: int | None = None, **settings: Any) -> Path:  # fmt: skip
    """Writes a task; returns its folder."""
    folder = root / "data/raw/case"
    folder.mkdir(parents=True)
    tree = {"kind": "segmentation", "labels": ["lesion"], "table": "images.csv", "image": "file", "mask": "mask",
            "patient": "patient", "split": "split", "image_size": SIDE, "channels": 1}  # fmt: skip
    if frame is not None:
        tree["frame"] = "frame"
    (folder / "task.yaml").write_text(yaml.safe_dump(tree | settings))
    rows = [["file", "mask", "patient", "split", "frame"]]
    for number in range(9):
        names = f"i{number}{image_suffix}", f"m{number}{suffix}"
        (image or gray_image)(scene(number), folder / names[0])
        save(REGION, folder / names[1])
        rows.append([*names, f"p{number}", ("train", "val", "test")[number % 3], str(frame)])
    with open(folder / "images.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return folder


def gray_image(image: Array, path: Path) -> None:
    Image.fromarray(image).save(path)


def prepare(root: Path, top: Path) -> Prepared:
    loaded = params.load(top / "params.yaml", {}, catalog.sizes(root))
    return preparation.prepare(catalog.lookup("case", root), loaded, root, workers=1)


def require_region(prepared: Prepared) -> None:
    """Asserts that every mask is the white of its image, and has the region's size."""
    assert prepared.masks is not None
    for image, mask in zip(prepared.images, prepared.masks, strict=True):
        assert int((mask > 0).sum()) == SIZE
        assert (image[mask > 0] >= 250).all()


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
