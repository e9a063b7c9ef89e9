"""Does a score hold at another away, and does the order of the initializations?"""

from __future__ import annotations

from collections.abc import Sequence

from medtransfer.comparison.away import CASES, AwayScore, AwayTask, Measured, Pair
from medtransfer.comparison.calibration import CAUTION
from medtransfer.comparison.findings import Findings
from medtransfer.comparison.wording import interval, names, p_value, points, scored
from medtransfer.core.errors import quantity
from medtransfer.report.tables import Section, grid
from medtransfer.statistics import metrics
from medtransfer.weights.families import labels

NAMED = 6


def away(findings: Findings) -> list[Section]:
    """Tabulates, for every other task that networks were read on, what becomes of their scores and of their order."""
    found = [
        section for task, tasks in findings.away.items() for one in tasks for section in _sections(findings, task, one)
    ]
    if not found:
        return []
    level = f"{100 * (1 - findings.settings.alpha):g} %"
    notes = (
        "The networks of a task, as they were tested at home, read on the test images of another task: nothing is "
        f"trained or chosen there. Scores in percent on the labels that both share ({level} interval over seeds and "
        "test patients); drop: home minus there, in points. The patients are other people, so both sets are drawn "
        "anew independently; seeds are the same networks.",
        "p and “shown” are corrected by Holm for all drops of the page, or for all pairs of initializations away, "
        f"each at {CAUTION * findings.settings.alpha:g}; intervals of drops and differences by Bonferroni, which are a "
        "little wider. A drop mixes the other scanner, the other patients and the other readers of the labels; none "
        "shown is no proof of equality.",
    )
    return [Section(title="At another site", slug="away", notes=notes, scores=True), *found]


def sentence(findings: Findings, task: str, away: AwayTask) -> str:
    """Says in one sentence what these data carry of a task that networks were read on."""
    named = labels(findings.benchmark.inits)
    share = CAUTION * findings.settings.alpha
    if all(one.barred for one in away.inits):
        return f"Read at {away.task}; nothing is tested, because no initialization may be compared there."
    if not any(one.drop.adjusted is not None for one in away.inits):
        return f"Read at {away.task}; with one seed nothing is tested."
    parts = [_order(away, share, named)] if away.pairs else []
    moved = [one for one in away.inits if _shown(one.drop, share)]
    falls = {
        word: [named.get(one.init, one.init) for one in moved if sign * one.drop.estimate > 0]
        for word, sign in (("fall", 1), ("rise", -1))
    }
    shown = [f"{word} for {names(some, NAMED)}" for word, some in falls.items() if some]
    parts.append(
        f"against {task}, scores are shown to {' and to '.join(shown)}"
        if shown
        else f"against {task}, no score is shown to fall or to rise"
    )
    return f"At {away.task}, {'; '.join(parts)}."


def _order(away: AwayTask, share: float, named: dict[str, str]) -> str:
    shown = [pair for pair in away.pairs if _shown(pair.away, share)]
    if not shown:
        return "no initialization is shown to be better than another"
    beaten: dict[str, list[str]] = {}
    for pair in shown:
        best, other = (pair.init, pair.against) if pair.away.estimate > 0 else (pair.against, pair.init)
        turned = " (at home the other way round)" if pair.home * pair.away.estimate < 0 else ""
        beaten.setdefault(named.get(best, best), []).append(f"{named.get(other, other)}{turned}")
    return ", ".join(f"{best} is shown to be better than {names(some, NAMED)}" for best, some in beaten.items())


def _shown(measured: Measured, share: float) -> bool:
    return measured.adjusted is not None and measured.adjusted <= share


def _sections(findings: Findings, task: str, away: AwayTask) -> list[Section]:
    marks = f" ({', '.join(away.marks)})" if away.marks else ""
    title = f"At another site: {task} read on {away.task}{marks}"
    slug = f"away-{task}-{away.task}"
    if away.note:
        return [Section(title=title, slug=slug, level=3, notes=(f"Not compared: {away.note}.",))]
    metric = metrics.title(away.metric)
    header = ("init", f"{metric} at home ({task})", f"there ({away.task})", "drop, points", "p of the drop", "compared")
    lines = [_line(one, away.metric) for one in away.inits]
    notes = (sentence(findings, task, away), _of(away), *_agreement(away))
    first = Section(title=title, slug=slug, level=3, grid=grid(header, lines), notes=notes, scores=True)
    pairs = [pair for pair in away.pairs if pair.against == findings.reference] or list(away.pairs)
    if not pairs:
        return [first]
    columns = ("init", "against", "difference at home", "difference there, points", "p")
    contrasts = Section(
        title=f"Differences at {away.task}", slug=f"{slug}-pairs", level=3,
        grid=grid(columns, [_pair(pair, away.metric) for pair in pairs]), scores=True,
    )  # fmt: skip
    return [first, contrasts]


def _line(one: AwayScore, metric: str) -> tuple[str, ...]:
    drop = f"{points(one.drop.estimate)} ({interval(one.drop.low, one.drop.high, metric)})"
    return (
        one.init,
        scored(one.home.estimate, one.home.low, one.home.high, metric),
        scored(one.away.estimate, one.away.low, one.away.high, metric),
        drop,
        p_value(one.drop.adjusted),
        f"no: {one.barred}" if one.barred else "yes",
    )


def _pair(pair: Pair, metric: str) -> tuple[str, ...]:
    away = f"{points(pair.away.estimate)} ({interval(pair.away.low, pair.away.high, metric)})"
    return pair.init, pair.against, points(pair.home), away, p_value(pair.away.adjusted)


def _of(away: AwayTask) -> str:
    many = f"the mean over {len(away.labels)} labels ({names(away.labels, NAMED)})"
    over = many if len(away.labels) > 1 else names(away.labels, NAMED)
    few = f" Left out, with fewer than {CASES} patients of a class in a test: {names(away.few, NAMED)}." * bool(
        away.few
    )
    return (
        f"{quantity(away.images, 'image')} of {quantity(away.patients, 'patient')} there, "
        f"{quantity(away.seeds, 'seed')} of each; scores are of {over}."
        f"{few}"
    )


def _agreement(away: AwayTask) -> Sequence[str]:
    if len(away.pairs) < 2:
        return ()
    same = sum(pair.home * pair.away.estimate > 0 for pair in away.pairs)
    return (f"{same} of {len(away.pairs)} pairs stand there in the order that they have at home.",)
