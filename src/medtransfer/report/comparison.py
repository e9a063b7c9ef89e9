"""A comparison as Python has it: the answer in words, tables, figures, and itself as a page or in a notebook."""

from __future__ import annotations

import html
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtransfer.comparison.contrasts import ALL
from medtransfer.comparison.findings import Findings
from medtransfer.comparison.wording import first_lines
from medtransfer.core import files
from medtransfer.core.errors import UserError
from medtransfer.core.schema import nearest
from medtransfer.report.formats import table_tex
from medtransfer.report.sections import scores
from medtransfer.report.tables import Grid

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Comparison</title><style>
body{{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}
table{{border-collapse:collapse}}th,td{{padding:.3rem .8rem;text-align:right;border-bottom:1px solid #ccc}}
th,td{{white-space:nowrap}}
th:first-child,td:first-child{{text-align:left}}div{{overflow-x:auto}}img{{max-width:100%}}figure{{margin:2rem 0}}
figcaption{{font-size:.85rem;color:#555}}h1{{font-size:1.4rem}}
</style><h1>Comparison</h1>{body}</html>
"""


@dataclass(frozen=True)
class Comparison:
    """What some runs say of what they started from."""

    findings: Findings
    """all of it, as the report reads it"""

    @property
    def answer(self) -> str:
        """Says which to start from, over all tasks; with a single task, on that."""
        answers = self.answers
        return answers.get(ALL) or next(iter(answers.values()))

    @property
    def answers(self) -> dict[str, str]:
        """Says which to start from: over all tasks where there are several, then task by task."""
        return {answer.scope: answer.text for answer in self.findings.answers}

    def table(self) -> pd.DataFrame:
        """Lists every init on every task: `mean`, `std` (ddof 1) and `n` of the score on test, `val`, what is missing.

        `best`: no other was shown to be better. A row without all its runs has no mean.
        """
        import pandas as pd

        kept = {task: column.candidates for task, column in self.findings.columns.items()}
        return pd.DataFrame(
            {
                "task": row.task,
                "init": row.init,
                "mean": row.summary.mean if row.summary else None,
                "std": row.summary.std if row.summary else None,
                "n": row.summary.n if row.summary else len(row.scores),
                "unit": row.unit,
                "val": row.val,
                "best": row.compared and row.init in kept.get(row.task, ()),
                "missing": " ".join(map(str, row.missing)),
                "undefined": " ".join(map(str, row.undefined)),
                "marks": " ".join(row.marks),
            }
            for row in self.findings.rows
        )

    def contrasts(self) -> pd.DataFrame:
        """Lists every two inits on every task and over all: difference, intervals, verdict; all hold at once."""
        import pandas as pd

        from medtransfer.comparison import record

        return pd.DataFrame(record.contrasts(self.findings))

    def figure(self, name: str = "forest", task: str = "") -> Figure:
        """Draws a figure of the report.

        Args:
            name: `forest` (differences to the reference with intervals), `scores`, `answer`, `ranks`, `bars`, ...
            task: of a figure that is of one task; empty: the first.

        Raises:
            UserError: there is no such figure, or it has nothing to show.
        """
        from medtransfer.report.figures import drawings

        found = drawings.drawings(self.findings, only=name)
        slug = name if name in found else f"{name}-{task or self.findings.benchmark.tasks[0]}"
        if slug not in found:
            raise UserError(f"there is no figure {name!r} of these runs{nearest(slug, found)}")
        picture: Any = found[slug]
        picture._repr_svg_ = lambda: drawings.to_svg(picture).decode()  # so that a notebook shows it without pyplot
        return found[slug]

    def to_html(self) -> str:
        """Writes the answer, the scores and their notes as a part of a page, without a file beside it."""
        notes = "".join(f"<p><small>{html.escape(note)}</small></p>" for note in self._notes())
        answers = "".join(
            f"<p><b>{html.escape(scope)}</b>: {html.escape(text)}</p>" for scope, text in self.answers.items()
        )
        return f"<div>{answers}{_table_html(scores.score_grid(self.findings))}{notes}</div>"

    def to_latex(self) -> str:
        r"""Writes the scores as a floating table; its document needs `\usepackage{booktabs,graphicx}`."""
        section = scores.scores(self.findings)
        return table_tex(section, scores.score_grid(self.findings), first_lines(self.findings.results))

    def save(self, folder: str | Path) -> None:
        """Writes `scores.csv`, `contrasts.csv`, the figures as SVG and `index.html` into a folder."""
        from medtransfer.report.figures import drawings

        folder = Path(folder)
        files.make_folder(folder)
        self.table().to_csv(folder / "scores.csv", index=False)
        self.contrasts().to_csv(folder / "contrasts.csv", index=False)
        pictures = []
        for slug, figure in drawings.drawings(self.findings).items():
            (folder / f"{slug}.svg").write_bytes(drawings.to_svg(figure))
            said = html.escape(drawings.caption(slug, self.findings))
            pictures.append(f'<figure><img src="{slug}.svg" alt="{said}"><figcaption>{said}</figcaption></figure>')
        (folder / "index.html").write_text(PAGE.format(body=self.to_html() + "".join(pictures)))

    def _notes(self) -> list[str]:
        return [*first_lines(self.findings.results), *scores.score_notes(self.findings)]

    def _repr_html_(self) -> str:
        """Is what a notebook shows."""
        return self.to_html()

    def __str__(self) -> str:
        """Is what the terminal shows: the scores, their notes, the answers."""
        from rich.console import Console

        from medtransfer.report import console

        text = io.StringIO()
        Console(file=text, width=100).print(console.layout(console.summarize(self.findings), every_task=True))
        return text.getvalue()


def _table_html(grid: Grid) -> str:
    head = "".join(f"<th>{html.escape(title)}</th>" for title in grid.header)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td><b>{html.escape(e.text)}</b></td>" if e.best else f"<td>{html.escape(e.text)}</td>" for e in row
        )
        + "</tr>"
        for row in grid.rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
