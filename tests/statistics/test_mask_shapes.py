"""Outlines, centre lines and lesions: by hand, against second implementations, and what must not change them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray
from scipy.spatial import distance

from medtransfer.statistics import mask_shapes
from medtransfer.statistics.mask_shapes import GROUPS, measure

Array = NDArray[Any]
ALL = tuple(GROUPS)
itk: Any = SimpleITK  # which has no types
NAMES = [name for group in GROUPS.values() for name in group]


def mask(*boxes: tuple[int, int, int, int], shape: tuple[int, int] = (30, 40)) -> Array:
    """Draws boxes: first row, rows, first column, columns."""
    found = np.zeros(shape, dtype=bool)
    for row, height, column, width in boxes:
        found[row : row + height, column : column + width] = True
    return found


def disc(radius: float, shape: tuple[int, int] = (64, 64), centre: tuple[int, int] = (31, 31)) -> Array:
    rows, columns = np.indices(shape)
    return np.asarray((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2)


def blobs(seed: int, shape: tuple[int, int] = (48, 56)) -> Array:
    """Draws a mask of several parts of any form, some of them at the border."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(shape)
    found = np.zeros(shape, dtype=bool)
    for _ in range(6):
        row, column, height, width = rng.uniform((0, 0, 1, 1), (*shape, 10, 10))
        found |= ((rows - row) / height) ** 2 + ((columns - column) / width) ** 2 <= 1
    return found & (rng.random(shape) < 0.97)


def numbers(
    predicted: Array, target: Array, spacing: tuple[float, float] = (1, 1), tolerance: float = 1
) -> dict[str, float]:
    return dict(zip(NAMES, measure(predicted, target, ALL, spacing, tolerance).tolist(), strict=True))


# By hand


def test_a_shifted_square() -> None:
    """Two columns to the right: of the moved outline's 16 pixels the last column and the middle of the first are off.

    The last column is 2 from the other's last one (5 pixels); beside it two ends are 1 away. Of the first column three
    pixels lie inside the other square: 1, 2 and 1 from it. The other outline is the same, turned.
    """
    target = mask((5, 5, 5, 5))
    found = numbers(mask((5, 5, 7, 5)), target)
    assert found["hd95"] == 2
    assert found["surface_distance"] == pytest.approx((5 * 2 + 2 * 1 + 1 + 2 + 1) / 16)
    assert found["surface_dice"] == pytest.approx((16 - 6) / 16)
    assert numbers(mask((5, 5, 7, 5)), target, tolerance=2)["surface_dice"] == 1
    assert (found["lesions_found"], found["lesions_predicted"], found["lesions"]) == (1, 1, 1)


def test_pixels_that_are_no_squares() -> None:
    """Lines of one pixel, two rows or two columns apart: what is between them are heights, or widths."""
    spacing = (0.5, 3.0)
    lying = numbers(mask((4, 1, 0, 40)), mask((6, 1, 0, 40)), spacing)
    assert (lying["hd95"], lying["surface_distance"], lying["surface_dice"]) == (1.0, 1.0, 1.0)
    standing = numbers(mask((0, 30, 4, 1)), mask((0, 30, 6, 1)), spacing)
    assert (standing["hd95"], standing["surface_distance"], standing["surface_dice"]) == (6.0, 6.0, 0.0)


def test_a_distance_of_the_tolerance_is_within_it() -> None:
    """Three pixels of 0.1 mm are 0.30000000000000004 mm."""
    assert numbers(mask((4, 1, 0, 9)), mask((7, 1, 0, 9)), (0.1, 0.1), 0.3)["surface_dice"] == 1


def test_nested_discs() -> None:
    found = numbers(disc(12), disc(20), tolerance=9)
    assert found["hd95"] == pytest.approx(8, abs=0.7)
    assert found["surface_distance"] == pytest.approx(8, abs=0.5)
    assert found["surface_dice"] == 1
    assert numbers(disc(12), disc(20), tolerance=7)["surface_dice"] == 0
    assert found["lesions_found"] == 1  # 144 / 400 of the area


def test_single_pixels() -> None:
    one, other = mask((3, 1, 4, 1)), mask((6, 1, 8, 1))
    assert numbers(one, one) == {
        "surface_dice": 1, "hd95": 0, "surface_distance": 0, "cldice": 1,
        "lesions_found": 1, "lesions_predicted": 1, "lesions": 1,
    }  # fmt: skip
    apart = numbers(one, other)
    assert (apart["hd95"], apart["surface_distance"], apart["surface_dice"], apart["cldice"]) == (5, 5, 0, 0)
    assert (apart["lesions_found"], apart["lesions_predicted"], apart["lesions"]) == (0, 1, 1)


def test_the_ends_of_both_directions_are_told_apart() -> None:
    """What is predicted far away is in one direction alone, and the larger one counts."""
    target = mask((5, 1, 5, 20))
    found = numbers(target | mask((25, 1, 5, 20)), target)
    assert found["hd95"] == 20
    assert found["surface_distance"] == pytest.approx(20 * 20 / 60)
    assert found["surface_dice"] == pytest.approx(40 / 60)


