"""Which runs of several packs count in one table, and why the others do not: nothing is averaged silently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from medtransfer.data.tasks import image_groups
from medtransfer.packs.records import Contribution, Pack
from medtransfer.results.result import Result

Status = Literal["claimed", "verified", "refuted"]
MODEL = "model."
"""begins the names of parameters that differ by init"""
TUNED = "tuned"
SAME = "of equal init, task and seed"
"""how the reason begins why a second lab's run does not count"""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run of a contribution, and whether it counts."""

    result: Result
    lab: str
    contribution: str
    """digest"""
    status: Status
    why: str = ""
    """why it does not count; empty: it counts"""


def ordered(pack: Pack) -> tuple[Contribution, ...]:
    """Lists the contributions of a pack, the earliest first, whatever their order in the file."""
    found = {one.digest: one for one in pack.contributions}
    return tuple(sorted(found.values(), key=lambda one: (one.created, one.lab, one.digest)))


def count(pack: Pack, protocol: str, recipe: str) -> tuple[Run, ...]:
    """Says of every run whether it counts, and why not.

    What is compared is of one protocol version, by one protocol and recipe, with all labels; on a task of the same data
    and parameters; of an init of the same weights: those of most runs. Of a run that is there several times one counts:
    of the lab with most runs on its task.

    Args:
        pack: of all contributions.
        protocol: of the runs that count, as in `benchmark.protocols`.
        recipe: fixed or tuned.
    """
    runs = [
        Run(result=result, lab=one.lab, contribution=one.digest, status=pack.status(one.digest))
        for one in ordered(pack)
        for result in sorted(one.results, key=lambda result: (*_place(result), result.digest))
    ]
    runs = _out(runs, lambda run: "its contribution is refuted" if run.status == "refuted" else "")
    runs = _out(runs, lambda run: _other_kind(run.result, protocol, recipe))
    newest = max((str(run.result.protocol_version) for run in runs if not run.why), key=_version, default="")
    runs = _out(runs, lambda run: _unless(str(run.result.protocol_version) == newest, "earlier protocol version"))
    runs = _once(runs)
    runs = _majority(runs, lambda run: run.result.task, _data, "other data or another split than most runs of its task")
    if recipe != TUNED:  # whose values differ by init, as each study found
        runs = _majority(runs, lambda run: run.result.task, _params, "other parameters than most runs of its task")
    words = "another model than most runs of its initialization on the task"
    runs = _majority(runs, lambda run: f"{run.result.task} {run.result.init}", _model, words)
    words = "other weights under this name than most runs of it"
    runs = _majority(runs, lambda run: run.result.init, lambda run: str(run.result.weights_sha256), words)
    runs = _of_one_lab(runs)
    groups = image_groups({run.result.dataset: run.result.images or (run.result.dataset,) for run in runs})
    return tuple(replace(run, result=replace(run.result, group=groups[run.result.dataset])) for run in runs)


def counting(runs: Iterable[Run]) -> list[Run]:
    """Takes the runs that count."""
    return [run for run in runs if not run.why]


def block(
    held: Mapping[str, Iterable[Any]], *, least: int, enough: int = 1_000
) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """Chooses rows and columns such that every row has all of these columns, and as many cells as can be.

    Of equally many cells those with more rows. Columns are taken in the order of how many rows have them.

    Args:
        held: row -> the columns that it has.
        least: columns that are taken where any two rows have so many in common.
        enough: columns beyond which no row is given up for another.
    """
    have = {row: set(columns) for row, columns in held.items()}
    counts = Counter(column for columns in have.values() for column in columns)
    columns = sorted(counts, key=lambda column: (-counts[column], column))
    best: tuple[tuple[Any, ...], tuple[str, ...], tuple[Any, ...]] = ((False, 0, 0, 0), (), ())
    for number in range(1, len(columns) + 1):
        rows = tuple(row for row, own in have.items() if own.issuperset(columns[:number]))
        worth = (number >= least and len(rows) > 1, len(rows) * min(number, enough), len(rows), number)
        if worth > best[0]:
            best = (worth, rows, tuple(sorted(columns[:number])))
    return best[1], best[2]


def _place(result: Result) -> tuple[Any, ...]:
    return result.task, result.init, result.seed, -1 if result.fold is None else result.fold


def _version(text: str) -> tuple[int, str]:
    return (int(text) if text.isdigit() else -1, text)


def _out(runs: Sequence[Run], reason: Callable[[Run], str]) -> list[Run]:
    return [run if run.why else replace(run, why=reason(run)) for run in runs]


def _unless(fine: bool, words: str) -> str:
    return "" if fine else words


def _other_kind(result: Result, protocol: str, recipe: str) -> str:
    if result.protocol != protocol:
        return f"another protocol ({result.protocol})"
    if result.recipe != recipe:
        return f"another recipe ({result.recipe})"
    return _unless(result.fraction == "1", "not with all labels")


def _once(runs: Sequence[Run]) -> list[Run]:
    """Lets a run that several contributions hold count in the earliest."""
    first: dict[str, Run] = {}
    for run in runs:
        if not run.why:
            first.setdefault(run.result.digest, run)
    return _out(
        runs,
        lambda run: _unless(
            first[run.result.digest] is run, f"the same run as in an earlier contribution of {_first(first, run)}"
        ),
    )


def _first(first: Mapping[str, Run], run: Run) -> str:
    """Names the lab whose contribution held a run first."""
    return first[run.result.digest].lab


def _majority(
    runs: Sequence[Run], group: Callable[[Run], str], value: Callable[[Run], Hashable], words: str
) -> list[Run]:
    """Lets those runs of a group count that have the value of most of them; of equally many the earliest."""
    counts: dict[str, Counter[Hashable]] = {}
    for run in counting(runs):
        counts.setdefault(group(run), Counter())[value(run)] += 1
    usual = {name: found.most_common(1)[0][0] for name, found in counts.items()}
    return _out(runs, lambda run: _unless(value(run) == usual[group(run)], words))


def _data(run: Run) -> Hashable:
    result = run.result
    split = result.part.partition(" ")[0]
    return result.manifest_digest if not result.drawn else split, split, result.folds, result.undefined, result.metric


def _params(run: Run) -> Hashable:
    """Reads what a run was trained under, without the parts of machine and init, and without what follows its test."""
    others = ("engine.", MODEL, "corruptions.")
    return _sorted(run, lambda name: not name.startswith(others) and not name.endswith(".external"))


def _model(run: Run) -> Hashable:
    """Reads the model's parameters, of which an init has those that concern it: random weights, padding, a decoder."""
    return _sorted(run, lambda name: name.startswith(MODEL))


def _sorted(run: Run, chosen: Callable[[str], bool]) -> Hashable:
    return repr(sorted((name, value) for name, value in run.result.params.items() if chosen(name)))


def _of_one_lab(runs: Sequence[Run]) -> list[Run]:
    """Lets one of the labs count that did equal runs: the one with most runs on the task."""
    held = Counter((run.result.task, run.lab) for run in counting(runs))
    chosen: dict[Any, Run] = {}
    for run in counting(runs):
        other = chosen.setdefault(run.result.key, run)
        if held[run.result.task, run.lab] > held[other.result.task, other.lab]:
            chosen[run.result.key] = run
    return _out(
        runs,
        lambda run: _unless(chosen[run.result.key] is run, f"{SAME}, that of {chosen[run.result.key].lab} counts"),
    )
