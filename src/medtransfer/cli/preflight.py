"""What can be refused at once: names, weights and data that a verb would miss, before anything heavy is imported."""

from __future__ import annotations

import dataclasses
import difflib
import logging
from collections.abc import Mapping
from pathlib import Path

from medtransfer.cli.verb import VERBS, tasks_of
from medtransfer.core import extras
from medtransfer.core.errors import UserError
from medtransfer.params import Params

log = logging.getLogger("medtransfer")

PREPARING = ("finetune", "benchmark", "recommend", "tune", "audit", "prepare")
"""verbs that read a task's raw files, or stop"""


def check(verb: str, params: Params, root: Path, identity: Mapping[str, str]) -> None:
    """Refuses what the verb itself would refuse seconds later.

    Raises:
        UserError: an init, a backbone or a task that there is not, data that are not here, a registered model where
            nothing was ever registered, or an extra of the package that the parameters ask for and that is not here.
    """
    from medtransfer.data import catalog, raw, training_lists
    from medtransfer.results import result
    from medtransfer.runs.execution import leases
    from medtransfer.tracking.address import untouched, uri
    from medtransfer.weights.names import check_backbone, parse

    if VERBS[verb].extra == "train" and params.execution.backend == "ray":
        extras.need("cluster", "execution.backend: ray")
    extras.need_for(uri(root))
    if "execution" in VERBS[verb].sections:
        extras.need_for(leases.address(params.execution))
    _check_seen(params, root)
    for entry in params.inits.values():
        if entry.images:
            training_lists.read(training_lists.place(entry.images, root))
    init, task = identity.get("init") or "all", identity.get("task", "")
    if init != "all" and verb != "inits":  # which takes a name without a backbone, too
        check_backbone(parse(init, params.model.backbone, params.inits).backbone)
    if task not in ("", "all"):
        catalog.lookup(task, root)
    idle = verb == "tune" and init == "all" and not params.tuning.inits
    if verb in PREPARING and identity.get("dry", "no") == "no" and not idle:
        tuned = dataclasses.replace(params.benchmark, tasks=params.tuning.tasks)
        of = dataclasses.replace(params, benchmark=tuned) if verb == "tune" else params
        for name in tasks_of(of, task):
            raw.source(catalog.lookup(name, root), params.data, root)
    if verb in ("show", "promote"):
        result.find_results(root / "data/results/cells")
    if verb in ("demote", "export") and untouched(root):
        raise UserError(
            f"looked for {identity['alias']} of {identity['model']} in {uri(root)}, found no such database: nothing is "
            "registered here yet; `promote` does it"
        )


def _check_seen(params: Params, root: Path) -> None:
    """Refuses a misspelt dataset that own weights have seen: it would keep them from no task.

    Raises:
        UserError: with the nearest name.
    """
    from medtransfer.data import catalog
    from medtransfer.weights.zoo import RECORDS

    seen = {name: entry.datasets for name, entry in params.inits.items() if entry.datasets}
    if not seen:
        return
    known = {*catalog.names(root), *(dataset for record in RECORDS.values() for dataset in record.datasets)}
    for name, datasets in seen.items():
        for dataset in set(datasets) - known:
            if near := difflib.get_close_matches(dataset.lower(), known, n=1, cutoff=0.7):
                raise UserError(f"inits.{name}.datasets: unknown dataset {dataset}; did you mean {near[0]}?")
            log.warning("inits.%s.datasets: no task here is of %s, so it keeps these weights from none", name, dataset)
