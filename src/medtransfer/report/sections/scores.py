"""The table in the published form, the published numbers beside ours, and the other test scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from medtransfer.comparison.contrasts import ALL
from medtransfer.comparison.findings import Findings
from medtransfer.comparison.published import Published, repeated
from medtransfer.comparison.published_form import TEST_NAMES, Row
from medtransfer.comparison.selection import imbalances
from medtransfer.comparison.wording import names, percent, plain, points, shared_marks
from medtransfer.report.tables import Entry, Grid, Section, column_title
from medtransfer.results.result import CONTAMINATED, ELSEWHERE, Result, of_task
from medtransfer.statistics import metrics, t_tests
from medtransfer.statistics.mask_shapes import FOUND, UNITS
from medtransfer.statistics.randomization import RandomizationTest
from medtransfer.weights.families import split

NAMED = 6


def scores(findings: Findings) -> Section:
    """Lays out the scores: mean and std, what no other was shown to be better than in bold."""
    return Section(
        title="Scores", slug="scores", grid=score_grid(findings), notes=tuple(score_notes(findings)),
        figures=("scores",), scores=True,
    )  # fmt: skip


def as_printed(findings: Findings) -> Section:
    """Lays out the table in the published form, which our own statements do not rest on."""
    figures = (*(f"bars-{task}" for task in findings.benchmark.tasks), "pairs")
    return Section(
        title="As the paper prints it", slug="published-form", grid=printed_grid(findings),
        notes=(_printed_method(findings), *_untested(findings)), figures=figures, scores=True, folded=True,
    )  # fmt: skip


def score_grid(findings: Findings) -> Grid:
    """Lays out the scores: one row per initialization, one column per task."""
    kept = {task: column.candidates for task, column in findings.columns.items()}
    return _grid(findings, lambda row, text: Entry(text, row.compared and row.init in kept.get(row.task, ())))


def printed_grid(findings: Findings) -> Grid:
    """Lays out the published form: best bold, what its test does not separate from it with a dagger."""
    return _grid(findings, lambda row, text: Entry(f"{text} †" if row.separated is False else text, row.best))


def _grid(findings: Findings, entry: Callable[[Row, str], Entry]) -> Grid:
    results, benchmark = findings.results, findings.benchmark
    titles = [column_title(of_task(results, task), task) for task in benchmark.tasks]
    shared = {task: shared_marks(of_task(results, task)) for task in benchmark.tasks}
    entries = {(row.task, row.init): _score_entry(row, shared[row.task], entry) for row in findings.rows}
    lines = [(Entry(init), *(entries[task, init] for task in benchmark.tasks)) for init in benchmark.inits]
    return Grid(header=("init", *titles), rows=tuple(lines))


def _score_entry(row: Row, shared: set[str], entry: Callable[[Row, str], Entry]) -> Entry:
    if row.summary is None:
        if row.undefined:
            return Entry("undefined")
        if row.stopped:
            return Entry("stopped")
        return Entry(f"{row.expected - len(row.missing)} of {row.expected} {row.unit}s" if row.seeds else "-")
    own = [_mark(row, mark) for mark in sorted(set(row.marks) - shared)]
    made = entry(row, percent(row.summary))
    return replace(made, text=made.text + (f" ({', '.join(own)})" if own else ""))


def _mark(row: Row, mark: str) -> str:
    """Writes a mark beside a score; what was counted of the test images, too."""
    if mark != CONTAMINATED or row.listed is None or not row.listed.held:
        return mark
    return f"{mark}: {row.listed.held:,} of {row.listed.test:,} test images"


def score_notes(findings: Findings) -> list[str]:
    """Says what the comparison rests on: test, n, marks, and what is missing."""
    rows, results = findings.rows, findings.results
    notes = [_method(findings)]
    expected = sum(row.expected for row in rows if row.applicable)
    missing = sum(len(row.missing) for row in rows)
    if missing:
        words = _runs(rows, "missing")
        notes.append(f"{missing} of {expected} runs missing; an init is averaged when it has all: {words}.")
    early = [f"{row.init} on {row.task} ({row.stopped})" for row in rows if row.stopped]
    if early:
        notes.append(f"Stopped by the race on val, so without a final score and in no mean: {'; '.join(early)}.")
    if any(row.undefined for row in rows):
        elsewhere = any(result.verb == ELSEWHERE for result in results)
        why = "not a number in the table" if elsewhere else "no test label has both classes"
        notes.append(f"Undefined ({why}): {_runs(rows, 'undefined')}.")
    notes += _label_notes(results, findings.benchmark.tasks)
    unsuited = [f"{row.init} on {row.task}" for row in rows if not row.applicable]
    if unsuited:
        notes.append(f"Not applicable (pre-trained on the task's own dataset): {'; '.join(unsuited)}.")
    barred = [f"{row.init} on {row.task}" for row in rows if row.barred]
    if barred:
        notes.append(
            "Shown, and in no test, rank, choice or claim, because pre-trained on images of the test set, or on those "
            f"that it is taken from (contaminated): {'; '.join(barred)}. comparison.as_published: true compares them, "
            "as published."
        )
    bare = [f"{row.init} on {row.task}" for row in rows if row.printed and row.summary and not row.compared]
    if bare:
        notes.append(f"Shown, and compared with nothing: no std over two or more runs is printed: {'; '.join(bare)}.")
    notes += [f"{row.init} on {row.task}: {row.listed.words}." for row in rows if row.listed]
    if count := findings.left_out:
        notes.append(f"{count} finished {'run' if count == 1 else 'runs'} outside this benchmark left out.")
    for condition, runs in imbalances(results).items():
        notes.append(f"Not balanced over inits, allowed by comparison.unbalanced: {condition}, {'; '.join(runs)}.")
    return notes + _version_notes(results)


def _untested(findings: Findings) -> list[str]:
    """Says where the published form's test is not possible, and what limits it."""
    tests = [(row, row.test) for row in findings.rows if row.test]
    untested = [f"{row.task} {row.init} ({test.note})" for row, test in tests if test.p is None]
    limits = dict.fromkeys(test.note for _, test in tests if isinstance(test, RandomizationTest) and test.note)
    found = [f"No test possible: {'; '.join(untested)}."] if untested else []
    return found + [f"{note[0].upper()}{note[1:]}." for note in limits]


