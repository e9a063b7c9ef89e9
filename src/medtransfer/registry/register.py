"""A decision becomes a run in MLflow and, where something is registered, a version and an alias.

MLflow keeps no history of aliases: the runs in the experiment `medtransfer/promotion` are it.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.metadata
import io
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import mlflow.pyfunc
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import ModelSignature
from mlflow.types.schema import AnyType, ColSpec, DataType, Schema
from PIL import Image

from medtransfer import params, tracking
from medtransfer.comparison import judged
from medtransfer.comparison.findings import Findings
from medtransfer.core import files, schema
from medtransfer.registry import aliases, cards, network, serve, timm_folder
from medtransfer.registry.candidate import Subject
from medtransfer.registry.decision import Decision
from medtransfer.tracking import TrackedRun

log = logging.getLogger("medtransfer")

NEEDED = (
    "mlflow", "torch", "torchvision", "timm", "segmentation-models-pytorch", "safetensors", "numpy", "pandas",
    "pyarrow", "scipy", "scikit-learn", "pillow", "pydicom", "python-gdcm", "nibabel", "tifffile",
    "imagecodecs", "psutil", "matplotlib", "pyyaml", "rich",
)  # fmt: skip
"""packages that a served model imports"""


@dataclass(frozen=True, kw_only=True)
class Occasion:
    """What all decisions of one promotion share."""

    findings: Findings
    settings: params.Promotion
    comparison: str
    """digest"""
    comparison_run: str
    """in MLflow; empty where it did not take it"""
    decided_before: Mapping[str, int]
    """task -> decisions that its test set served before"""
    past: Sequence[Run]
    """finished decisions, the newest first"""
    root: Path
    parent: str | None
    """the launcher's run"""


@contextlib.contextmanager
def decided(
    root: Path, name: str, digest: str, tags: Mapping[str, str], params: Mapping[str, Any], parent: str | None
) -> Iterator[TrackedRun]:
    """Opens the run of a decision, and ends it however the block ends."""
    identity = tracking.Identity(
        name=name, task=aliases.EXPERIMENT, digest=digest, tags=tags, params=params,
        folder=root.resolve() / "data/runs" / digest, parent=parent,
    )  # fmt: skip
    with files.lock(identity.folder / "lock"), tracking.recorded(root, identity) as run:
        yield run


def recover(client: MlflowClient) -> list[Run]:
    """Calls decisions finished that were carried out, though a kill or an outage kept that from being said.

    A decision's run has its whole record before an alias moves. So where the alias is at the version that a run gave
    it, and no later decision did that, the run is finished but in name. Returns those runs.
    """
    past, found = aliases.decisions(client), []
    for run in aliases.decisions(client, "!= 'FINISHED'"):
        tags = run.data.tags
        model, alias, version = (tags.get(name, "") for name in ("model", "alias", "new_version"))
        later = any(
            (one.data.tags.get("model"), one.data.tags.get("alias")) == (model, alias)
            and one.info.start_time >= run.info.start_time
            for one in past
        )
        if not version or tags.get("outcome") not in ("champion", "challenger", "demoted") or later:
            continue
        model = tags.get("new_model") or model  # a demotion may give the alias back to another architecture
        now = aliases.version_of(client, model, alias)
        if now is None or str(now.version) != version:
            continue
        _clean(client, model, alias, version)
        if "error" in tags:
            client.delete_tag(run.info.run_id, "error")
        client.set_terminated(run.info.run_id, "FINISHED")
        log.info("%s: %s was moved to version %s by run %s, which ends now", model, alias, version, run.info.run_id)
        found.append(run)
    return found


def register(client: MlflowClient, subject: Subject, decision: Decision, digest: str, when: Occasion) -> dict[str, Any]:
    """Records a decision and carries it out; returns what `promotion.json` says of it.

    Raises:
        UserError: the champion's alias was moved meanwhile; it stays where it is, and the run is FAILED.
    """
    name = f"{decision.outcome}: {decision.candidate.model}"
    settings = schema.flatten(when.settings, "promotion")
    with decided(when.root, name, digest, _tags(decision, digest, when), settings, when.parent) as run:
        version = _version(client, subject, decision, run.run_id, when)
        said = record(decision, digest, when, run.run_id, version)
        _log(run, decision, said, when)
        run.hand_over()  # before an alias moves, so that the way back is known
        if decision.outcome in ("champion", "challenger"):
            _move(client, decision, version)
    return said


