"""The AUC of every label of one task, as a table in shades."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from medtransfer.comparison.findings import Findings
from medtransfer.report.figures import names as words
from medtransfer.report.figures import style
from medtransfer.results.result import Result, of_task

START = "test_auc."
SHADES = LinearSegmentedColormap.from_list("pale blue", ["#FFFFFF", "#6BAED6"])
"""pale enough for black numbers"""
CELL = (0.46, 0.25)
"""inches of an entry: width, height"""


def draw(findings: Findings, task: str) -> Figure | None:
    """Draws complete initializations x labels for a classification task with several labels."""
    labels, inits = _labels(findings, task), [row.init for row in words.complete(findings, task)]
    if len(labels) < 2 or not inits:
        return None
    names, means = words.names(findings.benchmark.inits), _means(findings, task, inits, labels)
    titles = [_title(label, of_task(findings.results, task)[0]) for label in labels]
    size = (
        max(style.inches([names[init] for init in inits]) + CELL[0] * len(labels) + 1.1, 5.0),
        max(CELL[1] * len(inits), 0.9) + style.inches(titles) + 1.1,
    )
    picture = Figure(figsize=size, layout="constrained")
    panel = picture.subplots()
    _shade(picture, panel, means)
    _write(panel, means)
    panel.set_yticks(range(len(inits)), [names[init] for init in inits])
    panel.set_ylim(len(inits) - 0.5, -0.5)
    panel.set_xticks(range(len(labels)), titles, rotation=90)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    title = words.on_backbone(f"{task}: AUC per label in percent", findings.benchmark.inits)
    style.headline(picture, of_task(findings.results, task), title)
    return picture


def caption(findings: Findings, task: str) -> str:
    """Says what is shown."""
    first = of_task(findings.results, task)[0]
    outside = any(label not in first.tested for label in _labels(findings, task)) and bool(first.tested)
    brackets = " A label in brackets is not part of the task's score." if outside else ""
    return (
        f"{task}: mean AUC of every label in percent, {words.number(words.complete(findings, task))}; the best "
        f"of a label bold, the darker the further below it; no number: undefined. No interval and no test.{brackets}"
    )


def _labels(findings: Findings, task: str) -> list[str]:
    """Lists the labels of a classification task in the order of its scores, the tested ones first."""
    results = [result for result in of_task(findings.results, task) if result.kind != "segmentation"]
    found = [name.removeprefix(START) for result in results for name in result.scores if name.startswith(START)]
    tested = [label for label in (results[0].tested if results else ()) if label in found]
    return list(dict.fromkeys([*tested, *found]))


def _title(label: str, first: Result) -> str:
    plain = words.shorten(label.replace("_", " "), 28)
    return plain if label in first.tested or not first.tested else f"({plain})"


def _means(findings: Findings, task: str, inits: list[str], labels: list[str]) -> npt.NDArray[np.float64]:
    """Averages inits x labels over runs, in percent; nan where a run lacks the label."""
    results = of_task(findings.results, task)
    missing = float("nan")
    scores = [[result.scores.get(START + label, missing) for label in labels] for result in results]
    owners = np.array([result.init for result in results])
    return 100 * np.stack([np.array(scores)[owners == init].mean(axis=0) for init in inits])


def _shade(picture: Figure, panel: Axes, means: npt.NDArray[np.float64]) -> None:
    """Shades each entry by the points that it is below the best of its label."""
    best = np.max(np.where(np.isnan(means), -np.inf, means), axis=0)
    below = np.ma.masked_invalid(best - means)
    top = max(float(below.max()) if below.count() else 0.0, 0.5)
    edges = [np.arange(length + 1) - 0.5 for length in below.shape]
    mesh = panel.pcolormesh(edges[1], edges[0], below, cmap=SHADES, vmin=0, vmax=top, edgecolors="white", lw=1)
    picture.colorbar(mesh, ax=panel, fraction=0.04, pad=0.02).set_label("points below the best")


def _write(panel: Axes, means: npt.NDArray[np.float64]) -> None:
    shown = np.round(means, 1)
    for (line, column), mean in np.ndenumerate(shown):
        best = mean == np.nanmax(shown[:, column]) if not np.isnan(mean) else False
        text = "" if np.isnan(mean) else f"{mean:.1f}"
        panel.text(column, line, text, ha="center", va="center", weight="bold" if best else "normal")
