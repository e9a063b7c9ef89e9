"""The page of a contribution: whose it is, what it was trained with, what re-runs said, every run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from medtransfer.comparison.wording import as_word, first_lines
from medtransfer.core import schema
from medtransfer.packs import counted
from medtransfer.packs.counted import Run
from medtransfer.packs.records import Certificate, Checked, Contribution
from medtransfer.packs.site import words
from medtransfer.packs.site.board import Board
from medtransfer.packs.site.layout import NONE, Cell, Page, Part, path_of, table


def page(found: Board, one: Contribution) -> Page:
    """Lays out a contribution: whose it is, what it was trained with, what re-runs said, every run."""
    own = [run for run in found.runs if run.contribution == one.digest]
    results = [run.result for run in own]
    devices = sorted({result.device for result in results})
    days = sorted({result.finished[:10] for result in results} - {""})
    counts = len(counted.counting(own))
    facts = (
        ("Lab", Cell(text=one.lab)),
        ("Status", words.status(found.status(one.digest))),
        ("Made", Cell(text=one.created)),
        ("Digest", Cell(text=one.digest)),
        ("Runs", Cell(text=f"{len(own):,}, of which {counts:,} count; protocol version {one.protocol_version}")),
        ("Trained", Cell(text=f"{' to '.join(dict.fromkeys((days[0], days[-1]))) if days else 'not said when'}; on "
                              f"{words.listed(devices)}")),
        ("Predictions", Cell(text="in the pack" if one.predictions else "not in the pack")),
        ("Tuning studies", Cell(text=f"{len(one.ledgers):,}" if one.ledgers else "none")),
    )  # fmt: skip
    parts = [part for each in _certificates(found, one) for part in each]
    parts += words.left(own)
    parts += [
        _runs(found, own),
        _pairs("Machine that packed it", "environment", dict(one.environment)),
        _pairs("Parameters", "parameters", schema.flatten(dict(one.params)) if one.params else {}),
    ]
    first = tuple(first_lines(results))
    title = f"Contribution of {one.lab}"
    return Page(
        path=path_of("packs", one.digest), title=title, first=first, facts=facts,
        parts=tuple(part for part in parts if part.table is None or part.table.lines),
    )  # fmt: skip


def _certificates(found: Board, one: Contribution) -> list[list[Part]]:
    mine = [each for each in found.pack.certificates if each.contribution == one.digest]
    index = {result.digest: result for result in one.results}
    made = []
    for number, each in enumerate(sorted(mine, key=lambda each: (each.finished, each.by, each.draw)), start=1):
        lines = []
        for run in each.checked:
            result = index.get(run.run)
            named = (
                (words.task_cell(result.task), _init(found, result.init), str(result.seed)) if result else ("?",) * 3
            )
            lines.append((*named, *_checked(run)))
        header = ("task", "init", "seed", "claimed", "found", "allowed spread", "verdict", "note")
        part = Part(
            title=f"Trained again by {each.by}, {each.finished[:10]}", slug=f"certificate-{number}",
            table=table(f"Runs that {each.by} trained again", header, lines), notes=_said(one, each),
        )  # fmt: skip
        made.append([part])
    return made


def _init(found: Board, init: str) -> Cell:
    return words.init_cell(found, init)


def _checked(run: Checked) -> tuple[str, ...]:
    numbers = [NONE if value is None else f"{100 * value:.4f}" for value in (run.claimed, run.found, run.spread)]
    return (*numbers, run.verdict, run.note or NONE)


def _said(one: Contribution, each: Certificate) -> tuple[str, ...]:
    counts = Counter(run.verdict for run in each.checked)
    verdicts = ", ".join(
        f"{counts[name]} {name}" for name in ("equal", "within", "different", "failed") if counts[name]
    )
    limited = f" of {words.listed(each.tasks)}" if each.tasks else ""
    notes = [
        f"{len(each.checked)} of {len(one.results):,} runs, drawn with seed {each.draw} ({100 * each.share:g} % asked"
        f"{limited}): {verdicts or 'none'}. On {each.machine}. Scores in percent.",
    ]
    if each.by == one.lab:
        notes.append("The lab trained its own runs again: that verifies nothing, though it can refute.")
    if not each.holds and not each.refutes:
        notes.append("It neither verifies nor refutes: not every drawn run gave a score.")
    return (*notes, *([f"Allowed spread: {each.rule}."] if each.rule else []))


def _runs(found: Board, own: Sequence[Run]) -> Part:
    lines = []
    for run in own:
        result, seconds = run.result, words.seconds(run)
        lines.append(
            (words.task_cell(result.task), words.init_cell(found, result.init), str(result.seed), result.part or NONE,
             NONE if result.score is None else f"{100 * result.score:.2f}",
             NONE if seconds is None else f"{seconds:,.0f}",
             f"{result.cost['images']:,.0f}" if "images" in result.cost else NONE, result.digest[:12],
             run.why or "yes")
        )  # fmt: skip
    header = ("task", "init", "seed", "part", "score, percent", "seconds", "images", "digest", "counts")
    return Part(title="Every run", slug="runs", table=table("A run per row", header, lines), folded=True)


def _pairs(title: str, slug: str, pairs: dict[str, object]) -> Part:
    lines = [(name, as_word(value)) for name, value in sorted(pairs.items())]
    return Part(title=title, slug=slug, table=table(title, ("name", "value"), lines), folded=len(lines) > 12)
