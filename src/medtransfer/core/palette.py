"""Colours that a reader who is blind to some tells apart (Okabe and Ito), and Matplotlib's settings."""

from __future__ import annotations

from typing import Any

BLACK, ORANGE, SKY, GREEN, BLUE, RED, PINK = "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"
YELLOW, ASH = "#F0E442", "#999999"
COLOURS = (BLUE, ORANGE, GREEN, RED, SKY, PINK, BLACK)
"""without yellow, which paper swallows; a marker, line style or hatch says the same"""
OUTLINES = (ORANGE, SKY, GREEN, YELLOW, PINK, RED, BLUE, ASH)
"""on gray images, as many as a task can have masks"""
GREY, PALE = "#6F6F6F", "#E3E3E3"

RC: dict[Any, Any] = {
    "font.size": 8, "axes.titlesize": 9, "axes.labelsize": 8, "xtick.labelsize": 8, "ytick.labelsize": 8,
    "legend.fontsize": 8, "figure.titlesize": 10, "figure.dpi": 150, "savefig.dpi": "figure",
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "grid.color": PALE,
    "hatch.linewidth": 0.6, "legend.frameon": False, "svg.fonttype": "none", "svg.hashsalt": "medtransfer",
}  # fmt: skip
"""Matplotlib's settings while figures are drawn and written"""
