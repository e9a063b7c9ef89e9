"""PostgreSQL of this machine: a cluster in a folder, made once, and its databases."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import psycopg

from medtransfer.core.errors import UserError
from medtransfer.services.daemons import Daemon

USER = "medtransfer"
ACCOUNT = "postgres"
"""of Debian's package; PostgreSQL refuses to run as root"""


def address(port: int, name: str) -> str:
    """Says where a database is; its password is in PGPASSWORD, which every client of PostgreSQL reads."""
    return f"postgresql://{USER}@127.0.0.1:{port}/{name}"


def programs() -> Path:
    """Finds the folder of PostgreSQL's programs, the newest version's where there are several.

    Raises:
        UserError: there are none.
    """
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = [*debian, *([Path(named)] if (named := shutil.which("initdb")) else [])]
    if not found:
        raise UserError(
            "PostgreSQL is not installed: no initdb on the PATH and none in /usr/lib/postgresql/*/bin; "
            "apt-get install postgresql"
        )
    return found[-1].resolve().parent


def prepare(folder: Path, password: str) -> None:
    """Makes the cluster where there is none.

    Raises:
        UserError: PostgreSQL is not there, may not get at the folder, or makes no cluster.
    """
    if (folder / "PG_VERSION").is_file():
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _hand_over(folder)
    secret = folder.with_name("postgresql.password")
    descriptor = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w") as stream:
        stream.write(password)
    _hand_over(secret)
    command = [
        programs() / "initdb",
        "-D",
        folder,
        "-U",
        USER,
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--no-locale",
    ]
    try:
        answer = subprocess.run(
            [*map(str, command), f"--pwfile={secret}"], cwd="/", capture_output=True, text=True, check=False,
            user=account(), group=account(),
        )  # fmt: skip
    finally:
        secret.unlink()
    if answer.returncode:
        raise UserError(f"PostgreSQL made no cluster in {folder}: {answer.stderr.strip()}")


def account() -> str | None:
    """Says which account PostgreSQL runs as: root gives way to Debian's."""
    return ACCOUNT if os.getuid() == 0 else None


def _hand_over(path: Path) -> None:
    if not account():
        return
    closed = [str(above) for above in path.resolve().parents if not above.stat().st_mode & 0o001]
    if closed:
        raise UserError(
            f"PostgreSQL cannot run as root, and its account {ACCOUNT} may not pass through {closed[-1]}; "
            f"chmod o+x {closed[-1]}, or start the services as another user than root"
        )
    shutil.chown(path, ACCOUNT, ACCOUNT)


def daemon(folder: Path, port: int, password: str) -> Daemon:
    """Describes the server of a cluster."""
    options = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
    words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    return Daemon(
        name="postgresql",
        command=(str(programs() / "postgres"), "-D", str(folder), *words),
        environment={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        port=port,
        answers=lambda: _answers(port, password),
        account=account(),
        farewell=signal.SIGINT,  # a "fast" shutdown: SIGTERM waits until every client has left by itself
    )


def _answers(port: int, password: str) -> bool:
    try:
        psycopg.connect(address(port, "postgres"), password=password, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def create(names: tuple[str, ...], port: int, password: str) -> None:
    """Makes the databases that are not there."""
    with psycopg.connect(address(port, "postgres"), password=password, autocommit=True) as connection:
        there = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
        for name in names:
            if name not in there:
                connection.execute(f"CREATE DATABASE {name}")
