"""The runs that count -> a leaderboard: scores per task, comparisons that hold at once, ranks and win rates."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medtransfer import params
from medtransfer.comparison import answers, contrasts, published_form
from medtransfer.comparison.answers import Answer
from medtransfer.comparison.contrasts import Column, Contrast, Untested
from medtransfer.comparison.findings import SEED
from medtransfer.comparison.patients import Evidence
from medtransfer.comparison.published_form import Row, eligible
from medtransfer.core.errors import UserError, quantity
from medtransfer.core.schema import nearest
from medtransfer.packs import counted
from medtransfer.packs.counted import Run, Status
from medtransfer.packs.records import Contribution, InitCard, Pack, TaskCard
from medtransfer.results.result import Result
from medtransfer.statistics import metrics, ranks, win_rates
from medtransfer.statistics.ranks import Ranks
from medtransfer.statistics.win_rates import WinRates
from medtransfer.weights.families import split

ALL = contrasts.ALL
ALPHA = 0.05
"""level of all comparisons of the site together"""
ENOUGH = 5
"""seeds beyond which no init is left out of a task so that the others have more"""
NOTE = "no predictions of single patients; seeds alone count"


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Several tasks together: all of them, or those on one kind of images."""

    name: str
    tasks: tuple[str, ...]
    """over which is ranked: every ranked init is compared on each of them"""
    lacking: tuple[str, ...]
    """tasks of the scope that are not, as too few inits have them"""
    ranked: tuple[str, ...]
    """inits, the best mean rank first"""
    left: Mapping[str, tuple[str, ...]]
    """init that is not ranked -> the tasks that it lacks"""
    ranks: Ranks
    """in the order of `ranked`"""
    wins: WinRates
    """likewise"""
    column: Column | None
    """all comparisons, in units of the tasks' margins"""
    answer: Answer

    def place(self, init: str) -> int:
        """Gives the rank, 1 for the best; equal mean ranks share the better one."""
        mean = self.ranks.mean[self.ranked.index(init)]
        return 1 + sum(other < mean - 1e-9 for other in self.ranks.mean)


@dataclass(frozen=True, kw_only=True)
class Board:
    """All that the site says, before it is laid out."""

    pack: Pack
    contributions: tuple[Contribution, ...]
    """the earliest first"""
    runs: tuple[Run, ...]
    inits: Mapping[str, InitCard]
    tasks: Mapping[str, TaskCard]
    reference: str
    """bare name, of which each init is compared with the one on its own backbone, or a canonical name"""
    protocol: str
    recipe: str
    seeds: Mapping[str, tuple[int, ...]]
    """task -> seeds on which its inits are compared"""
    rows: Mapping[tuple[str, str], Row]
    """(task, init) -> its scores; an init that lacks a seed has no mean"""
    columns: Mapping[str, Column]
    """task -> all comparisons on it"""
    answers: Mapping[str, Answer]
    """task -> in words"""
    scopes: tuple[Scope, ...]
    """all tasks first, where inits have any two in common"""
    labels: Mapping[str, str]
    """init -> its name on a page"""
    number: int
    """of comparisons that hold at once"""

    def status(self, contribution: str) -> Status:
        """Says what others found of a contribution."""
        return self.pack.status(contribution)

    def of(self, *, init: str = "", task: str = "") -> list[Run]:
        """Takes the runs that count."""
        return list(self._index.get((init, task), ()))

    @functools.cached_property
    def _index(self) -> dict[tuple[str, str], list[Run]]:
        found: dict[tuple[str, str], list[Run]] = {}
        for run in counted.counting(self.runs):
            for key in itertools.product(("", run.result.init), ("", run.result.task)):
                found.setdefault(key, []).append(run)
        return found

    def against(self, column: Column | None, init: str) -> Contrast | None:
        """Compares an init with its reference; None where that is itself, or not in the column."""
        other = self.reference_of(init)
        if column is None or other == init or init not in column.inits or other not in column.inits:
            return None
        return column.contrast(init, other)

    def reference_of(self, init: str) -> str:
        """Names the init that an init is compared with: on its own backbone, unless one was named for all."""
        return self.reference if self.reference in self.inits else f"{self.reference}@{backbone(init)}"

    def verified(self, init: str) -> tuple[Status, str]:
        """Says of an init's runs whether they were trained again, and how many of those that count."""
        own = self.of(init=init)
        if not own:
            here = [run.status for run in self.runs if run.result.init == init]
            return ("refuted" if "refuted" in here else "claimed"), ""
        checked = sum(run.status == "verified" for run in own)
        if checked == len(own):
            return "verified", ""
        return "claimed", f"{checked} of {quantity(len(own), 'run')} verified" if checked else ""


def backbone(init: str) -> str:
    """Reads the architecture of a canonical name."""
    return split(init)[1] or init.rpartition("@")[2].split("+")[0]


