"""Images made worse: against arithmetic done a second time, by hand where it is short."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from medtransfer.core import rng
from medtransfer.data.corruptions import CORRUPTIONS, corrupt
from medtransfer.params.corruptions import Kind

Bytes = NDArray[np.uint8]
HASHES = (
    "import hashlib, numpy as np\nfrom medtransfer.data.corruptions import CORRUPTIONS, corrupt\n"
    "image = np.random.default_rng(1).integers(0, 256, (40, 48)).astype(np.uint8)\n"
    "for kind in CORRUPTIONS:\n"
    "    found = corrupt(image, kind, 3, seed=5, number=7)\n"
    "    print(kind, hashlib.sha256(found.tobytes()).hexdigest())\n"
)


def picture(height: int = 40, width: int = 48, colour: bool = False) -> Bytes:
    """A smooth picture with an edge."""
    y, x = np.mgrid[:height, :width]
    gray = 120 + 60 * np.sin(y / 7) * np.cos(x / 9) + 40 * (x > width / 2)
    planes = np.stack([gray, 0.8 * gray, 255 - gray], axis=-1) if colour else gray
    return np.asarray(np.clip(planes, 0, 255), dtype=np.uint8)


def stream(kind: str, severity: int, seed: int, number: int) -> np.random.Generator:
    return np.random.default_rng(rng.seed_of(seed, f"corruption {kind}", severity, number))


def rounded(values: Any) -> Bytes:
    return np.asarray(np.clip(np.floor(np.asarray(values) + 0.5), 0, 255), dtype=np.uint8)


def test_the_kinds_of_the_parameters_are_those_that_there_are() -> None:
    assert set(get_args(Kind)) == set(CORRUPTIONS)
    assert [one.name for one in CORRUPTIONS.values() if one.moves] == ["crop"]


def test_the_docs_print_the_strengths(top: Path) -> None:
    page = (top / "docs/how-to/other-sites.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| ([\d., ]+) \|$", page, re.MULTILINE))
    shares = ("blur", "text")  # which it has in percent
    shown = {name: [100 * x if name in shares else x for x in one.strengths] for name, one in CORRUPTIONS.items()}
    assert {name: [float(x) for x in text.split(",")] for name, text in rows.items()} == {
        name: pytest.approx(values) for name, values in shown.items()
    }


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("colour", [False, True], ids=["gray", "colour"])
def test_nothing_at_severity_0_and_more_at_each_next_one(kind: str, colour: bool) -> None:
    image = picture(96, 104, colour=colour)
    same = corrupt(image, kind, 0, seed=0, number=3)
    assert same is not image
    assert (same == image).all()
    sizes = []
    for severity in range(1, 6):
        changed = [corrupt(image, kind, severity, seed=0, number=number) for number in range(8)]
        assert all(one.dtype == np.uint8 and one.shape == image.shape for one in changed)
        sizes.append(np.mean([np.abs(one.astype(int) - image).mean() for one in changed]))
    assert sizes[0] > 0
    assert sizes == sorted(sizes)
    strengths = CORRUPTIONS[kind].strengths
    assert len(set(strengths)) == 5
    assert list(strengths) in (sorted(strengths), sorted(strengths, reverse=True))


def test_numbers_of_a_second_implementation() -> None:
    image = picture().astype(np.float64)
    mean = image.sum() / image.size
    assert (corrupt(picture(), "contrast", 3, seed=0, number=0) == rounded(0.45 * image + 0.55 * mean)).all()
    gamma = [[round(255 * (value / 255) ** 1.5) for value in row] for row in image.tolist()]
    assert (corrupt(picture(), "gamma", 2, seed=0, number=0) == gamma).all()
    noise = 14 * stream("noise", 3, 4, 9).standard_normal(image.shape)
    assert np.abs(corrupt(picture(), "noise", 3, seed=4, number=9) - np.clip(image + noise, 0, 255)).max() <= 0.5 + 1e-9


def test_a_window_that_is_too_narrow_by_hand() -> None:
    grays = np.arange(256, dtype=np.uint8).reshape(16, 16)
    up = stream("window", 2, 0, 0).integers(2) == 0
    level, width = 127.5 + (12.75 if up else -12.75), 204.0  # a share of .2: the width is 204, the level 12.75 off
    expected = [min(255, max(0, round((gray - level + width / 2) * 1.25))) for gray in range(256)]
    assert corrupt(grays, "window", 2, seed=0, number=0).reshape(-1).tolist() == expected


def test_blur_is_a_gaussian_in_each_direction() -> None:
    image = picture(100, 100)
    reach = np.arange(-12, 13)
    kernel = np.exp(-(reach**2) / (2 * 3.0**2))  # 3 % of 100 pixels
    kernel /= kernel.sum()
    padded = np.pad(image.astype(np.float64), 12, mode="edge")
    rows = np.stack([np.convolve(row, kernel, "valid") for row in padded])
    whole = np.stack([np.convolve(column, kernel, "valid") for column in rows.T]).T
    assert np.abs(corrupt(image, "blur", 5, seed=0, number=0) - whole).max() < 0.51


def test_low_resolution_has_the_means_of_its_blocks() -> None:
    image = picture(40, 40)
    blocks = image.reshape(20, 2, 20, 2).astype(np.float64).mean(axis=(1, 3))
    small = np.floor(blocks + 0.5)
    place = np.clip((np.arange(40) + 0.5) / 2 - 0.5, 0, 19)
    low = np.minimum(np.floor(place).astype(int), 18)
    share = place - low

    def along(values: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(values[low] * (1 - share)[:, None] + values[low + 1] * share[:, None])

    off = np.abs(corrupt(image, "resolution", 1, seed=0, number=0) - along(along(small).T).T)
    assert off.max() <= 2  # Pillow rounds after each of its four passes
    assert off.mean() < 0.6


def test_jpeg_is_what_pillow_reads_back() -> None:
    held = io.BytesIO()
    Image.fromarray(picture()).save(held, format="JPEG", quality=18)
    assert (corrupt(picture(), "jpeg", 3, seed=0, number=0) == np.array(Image.open(held))).all()


def test_a_crop_is_a_part_enlarged() -> None:
    ramp = np.tile(np.arange(0, 200, 2, dtype=np.uint8), (100, 1))
    _, x = stream("crop", 5, 0, 2).random(2) * 0.4
    found = corrupt(ramp, "crop", 5, seed=0, number=2)[50].astype(float)
    expected = 2 * ((np.arange(100) + 0.5) * 0.6 + x * 100 - 0.5)  # of a ramp bilinear is exact
    assert np.abs(found - expected)[2:-2].max() <= 1


def test_text_is_white_and_changes_what_it_covers_alone() -> None:
    image = picture(200, 200) // 2
    for severity, height in ((1, 10), (4, 34)):
        changed = corrupt(image, "text", severity, seed=0, number=1)
        places = np.argwhere(changed != image)
        tall, wide = np.ptp(places, axis=0) + 1
        assert 0.5 * height < tall < 1.1 * height
        assert wide > 2 * tall
        assert changed.max() > 240
        assert (changed >= image).all()


def test_the_same_pixels_in_another_process_and_others_for_another_name() -> None:
    source = str(Path(__file__).parents[2] / "src")
    answer = subprocess.run(
        [sys.executable, "-c", HASHES], env={"PYTHONPATH": source}, capture_output=True, text=True, check=True
    )
    held = io.StringIO()
    with contextlib.redirect_stdout(held):
        exec(HASHES, {})
    assert answer.stdout == held.getvalue()
    assert len(answer.stdout.splitlines()) == len(CORRUPTIONS)
    one = corrupt(picture(), "noise", 3, seed=0, number=0)
    for other in ({"seed": 1, "number": 0}, {"seed": 0, "number": 1}):
        assert (corrupt(picture(), "noise", 3, **other) != one).any()
