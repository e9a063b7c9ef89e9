"""The verb `demote`: the alias goes back to the champion before, as a recorded decision."""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from medtransfer.errors import UserError
from medtransfer.promotion import registering, registry


def demote(model: str, alias: str, why: str, root: Path, parent: str | None = None) -> str:
    """Gives an alias back to the version that had it before; returns what was done, in a sentence.

    The version that loses it is tagged, so that the same tensors do not become champion again by themselves.

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
    with registry.opened(root) as client:
        now = registry.holder(client, model, alias)
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
        run_id = _open(client, model, alias, (now.version, before), why, promoted, root, parent)
        try:
            client.set_model_version_tag(model, now.version, "demoted", why)
            registry.move(client, former, alias, before, now, alias)
            registering.describe(client, model)
            client.set_terminated(run_id, "FINISHED")
        except BaseException as error:
            client.set_tag(run_id, "error", f"{type(error).__name__}: {error}"[:5000])
            client.set_terminated(run_id, "FAILED")
            raise
    return f"{model}: {alias} went from version {now.version} back to version {before} (run {run_id})"


def _promotion(client: MlflowClient, model: str, alias: str, version: str) -> Run | None:
    """Finds the newest decision that gave a version the alias."""
    wanted = {"verb": "promote", "outcome": "champion", "model": model, "alias": alias, "new_version": version}
    return next(
        (run for run in registry.decisions(client) if wanted.items() <= run.data.tags.items()),
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
    client: MlflowClient, model: str, alias: str, versions: tuple[str, str], why: str, promoted: Run, root: Path,
    parent: str | None,
) -> str:  # fmt: skip
    old, new = versions
    text = f"**{model}**: `{alias}` went from version {old} back to version {new}: {why}."
    tags = {
        "verb": "demote",
        "model": model,
        "outcome": "demoted",
        "alias": alias,
        "old_version": old,
        "new_version": new,
        "reason": why,
        "comparison": promoted.data.tags.get("comparison", ""),
        "demoted_decision": promoted.info.run_id,
        "mlflow.note.content": text,
    }
    return registering.open_run(client, f"demoted: {model}", tags, root, parent)
