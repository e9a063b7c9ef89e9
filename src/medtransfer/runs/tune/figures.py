"""A study in two pictures: what each trial found, and which field decided it."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from medtransfer.core import files, palette
from medtransfer.results import study
from medtransfer.results.study import Ledger

LOOKS = {"complete": ("o", palette.BLUE), "pruned": ("v", palette.SKY), "failed": ("x", palette.RED)}
"""state -> marker and colour"""


def history(found: Ledger) -> Figure:
    """Draws the value of every trial over the images spent, the best so far, and the finalists' seeds."""
    with matplotlib.rc_context(palette.RC):
        picture = Figure(figsize=(7, 3.4), layout="constrained")
        panel = picture.subplots()
    spent, places, named = 0, {}, set[str]()
    for trial in found.trials:
        if not trial.counted:
            continue
        spent += trial.images
        places[trial.number] = spent / found.budget_images
        marker, colour = LOOKS[trial.state]
        label = None if trial.state in named else trial.state
        named.add(trial.state)
        if trial.value is not None:
            panel.plot(places[trial.number], trial.value, marker, color=colour, ms=5, label=label)
        else:  # without a value, on the lower edge
            edge = panel.get_xaxis_transform()
            panel.plot(places[trial.number], 0.02, marker, color=colour, ms=5, label=label, transform=edge)
    line = study.best_so_far(found)
    if line:
        panel.step(
            [s / found.budget_images for s, _ in line], [v for _, v in line], where="post", color=palette.BLACK, lw=1,
            label="best so far",
        )  # fmt: skip
    for number, finalist in enumerate(found.finalists):
        values = [value for value in list(finalist.values.values())[1:] if value is not None]
        mine = finalist.number == found.winner
        panel.plot(
            [places[finalist.number]] * len(values), values, "D", ms=4, mfc=palette.ORANGE if mine else "none",
            mec=palette.ORANGE, label=("other seeds of the best trials (filled: chosen)" if number == 0 else None),
        )  # fmt: skip
    panel.set(xlabel="budget spent (images seen)", ylabel=found.monitor, title=f"{found.init} on {found.task}")
    panel.xaxis.set_major_formatter(PercentFormatter(1.0))
    if panel.get_legend_handles_labels()[0]:
        panel.legend(frameon=False, fontsize=8)
    return picture


def importances(found: Ledger) -> Figure:
    """Draws each tuned field's share in what decided the value."""
    with matplotlib.rc_context(palette.RC):
        picture = Figure(figsize=(5, 0.9 + 0.35 * len(found.importances)), layout="constrained")
        panel = picture.subplots()
    shares = sorted(found.importances.items(), key=lambda item: item[1])
    panel.barh([name for name, _ in shares], [share for _, share in shares], color=palette.BLUE)
    panel.set(xlabel="importance (PED-ANOVA)", title=f"{found.init} on {found.task}")
    return picture


def save(figure: Figure, path: Path) -> Path:
    """Writes a picture as PNG, whole or not at all; equal ones give equal bytes."""
    with matplotlib.rc_context(palette.RC), files.replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return path
