"""What identifies a person or a machine, and is left out of a pack: paths, hosts, users, addresses, ids of servers."""

from __future__ import annotations

import dataclasses
import functools
import getpass
import re
import socket
from collections.abc import Mapping
from typing import Any

from medtransfer.core.addresses import HIDDEN, scrub
from medtransfer.results.study import Ledger

LEAST = 3
"""letters of a host's or user's name that is looked for: shorter ones are found everywhere"""
_PATH = re.compile(r"(?<![\w.:/~])(?:~|[A-Za-z]:)?[/\\]{1,2}(?:[^\s'\",;:()/\\]+[/\\])+(?=[^\s'\",;:()/\\])")
"""the folders of an absolute path, up to its last part"""
_FILE = re.compile(r"file:(?:.*[/\\])?(?=[^/\\]+$)")
"""what stands before the last part of a file's name or address"""
_INSIDE = re.compile(r"file:[^\s'\",;]*[/\\](?=[^\s'\",;/\\])")
"""the same, inside of a longer name"""


def name_of(init: str) -> str:
    """Gives an initialization's name as others may read it: of a file its last part alone."""
    head, at, rest = init.rpartition("@")
    return _FILE.sub("file:", head or init) + (at + rest if head else "")


def clean(value: Any) -> Any:
    """Takes out of plain data what identifies a person or a machine; keys stay, but for names of files."""
    if isinstance(value, Mapping):
        return {name_of(str(key)): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return _text(value) if isinstance(value, str) else value


def ledger(found: Ledger) -> Ledger:
    """Leaves out of a study what its machine said."""
    trials = tuple(dataclasses.replace(trial, why="") for trial in found.trials)
    return dataclasses.replace(
        found, init=name_of(found.init), study=_text(found.study), mlflow_run_id="", trials=trials,
        identity=clean(found.identity),
    )  # fmt: skip


def params(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out of a parameter file where runs were executed, and the folders and addresses of own files."""
    found: dict[str, Any] = clean(tree)
    found["execution"] = {"threads_per_run": tree["execution"]["threads_per_run"]}
    for entry in found["inits"].values():
        entry["file"] = entry["file"] if entry["file"].startswith("hf:") else re.split(r"[/\\]", entry["file"])[-1]
        entry["images"] = re.split(r"[/\\]", entry.get("images", ""))[-1]
    return found


def _text(text: str) -> str:
    if text.startswith("file:"):
        return name_of(text)
    found = _PATH.sub("", _INSIDE.sub("file:", scrub(text)))
    for word in _names():
        if found != word:  # a whole value is a name of ours, such as a task's
            found = re.sub(rf"(?<![\w-]){re.escape(word)}(?![\w-])", HIDDEN, found)
    return found


@functools.cache
def _names() -> tuple[str, ...]:
    """Lists the names of this machine and of its user."""
    host = socket.gethostname()
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's number without a name
        user = ""
    found = dict.fromkeys([socket.getfqdn(), host, host.partition(".")[0], user])
    return tuple(name for name in found if len(name) >= LEAST and name not in ("root", "localhost"))
