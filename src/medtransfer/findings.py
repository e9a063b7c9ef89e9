"""Everything that the runs of a benchmark say, before it is laid out: one frozen record that the report reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medtransfer import answers, claims, comparison, contrasts, ledger, multiplicity, params, progress, published, ranks
from medtransfer.answers import Answer
from medtransfer.cells import CONTAMINATED, Cell, belongs, collect, of_task, select
from medtransfer.claims import Verdict
from medtransfer.comparison import Row, eligible
from medtransfer.contrasts import Contrast, Family
from medtransfer.evidence import Evidence, gather
from medtransfer.ledger import Ledger
from medtransfer.published import Published
from medtransfer.ranks import Friedman, Nemenyi, Ranks, SignedRank
from medtransfer.tables import metric_name
from medtransfer.tasks import TASKS

SEED = 0
"""of the resampling: equal runs give equal intervals"""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The comparison of a benchmark's initializations."""

    benchmark: params.Benchmark
    settings: params.Comparison
    reference: str
    """canonical name; on a task without its runs nothing is compared with it"""
    cells: tuple[Cell, ...]
    left_out: int
    """finished runs outside of the benchmark"""
    rows: tuple[Row, ...]
    """by task and init, in the benchmark's order"""
    evidence: Mapping[str, Evidence]
    """task -> what its predictions say, of barred rows too; without the tasks that have no complete initialization"""
    contrasts: tuple[Contrast, ...]
    best: Mapping[str, tuple[tuple[str, ...], multiplicity.WithBest]]
    """task -> the compared inits, and their multiple comparisons with the best"""
    ranked: tuple[str, ...]
    """inits of the ranks"""
    ranks: Ranks
    val_ranks: Ranks
    friedman: Friedman
    nemenyi: Nemenyi
    posterior: SignedRank | None
    """of the best mean rank on val minus the reference, over tasks, in units of their margins; None: the same init"""
    answers: tuple[Answer, ...]
    """over all tasks first where there are several, then by task"""
    claims: Mapping[str, tuple[Verdict, ...]]
    """name -> on our own runs, by backbone, then on the numbers of each paper"""
    published: tuple[Published, ...]
    beside: tuple[Cell, ...] = ()
    """the benchmark's runs of the other recipe"""
    studies: tuple[Ledger, ...] = ()
    """of the benchmark's inits and tasks"""

    def of_task(self, task: str) -> list[Row]:
        """Takes the rows of a task."""
        return [row for row in self.rows if row.task == task]

    def family(self, task: str, kind: Family) -> list[Contrast]:
        """Takes the contrasts of a task with one base."""
        return [c for c in self.contrasts if c.task == task and c.family == kind]


def find(folder: Path, benchmark: params.Benchmark, settings: params.Params, root: Path, reference: str) -> Findings:
    """Compares the benchmark's finished runs.

    Args:
        folder: of the finished runs.
        benchmark: the expected runs, with canonical init names; other runs in the folder are counted and left out.
        settings: sections `comparison` and `claims`.
        root: the repository's top folder, where the files of published numbers are.
        reference: canonical name of the init that every other is compared with.

    Raises:
        UserError: runs are corrupt, duplicated or mixed, predictions do not belong to them, or a file of published
            numbers or a claim has a mistake.
    """
    found = collect(folder, root)
    recipe, unbalanced = settings.comparison.recipe, settings.comparison.unbalanced
    cells = select(found, benchmark, recipe, unbalanced)
    beside = [one for one in found if one.recipe != recipe and belongs(one, benchmark)]
    claims.check(settings.claims, {*TASKS, *benchmark.tasks}, settings.inits)
    printed = [row for name in settings.comparison.against for row in _read(root / name, settings.comparison)]
    rows = comparison.compare(cells, benchmark, settings.comparison)
    evidence = _evidence(cells, rows, folder, benchmark, settings.comparison)
    test_ranks, val_ranks, ranked = _ranks(cells, rows, benchmark, settings.comparison)
    overall = ranked[answers.chosen_overall(val_ranks)] if val_ranks.mean else ""
    bases = _bases(rows, benchmark, reference, overall)
    contrasted = _contrasts(cells, rows, evidence, bases, settings.comparison.alpha)
    return Findings(
        benchmark=benchmark,
        settings=settings.comparison,
        reference=reference,
        cells=tuple(cells),
        left_out=len(found) - len(cells) - len(beside),
        rows=tuple(rows),
        evidence=evidence,
        contrasts=tuple(contrasted),
        best={task: best for task in benchmark.tasks if (best := _best(rows, task, settings.comparison.alpha))},
        ranked=ranked,
        ranks=test_ranks,
        val_ranks=val_ranks,
        friedman=ranks.friedman(test_ranks),
        nemenyi=ranks.nemenyi(test_ranks, alpha=settings.comparison.alpha),
        posterior=_posterior(cells, contrasted, overall),
        answers=_answers(rows, benchmark, contrasted, ranked, val_ranks, test_ranks, settings.comparison.alpha, cells),
        claims=_weigh(settings, _task_scores(cells, rows, evidence, benchmark), printed),
        published=tuple(printed),
        beside=tuple(beside),
        studies=tuple(_studies(root, benchmark)),
    )


