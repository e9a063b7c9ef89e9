"""What a benchmark will take: runs to do, what is missing for them, hours and gigabytes from measured rates.

Nothing is written but what is remembered of raw files: data is not prepared and weights are not fetched, so a run whose
data or weights are not here yet has no digest, and is only counted.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rich.console import Group
from rich.table import Table
from rich.text import Text

from medtransfer.core.errors import UserError, span
from medtransfer.data import catalog, prepare, splits
from medtransfer.data.cache import Prepared
from medtransfer.data.tasks import Listed
from medtransfer.params import Execution, Params, task_params
from medtransfer.results import looks
from medtransfer.runs import break_even, controls
from medtransfer.runs.costs import Cost, Kind, kind, measured
from medtransfer.runs.execution import pull
from medtransfer.runs.run import Run, plan
from medtransfer.tracking import search
from medtransfer.weights import receipts, store
from medtransfer.weights.names import Initialization, parse


class Gap(NamedTuple):
    """Something without which runs cannot start."""

    name: str
    words: str


@dataclass(frozen=True)
class Survey:
    """The runs of a benchmark as far as they can be named, and what is missing for the others."""

    runs: Sequence[Run]
    nameless: Mapping[str, int]
    """task -> runs whose data or weights are missing; folds are not counted before the data is prepared, splits are"""
    gaps: Sequence[Gap]
    splits: Mapping[str, str] = field(default_factory=dict)
    """task -> what `benchmark.splits` makes of it; empty without"""


def survey(params: Params, root: Path, tasks: Iterable[str]) -> Survey:
    """Looks what the benchmark's runs of some tasks find here."""
    starts = {name: parse(name, params.model.backbone, params.inits) for name in params.benchmark.inits}
    absent = {name: words for name, init in starts.items() if (words := _missing_weights(init, root))}
    here = [name for name in starts if name not in absent]
    runs, gaps, nameless = list[Run](), [Gap(f"weights of {k}", v) for k, v in absent.items()], dict[str, int]()
    numbers, said = params.benchmark.splits, dict[str, str]()
    for task in tasks:
        words = _missing_data(params, root, task)
        gaps += [Gap(f"data of {task}", words)] if words else []
        named, missing = ([], []) if words else _named(params, root, here, task)
        runs, gaps = runs + named, gaps + missing
        record = catalog.lookup(task, root)
        each = len(params.benchmark.seeds) * max(1, len(splits.drawn_numbers(record, params.benchmark.splits)))
        kept = [gap for gap in missing if gap.name.split()[0] in params.benchmark.recipes]
        variants = sum(_variants(params, recipe) for recipe in params.benchmark.recipes)
        ready = (variants - sum(_variants(params, gap.name.split()[0]) for gap in kept)) * len(here) * each
        nameless[task] = len(starts) * variants * each - (0 if words else ready)
        lost = params.benchmark.controls if words or len(kept) < len(missing) else _without_weights(params, root)
        nameless[task] += len(lost) * each
        said |= {task: splits.words(record, numbers)} if numbers else {}
    return Survey(runs, nameless, gaps, said)


def _variants(params: Params, recipe: str) -> int:
    """Counts the runs of each init, task and seed under a recipe: tuned ones are fine-tuned with all labels."""
    return len(params.benchmark.protocols) * len(params.benchmark.fractions) if recipe == "fixed" else 1


def _named(params: Params, root: Path, inits: Sequence[str], task: str) -> tuple[list[Run], list[Gap]]:
    """Plans the runs of a task whose data and weights are here, and says which recipe cannot be planned yet."""
    found, gaps, seeds = list[Run](), list[Gap](), params.benchmark.seeds
    for recipe in params.benchmark.recipes if inits else ():
        try:
            found += plan(
                params, root, inits, [task], seeds, recipes=[recipe],
                protocols=params.benchmark.protocols, fractions=params.benchmark.fractions,
            )  # fmt: skip
        except UserError as error:
            gaps.append(Gap(f"{recipe} runs of {task}", str(error)))
    ready = [one for one in params.benchmark.controls if one not in _without_weights(params, root)]
    try:
        found = controls.add(found, params, root, [task], only=ready)
    except UserError as error:
        gaps.append(Gap(f"controls of {task}", str(error)))
    return found, gaps


