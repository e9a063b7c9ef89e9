"""The report: CSV files, tables in four languages, figures and one page, from the findings.

Writes only below the results folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from medtransfer import params
from medtransfer.comparison import record
from medtransfer.comparison.findings import Findings
from medtransfer.comparison.wording import first_lines, shared_marks
from medtransfer.core import files, progress
from medtransfer.report import checklist, formats, gallery
from medtransfer.report.figures import drawings, names
from medtransfer.report.inline import Picture
from medtransfer.report.pages import environment
from medtransfer.report.sections import answers
from medtransfer.report.sections.facts import facts
from medtransfer.report.sections.order import sections_of
from medtransfer.report.tables import Section, column_title
from medtransfer.results import examples
from medtransfer.results.result import of_task

TITLE = "Comparison of initializations"
PAPER = ("images-", "labels-")
"""how the names of figures begin whose colours are not to be turned in the dark"""


def write(
    findings: Findings, published: params.Params, results: Path, out: Path, links: Mapping[str, str] | None = None
) -> None:
    """Writes the CSV files, `metrics.json` and `report/`: the page, its Markdown, a checklist, tables and figures.

    Args:
        findings: what is reported.
        published: the published protocol, against which deviations are listed.
        results: folder of finished runs, for their example images.
        out: results folder.
        links: words -> address of what belongs to these runs elsewhere, for the page.
    """
    shutil.rmtree(out / "report", ignore_errors=True)
    tables = {
        "runs": record.runs(record.every_run(findings)),
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
    _save(out / "report" / "comparison.md", _markdown(first, facts(findings), sections, pictures))
    _save(out / "report" / "checklist.md", checklist.render(findings, first))
    _save(out / "report" / "index.html", _page(findings, first, sections, pictures, links or {}))


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
        figure = gallery.figure(found, task, of_task(findings.results, task))
        drawn[f"images-{task}"] = (figure, f"{task}: best and worst test images.")
    pictures = {}
    with progress.bar("figures", len(drawn), "figures") as advance:
        for slug, (figure, caption) in drawn.items():
            _save(folder / f"{slug}.png", drawings.to_png(figure))
            svg = drawings.to_svg(figure)
            _save(folder / f"{slug}.svg", svg)
            pictures[slug] = Picture(slug, svg.decode(), caption, paper=slug.startswith(PAPER))
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


def _markdown(
    first: Sequence[str], about: Sequence[tuple[str, str]], sections: Sequence[Section], pictures: Mapping[str, Picture]
) -> str:
    parts = [*first, f"# {TITLE}", "\n".join(f"- {name}: {words}." for name, words in about)]
    for section in sections:
        parts.append(f"{'#' * section.level} {section.title}")
        parts += [*(first if section.scores else []), *section.lead]
        parts += [formats.table_markdown(section.grid)] if section.grid else []
        notes = [f"- {note}" if section.bullets else note for note in section.notes]
        parts += ["\n".join(notes)] if section.bullets else notes
        parts += [f"![{pictures[s].caption}](figures/{s}.png)" for s in section.figures if s in pictures]
    return "\n\n".join(parts) + "\n"


def _page(
    findings: Findings,
    first: Sequence[str],
    sections: Sequence[Section],
    pictures: Mapping[str, Picture],
    links: Mapping[str, str],
) -> str:
    shown = next((pictures[slug] for slug in ("answer", "scores") if slug in pictures), None)
    return environment().get_template("report.html").render(
        title=TITLE, first=first, facts=facts(findings), links=links, answers=findings.answers,
        method=answers.answer_method(findings), shown=shown, sections=sections[1:], brief=_brief(findings),
        pictures={slug: picture for slug, picture in pictures.items() if picture is not shown},
    )  # fmt: skip


def _brief(findings: Findings) -> dict[str, str]:
    """Gives texts of table cells that the page shortens, as the whole is under the pointer: inits, marked titles."""
    common = shared_marks(findings.results)  # the page's banner says what holds for all
    columns = [(of_task(findings.results, task), task) for task in findings.benchmark.tasks]
    titles = {column_title(own, task): column_title(own, task, common) for own, task in columns}
    short = {**names.names(findings.benchmark.inits), **titles}
    return {text: words for text, words in short.items() if words != text}
