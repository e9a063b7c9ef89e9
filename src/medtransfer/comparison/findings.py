"""Everything that the runs of a benchmark say, before it is laid out: one frozen record that the report reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtransfer import params
from medtransfer.comparison import (
    agreements,
    answers,
    claims,
    contrasts,
    controls,
    label_curves,
    other_metrics,
    published,
    published_form,
    requirements,
)
from medtransfer.comparison.agreements import Agreed
from medtransfer.comparison.answers import Answer
from medtransfer.comparison.away import AwayTask, sites
from medtransfer.comparison.bayesian import Believed, believe
from medtransfer.comparison.cells import gather_cells
from medtransfer.comparison.claims import Verdict, about
from medtransfer.comparison.contrasts import ALL, Column, Contrast
from medtransfer.comparison.controls import Controls
from medtransfer.comparison.degradation import Degradation, degradation
from medtransfer.comparison.label_curves import Point, Saving
from medtransfer.comparison.patients import Evidence, gather, locked
from medtransfer.comparison.published import Published
from medtransfer.comparison.published_form import Row, eligible
from medtransfer.comparison.requirements import Measured
from medtransfer.comparison.selection import belongs, collect, select
from medtransfer.comparison.training_times import TrainingTime, training_times
from medtransfer.comparison.wording import names
from medtransfer.core import progress
from medtransfer.data.catalog import TASKS
from medtransfer.results import looks, stopped, study
from medtransfer.results.looks import level
from medtransfer.results.result import CONTAMINATED, Result, of_task
from medtransfer.results.study import Ledger
from medtransfer.statistics import metrics, ranks
from medtransfer.statistics.ranks import Friedman, Nemenyi, Ranks, SignedRank
from medtransfer.weights.families import labels
from medtransfer.weights.names import expected, parse

SEED = 0
"""of the resampling: equal runs give equal intervals"""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The comparison of a benchmark's initializations."""

    benchmark: params.Benchmark
    settings: params.Comparison
    reference: str
    """canonical name; on a task without its runs nothing is compared with it"""
    results: tuple[Result, ...]
    left_out: int
    """finished runs outside of the benchmark"""
    rows: tuple[Row, ...]
    """by task and init, in the benchmark's order"""
    evidence: Mapping[str, Evidence]
    """task -> what its predictions say, of barred rows too; without the tasks that have no complete initialization"""
    columns: Mapping[str, Column]
    """task, or `all tasks` -> all comparisons of its inits"""
    look: int
    """how many sets of seeds were looked at, this one included"""
    alpha: float
    """level of this look: the chance that any `better` of the page is wrong, and that any `equivalent` is"""
    ranked: tuple[str, ...]
    """inits of the ranks"""
    ranks: Ranks
    val_ranks: Ranks
    friedman: Friedman
    nemenyi: Nemenyi
    posterior: SignedRank | None
    """of the pick over all tasks minus the reference, in units of the tasks' margins; None: there is none"""
    answers: tuple[Answer, ...]
    """over all tasks first where there are several, then by task"""
    claims: Mapping[str, tuple[Verdict, ...]]
    """name -> on our own runs, by backbone, then on the numbers of each paper"""
    published: tuple[Published, ...]
    beside: tuple[Result, ...] = ()
    """the benchmark's runs of another recipe, protocol or fraction"""
    studies: tuple[Ledger, ...] = ()
    """of the benchmark's inits and tasks"""
    points: tuple[Point, ...] = ()
    """the score of every init, protocol and fraction that is complete"""
    savings: tuple[Saving, ...] = ()
    times: tuple[TrainingTime, ...] = ()
    agreements: tuple[Agreed, ...] = ()
    """of cheap protocols with fine-tuning"""
    away: Mapping[str, tuple[AwayTask, ...]] = field(default_factory=dict)
    """task -> other tasks on whose test images its networks were read"""
    degradations: Mapping[str, Degradation | None] = field(default_factory=dict)
    """task -> what its networks lose on test images made worse; None: none was read on such"""
    bayesian: tuple[Believed, ...] = ()
    """of every init against the reference, by `comparison.bayesian`"""
    required: tuple[Measured, ...] = ()
    """of every init, by `promotion.require`"""
    gate: float = 0.0
    """level of the first decision on these test sets, see `promotion.alpha`"""
    controls: Controls | None = None
    """None: the benchmark asks for none"""

    def of_task(self, task: str) -> list[Row]:
        """Takes the rows of a task."""
        return [row for row in self.rows if row.task == task]

    @property
    def contrasts(self) -> tuple[Contrast, ...]:
        """Lists every comparison, against the reference where it is one of the two."""
        return tuple(found for column in self.columns.values() for found in column.all(self.reference))

    def against_reference(self, task: str) -> list[Contrast]:
        """Takes the comparisons of a task with the reference."""
        column = self.columns.get(task)
        if column is None or self.reference not in column.inits:
            return []
        return [column.contrast(init, self.reference) for init in column.inits if init != self.reference]

    @property
    def overall(self) -> str:
        """Names the pick over all tasks; empty where there is none."""
        return next((answer.chosen for answer in self.answers if answer.scope == ALL), "")


