"""A decision becomes a run in MLflow and, where something is registered, a version and an alias.

MLflow keeps no history of aliases: the runs in the experiment `medtransfer/promotion` are it.
"""

from __future__ import annotations

import base64
import getpass
import importlib.metadata
import io
import json
import logging
import os
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import mlflow.pyfunc
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Metric, Param, Run, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import ModelSignature
from mlflow.types.schema import AnyType, ColSpec, DataType, Schema
from PIL import Image

from medtransfer import files, params, records, tracking
from medtransfer.findings import Findings
from medtransfer.promotion import cards, network, packing, registry, serving
from medtransfer.promotion.decision import Decision
from medtransfer.promotion.material import Subject

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


def who() -> str:
    """Names the person: USER, or else the operating system's name."""
    return os.environ.get("USER") or getpass.getuser()


def open_run(client: MlflowClient, name: str, tags: Mapping[str, str], root: Path, parent: str | None) -> str:
    """Opens the run of a decision."""
    own = {
        "host": socket.gethostname(),
        "lock": str(registry.lock_file(root)),
        "mlflow.user": who(),
        "mlflow.source.name": f"medtransfer {tags['verb']}",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": files.git_commit(root),
        **({"mlflow.parentRunId": parent} if parent else {}),
    }
    place = tracking.experiment(client, tracking.PREFIX + registry.EXPERIMENT)
    return str(client.create_run(place, tags={**own, **tags}, run_name=name).info.run_id)


def register(client: MlflowClient, subject: Subject, decision: Decision, digest: str, when: Occasion) -> dict[str, Any]:
    """Records a decision and carries it out; returns what `promotion.json` says of it.

    Raises:
        UserError: the champion's alias was moved meanwhile; it stays where it is, and the run is FAILED.
    """
    name = f"{decision.outcome}: {decision.material.model}"
    run_id = open_run(client, name, _tags(decision, digest, when), when.root, when.parent)
    try:
        version = _version(client, subject, decision, run_id, when)
        said = record(decision, digest, when, run_id, version)
        _log(client, run_id, decision, said, when)
        if decision.outcome in ("champion", "challenger"):
            _move(client, decision, version)
        client.set_terminated(run_id, "FINISHED")
    except BaseException as error:
        client.set_tag(run_id, "error", f"{type(error).__name__}: {error}"[:5000])
        client.set_terminated(run_id, "FAILED")
        raise
    return said


def _tags(decision: Decision, digest: str, when: Occasion) -> dict[str, str]:
    manifests = [cards.manifest(when.findings.cells, task) for task in decision.selected.tasks]
    return {
        "verb": "promote",
        "digest": digest,
        "model": decision.material.model,
        "init": decision.selected.init,
        "outcome": decision.outcome,
        "alias": decision.alias,
        **({"old_version": decision.holder.version, "old_model": decision.holder.model} if decision.holder else {}),
        "reason": "; ".join(decision.reasons)[:5000],
        "marks": ", ".join(decision.selected.marks),
        "comparison": when.comparison,
        "comparison_run": when.comparison_run,
        "manifests": " ".join(manifests),
    }


def record(decision: Decision, digest: str, when: Occasion, run_id: str, version: str) -> dict[str, Any]:
    """Says what was decided, as plain data."""
    selected, held = decision.selected, decision.holder
    return {
        "model": decision.material.model,
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
        "decided_before": {task: when.decided_before[task] for task in selected.tasks},
        "comparison": when.comparison,
        "digest": digest,
        "mlflow_run_id": run_id,
    }


def _log(client: MlflowClient, run_id: str, decision: Decision, said: Mapping[str, Any], when: Occasion) -> None:
    now = int(time.time() * 1000)
    numbers = [Metric(f"decided_before.{task}", count, now, 0) for task, count in said["decided_before"].items()]
    numbers += [Metric(f"difference.{each.task}", each.estimate, now, 0) for each in decision.compared]
    settings = [Param(name, str(value)) for name, value in records.flatten(when.settings, "promotion").items()]
    text = cards.summary(decision, when.findings, said["version"])
    tags = [RunTag("new_version", said["version"]), RunTag("mlflow.note.content", text)]
    client.log_batch(run_id, metrics=numbers, params=settings, tags=tags)
    client.log_text(run_id, json.dumps(said, indent=1) + "\n", registry.RECORD)
    client.log_text(run_id, text, "decision.md")
    for name in ("index.html", "comparison.md"):
        client.log_artifact(run_id, str(when.root / "data/results/report" / name), "report")


