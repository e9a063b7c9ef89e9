"""Studies: what each trial found, which field decided it, and the best value while the budget was spent."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from medtransfer.comparison.findings import Findings
from medtransfer.core import palette
from medtransfer.report.figures import style
from medtransfer.results import study
from medtransfer.results.study import Ledger
from medtransfer.statistics import metrics


def draw(findings: Findings) -> Figure | None:
    """Draws the best value so far over the budget: a panel per task, a line per initialization."""
    found = findings.studies
    tasks = list(dict.fromkeys(one.task for one in found))
    if not tasks:
        return None
    lines, columns = style.shape(len(tasks), 3)
    inits = list(dict.fromkeys(one.init for one in found))
    picture = Figure(figsize=(max(3.6 * columns, 5.0), 2.7 * lines + 0.4 + 0.2 * len(inits)), layout="constrained")
    colours = {init: palette.COLOURS[place % len(palette.COLOURS)] for place, init in enumerate(inits)}
    panels = style.panels(picture, len(tasks), 3)
    for panel, task in zip(panels, tasks, strict=True):
        _lines(panel, [one for one in found if one.task == task], colours)
    style.headline(picture, findings.results, "Best value so far, on val, while the budget was spent")
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
    if metrics.rises(found[0].monitor):
        style.end_at_whole(panel.yaxis, 1.0)
    panel.xaxis.set_major_formatter(PercentFormatter(1.0))