def find(
    folder: Path, benchmark: params.Benchmark, settings: params.Params, root: Path, reference: str, look: int = 1
) -> Findings:
    """Compares the benchmark's finished runs.

    Args:
        folder: of the finished runs.
        benchmark: the expected runs, with canonical init names; other runs in the folder are counted and left out.
        settings: sections `comparison`, `claims` and `promotion`.
        root: the repository's top folder, where the files of published numbers are.
        reference: canonical name of the init that every other is compared with in the tables.
        look: its number, see `looks`.

    Raises:
        UserError: runs are corrupt, duplicated or mixed, predictions do not belong to them, or a file of published
            numbers or a claim has a mistake.
    """
    found = collect(folder, root)
    chosen = settings.comparison
    results = select(found, benchmark, chosen.recipe, chosen.unbalanced, chosen.protocol)
    digests = {result.digest for result in results}
    beside = [one for one in found if one.digest not in digests and belongs(one, benchmark)]
    claims.check(settings.claims, {*TASKS, *benchmark.tasks}, settings.inits)
    kinds = {result.task: result.kind for result in results}
    requirements.check(settings.promotion.require, [*kinds.values()] if {*benchmark.tasks} <= {*kinds} else ())
    printed = [row for name in settings.comparison.against for row in _read(root / name, settings.comparison)]
    one_test = [task for task in benchmark.tasks if locked(of_task(results, task), folder)]
    early = {task: stopped.read(folder, task) for task in benchmark.tasks}
    rows = published_form.compare(results, benchmark, settings.comparison, one_test, early)
    evidence = _evidence(results, rows, folder, benchmark, settings.comparison)
    cells, sure = gather_cells(results, beside, rows, evidence, benchmark, chosen, folder), 1 - chosen.alpha
    whole = compare(results, rows, evidence, benchmark, chosen, reference, look)
    with progress.parts("controls") as tell:
        held = controls.gather_controls(found, results, cells, evidence, benchmark, settings, folder, whole.alpha, tell)
    inside = {one.digest for one in (*results, *beside, *(held.runs if held else ()))}
    whole_runs = _complete(results, rows, benchmark)
    with progress.parts("images of other tasks") as tell:
        read_elsewhere = sites(whole_runs, folder, reference, sure, tell)
    return replace(
        whole,
        left_out=len(found) - len(inside),
        claims=_weigh(
            settings,
            {
                metric: _task_scores(results, rows, evidence, benchmark, metric, folder)
                for metric in dict.fromkeys(claim.metric for claim in settings.claims.values())
            },
            printed,
            look,
        ),
        published=tuple(printed),
        beside=tuple(beside),
        studies=tuple(_studies(root, benchmark)),
        points=label_curves.points(cells, sure),
        savings=label_curves.savings(cells, reference, sure),
        times=training_times(cells, reference, sure),
        agreements=agreements.agreements(cells, sure, SEED),
        away=read_elsewhere,
        degradations=_degradations(whole_runs, folder, sure),
        required=requirements.measure(settings.promotion.require, results, rows, evidence, folder, read_elsewhere),
        gate=level(settings.promotion.alpha, 1),
        controls=held,
        answers=controls.told(held, whole.answers, benchmark.inits) if held else whole.answers,
    )


