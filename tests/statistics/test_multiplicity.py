from __future__ import annotations

import numpy as np
import pytest

from medtransfer.statistics.multiplicity import holm


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]).tolist() == []


def test_holm_keeps_the_order_and_never_lowers() -> None:
    p = np.random.default_rng(0).random(30) ** 3
    found = holm(p.tolist())
    assert (found >= p).all()
    assert (np.diff(found[np.argsort(p)]) >= 0).all()
