from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from medtransfer.core.errors import UserError
from medtransfer.data.images.run_lengths import decode, encode

# down the columns the canvas of height 3 and width 4 reads 0 1 1 | 1 0 0 | 0 1 0 | 0 0 1
MASK = np.array([[0, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]], dtype=bool)
TEXT = "1 3 3 1 3 1"


def test_runs_go_down_the_columns_and_gaps_count_from_the_run_before() -> None:
    np.testing.assert_array_equal(decode(TEXT, 3, 4), MASK)
    assert encode(MASK) == TEXT
    assert decode(TEXT, 3, 4).dtype == np.bool_


@pytest.mark.parametrize("text", ["-1", " -1", "", "  ", "-1\n"])
def test_empty_masks(text: str) -> None:
    found = decode(text, 2, 5)
    assert found.shape == (2, 5)
    assert not found.any()


def test_an_empty_mask_is_written_as_minus_one() -> None:
    assert encode(np.zeros((3, 4), dtype=bool)) == "-1"


def test_runs_may_start_at_the_first_pixel_end_at_the_last_and_touch() -> None:
    assert decode("0 12", 3, 4).all()
    assert encode(np.ones((3, 4), dtype=bool)) == "0 12"
    np.testing.assert_array_equal(decode("1 2 0 1 3 1 3 1", 3, 4), MASK)
    np.testing.assert_array_equal(decode("  1 3   3 1 3 1 ", 3, 4), MASK)


UNHURRIED = settings(deadline=None)  # a busy machine is no failure
MASKS = arrays.arrays(np.bool_, arrays.array_shapes(min_dims=2, max_dims=2, max_side=12))


@UNHURRIED
@given(MASKS)
def test_what_is_written_is_read_back(mask: NDArray[np.bool_]) -> None:
    np.testing.assert_array_equal(decode(encode(mask), *mask.shape), mask)


@UNHURRIED
@given(MASKS)
def test_columns_one_after_the_other_are_one_high_column(mask: NDArray[np.bool_]) -> None:
    assert encode(mask) == encode(mask.T.reshape(-1, 1))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 3 3", ["expected pairs", "found 3 numbers", "run 2"]),
        ("-1 3", ["gap of run 1", "'-1'"]),
        ("1 3 2 -4", ["length of run 2", "'-4'", "from 1 up"]),
        ("1 3.0", ["length of run 1", "'3.0'"]),
        ("1 3 x 4", ["gap of run 2", "'x'", "from 0 up"]),
        ("1 ²", ["length of run 1", "'²'"]),
        ("1 9999999999999999999999", ["length of run 1"]),
        ("1 3 1 0", ["length of run 2 is 0"]),
        ("1 3 3 1 3 2", ["run 3 of 3", "ends at pixel 13", "height 3", "width 4", "has 12"]),
        ("99 3 3 1", ["run 1 of 2", "ends at pixel 102"]),
    ],
)
def test_bad_run_lengths_are_refused_by_run(text: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        decode(text, 3, 4)
    for word in ["run lengths", *words]:
        assert word in str(caught.value)