def _runs(rows: Iterable[Row], field: str) -> str:
    """Names runs by task, init and seeds, for a note."""
    named = [(row, getattr(row, field)) for row in rows if getattr(row, field)]
    return "; ".join(
        f"{row.task} {row.init} {row.unit}{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
        for row, seeds in named
    )


def _method(findings: Findings) -> str:
    rows = findings.rows
    marks = sorted({mark for result in findings.results for mark in result.marks})
    units = {row.unit for row in rows if row.summary is not None} or {"seed"}
    words = {"seed": "run (seed)", "fold": "fold (mean over its seeds)", "split": "drawn split (mean over its seeds)"}
    words["run"] = "run, of printed means"
    unit = " or ".join(f"{words[name]}, n = {_number(rows, name)}" for name in sorted(units, reverse=True))
    scored = dict.fromkeys(row.task for row in rows if row.summary is not None)
    bare = [task for task in scored if task not in findings.columns]
    none = (
        f" On {names(bare, NAMED)} nothing could be compared, and nothing is bold."
        if 0 < len(bare) < len(scored)
        else ""
    )
    return (
        f"Mean ± std of the test score in percent; unit: {unit}, ddof 1. {_bold(findings)}{none} "
        f"Marks: {', '.join(marks) or 'none'}."
    )


def _bold(findings: Findings) -> str:
    """Says what bold is, and what the others are, where there are any."""
    columns = [column for task, column in findings.columns.items() if task != ALL]
    if not columns:
        return "Nothing could be compared, and nothing is bold."
    pairs = f"all pairs, all of the page at once, {findings.alpha:.2g} (Bonferroni)"
    if any(len(column.candidates) < len(column.inits) for column in columns):
        return f"Bold: no other was shown to be better. All others were shown to be worse than another: {pairs}."
    return f"All that were compared are bold: of none was it shown that another is better; {pairs}."


