"""The pages of many initializations: the leaderboard, those on one kind of images, views of it, and the packs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from medtransfer.comparison.wording import first_lines, points
from medtransfer.packs import counted
from medtransfer.packs.records import InitCard
from medtransfer.packs.site import words
from medtransfer.packs.site.board import ALL, Board, Scope, labs_beside
from medtransfer.packs.site.layout import INDEX, NONE, PACKS, VIEWS, Cell, Line, Page, Part, Table, path_of, table

GROUPS: dict[str, Callable[[InitCard], str]] = {
    "family": lambda card: card.family,
    "pre-trained on": lambda card: card.modality,
    "backbone size": words.size_class,
    "commercial use": lambda card: card.commercial,
}
"""what initializations are chosen by -> its value"""


def pages(found: Board) -> list[Page]:
    """Lays out the pages of many initializations, the leaderboard first."""
    several = [page_of_scope(found, scope) for scope in found.scopes[1:]]
    return [index(found), *several, views(found), packs(found)]


def path_of_scope(scope: Scope) -> str:
    """Names the page of a scope."""
    return INDEX if scope.name == ALL else path_of("images", scope.name)


def index(found: Board) -> Page:
    """Lays out the leaderboard over all tasks."""
    scope = found.scopes[0]
    parts = [
        _leaderboard(found, scope),
        *_left(found, scope),
        _by_task(found),
        Part(title="What counts, and how", slug="rules", notes=words.rules(found)),
    ]
    first = tuple(first_lines(run.result for run in counted.counting(found.runs)))
    answer = scope.answer if len(found.answers) > 1 else next(iter(found.answers.values()))
    return Page(
        path=INDEX, title="Leaderboard of initializations", first=first, facts=_facts(found), answers=(answer,),
        method=words.method(found), parts=tuple(parts),
    )  # fmt: skip


def page_of_scope(found: Board, scope: Scope) -> Page:
    """Lays out the leaderboard over the tasks on one kind of images."""
    parts = [_leaderboard(found, scope), *_left(found, scope)]
    facts = (("Tasks", Cell(text=words.listed(scope.tasks))),)
    return Page(
        path=path_of_scope(scope), title=f"Tasks on {scope.name} images", facts=facts, answers=(scope.answer,),
        method=words.method(found), parts=tuple(parts),
    )  # fmt: skip


def views(found: Board) -> Page:
    """Lays out the leaderboard's rows by what initializations are chosen by."""
    scope, parts = found.scopes[0], []
    for name, value in GROUPS.items():
        groups: dict[str, list[str]] = {}
        for init in [*scope.ranked, *sorted(scope.left)]:
            groups.setdefault(value(found.inits[init]), []).append(init)
        parts.append(Part(title=name.capitalize(), slug=path_of("views", name)[6:-5]))
        for group, inits in sorted(groups.items()):
            lines = [[words.init_cell(found, init), *_short(found, scope, init)] for init in inits]
            title = f"{name.capitalize()}: {group}"
            header = ("init", "rank", "win rate", f"over {found.reference}, margins", "backbone", "status")
            parts.append(
                Part(title=title, slug=path_of("views", title)[6:-5], level=3, table=table(title, header, lines))
            )
    note = "Rank and win rate are those among all initializations of the leaderboard; a view leaves rows out."
    parts[0] = Part(title=parts[0].title, slug=parts[0].slug, notes=(note,))
    return Page(path=VIEWS, title="Views of the leaderboard", parts=tuple(parts))


def packs(found: Board) -> Page:
    """Lays out whose runs the site rests on, and lays labs beside each other."""
    lines = []
    for one in found.contributions:
        own = [run for run in found.runs if run.contribution == one.digest]
        by = [each for each in found.pack.certificates if each.contribution == one.digest]
        others = dict.fromkeys(each.by for each in by if each.by != one.lab)
        lines.append(
            (
                words.contribution_cell(one.lab, one.digest), one.created[:10], one.digest[:12], f"{len(own):,}",
                f"{len(counted.counting(own)):,}", words.status(found.status(one.digest)), ", ".join(others) or NONE,
            )
        )  # fmt: skip
    header = ("lab", "made", "digest", "runs", "of these count", "status", "trained again by")
    parts = [Part(title="Contributions", slug="contributions", table=table("A contribution per row", header, lines))]
    if beside := labs_beside(found):
        rows = [
            (f"{one.two} minus {one.one}", f"{one.runs:,}", points(one.difference), points(one.largest).lstrip("+"))
            for one in beside
        ]
        note = (
            "Runs of equal initialization, task, seed, data, parameters and weights that two labs trained: what their "
            "machines and versions make of it. Of each pair one run counts."
        )
        head = ("labs", "runs", "mean difference, points", "largest, points")
        made = table("A pair of labs per row", head, rows)
        parts.append(Part(title="Labs beside each other", slug="labs", table=made, notes=(note,)))
    parts += words.left(found.runs)
    return Page(path=PACKS, title="Packs", parts=tuple(parts))


