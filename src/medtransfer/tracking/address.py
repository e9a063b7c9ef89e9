"""Where MLflow is, and what can be asked of it without importing it, which takes three seconds of CPU."""

from __future__ import annotations

import os
from pathlib import Path

from medtransfer.core import extras, sqlite_files
from medtransfer.core.addresses import Address

PREFIX = "medtransfer/"
"""experiments are `medtransfer/<task>`"""


def uri(root: Path) -> Address:
    """Says where MLflow's server or database is: MLFLOW_TRACKING_URI, else `mlflow.db` in the repository.

    Raises:
        UserError: it is a database whose driver is not installed.
    """
    found = Address(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve()}/mlflow.db")
    extras.need_for(found)
    return found


def database(root: Path) -> Path | None:
    """Finds the file of MLflow's database; None where that is a server, or a database that is one."""
    return sqlite_files.path_of(uri(root))


def untouched(root: Path) -> bool:
    """Says whether MLflow's database is a file that is not there yet: nothing was run, and nothing registered."""
    path = database(root)
    return path is not None and not path.is_file()
