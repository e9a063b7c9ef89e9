"""Which process has which run: a lock on one machine, and across machines a row in PostgreSQL that expires.

The kernel frees a lock when its process dies, however it dies, but only this machine's kernel sees all who ask. So
where a database is at hand a row per run says who has it until when, by the database's clock alone. A dead owner's row
expires; the next owner gets a higher fencing number, and whoever holds a lower one writes nothing more (M. Kleppmann,
"How to do distributed locking", 2016). An owner by the very same lock
file is known to be dead at once: whoever asks has the lock.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from medtransfer.core import extras, files
from medtransfer.core.addresses import Address, scrub
from medtransfer.core.errors import Held, UserError
from medtransfer.params import Execution

log = logging.getLogger("medtransfer")

SECONDS = 120.0
"""for which a lease holds from its last renewal: a database that is away for less costs nobody a lease"""
RENEWALS = 6
"""attempts to renew a lease in that time"""
TIMEOUT = 10
"""seconds in which the database must answer"""

TABLE = """CREATE TABLE IF NOT EXISTS medtransfer_leases (
    digest text PRIMARY KEY, owner text NOT NULL, lock text NOT NULL, fence bigint NOT NULL,
    expires timestamptz NOT NULL)"""
TAKE = """INSERT INTO medtransfer_leases AS held
    VALUES (%(digest)s, %(owner)s, %(lock)s, 1, clock_timestamp() + %(span)s::interval)
    ON CONFLICT (digest) DO UPDATE
    SET owner = excluded.owner, lock = excluded.lock, fence = held.fence + 1, expires = excluded.expires
    WHERE held.expires <= clock_timestamp() OR held.lock = excluded.lock RETURNING fence"""
RENEW = """UPDATE medtransfer_leases SET expires = clock_timestamp() + %(span)s::interval
    WHERE digest = %(digest)s AND fence = %(fence)s RETURNING fence"""
LIST = "SELECT digest, owner FROM medtransfer_leases WHERE expires > clock_timestamp()"
ASK = "SELECT owner FROM medtransfer_leases WHERE digest = %(digest)s"


class Lost(UserError):
    """The run went to another process, because this one was not heard of for too long."""


def address(settings: Execution) -> Address:
    """Says which database holds the leases: `execution.leases`, else MLflow's if that is PostgreSQL's; "" for none.

    Raises:
        UserError: its driver is not installed.
    """
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    chosen = settings.leases or (tracking if tracking.startswith("postgresql") else "")
    extras.need_for(chosen)
    driver, _, rest = chosen.partition("://")
    return Address(f"{driver.partition('+')[0]}://{rest}" if chosen else "")  # postgresql+psycopg: SQLAlchemy's word


def initialise(database: str) -> None:
    """Makes the table where there is none; called once before workers ask for leases.

    Raises:
        UserError: the database cannot be reached.
    """
    if database:
        _query(database, f"SELECT pg_advisory_xact_lock(hashtext('medtransfer_leases')); {TABLE}", {})


def holders(database: str) -> dict[str, str]:
    """Lists digest -> owner (host and process) of the leases that hold; empty without a database.

    Raises:
        UserError: the database cannot be reached.
    """
    if not database:
        return {}
    initialise(database)
    return {str(digest): str(owner) for digest, owner in _query(database, LIST, {})}


def claims(database: str) -> Callable[[Path, str], contextlib.AbstractContextManager[Callable[[], None]]]:
    """Gives `claim` with its database, for whoever holds runs by folder and digest and knows no leases."""
    return functools.partial(claim, database=database)


@contextlib.contextmanager
def claim(folder: Path, digest: str, database: str) -> Iterator[Callable[[], None]]:
    """Holds a run while the block works at it; yields a check that its owner makes before it writes.

    The check raises `Lost` once the lease is known to be another's. While the database is away it does not: then
    nobody else can take the lease.

    Args:
        folder: of the run; its `lock` is locked.
        digest: of the run.
        database: as `address` says.

    Raises:
        Held: another process has it.
        UserError: the database cannot be reached.
    """
    path = folder / "lock"
    with files.lock(path, wait=False) as owned:
        if not owned:
            raise Held(f"run {digest[:8]} is being trained by another process here")
        if not database:
            yield lambda: None
            return
        lease = Lease(database, digest, _identify(path))
        try:
            yield lease.check
        finally:
            lease.release()


def _identify(lock: Path) -> str:
    """Names a lock file by what the kernel knows it by, so that two names are equal only where its locks count."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    kernel = boot.read_text().strip() if boot.is_file() else socket.gethostname()
    return f"{kernel}:{lock.stat().st_dev}:{lock.stat().st_ino}"


class Lease:
    """A row of the table that is ours, renewed by a thread of its own."""

    def __init__(self, database: str, digest: str, lock: str, seconds: float = SECONDS) -> None:
        """Takes the lease for so many seconds; `lock` identifies the lock file that is held.

        Raises:
            Held: another process has it.
        """
        self.database, self.seconds, self.lost = database, seconds, False
        self.names: dict[str, Any] = {"digest": digest, "lock": lock, "owner": f"{socket.gethostname()}:{os.getpid()}"}
        rows = _query(database, TAKE, self._span(seconds))
        if not rows:
            owner = _query(database, ASK, self.names)
            raise Held(f"run {digest[:8]} is being trained by {owner[0][0] if owner else 'another process'}")
        self.fence = self.names["fence"] = int(rows[0][0])
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name=f"lease {digest[:8]}")
        self._thread.start()

    def _span(self, seconds: float) -> dict[str, Any]:
        return {**self.names, "span": f"{seconds} seconds"}

    def _keep(self) -> None:
        while not self.lost and not self._over.wait(self.seconds / RENEWALS):
            try:
                self.renew()
            except UserError as error:
                log.warning("the lease of run %s waits for its database: %s", self.names["digest"][:8], error)

    def renew(self) -> None:
        """Renews the lease, or finds that it is lost."""
        self.lost = self.lost or not _query(self.database, RENEW, self._span(self.seconds))

    def check(self) -> None:
        """Raises `Lost` if another process is known to have the run."""
        if self.lost:
            raise Lost(f"run {self.names['digest'][:8]} went to another process, which was not told of this one")

    def release(self) -> None:
        """Lets the lease end now; its row stays, so that fencing numbers only rise."""
        self._over.set()
        self._thread.join()
        try:
            _query(self.database, RENEW, self._span(0))
        except UserError as error:
            log.warning("the lease of run %s ends by itself: %s", self.names["digest"][:8], error)


def _query(database: str, statement: str, names: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Runs one statement on a connection of its own, which no outage can leave half dead."""
    import psycopg

    options = f"-c statement_timeout={TIMEOUT}s"
    try:
        with psycopg.connect(Address(database).whole, connect_timeout=TIMEOUT, options=options) as connection:
            cursor = connection.execute(statement, names or None)
            return list(cursor.fetchall()) if cursor.description else []
    except psycopg.Error as error:
        raise UserError(
            f"the database of the leases does not answer ({scrub(error).strip()}); start it, or set execution.leases"
        ) from error
