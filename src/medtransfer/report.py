"""The report: CSV files, Markdown, a page and a table for the terminal, from the cells that `finetune` wrote.

Reads one `cell.json` per run and writes only below the results folder.
"""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from medtransfer import files, params
from medtransfer.comparison import Cell, Row, collect, compare, first_lines, select
from medtransfer.figures import figure, to_png
from medtransfer.tables import Entry, Grid, Section, score_grid, score_notes, sections_of

CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; max-width: 68rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: .3rem } h2 { font-size: 1.1rem; margin-top: 2.2rem }
.mark { background: #fff3cd; border-left: 4px solid #e69f00; padding: .5rem .8rem; margin: .5rem 0 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .8rem; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top }
th { border-bottom: 2px solid #888 } td + td { white-space: nowrap }
p.note, li { font-size: .9rem; color: #444; margin: .25rem 0 } img { max-width: 100% }
"""


def write(
    cells: Path, benchmark: params.Benchmark, comparison: params.Comparison, published: params.Params, out: Path
) -> str:
    """Compares the benchmark's runs and writes `runs.csv`, `comparison.csv` and `report/` below `out`.

    Args:
        cells: folder of finished runs.
        benchmark: the expected runs, with canonical init names; other runs in the folder are named and left out.
        comparison: test and alpha.
        published: the published protocol, against which deviations are listed.
        out: results folder.

    Returns:
        The report as Markdown.

    Raises:
        UserError: cells are corrupt, duplicated or mixed.
    """
    found = collect(cells)
    chosen = select(found, benchmark)
    rows = compare(chosen, benchmark, comparison)
    sections = sections_of(chosen, rows, benchmark, comparison, published, len(found) - len(chosen))
    picture = to_png(figure(chosen, rows, benchmark))
    markdown = _markdown(first_lines(chosen), sections)
    _save(out / "runs.csv", _csv(_run_records(chosen)))
    _save(out / "comparison.csv", _csv(_comparison_records(chosen, rows, comparison)))
    _save(out / "report" / "comparison.png", picture)
    _save(out / "report" / "comparison.md", markdown)
    _save(out / "report" / "index.html", _page(first_lines(chosen), sections, picture))
    return markdown


def console_table(cells: Sequence[Cell], benchmark: params.Benchmark, comparison: params.Comparison) -> RenderableType:
    """Lays the comparison out for the terminal: one row per initialization, one column per task."""
    chosen = select(cells, benchmark)
    rows = compare(chosen, benchmark, comparison)
    grid = score_grid(chosen, rows, benchmark)
    table = Table()
    for index, title in enumerate(grid.header):
        table.add_column(Text(title), justify="right" if index else "left", no_wrap=not index)
    for line in grid.rows:
        table.add_row(*(Text(entry.text, style="bold" if entry.best else "") for entry in line))
    notes = score_notes(chosen, rows, benchmark, comparison, len(cells) - len(chosen))
    above = [Text(line, style="bold yellow") for line in first_lines(chosen)]
    return Group(*above, table, *(Text(note, style="dim") for note in notes))


def _run_records(cells: Iterable[Cell]) -> list[dict[str, Any]]:
    return [
        {
            "task": cell.task,
            "init": cell.init,
            "seed": cell.seed,
            "fold": cell.fold,
            "metric": name,
            "value": value,
            "digest": cell.digest,
            "marks": " ".join(cell.marks),
            "labels_defined": cell.labels - len(cell.undefined),
            "labels": cell.labels,
            "device": cell.device,
            "protocol_version": cell.protocol_version,
            "manifest_digest": cell.manifest_digest,
            "weights_sha256": cell.weights_sha256,
            "mlflow_run_id": cell.mlflow_run_id,
        }
        for cell in cells
        for name, value in sorted({**cell.scores, **cell.cost}.items())
    ]


def _comparison_records(
    cells: Sequence[Cell], rows: Iterable[Row], comparison: params.Comparison
) -> list[dict[str, Any]]:
    firsts = {cell.task: cell for cell in reversed(cells)}
    return [_comparison_record(row, firsts.get(row.task), comparison) for row in rows]


def _comparison_record(row: Row, cell: Cell | None, comparison: params.Comparison) -> dict[str, Any]:
    """Lays out a row; an empty value means undefined, missing or not applicable."""
    test = row.test
    return {
        "task": row.task,
        "init": row.init,
        "metric": cell.metric if cell else None,
        "mean": row.summary.mean if row.summary else None,
        "std": row.summary.std if row.summary else None,
        "n": len(row.seeds),
        "best": row.best,
        "difference": row.difference,
        "p": test.p if test else None,
        "separated": row.separated,
        "test": test.test if test else comparison.test,
        "statistic": test.statistic if test else None,
        "df": test.df if test else None,
        "ddof": 1,
        "alpha": comparison.alpha,
        "correction": "none",
        "unit": "run" if row.unit == "seed" else "fold",
        "labels_defined": cell.labels - len(cell.undefined) if cell else None,
        "labels": cell.labels if cell else None,
        "applicable": row.applicable,
        "seeds": " ".join(map(str, row.seeds)),
        "undefined": " ".join(map(str, row.undefined)),
        "missing": " ".join(map(str, row.missing)),
        "marks": " ".join(row.marks),
        "note": test.note if test else "",
    }


def _csv(records: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    for record in records:
        words = {True: "true", False: "false"}
        writer.writerow({k: words[v] if isinstance(v, bool) else v for k, v in record.items()})
    return text.getvalue()


def _save(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def _markdown(first: Sequence[str], sections: Iterable[Section]) -> str:
    parts = [*first, "# Comparison of initializations"]
    for section in sections:
        parts.append(f"## {section.title}")
        parts += first if section.scores else []
        parts += [_markdown_table(section.grid)] if section.grid else []
        notes = [f"- {note}" if section.bullets else note for note in section.notes]
        parts += ["\n".join(notes)] if section.bullets else notes
        parts += ["![Scores by task](comparison.png)"] if section.picture else []
    return "\n\n".join(parts) + "\n"


def _markdown_table(grid: Grid) -> str:
    def text(entry: Entry) -> str:
        words = entry.text.replace("|", "\\|")
        return f"**{words}**" if entry.best else words

    lines = [[text(Entry(title)) for title in grid.header], ["---"] * len(grid.header)]
    lines += [[text(entry) for entry in row] for row in grid.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _page(first: Sequence[str], sections: Iterable[Section], picture: bytes) -> str:
    marks = [f'<p class="mark">{html.escape(line)}</p>' for line in first]
    body = [*marks, "<h1>Comparison of initializations</h1>"]
    for section in sections:
        body.append(f"<h2>{html.escape(section.title)}</h2>")
        body += marks if section.scores else []
        body += [_page_table(section.grid)] if section.grid else []
        notes = map(html.escape, section.notes)
        body += (
            ["<ul>", *(f"<li>{note}</li>" for note in notes), "</ul>"]
            if section.bullets
            else [f'<p class="note">{note}</p>' for note in notes]
        )
        if section.picture:
            data = base64.b64encode(picture).decode()
            body.append(f'<p><img alt="Scores by task" src="data:image/png;base64,{data}"></p>')
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Comparison</title>'
    head += f"<style>{CSS}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"


def _page_table(grid: Grid) -> str:
    def line(tag: str, entries: Iterable[Entry]) -> str:
        texts = (f"<strong>{html.escape(e.text)}</strong>" if e.best else html.escape(e.text) for e in entries)
        return "<tr>" + "".join(f"<{tag}>{text}</{tag}>" for text in texts) + "</tr>"

    head = line("th", map(Entry, grid.header))
    lines = "\n".join(line("td", row) for row in grid.rows)
    return f'<div class="scroll"><table><thead>{head}</thead>\n<tbody>\n{lines}\n</tbody></table></div>'
