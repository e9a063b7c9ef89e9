"""Tuning: what each study was given and found, the ranking while the budget was spent, tuned beside fixed."""

from __future__ import annotations

from collections.abc import Sequence

from medtransfer.comparison.findings import Findings
from medtransfer.comparison.wording import as_word, p_value, percent, points
from medtransfer.report.tables import Section, column_title, grid
from medtransfer.results import study
from medtransfer.results.result import Result, of_task
from medtransfer.results.study import Ledger
from medtransfer.statistics import t_tests


def studies(findings: Findings) -> Section | None:
    """Tabulates each study: trials by state, budget, cost, what was found."""
    if not findings.studies:
        return None
    header = ("task", "init", "complete", "pruned", "failed", "lost", "repeated points", "images seen", "of budget",
              "epochs", "seconds", "GPU seconds", "best on val", "chosen")  # fmt: skip
    lines = [_study(one) for one in findings.studies]
    return Section(
        title="Tuning", slug="tuning", grid=grid(header, lines), notes=tuple(_notes(findings.studies)),
        figures=("tuning",),
    )  # fmt: skip


def _study(one: Ledger) -> tuple[str, ...]:
    counted = [trial for trial in one.trials if trial.counted]
    values = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {as_word(v)}" for k, v in _values(one).items())
    best = min((f for f in one.finalists if f.number == one.winner), key=lambda f: f.number, default=None)
    return (
        one.task, one.init, *(str(count) for count in one.states().values()), f"{one.spent:,}",
        f"{one.spent / one.budget_images:.0%}", str(sum(t.epochs for t in counted)),
        f"{sum(t.seconds for t in counted):.0f}", f"{sum(t.gpu_seconds for t in counted):.0f}",
        f"{one.monitor} {best.mean:.4f}" if best and best.mean is not None else "-", values or "-",
    )  # fmt: skip


def _values(one: Ledger) -> dict[str, object]:
    return one.values if one.winner is not None else {}


def _notes(found: Sequence[Ledger]) -> list[str]:
    first = found[0]
    repeats = len(first.finalists[0].values) - 1 if first.finalists else 0
    notes = [
        f"One study per initialization and task, sampler {first.identity['sampler']}, pruner "
        f"{first.identity['pruner']}, the same budget of images for each of a task: {first.budget_trials} trials of "
        "full length; what pruned or stopped trials leave buys further ones. The objective is the monitored score at "
        "the epoch that the run would keep, on val; test is never read. Trials, failed ones too, count by the images "
        "they saw; `lost` (a process died, its point went on elsewhere) and repeated points do not count.",
        f"Before a winner is named the {len(first.finalists)} best trials are trained again with {repeats} other "
        "seeds, none of them the benchmark's; the best value is the mean over these and the trial's own. It is the "
        "largest of several, so it flatters: the benchmark's own seeds do not.",
    ]
    notes += [f"{one.task}, {one.init}: {flag}." for one in found for flag in one.flags]
    notes += [
        f"{one.task}, {one.init}: every point of the space was tried before the budget was spent."
        for one in found
        if one.exhausted
    ]
    notes += [f"{one.task}, {one.init}: the study is not finished." for one in found if not one.finished]
    return notes


def ranking(findings: Findings) -> Section | None:
    """Tabulates the rank of each initialization by its best value after parts of the budget."""
    tasks = [t for t in findings.benchmark.tasks if sum(one.task == t for one in findings.studies) > 1]
    if not tasks:
        return None
    lines = []
    for task in tasks:
        mine = [one for one in findings.studies if one.task == task]
        ranks = [study.ranking(mine, share) for share in study.SHARES]
        for one in mine:
            lines.append((task, one.init, *(f"{rank[one.init]:g}" if one.init in rank else "-" for rank in ranks)))
    header = ("task", "init", *(f"rank at {share:.0%}" for share in study.SHARES))
    note = "By the best value on val that the part of the budget had found, one seed each; 1 is the best."
    return Section(title="Ranking while the budget is spent", slug="tuning-ranking", level=3, grid=grid(header, lines),
                   notes=(note,))  # fmt: skip


def recipes(findings: Findings) -> Section | None:
    """Puts the fixed and the tuned recipe side by side, on val and on test."""
    tunable = [c for c in (*findings.results, *findings.beside) if (c.protocol, c.fraction) == ("finetune", "1")]
    by_recipe = {recipe: [c for c in tunable if c.recipe == recipe] for recipe in _RECIPES}
    if not all(by_recipe.values()):
        return None
    lines = []
    for task in findings.benchmark.tasks:
        for init in findings.benchmark.inits:
            pair = [[c for c in of_task(by_recipe[r], task) if c.init == init] for r in _RECIPES]
            if all(pair):
                lines.append((task, init, *_beside(*pair)))
    titles = dict.fromkeys(column_title(of_task(findings.results, task), task) for task in findings.benchmark.tasks)
    note = (
        f"{'; '.join(titles)}; in percent, mean ± std over seeds (ddof 1). Gain: tuned minus fixed on test, over the "
        "seeds that both have, in points; p: two-sided t-test paired by seed, not corrected for the number of lines. "
        f"Tables, tests and answers of this page rest on the {findings.settings.recipe} recipe (comparison.recipe)."
    )
    header = ("task", "init", "val, fixed", "val, tuned", "test, fixed", "test, tuned", "gain", "p", "n")
    return Section(title="Fixed recipe and tuned", slug="recipes", grid=grid(header, lines), notes=(note,), scores=True)


_RECIPES = ("fixed", "tuned")


def _beside(fixed: Sequence[Result], tuned: Sequence[Result]) -> tuple[str, ...]:
    shown = []
    for name in ("val_score", "score"):
        for runs in (fixed, tuned):
            values = [value for run in runs if (value := getattr(run, name)) is not None]
            shown.append(percent(t_tests.summary(values)) if values else "undefined")
    ours = {(run.seed, run.fold): run.score for run in tuned if run.score is not None}
    theirs = {(run.seed, run.fold): run.score for run in fixed if run.score is not None}
    both = sorted(ours.keys() & theirs.keys(), key=str)
    if not both:
        return (*shown, "-", "-", "0")
    mine, other = [ours[key] for key in both], [theirs[key] for key in both]
    test = t_tests.t_test(mine, other, test="paired")
    gain = sum(mine) / len(mine) - sum(other) / len(other)
    p = "-" if test.p is None or fixed[0].fold is not None else p_value(test.p)
    return (*shown, points(gain), p, str(len(both)))
