"""The learning curves of one training, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from medtransfer.core import files, palette

FILE = "curves.png"
LOSSES = {"train_loss": palette.BLUE, "val_loss": palette.RED}


def draw(history: Sequence[Mapping[str, float]], score: str, chosen: int, title: str, path: Path) -> None:
    """Draws both losses over epochs, and beside them the score where there is one; the chosen epoch is marked.

    Args:
        history: what was logged of each epoch, with `train_loss` and `val_loss`.
        score: what else of it is drawn, such as `val_auc`.
        chosen: epoch whose weights are kept.
        title: of the picture.
        path: of the PNG that is written.
    """
    table = pd.DataFrame(list(history))
    panels = {"loss": LOSSES} | ({score: {score: palette.GREEN}} if score in table else {})
    with matplotlib.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(2.5 + 2.75 * len(panels), 3.2), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (name, lines) in zip(axes, panels.items(), strict=True):
        for key, colour in lines.items():
            axis.plot(table.index, table[key], marker="o", markersize=3, label=key, color=colour)
        axis.axvline(chosen, color="grey", linewidth=1, linestyle=":")
        axis.set(xlabel="epoch", title=name)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].legend(frameon=False)
    figure.suptitle(f"{title} (dotted: chosen epoch)", fontsize=10)
    with files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