def _printed_method(findings: Findings) -> str:
    rows, settings = findings.rows, findings.settings
    tests = {TEST_NAMES[settings.test]} if any(not row.redrawn for row in rows) else set()
    tests |= {f"corrected resampled t-test, paired by {row.unit}" for row in rows if row.redrawn}
    return (
        "Mean ± std (ddof 1) in percent. Best of each column bold, picked by these same scores; † = not separated "
        "from "
        f"it (p > {settings.alpha:g}, {' or '.join(sorted(tests))}, two-sided, correction: none, patients not "
        "accounted "
        "for), which is not the same as equivalent. No sentence of this page rests on it; stars in the figures "
        "likewise."
    )


def _number(rows: Sequence[Row], unit: str) -> str:
    counts = sorted({row.summary.n for row in rows if row.summary is not None and row.unit == unit})
    return f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}" if counts else "0"


def _label_notes(results: Sequence[Result], tasks: Sequence[str]) -> list[str]:
    firsts = [of_task(results, task)[0] for task in tasks if of_task(results, task)]
    return [
        f"{result.task}: mean over {result.labels - len(result.undefined)} of {result.labels} labels; undefined in "
        f"test: {', '.join(result.undefined)}. Not comparable with a mean over other labels."
        for result in firsts
        if result.undefined
    ]


def _version_notes(results: Sequence[Result]) -> list[str]:
    found = Counter(", ".join(f"{name} {version}" for name, version in sorted(c.versions.items())) for c in results)
    if len(found) == 1:
        return []
    return [
        "Library versions differ: "
        + "; ".join(f"{words} ({count} {'run' if count == 1 else 'runs'})" for words, count in found.items())
        + "."
    ]


def further(findings: Findings) -> list[Section]:
    """Tabulates the other test scores of each task: AUC or one form of Dice alone is not enough."""
    found = []
    for task in findings.benchmark.tasks:
        own = of_task(findings.results, task)
        primary = own[0].metric if own else ""
        names = [
            name
            for name in metrics.titles()
            if name != primary and any(f"test_{name}" in result.scores for result in own)
        ]
        if names:
            found.append(_further(findings, task, own, names))
    return found


def _further(findings: Findings, task: str, own: Sequence[Result], names: Sequence[str]) -> Section:
    lines = []
    for init in findings.benchmark.inits:
        runs = [result for result in own if result.init == init]
        expected = len(findings.benchmark.seeds) * max(1, len({result.fold for result in own}))
        lines.append((Entry(init), *(Entry(_mean_text(runs, f"test_{name}", expected)) for name in names)))
    grid = Grid(header=("init", *(metrics.title(name) for name in names)), rows=tuple(lines))
    first = "Mean ± std over the same runs in percent, ddof 1; not tested."
    notes = (first, *_shape_notes(own, names), *_directions(names))
    title = f"Further scores: {task}"
    return Section(title=title, slug=f"further-{task}", grid=grid, notes=notes, scores=True, folded=True)


def _directions(names: Sequence[str]) -> list[str]:
    lower = [metrics.title(name) for name in names if metrics.record(name).lower or metrics.unit(name) == "per image"]
    return [f"Lower is better: {', '.join(lower)}."] if lower else []


def _mean_text(runs: Sequence[Result], name: str, expected: int) -> str:
    found = [result.scores[name] for result in runs if name in result.scores]
    if found and len(found) < expected:
        return f"{len(found)} of {expected} runs"
    write = plain if metrics.unit(name.removeprefix("test_")) else percent
    return write(t_tests.summary(found) if found else None)