def _studies(root: Path, benchmark: params.Benchmark) -> list[Ledger]:
    """Reads the studies, by task and init in the benchmark's order; of unequal ones nothing could be concluded."""
    found = {(one.task, one.init): one for one in ledger.collect(root / ledger.FOLDER)}
    order = [(task, init) for task in benchmark.tasks for init in benchmark.inits]
    studies = [found[key] for key in order if key in found]
    ledger.refuse_unequal(studies)
    return studies


def _read(path: Path, settings: params.Comparison) -> list[Published]:
    return published.read(path, n=settings.published_n)


def _evidence(
    cells: Sequence[Cell], rows: Sequence[Row], folder: Path, benchmark: params.Benchmark, settings: params.Comparison
) -> dict[str, Evidence]:
    whole = {(row.task, row.init) for row in rows if row.summary is not None}
    chosen = {task: [c for c in of_task(cells, task) if (c.task, c.init) in whole] for task in benchmark.tasks}
    chosen = {task: runs for task, runs in chosen.items() if runs}
    found = {}
    with progress.bar("intervals over patients", len(chosen), "tasks") as advance:
        for task, runs in chosen.items():
            rng = np.random.default_rng(SEED)
            level = 1 - settings.alpha
            found[task] = gather(runs, folder, resamples=settings.resamples, level=level, rng=rng)
            advance()
    return found


def group_of(cell: Cell) -> str:
    """Names the images of a task: tasks that share images have one name and count once."""
    return cell.group


def _ranks(
    cells: Sequence[Cell], rows: Sequence[Row], benchmark: params.Benchmark, settings: params.Comparison
) -> tuple[Ranks, Ranks, tuple[str, ...]]:
    """Ranks, by test and by val, the inits compared on some task; places of tasks are those of the evidence."""
    index = {(row.task, row.init): row for row in eligible(rows)}
    shown = {row.task for row in rows if row.summary is not None}
    tasks = [task for task in benchmark.tasks if task in shown]
    inits = tuple(init for init in benchmark.inits if any((task, init) in index for task in tasks))
    groups = [group_of(of_task(cells, task)[0]) for task in tasks]
    test, val = [], []
    for init in inits:
        found = [index.get((task, init)) for task in tasks]
        test.append([row.scores if row else None for row in found])
        val.append([[row.val] if row and row.val is not None else None for row in found])
    if not inits:
        none = Ranks(tasks=(), groups=(), ranks=(), confidence=1 - settings.alpha, draws=0, note="no runs to compare")
        return none, none, ()
    rng, confidence = np.random.default_rng(SEED), 1 - settings.alpha
    paired = not any(cell.folds for cell in cells)
    tested = ranks.rank(test, rng=rng, groups=groups, paired=paired, confidence=confidence)
    return tested, ranks.rank(val, rng=rng, groups=groups, confidence=confidence), inits


def _bases(
    rows: Sequence[Row], benchmark: params.Benchmark, reference: str, overall: str
) -> list[tuple[str, Family, str]]:
    """Lists (task, family, init that the others are compared with)."""
    bases: list[tuple[str, Family, str]] = []
    for task in benchmark.tasks:
        chosen = answers.best_on_val(eligible(row for row in rows if row.task == task))
        bases += [(task, "reference", reference), (task, "overall", overall)]
        bases += [(task, "chosen", chosen.init)] if chosen else []
    return bases