def compare(
    results: Sequence[Result],
    rows: Sequence[Row],
    evidence: Mapping[str, Evidence],
    benchmark: params.Benchmark,
    settings: params.Comparison,
    reference: str,
    look: int = 1,
) -> Findings:
    """Compares every two inits on every task and over all of them, ranks them and answers.

    Args:
        results: finished runs, of which no two are the same run.
        rows: of these runs.
        evidence: task -> what its predictions say; of tasks that have a complete initialization.
        benchmark: the expected runs.
        settings: of the comparison.
        reference: canonical name of the init that every other is compared with in the tables.
        look: its number, see `looks`.
    """
    test_ranks, val_ranks, ranked = _ranks(results, rows, benchmark, settings)
    untested = _columns(results, rows, evidence, benchmark)
    alpha = level(settings.alpha, look)
    columns = {column.scope: column for column in contrasts.at_level(untested, alpha)}
    later = contrasts.at_level(untested, level(settings.alpha, look + 1))
    next_share = later[0].share if later else 0.0
    whole = all(row.val is not None for row in eligible(rows))  # else a rank on val is of some of the tasks
    by_val = dict(zip(ranked, val_ranks.mean, strict=False)) if whole else {}
    answered = _answers(rows, benchmark, columns, next_share, by_val, results)
    overall = next((answer.chosen for answer in answered if answer.scope == ALL), "")
    return Findings(
        benchmark=benchmark,
        settings=settings,
        reference=reference,
        results=tuple(results),
        left_out=0,
        rows=tuple(rows),
        evidence=evidence,
        columns=columns,
        look=look,
        alpha=alpha,
        ranked=ranked,
        ranks=test_ranks,
        val_ranks=val_ranks,
        friedman=ranks.friedman(test_ranks),
        nemenyi=ranks.nemenyi(test_ranks, alpha=settings.alpha),
        posterior=_posterior(results, columns, overall, reference),
        answers=answered,
        claims={},
        published=(),
        bayesian=_believed(results, columns, reference) if settings.bayesian else (),
    )


def of_benchmark(folder: Path, settings: params.Params, root: Path) -> Findings:
    """Compares the finished runs of the benchmark and with the reference that the parameters name.

    Args:
        folder: of the finished runs.
        settings: all parameters.
        root: the repository's top folder.

    Raises:
        UserError: as in `find`, or an initialization is unknown.
    """
    reference = parse(settings.comparison.reference, settings.model.backbone, settings.inits).canonical
    look = looks.number(looks.read(root), settings.benchmark.seeds, settings.benchmark.splits)
    return find(folder, expected(settings), settings, root, reference, look)


def _studies(root: Path, benchmark: params.Benchmark) -> list[Ledger]:
    """Reads the studies, by task and init in the benchmark's order; of unequal ones nothing could be concluded."""
    found = {(one.task, one.init): one for one in study.collect(root / study.FOLDER)}
    order = [(task, init) for task in benchmark.tasks for init in benchmark.inits]
    studies = [found[key] for key in order if key in found]
    study.refuse_unequal(studies)
    return studies


def _read(path: Path, settings: params.Comparison) -> list[Published]:
    return published.read(path, n=settings.published_n)


def _evidence(
    results: Sequence[Result],
    rows: Sequence[Row],
    folder: Path,
    benchmark: params.Benchmark,
    settings: params.Comparison,
) -> dict[str, Evidence]:
    chosen, found = _complete(results, rows, benchmark), {}
    with progress.parts("intervals over patients") as tell:
        for task, own in progress.each(tell, _sizes(chosen)):
            rng, level = np.random.default_rng(SEED), 1 - settings.alpha
            found[task] = gather(
                chosen[task], folder, resamples=settings.resamples, level=level, rng=rng, tasks=len(chosen), tell=own
            )
    return found


def _sizes(chosen: Mapping[str, Sequence[Result]]) -> dict[str, float]:
    """Counts the predictions of each task, which its work grows with."""
    return {task: sum(run.counts.get("test", 1) * max(1, run.labels) for run in runs) for task, runs in chosen.items()}


def _degradations(chosen: Mapping[str, Sequence[Result]], folder: Path, sure: float) -> dict[str, Degradation | None]:
    with progress.parts("test images made worse") as tell:
        parts = progress.each(tell, _sizes(chosen))
        return {task: degradation(chosen[task], folder, sure, own) for task, own in parts}


