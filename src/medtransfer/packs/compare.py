"""A pack -> findings: the runs of all its labs in one comparison, by the rules of one study."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medtransfer import params
from medtransfer.comparison import findings, patients, published_form
from medtransfer.comparison.findings import Findings
from medtransfer.comparison.patients import Evidence
from medtransfer.comparison.published_form import Row
from medtransfer.comparison.selection import CONDITIONS, select
from medtransfer.core.errors import UserError, quantity
from medtransfer.core.schema import nearest
from medtransfer.packs import counted, file
from medtransfer.packs.counted import Run
from medtransfer.packs.file import Opened
from medtransfer.packs.records import Contribution
from medtransfer.results.result import Result

log = logging.getLogger("medtransfer")

NOTE = "the pack has no predictions; seeds alone count"


def compare(path: Path, reference: str = "", unbalanced: Sequence[str] = (), alpha: float = 0.05) -> Findings:
    """Compares the fine-tuned runs with all labels and the fixed recipe that count, by the rules of `packs.counted`.

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
    runs = counted.count(opened.pack, "finetune", "fixed")
    whose = {run.result.digest: run for run in counted.counting(runs)}
    every = [run.result for run in whose.values()]
    if not every:
        raise UserError(f"{path} holds no run that counts{_listed(runs)}")
    if len(every) < len(runs):
        log.warning("%d of %s not counted%s", len(runs) - len(every), quantity(len(runs), "run"), _listed(runs))
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
        counts = {run.contribution for run in whose.values()}
        _refuse_margins([one for one in opened.pack.contributions if one.digest in counts])
        rows = published_form.compare(results, benchmark, settings)
        evidence = _evidence(results, rows, opened, whose)
    except UserError as error:
        raise UserError(f"{error}{_labs(str(error), whose)}") from error
    return findings.compare(results, rows, evidence, benchmark, settings, found)


def _listed(runs: Sequence[Run]) -> str:
    """Says why runs do not count, and whose they are."""
    left = Counter((run.why, run.lab) for run in runs if run.why)
    return "".join(f"\n  {number} of {lab}: {why}" for (why, lab), number in left.items())


def _names(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _refuse_margins(contributions: Sequence[Contribution]) -> None:
    """Refuses a task for which labs declare other margins: one table has one."""
    margins: dict[str, tuple[str, float]] = {}
    for one in contributions:
        for name, task in one.tasks.items():
            lab, margin = margins.setdefault(name, (one.lab, task.margin))
            if margin != task.margin:
                raise UserError(f"task {name} has the margin {margin:g} at {lab} and {task.margin:g} at {one.lab}")


def _evidence(
    results: Sequence[Result], rows: Sequence[Row], opened: Opened, whose: Mapping[str, Run]
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
            members = [file.table(whose[one.digest].contribution, task, one.digest) for one in runs]
            if any(member not in contents for member in members):
                continue
            for one, member in zip(runs, members, strict=True):
                target = Path(place) / task / one.digest / "predictions.parquet"
                target.parent.mkdir(parents=True)
                target.write_bytes(contents[member]())
            rng = np.random.default_rng(findings.SEED)
            found[task] = patients.gather(runs, Path(place), resamples=0, level=0.95, rng=rng)
    return found


def _labs(message: str, whose: Mapping[str, Run]) -> str:
    """Says of the runs that a message names whose they are, and how a pack is told what a study's parameters tell."""
    named = {digest[:8]: run.lab for digest, run in whose.items() if digest[:8] in message}
    said = f". Whose they are: {', '.join(f'{run} {lab}' for run, lab in named.items())}" if named else ""
    return said + (". Of a pack: --unbalanced, with commas between" if "comparison.unbalanced" in message else "")
