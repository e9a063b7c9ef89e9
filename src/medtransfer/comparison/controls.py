"""The benchmark's controls beside its initializations: what weights must beat, and what must find nothing.

An initialization beats the controls where it is shown to be better than each of them; whichever scores best is named,
and choosing it gains nothing, because the largest of the p-values counts (intersection and union: Berger, Technometrics
1982). These p-values are corrected over inits and tasks, those of the alarms over tasks (Holm).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from scipy import stats

from medtransfer import params
from medtransfer.comparison.answers import NAMED, Answer
from medtransfer.comparison.cells import WHOLE, Cell, beside_results
from medtransfer.comparison.contrasts import ALL
from medtransfer.comparison.label_curves import Point, points
from medtransfer.comparison.patients import Evidence
from medtransfer.comparison.published_form import Row
from medtransfer.comparison.selection import select
from medtransfer.comparison.wording import names
from medtransfer.core.progress import Tell, untold
from medtransfer.results.result import Result
from medtransfer.statistics import all_pairs, metrics
from medtransfer.statistics.multiplicity import holm
from medtransfer.weights.families import labels
from medtransfer.weights.names import NONE, parse

PERMUTED = "permuted"
WORDS = {"prior": "the label prior", "random-frozen": "frozen random features", "texture": "texture features"}
"""what an init must beat -> its name in a sentence"""
MASK = "the mean mask"
"""what `prior` is where masks are drawn"""
NOTHING = {"auc": 0.5, "kappa": 0.0}
"""metric -> what it is on average where labels were drawn anew; of others the score of `prior` stands for that"""
BIASED = ("average_precision",)
"""metrics that come out above the prior by chance alone: no alarm rests on them"""


@dataclass(frozen=True, kw_only=True)
class Against:
    """An initialization and the best control of a task."""

    task: str
    init: str
    control: str
    """with the highest mean"""
    estimate: float
    """mean score of the init minus that of the control"""
    low: float | None
    """of the interval of this difference alone; None: nothing to measure it by"""
    high: float | None
    p: float | None
    """two-sided, of no difference, corrected over inits and tasks; the largest over the controls"""
    unbeaten: tuple[str, ...]
    """controls than which the init is not shown to be better"""


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """What fine-tuning on labels that were drawn anew came to on test."""

    task: str
    init: str
    metric: str
    nothing: float | None
    """score of a pipeline that finds nothing; None: that is not known here"""
    mean: float
    low: float | None
    """of the interval of the mean minus `nothing`, alone, put back"""
    high: float | None
    p: float | None
    """two-sided, corrected over tasks"""
    raised: bool
    seeds: int
    best_p: float | None = None
    """least p that can be, of a score of 1 in every seed; None: not known"""
    note: str = ""
    """why nothing can be said"""


@dataclass(frozen=True, kw_only=True)
class Controls:
    """All that the controls of a benchmark say."""

    asked: tuple[str, ...]
    points: tuple[tuple[str, Point], ...]
    """control and its score, task by task"""
    against: tuple[Against, ...]
    alarms: tuple[Alarm, ...]
    missing: tuple[str, ...]
    """runs that are not there, in words"""
    runs: tuple[Result, ...]
    level: float
    """of each interval by itself"""
    alpha: float
    """of what is said of all inits and tasks together, and of all alarms together"""
    masks: tuple[str, ...]
    """tasks whose `prior` is a mask"""


def gather_controls(
    found: Sequence[Result],
    results: Sequence[Result],
    cells: Sequence[Cell],
    evidence: Mapping[str, Evidence],
    benchmark: params.Benchmark,
    settings: params.Params,
    folder: Path,
    alpha: float,
    tell: Tell = untold,
) -> Controls | None:
    """Compares the benchmark's initializations with its controls; None where it asks for none.

    Args:
        found: all finished runs.
        results: that the tables rest on.
        cells: of the benchmark.
        evidence: of `results`.
        benchmark: the expected runs.
        settings: all parameters.
        folder: of the finished runs.
        alpha: of all that is said together.
        tell: called with what is done.

    Raises:
        UserError: runs of a control may not stand in one table, or are of other data than the inits'.
    """
    if not benchmark.controls:
        return None
    kept, missing, runs = dict[str, list[Cell]](), list[str](), list[Result]()
    for place, control in enumerate(benchmark.controls):
        tell(control, place / len(benchmark.controls))
        init, protocol = known_by(control, found, settings)
        own = replace(benchmark, inits=(init,), protocols=cast(Any, (protocol,)), fractions=(WHOLE,))
        there = [one for one in found if (one.init, one.protocol, one.fraction) == (init, protocol, WHOLE)]
        there = [one for one in there if one.recipe == "fixed" and one.task in benchmark.tasks]
        if not there:
            missing.append(f"{control}: all runs")
            continue
        chosen = select(there, own, "fixed", settings.comparison.unbalanced, protocol)
        rows, kept[control] = beside_results(chosen, results, own, settings.comparison, folder, (protocol, WHOLE))
        missing += [f"{control} on {row.task}: {_lacking(row)}" for row in rows if row.applicable and not row.compared]
        runs += chosen
    main = [cell for cell in cells if (cell.protocol, cell.fraction) == (settings.comparison.protocol, WHOLE)]
    return weigh(benchmark, main, kept, evidence, alpha, 1 - settings.comparison.alpha, missing, runs)


def weigh(
    benchmark: params.Benchmark,
    main: Sequence[Cell],
    kept: Mapping[str, Sequence[Cell]],
    evidence: Mapping[str, Evidence],
    alpha: float,
    level: float,
    missing: Sequence[str] = (),
    runs: Sequence[Result] = (),
) -> Controls:
    """Weighs complete cells of initializations and of controls, see `gather_controls`.

    Args:
        benchmark: the expected runs.
        main: of the initializations.
        kept: control -> its cells.
        evidence: task -> what its predictions say.
        alpha: of all that is said together.
        level: of each interval by itself.
        missing: runs that are not there, in words.
        runs: of the controls.
    """
    floors = {name: cells for name, cells in kept.items() if name != PERMUTED}
    scored = [
        (name, point)
        for task in benchmark.tasks
        for name, cells in kept.items()
        for point in points([cell for cell in cells if cell.task == task], level)
    ]
    trained = [cell for cell in main if not cell.init.startswith("random@") or "+" in cell.init]
    coarse = {task: one.coarseness for task, one in evidence.items()}
    every = [cell for cells in (main, *kept.values()) for cell in cells]
    return Controls(
        asked=tuple(benchmark.controls),
        points=tuple(scored),
        against=tuple(_against(trained, floors, coarse, alpha, level)),
        alarms=tuple(_alarms(kept.get(PERMUTED, ()), kept.get("prior", ()), evidence, alpha, level)),
        missing=tuple(missing),
        runs=tuple({run.digest: run for run in runs}.values()),
        level=level,
        alpha=alpha,
        masks=tuple(dict.fromkeys(cell.task for cell in every if cell.runs[0].kind == "segmentation")),
    )


def told(found: Controls, answers: Sequence[Answer], inits: Sequence[str]) -> tuple[Answer, ...]:
    """Puts alarms before, and what no init is shown to beat behind, the answers that they concern."""
    named = labels(inits)
    return tuple(
        replace(answer, text=" ".join([*_warnings(found, answer.scope), answer.text, *_doubts(found, answer, named)]))
        for answer in answers
    )


def words_of(control: str, task: str, found: Controls) -> str:
    """Names a control in a sentence."""
    return MASK if control == "prior" and task in found.masks else WORDS.get(control, control)


def alarm_words(alarm: Alarm, found: Controls) -> str:
    """Says that labels which were drawn anew were predicted."""
    ends = "" if alarm.low is None or alarm.high is None else f", {100 * alarm.low:.2f} to {100 * alarm.high:.2f}"
    score = f"{metrics.title(alarm.metric)} {100 * alarm.mean:.2f}{ends}; nothing is {100 * (alarm.nothing or 0):.2f}"
    if alarm.task in found.masks:
        return f"Masks drawn anew among patients were still met on {alarm.task} ({score}): the pipeline leaks."
    return f"Labels drawn anew among patients were still predicted on {alarm.task} ({score}): the pipeline leaks."


def _warnings(found: Controls, scope: str) -> list[str]:
    return [f"Alarm: {alarm_words(one, found)}" for one in found.alarms if one.raised and scope in (ALL, one.task)]


def unbeaten_words(one: Against, found: Controls) -> str:
    """Says than which controls an init is not shown to be better."""
    return f"not shown to be better than {names([words_of(c, one.task, found) for c in one.unbeaten], NAMED, 'or')}"


def _doubts(found: Controls, answer: Answer, named: Mapping[str, str]) -> list[str]:
    """Names the inits that are not shown to beat the controls, those of one task and one set of controls together."""
    groups: dict[tuple[str, str], list[str]] = {}
    for one in found.against:
        if one.unbeaten and answer.scope in (ALL, one.task):
            groups.setdefault((one.task, unbeaten_words(one, found)), []).append(named.get(one.init, one.init))
    return [
        f"{names(inits, NAMED)} on {task} {'is' if len(inits) == 1 else 'are'} {words}."
        for (task, words), inits in groups.items()
    ]


def known_by(control: str, found: Sequence[Result], settings: params.Params) -> tuple[str, str]:
    """Says by which init and protocol the runs of a control are known.

    Args:
        control: one of `benchmark.controls`.
        found: finished runs.
        settings: all parameters.
    """
    if control in ("prior", "texture"):
        return NONE.canonical, control
    name = "random" if control == "random-frozen" else settings.comparison.reference
    init = parse(name, settings.model.backbone, settings.inits).canonical
    if control == "random-frozen":
        return init, "linear"
    there = dict.fromkeys(one.init for one in found if one.protocol == PERMUTED)
    return (init if init in there else next(iter(there), init)), PERMUTED  # `compare --reference` may name another


def _lacking(row: Row) -> str:
    if row.missing:
        return f"no run of {row.unit} {names(list(map(str, row.missing)), 5)}"
    return "contaminated" if row.barred else "no score"


def _difference(
    one: Cell, other: Cell | float, coarseness: float, share: float, least: float = 0.0
) -> tuple[float, float | None, float | None, float | None]:
    """Compares two cells, or one with a number, seed by seed: estimate, ends of its interval, two-sided p.

    Args:
        one: of which the other is taken away.
        other: of the same seeds, or a score of all.
        coarseness: see `all_pairs.over_seeds_and_patients`.
        share: the interval's chance to miss.
        least: std over seeds below which it is not taken.
    """
    if isinstance(other, Cell):
        values, scores, ratio = other.values, other.scores, max(one.ratio, other.ratio)
        alike = values.shape == one.values.shape and one.row.seeds == other.row.seeds
    else:
        values, scores = np.full_like(one.values, other), np.full_like(one.scores, other)
        ratio, alike = one.ratio, True
    found = None
    if alike and one.values.shape[1] > 1 and not ratio:
        found = all_pairs.over_seeds_and_patients(np.stack([one.values, values]), coarseness=coarseness)
    elif scores.shape == one.scores.shape:
        found = all_pairs.over_seeds([one.scores[:, 0], scores[:, 0]], ratio=ratio)
    estimate = float(one.scores.mean() - scores.mean())
    if found is None:
        return estimate, None, None, None
    found = replace(found, seed_error=np.maximum(found.seed_error, least / found.seeds**0.5))
    p, reach = float(found.p()[0, 1]), float(found.reach(share)[0, 1])
    ends = (None, None) if np.isnan(reach) else (estimate - reach, estimate + reach)
    return estimate, *ends, None if np.isnan(p) else p


def _against(
    trained: Sequence[Cell],
    floors: Mapping[str, Sequence[Cell]],
    coarse: Mapping[str, float],
    alpha: float,
    level: float,
) -> list[Against]:
    rows = list[tuple[Cell, dict[str, tuple[float, float | None, float | None, float | None]], str]]()
    for cell in trained:
        known = {name: own for name, cells in floors.items() for own in cells if own.task == cell.task}
        if known:
            found = {n: _difference(cell, own, coarse.get(cell.task, 0.0), 1 - level) for n, own in known.items()}
            rows.append((cell, found, max(known, key=lambda name: float(known[name].scores.mean()))))
    single = [{name: _one_sided(found) for name, found in every.items()} for _, every, _ in rows]
    whole = holm([max(each.values()) for each in single])
    result = []
    for (cell, every, best), each, p in zip(rows, single, whole, strict=True):
        largest = max(each.values())
        left = sum(max(other.values()) >= largest for other in single)  # comparisons that Holm's factor still counts
        unbeaten = [name for name, own in each.items() if own * left > alpha or own == largest] if p > alpha else []
        estimate, low, high, tested = every[best]
        result.append(
            Against(
                task=cell.task, init=cell.init, control=best, estimate=estimate, low=low, high=high,
                p=None if tested is None else float(p), unbeaten=tuple(unbeaten),
            )
        )  # fmt: skip
    return result


def _one_sided(found: tuple[float, float | None, float | None, float | None]) -> float:
    """Takes the two-sided p of a difference in the wanted direction; 1 in the other, or where there is no test."""
    estimate, _, _, p = found
    return p if p is not None and estimate > 0 else 1.0


def by_chance(evidence: Evidence, labels: int) -> float:
    """Computes the std of an AUC, a mean over labels, where test images are put into an order by lot.

    Mann and Whitney, Annals of Mathematical Statistics 1947. A few permutations may by luck come out closer together.
    """
    cases, others = evidence.cases, evidence.patients - evidence.cases
    if cases < 1 or others < 1:
        return 0.0
    return float(((cases + others + 1) / (12 * cases * others * max(1, labels))) ** 0.5)


def _least_p(distance: float, least: float, seeds: int) -> float:
    """Computes the p of the largest distance from nothing that there is, with the least std that is taken."""
    return float(2 * stats.t.sf(distance * seeds**0.5 / least, seeds - 1))


def _alarms(
    permuted: Sequence[Cell],
    priors: Sequence[Cell],
    evidence: Mapping[str, Evidence],
    alpha: float,
    level: float,
) -> list[Alarm]:
    found = list[tuple[Alarm, float | None]]()
    for cell in permuted:
        metric = cell.runs[0].metric
        other: Cell | float | None = NOTHING.get(metric)
        if other is None:
            other = next((one for one in priors if one.task == cell.task), None)
        note = "" if other is not None else "what nothing scores is measured by the control prior, which is not there"
        if metric in BIASED:
            other, note = None, f"{metrics.title(metric)} comes out above the prior by chance alone"
        mean = float(cell.scores.mean())
        blank = Alarm(
            task=cell.task, init=cell.init, metric=metric, nothing=None, mean=mean, low=None, high=None, p=None,
            raised=False, seeds=len(cell.scores), note=note,
        )  # fmt: skip
        if other is None:
            found.append((blank, None))
            continue
        own = evidence.get(cell.task)
        run = cell.runs[0]
        least = by_chance(own, run.labels - len(run.undefined)) if own and metric == "auc" else 0.0
        coarse = own.coarseness if own else 0.0
        estimate, low, high, p = _difference(cell, other, coarse, 1 - level, least)
        nothing = mean - estimate
        ends = (None, None) if low is None or high is None else (nothing + low, nothing + high)
        note = "one seed shows one permutation, and no spread" if len(cell.scores) < 2 else ""
        best = _least_p(1.0 - nothing, least, len(cell.scores)) if least and p is not None else None
        found.append((replace(blank, nothing=nothing, low=ends[0], high=ends[1], note=note, best_p=best), p))
    tested = [place for place, (_, p) in enumerate(found) if p is not None]
    raised = dict(zip(tested, holm([found[place][1] or 0.0 for place in tested]), strict=True))
    return [
        replace(one, p=float(raised[k]), raised=bool(raised[k] <= alpha and one.mean > (one.nothing or 0.0)))
        if k in raised
        else one
        for k, (one, _) in enumerate(found)
    ]