def _shape_notes(own: Sequence[Result], names: Sequence[str]) -> list[str]:
    """Says what surface Dice, distances and lesions of a table are measured by."""
    found = {metrics.record(name).group for name in names}
    tolerances = sorted({result.tolerance for result in own} - {""})
    notes = []
    if "surface" in found and tolerances:
        odd = "; runs differ in it: their surface Dice cannot be compared" if len(tolerances) > 1 else ""
        notes.append(f"Surface Dice at a tolerance of {' and '.join(tolerances)}{odd}.")
    if any(metrics.unit(name) in UNITS for name in names):
        lacking = [result.scores.get("test_native_no_distance", 0.0) for result in own]
        few = f"{min(lacking):g} to {max(lacking):g}" if min(lacking) < max(lacking) else f"{max(lacking):g}"
        notes.append(
            "Distances in their unit, lower is better, over the images in which neither mask is empty: without "
            f"{few} of {own[0].counts['test']}."
        )
    if "lesions" in found:
        notes.append(f"A lesion is found by a predicted one of its own, at an overlap (IoU) of {FOUND:g} or more.")
    return notes


def labels(findings: Findings) -> list[Section]:
    """Shows every label's AUC: a mean hides which findings an initialization helps with."""
    own = {task: of_task(findings.results, task) for task in findings.benchmark.tasks}
    shown = [
        task for task, results in own.items() if results and len(results[0].tested) > 1 and results[0].metric == "auc"
    ]
    note = "Mean over seeds of each label's test AUC in percent, best of a column bold; not tested."
    return [
        Section(title=f"Labels: {task}", slug=f"labels-{task}", notes=(note,), figures=(f"labels-{task}",), scores=True)
        for task in shown
    ]


def printed(findings: Findings) -> list[Section]:
    """Sets published scores beside ours, where both have an initialization and a task."""
    found = []
    for paper in dict.fromkeys(row.paper for row in findings.published):
        rows = [row for row in findings.published if row.paper == paper and row.score]
        index = {(row.task, row.init): row for row in rows}
        tasks = [task for task in findings.benchmark.tasks if any(row.task == task for row in rows)]
        inits = [init for init in findings.benchmark.inits if any((task, split(init)[0]) in index for task in tasks)]
        if inits:
            found.append(_beside(findings, paper, rows, index, tasks, inits))
    return found


def _beside(
    findings: Findings,
    paper: str,
    rows: Sequence[Published],
    index: Mapping[tuple[str, str], Published],
    tasks: Sequence[str],
    inits: Sequence[str],
) -> Section:
    ours = {(row.task, row.init): row for row in findings.rows}
    lines = []
    for init in inits:
        for task in tasks:
            theirs, own = index.get((task, split(init)[0])), ours[task, init]
            if theirs is not None:
                summary = t_tests.Summary(mean=theirs.mean, std=theirs.std, n=theirs.n)
                gap = own.summary.mean - theirs.mean if own.summary else None
                texts = (
                    init,
                    task,
                    percent(own.summary),
                    percent(summary) + (" (digitised)" if theirs.digitised else ""),
                )
                lines.append(tuple(map(Entry, (*texts, _n(theirs), points(gap)))))
    header = ("init", "task", "here", "published", "n", "here - published, points")
    marks = {mark for result in findings.results for mark in result.marks} & {"synthetic", "partial"}
    notes = [f"{paper}. Published numbers come without their runs, so the difference is not tested."]
    notes += (
        [f"The data here is {' and '.join(sorted(marks))}: the difference says nothing about weights."] if marks else []
    )
    notes.append("(digitised) = measured in a figure; n in brackets is inferred (comparison.published_n), not stated.")
    notes += [repeated(rows)] if repeated(rows) else []
    slug = "published-" + "".join(c if c.isalnum() else "-" for c in paper.lower()).strip("-")
    return Section(
        title=f"Beside published numbers: {paper}", slug=slug, notes=tuple(notes), scores=True,
        grid=Grid(header=header, rows=tuple(lines)), folded=True,
    )  # fmt: skip


def _n(row: Published) -> str:
    return str(row.n) if row.n_stated else f"({row.n})"


def primary(findings: Findings, task: str) -> str:
    """Names the primary metric of a task."""
    own = of_task(findings.results, task)
    return metrics.title(own[0].metric) if own else "score"
