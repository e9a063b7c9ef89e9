"""Differences with their intervals: against the reference, the best, over tasks."""

from __future__ import annotations

from medtransfer.cells import of_task
from medtransfer.contrasts import Contrast
from medtransfer.findings import Findings
from medtransfer.tables import Entry, Grid, Section, grid, interval, margin_words, metric_name, p_value, percent, points

METHODS = {"bca": "bias-corrected and accelerated (BCa)", "percentile": "percentiles"}


def against_reference(findings: Findings) -> list[Section]:
    """Tabulates every initialization's difference from the reference, task by task."""
    found = []
    for task in findings.benchmark.tasks:
        contrasts = findings.family(task, "reference")
        if contrasts:
            found.append(_family(findings, task, contrasts))
    if not found:
        words = f"{findings.reference} has not all its runs on any task: set comparison.reference to an init that has."
        return [Section(title="Against the reference", slug="reference", notes=(words,))]
    note = (
        f"Every initialization minus {findings.reference}, in percentage points of the test score. The interval is "
        "over seeds and test patients, which are crossed (Satterthwaite's t; never narrower than over seeds "
        "alone); the "
        "adjusted p (Holm, family: the comparisons of one task with the reference) separates at "
        f"{findings.settings.alpha:g}. Equivalent: two one-sided tests find the difference within the task's margin."
    )
    return [Section(title="Against the reference", slug="reference", notes=(note,)), *found]


def _family(findings: Findings, task: str, contrasts: list[Contrast]) -> Section:
    evidence, metric = findings.evidence[task], of_task(findings.cells, task)[0].metric
    alpha, first = findings.settings.alpha, contrasts[0]
    header = (
        "init", "difference", f"{100 * (1 - alpha):g} % interval", "p adjusted", "verdict", "p", "± patients",
        "± seeds", "Hedges' g", "wins", "seeds for margin",
    )  # fmt: skip
    rows = [_line(contrast, alpha) for contrast in sorted(contrasts, key=lambda c: -c.estimate)]
    margin = "none" if first.margin is None else margin_words(first.margin)
    basis = f"{evidence.patients} {_plural(evidence.unit)} with {evidence.images} images" if evidence.patients else "-"
    notes = [
        f"{metric_name(metric)}; paired by {first.unit}, n = {first.seeds.n[0] if first.seeds.n else 0}; test: "
        f"{basis}; margin: {margin}. ± patients and ± seeds are the two standard errors in the interval. Hedges' g of "
        "the "
        f"paired differences over {first.unit}s and the share of {first.unit}s won say nothing about patients. Seeds "
        "for margin: pairs with which a paired t-test finds a difference of the margin with power 0.8, planned with "
        "the upper 80 % bound of the std."
    ]
    notes += [f"{evidence.note[0].upper()}{evidence.note[1:]}."] if evidence.note else []
    notes += [f"{c.init}: {c.note}." for c in contrasts if c.note and c.p is None]
    return Section(
        title=f"{task}: minus {first.against}", slug=f"reference-{task}", level=3, grid=grid(header, rows),
        notes=tuple(notes), figures=(f"forest-{task}",), scores=True,
    )  # fmt: skip


def _plural(unit: str) -> str:
    return {"study": "studies"}.get(unit, f"{unit}s")


def _line(contrast: Contrast, alpha: float) -> tuple[str, ...]:
    joint, effect = contrast.joint, contrast.effect
    return (
        contrast.init,
        points(contrast.estimate),
        interval(contrast.low, contrast.high),
        p_value(contrast.p_adjusted),
        verdict(contrast, alpha),
        p_value(contrast.p),
        "-" if joint is None else f"{100 * joint.patient_error:.2f}",
        "-" if joint is None or joint.seed_error is None else f"{100 * joint.seed_error:.2f}",
        _effect(effect.g, effect.low, effect.high) if effect is not None else "-",
        "-" if contrast.superiority is None or contrast.superiority.estimate is None
        else f"{100 * contrast.superiority.estimate:.0f} %",
        _seeds(contrast),
    )  # fmt: skip


def _effect(g: float | None, low: float | None, high: float | None) -> str:
    if g is None:
        return "-"
    return _short(g) if low is None or high is None else f"{_short(g)} ({_short(low)} to {_short(high)})"


def _short(value: float) -> str:
    text = f"{value:.1f}"
    return "0.0" if text == "-0.0" else text


def _seeds(contrast: Contrast) -> str:
    if contrast.joint is not None and contrast.joint.verdict == "needs more test patients":
        return "more patients"
    if contrast.seeds_needed is None:
        return "-"
    return str(contrast.seeds_needed)


def verdict(contrast: Contrast, alpha: float) -> str:
    """Words a comparison: better, worse, equivalent, not separated, or no test."""
    separated = contrast.separated(alpha)
    if separated is None:
        return "no test"
    if separated:
        return "better" if contrast.estimate > 0 else "worse"
    return "equivalent" if contrast.equivalent else "not separated"


def candidates(findings: Findings) -> Section | None:
    """Lists which initializations may be the best of each task, at once over all of its candidates."""
    lines = []
    for task, (names, best) in findings.best.items():
        if best.candidates is None:
            lines.append((task, f"no answer: {best.note}", "-"))
            continue
        may = [names[place] for place in best.candidates]
        lines.append((task, ", ".join(may), f"{len(may)} of {len(names)}"))
    if not lines:
        return None
    note = (
        f"Multiple comparisons with the best (Hsu 1981) at {findings.settings.alpha:g}, over seeds paired by seed, the "
        "family is all candidates of a task: the best one is among these unless the seeds were unlucky. Patients are "
        "not in it: on other patients the set may differ. The differences are taken as equally variable: an init whose "
        "seeds vary far more than the others' is left out too often."
    )
    return Section(title="May be the best", slug="best", grid=grid(("task", "inits", "left"), lines), notes=(note,))


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
        figures=("ranks", "segmentation-classification"), scores=True,
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
    overall = findings.answers[0].chosen
    return [
        f"{overall} against {findings.reference} on a further task like these {found.n} (Bayesian signed-rank test "
        f"with the tasks' margins as region of practical equivalence): better by more than the margin with probability "
        f"{found.better:.2f}, within it {found.within:.2f}, worse {found.worse:.2f}."
    ]


def by_kind(findings: Findings) -> Section | None:
    """Summarises segmentation against classification: mean difference from the reference over each kind's tasks."""
    kinds = {task: of_task(findings.cells, task)[0].kind for task in findings.evidence}
    split = {
        "classification": [t for t, kind in kinds.items() if kind != "segmentation"],
        "segmentation": [t for t, kind in kinds.items() if kind == "segmentation"],
    }
    estimates = {(c.task, c.init): c.estimate for c in findings.contrasts if c.family == "reference"}
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
    return Section(title="Classification and segmentation", slug="kinds", grid=grid(header, lines), notes=(note,))


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
