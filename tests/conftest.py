from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.setdefault("OMP_NUM_THREADS", "1")

TOP = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def top() -> Path:
    """The repository."""
    return TOP


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """A fresh database of a PostgreSQL server of the tests' own, as SQLAlchemy and libpq read its address."""
    from tests.support import postgres

    with postgres.server() as server:
        with psycopg.connect(server.address, autocommit=True) as connection:
            connection.execute("CREATE DATABASE fresh")
        yield server.address.replace("/postgres?", "/fresh?")


@pytest.fixture(autouse=True, scope="session")
def declared() -> Iterator[None]:
    """Lets tests declare a task's metric and margin, and contamination, in the files of its runs."""
    from tests.support import results

    with pytest.MonkeyPatch.context() as patch:
        results.declare(patch)
        yield
