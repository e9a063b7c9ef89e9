"""The benchmark's grid, init x task: what is done, running, failed and waiting; rates and time left."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Group
from rich.table import Table
from rich.text import Text

from medtransfer.core import files
from medtransfer.core.errors import span
from medtransfer.params import Benchmark, Params
from medtransfer.runs import controls, costs, dry_run
from medtransfer.runs.costs import Cost, Kind
from medtransfer.runs.dry_run import Survey
from medtransfer.runs.execution import leases
from medtransfer.runs.run import Run
from medtransfer.tracking import search
from medtransfer.weights.names import expected

State = Literal["done", "running", "failed", "waiting"]

STYLES: Mapping[State, str] = {"done": "green", "running": "cyan", "failed": "red", "waiting": "dim"}
RECENT = 3600.0
"""seconds that the rate is taken over"""


@dataclass(frozen=True)
class Standing:
    """Where every run of the benchmark stands."""

    survey: Survey
    states: Mapping[str, State]
    """digest -> state"""
    places: Mapping[str, str]
    """digest of a running run -> host and process"""
    rates: Mapping[Kind, Cost]
    """measured costs"""


def standing(params: Params, root: Path, tasks: Sequence[str]) -> Standing:
    """Asks MLflow, the locks under `data/runs` and the leases."""
    found = dry_run.survey(params, root, tasks)
    known, held = search.states(root, tasks), leases.holders(leases.address(params.execution))
    places = {run.digest: held[run.digest] for run in found.runs if run.digest in held}
    for run in found.runs:
        if run.digest not in places and _locked(run):
            places[run.digest] = "this host"
    states = {run.digest: _state(known.get(run.digest), run.digest in places) for run in found.runs}
    return Standing(found, states, places, costs.measured(root))


def _locked(run: Run) -> bool:
    """Says whether a living process of this host holds the run; a lock file that is not there is not made."""
    path = run.folder / "lock"
    if not path.is_file():
        return False
    with files.lock(path, wait=False) as free:
        return not free


def _state(known: search.State | None, held: bool) -> State:
    """Weighs what MLflow says against who is at it; RUNNING without a living owner waits to be taken over."""
    if known is not None and known.status == "FINISHED":
        return "done"
    if held:
        return "running"
    return "failed" if known is not None and known.status == "FAILED" else "waiting"


def shown(params: Params, root: Path, tasks: Sequence[str]) -> Group:
    """Lays out the grid, what runs where, and how long the rest will take."""
    now = standing(params, root, tasks)
    said = dry_run.gap_lines(now.survey) + dry_run.split_lines(now.survey)
    said += dry_run.list_lines(now.survey.runs)
    gaps = [Text(line, overflow="fold") for line in said]
    running = [run for run in now.survey.runs if now.states[run.digest] == "running"]
    total = Counter(now.states.values())
    words = ", ".join(f"{total[state]} {state}" for state in STYLES)
    nameless = sum(now.survey.nameless.values())
    words += f", {nameless} whose data or weights are missing" if nameless else ""
    tables = [_grid(now, tasks, params), *([_running(running, now)] if running else [])]
    return Group(*tables, *gaps, Text(f"Runs: {words}."), Text(_left(now, running)))


def _grid(now: Standing, tasks: Sequence[str], params: Params) -> Table:
    """Lays out a line per init and a column per task."""
    inits = expected(params).inits
    counts = Counter((_line(run, params.benchmark, inits), run.task, now.states[run.digest]) for run in now.survey.runs)
    grid = Table(title="The benchmark's runs")
    for name in ("init", *tasks):
        grid.add_column(name)
    for init in dict.fromkeys(_line(run, params.benchmark, inits) for run in now.survey.runs):
        grid.add_row(init, *(_cell({state: counts[init, task, state] for state in STYLES}) for task in tasks))
    return grid


def _line(run: Run, benchmark: Benchmark, inits: Sequence[str]) -> str:
    """Names the line that a run is counted in: a control's own where it is no run of the benchmark anyway."""
    if run.protocol in controls.ALONE:
        return f"control: {run.protocol}"
    own = run.init.canonical in inits and "linear" in benchmark.protocols
    return "control: random-frozen" if run.protocol == "linear" and not own else run.init.canonical


def _cell(counts: Mapping[State, int]) -> Text:
    parts = [Text(f"{count} {state}", STYLES[state]) for state, count in counts.items() if count]
    return Text(", ").join(parts) if parts else Text("-", "dim")


def _running(runs: Iterable[Run], now: Standing) -> Table:
    """Lists the runs that are at work: epoch, rate, place."""
    table = Table(title="At work")
    for name in ("task", "run", "epochs", "images/s", "where"):
        table.add_column(name)
    for run in runs:
        epochs, rate = _progress(run)
        speed = "" if rate is None else f"{rate:.0f}"
        table.add_row(run.task, run.name, f"{epochs}/{run.training.max_epochs}", speed, now.places[run.digest])
    return table


def _progress(run: Run) -> tuple[int, float | None]:
    """Reads (epochs done, images per second of the last one) from a run's journal."""
    path = run.folder / "journal.jsonl"
    text = path.read_text() if path.is_file() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()
    if not lines:
        return 0, None
    last = json.loads(lines[-1])
    return min(last["step"] + 1, run.training.max_epochs), last["metrics"].get("images_per_second")


def _left(now: Standing, running: Sequence[Run]) -> str:
    """Says how fast runs end and how long the rest takes, as far as costs were measured."""
    left = [run for run in now.survey.runs if now.states[run.digest] != "done"]
    spent = [now.rates[of].seconds for of in map(costs.kind, left) if of in now.rates]
    done = [run.folder / "cell.json" for run in now.survey.runs if now.states[run.digest] == "done"]
    recent = sum(path.is_file() and time.time() - path.stat().st_mtime < RECENT for path in done)
    words = f"{recent} runs ended in the last {RECENT / 60:.0f} minutes. "
    unknown = len(left) + sum(now.survey.nameless.values()) - len(spent)
    if not spent and not unknown:
        return words + "Nothing is left to do."
    parts = [f"{span(sum(spent))} of one worker"] if spent else []
    parts += [f"{unknown} runs of unknown length"] if unknown else []
    words += f"Left: {' and '.join(parts)}"
    return words + (f"; {span(sum(spent) / len(running))} with {len(running)} at work." if running else ".")
