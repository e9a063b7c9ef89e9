"""The report: CSV files, tables in four languages, figures and one page, from the findings.

Writes only below the results folder.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

from medtransfer import params
from medtransfer.comparison import record
from medtransfer.comparison.findings import Findings
from medtransfer.comparison.wording import first_lines
from medtransfer.core import files, progress
from medtransfer.report import formats, gallery
from medtransfer.report.figures import drawings
from medtransfer.report.sections import answers
from medtransfer.report.sections.order import sections_of
from medtransfer.report.tables import Section
from medtransfer.results import examples

TITLE = "Comparison of initializations"
HALF = 1100
"""pixels of a figure that two stand beside each other with"""


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it."""

    png: bytes
    caption: str

    @property
    def wide(self) -> bool:
        """Says whether the figure needs the page's whole width; PNG keeps its own in bytes 16 to 20."""
        return int.from_bytes(self.png[16:20], "big") > HALF

    @property
    def data(self) -> str:
        """Is the PNG in base64."""
        return base64.b64encode(self.png).decode()


def write(findings: Findings, published: params.Params, results: Path, out: Path) -> None:
    """Writes the CSV files, `metrics.json` and `report/`: the page, its Markdown, tables and figures.

    Args:
        findings: what is reported.
        published: the published protocol, against which deviations are listed.
        results: folder of finished runs, for their example images.
        out: results folder.
    """
    shutil.rmtree(out / "report", ignore_errors=True)
    tables = {
        "runs": record.runs(findings.results),
        "comparison": record.comparison(findings),
        "contrasts": record.contrasts(findings),
        "claims": record.claims(findings),
        "curves": record.curves(findings.results),
    }
    for name, records in tables.items():
        _save(out / f"{name}.csv", formats.records_csv(records))
    _save(out / "metrics.json", json.dumps(record.metrics(findings), indent=1, sort_keys=True) + "\n")
    images = _examples(findings, results)
    sections = [*sections_of(findings, published), *_image_sections(images)]
    pictures = _draw(findings, images, out / "report" / "figures")
    first = first_lines(findings.results)
    for section in sections:
        _save_table(out / "report" / "tables", section, first if section.scores else [])
    _save(out / "report" / "comparison.md", _markdown(first, sections, pictures))
    _save(out / "report" / "index.html", _page(findings, first, sections, pictures))


def _examples(findings: Findings, results: Path) -> dict[str, examples.Examples]:
    """Reads the example images of each task's chosen initialization, if the parameters let the report show them."""
    found = {}
    chosen = {answer.scope: answer.chosen for answer in findings.answers}
    for result in findings.results:
        path = results / result.task / result.digest / "examples.npz"
        shown = findings.settings.images == "all" or (
            findings.settings.images == "synthetic" and "synthetic" in result.marks
        )
        if shown and chosen.get(result.task) == result.init and result.task not in found and path.is_file():
            found[result.task] = examples.load(path)
    return found


def _image_sections(images: Mapping[str, examples.Examples]) -> list[Section]:
    note = (
        "Best and worst test images of the chosen initialization's first seed, at most one per patient, as the network "
        "saw them. Look at them before you trust a number; a heat map says where the network looked, not why."
    )
    head = [Section(title="Test images", slug="images", notes=(note,))] if images else []
    return head + [
        Section(level=3, title=task, slug=f"images-{task}", figures=(f"images-{task}",), scores=True) for task in images
    ]


def _draw(findings: Findings, images: Mapping[str, examples.Examples], folder: Path) -> dict[str, Picture]:
    """Draws every figure as PNG and SVG."""
    drawn: dict[str, tuple[Figure, str]] = {
        slug: (figure, drawings.caption(slug, findings)) for slug, figure in drawings.drawings(findings).items()
    }
    for task, found in images.items():
        drawn[f"images-{task}"] = (gallery.figure(found, task), f"{task}: best and worst test images.")
    pictures = {}
    with progress.bar("figures", len(drawn), "figures") as advance:
        for slug, (figure, caption) in drawn.items():
            pictures[slug] = Picture(drawings.to_png(figure), caption)
            _save(folder / f"{slug}.png", pictures[slug].png)
            _save(folder / f"{slug}.svg", drawings.to_svg(figure))
            advance()
    return pictures


def _save_table(folder: Path, section: Section, above: Sequence[str]) -> None:
    if section.grid is None:
        return
    _save(folder / f"{section.slug}.csv", formats.table_csv(section.grid))
    _save(folder / f"{section.slug}.md", formats.table_markdown(section.grid) + "\n")
    _save(folder / f"{section.slug}.tex", formats.table_tex(section, section.grid, above))


def _save(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def _markdown(first: Sequence[str], sections: Sequence[Section], pictures: Mapping[str, Picture]) -> str:
    parts = [*first, f"# {TITLE}"]
    for section in sections:
        parts.append(f"{'#' * section.level} {section.title}")
        parts += first if section.scores else []
        parts += [formats.table_markdown(section.grid)] if section.grid else []
        notes = [f"- {note}" if section.bullets else note for note in section.notes]
        parts += ["\n".join(notes)] if section.bullets else notes
        parts += [f"![{pictures[s].caption}](figures/{s}.png)" for s in section.figures if s in pictures]
    return "\n\n".join(parts) + "\n"


def _page(
    findings: Findings, first: Sequence[str], sections: Sequence[Section], pictures: Mapping[str, Picture]
) -> str:
    loader = jinja2.PackageLoader("medtransfer.report")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html").render(
        title=TITLE, first=first, answers=findings.answers, method=answers.answer_method(findings),
        sections=sections[1:], pictures=pictures,
    )  # fmt: skip
