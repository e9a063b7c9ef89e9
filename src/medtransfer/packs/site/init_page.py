"""The page of an initialization: where it stands, its scores, whose runs they are."""

from __future__ import annotations

from collections.abc import Sequence

from medtransfer.comparison.wording import first_lines
from medtransfer.packs import counted
from medtransfer.packs.counted import Run
from medtransfer.packs.site import words
from medtransfer.packs.site.board import Board, backbone
from medtransfer.packs.site.boards import path_of_scope
from medtransfer.packs.site.layout import NONE, Cell, Page, Part, path_of, table
from medtransfer.statistics import metrics

RANDOM = "random for every seed"


def page(found: Board, init: str) -> Page:
    """Lays out what is known of an initialization: where it stands, its scores, who trained it."""
    card, own = found.inits[init], [run for run in found.runs if run.result.init == init]
    tensors = sorted({str(run.result.weights_sha256 or "") for run in counted.counting(own)} - {"", "random"})
    begun = ", ".join(tensors) or card.tensors_sha256 or (RANDOM if card.family == "random" else words.UNKNOWN)
    facts = (
        ("Init", Cell(text=init)),
        ("Backbone", Cell(text=f"{backbone(init)}, {words.parameters(card)} parameters")),
        ("Family", Cell(text=f"{card.family}, pre-trained on: {card.modality}")),
        ("Licence", Cell(text=f"{card.licence or 'not stated'}; commercial use: {card.commercial}")),
        ("Published file", Cell(text=f"sha256 {card.weights_sha256}" if card.weights_sha256 else NONE)),
        ("Tensors", Cell(text=begun if begun in (RANDOM, words.UNKNOWN) else f"sha256 {begun}")),
        ("Status", words.status(*found.verified(init))),
    )
    parts = [_standing(found, init), _scores(found, init), _whose(found, own), *words.left(own)]
    first = tuple(first_lines(run.result for run in counted.counting(own)))
    return Page(path=path_of("inits", init), title=found.labels[init], first=first, facts=facts, parts=tuple(parts))


def _standing(found: Board, init: str) -> Part:
    lines: list[Sequence[Cell | str]] = []
    for scope in found.scopes:
        name = Cell(text=scope.name, href=path_of_scope(scope))
        if init not in scope.ranked:
            lines.append((name, Cell(text=NONE, small=words.lacks(found, init, scope.left[init])), *[NONE] * 4))
            continue
        contrast = found.against(scope.column, init)
        rank = f"{scope.place(init)} of {len(scope.ranked)}"
        verdict = contrast.word if contrast else NONE
        gain = words.in_margins(found, scope.column, init)
        lines.append((name, rank, words.win_rate(scope, init), words.mean_rank(scope, init), gain, verdict))
    other = found.labels.get(found.reference_of(init), found.reference)
    header = ("tasks", "rank", "win rate", "mean rank", f"over {other}, margins", "verdict")
    notes = tuple(
        f"{scope.name}: {words.separated(found, scope.column.all_of(init))}."
        for scope in found.scopes
        if scope.column and init in scope.ranked
    )
    return Part(
        title="Where it stands", slug="standing", table=table("A set of tasks per row", header, lines), notes=notes
    )


def _scores(found: Board, init: str) -> Part:
    other = found.labels.get(found.reference_of(init), found.reference)
    lines = []
    for task in found.seeds:
        row, column = found.rows[task, init], found.columns.get(task)
        contrast = found.against(column, init)
        n = str(row.summary.n) if row.summary else NONE
        lines.append(
            (words.task_cell(task, metrics.title(found.tasks[task].metric)), words.score(row), n,
             words.score_interval(row), words.in_points(found, column, init), contrast.word if contrast else NONE,
             words.labs(found.of(init=init, task=task)))
        )  # fmt: skip
    header = (
        "task", "score", "n", "95 % interval of it alone", f"minus {other}, points", "verdict", "labs",
    )  # fmt: skip
    return Part(title="Scores", slug="scores", table=table("A task per row", header, lines), notes=words.SCORES)


def _whose(found: Board, own: Sequence[Run]) -> Part:
    """Lists the contributions that hold runs, and what re-runs of these runs said."""
    digests = {run.result.digest for run in own}
    lines = []
    for one in found.contributions:
        mine = [run for run in own if run.contribution == one.digest]
        if mine:
            by = [each for each in found.pack.certificates if each.contribution == one.digest]
            checked = [(each, run) for each in by for run in each.checked if run.run in digests]
            said = ", ".join(f"{run.verdict} ({each.by})" for each, run in checked) or NONE
            lines.append(
                (words.contribution_cell(one.lab, one.digest), one.created[:10], f"{len(mine):,}",
                 f"{len(counted.counting(mine)):,}", words.status(found.status(one.digest)), said)
            )  # fmt: skip
    header = ("lab", "made", "runs", "of these count", "status of the contribution", "its runs trained again")
    return Part(title="Whose runs", slug="whose", table=table("A contribution per row", header, lines))
