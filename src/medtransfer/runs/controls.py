"""The runs of `benchmark.controls`: what weights must beat, and what must find nothing; once per task and seed."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from medtransfer.data import catalog
from medtransfer.data.tasks import applicable
from medtransfer.params import STILL, Params
from medtransfer.runs import run as run_module
from medtransfer.runs.run import Run
from medtransfer.weights.names import NONE, parse, seen

log = logging.getLogger("medtransfer")

ALONE = ("prior", "permuted", "texture")
"""controls that are protocols of their own; random-frozen is a run of `random` by linear"""


def init_of(control: str, params: Params) -> str:
    """Names the init whose runs a control is made of; of those without a network it lends the data alone."""
    return params.comparison.reference if control == "permuted" else "random"


def add(
    runs: Sequence[Run],
    params: Params,
    root: Path,
    tasks: Sequence[str],
    parent: str | None = None,
    weights_folder: str = "adhoc",
    only: Iterable[str] | None = None,
) -> list[Run]:
    """Puts behind the benchmark's runs those of its controls that are not among them.

    Args:
        runs: of the benchmark.
        params: of the study.
        root: the study's folder.
        tasks: of these runs.
        parent: see `run.plan`.
        weights_folder: likewise.
        only: controls that are wanted; None: all of `benchmark.controls`.

    Raises:
        UserError: as `run.plan`.
    """
    known = {run.digest for run in runs}
    wanted = [control for control in params.benchmark.controls if only is None or control in only]
    found = [run for control in wanted for run in _plan(control, params, root, tasks, parent, weights_folder)]
    return [*runs, *(run for run in found if run.digest not in known)]


def _plan(
    control: str, params: Params, root: Path, tasks: Sequence[str], parent: str | None, weights_folder: str
) -> list[Run]:
    name = init_of(control, params)
    before = seen(parse(name, params.model.backbone, params.inits).canonical)
    fitting = [task for task in tasks if applicable(before, catalog.lookup(task, root).dataset)]
    for task in tasks:
        if task not in fitting:
            log.info("no control %s on %s: %s was pre-trained on the task's own dataset", control, task, name)
    if not fitting:
        return []
    # They are read on their own test alone, so that no other task needs to be prepared for them.
    alone = {task: dataclasses.replace(sizes, external=()) for task, sizes in params.tasks.items()}
    params = dataclasses.replace(params, tasks=alone)
    protocols = ["linear"] if control == "random-frozen" else ["finetune"]
    runs = run_module.plan(
        params, root, [name], fitting, params.benchmark.seeds, parent, weights_folder, protocols=protocols
    )
    if control == "random-frozen":
        return runs
    if control == "permuted":
        still = [run_module.with_changes(run, STILL) if run.record.segmentation else run for run in runs]
        return [dataclasses.replace(run, protocol=control) for run in still]
    return [dataclasses.replace(run, protocol=control, init=NONE, weights_sha256="none") for run in runs]
