"""The pages of one thing: an initialization, a task, a contribution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from medtransfer.comparison.wording import as_word, first_lines, margin_words
from medtransfer.core import schema
from medtransfer.packs.records import Certificate, Checked, Contribution
from medtransfer.packs.site import counted, words
from medtransfer.packs.site.board import Board, backbone
from medtransfer.packs.site.boards import path_of_scope
from medtransfer.packs.site.counted import Run
from medtransfer.packs.site.layout import NONE, Cell, Page, Part, path_of, table
from medtransfer.statistics import metrics

RANDOM = "random for every seed"


def pages(found: Board) -> list[Page]:
    """Lays out a page per initialization, task and contribution."""
    return [
        *(of_init(found, init) for init in found.inits),
        *(of_task(found, task) for task in found.tasks),
        *(of_contribution(found, one) for one in found.contributions),
    ]


def of_init(found: Board, init: str) -> Page:
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
    return Part(title="Scores", slug="scores", table=table("A task per row", header, lines), notes=_score_notes(found))


def _score_notes(found: Board) -> tuple[str, ...]:
    return (
        "Mean ± std (ddof 1) of the test score in percent over n seeds (or folds). The interval of a score alone is by "
        "t over those seeds; whether two differ is in the difference and its verdict, all of which hold at once.",
    )


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


def of_task(found: Board, task: str) -> Page:
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
        ("Compared on", Cell(text=f"{len(seeds)} seeds ({', '.join(map(str, seeds))}), of {words.labs(own)}")),
    ]
    parts = [_of_task(found, task), _who(found, task), *left]
    return Page(
        path=path_of("tasks", task), title=task, first=first, facts=tuple(facts), answers=(found.answers[task],),
        method=words.method(found), parts=tuple(part for part in parts if part),
    )  # fmt: skip


def _of_task(found: Board, task: str) -> Part:
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
        title="Initializations", slug="initializations", notes=(*_score_notes(found), bold),
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


def of_contribution(found: Board, one: Contribution) -> Page:
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