@pytest.mark.parametrize(
    ("predicted", "target", "share", "counts"),
    [
        ((), (), 1.0, (0, 0, 0)),
        ((), ((3, 4, 3, 4),), 0.0, (0, 0, 1)),
        (((3, 4, 3, 4), (20, 4, 3, 4)), (), 0.0, (0, 2, 0)),
    ],
    ids=["both empty", "nothing predicted", "nothing there"],
)
def test_empty_masks(predicted: Any, target: Any, share: float, counts: tuple[int, ...]) -> None:
    found = numbers(mask(*predicted), mask(*target))
    assert found["surface_dice"] == found["cldice"] == share
    assert np.isnan([found["hd95"], found["surface_distance"]]).all()
    assert (found["lesions_found"], found["lesions_predicted"], found["lesions"]) == counts


def test_a_mask_that_fills_the_image_has_its_border_for_an_outline() -> None:
    full = np.ones((10, 10), dtype=bool)
    found = numbers(full, mask((1, 8, 1, 8), shape=(10, 10)))
    assert found["hd95"] == pytest.approx(2**0.5)
    assert found["surface_dice"] == pytest.approx(60 / 64)  # all but the corners


def test_centre_line_dice_of_a_line_that_is_found_in_half_and_wider() -> None:
    """The prediction is three wide and ends in the middle; the 19th pixel of its skeleton lies beside the line."""
    line, half = mask((10, 1, 0, 40)), mask((9, 3, 0, 20))
    found = numbers(half, line)["cldice"]
    assert found == pytest.approx(2 * (18 / 19) * 0.5 / (18 / 19 + 0.5))


def test_lesions_are_paired_one_to_one() -> None:
    """One guess over two lesions finds one, a guess too large finds none, and corners join."""
    two = mask((5, 4, 5, 4), (5, 4, 11, 4))
    assert mask_shapes.lesions(mask((5, 4, 5, 10)), two) == (1, 1, 2)
    assert mask_shapes.lesions(mask((0, 30, 0, 40)), two) == (0, 1, 2)
    assert mask_shapes.lesions(two, mask((5, 4, 5, 4))) == (1, 2, 1)
    assert mask_shapes.lesions(mask((5, 1, 5, 1), (6, 1, 6, 1)), two)[1] == 1


def test_as_many_pairs_are_made_as_can_be() -> None:
    """The first guess lies on both lesions, the second on the first alone: greedily one pair would be lost."""
    target = mask((5, 10, 5, 4), (5, 10, 10, 4))
    guess = mask((5, 4, 5, 9), (10, 5, 5, 4))
    assert mask_shapes.lesions(guess, target) == (2, 2, 2)


def test_names_carry_the_unit_of_a_length() -> None:
    assert mask_shapes.names(("lesions", "surface"), "mm") == (
        "surface_dice", "hd95_mm", "surface_distance_mm", "lesions_found", "lesions_predicted", "lesions",
    )  # fmt: skip
    assert mask_shapes.names((), "px") == ()


# Second implementations


def outline(drawn: Array) -> Array:
    """Lists the places of pixels with one of four neighbours outside."""
    padded = np.pad(drawn, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.argwhere(drawn & ~inner)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 1.9)])