def _facts(found: Board) -> tuple[tuple[str, Cell], ...]:
    labs = list(dict.fromkeys(one.lab for one in found.contributions))
    status = Counter(found.status(one.digest) for one in found.contributions)
    said = ", ".join(f"{status[name]} {name}" for name in ("verified", "claimed", "refuted") if status[name])
    counts = len(counted.counting(found.runs))
    left = len(found.runs) - counts
    rest = f"; {left:,} do not" if left else ""
    by = f"{found.protocol}, {found.recipe} recipe, all labels; protocol version {_version(found)}"
    return (
        ("Contributions", Cell(text=f"{len(found.contributions)} of {words.listed(labs)}: {said}", href=PACKS)),
        ("Runs", Cell(text=f"{counts:,} count{rest}", href=PACKS if left else "")),
        ("Trained by", Cell(text=by)),
        ("Until", Cell(text=max(one.created for one in found.contributions)[:10])),
    )


def _version(found: Board) -> str:
    return str(counted.counting(found.runs)[0].result.protocol_version)


def _leaderboard(found: Board, scope: Scope) -> Part:
    header = (
        "init", "rank", "win rate", "mean rank", f"over {found.reference}, margins", "better / worse", "status",
        "backbone", "family, images", "commercial use", "cost of a run", "runs, labs",
    )  # fmt: skip
    lines = tuple(_line(found, scope, init) for init in scope.ranked)
    where = "all tasks" if scope.name == ALL else f"the tasks on {scope.name} images"
    return Part(
        title="Leaderboard", slug="leaderboard", notes=words.reading(found, scope),
        table=Table(
            caption=f"Initializations over {where}, best mean rank first", header=header, lines=lines, filters=True
        ),
    )  # fmt: skip


def _line(found: Board, scope: Scope, init: str) -> Line:
    card = found.inits[init]
    runs = [run for run in found.of(init=init) if run.result.task in scope.tasks]
    column = scope.column
    contrasts = column.all_of(init) if column else []
    better, worse = sum(one.better for one in contrasts), sum(one.worse for one in contrasts)
    best = column is not None and init in column.candidates
    cells = (
        words.init_cell(found, init), Cell(text=str(scope.place(init)), strong=best), words.win_rate(scope, init),
        words.mean_rank(scope, init), words.in_margins(found, scope.column, init),
        Cell(text=f"{better} / {worse}" if contrasts else NONE, strong=best),
        words.status(*found.verified(init)), words.backbone(found, init),
        Cell(text=card.family, small=card.modality), words.commercial(card), words.cost(runs, scope.tasks),
        Cell(text=f"{len(runs):,}", small=words.labs(runs)),
    )  # fmt: skip
    return Line(cells=cells, groups=tuple((name, value(card)) for name, value in GROUPS.items()))


def _short(found: Board, scope: Scope, init: str) -> list[Cell]:
    stands = [Cell(text=NONE, small="not ranked"), Cell(text=NONE), Cell(text=NONE)]
    if init in scope.ranked:
        stands = [
            Cell(text=str(scope.place(init))),
            words.win_rate(scope, init),
            words.in_margins(found, scope.column, init),
        ]
    return [*stands, words.backbone(found, init), words.status(*found.verified(init))]  # fmt: skip


def _left(found: Board, scope: Scope) -> list[Part]:
    """Names the inits that are not ranked, and why."""
    lines = []
    for init, tasks in scope.left.items():
        own = found.of(init=init)
        why = words.lacks(found, init, tasks)
        if not own:
            why = words.listed(sorted({run.why for run in found.runs if run.result.init == init}))
        lines.append(
            (words.init_cell(found, init), why, words.backbone(found, init), f"{len(own):,}", words.labs(own),
             words.status(*found.verified(init)))
        )  # fmt: skip
    if not lines:
        return []
    header = ("init", "why it is not ranked", "backbone", "runs that count", "labs", "status")
    note = (
        "A mean over other tasks than the others' would not be the same thing; the pages of tasks show what is there."
    )
    return [
        Part(
            title="Not ranked",
            slug="not-ranked",
            table=table("An initialization per row", header, lines),
            notes=(note,),
        )
    ]


def _by_task(found: Board) -> Part:
    """Lays out the mean score of each init on each task."""
    scope, tasks = found.scopes[0], list(found.seeds)
    lines = []
    for init in [*scope.ranked, *(init for init in sorted(scope.left) if found.of(init=init))]:
        cells = [words.init_cell(found, init)]
        for task in tasks:
            column, cell = found.columns.get(task), words.score(found.rows[task, init])
            best = column is not None and init in column.candidates and found.rows[task, init].compared
            cells.append(Cell(text=cell.text, small=cell.small, strong=best))
        lines.append(cells)
    note = (
        "Mean ± std (ddof 1) of the test score in percent over the task's seeds; bold: no other was shown to be "
        f"better. The pages of tasks have the metric, n and the differences: {words.listed(tasks)}."
    )
    return Part(
        title="Scores by task", slug="by-task", table=table("Test score on each task", ("init", *tasks), lines),
        notes=(note,),
    )  # fmt: skip
