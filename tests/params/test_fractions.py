from __future__ import annotations

from typing import Any

import pytest

from medtransfer.core.errors import UserError
from medtransfer.params import Fraction, parse_fraction


@pytest.mark.parametrize(
    ("value", "text"), [(1, "1"), (1.0, "1"), ("1", "1"), (0.1, "0.1"), ("0.05", "0.05"), ("16-shot", "16-shot")]
)
def test_one_amount_has_one_spelling(value: Any, text: str) -> None:
    assert str(parse_fraction(value)) == text
    assert parse_fraction(text) == parse_fraction(value)


@pytest.mark.parametrize("value", [0, 2, -0.1, 1.5, "0-shot", "half", True, "nan", None, "1e-9999"])
def test_what_is_no_amount_of_labels_is_refused_with_the_law(value: Any) -> None:
    with pytest.raises(
        UserError, match="a fraction is a share of train, above 0 and at most 1, or images of each class"
    ):
        parse_fraction(value)


def test_all_of_train_is_no_fraction() -> None:
    assert Fraction().whole
    assert not Fraction(share=0.5).whole
    assert not Fraction(shots=1).whole
