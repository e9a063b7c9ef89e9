"""What `compare` found, as the terminal shows it; kept beside the report, so that `show` need not compare again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from medtransfer.core import files, schema
from medtransfer.core.errors import UserError
from medtransfer.params import Params

if TYPE_CHECKING:
    from medtransfer.comparison.findings import Findings

FILE = "data/results/report/summary.json"


@dataclass(frozen=True)
class Summary:
    """The answers and the scores: one row per initialization, one column per task."""

    of: str
    """see `inputs`"""
    first: tuple[str, ...]
    """what must be said before any score: that the images are synthetic, ..."""
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bold: tuple[tuple[bool, ...], ...]
    """for each text of `rows`, whether it stands out"""
    notes: tuple[str, ...]
    answers: tuple[tuple[str, str], ...]
    """scope and sentence"""


def summarize(findings: Findings, of: str = "") -> Summary:
    """Takes out of the findings what the terminal shows."""
    from medtransfer.comparison.wording import first_lines
    from medtransfer.report.sections.scores import score_grid, score_notes

    grid = score_grid(findings)
    return Summary(
        of=of,
        first=tuple(first_lines(findings.results)),
        header=tuple(grid.header),
        rows=tuple(tuple(entry.text for entry in line) for line in grid.rows),
        bold=tuple(tuple(entry.best for entry in line) for line in grid.rows),
        notes=tuple(score_notes(findings)),
        answers=tuple((answer.scope, answer.text) for answer in findings.answers),
    )


def layout(summary: Summary, every_task: bool = False) -> RenderableType:
    """Lays a summary out: the scores, and the answer over all tasks or each of them."""
    table = Table()
    for index, title in enumerate(summary.header):
        table.add_column(Text(title), justify="right" if index else "left", no_wrap=not index)
    for line, bold in zip(summary.rows, summary.bold, strict=True):
        table.add_row(*(Text(text, style="bold" if best else "") for text, best in zip(line, bold, strict=True)))
    above = [Text(line, style="bold yellow") for line in summary.first]
    said = summary.answers if every_task else summary.answers[:1]
    answers = [Text.assemble((f"{scope}: ", "bold"), text) for scope, text in said]
    notes = [Text(note, style="dim") for note in summary.notes]
    return Group(*above, table, *notes, *(part for answer in answers for part in (Text(), answer)))


def inputs(params: Params, sections: tuple[str, ...], root: Path) -> str:
    """Identifies what a comparison reads: finished runs, the files beside them, parameters, and this program."""
    results = root / "data/results"
    read = sorted(
        [
            *results.glob("cells/*/*/cell.json"),
            *results.glob("remote/*/*/cell.json"),
            *results.glob("cells/*/*.json"),
            results / "looks.json",
        ]
    )
    read += [*sorted(root.glob("data/raw/*/task.yaml")), *(root / path for path in params.comparison.against)]
    sha = hashlib.sha256(metadata.version("medtransfer").encode())
    for path in read:
        if path.is_file():
            sha.update(f"{path.relative_to(root)} {files.sha256(path)}\n".encode())
    plain = {section: schema.flatten(getattr(params, section)) for section in sections}
    sha.update(json.dumps(plain, sort_keys=True, default=str).encode())
    return sha.hexdigest()


def save(summary: Summary, root: Path) -> None:
    """Keeps what `compare` showed."""
    files.write_text(root / FILE, json.dumps(dataclasses.asdict(summary), indent=1) + "\n")


def load(root: Path, of: str) -> Summary | None:
    """Reads what the last `compare` showed; None where it compared something else, or not at all."""
    try:
        found: Summary = schema.convert(json.loads((root / FILE).read_text()), Summary)
    except (OSError, ValueError, UserError):
        return None
    return found if found.of == of else None
