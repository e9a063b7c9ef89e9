"""MLflow's pages of a study whose runs are in a database, served on this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from medtransfer.core.errors import UserError
from medtransfer.tracking.address import uri
from medtransfer.tracking.pages import LOCAL


def serve(root: Path) -> NoReturn:
    """Becomes MLflow's server of this study's runs, on loopback, until it is stopped.

    Raises:
        UserError: a server has them already.
    """
    where, local = uri(root), urlsplit(LOCAL)
    if where.startswith("http"):
        raise UserError(f"{where} serves this study's runs already: MLFLOW_TRACKING_URI says so")
    # The address is in no word of the command, which every user of the machine can read: it may hold a password.
    own = {"MLFLOW_BACKEND_STORE_URI": where.whole, "MLFLOW_DISABLE_TELEMETRY": "true"}
    words = ["-m", "mlflow", "ui", "--host", str(local.hostname), "--port", str(local.port)]
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *words], {**os.environ, **own})
