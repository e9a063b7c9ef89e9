"""Verbs of the results: compare, show."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from medtransfer import params as parameters
from medtransfer.cli.compare_others import compare_sources
from medtransfer.cli.remote_runs import bring, refuse_none, say_changed
from medtransfer.cli.verb import verb
from medtransfer.core.errors import UserError
from medtransfer.params import Params

if TYPE_CHECKING:
    from medtransfer.comparison.findings import Findings

log = logging.getLogger("medtransfer")


COMPARED = ("benchmark", "comparison", "claims", "promotion", "model", "inits")
"""sections that the comparison reads"""


@verb(*COMPARED)
def compare(
    params: Params,
    root: Path,
    reference: str = "params",
    against: str = "params",
    csv: str = "",
    experiment: str = "",
    init: str = "",
    task: str = "",
    seed: str = "",
    fold: str = "",
    metric: str = "",
    val: str = "",
    predictions: str = "",
    where: str = "",
    margin: str = "",
    percent: str = "no",
    out: str = "",
    pack: str = "",
    unbalanced: str = "",
) -> None:
    """Turn the benchmark's finished runs into tables, figures and a report under data/results.

    With --csv or --experiment, in any folder, compare scores that other code measured, by the same statistics; with
    --pack the runs of other labs.

    Args:
        params: of the study.
        root: the study's folder.
        reference: init that the others are compared with; params: comparison.reference.
        against: CSV file of published numbers, or none; params: comparison.against.
        csv: table of scores of other code, a row per run or per run and score; or of printed means (mean, std, n).
        experiment: MLflow experiment of other code's runs; several with commas between.
        init: column of the table, or key of the runs (params.x, tags.x), that says what is compared.
        task: likewise, the task; =name: of all of them.
        seed: likewise, the seed.
        fold: likewise, the fold of a cross-validation.
        metric: name of the score on test, higher is better; several with commas between.
        val: name of the score on val, which picks among equals.
        predictions: column of the table, or artifact of the runs, with what each run says of single test images.
        where: which runs of the experiment, in MLflow's search syntax.
        margin: smallest difference that matters, in the unit of the scores.
        percent: yes: scores and margin of other code are in percent.
        out: folder for tables and figures of such a comparison.
        pack: file of other labs' runs.
        unbalanced: of a pack, what the runs of one seed may differ in: device, arithmetic, ..., with commas between.
    """
    given = {"init": init, "task": task, "seed": seed, "fold": fold, "metric": metric, "val": val, "where": where}
    given["predictions"] = predictions
    given["percent"] = "" if percent == "no" else percent
    given |= {"margin": margin, "out": out, "csv": csv, "experiment": experiment}
    if odd := [f"--{name}" for name, value in given.items() if value]:
        raise UserError(f"{', '.join(odd)}: of scores that other code measured, with --csv or --experiment")
    bring(params, root)
    if params.comparison.sources:
        compare_sources(params, root)
        if not any((root / "data/results").glob("*/*/*/cell.json")):
            return  # there are no runs of ours
    refuse_none(root)
    say_changed(params, root)
    from medtransfer.comparison import record
    from medtransfer.report import console, write
    from medtransfer.results import looks
    from medtransfer.runs.execution import leases
    from medtransfer.tracking import comparison, sync
    from medtransfer.tracking.launcher import Launcher

    launcher, folder, began = Launcher(root), root / "data/results", time.time()
    with launcher:
        launcher.start("compare", {"verb": "compare"})
        sync.sweep(root, leases.claims(leases.address(params.execution)))
        findings = find(params, root, reference, against)
        missing = [(row.task, row.init, seed) for row in findings.rows for seed in row.missing if row.unit == "seed"]
        for line in comparison.differences(root, findings.results, missing):
            log.warning("%s", line)
        published = parameters.load(root / "presets/paper.yaml")
        write.write(findings, published, folder / "cells", folder, _links(root, findings))
        for answer in findings.answers:
            log.info("%s: %s", answer.scope, answer.text)
        looks.record(root, params.benchmark.seeds, params.benchmark.splits)
        if (reference, against) == ("params", "params"):
            console.save(console.summarize(findings, console.inputs(params, COMPARED, root)), root)
        comparison.record(root, folder, parent=launcher.run_id, start=began, **record.comparison_run(findings))
    log.info("wrote data/results/*.csv and data/results/report/index.html; `medtransfer show` prints the table")


NEXT = (
    ("data/results/report/index.html", "the report: figures, protocol, every task"),
    ("medtransfer ui --serve", "every run in MLflow, http://127.0.0.1:5000"),
    ("medtransfer fetch pneumoniamnist", "real images to go on with"),
)
"""what a person may want to do next"""


@verb(*COMPARED)
def show(params: Params, root: Path, answers: str = "overall") -> None:
    """Print the comparison table of the benchmark's runs and its answer, and say where to look next.

    Args:
        params: of the study.
        root: the study's folder.
        answers: overall, or all: for each task too.
    """
    from rich.console import Console

    from medtransfer.report import console

    if answers not in ("overall", "all"):
        raise UserError(f"answers must be overall or all, got {answers!r}")
    shown = console.load(root, console.inputs(params, COMPARED, root))
    if shown is None:
        quick = dataclasses.replace(params, comparison=dataclasses.replace(params.comparison, resamples=0))
        shown = console.summarize(find(quick, root, "params", "params"))
    terminal = Console()
    terminal.print(console.layout(shown, every_task=answers == "all"))
    terminal.print("\nNext:")
    for command, meaning in NEXT:
        terminal.print(f"  {command:33} {meaning}", soft_wrap=True)


@verb(*COMPARED)
def ui(params: Params, root: Path, serve: str = "no") -> None:
    """Print the addresses of this study's pages in MLflow; --serve serves them on this machine until it is stopped.

    Args:
        params: of the study.
        root: the study's folder.
        serve: yes: serve MLflow's pages, where no server does.
    """
    from rich.console import Console

    from medtransfer.comparison.selection import belongs, collect
    from medtransfer.core.errors import UserError
    from medtransfer.tracking import served
    from medtransfer.tracking.pages import pages
    from medtransfer.weights.names import expected

    if serve not in ("no", "yes"):
        raise UserError(f"serve must be yes or no, got {serve!r}")
    try:
        every, benchmark = collect(root / "data/results/cells", root), expected(params)
        finished = [one for one in every if belongs(one, benchmark) and one.recipe == params.comparison.recipe]
    except UserError:  # nothing has finished: MLflow has pages of what runs
        finished = []
    found, terminal = pages(root, finished), Console(highlight=False)
    width = max(map(len, found), default=0)
    for words, address in found.items():
        terminal.print(f"{words:{width}}  {address}", soft_wrap=True)
    if not found:
        terminal.print("MLflow has no run of this study yet; `medtransfer benchmark` makes them")
    if serve == "yes":
        served.serve(root)


def _links(root: Path, findings: Findings) -> dict[str, str]:
    """Finds what the report links to in MLflow; nothing where it is away."""
    from medtransfer.core.errors import UserError
    from medtransfer.tracking.pages import pages

    try:
        return pages(root, findings.results)
    except UserError:  # `compare` has said so
        return {}


def find(params: Params, root: Path, reference: str, against: str) -> Findings:
    """Compares the runs; `params` stands for what the parameters say, `none` for no file of published numbers."""
    from medtransfer.comparison import findings

    asked = params.comparison
    if reference != "params":
        asked = dataclasses.replace(asked, reference=reference)
    if against != "params":
        asked = dataclasses.replace(asked, against=() if against == "none" else (against,))
    return findings.of_benchmark(root / "data/results/cells", dataclasses.replace(params, comparison=asked), root)
