"""The verb `demote`: the alias goes back to the champion before, as a recorded decision."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from medtransfer.core.errors import UserError
from medtransfer.registry import aliases, register
from medtransfer.tracking import TrackedRun

log = logging.getLogger("medtransfer")


def demote(model: str, alias: str, why: str, root: Path, parent: str | None = None) -> str:
    """Gives an alias back to the version that had it before; returns what was done, in a sentence.

    The version that loses it is tagged, so that the same tensors do not become champion again by themselves. The same
    command again, as after a kill, goes no step further back: that takes another reason.

    Args:
        model: registered model.
        alias: `champion` or `demo-champion`.
        why: said by the person who demotes.
        root: the repository's top folder.
        parent: the launcher's run in MLflow.

    Raises:
        UserError: nobody has the alias, nobody had it before, or it was moved by other hands meanwhile.
    """
    if alias not in ("champion", "demo-champion"):
        raise UserError(f"alias must be champion or demo-champion, got {alias!r}")
    with aliases.opened(root) as client:
        done = {"verb": "demote", "model": model, "alias": alias, "reason": why}
        register.recover(client)
        last = _last(client, model, alias)
        if last is not None and done.items() <= last.data.tags.items() and _stands(client, last):
            log.info("this was done before; to go one step further back, give another --why")
            tags = last.data.tags
            return _words(model, alias, tags["old_version"], tags["new_version"], last.info.run_id)
        now = aliases.holder(client, model, alias)
        if now is None:
            raise UserError(f"looked for {alias} of {model}, found none; `mlflow ui` shows what there is")
        promoted = _promotion(client, model, alias, now.version)
        before = promoted.data.tags.get("old_version", "") if promoted else ""
        if not promoted or not before:
            raise UserError(
                f"version {now.version} of {model} had no {alias} before it; to take the alias away, use `mlflow ui`"
            )
        former = promoted.data.tags.get("old_model") or model
        _check(client, former, before)
        with _open(model, former, alias, (now.version, before), why, promoted, root, parent) as run:
            client.set_model_version_tag(model, now.version, "demoted", why)
            run.hand_over()
            aliases.move(client, former, alias, before, now, alias)
            register.describe(client, model)
    return _words(model, alias, now.version, before, run.run_id)


def _words(model: str, alias: str, old: str, new: str, run_id: str) -> str:
    return f"{model}: {alias} went from version {old} back to version {new} (run {run_id})"


def _last(client: MlflowClient, model: str, alias: str) -> Run | None:
    """Finds the newest decision that moved a model's alias."""
    moves = (run for run in aliases.decisions(client) if run.data.tags.get("outcome") in ("champion", "demoted"))
    wanted = {"model": model, "alias": alias}
    return next((run for run in moves if wanted.items() <= run.data.tags.items()), None)


def _stands(client: MlflowClient, run: Run) -> bool:
    """Says whether an alias is still where a decision moved it."""
    tags = run.data.tags
    now = aliases.version_of(client, tags.get("new_model") or tags["model"], tags["alias"])
    return now is not None and str(now.version) == tags["new_version"]


def _promotion(client: MlflowClient, model: str, alias: str, version: str) -> Run | None:
    """Finds the newest decision that gave a version the alias."""
    wanted = {"verb": "promote", "outcome": "champion", "model": model, "alias": alias, "new_version": version}
    return next(
        (run for run in aliases.decisions(client) if wanted.items() <= run.data.tags.items()),
        None,
    )


def _check(client: MlflowClient, model: str, version: str) -> None:
    try:
        client.get_model_version(model, version)
    except MlflowException as error:
        raise UserError(
            f"version {version} of {model}, the champion before, is not in the registry any more"
        ) from error


def _open(
    model: str,
    former: str,
    alias: str,
    versions: tuple[str, str],
    why: str,
    promoted: Run,
    root: Path,
    parent: str | None,
) -> contextlib.AbstractContextManager[TrackedRun]:
    old, new = versions
    text = f"**{model}**: `{alias}` went from version {old} back to version {new}: {why}."
    tags = {
        "verb": "demote",
        "model": model,
        "outcome": "demoted",
        "alias": alias,
        "old_version": old,
        "new_version": new,
        "new_model": former,
        "reason": why,
        "comparison": promoted.data.tags.get("comparison", ""),
        "demoted_decision": promoted.info.run_id,
        "mlflow.note.content": text,
    }
    asked = [model, alias, old, new, why, promoted.info.run_id]
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]
    return register.decided(root, f"demoted: {model}", digest, tags, {}, parent)
