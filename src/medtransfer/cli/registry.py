"""Verbs of the model registry: promote, demote, export."""

from __future__ import annotations

import logging
from pathlib import Path

from medtransfer.cli.results import COMPARED, find
from medtransfer.cli.verb import verb
from medtransfer.core.errors import UserError
from medtransfer.params import Params

log = logging.getLogger("medtransfer")


@verb(*COMPARED, extra="train")
def promote(params: Params, root: Path, dry: str = "no") -> None:
    """Put what val selected into the model registry, as champion if it passes the gate; --dry-run only says so.

    Args:
        params: of the study.
        root: the study's folder.
        dry: yes: only say what would be decided.
    """
    from medtransfer.registry import promote
    from medtransfer.runs.execution import leases
    from medtransfer.tracking import sync
    from medtransfer.tracking.launcher import Launcher

    if dry not in ("no", "yes"):
        raise UserError(f"dry must be yes or no, got {dry!r}")
    launcher = Launcher(root)
    with launcher:
        launcher.start("promote", {"verb": "promote"})
        sync.sweep(root, leases.claims(leases.address(params.execution)))
        findings = find(params, root, "params", "params")
        said = promote.promote(findings, params, root, dry=dry == "yes", parent=launcher.run_id)
        lines = [f"- {one['model']}: {one['init']}, {one['outcome']}: {'; '.join(one['reasons'])}" for one in said]
        launcher.table("\n".join(lines) + "\n", "")


@verb(extra="train")
def demote(params: Params, root: Path, model: str, alias: str = "champion", why: str = "not said") -> None:
    """Give a registered model's champion alias back to the version that had it before; --why is recorded.

    Args:
        params: of the study.
        root: the study's folder.
        model: registered model.
        alias: champion or demo-champion.
        why: reason, recorded with the decision.
    """
    from medtransfer.registry import demote
    from medtransfer.runs.execution import leases
    from medtransfer.tracking import sync
    from medtransfer.tracking.launcher import Launcher

    launcher = Launcher(root)
    with launcher:
        launcher.start(f"demote {model}", {"verb": "demote"})
        sync.sweep(root, leases.claims(leases.address(params.execution)))
        said = demote.demote(model, alias, why, root, launcher.run_id)
        log.info("%s", said)
        launcher.table(f"- {said}\n", "")


@verb(extra="train")
def export(params: Params, root: Path, model: str, alias: str = "champion", out: str = "data/exports") -> None:
    """Write a registered fine-tuned model as ONNX, checked to give the same outputs.

    Args:
        params: of the study.
        root: the study's folder.
        model: registered fine-tuned model.
        alias: alias of its version.
        out: folder.
    """
    from medtransfer.registry import onnx

    log.info("%s", onnx.export(model, alias, root / out, root))
