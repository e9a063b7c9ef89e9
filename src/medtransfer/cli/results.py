"""Verbs of the results: compare, show."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from medtransfer import params as parameters
from medtransfer.cli.verb import verb
from medtransfer.core.errors import UserError
from medtransfer.params import Params

if TYPE_CHECKING:
    from medtransfer.comparison.findings import Findings

log = logging.getLogger("medtransfer")


COMPARED = ("benchmark", "comparison", "claims", "model", "inits")
"""sections that the comparison reads"""


@verb(*COMPARED)
def compare(params: Params, root: Path, reference: str = "params", against: str = "params") -> None:
    """Turn the benchmark's finished runs into tables, figures and a report under data/results.

    Args:
        params: of the study.
        root: the study's folder.
        reference: init that the others are compared with; params: comparison.reference.
        against: CSV file of published numbers, or none; params: comparison.against.
    """
    from medtransfer.comparison import record
    from medtransfer.report import console, write
    from medtransfer.results import looks
    from medtransfer.runs.execution import leases
    from medtransfer.tracking import comparison, sync
    from medtransfer.tracking.launcher import Launcher

    launcher, out = Launcher(root), root / "data/results"
    with launcher:
        launcher.start("compare", {"verb": "compare"})
        sync.sweep(root, leases.claims(leases.address(params.execution)))
        findings = find(params, root, reference, against)
        missing = [(row.task, row.init, seed) for row in findings.rows for seed in row.missing if row.unit == "seed"]
        for line in comparison.differences(root, findings.results, missing):
            log.warning("%s", line)
        write.write(findings, parameters.load(root / "presets/paper.yaml"), out / "cells", out)
        for answer in findings.answers:
            log.info("%s: %s", answer.scope, answer.text)
        looks.record(root, params.benchmark.seeds, params.benchmark.splits)
        if (reference, against) == ("params", "params"):
            console.save(console.summarize(findings, console.inputs(params, COMPARED, root)), root)
        comparison.record(root, out, parent=launcher.run_id, **record.comparison_run(findings))
    log.info("wrote data/results/*.csv and data/results/report; `python -m medtransfer show` prints the table")


NEXT = (
    ("data/results/report/index.html", "the report: figures, protocol, every task"),
    ("make ui", "every run in MLflow, http://127.0.0.1:5000"),
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


def find(params: Params, root: Path, reference: str, against: str) -> Findings:
    """Compares the runs; `params` stands for what the parameters say, `none` for no file of published numbers."""
    from medtransfer.comparison import findings
    from medtransfer.results import looks
    from medtransfer.weights.names import expected, parse

    name = params.comparison.reference if reference == "params" else reference
    if against != "params":
        files = () if against == "none" else (against,)
        params = dataclasses.replace(params, comparison=dataclasses.replace(params.comparison, against=files))
    start = parse(name, params.model.backbone, params.inits)
    look = looks.number(looks.read(root), params.benchmark.seeds, params.benchmark.splits)
    return findings.find(root / "data/results/cells", expected(params), params, root, start.canonical, look)
