from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from medtransfer.runs import curves

HISTORY = [{"train_loss": 0.7, "val_loss": 0.8, "val_auc": 0.5}, {"train_loss": 0.5, "val_loss": 0.6, "val_auc": 0.7}]


@pytest.mark.parametrize(("score", "panels"), [("val_auc", ["loss", "val_auc"]), ("val_probe", ["loss"])])
def test_losses_stand_beside_the_score_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: str, panels: list[str]
) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig

    def kept(self: Figure, *words: Any, **options: Any) -> None:
        drawn.append(self)
        save(self, *words, **options)

    monkeypatch.setattr(Figure, "savefig", kept)
    curves.draw(HISTORY, score, 1, "a title", tmp_path / curves.FILE)
    assert (tmp_path / curves.FILE).read_bytes().startswith(b"\x89PNG")
    [figure] = drawn
    assert [axis.get_title() for axis in figure.axes] == panels
    train, val, chosen = figure.axes[0].lines
    assert np.asarray([train.get_ydata(), val.get_ydata()]).tolist() == [[0.7, 0.5], [0.8, 0.6]]
    assert np.asarray(chosen.get_xdata()).tolist() == [1, 1]
    assert "a title" in figure.get_suptitle()
