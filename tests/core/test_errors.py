"""Words of messages."""

from __future__ import annotations

import pytest

from medtransfer.core.errors import quantity, span


@pytest.mark.parametrize(
    ("number", "noun", "verb", "words"),
    [
        (1, "run", "", "1 run"),
        (0, "run", "are", "0 runs are"),
        (1, "run", "are", "1 run is"),
        (1, "image", "have", "1 image has"),
        (1, "run", "stand", "1 run stands"),
        (1, "run", "do not count", "1 run does not count"),
        (2000, "run", "were", "2,000 runs were"),
    ],
)
def test_one_is_singular(number: int, noun: str, verb: str, words: str) -> None:
    assert quantity(number, noun, verb) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (14.6, "15 s"), (119.0, "119 s"), (150.0, "2 min"), (9000.0, "2.5 h")]
)
def test_a_time_is_written_as_people_say_it(seconds: float, words: str) -> None:
    assert span(seconds) == words
