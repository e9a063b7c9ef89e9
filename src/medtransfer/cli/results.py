"""Verbs of the results: compare, show."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from medtransfer import params as parameters
from medtransfer.cli.verb import verb
from medtransfer.core.errors import UserError
from medtransfer.params import Params

if TYPE_CHECKING:
    import pandas as pd

    from medtransfer.comparison.findings import Findings

log = logging.getLogger("medtransfer")


COMPARED = ("benchmark", "comparison", "claims", "model", "inits")
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
        csv: table of scores of other code, a row per run or per run and score.
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
        out: folder for tables and figures of such a comparison.
        pack: file of other labs' runs.
        unbalanced: of a pack, what the runs of one seed may differ in: device, arithmetic, ..., with commas between.
    """
    given = {"init": init, "task": task, "seed": seed, "fold": fold, "metric": metric, "val": val, "where": where}
    given["predictions"] = predictions
    given |= {"margin": margin, "out": out, "csv": csv, "experiment": experiment}
    if odd := [f"--{name}" for name, value in given.items() if value]:
        raise UserError(f"{', '.join(odd)}: of scores that other code measured, with --csv or --experiment")
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


def compare_others(root: Path, given: Mapping[str, str]) -> None:
    """Compares scores that other code measured: prints what they say, and writes it where a folder is named.

    Args:
        root: the folder that paths are relative to.
        given: the options of `compare`.

    Raises:
        UserError: an option is missing or does not fit, or the scores cannot be compared.
    """
    from rich.console import Console

    from medtransfer.comparison import foreign
    from medtransfer.report import console
    from medtransfer.report.comparison import Comparison

    try:
        margin = float(given["margin"]) if given["margin"] else None
    except ValueError as error:
        raise UserError(f"margin is a number in the unit of the scores, got {given['margin']!r}") from error
    if given["csv"] and given["experiment"]:
        raise UserError("compare takes --csv or --experiment, got both")
    keys = {name: given[name] for name in ("init", "task", "seed", "fold") if given[name]}
    metric, val = given["metric"], given["val"]
    if given["csv"]:
        table, columns = foreign.read_csv(root / given["csv"]), foreign.columns(keys)
    else:
        table, columns, metric, val = _logged(root, given), foreign.Columns(), "score", "val" if val else ""
    found = foreign.compare(
        table, metric=metric, val=val, columns=columns, margin=margin, title=given["metric"].split(",")[0],
        reference="" if given["reference"] == "params" else given["reference"], root=root,
        predictions=given["predictions"] if given["csv"] else "predictions" if given["predictions"] else "",
    )  # fmt: skip
    Console().print(console.layout(console.summarize(found), every_task=True))
    if given["out"]:
        Comparison(found).save(root / given["out"])
        log.info("wrote %s/index.html, scores.csv, contrasts.csv and the figures", given["out"])


def _logged(root: Path, given: Mapping[str, str]) -> pd.DataFrame:
    """Reads an experiment's runs and says what was left out."""
    from medtransfer.tracking import foreign as logged

    if lacking := [f"--{name}" for name in ("init", "seed", "metric") if not given[name]]:
        raise UserError(f"compare --experiment needs {', '.join(lacking)}: under which key its runs say it")
    metric, val = (tuple(filter(None, given[name].split(","))) for name in ("metric", "val"))
    task = given["task"] or logged.ONE_TASK
    wanted = logged.Keys(
        init=given["init"], seed=given["seed"], task=task, fold=given["fold"], metric=metric, val=val
    )  # fmt: skip
    found = logged.runs(given["experiment"].split(","), wanted, root=root, filter_string=given["where"])
    if given["predictions"]:
        found = logged.with_predictions(found, given["predictions"], root)
    for note in found.notes:
        log.warning("%s", note)
    return found.table


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


@verb(*COMPARED)
def ui(params: Params, root: Path) -> None:
    """Print the addresses of this study's pages in MLflow; `make ui` serves them on this machine."""
    from rich.console import Console

    from medtransfer.comparison.selection import belongs, collect
    from medtransfer.core.errors import UserError
    from medtransfer.tracking.pages import pages
    from medtransfer.weights.names import expected

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
