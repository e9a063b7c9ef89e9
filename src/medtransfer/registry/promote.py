"""The verb `promote`: the comparison that was reported -> decisions -> the registry."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from medtransfer import tracking
from medtransfer.comparison import record
from medtransfer.comparison.contrasts import ALL
from medtransfer.comparison.findings import Findings
from medtransfer.core import files, identity
from medtransfer.core.errors import UserError
from medtransfer.params import Params
from medtransfer.registry import aliases, cards, register
from medtransfer.registry.candidate import BACKBONE, Subject, gather
from medtransfer.registry.decision import Decision, decide, select
from medtransfer.registry.gate import Holder
from medtransfer.registry.register import Occasion
from medtransfer.report import formats
from medtransfer.tracking.comparison import COMPARISON
from medtransfer.weights import backbones

log = logging.getLogger("medtransfer")

RESULT = "data/results/promotion.json"


def check_reported(findings: Findings, results: Path) -> None:
    """Refuses to promote by a comparison that nobody has seen: the reported one must be that of the runs.

    Raises:
        UserError: there is no report, or runs or parameters changed since it was written.
    """
    tables = {
        "runs": record.runs(record.every_run(findings)),
        "comparison": record.comparison(findings),
        "contrasts": record.contrasts(findings),
    }
    for name, now in tables.items():
        path = results / f"{name}.csv"
        if not path.is_file():
            raise UserError(f"looked for the comparison in {path}, found none; run `compare` first")
        if path.read_text() != formats.records_csv(now):
            raise UserError(
                f"{path} is not what the finished runs and the parameters give now: the comparison is older than they "
                "are; run `compare`, look at its report, then promote"
            )
    if not (results / "report/index.html").is_file():
        raise UserError(f"looked for the report in {results / 'report'}, found none; run `compare` first")


def promote(
    findings: Findings, params: Params, root: Path, *, dry: bool, parent: str | None = None
) -> list[dict[str, Any]]:
    """Decides what is selected on val, and carries it out; a decision that was made before is left as it is.

    Args:
        findings: the comparison, as reported.
        params: sections `promotion`, `benchmark`, `model` and `inits`.
        root: the repository's top folder.
        dry: say what would be decided, and change nothing.
        parent: the launcher's run in MLflow.

    Raises:
        UserError: the comparison is not the reported one, the registry cannot be reached, another promotion is at
            work, or a registered model is somebody else's; aliases are then as they were.
    """
    check_reported(findings, root / "data/results")
    if not findings.val_ranks.mean:
        log.warning("no backbone is selected: %s", findings.val_ranks.note or "the initializations share no task")
    if findings.settings.protocol != "finetune":
        log.info(
            "nothing is promoted: comparison.protocol is %s, and its networks are not kept", findings.settings.protocol
        )
    chosen = select(findings) if findings.settings.protocol == "finetune" else []
    subjects = [gather(selected, findings, params, root) for selected in chosen]
    with aliases.opened(root) as client:
        register.recover(client)
        subjects = [_remember(client, subject) for subject in subjects]
        held = [_holder(client, subject) for subject in subjects]  # all are looked at before anything is made
        said = []
        for subject, holder in zip(subjects, held, strict=True):
            when = _occasion(client, findings, params, root, parent)
            served = max(when.decided_before[task] for task in subject.selected.tasks)
            decision = decide(
                subject.selected, subject.candidate, holder, findings, params.promotion, served, backbones.operations
            )
            said.append(_carry_out(client, subject, decision, when, dry))
    if not dry:
        files.write_text(root / RESULT, json.dumps(said, indent=1) + "\n")
    return said


def _remember(client: MlflowClient, subject: Subject) -> Subject:
    """Adds that a person took the alias from the same tensors before."""
    there = aliases.version_with(client, subject.candidate.model, subject.candidate.key)
    why = there.tags.get("demoted", "") if there else ""
    return dataclasses.replace(subject, candidate=dataclasses.replace(subject.candidate, demoted=why))


def _holder(client: MlflowClient, subject: Subject) -> Holder | None:
    alias, model = f"{subject.selected.prefix}champion", subject.candidate.model
    own = aliases.holder(client, model, alias)
    if own is None and subject.selected.scope == ALL:
        return aliases.champion_of(client, BACKBONE, alias)
    return own


def _occasion(client: MlflowClient, findings: Findings, params: Params, root: Path, parent: str | None) -> Occasion:
    digest = str(record.comparison_run(findings)["digest"])
    logged = tracking.finished(client, COMPARISON, digest)
    past = aliases.decisions(client)
    tasks = {result.task for result in findings.results}
    return Occasion(
        findings=findings,
        settings=params.promotion,
        comparison=digest,
        comparison_run=logged.info.run_id if logged else "",
        decided_before={
            task: aliases.served(past, cards.manifest(findings.results, task), digest) for task in sorted(tasks)
        },
        past=past,
        root=root,
        parent=parent,
    )


def _carry_out(client: MlflowClient, subject: Subject, decision: Decision, when: Occasion, dry: bool) -> dict[str, Any]:
    digest = _digest(subject, when)
    former = next((run for run in when.past if run.data.tags.get("digest") == digest), None)
    if former is not None:
        said = aliases.record_of(client, former)
        log.info("%s: decided before by this comparison (run %s): %s", said["model"], former.info.run_id, _words(said))
        return said
    for one in (kept for kept in decision.required if kept.verdict == "within"):  # the others are among the reasons
        log.info("%s: %s: %s", subject.candidate.model, subject.selected.init, one.words)
    if dry:
        said = register.record(decision, digest, when, "", "")
        log.info("%s: would be decided so: %s", said["model"], _words(said))
        return said
    said = register.register(client, subject, decision, digest, when)
    log.info("%s: %s", said["model"], _words(said))
    return said


def _digest(subject: Subject, when: Occasion) -> str:
    """Identifies a decision by all that it follows from but who is champion: the same question is not asked twice."""
    settings = dataclasses.asdict(when.settings)
    if not settings["require"]:
        del settings["require"]  # decisions of before there were conditions are the same ones
    asked = [when.comparison, settings, dataclasses.asdict(subject.candidate)]
    return identity.digest(asked)


def _words(said: dict[str, Any]) -> str:
    version = f" (version {said['version']})" if said["version"] else ""
    counts = ", ".join(f"{task} {count}" for task, count in said["decided_before"].items() if count)
    lines = list(said["reasons"])
    lines += [f"comparisons that decided on these test sets before: {counts}"] if counts else []
    lines += [f"error left for later decisions on them: {100 * said['level_left']:.2g} %"] if said.get("level") else []
    alias = f", alias {said['alias']}" if said["alias"] and said["outcome"] != "kept" else ""
    return "\n  ".join([f"{said['init']}{version}: {said['outcome']}{alias}", *lines])
