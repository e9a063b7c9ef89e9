"""Pictures that show at a glance whether data are right: samples with their labels or outlines, look-alikes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medtransfer.core.palette import OUTLINES
from medtransfer.data.cache import Manifest, counted
from medtransfer.data.overlap import SPLITS, Finding
from medtransfer.data.tasks import Task

if TYPE_CHECKING:
    import pandas as pd

ImageOf = Callable[[str], NDArray[np.uint8]]
"""sample id -> its prepared image"""

COLUMNS = 6
"""images of each split"""

SIDE, GAP, LINE = 220, 12, 15
"""pixels: side of a picture, space between two, height of a line of text"""

SMALL, LARGE = ImageFont.load_default(12), ImageFont.load_default(17)


def samples(
    path: Path,
    task: Task,
    images: NDArray[np.uint8],
    masks: NDArray[np.uint8] | None,
    table: pd.DataFrame,
    manifest: Manifest,
) -> None:
    """Draws some samples of every split: what the network will see, with labels or the masks' outlines."""
    shown = [(split, _choose(table, task, split)) for split in SPLITS]
    where = {split: "" if manifest["folds"] and split != "test" else f"{split}: " for split in SPLITS}
    lines = [
        [
            (f"{where[split]}{table['id'][row]}", _words(task, table, row), _picture(images[row], masks, row, task))
            for row in rows
        ]
        for split, rows in shown
        if len(rows)
    ]
    _sheet(_headline(task, manifest), lines, COLUMNS).save(path)


def _picture(image: NDArray[np.uint8], masks: NDArray[np.uint8] | None, row: int, task: Task) -> Image.Image:
    picture = Image.fromarray(image).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    if masks is None:
        return picture
    pixels = np.array(picture)
    for bit in range(len(task.labels)):
        plane = Image.fromarray((masks[row] >> bit & 1) * np.uint8(255))
        region = np.pad(np.asarray(plane.resize((SIDE, SIDE), Image.Resampling.BILINEAR)) >= 128, 1, mode="edge")
        within = region[:-2, 1:-1] & region[2:, 1:-1] & region[1:-1, :-2] & region[1:-1, 2:]
        pixels[region[1:-1, 1:-1] & ~within] = tuple(bytes.fromhex(OUTLINES[bit][1:]))
    return Image.fromarray(pixels)


Cell = tuple[str, str, Image.Image]
"""two lines of text and the picture under them"""


def _sheet(headline: str, lines: Sequence[Sequence[Cell]], columns: int) -> Image.Image:
    """Lays pictures out in lines, with a headline above all and two lines of text above each."""
    top, step = GAP + 24 * len(headline.split("\n")), SIDE + 2 * LINE + GAP
    sheet = Image.new("RGB", (columns * (SIDE + GAP) + GAP, top + len(lines) * step + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    draw.multiline_text((GAP, GAP), headline, "black", LARGE)
    for number, line in enumerate(lines):
        for column, (first, second, picture) in enumerate(line):
            left, above = GAP + column * (SIDE + GAP), top + number * step
            for place, words in ((above, first), (above + LINE, second)):
                draw.text((left, place), _short(words), "black", SMALL)
            sheet.paste(picture, (left, above + 2 * LINE))
    return sheet


def _headline(task: Task, manifest: Manifest) -> str:
    counts = counted(manifest["counts"], manifest["folds"])
    marks = f" ({', '.join(manifest['marks'])})" if manifest["marks"] else ""
    side = manifest["cache_size"]
    width, height = manifest["statistics"]["width"], manifest["statistics"]["height"]
    low, high = f"{width['low']:.0f}x{height['low']:.0f}", f"{width['high']:.0f}x{height['high']:.0f}"
    sizes = f"originals {low if low == high else f'{low} to {high}'} pixels"
    return f"{task.name}: {task.title}{marks}\nimages: {counts}; {sizes}, prepared at {side}x{side}"


def _choose(table: pd.DataFrame, task: Task, split: str) -> list[int]:
    """Takes rows of a split: one for each of the first labels, one without any, then others evenly."""
    rows = np.flatnonzero(table["split"].to_numpy() == split)
    values = table[list(task.labels)].to_numpy()[rows]
    chosen: list[int] = []
    for marked in [*(values == 1).T[: COLUMNS - 2], (values <= 0).all(axis=1)]:
        having = rows[marked]
        fresh = [int(row) for row in having[len(having) // 2 :] if row not in chosen]
        chosen += fresh[:1]
    others = [int(row) for row in rows if row not in set(chosen)]
    wanted = COLUMNS - len(chosen)
    places = np.linspace(0, len(others) - 1, min(wanted, len(others))).round().astype(int)
    return chosen + [others[place] for place in np.unique(places)]


def _words(task: Task, table: pd.DataFrame, row: int) -> str:
    values = {label: int(table[label][row]) for label in task.labels}
    yes = [label for label, value in values.items() if value == 1]
    maybe = [f"{label}?" for label, value in values.items() if value == -1]
    if task.kind == "segmentation" and not yes:
        return "no region"
    return ", ".join(yes + maybe) or "none"


def _short(text: str) -> str:
    """Cuts a line to what fits above a picture."""
    if SMALL.getlength(text) <= SIDE:
        return text
    while SMALL.getlength(f"{text}...") > SIDE:
        text = text[:-1]
    return f"{text}..."


def pairs(path: Path, finding: Finding, left: ImageOf, right: ImageOf | None = None) -> None:
    """Draws the look-alikes that a finding names, side by side; none are named: no file."""
    examples = finding["examples"]
    path.unlink(missing_ok=True)
    if not examples:
        return

    def cell(name: str, words: str, image: NDArray[np.uint8]) -> Cell:
        return name, words, Image.fromarray(image).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)

    cells = list[Cell]()
    for pair in examples:
        (one, two), likeness = pair["splits"].split("/"), pair.get("correlation", 1)
        cells += [
            cell(pair["a"], one, left(pair["a"])),
            cell(pair["b"], f"{two}, likeness {likeness:.2f}", (right or left)(pair["b"])),
        ]
    lines = [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
    more = f"; the {len(examples)} most alike" if len(examples) < finding["count"] else ""
    _sheet(f"{finding['count']} pairs that look like copies of one picture{more}, side by side", lines, COLUMNS).save(
        path
    )
