"""A table in four languages: CSV, Markdown, LaTeX and, in the page's template, HTML."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from medtransfer.report.tables import Entry, Grid, Section

TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "†": r"$^\dagger$", "“": "``", "”": "''", "|": r"\textbar{}",
}  # fmt: skip
"""characters that LaTeX would read as commands, or that its default fonts lack"""

FIRST_UNKNOWN = 0x180
"""code of the first letter that pdflatex cannot be relied on to know"""


def records_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """Writes records with equal keys; None is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(records[0]) if records else [], lineterminator="\n")
    writer.writeheader()
    words = {True: "true", False: "false"}
    for record in records:
        writer.writerow({k: words[v] if isinstance(v, bool) else v for k, v in record.items()})
    return text.getvalue()


def table_csv(grid: Grid) -> str:
    """Writes a table with the texts that a person sees."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(grid.header)
    writer.writerows([entry.text for entry in row] for row in grid.rows)
    return text.getvalue()


def table_markdown(grid: Grid) -> str:
    """Writes a table in the pipe form; the best of a column is bold."""

    def text(entry: Entry) -> str:
        words = entry.text.replace("|", "\\|")
        return f"**{words}**" if entry.best else words

    lines = [[text(Entry(title)) for title in grid.header], ["---"] * len(grid.header)]
    lines += [[text(entry) for entry in row] for row in grid.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def table_tex(section: Section, grid: Grid, above: Sequence[str]) -> str:
    r"""Writes a floating table in the rules of booktabs, with its notes below it.

    The document that inputs it needs `\usepackage{booktabs,graphicx}`: a wide table is shrunk to the line.

    Args:
        section: what the table belongs to.
        grid: the table.
        above: sentences that must stand with every score.
    """
    columns = "l" * min(1, len(grid.header)) + "r" * (len(grid.header) - 1)
    body = [" & ".join(map(tex, grid.header)) + r" \\", r"\midrule"]
    for row in grid.rows:
        body.append(" & ".join(rf"\textbf{{{tex(e.text)}}}" if e.best else tex(e.text) for e in row) + r" \\")
    tabular = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *body, r"\bottomrule", r"\end{tabular}"]
    box = [r"\sbox0{%", *tabular, r"}\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi"]
    words = tex(" ".join([*above, *section.lead, *section.notes]))
    notes = [rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize {words}}}"]
    caption = rf"\caption{{{tex(section.title)}}}\label{{tab:{section.slug}}}"
    return "\n".join([r"\begin{table}[htbp]", r"\centering", caption, *box, *notes, r"\end{table}", ""])


def tex(text: str) -> str:
    """Escapes what LaTeX would read as a command; a letter that its first 256 lack becomes a question mark."""
    return "".join(TEX.get(sign, sign if ord(sign) < FIRST_UNKNOWN else "?") for sign in text)