def _complete(results: Sequence[Result], rows: Sequence[Row], benchmark: params.Benchmark) -> dict[str, list[Result]]:
    """Takes the runs of complete initializations, by task."""
    whole = {(row.task, row.init) for row in rows if row.summary is not None}
    chosen = {task: [c for c in of_task(results, task) if (c.task, c.init) in whole] for task in benchmark.tasks}
    return {task: runs for task, runs in chosen.items() if runs}


def group_of(result: Result) -> str:
    """Names the images of a task: tasks that share images have one name and count once."""
    return result.group


def _ranks(
    results: Sequence[Result], rows: Sequence[Row], benchmark: params.Benchmark, settings: params.Comparison
) -> tuple[Ranks, Ranks, tuple[str, ...]]:
    """Ranks, by test and by val, the inits compared on some task; places of tasks are those of the evidence."""
    index = {(row.task, row.init): row for row in eligible(rows)}
    shown = {row.task for row in rows if row.summary is not None}
    tasks = [task for task in benchmark.tasks if task in shown]
    inits = tuple(init for init in benchmark.inits if any((task, init) in index for task in tasks))
    groups = [group_of(of_task(results, task)[0]) for task in tasks]
    test, val = [], []
    for init in inits:
        found = [index.get((task, init)) for task in tasks]
        test.append([(row.scores or _alone(row)) if row else None for row in found])
        val.append([[row.val] if row and row.val is not None else None for row in found])
    if not inits:
        none = Ranks(tasks=(), groups=(), ranks=(), confidence=1 - settings.alpha, draws=0, note="no runs to compare")
        return none, none, ()
    rng, confidence = np.random.default_rng(SEED), 1 - settings.alpha
    paired = all(result.fold is None for result in results)
    tested = ranks.rank(test, rng=rng, groups=groups, paired=paired, confidence=confidence)
    return tested, ranks.rank(val, rng=rng, groups=groups, confidence=confidence), inits


def _alone(row: Row) -> tuple[float, ...]:
    """Stands a published mean for its runs: it has a rank, and no interval of it."""
    return (row.summary.mean,) if row.summary else ()


def _columns(
    results: Sequence[Result], rows: Sequence[Row], evidence: Mapping[str, Evidence], benchmark: params.Benchmark
) -> list[contrasts.Untested]:
    """Compares every two inits on each task, and over the tasks, of which those that share images count once."""
    found = {}
    for task in benchmark.tasks:
        own = eligible(row for row in rows if row.task == task)
        first = next(iter(of_task(results, task)), None)
        column = contrasts.of_task(own, evidence[task], first.margin, first.metric) if own and first else None
        if column is not None:
            found[task] = column
    groups = [group_of(of_task(results, task)[0]) for task in found]
    whole = contrasts.over_tasks(list(found.values()), groups) if len(found) == len(evidence) else None
    return [*([whole] if whole else []), *found.values()]


def _posterior(
    results: Sequence[Result], columns: Mapping[str, Column], overall: str, reference: str
) -> SignedRank | None:
    found = [
        column.contrast(overall, reference)
        for task, column in columns.items()
        if task != ALL and {overall, reference} <= {*column.inits} and overall != reference and column.margin
    ]
    if not found:
        return None
    groups = [group_of(of_task(results, contrast.task)[0]) for contrast in found]
    differences = [contrast.estimate / (contrast.margin or 1) for contrast in found]
    return ranks.signed_rank(differences, rope=1.0, rng=np.random.default_rng(SEED), groups=groups)


def _believed(results: Sequence[Result], columns: Mapping[str, Column], reference: str) -> tuple[Believed, ...]:
    return believe(columns, reference, lambda task: group_of(of_task(results, task)[0]))