def _tags(decision: Decision, digest: str, when: Occasion) -> dict[str, str]:
    manifests = [cards.manifest(when.findings.results, task) for task in decision.selected.tasks]
    return {
        "verb": "promote",
        "digest": digest,
        "model": decision.candidate.model,
        "init": decision.selected.init,
        "outcome": decision.outcome,
        "alias": decision.alias,
        **({"old_version": decision.holder.version, "old_model": decision.holder.model} if decision.holder else {}),
        "reason": "; ".join(decision.reasons)[:5000],
        **cards.required(decision),
        "marks": ", ".join(decision.selected.marks),
        "comparison": when.comparison,
        "comparison_run": when.comparison_run,
        "manifests": " ".join(manifests),
    }


def record(decision: Decision, digest: str, when: Occasion, run_id: str, version: str) -> dict[str, Any]:
    """Says what was decided, as plain data."""
    selected, held = decision.selected, decision.holder
    return {
        "model": decision.candidate.model,
        "scope": selected.scope,
        "init": selected.init,
        "outcome": decision.outcome,
        "alias": decision.alias,
        "version": version,
        "champion_before": held.version if held else "",
        "reasons": list(decision.reasons),
        "marks": list(selected.marks),
        "level": decision.alpha,
        "level_left": decision.left,
        **({"required": [judged.record(one) for one in decision.required]} if decision.required else {}),
        "decided_before": {task: when.decided_before[task] for task in selected.tasks},
        "comparison": when.comparison,
        "digest": digest,
        "mlflow_run_id": run_id,
    }


def _log(run: TrackedRun, decision: Decision, said: Mapping[str, Any], when: Occasion) -> None:
    numbers = {f"decided_before.{task}": float(count) for task, count in said["decided_before"].items()}
    numbers |= {f"difference.{each.task}": each.estimate for each in decision.compared}
    text = cards.summary(decision, when.findings, said["version"])
    run.sum_up(numbers)
    run.tag(**{"new_version": said["version"], "mlflow.note.content": text})
    files.write_text(run.folder / aliases.RECORD, json.dumps(said, indent=1) + "\n")
    files.write_text(run.folder / "decision.md", text)
    for name in ("index.html", "comparison.md", "checklist.md"):
        (run.folder / "report").mkdir(exist_ok=True)
        path = when.root / "data/results/report" / name
        if path.is_file():  # reports of before there was a checklist have none
            shutil.copyfile(path, run.folder / "report" / name)
    run.artifacts(run.folder, [aliases.RECORD, "decision.md", "report"])


def _version(client: MlflowClient, subject: Subject, decision: Decision, run_id: str, when: Occasion) -> str:
    """Finds or makes the version that the decision is about; empty where nothing is registered."""
    if decision.outcome == "blocked":
        return ""
    name = decision.candidate.model
    version = aliases.version_with(client, name, decision.candidate.key)
    if version is None:
        version = _make(client, subject, decision, run_id, when)
    if decision.outcome != "kept":
        uses = cards.backbone_use(subject.init.backbone) if subject.pack else cards.MODEL_USE
        origin = cards.origin(subject.origin, version.tags)
        padding = subject.init.padding if subject.pack else ""
        text = cards.version_card(decision, when.findings, str(version.version), uses, origin, padding)
        client.update_model_version(name, version.version, text)
    return str(version.version)


def _make(client: MlflowClient, subject: Subject, decision: Decision, run_id: str, when: Occasion) -> ModelVersion:
    name, kind = decision.candidate.model, "backbone" if subject.pack else "model"
    if not aliases.owned(client, name):
        client.create_registered_model(name, {aliases.TAG: kind})
    tags = {aliases.TAG: kind, **cards.tags(decision, when.findings, when.root), **subject.facts}
    tags |= {"comparison": when.comparison, "decision_run": run_id, "use": when.settings.use}
    with tempfile.TemporaryDirectory() as folder:
        made = _backbone if subject.pack else _model
        return made(client, subject, run_id, tags, Path(folder), when.root)


