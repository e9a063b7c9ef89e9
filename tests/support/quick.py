"""Which of many alike cases the quick suite tries; the others are marked slow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def quick(cases: Iterable[Any], *chosen: Any) -> list[Any]:
    """Marks every case slow but for the chosen ones, which must be among them.

    Args:
        cases: values of one parameter, or tuples of several.
        chosen: values, or the first ones of tuples.
    """
    listed = list(cases)
    first = [case[0] if isinstance(case, tuple) else case for case in listed]
    assert set(chosen) <= set(first), set(chosen) - set(first)
    return [
        case
        if name in chosen
        else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
        for name, case in zip(first, listed, strict=True)
    ]
