"""Verbs of the servers: services, sync."""

from __future__ import annotations

import logging
from pathlib import Path

from medtransfer.cli.verb import verb
from medtransfer.core.errors import UserError, quantity
from medtransfer.params import Params

log = logging.getLogger("medtransfer")

ACTIONS = ("start", "stop", "status")


@verb(extra="services")
def services(params: Params, root: Path, action: str = "start", port: str = "0") -> None:
    """Start, stop or show PostgreSQL, an S3 server and MLflow on this machine; port: MLflow's, 0: as before.

    Args:
        params: of the study.
        root: the study's folder.
        action: start, stop or status.
        port: MLflow's port; 0: as before.
    """
    from medtransfer.services import servers

    if action not in ACTIONS:
        raise UserError(f"action must be one of {', '.join(ACTIONS)}, got {action!r}")
    if not port.isdigit() or int(port) not in (0, *range(1024, 65534)):
        raise UserError(f"port must be 0 or a whole number from 1024 to 65533, got {port!r}")
    folder = root / servers.FOLDER
    if action == "stop":
        log.info("stopped: %s", ", ".join(servers.stop(folder)) or "nothing, no server ran")
        return
    if action == "start":
        for name, value in servers.start(folder, int(port)).items():
            log.info("export %s=%s", name, "..." if name in servers.SECRETS else value)
        log.info("To use the servers: source %s", servers.FOLDER / "environment")
    for name, process in servers.status(folder).items():
        log.info("%-10s %s", name, f"process {process}" if process else "does not run")


@verb("execution")
def sync(params: Params, root: Path) -> None:
    """Send MLflow what runs left unsent whose process died, or that ended while MLflow was away."""
    from medtransfer import tracking
    from medtransfer.runs.execution import leases
    from medtransfer.tracking import sync as leftovers

    client = tracking.connect(root)
    outcome = leftovers.sync(root, leases.claims(leases.address(params.execution)))
    gone = tracking.reap(client)
    if gone:
        log.info("sync: %s of dead processes RUNNING in MLflow until now: KILLED", quantity(gone, "run"))
    for name in outcome.working:
        log.info("%s is being worked at; its process sends it", name)
    log.info(
        "sync: %s sent to MLflow: %s",
        quantity(len(outcome.sent), "run"),
        ", ".join(outcome.sent) or "nothing was unsent",
    )
    if outcome.left:
        raise UserError(
            f"{quantity(len(outcome.left), 'run')} could not be sent, still waiting:\n  " + "\n  ".join(outcome.left)
        )
