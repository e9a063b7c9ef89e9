from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.setdefault("OMP_NUM_THREADS", "1")

TOP = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def top() -> Path:
    """The repository."""
    return TOP