def _without_weights(params: Params, root: Path) -> list[str]:
    """Lists the controls whose init's weights are not here."""
    starts = {
        one: parse(controls.init_of(one, params), params.model.backbone, params.inits)
        for one in params.benchmark.controls
    }
    return [one for one, init in starts.items() if _missing_weights(init, root)]


def _missing_weights(init: Initialization, root: Path) -> str:
    """Says what would have to be done for an initialization; empty: nothing."""
    if init.random or init.registered:  # the registry's were brought before the verb began
        return ""
    if init.chain:
        return "" if receipts.read(init, root) else f"not pre-trained yet: `pretrain` makes {init.canonical}"
    receipt = store.receipt_file(init, root)
    if receipt is None:
        return "not converted yet: `weights` fetches them"
    converted = receipt.with_name(receipt.name.replace(".receipt.json", ".safetensors"))
    if not store.stale(init, converted):
        return ""
    return "converted by another recipe or from another file: `weights` converts them again"


def _missing_data(params: Params, root: Path, name: str) -> str:
    """Says what would have to be done for a task's data; empty: nothing."""
    task = catalog.lookup(name, root)
    try:
        found: Prepared | None = prepare.current(task, params, root)
    except UserError as error:
        return str(error)
    if found is not None:
        return ""
    layers = task.channels + task.segmentation
    size = sum(task.counts.values()) * task_params(params, name).cache_size ** 2 * layers
    return "not prepared yet: `prepare` decodes it" + (f", about {size / 1e9:.1f} GB" if size else "")


def longest_first(runs: Sequence[Run]) -> list[Run]:
    """Sorts runs so that no long one is left over at the end; one of unknown length may be long, too."""
    rates = measured(runs[0].root) if runs else {}

    def length(pair: tuple[Run, Kind]) -> tuple[float, int]:
        of = pair[1]
        seconds = rates[of].seconds if of in rates else float("inf")
        return -seconds, -(of.image_size**2) * of.max_epochs

    return [run for run, _ in sorted(((run, kind(run)) for run in runs), key=length)]


def shown(found: Survey, params: Params, root: Path) -> Group:
    """Lays out a survey: a line per task, what is missing, and what the whole will take."""
    states, rates = search.states(root, found.nameless), measured(root)
    grid = Table(title="What the benchmark would do")
    for title in ("task", "finished", "to do", "of them of unknown length", "one worker's time", "GB"):
        grid.add_column(title, justify="left" if title == "task" else "right")
    total, known_runs, unfinished, to_do = 0.0, 0, 0, list[Run]()
    for task, nameless in found.nameless.items():
        own = [run for run in found.runs if run.task == task]
        left = [run for run in own if run.digest not in states or states[run.digest].status != "FINISHED"]
        to_do += left
        costs = [rates[of] for of in map(kind, left) if of in rates]
        spent = sum(cost.seconds for cost in costs)
        total += spent
        known_runs, unfinished = known_runs + len(costs), unfinished + len(left) + nameless
        unknown = len(left) + nameless - len(costs)
        known = costs or not unknown
        row = (len(own) - len(left), len(left) + nameless, unknown or "", span(spent) if known else "unknown")
        grid.add_row(task, *map(str, row), f"{sum(cost.bytes for cost in costs) / 1e9:.2f}" if known else "unknown")
    amount = f"Known: {span(total)} of one worker{_spread(total, params.execution, len(found.runs))}, from the rates of"
    alike = "the same task, backbone, image size, epochs, batch, precision and way of computing"
    if known_runs:
        words = f"{amount} finished runs of {alike} on the same device."
    elif unfinished:
        words = f"Nothing is known of the time that this takes: no run of {alike} has finished here on this device yet."
    else:
        words = "All runs have finished: nothing is left to do."
    lines = (
        *gap_lines(found),
        *split_lines(found),
        *list_lines(found.runs),
        words,
        *compiling(to_do, rates, params),
        chances(params),
        "Nothing was written.",
    )
    return Group(grid, *(Text(line, overflow="fold") for line in lines))


