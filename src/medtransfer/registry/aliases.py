"""The model registry as promotion sees it: who has an alias, which decisions there were, and who may move one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from medtransfer import tracking
from medtransfer.core import files, schema
from medtransfer.core.errors import UserError
from medtransfer.registry.gate import Holder

EXPERIMENT = "promotion"
"""the experiment `medtransfer/promotion`: a run for each decision"""
TAG = "medtransfer"
"""tag of the registered models and versions that are ours: `backbone` or `model`"""
ANCHOR = "anchor."
"""begins the tag of a version that holds, for a task, what losses are counted from"""
RECORD = "decision.json"
"""artifact of a decision's run"""
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""how the stores say that a model or an alias is not there"""
PAGE = 1000


@contextlib.contextmanager
def default_of(client: MlflowClient) -> Iterator[None]:
    """Makes a client's store the one of MLflow's functions without a client, while the block runs."""
    asked = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(client.tracking_uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)  # which takes the variable away, too
        if asked is not None:
            os.environ["MLFLOW_TRACKING_URI"] = asked


@contextlib.contextmanager
def opened(root: Path) -> Iterator[MlflowClient]:
    """Opens the registry for one promotion at a time on this host; what it refuses becomes a message.

    Raises:
        UserError: it cannot be reached, or another promotion is at work.
    """
    with files.lock(lock_file(root), wait=False) as owned:
        if not owned:
            raise UserError(
                "another promotion is at work in this folder; wait until it ends, then start this one again"
            )
        client = tracking.connect(root)
        try:
            yield client
        except (MlflowException, OSError) as error:
            raise UserError(
                f"the model registry {tracking.uri(root)} failed: {error}. Look in `mlflow ui` where the aliases are, "
                "then start the same command again"
            ) from error


def lock_file(root: Path) -> Path:
    """Says which file the promotion at work holds."""
    return root.resolve() / "data/runs/.promotion.lock"


def owned(client: MlflowClient, model: str) -> bool:
    """Says whether a registered model is there.

    Raises:
        UserError: it is, and somebody else made it.
    """
    try:
        found = client.get_registered_model(model)
    except MlflowException as error:
        if error.error_code in ABSENT:
            return False
        raise
    if TAG not in found.tags:
        raise UserError(
            f"the registered model {model} was not made by medtransfer (it lacks the tag {TAG}); rename it in MLflow, "
            "nothing was changed"
        )
    return True


def version_of(client: MlflowClient, model: str, alias: str) -> ModelVersion | None:
    """Finds the version that has an alias."""
    if not owned(client, model):
        return None
    try:
        return client.get_model_version_by_alias(model, alias)
    except MlflowException as error:
        if error.error_code in ABSENT:
            return None
        raise


def holder(client: MlflowClient, model: str, alias: str) -> Holder | None:
    """Says who has an alias."""
    found = version_of(client, model, alias)
    if found is None:
        return None
    if "key" not in found.tags:
        raise UserError(
            f"version {found.version} of {model} has the alias {alias}, but medtransfer did not make it (it lacks the "
            "tag key); take the alias away in MLflow"
        )
    tags = found.tags
    return Holder(
        version=str(found.version), init=tags["init"], key=tags["key"], parameters=int(tags.get("parameters", 0)),
        model=model,
        anchors={name.removeprefix(ANCHOR): key for name, key in tags.items() if name.startswith(ANCHOR)},
    )  # fmt: skip


def champion_of(client: MlflowClient, beginning: str, alias: str) -> Holder | None:
    """Says who has an alias among all registered models whose names begin alike; the newest, should several have it."""
    found = [model for model in client.search_registered_models(f"name LIKE '{beginning}%'") if alias in model.aliases]
    newest = max(found, key=lambda model: model.last_updated_timestamp, default=None)
    return holder(client, newest.name, alias) if newest is not None else None


def anchor(client: MlflowClient, model: str, version: str, anchors: Mapping[str, str]) -> None:
    """Writes down what losses are counted from, task by task, while this version is champion."""
    for task, key in anchors.items():
        client.set_model_version_tag(model, version, ANCHOR + task, key)


def version_with(client: MlflowClient, model: str, key: str) -> ModelVersion | None:
    """Finds the version that holds these tensors; the oldest, should there be several."""
    if not owned(client, model):
        return None
    found = [one for one in client.search_model_versions(f"name = '{model}'") if one.tags.get("key") == key]
    return min(found, key=lambda one: int(one.version), default=None)


def move(client: MlflowClient, model: str, alias: str, version: str, expected: Holder | None, champion: str) -> None:
    """Gives an alias to a version, if the champion is still the one that the decision was made against.

    Args:
        client: of the registry.
        model: registered model.
        alias: to give.
        version: that gets it.
        expected: the champion's holder when the decision was made, of this registered model or of another one.
        champion: its alias.

    Raises:
        UserError: somebody moved it meanwhile.
    """
    held = expected.model or model if expected else model
    now = version_of(client, held, champion)
    before, after = (expected.version if expected else "nobody"), (str(now.version) if now else "nobody")
    if before != after:
        raise UserError(
            f"{model}: the alias {champion} went from {before} to {after} while this decision was made; nothing was "
            "moved, start it again"
        )
    client.set_registered_model_alias(model, alias, version)
    if alias == champion and held != model:  # of another architecture: there is one champion
        client.delete_registered_model_alias(held, champion)


def decisions(client: MlflowClient, status: str = "= 'FINISHED'") -> list[Run]:
    """Lists all finished decisions, or those of another status, the newest first."""
    place = tracking.store.place_of(client, tracking.PREFIX + EXPERIMENT)
    if place is None:
        return []
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            [place.experiment_id], f"attributes.status {status}", max_results=PAGE, page_token=token
        )
        found += list(page)
        token = page.token
        if not token:
            return found


def record_of(client: MlflowClient, run: Run) -> dict[str, Any]:
    """Reads what a decision's run recorded."""
    advice = "put that artifact back from a backup, or delete the decision in `mlflow ui`; its alias stays where it is"
    path = Path(client.download_artifacts(run.info.run_id, RECORD))
    return schema.read_json(path, dict[str, Any], f"record of decision {run.info.run_id}", advice)


def served(past: Iterable[Run], manifest: str, comparison: str) -> int:
    """Counts the other comparisons by whose test scores, on this test set, something was decided.

    Args:
        past: decisions.
        manifest: digest of the prepared data.
        comparison: digest of the present one.
    """
    tags = [run.data.tags for run in past if run.data.tags.get("outcome") in ("champion", "challenger")]
    return len({one["comparison"] for one in tags if manifest in one.get("manifests", "").split()} - {comparison})
