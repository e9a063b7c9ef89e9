"""MLflow: open, record, finish, find. With `registry` the only importer of mlflow.

`store` asks the tracking server, `outbox` keeps on disk what it must hear, `opening` opens a run, `run` sends it,
`sync` what dead processes left. A server that is away stops no training: what it misses waits on disk and is sent once
it answers.
Names are fetched when they are first used: importing mlflow takes three seconds of CPU.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medtransfer.tracking.address import PREFIX, uri
    from medtransfer.tracking.opening import open_run, recorded
    from medtransfer.tracking.outbox import Identity, Journal, unsent, waiting
    from medtransfer.tracking.run import TrackedRun
    from medtransfer.tracking.store import CHUNK, Away, connect, download, experiment, find, finished, reap

_HOMES = {
    "address": ("PREFIX", "uri"),
    "outbox": ("Identity", "Journal", "unsent", "waiting"),
    "opening": ("open_run", "recorded"),
    "run": ("TrackedRun",),
    "store": ("CHUNK", "Away", "connect", "download", "experiment", "find", "finished", "reap"),
}

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


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"medtransfer.tracking.{home}"), name)
    raise AttributeError(name)
