"""MLflow: open, record, finish, find. With `registry` the only importer of mlflow.

`store` asks the tracking server, `outbox` keeps on disk what it must hear, `run` sends one run, `sync` what dead
processes left. A server that is away stops no training: what it misses waits on disk and is sent once it answers.
"""

from __future__ import annotations

from medtransfer.tracking.outbox import Identity, Journal, unsent, waiting
from medtransfer.tracking.run import TrackedRun, open_run, recorded
from medtransfer.tracking.store import (
    CHUNK,
    PREFIX,
    Away,
    connect,
    download,
    experiment,
    find,
    finished,
    reap,
    uri,
)

__all__ = [
    "CHUNK",
    "PREFIX",
    "Away",
    "Identity",
    "Journal",
    "TrackedRun",
    "connect",
    "download",
    "experiment",
    "find",
    "finished",
    "open_run",
    "reap",
    "recorded",
    "unsent",
    "uri",
    "waiting",
]
