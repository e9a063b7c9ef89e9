from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from medtransfer import params as parameters
from medtransfer.core.errors import Held, UserError
from medtransfer.runs import benchmark, finetune
from medtransfer.runs.execution import leases
from medtransfer.runs.execution.leases import Lease, Lost
from medtransfer.runs.run import plan
from medtransfer.tracking import Journal, connect, find
from medtransfer.training.trainer import Progress
from tests.support import postgres, workspace
from tests.support.postgres import wait_until


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgres.server() as server:
        leases.initialise(server.address)
        leases.initialise(server.address)  # the table is there already
        yield server.address


def fence(database: str, digest: str) -> int:
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT fence FROM medtransfer_leases WHERE digest = %s", [digest]).fetchone()
    assert row is not None
    return int(row[0])


def test_one_process_of_two_gets_a_run_and_the_other_is_told_by_whom(tmp_path: Path, database: str) -> None:
    folders = [tmp_path / "here", tmp_path / "there"]  # two lock files, as on two hosts
    with leases.claim(folders[0], "shared", database) as check:
        check()
        assert leases.holders(database)["shared"].endswith(f":{os.getpid()}")
        with pytest.raises(Held, match=rf"trained by .*:{os.getpid()}"), leases.claim(folders[1], "shared", database):
            pytest.fail("claimed twice")
    assert "shared" not in leases.holders(database)
    with leases.claim(folders[1], "shared", database):
        assert fence(database, "shared") == 2


@pytest.mark.parametrize("digest", ["", "local"], ids=["without a database", "with one"])
def test_the_lock_of_this_machine_holds_with_and_without_a_database(
    tmp_path: Path, request: pytest.FixtureRequest, digest: str
) -> None:
    address = request.getfixturevalue("database") if digest else ""
    with leases.claim(tmp_path, digest, address) as check:
        check()
        with pytest.raises(Held, match="another process here"), leases.claim(tmp_path, digest, address):
            pytest.fail("claimed twice")
    with leases.claim(tmp_path, digest, address):
        pass


def test_a_dead_owners_lease_expires_and_a_renewed_one_does_not(database: str) -> None:
    living = Lease(database, "living", "lock", seconds=0.6)
    dead = Lease(database, "dead", "lock", seconds=0.6)
    dead._over.set()  # renews no more
    dead._thread.join()
    with pytest.raises(Held):
        Lease(database, "dead", "another lock")
    time.sleep(1.2)
    with pytest.raises(Held):
        Lease(database, "living", "another lock")
    heir = Lease(database, "dead", "another lock")
    assert heir.fence == dead.fence + 1
    dead.renew()  # it was only asleep
    with pytest.raises(Lost, match="went to another process"):
        dead.check()
    dead.release()
    heir.check()
    assert {"living", "dead"} <= set(leases.holders(database))
    for lease in (living, heir):
        lease.release()
    assert not {"living", "dead"} & set(leases.holders(database))


def _claim_and_stay(folder: str, database: str, ready: Any) -> None:
    with leases.claim(Path(folder), "killed", database):
        ready.set()
        time.sleep(60)


@pytest.mark.slow
def test_a_killed_owner_of_the_same_lock_file_is_known_to_be_dead_at_once(tmp_path: Path, database: str) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    owner = context.Process(target=_claim_and_stay, args=(str(tmp_path), database, ready))
    owner.start()
    assert ready.wait(300)  # a busy machine takes long to start a process
    assert owner.pid is not None
    os.kill(owner.pid, signal.SIGKILL)
    owner.join()
    assert "killed" in leases.holders(database)
    with pytest.raises(Held), leases.claim(tmp_path / "another host", "killed", database):
        pytest.fail("the lease has not expired")
    with leases.claim(tmp_path, "killed", database):
        assert fence(database, "killed") == 2


def test_an_outage_shorter_than_a_lease_costs_nothing_and_a_longer_one_only_what_others_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with postgres.server() as server:
        leases.initialise(server.address)
        lease = Lease(server.address, "a", "lock", seconds=1.0)
        server.stop()
        with pytest.raises(UserError, match="does not answer"):
            Lease(server.address, "b", "lock")
        time.sleep(1.5)  # longer than the lease
        lease.check()
        server.start()
        wait_until(lambda: "a" in leases.holders(server.address), 10)  # renewed by itself
        lease.check()
        lease.release()


def test_a_run_that_was_taken_over_writes_nothing_more_and_the_heir_ends_it(
    tmp_path: Path, top: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(leases, "RENEWALS", 2000)  # every 0.06 s
    monkeypatch.chdir(workspace.make(tmp_path, top, "shenzhen"))
    params = parameters.load(tmp_path / "params.yaml", {"execution.leases": database})
    (run,) = plan(params, tmp_path, ["random"], ["shenzhen"], [0])

    def steal(progress: Progress) -> None:
        with psycopg.connect(database) as connection:
            connection.execute("UPDATE medtransfer_leases SET fence = fence + 1 WHERE digest = %s", [run.digest])
        time.sleep(0.5)

    with pytest.raises(Lost):
        finetune.execute(run, steal)
    assert len(Journal(run.folder / "journal.jsonl").lines()) == 1
    (tracked,) = find(connect(tmp_path), "shenzhen", run.digest)
    assert tracked.info.status == "RUNNING"  # the heir's
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE medtransfer_leases SET expires = now() WHERE digest = %s", [run.digest])
    (cell,) = benchmark.run_all([run])
    assert cell["mlflow_run_id"] == tracked.info.run_id
    history = connect(tmp_path).get_metric_history(tracked.info.run_id, "val_loss")
    assert [point.step for point in history] == [0, 1, 2]


def test_the_address_is_the_parameters_or_mlflows(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = parameters.load(top / "params.yaml").execution
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+psycopg://me@db/mlflow")
    assert leases.address(settings) == "postgresql://me@db/mlflow"
    assert leases.address(dataclasses.replace(settings, leases="postgresql://me@other/x")) == "postgresql://me@other/x"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert leases.address(settings) == ""


@pytest.mark.parametrize(
    ("address", "words"),
    [("mysql://me@db/x", "begins with postgresql"), ("postgresql://me:secret@db/x", "holds no password")],
)
def test_another_database_or_a_password_in_the_parameters_is_refused(top: Path, address: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        parameters.load(top / "params.yaml", {"execution.leases": address})
    assert "secret" not in str(error.value)