def compiling(runs: Sequence[Run], rates: Mapping[Kind, Cost], params: Params) -> list[str]:
    """Says what compiling costs and when it pays; nothing where nothing is compiled."""
    settings = params.execution
    if not params.engine.compile or not runs:
        return []
    counted = settings.backend != "ray" or settings.workers  # a cluster is not asked for its number of workers
    workers = pull.worker_count(settings, runs[0].device, len(runs)) if counted else len(runs)
    said = break_even.words(break_even.planned(runs, rates), workers, runs[0].device)
    return [said] if said else []


def gap_lines(found: Survey) -> list[str]:
    """Says what is missing; what several kinds of runs miss for one reason is said once."""
    reasons: dict[str, list[str]] = {}
    for gap in found.gaps:
        reasons.setdefault(gap.words, []).append(gap.name)
    return [f"Missing, {', '.join(each)}: {words}" for words, each in reasons.items()]


def chances(params: Params) -> str:
    """Says what the planned seeds can find, before they are run: the power at the level that the first look has.

    The std over seeds is not known then; that of a margin is what a person can compare own runs with. Test patients,
    which make it less, are left out.
    """
    from medtransfer.statistics import all_pairs

    inits, tasks, seeds = (len(getattr(params.benchmark, name)) for name in ("inits", "tasks", "seeds"))
    if inits < 2:
        return "With one initialization nothing is compared."
    if params.benchmark.splits:
        return "What the planned splits can find is not known beforehand: it depends on the share of images in test."
    if seeds < 2:
        return "With one seed nothing can be tested: two are the least, and five show a spread."
    comparisons = inits * (inits - 1) // 2 * (tasks + (tasks > 1))
    share = looks.level(params.comparison.alpha, 1) / comparisons

    def found(seeds: int) -> float:
        return all_pairs.power(
            seeds, seed_std=2**0.5, patient_error=0.0, margin=1.0, share=share, df_per_seed=inits - 1, patients=0
        )

    counts = range(2, all_pairs.MOST_SEEDS + 1)
    place = bisect.bisect_left(counts, all_pairs.POWER, key=found)
    enough = f"{counts[place]:,} seeds" if place < len(counts) else f"more than {all_pairs.MOST_SEEDS:,} seeds"
    pairs = "comparison" if comparisons == 1 else "comparisons"
    return (
        f"{seeds} seeds, {comparisons:,} {pairs}: if scores vary over seeds by one margin (std), a difference of "
        f"one margin is found with a chance of {100 * found(seeds):.0f} %, and {enough} would find it in four of five "
        "cases. Add all the seeds that you need before the first look; few test patients lower the chance, and so do "
        "folds with test images of their own."
    )


def split_lines(found: Survey) -> list[str]:
    """Says what `benchmark.splits` makes of each task, those of one kind together."""
    kinds = dict[str, list[str]]()
    for task, words in found.splits.items():
        kinds.setdefault(words, []).append(task)
    return [f"Splits of {', '.join(tasks)}: {words}." for words, tasks in kinds.items()]


def list_lines(runs: Iterable[Run]) -> list[str]:
    """Says of each init and task what a list of the init's training images holds of the test images."""
    most: dict[tuple[str, str], Listed] = {}
    for run in runs:
        key = run.init.canonical, run.task
        if run.listed and (key not in most or run.listed.held > most[key].held):
            most[key] = run.listed
    return [f"{init} on {task}: {listed.words}." for (init, task), listed in most.items()]


def _spread(seconds: float, settings: Execution, runs: int) -> str:
    """Divides a time by the workers; a Ray cluster is not asked for their number."""
    if not seconds or (settings.backend == "ray" and not settings.workers):
        return ""
    workers = pull.worker_count(settings, pull.resolve_device(settings), runs)
    return f", {span(seconds / workers)} on {workers} worker{'s' * (workers != 1)}"
