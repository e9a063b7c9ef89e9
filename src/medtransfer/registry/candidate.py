"""What would be registered for a selection: a backbone's tensors, or the network of the best seed on val."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medtransfer.comparison.contrasts import ALL
from medtransfer.comparison.findings import Findings
from medtransfer.core.errors import UserError
from medtransfer.data import catalog, training_lists
from medtransfer.params import Params
from medtransfer.registry import network, timm_folder
from medtransfer.registry.gate import Candidate, Selected
from medtransfer.registry.timm_folder import Pack
from medtransfer.results import kept_network
from medtransfer.results.result import Result, kind_of
from medtransfer.weights import receipts, recipes, store
from medtransfer.weights.names import Initialization, parse

BACKBONE, MODEL = "medtransfer-backbone-", "medtransfer-"
"""beginnings of the registered models' names, before a timm architecture and before a task"""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A selection with the files that would be registered for it."""

    selected: Selected
    candidate: Candidate
    init: Initialization
    pack: Pack | None = None
    """of a backbone"""
    file: Path | None = None
    """of a fine-tuned network"""
    spec: network.Spec | None = None
    """likewise"""
    facts: Mapping[str, str]
    """more tags of the version"""
    origin: Sequence[str]
    """sentences on where it comes from"""


def gather(selected: Selected, findings: Findings, params: Params, root: Path) -> Subject:
    """Finds what would be registered for a selection; what is lacking is said in the candidate.

    Raises:
        UserError: files are not what their receipts say.
    """
    starts = (parse(name, params.model.backbone, params.inits) for name in params.benchmark.inits)
    init = next(start for start in starts if start.canonical == selected.init)
    origin = [line.removeprefix("- ") for line in store.description(init, root).splitlines() if line]
    if selected.scope == ALL:
        return _backbone(selected, init, findings, origin, root)
    return _model(selected, init, findings, origin, root)


def _backbone(
    selected: Selected, init: Initialization, findings: Findings, origin: Sequence[str], root: Path
) -> Subject:
    name, pack = BACKBONE + re.sub(r"[:=]", "-", init.backbone), timm_folder.gather(init, root)
    if pack is None:
        why = f"{init.canonical} is best on val, and its weights are drawn from the seed: start without pre-training"
        nothing = Candidate(model=name, key="", parameters=0, hindrance=why)
        return Subject(selected=selected, candidate=nothing, init=init, facts={}, origin=origin)
    found = pack.receipt.tensors_sha256
    evaluated = {str(result.weights_sha256) for result in findings.results if result.init == init.canonical}
    if evaluated != {found}:
        raise UserError(
            f"{init.canonical}: the tensors in data/weights ({found[:12]}) are not those of the compared runs "
            f"({', '.join(sorted(one[:12] for one in evaluated))}); run `benchmark` and `compare` again"
        )
    candidate = Candidate(model=name, key=found, parameters=pack.receipt.parameters, licences=pack.licences)
    facts = {"weights_sha256": found, "backbone": init.backbone}
    if init.record.images:
        facts["training_list"] = training_lists.read(training_lists.place(init.record.images, root)).sha256
    return Subject(selected=selected, candidate=candidate, init=init, pack=pack, facts=facts, origin=origin)


def _model(selected: Selected, init: Initialization, findings: Findings, origin: Sequence[str], root: Path) -> Subject:
    task, name = catalog.lookup(selected.scope, root), MODEL + selected.scope
    file = kept_network.path(root, selected.scope, init.slug, findings.settings.recipe)
    try:
        kept = kept_network.read(file)
    except UserError as error:
        nothing = Candidate(model=name, key="", parameters=0, hindrance=str(error))
        return Subject(selected=selected, candidate=nothing, init=init, facts={}, origin=origin)
    if kept.metric != task.metric:
        why = f"{file} was chosen by {kept.metric} on val, the task's metric is {task.metric} now: run `benchmark`"
        nothing = Candidate(model=name, key="", parameters=0, hindrance=why)
        return Subject(selected=selected, candidate=nothing, init=init, facts={}, origin=origin)
    result = _result(kept, findings.results, file)
    pack = timm_folder.gather(init, root)
    licences = (*(pack.licences if pack else ()), f"images of {task.dataset}: {task.licence}")
    parameters = pack.receipt.parameters if pack else 0
    candidate = Candidate(model=name, key=kept.digest, parameters=parameters, licences=licences)
    rule = str(result.params[f"{kind_of(result)}.normalization"])
    mean, std = recipes.normalization(init, rule, receipts.read(init, root))
    facts = {
        "task": selected.scope,
        "seed": str(kept.seed),
        "run_digest": kept.digest,
        "sha256": kept.sha256,
        "weights_sha256": str(result.weights_sha256),
        "run": str(result.mlflow_run_id or ""),
    }
    part = f", {result.part}" if result.part else ""
    words = f"fine-tuned with seed {kept.seed}{part}, the best on val ({100 * kept.val:.2f}), run `{kept.digest}`"
    return Subject(
        selected=selected, candidate=candidate, init=init, file=file, facts=facts, origin=[words, *origin],
        spec=network.spec(result, task, mean, std, init.padding),
    )  # fmt: skip


def _result(kept: kept_network.KeptNetwork, results: Sequence[Result], file: Path) -> Result:
    found = next((result for result in results if result.digest == kept.digest), None)
    if found is None:
        raise UserError(
            f"{file} is of the run {kept.digest[:8]}, which is not among the compared ones; run `benchmark`"
        )
    return found