def _contrasts(
    cells: Sequence[Cell],
    rows: Sequence[Row],
    evidence: Mapping[str, Evidence],
    bases: Sequence[tuple[str, Family, str]],
    alpha: float,
) -> list[Contrast]:
    found: list[Contrast] = []
    for task, kind, init in bases:
        column = eligible(row for row in rows if row.task == task)
        base = next((row for row in column if row.init == init), None)
        if base is not None:
            margin = of_task(cells, task)[0].margin
            found += contrasts.family(column, base, kind, evidence[task], alpha=alpha, margin=margin)
    return found


def _best(rows: Sequence[Row], task: str, alpha: float) -> tuple[tuple[str, ...], multiplicity.WithBest] | None:
    """Compares with the best at once; folds share training images, so their errors are not those of the method."""
    column = [row for row in eligible(rows) if row.task == task and row.unit == "seed"]
    if len(column) < 2:
        return None
    names = tuple(row.init for row in column)
    return names, multiplicity.with_best([row.scores for row in column], paired=True, alpha=alpha)


def _posterior(cells: Sequence[Cell], contrasted: Sequence[Contrast], overall: str) -> SignedRank | None:
    found = [c for c in contrasted if c.family == "reference" and c.init == overall and c.margin]
    if not found:
        return None
    groups = [group_of(of_task(cells, contrast.task)[0]) for contrast in found]
    differences = [contrast.estimate / (contrast.margin or 1) for contrast in found]
    return ranks.signed_rank(differences, rope=1.0, rng=np.random.default_rng(SEED), groups=groups)


def _answers(
    rows: Sequence[Row],
    benchmark: params.Benchmark,
    contrasted: Sequence[Contrast],
    ranked: Sequence[str],
    val_ranks: Ranks,
    test_ranks: Ranks,
    alpha: float,
    cells: Sequence[Cell],
) -> tuple[Answer, ...]:
    found = []
    for task in benchmark.tasks:
        column = [row for row in rows if row.task == task]
        own = [c for c in contrasted if c.task == task and c.family == "chosen"]
        metric = metric_name(of_task(cells, task)[0].metric) if of_task(cells, task) else ""
        found.append(_answer(column, own, alpha, metric))
    if len(benchmark.tasks) > 1:
        overall = [c for c in contrasted if c.family == "overall"]
        found.insert(0, answers.over_tasks(ranked, val_ranks, test_ranks, overall, alpha))
    return tuple(found)


def _answer(column: Sequence[Row], contrasted: Sequence[Contrast], alpha: float, metric: str) -> Answer:
    """Answers for one task without its barred rows, and names these."""
    barred = [row.init for row in column if row.barred]
    if not barred:
        return answers.of_task(column, contrasted, alpha, metric)
    words = f" Not compared, because contaminated: {', '.join(barred)}."
    if not eligible(column):
        text = f"No answer: no initialization free of contamination has all its runs.{words}"
        return Answer(scope=column[0].task, verdict="none", text=text)
    answer = answers.of_task(eligible(column), contrasted, alpha, metric)
    return replace(answer, text=answer.text + words)


def _task_scores(
    cells: Sequence[Cell], rows: Sequence[Row], evidence: Mapping[str, Evidence], benchmark: params.Benchmark
) -> list[claims.TaskScores]:
    found = []
    for task in benchmark.tasks:
        column = [row for row in eligible(rows) if row.task == task and row.unit == "seed"]
        if column:  # the folds of a cross-validation are no independent runs
            first = of_task(cells, task)[0]
            found.append(
                claims.TaskScores(
                    task=task,
                    segmentation=first.kind == "segmentation",
                    group=group_of(first),
                    scores={row.init: row.scores for row in column},
                    contributions=evidence[task].contributions,
                    val={row.init: row.val for row in column if row.val is not None},
                    contaminated=tuple(row.init for row in column if CONTAMINATED in row.marks),
                )
            )
    return found


def _weigh(
    settings: params.Params, tasks: Sequence[claims.TaskScores], printed: Sequence[Published]
) -> dict[str, tuple[Verdict, ...]]:
    alpha = settings.comparison.alpha
    papers = {
        paper: [row for row in printed if row.paper == paper] for paper in dict.fromkeys(r.paper for r in printed)
    }
    return {
        name: (
            *claims.on_runs(claim, tasks, alpha=alpha),
            *(claims.on_published(claim, rows, alpha=alpha) for rows in papers.values()),
        )
        for name, claim in settings.claims.items()
    }
