"""Opens a run in MLflow, ends it however its work ends, and writes down what it is called and found by."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from medtransfer.core import files
from medtransfer.tracking import store
from medtransfer.tracking.outbox import Identity, Outbox
from medtransfer.tracking.run import TrackedRun
from medtransfer.tracking.store import masked


@contextlib.contextmanager
def recorded(
    root: Path,
    identity: Identity,
    check: Callable[[], None] = lambda: None,
    *,
    later: bool = False,
    watch: bool = False,
) -> Iterator[TrackedRun]:
    """Opens the run of a digest and ends it however the block ends; whoever calls holds the lock of its folder.

    What a kill cuts off is on disk, and ended by the same command or by any later one (`sync`).

    Args:
        root: as in `open_run`.
        identity: as in `open_run`.
        check: as in `open_run`.
        later: as in `open_run`.
        watch: as in `open_run`.

    Raises:
        Away: MLflow does not answer, and `later` is false.
        UserError: MLflow refuses what a finished run has to say.
    """
    tracked = open_run(root, identity, check, later=later, watch=watch)
    try:
        yield tracked
        tracked.end("FINISHED")
    except BaseException as error:
        tracked.fail(error)
        raise


def open_run(
    root: Path,
    identity: Identity,
    check: Callable[[], None] = lambda: None,
    *,
    later: bool = False,
    watch: bool = False,
) -> TrackedRun:
    """Opens the run of a digest: the unfinished one if there is one, else a new one.

    Args:
        root: the repository's top folder.
        identity: what the run is called and found by.
        check: raises where the run is another's by now; called before anything is written.
        later: whether the run may go on where MLflow does not answer; it is opened once it does.
        watch: whether the machine is watched while the run lasts.

    Raises:
        Away: MLflow does not answer, and `later` is false.
    """
    tracked = TrackedRun(root, outbox_of(root, identity), check, watch=watch)
    error = store.patiently(tracked.open, 0)
    if error and not later:
        raise (
            error if isinstance(error, store.Away) else store.Away(f"MLflow did not open a run: {masked(error)}")
        ) from error
    tracked.outbox.save(root)
    if error:
        tracked.open_later(error)
    return tracked


def who() -> str:
    """Names the person: USER, or else the operating system's name, or else its number."""
    try:
        return os.environ.get("USER") or getpass.getuser()
    except (OSError, KeyError, ImportError):  # a number without a name, as in many containers
        return f"uid {os.getuid()}"


def outbox_of(root: Path, identity: Identity) -> Outbox:
    """Writes down what a run is called and found by, and who has it."""
    verb = identity.verb or identity.tags.get("verb", "")
    origin = {
        "mlflow.user": who(),
        "mlflow.source.name": f"medtransfer {verb}".strip(),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": files.git_commit(root),
    }
    own = {
        "digest": identity.digest,
        "host": socket.gethostname(),
        "lock": str(identity.folder / "lock"),
    }
    parent = {"mlflow.parentRunId": identity.parent} if identity.parent else {}
    return Outbox(
        name=identity.name,
        task=identity.task,
        digest=identity.digest,
        tags={**origin, **identity.tags, **own, **parent},
        params={key: str(value) for key, value in identity.params.items()},
        folder=os.path.relpath(identity.folder, root),
        start=identity.start or int(time.time() * 1000),
        again=identity.again,
    )