def build(pack: Pack, *, reference: str = "random", protocol: str = "finetune", recipe: str = "fixed") -> Board:
    """Compares every two inits of the contributions on every task and over several, and ranks them.

    Args:
        pack: of all contributions.
        reference: init that improvements are over: `random` for that on each init's own backbone, or a canonical name.
        protocol: of the runs that count.
        recipe: of the runs that count.

    Raises:
        UserError: no run counts, or no init is the reference.
    """
    runs = counted.count(pack, protocol, recipe)
    if not counted.counting(runs):
        why = Counter(run.why for run in runs)
        found = "; ".join(f"{quantity(number, 'run')}: {words}" for words, number in sorted(why.items()))
        raise UserError(f"no run counts by {protocol} with the {recipe} recipe; {found or 'the packs hold none'}")
    inits = {name: card for one in reversed(counted.ordered(pack)) for name, card in one.inits.items()}
    tasks = {name: card for one in reversed(counted.ordered(pack)) for name, card in one.tasks.items()}
    inits, tasks = dict(sorted(inits.items())), dict(sorted(tasks.items()))
    _check_reference(reference, inits)
    own = {task: [run.result for run in counted.counting(runs) if run.result.task == task] for task in tasks}
    seeds = {task: _seeds(results) for task, results in own.items() if results}
    runs = tuple(_outside(run, seeds) for run in runs)
    rows = {task: _rows(own[task], seeds[task], tuple(inits), protocol, recipe) for task in seeds}
    untested = {task: _column(own[task], rows[task]) for task in seeds}
    wholes = [(name, *_whole(some, untested, own)) for name, some in _scopes(tasks, untested).items()]
    singles = {task: column for task, column in untested.items() if column is not None}
    every = [column for *_, column in wholes if column is not None]
    levelled = contrasts.at_level([*every, *singles.values()], ALPHA)
    share = levelled[0].share if levelled else 0.0
    columns = dict(zip(singles, levelled[len(every) :], strict=True))
    by_scope = iter(levelled[: len(every)])
    labels = _labels(tuple(inits))
    index = {(row.task, row.init): row for some in rows.values() for row in some}
    scopes = [
        _scope(name, some, lacking, ranked, next(by_scope) if column else None, index, own, inits, labels, share)
        for name, some, lacking, ranked, column in wholes
    ]
    return Board(
        pack=pack, contributions=counted.ordered(pack), runs=runs, inits=inits, tasks=tasks, reference=reference,
        protocol=protocol, recipe=recipe, seeds=seeds, rows=index, columns=columns,
        answers={task: _answer(columns.get(task), rows[task], own[task], labels, share) for task in seeds},
        scopes=tuple(scopes), labels=labels, number=sum(column.pairs.number for column in levelled),
    )  # fmt: skip


def _check_reference(reference: str, inits: Mapping[str, InitCard]) -> None:
    names = {*inits, *(name.partition("@")[0] for name in inits if "+" not in name.partition("@")[2])}
    if reference not in names:
        raise UserError(f"reference {reference!r} is no init of the packs{nearest(reference, sorted(names))}")


def _labels(inits: Sequence[str]) -> dict[str, str]:
    """Names inits without their backbones, of which a table has a column; those that would have one name keep them."""
    bare = {init: split(init)[0] for init in inits}
    counts = Counter(bare.values())
    return {init: name if counts[name] == 1 else init for init, name in bare.items()}


def _seeds(results: Sequence[Result]) -> tuple[int, ...]:
    """Chooses the seeds of a task: as many runs as can be, of inits that all have them."""
    parts = {result.fold for result in results}
    held: dict[str, list[int]] = {}
    for (init, seed), count in sorted(Counter((result.init, result.seed) for result in results).items()):
        held.setdefault(init, []).extend([seed] * (count == len(parts)))
    return counted.block(held, least=2, enough=ENOUGH)[1]


def _outside(run: Run, seeds: Mapping[str, tuple[int, ...]]) -> Run:
    if run.why or run.result.seed in seeds[run.result.task]:
        return run
    return replace(run, why="of a seed that too few initializations have on its task")


def _rows(
    results: Sequence[Result], seeds: tuple[int, ...], inits: tuple[str, ...], protocol: str, recipe: str
) -> list[Row]:
    task, splits = results[0].task, sorted({result.fold for result in results if result.drawn})
    benchmark = params.Benchmark(
        inits=inits, tasks=(task,), seeds=seeds, recipes=("fixed",), splits=tuple(splits) if len(splits) > 1 else ()
    )
    settings = published_form.settings_elsewhere("random", ALPHA, as_published=False)
    return published_form.compare(results, benchmark, settings)


def _column(results: Sequence[Result], rows: Sequence[Row]) -> Untested | None:
    evidence = Evidence(task=results[0].task, unit="run", note=NOTE)
    return contrasts.of_task(eligible(rows), evidence, results[0].margin or None, results[0].metric)


def _scopes(tasks: Mapping[str, TaskCard], untested: Mapping[str, Untested | None]) -> dict[str, list[str]]:
    """Lists the tasks that are ranked together: all, and those on one kind of images where they are not all."""
    known = [task for task in tasks if untested.get(task) is not None]
    found = {ALL: known}
    for modality in sorted({tasks[task].modality for task in known}):
        own = [task for task in known if tasks[task].modality == modality]
        if 1 < len(own) < len(known):
            found[modality] = own
    return found


