"""A pack -> findings: the runs of all its labs in one comparison, by the rules of one study."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medtransfer import params
from medtransfer.comparison import findings, patients, published_form
from medtransfer.comparison.findings import Findings
from medtransfer.comparison.patients import Evidence
from medtransfer.comparison.published_form import Row
from medtransfer.comparison.selection import CONDITIONS, select
from medtransfer.core.errors import UserError
from medtransfer.core.schema import nearest
from medtransfer.packs import file
from medtransfer.packs.file import Opened
from medtransfer.packs.records import Pack
from medtransfer.results.result import Result

log = logging.getLogger("medtransfer")

NOTE = "the pack has no predictions; seeds alone count"


def compare(path: Path, reference: str = "", unbalanced: Sequence[str] = (), alpha: float = 0.05) -> Findings:
    """Compares the fine-tuned runs with all labels and the fixed recipe; a run of several labs counts once.

    Args:
        path: of the pack.
        reference: init that the others stand beside; empty: a random one where there is one, else the first.
        unbalanced: conditions of `comparison.selection.CONDITIONS` in which the runs of one seed may differ.
        alpha: level of all comparisons together.

    Raises:
        UserError: the pack cannot be read, or its runs may not stand in one table; the labs are named.
    """
    if unknown := [name for name in unbalanced if name not in CONDITIONS]:
        raise UserError(f"--unbalanced: unknown {unknown[0]}{nearest(unknown[0], CONDITIONS)}")
    opened = file.open_pack(path)
    whose = _whose(opened.pack)
    every = [result for result, _ in whose.values()]
    if not every:
        raise UserError(f"{path} holds no run")
    _say_repeated(opened.pack, whose)
    inits = _names([one.init for one in every])
    benchmark = params.Benchmark(
        inits=inits, tasks=_names([one.task for one in every]), seeds=tuple(sorted({one.seed for one in every})),
        recipes=("fixed",), splits=tuple(sorted({one.fold for one in every if one.drawn})),
    )  # fmt: skip
    found = reference or next((name for name in inits if name.startswith("random@")), inits[0])
    if found not in inits:
        raise UserError(f"reference {found!r} is no init of the pack{nearest(found, inits)}")
    settings = published_form.settings_elsewhere(found, alpha)
    try:
        results = select(every, benchmark, unbalanced=unbalanced)
        _refuse_margins(opened.pack)
        rows = published_form.compare(results, benchmark, settings)
        evidence = _evidence(results, rows, opened, whose)
    except UserError as error:
        raise UserError(f"{error}{_labs(str(error), whose)}") from error
    return findings.compare(results, rows, evidence, benchmark, settings, found)


def _whose(pack: Pack) -> dict[str, tuple[Result, str]]:
    """Gives every run once, the first of its digest, with its contribution."""
    found: dict[str, tuple[Result, str]] = {}
    for one in pack.contributions:
        for result in one.results:
            found.setdefault(result.digest, (result, one.digest))
    labs = {one.digest: one.lab for one in pack.contributions}
    return {run: (result, f"{labs[own]}\0{own}") for run, (result, own) in found.items()}


def _say_repeated(pack: Pack, whose: Mapping[str, tuple[Result, str]]) -> None:
    """Says which lab's number is left out where several trained one run and it came out otherwise."""
    for one in pack.contributions:
        other = [run for run in one.results if whose[run.digest][0].score != run.score]
        if other:
            first = _names([whose[run.digest][1].partition("\0")[0] for run in other])
            log.warning(
                "%d runs of %s came out with another score at %s; a run counts once, and here the first in the pack: "
                "that of %s", len(other), one.lab, " and ".join(first), " and ".join(first),
            )  # fmt: skip


def _names(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _refuse_margins(pack: Pack) -> None:
    """Refuses a task for which labs declare other margins: one table has one."""
    margins: dict[str, tuple[str, float]] = {}
    for one in pack.contributions:
        for name, task in one.tasks.items():
            lab, margin = margins.setdefault(name, (one.lab, task.margin))
            if margin != task.margin:
                raise UserError(f"task {name} has the margin {margin:g} at {lab} and {task.margin:g} at {one.lab}")


def _evidence(
    results: Sequence[Result], rows: Sequence[Row], opened: Opened, whose: Mapping[str, tuple[Result, str]]
) -> dict[str, Evidence]:
    """Reads what predictions say of each patient, of tasks whose runs all have them."""
    whole = {(row.task, row.init) for row in rows if row.summary is not None}
    contents, found = opened.contents(), dict[str, Evidence]()
    with tempfile.TemporaryDirectory() as place:
        for task in _names([one.task for one in results]):
            runs = [one for one in results if one.task == task and (task, one.init) in whole]
            if not runs:
                continue
            found[task] = Evidence(task=task, unit=runs[0].unit, note=NOTE)
            members = [file.table(whose[one.digest][1].partition("\0")[2], task, one.digest) for one in runs]
            if any(member not in contents for member in members):
                continue
            for one, member in zip(runs, members, strict=True):
                target = Path(place) / task / one.digest / "predictions.parquet"
                target.parent.mkdir(parents=True)
                target.write_bytes(contents[member]())
            rng = np.random.default_rng(findings.SEED)
            found[task] = patients.gather(runs, Path(place), resamples=0, level=0.95, rng=rng)
    return found


def _labs(message: str, whose: Mapping[str, tuple[Result, str]]) -> str:
    """Says of the runs that a message names whose they are, and how a pack is told what a study's parameters tell."""
    named = {run[:8]: lab.partition("\0")[0] for run, (_, lab) in whose.items() if run[:8] in message}
    said = f". Whose they are: {', '.join(f'{run} {lab}' for run, lab in named.items())}" if named else ""
    return said + (". Of a pack: --unbalanced, with commas between" if "comparison.unbalanced" in message else "")
