"""Differences with their intervals: against the reference, the best, over tasks."""

from __future__ import annotations

from medtransfer.comparison.contrasts import ALL, FEWEST, Contrast
from medtransfer.comparison.findings import Findings
from medtransfer.comparison.published_form import Row
from medtransfer.comparison.wording import interval, margin_words, p_value, percent, plural, points
from medtransfer.core.errors import quantity
from medtransfer.report.tables import Entry, Grid, Section, grid
from medtransfer.results.result import of_task
from medtransfer.statistics import effects, metrics

METHODS = {
    "bca": "bias-corrected and accelerated (BCa)", "percentile": "percentiles", "score": "near 1 the score equation's",
}  # fmt: skip
FEWEST_SEEDS = 5
"""seeds below which no standardized effect is shown: its interval says next to nothing"""


def against_reference(findings: Findings) -> list[Section]:
    """Tabulates every initialization's difference from the reference, task by task."""
    found = []
    for task in findings.benchmark.tasks:
        contrasts = findings.against_reference(task)
        if contrasts:
            found.append(_family(findings, task, contrasts))
    if not found:
        words = f"{findings.reference} has not all its runs on any task: set comparison.reference to an init that has."
        if any(row.init == findings.reference and row.summary is not None for row in findings.rows):
            words = f"Nothing can be compared with {findings.reference}: the answers say why."
        return [Section(title="Against the reference", slug="reference", notes=(words,))]
    number = sum(column.pairs.number for column in findings.columns.values())
    note = (
        f"Every initialization minus {findings.reference}, in percentage points of the test score. The interval "
        "decides on better and worse, and the narrower one on what is within the margin. Of the page "
        f"{quantity(number, 'comparison', 'hold')} at once ({findings.alpha:.2g} together, Bonferroni)."
    )
    if any(_cut(findings.columns[c.task].largest, c) for c in findings.contrasts if c.task != ALL):
        note += " An interval that would go further ends where a difference of two scores can."
    return [Section(title="Against the reference", slug="reference", notes=(note,)), *found]


def _family(findings: Findings, task: str, contrasts: list[Contrast]) -> Section:
    evidence, metric, first = findings.evidence[task], of_task(findings.results, task)[0].metric, contrasts[0]
    rows = {row.init: row for row in findings.of_task(task)}
    several = first.n >= FEWEST_SEEDS
    header = (
        "init", "difference", "interval", "verdict", "interval for the margin", "p", "p adjusted", "± patients",
        "± seeds", *(("Hedges' g",) if several else ()),
    )  # fmt: skip
    lines = []
    for contrast in sorted(contrasts, key=lambda c: -c.estimate):
        effect = _effect(rows[contrast.init], rows[findings.reference]) if several else ()
        lines.append((*_line(contrast), *effect))
    margin = "none" if first.margin is None else margin_words(first.margin)
    basis = (
        f"{evidence.patients:,} {plural(evidence.unit)} with {evidence.images:,} images"
        if first.patients
        else "not in it"
    )
    notes = [
        f"{metrics.title(metric)}; over {first.n} {first.unit}s, paired; test {plural(evidence.unit)}: {basis}; "
        f"margin: {margin}. ± patients and ± seeds are the two standard errors; how much seeds vary is drawn towards "
        "what all initializations share (moderated variance)."
    ]
    notes += ["Hedges' g: of the paired differences over seeds, without patients."] if several else []
    notes += [f"{evidence.note[0].upper()}{evidence.note[1:]}."] if evidence.note else []
    if first.patients and evidence.cases < FEWEST:
        words = f"Fewer than {FEWEST} {plural(evidence.unit)} of the smaller class: nothing is called equivalent."
        notes.append(words)
    return Section(
        title=f"{task}: minus {first.against}", slug=f"reference-{task}", level=3, grid=grid(header, lines),
        notes=tuple(notes), figures=(f"forest-{task}",), scores=True,
    )  # fmt: skip


def _cut(largest: float, contrast: Contrast) -> bool:
    return contrast.low == -largest or contrast.high == largest


def _line(contrast: Contrast) -> tuple[str, ...]:
    return (
        contrast.init,
        points(contrast.estimate),
        interval(contrast.low, contrast.high),
        contrast.word,
        interval(contrast.equal_low, contrast.equal_high),
        p_value(contrast.p),
        p_value(contrast.p_adjusted),
        f"{100 * contrast.patient_error:.2f}" if contrast.patients else "-",
        f"{100 * contrast.seed_error:.2f}",
    )


def _effect(row: Row, base: Row) -> tuple[str, ...]:
    found = effects.standardized(row.scores, base.scores, paired=True)
    if found.g is None:
        return ("-",)
    if found.low is None or found.high is None:
        return (_short(found.g),)
    return (f"{_short(found.g)} ({_short(found.low)} to {_short(found.high)})",)


def _short(value: float) -> str:
    text = f"{value:.1f}"
    return "0.0" if text == "-0.0" else text


def pooled(findings: Findings) -> Section | None:
    """Tabulates the mean over all tasks, in units of their margins, against the reference."""
    contrasts = findings.against_reference(ALL)
    if not contrasts:
        return None
    lines = [
        (c.init, _margins(c.estimate), f"{_margins(c.low)} to {_margins(c.high)}" if c.low is not None else "-", c.word)
        for c in sorted(contrasts, key=lambda c: -c.estimate)
    ]
    note = (
        f"Minus {findings.reference}, in margins: the mean over tasks, each counted in units of its own margin; tasks "
        "that "
        "share images count as one. Initializations that are compared on every task."
    )
    header = ("init", "difference, margins", "interval", "verdict")
    return Section(title="Over all tasks", slug="overall", grid=grid(header, lines), notes=(note,), scores=True)


