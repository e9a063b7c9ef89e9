from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import sys
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


@pytest.fixture(autouse=True, scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Lets MLflow make its tables once, which takes it two seconds; other new databases of this process are copies."""
    store = sys.modules.get("medtransfer.tracking.store")
    if store is None:  # no test here needs it
        yield
        return
    kept, make = tmp_path_factory.mktemp("filled") / "mlflow.db", store._make

    def copy(path: Path) -> None:
        if not kept.exists():
            make(kept)
        shutil.copyfile(kept, path)
        artifacts = os.environ.get(store.ARTIFACT_ROOT) or Path.cwd() / "mlruns"
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            database.execute("UPDATE experiments SET artifact_location = ?", (f"{artifacts}/0",))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_make", copy)
        yield