def _whole(
    tasks: Sequence[str], untested: Mapping[str, Untested | None], own: Mapping[str, Sequence[Result]]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], Untested | None]:
    """Chooses the inits and tasks of a scope, so that every init is compared on every task, and compares them."""
    known = {task: column for task in tasks if (column := untested[task]) is not None}
    held: dict[str, list[str]] = {}
    for task, column in known.items():
        for init in column.inits:
            held.setdefault(init, []).append(task)
    ranked, chosen = counted.block(dict(sorted(held.items())), least=min(2, len(known)))
    lacking = tuple(task for task in tasks if task not in chosen)
    columns = [known[task] for task in chosen]
    whole = contrasts.over_tasks([_taken(column, ranked) for column in columns], [own[t][0].group for t in chosen])
    return chosen, lacking, ranked, whole


def _taken(column: Untested, inits: Sequence[str]) -> Untested:
    """Takes some inits of a column."""
    places = [column.inits.index(init) for init in inits]
    return replace(column, inits=tuple(inits), pairs=column.pairs.taken(places))


def _scope(
    name: str,
    tasks: tuple[str, ...],
    lacking: tuple[str, ...],
    ranked: tuple[str, ...],
    column: Column | None,
    rows: Mapping[tuple[str, str], Row],
    own: Mapping[str, Sequence[Result]],
    inits: Mapping[str, InitCard],
    labels: Mapping[str, str],
    share: float,
) -> Scope:
    groups = [own[task][0].group for task in tasks]
    paired = not any(result.fold is not None for task in tasks for result in own[task])
    if len(ranked) > 1:
        scores = {init: [rows[task, init].scores for task in tasks] for init in ranked}
        found = _ranked(list(scores.values()), groups, paired)
        order = sorted(range(len(ranked)), key=lambda place: (found.mean[place], ranked[place]))
        ranked = tuple(ranked[place] for place in order)
        test = [scores[init] for init in ranked]
        found = _ranked(test, groups, paired)
        wins = win_rates.win_rates(test, rng=np.random.default_rng(SEED), groups=groups, paired=paired)
    else:
        found = Ranks(tasks=(), groups=(), ranks=(), confidence=1 - ALPHA, draws=0, note="no two to compare")
        wins = WinRates(rate=(), groups=0, confidence=1 - ALPHA, draws=0, note=found.note)
        ranked = ()
    val = {init: [rows[task, init].val for task in tasks] for init in ranked}
    means = {init: [[one] for one in some if one is not None] for init, some in val.items()}
    whole = bool(ranked) and all(len(some) == len(tasks) for some in means.values())
    by_val = dict(zip(ranked, _ranked(list(means.values()), groups, False).mean, strict=True)) if whole else {}
    why = "the initializations have no two tasks in common on which they can be compared"
    answer = answers.over_tasks(column, by_val, labels=labels, next_share=share, why=why)
    if name != ALL:
        text = answer.text.replace("Over all tasks means", "Over these tasks means")
        answer = replace(answer, scope=f"{name} tasks", text=text)
    return Scope(
        name=name, tasks=tasks, lacking=lacking, ranked=ranked, ranks=found, wins=wins, column=column, answer=answer,
        left={init: _lacks(init, tasks, rows) for init in inits if init not in ranked},
    )  # fmt: skip


def _lacks(init: str, tasks: Sequence[str], rows: Mapping[tuple[str, str], Row]) -> tuple[str, ...]:
    return tuple(task for task in tasks if not rows[task, init].compared)


def _ranked(scores: Sequence[Sequence[Sequence[float]]], groups: Sequence[str], paired: bool) -> Ranks:
    return ranks.rank(scores, rng=np.random.default_rng(SEED), groups=groups, paired=paired, confidence=1 - ALPHA)


def _answer(
    column: Column | None, rows: Sequence[Row], results: Sequence[Result], labels: Mapping[str, str], share: float
) -> Answer:
    metric = metrics.title(results[0].metric)
    return answers.of_task(column, eligible(rows), labels=labels, metric=metric, next_share=share)


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What two labs got of equal init, task, seed, data and parameters."""

    one: str
    two: str
    runs: int
    difference: float
    """mean score of `two` minus that of `one`"""
    largest: float
    """difference, whatever its sign"""


def labs_beside(board: Board) -> tuple[Beside, ...]:
    """Lays runs of labs beside each other that are equal but for the machine: what it adds to every comparison."""
    found: dict[object, dict[str, float]] = {}
    for run in board.runs:
        if (not run.why or run.why.startswith(counted.SAME)) and run.result.score is not None:
            found.setdefault(run.result.key, {}).setdefault(run.lab, run.result.score)
    pairs: dict[tuple[str, str], list[float]] = {}
    for some in found.values():
        for one, two in itertools.combinations(sorted(some), 2):
            pairs.setdefault((one, two), []).append(some[two] - some[one])
    return tuple(
        Beside(one=one, two=two, runs=len(all_), difference=sum(all_) / len(all_), largest=max(map(abs, all_)))
        for (one, two), all_ in sorted(pairs.items())
    )
