"""Verbs of watching: status."""

from __future__ import annotations

from pathlib import Path

from medtransfer.cli.training import TRAINING
from medtransfer.cli.verb import tasks_of, verb
from medtransfer.params import Params


@verb(*TRAINING)
def status(params: Params, root: Path, task: str = "all") -> None:
    """Show the benchmark's grid: what is done, running, failed and waiting, with rates and time left.

    Args:
        params: of the study.
        root: the study's folder.
        task: task, or all: the benchmark's.
    """
    from rich.console import Console

    from medtransfer.runs import status as grid

    Console().print(grid.shown(params, root, tasks_of(params, task)))
