"""The page of a task: every initialization's score, and who is separated from whom."""

from __future__ import annotations

from collections.abc import Sequence

from medtransfer.comparison.wording import first_lines, margin_words
from medtransfer.core.errors import quantity
from medtransfer.packs import counted
from medtransfer.packs.counted import Run
from medtransfer.packs.site import words
from medtransfer.packs.site.board import Board
from medtransfer.packs.site.layout import NONE, Cell, Page, Part, path_of, table
from medtransfer.statistics import metrics


def page(found: Board, task: str) -> Page:
    """Lays out a task: every init's score, and who is separated from whom."""
    card, own = found.tasks[task], found.of(task=task)
    facts = [
        ("Task", Cell(text=f"{card.title} ({card.kind}), images: {card.modality}")),
        ("Metric", Cell(text=f"{metrics.title(card.metric)}, margin {margin_words(card.margin)}")),
    ]
    first = tuple(first_lines(run.result for run in own))
    left = words.left([run for run in found.runs if run.result.task == task])
    if not own:
        return Page(path=path_of("tasks", task), title=task, facts=tuple(facts), parts=tuple(left))
    result, seeds = own[0].result, found.seeds[task]
    counts = ", ".join(f"{number:,} {split}" for split, number in result.counts.items())
    facts += [
        ("Data", Cell(text=f"images {counts}; {result.split or 'split not said'}; data {result.manifest_digest[:12]}")),
        (
            "Compared on",
            Cell(text=f"{quantity(len(seeds), 'seed')} ({', '.join(map(str, seeds))}), of {words.labs(own)}"),
        ),
    ]
    parts = [_scores(found, task), _who(found, task), *left]
    return Page(
        path=path_of("tasks", task), title=task, first=first, facts=tuple(facts), answers=(found.answers[task],),
        method=words.method(found), parts=tuple(part for part in parts if part),
    )  # fmt: skip


def _scores(found: Board, task: str) -> Part:
    rows = [row for (name, _), row in found.rows.items() if name == task and found.of(init=row.init, task=task)]
    rows.sort(key=lambda row: (not row.compared, -(row.summary.mean if row.summary else 0.0), row.init))
    column, lines = found.columns.get(task), []
    for row in rows:
        runs = found.of(init=row.init, task=task)
        contrasts = column.all_of(row.init) if column is not None and row.init in column.inits else []
        against = found.against(column, row.init)
        best = column is not None and row.compared and row.init in column.candidates
        score = words.score(row)
        better, worse = sum(one.better for one in contrasts), sum(one.worse for one in contrasts)
        lines.append(
            (words.init_cell(found, row.init), Cell(text=score.text, small=score.small, strong=best),
             str(row.summary.n) if row.summary else NONE, words.score_interval(row),
             words.in_points(found, column, row.init), against.word if against else NONE,
             f"{better} / {worse}" if contrasts else NONE, words.backbone(found, row.init),
             words.cost(runs, (task,)), words.labs(runs), words.status(*_status(runs)))
        )  # fmt: skip
    header = (
        "init", "score", "n", "95 % interval of it alone", f"minus {found.reference}, points", "verdict",
        "better / worse", "backbone", "cost of a run", "labs", "status",
    )  # fmt: skip
    bold = "Bold: no other was shown to be better on this task."
    return Part(
        title="Initializations", slug="initializations", notes=(*words.SCORES, bold),
        table=table(f"Initializations on {task}, best mean score first", header, lines),
    )  # fmt: skip


def _status(runs: Sequence[Run]) -> tuple[counted.Status, str]:
    checked = sum(run.status == "verified" for run in runs)
    whole = checked == len(runs)
    return ("verified", "") if whole else ("claimed", f"{checked} of {len(runs)} verified" if checked else "")


def _who(found: Board, task: str) -> Part | None:
    """Says of every init on a task who it is separated from."""
    column = found.columns.get(task)
    if column is None:
        return None
    notes = []
    for init in sorted(column.inits, key=lambda name: -_mean(found, task, name)):
        notes.append(f"{found.labels[init]}: {words.separated(found, column.all_of(init))}.")
    return Part(title="Who is separated from whom", slug="separated", notes=tuple(notes))


def _mean(found: Board, task: str, init: str) -> float:
    summary = found.rows[task, init].summary
    return summary.mean if summary else 0.0