def _margins(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def over_tasks(findings: Findings) -> Section | None:
    """Tabulates mean ranks over tasks, with tests where there are enough tasks."""
    ranks = findings.ranks
    if not ranks.mean or len(findings.benchmark.tasks) < 2:
        return None
    tasks = [task for task in findings.benchmark.tasks if task in findings.evidence]
    used = [tasks[place] for place in ranks.tasks]
    lines = []
    for place in sorted(range(len(findings.ranked)), key=lambda k: ranks.mean[k]):
        spread = (
            "-" if ranks.low is None or ranks.high is None else f"{ranks.low[place]:.2f} to {ranks.high[place]:.2f}"
        )
        val = f"{findings.val_ranks.mean[place]:.2f}" if findings.val_ranks.mean else "-"
        lines.append((findings.ranked[place], f"{ranks.mean[place]:.2f}", spread, val))
    header = ("init", "mean rank on test", "spread over seeds", "mean rank on val")
    notes = [
        f"1 = best; over {', '.join(used)}. Tasks that share images count as one ({ranks.n} groups). The spread is of "
        f"the mean rank at this number of seeds of these tasks ({100 * ranks.confidence:g} %, bootstrap of seeds), not "
        "of the ranks of the true means.",
        _rank_test(findings),
        *_posterior(findings),
    ]
    return Section(
        title="Ranks over tasks", slug="ranks", grid=grid(header, lines), notes=tuple(notes),
        figures=("ranks",), scores=True,
    )  # fmt: skip


def _rank_test(findings: Findings) -> str:
    friedman, nemenyi = findings.friedman, findings.nemenyi
    if friedman.p is None:
        return f"No test over tasks: {friedman.note}."
    words = f"{friedman.test}: p = {p_value(friedman.p)}, n = {friedman.n}."
    if nemenyi.critical_difference is None:
        return f"{words} {nemenyi.note}."
    return f"{words} Nemenyi's critical difference at {nemenyi.alpha:g}: {nemenyi.critical_difference:.2f} ranks."


def _posterior(findings: Findings) -> list[str]:
    found = findings.posterior
    if found is None or found.worse is None or found.within is None or found.better is None:
        return []
    overall = findings.overall
    return [
        f"{overall} against {findings.reference} on a further task like these {found.n} (Bayesian signed-rank test "
        f"with the tasks' margins as region of practical equivalence): better by more than the margin with probability "
        f"{found.better:.2f}, within it {found.within:.2f}, worse {found.worse:.2f}."
    ]


def by_kind(findings: Findings) -> Section | None:
    """Summarises segmentation against classification: mean difference from the reference over each kind's tasks."""
    kinds = {task: of_task(findings.results, task)[0].kind for task in findings.evidence}
    split = {
        "classification": [t for t, kind in kinds.items() if kind != "segmentation"],
        "segmentation": [t for t, kind in kinds.items() if kind == "segmentation"],
    }
    estimates = {(c.task, c.init): c.estimate for task in kinds for c in findings.against_reference(task)}
    lines = []
    for init in findings.benchmark.inits:
        means = [_mean([estimates.get((task, init)) for task in tasks]) for tasks in split.values()]
        if any(mean is not None for mean in means):
            lines.append((init, *map(points, means)))
    if not lines or not all(split.values()):
        return None
    note = (
        f"Mean difference from {findings.reference} in percentage points, averaged over "
        f"the tasks of a kind ({'; '.join(', '.join(tasks) for tasks in split.values())}); - where a task lacks runs. "
        "The claims test such differences."
    )
    header = ("init", *split)
    return Section(
        title="Classification and segmentation",
        slug="kinds",
        grid=grid(header, lines),
        notes=(note,),
        figures=("segmentation-classification",),
    )


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def intervals(findings: Findings) -> Section | None:
    """Tabulates each initialization's score with its interval over patients."""
    tasks = [
        task for task in findings.benchmark.tasks if task in findings.evidence and findings.evidence[task].intervals
    ]
    if not tasks:
        return None
    rows = {(row.task, row.init): row for row in findings.rows}
    lines = []
    for init in findings.benchmark.inits:
        entries = [Entry(init)]
        for task in tasks:
            found = findings.evidence[task].intervals.get(init)
            low, high = (found.low, found.high) if found else (None, None)
            ends = "" if low is None or high is None else f" ({100 * low:.2f} to {100 * high:.2f})"
            entries.append(Entry(percent(rows[task, init].summary).split(" ")[0] + ends))
        lines.append(tuple(entries))
    first = next(iter(findings.evidence[tasks[0]].intervals.values()))
    note = (
        f"Mean test score over seeds in percent with its {100 * first.level:g} % interval over test patients, these "
        f"runs as they are: paired bootstrap of patients, {METHODS[first.method]}, "
        f"{first.resamples:,} resamples, one draw for all initializations. Two intervals that overlap say nothing "
        "about the difference: that is in the tables above."
    )
    redrawn = {task: next(iter(findings.evidence[task].intervals.values())).redrawn for task in tasks}
    counted = ", ".join(f"{task} {count:,}" for task, count in redrawn.items() if count)
    notes = [note] + ([f"Resamples without both classes, drawn anew: {counted}."] if counted else [])
    grid_ = Grid(header=("init", *tasks), rows=tuple(lines))
    return Section(
        title="Scores over patients", slug="patients", grid=grid_, notes=tuple(notes), scores=True, folded=True
    )
