"""Which inits a race stopped early on a task, beside the task's finished runs: they have no final score."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medtransfer.core import files, schema

FILE = "stopped.json"


@dataclass(frozen=True)
class Stopped:
    """What a race left behind."""

    inits: dict[str, str]
    """init -> why"""


def write(stopped: Mapping[str, str], folder: Path) -> None:
    """Writes init -> why it was stopped beside a task's runs; nothing where none was."""
    if stopped:
        files.write_text(folder / FILE, json.dumps({"inits": dict(stopped)}, indent=1) + "\n")


def read(results: Path, task: str) -> dict[str, str]:
    """Reads which inits were stopped on a task, and why; none where no race was run.

    Raises:
        UserError: the file is damaged.
    """
    path = results / task / FILE
    if not path.is_file():
        return {}
    return schema.read_json(path, Stopped, "list of stopped inits", "run `benchmark`").inits
