"""Findings -> the figures of the report, as PNG and SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import matplotlib
from matplotlib.figure import Figure

from medtransfer.comparison.findings import Findings
from medtransfer.core import palette
from medtransfer.report.figures import (
    answer,
    bars,
    by_kind,
    calibration,
    claims,
    cost,
    curves,
    forest,
    label_curves,
    labels,
    pairs,
    ranks,
    scores,
    style,
    tuning,
)

_ORDER = (
    "answer", "scores", "forest", "ranks", "bars", "pairs", "curves", "cost", "labels", "label-curves",
    "reliability", "net-benefit", "claims", "segmentation-classification", "tuning",
)  # fmt: skip
_WHOLE: dict[str, tuple[Callable[[Findings], Figure | None], Callable[[Findings], str]]] = {
    "answer": (answer.draw, answer.caption),
    "scores": (scores.draw, scores.caption),
    "ranks": (ranks.draw, ranks.caption),
    "pairs": (pairs.draw, pairs.caption),
    "curves": (curves.draw, curves.caption),
    "cost": (cost.draw, cost.caption),
    "label-curves": (label_curves.draw, label_curves.caption),
    "reliability": (calibration.draw_reliability, calibration.caption_reliability),
    "net-benefit": (calibration.draw_benefit, calibration.caption_benefit),
    "claims": (claims.draw, claims.caption),
    "segmentation-classification": (by_kind.draw, by_kind.caption),
    "tuning": (tuning.draw, tuning.caption),
}
"""name -> how a figure of all tasks is drawn and captioned"""
_BY_TASK: dict[str, tuple[Callable[[Findings, str], Figure | None], Callable[[Findings, str], str]]] = {
    "forest": (forest.draw, forest.caption),
    "bars": (bars.draw, bars.caption),
    "labels": (labels.draw, labels.caption),
}
"""name -> how a figure of one task is drawn and captioned; its slug is `<name>-<task>`"""


def drawings(findings: Findings, only: str = "") -> dict[str, Figure]:
    """Draws every figure that has something to show, or those of one name: slug -> figure, in the report's order."""
    found: dict[str, Figure | None] = {}
    with matplotlib.rc_context(palette.RC):
        for name in (only,) if only in _ORDER else _ORDER:
            if name in _WHOLE:
                found[name] = _WHOLE[name][0](findings)
            else:
                found |= {f"{name}-{task}": _BY_TASK[name][0](findings, task) for task in findings.benchmark.tasks}
        return {slug: _fixed(picture) for slug, picture in found.items() if picture is not None}


def caption(slug: str, findings: Findings) -> str:
    """Says what a figure shows: n, interval, test, ddof, correction."""
    if slug in _WHOLE:
        return _WHOLE[slug][1](findings)
    name, _, task = slug.partition("-")
    return _BY_TASK[name][1](findings, task)


def to_png(figure: Figure) -> bytes:
    """Writes a figure as PNG bytes, equal for equal figures."""
    return _written(figure, "png", {"Software": None})


def to_svg(figure: Figure) -> bytes:
    """Writes a figure as SVG bytes, text as text and values as titles for the pointer; equal for equal figures."""
    text = _written(figure, "svg", {"Date": None, "Creator": None}).decode()
    return re.sub(rf'<g id="{style.SPOKEN}([^"]*)">', r"<g><title>\1</title>", text).encode()


def _fixed(figure: Figure) -> Figure:
    """Lays a figure out once, so that every form of it is the same."""
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
    figure.set_layout_engine("none")
    return figure


def _written(figure: Figure, form: str, metadata: dict[str, None]) -> bytes:
    data = io.BytesIO()
    with matplotlib.rc_context(palette.RC):
        figure.savefig(data, format=form, metadata=metadata)
    return data.getvalue()