@pytest.mark.parametrize("seed", range(4))
def test_distances_are_those_of_all_pairs_of_pixels(seed: int, spacing: tuple[float, float]) -> None:
    one, other = blobs(seed), blobs(seed + 100)
    pairs = distance.cdist(outline(one) * spacing, outline(other) * spacing)
    there, back = pairs.min(axis=1), pairs.min(axis=0)
    found = numbers(one, other, spacing, 2.5)
    assert found["hd95"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert found["surface_distance"] == pytest.approx((there.sum() + back.sum()) / (len(there) + len(back)))
    near = (there <= 2.5).sum() + (back <= 2.5).sum()
    assert found["surface_dice"] == pytest.approx(near / (len(there) + len(back)))


@pytest.mark.parametrize("seed", range(4))
def test_distances_are_those_of_simpleitk(seed: int) -> None:
    one, other, spacing = blobs(seed), blobs(seed + 100), (0.7, 1.9)
    images = [itk.GetImageFromArray(np.pad(drawn, 1).astype(np.uint8)) for drawn in (one, other)]
    for image in images:
        image.SetSpacing(spacing[::-1])
    lines = [itk.LabelContour(image, fullyConnected=False) for image in images]
    filter_ = itk.HausdorffDistanceImageFilter()
    filter_.Execute(*lines)
    values = []
    for own, far in (lines, lines[::-1]):
        away = itk.Abs(itk.SignedMaurerDistanceMap(far, squaredDistance=False, useImageSpacing=True))
        values.append(itk.GetArrayFromImage(away)[itk.GetArrayFromImage(own) > 0])
    assert max(each.max() for each in values) == pytest.approx(filter_.GetHausdorffDistance(), rel=1e-5)
    found = numbers(one, other, spacing, 2.5)
    assert found["hd95"] == pytest.approx(max(np.percentile(each, 95) for each in values), rel=1e-5)
    assert found["surface_distance"] == pytest.approx(float(np.concatenate(values).mean()), rel=1e-5)


def thinned(drawn: Array) -> Array:
    """Thins after Zhang and Suen, pixel by pixel."""
    found = np.pad(drawn, 1).astype(int)
    changed = True
    while changed:
        changed = False
        for step in (0, 1):
            gone = []
            for row, column in np.argwhere(found):
                ring = [
                    found[row + down, column + right]
                    for down, right in ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
                ]
                north, east, south, west = ring[::2]
                rises = sum(a == 0 and b == 1 for a, b in zip(ring, ring[1:] + ring[:1], strict=True))
                sides = (
                    (north * east * south, east * south * west)
                    if step == 0
                    else (north * east * west, north * south * west)
                )
                if 2 <= sum(ring) <= 6 and rises == 1 and not any(sides):
                    gone.append((row, column))
            for place in gone:
                found[place] = 0
            changed |= bool(gone)
    return np.asarray(found[1:-1, 1:-1].astype(bool))


@pytest.mark.parametrize("seed", range(3))
def test_centre_line_dice_is_that_of_thinning_pixel_by_pixel(seed: int) -> None:
    one, other = blobs(seed), blobs(seed) | blobs(seed + 100)
    lines = thinned(one), thinned(other)
    precision, recall = other[lines[0]].mean(), one[lines[1]].mean()
    assert numbers(one, other)["cldice"] == pytest.approx(2 * precision * recall / (precision + recall), abs=0.03)


@pytest.mark.parametrize("seed", range(4))
def test_lesions_are_those_of_a_search_pixel_by_pixel(seed: int) -> None:
    one, other = blobs(seed), np.roll(blobs(seed), 2, axis=1)
    own, guessed = parts(one), parts(other)
    edges = [[len(a & b) / len(a | b) >= mask_shapes.FOUND for b in guessed] for a in own]
    assert mask_shapes.lesions(other, one) == (most_pairs(edges), len(guessed), len(own))


def parts(drawn: Array) -> list[set[tuple[int, int]]]:
    left = {(int(row), int(column)) for row, column in np.argwhere(drawn)}
    found = []
    while left:
        todo, own = [left.pop()], set[tuple[int, int]]()
        while todo:
            row, column = todo.pop()
            own.add((row, column))
            near = {(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & left
            left -= near
            todo += near
        found.append(own)
    return found


def most_pairs(edges: list[list[bool]], taken: frozenset[int] = frozenset()) -> int:
    if not edges:
        return 0
    paired = [1 + most_pairs(edges[1:], taken | {k}) for k, near in enumerate(edges[0]) if near and k not in taken]
    return max([most_pairs(edges[1:], taken), *paired])


# What must not matter

TURNS: list[tuple[str, Callable[[Array], Array]]] = [
    ("flipped", lambda drawn: drawn[:, ::-1]),
    ("upside down", lambda drawn: drawn[::-1]),
    ("turned", np.rot90),
    ("padded", lambda drawn: np.pad(drawn, ((3, 0), (1, 7)))),
]


@pytest.mark.parametrize(("name", "turn"), TURNS, ids=[name for name, _ in TURNS])
def test_how_a_picture_lies_does_not_matter(name: str, turn: Callable[[Array], Array]) -> None:
    one, other, spacing = blobs(1), blobs(2) | blobs(1), (0.7, 1.9)
    own = spacing[::-1] if name == "turned" else spacing
    before, after = numbers(one, other, spacing, 2), numbers(turn(one), turn(other), own, 2)
    for number in NAMES:
        # Thinning takes pixels from one side before the other, so that a mirrored line may lie a pixel beside.
        slack = 0.02 if number == "cldice" and name != "padded" else 1e-12
        assert after[number] == pytest.approx(before[number], abs=slack), number


def test_which_of_two_masks_is_predicted_does_not_matter_but_to_counts_of_lesions() -> None:
    one, other = blobs(1), blobs(2) | blobs(1)
    there, back = numbers(one, other), numbers(other, one)
    assert there["lesions_predicted"] == back["lesions"] != there["lesions"]
    for name in ("surface_dice", "hd95", "surface_distance", "cldice", "lesions_found"):
        assert there[name] == pytest.approx(back[name])


def test_all_is_measured_in_proportion_to_the_size_of_pixels() -> None:
    one, other = blobs(3), blobs(4)
    small, large = numbers(one, other, (1, 1), 2), numbers(one, other, (0.25, 0.25), 0.5)
    assert large["hd95"] == pytest.approx(0.25 * small["hd95"])
    assert large["surface_distance"] == pytest.approx(0.25 * small["surface_distance"])
    assert large["surface_dice"] == small["surface_dice"]


def test_only_what_is_asked_for_is_measured() -> None:
    one, other = blobs(3), blobs(4)
    every = numbers(one, other)
    assert measure(one, other, ("lesions",), (1, 1), 1).tolist() == [every[name] for name in GROUPS["lesions"]]
    assert measure(one, other, (), (1, 1), 1).shape == (0,)