def _version(client: MlflowClient, subject: Subject, decision: Decision, run_id: str, when: Occasion) -> str:
    """Finds or makes the version that the decision is about; empty where nothing is registered."""
    if decision.outcome == "blocked":
        return ""
    name = decision.material.model
    version = registry.version_with(client, name, decision.material.key)
    if version is None:
        version = _make(client, subject, decision, run_id, when)
    if decision.outcome != "kept":
        uses = cards.BACKBONE_USE if subject.pack else cards.MODEL_USE
        origin = cards.origin(subject.origin, version.tags)
        padding = subject.init.padding if subject.pack else ""
        text = cards.version_card(decision, when.findings, str(version.version), uses, origin, padding)
        client.update_model_version(name, version.version, text)
    return str(version.version)


def _make(client: MlflowClient, subject: Subject, decision: Decision, run_id: str, when: Occasion) -> ModelVersion:
    name, kind = decision.material.model, "backbone" if subject.pack else "model"
    if not registry.owned(client, name):
        client.create_registered_model(name, {registry.TAG: kind})
    tags = {registry.TAG: kind, **cards.tags(decision, when.findings, when.root), **subject.facts}
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
    packing.write(folder, subject.pack, root)
    client.log_artifacts(run_id, str(folder), "backbone")
    source = f"{client.get_run(run_id).info.artifact_uri}/backbone"
    return client.create_model_version(subject.material.model, source, run_id, tags=dict(tags))


def _model(
    client: MlflowClient, subject: Subject, run_id: str, tags: Mapping[str, str], folder: Path, root: Path
) -> ModelVersion:
    """Registers a logged model whose code is this package's and whose weights are safetensors."""
    if subject.spec is None or subject.file is None:
        raise TypeError("a fine-tuned model has a description and a file")
    network.write(folder, subject.spec, subject.file)
    place = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(place, name=subject.material.model, source_run_id=run_id)
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)  # says that it tries the example
    package = Path(__file__).parents[1]
    with registry.default_of(client):
        info = mlflow.pyfunc.log_model(
            name=subject.material.model,
            model_id=logged.model_id,
            python_model=str(package / "promotion/entry.py"),
            code_paths=[str(package)],
            artifacts={serving.ARTIFACT: str(folder)},
            signature=signature(subject.spec),
            input_example=example(subject.spec),
            pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in NEEDED],
        )
    return client.create_model_version(
        subject.material.model, info.model_uri, run_id, tags=dict(tags), model_id=logged.model_id
    )


def signature(spec: network.Spec) -> ModelSignature:
    """Says what goes in and comes out; an image is text or lists in JSON, bytes or an array in Python."""
    kind = DataType.string if spec.segmentation else DataType.double
    return ModelSignature(
        inputs=Schema([ColSpec(AnyType(), serving.COLUMN)]),
        outputs=Schema([ColSpec(kind, name) for name in spec.labels]),
    )


def example(spec: network.Spec) -> pd.DataFrame:
    """Makes an input, never a patient's: a gray ramp, as a PNG in base64; with windows as values in their unit."""
    ramp = np.tile(np.linspace(0, 255, 32), (32, 1))
    if spec.windows:
        return pd.DataFrame({serving.COLUMN: [(8 * ramp - 1000).round().astype(int).tolist()]})
    stream = io.BytesIO()
    Image.fromarray(ramp.astype(np.uint8)).save(stream, "PNG")
    return pd.DataFrame({serving.COLUMN: [base64.b64encode(stream.getvalue()).decode()]})


def _move(client: MlflowClient, decision: Decision, version: str) -> None:
    name, prefix = decision.material.model, decision.selected.prefix
    registry.anchor(client, name, version, decision.anchors)
    registry.move(client, name, decision.alias, version, decision.holder, f"{prefix}champion")
    challenger = registry.version_of(client, name, f"{prefix}challenger")
    if decision.outcome == "champion" and challenger is not None and str(challenger.version) == version:
        client.delete_registered_model_alias(name, f"{prefix}challenger")
    describe(client, name)


def describe(client: MlflowClient, model: str) -> None:
    """Lets the page of a registered model show its champions."""
    versions = {alias: registry.version_of(client, model, alias) for alias in ("champion", "demo-champion")}
    shown = {alias: version.description or "" for alias, version in versions.items() if version}
    client.update_registered_model(model, cards.model_card(model, shown))