def _answers(
    rows: Sequence[Row],
    benchmark: params.Benchmark,
    columns: Mapping[str, Column],
    next_share: float,
    val_ranks: Mapping[str, float],
    results: Sequence[Result],
) -> tuple[Answer, ...]:
    named = labels(benchmark.inits)
    found = []
    for task in benchmark.tasks:
        own = [row for row in rows if row.task == task]
        metric = metrics.title(of_task(results, task)[0].metric) if of_task(results, task) else ""
        answer = answers.of_task(
            columns.get(task), eligible(own), labels=named, metric=metric, next_share=next_share
        )  # fmt: skip
        early = [named[row.init] for row in own if row.stopped]
        beside = f" Stopped early by the race on val, without a final score: {', '.join(early)}." if early else ""
        barred = [named[row.init] for row in own if row.barred]
        words = f" Not compared, because contaminated: {', '.join(barred)}." if barred else ""
        bare = [named[row.init] for row in own if row.printed and row.summary and not row.compared]
        words += f" Not compared, because no std over two or more runs is printed: {', '.join(bare)}." if bare else ""
        text = answer.text
        if barred and not eligible(own):
            text = "No answer: no initialization free of contamination has all its runs."
        if bare and not eligible(own):
            text = "No answer: of no mean is it known how far runs lie apart."
        if len(own) == 1 == len(eligible(own)):
            text = f"No answer: {named[own[0].init]} is the only initialization, and there is none to compare it with."
        found.append(replace(answer, scope=task, text=text + words + beside))
    if len(benchmark.tasks) > 1:
        bare = [task for task in benchmark.tasks if task in columns and columns[task].margin is None]
        none = [task for task in benchmark.tasks if task not in columns]
        why = "no two initializations are compared on every task"
        if none:
            why = f"on {names(none, 3)} no two initializations can be compared"
        elif bare:
            said = f"{names(bare, 3)} state{'s' * (len(bare) == 1)} no margin"
            why = f"{said}, the smallest difference that matters, in which tasks are added up"
        whole = answers.over_tasks(columns.get(ALL), val_ranks, labels=named, next_share=next_share, why=why)
        everywhere = columns[ALL].inits if ALL in columns else benchmark.inits
        some = [named[init] for init in benchmark.inits if init not in everywhere]
        words = f" Not among them, because not compared on every task: {names(some, answers.NAMED)}." if some else ""
        found.insert(0, replace(whole, text=whole.text + words))
    return tuple(found)


def _task_scores(
    results: Sequence[Result], rows: Sequence[Row], evidence: Mapping[str, Evidence], benchmark: params.Benchmark,
    metric: str, folder: Path,
) -> list[claims.TaskScores]:  # fmt: skip
    """Gathers what claims are weighed on; of a metric that is given, the tasks that measured it."""
    found = []
    for task in benchmark.tasks:
        column = [row for row in eligible(rows) if row.task == task and not row.redrawn]
        if not column:  # folds, and splits, with test images of their own are no independent runs
            continue
        first = of_task(results, task)[0]
        scores, contributions = {row.init: row.scores for row in column}, evidence[task].contributions
        if metric not in ("", first.metric):
            complete = [one for one in of_task(results, task) if one.init in scores]
            scores, contributions = _of_metric(metric, complete, folder)
        if scores:
            found.append(
                claims.TaskScores(
                    task=task,
                    segmentation=first.kind == "segmentation",
                    group=group_of(first),
                    scores=scores,
                    contributions=contributions,
                    val={row.init: row.val for row in column if row.val is not None},
                    contaminated=tuple(row.init for row in column if CONTAMINATED in row.marks),
                    least=metrics.least(metric or first.metric),
                )
            )
    return found


def _of_metric(
    metric: str, results: Sequence[Result], folder: Path
) -> tuple[dict[str, tuple[float, ...]], dict[str, NDArray[Any]]]:
    """Reads the scores of another metric than the task's own, and what patients add; turned where lower is better."""
    sign = 1.0 if metrics.METRICS[metric].higher else -1.0
    name = other_metrics.scored_as(metric, results)
    scores = other_metrics.by_seed(name, results) if name else {}
    added = other_metrics.contributions(metric, name, results, folder) if scores else {}
    return (
        {init: tuple(sign * value for value in values) for init, values in scores.items()},
        {init: sign * values for init, values in added.items()},
    )


def _weigh(
    settings: params.Params, tasks: Mapping[str, Sequence[claims.TaskScores]], printed: Sequence[Published], look: int
) -> dict[str, tuple[Verdict, ...]]:
    """Weighs the claims, which share the level."""
    alpha = settings.comparison.alpha / max(1, len(settings.claims))
    papers = {
        paper: [row for row in printed if row.paper == paper] for paper in dict.fromkeys(r.paper for r in printed)
    }
    return {
        name: (
            *claims.on_runs(claim, tasks[claim.metric], alpha=level(alpha, look)),
            *(claims.on_published(claim, own, alpha=alpha) for rows in papers.values() if (own := about(claim, rows))),
        )
        for name, claim in settings.claims.items()
    }