def _backbone(
    client: MlflowClient, subject: Subject, run_id: str, tags: Mapping[str, str], folder: Path, root: Path
) -> ModelVersion:
    """Registers from the run's artifacts: MLflow 3 takes a plain folder through the client alone."""
    if subject.pack is None:
        raise TypeError("a backbone has a pack")
    timm_folder.write(folder, subject.pack, root)
    client.log_artifacts(run_id, str(folder), "backbone")
    source = f"{client.get_run(run_id).info.artifact_uri}/backbone"
    return client.create_model_version(subject.candidate.model, source, run_id, tags=dict(tags))


def _model(
    client: MlflowClient, subject: Subject, run_id: str, tags: Mapping[str, str], folder: Path, root: Path
) -> ModelVersion:
    """Registers a logged model whose code is this package's and whose weights are safetensors."""
    if subject.spec is None or subject.file is None:
        raise TypeError("a fine-tuned model has a description and a file")
    network.write(folder, subject.spec, subject.file)
    place = client.get_run(run_id).info.experiment_id
    for left in client.search_logged_models([place], f"source_run_id = '{run_id}'"):  # by a kill, before a version
        client.delete_logged_model(left.model_id)
    logged = client.create_logged_model(place, name=subject.candidate.model, source_run_id=run_id)
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)  # says that it tries the example
    package = Path(__file__).parents[1]
    with aliases.default_of(client):
        info = mlflow.pyfunc.log_model(
            name=subject.candidate.model,
            model_id=logged.model_id,
            python_model=str(Path(__file__).with_name("mlflow_entry.py")),
            code_paths=[str(package)],
            artifacts={serve.ARTIFACT: str(folder)},
            signature=signature(subject.spec),
            input_example=example(subject.spec),
            pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in NEEDED],
        )
    return client.create_model_version(
        subject.candidate.model, info.model_uri, run_id, tags=dict(tags), model_id=logged.model_id
    )


def signature(spec: network.Spec) -> ModelSignature:
    """Says what goes in and comes out; an image is text or lists in JSON, bytes or an array in Python."""
    kind = DataType.string if spec.segmentation else DataType.double
    return ModelSignature(
        inputs=Schema([ColSpec(AnyType(), serve.COLUMN)]),
        outputs=Schema([ColSpec(kind, name) for name in spec.labels]),
    )


def example(spec: network.Spec) -> pd.DataFrame:
    """Makes an input, never a patient's: a gray ramp, as a PNG in base64; with windows as values in their unit."""
    ramp = np.tile(np.linspace(0, 255, 32), (32, 1))
    if spec.windows:
        return pd.DataFrame({serve.COLUMN: [(8 * ramp - 1000).round().astype(int).tolist()]})
    stream = io.BytesIO()
    Image.fromarray(ramp.astype(np.uint8)).save(stream, "PNG")
    return pd.DataFrame({serve.COLUMN: [base64.b64encode(stream.getvalue()).decode()]})


def _move(client: MlflowClient, decision: Decision, version: str) -> None:
    name, prefix = decision.candidate.model, decision.selected.prefix
    aliases.anchor(client, name, version, decision.anchors)
    aliases.move(client, name, decision.alias, version, decision.holder, f"{prefix}champion")
    _clean(client, name, decision.alias, version)


def _clean(client: MlflowClient, model: str, alias: str, version: str) -> None:
    """Does what follows from an alias that moved: a champion is no challenger, and the model's page shows both."""
    if alias.endswith("champion"):
        other = alias.replace("champion", "challenger")
        challenger = aliases.version_of(client, model, other)
        if challenger is not None and str(challenger.version) == version:
            client.delete_registered_model_alias(model, other)
    describe(client, model)


def describe(client: MlflowClient, model: str) -> None:
    """Lets the page of a registered model show its champions."""
    versions = {alias: aliases.version_of(client, model, alias) for alias in ("champion", "demo-champion")}
    shown = {alias: version.description or "" for alias, version in versions.items() if version}
    client.update_registered_model(model, cards.model_card(model, shown))
