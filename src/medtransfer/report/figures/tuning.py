"""Studies: what each trial found, which field decided it, and the best value while the budget was spent."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from medtransfer.comparison.findings import Findings
from medtransfer.report.figures import style
from medtransfer.results import study
from medtransfer.results.study import Ledger

LOOKS = {"complete": ("o", style.BLUE), "pruned": ("v", style.SKY), "failed": ("x", style.RED)}
"""state -> marker and colour"""


def history(found: Ledger) -> Figure:
    """Draws the value of every trial over the images spent, the best so far, and the finalists' seeds."""
    with matplotlib.rc_context(style.RC):
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
            [s / found.budget_images for s, _ in line], [v for _, v in line], where="post", color=style.BLACK, lw=1,
            label="best so far",
        )  # fmt: skip
    for number, finalist in enumerate(found.finalists):
        values = [value for value in list(finalist.values.values())[1:] if value is not None]
        mine = finalist.number == found.winner
        panel.plot(
            [places[finalist.number]] * len(values), values, "D", ms=4, mfc=style.ORANGE if mine else "none",
            mec=style.ORANGE, label=("other seeds of the best trials (filled: chosen)" if number == 0 else None),
        )  # fmt: skip
    panel.set(xlabel="budget spent (images seen)", ylabel=found.monitor, title=f"{found.init} on {found.task}")
    panel.xaxis.set_major_formatter(PercentFormatter(1.0))
    if panel.get_legend_handles_labels()[0]:
        panel.legend(frameon=False, fontsize=8)
    return picture


def importances(found: Ledger) -> Figure:
    """Draws each tuned field's share in what decided the value."""
    with matplotlib.rc_context(style.RC):
        picture = Figure(figsize=(5, 0.9 + 0.35 * len(found.importances)), layout="constrained")
        panel = picture.subplots()
    shares = sorted(found.importances.items(), key=lambda item: item[1])
    panel.barh([name for name, _ in shares], [share for _, share in shares], color=style.BLUE)
    panel.set(xlabel="importance (PED-ANOVA)", title=f"{found.init} on {found.task}")
    return picture


def draw(findings: Findings) -> Figure | None:
    """Draws the best value so far over the budget: a panel per task, a line per initialization."""
    found = findings.studies
    tasks = list(dict.fromkeys(one.task for one in found))
    if not tasks:
        return None
    lines, columns = style.shape(len(tasks), 3)
    inits = list(dict.fromkeys(one.init for one in found))
    picture = Figure(figsize=(max(3.6 * columns, 5.0), 2.7 * lines + 0.4 + 0.2 * len(inits)), layout="constrained")
    colours = {init: style.COLOURS[place % len(style.COLOURS)] for place, init in enumerate(inits)}
    panels = style.panels(picture, len(tasks), 3)
    for panel, task in zip(panels, tasks, strict=True):
        _lines(panel, [one for one in found if one.task == task], colours)
    style.headline(picture, findings.cells, "Best value so far, on val, while the budget was spent")
    handles = {
        label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    style.legend(picture, list(handles.values()))
    return picture


def caption(findings: Findings) -> str:
    """Says what is shown."""
    return (
        "The best monitored score on val that the completed trials of each study had found, over the part of its "
        "budget of images that was spent. One seed per trial; nothing here is test data; no interval and no test."
    )


def _lines(panel: Axes, found: Sequence[Ledger], colours: dict[str, str]) -> None:
    for one in found:
        line = study.best_so_far(one)
        places, values = [spent / one.budget_images for spent, _ in line], [value for _, value in line]
        if line:
            panel.step([*places, 1.0], [*values, values[-1]], where="post", color=colours[one.init], label=one.init)
    panel.set(xlabel="budget spent", ylabel=f"best {found[0].monitor} so far", title=found[0].task)
    panel.xaxis.set_major_formatter(PercentFormatter(1.0))
