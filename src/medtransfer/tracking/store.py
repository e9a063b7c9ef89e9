"""The tracking store: where it is, whether it answers, what it holds of a run."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shlex
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import requests
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import _get_latest_schema_revision  # nothing public says it
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking._tracking_service.utils import _SERVER_ARTIFACT_ROOT_ENV_VAR as ARTIFACT_ROOT  # nor this

from medtransfer.core import files, sqlite_files
from medtransfer.core.addresses import Address, scrub
from medtransfer.core.errors import UserError
from medtransfer.tracking import relocation
from medtransfer.tracking.address import PREFIX, database, uri

CHUNK = 100
"""MLflow's limit of params and tags in one request"""
BRIEF = 10
"""seconds in which MLflow must answer; once, while MLflow's own client would try for four minutes"""
PATIENCE = 60.0
"""seconds for which the end of a run waits for MLflow: enough for a restart, and short against an outage, in which the
next run is better begun"""
LONGEST_PAUSE = 8.0
"""seconds between two tries of a patient wait"""
LONG = 300
"""characters of an error that a message repeats"""
DRIVERS = {"boto3", "botocore", "psycopg", "sqlalchemy", "urllib3"}
"""libraries whose errors mean that a database or object store behind MLflow is away"""


DAMAGED = (
    "get it back from a backup, or rename it and start the same command again: what is whole under data/runs is "
    "sent to a new one, without training; only registered models and their aliases are lost with it"
)
"""what to do with a database that cannot be read"""


class Away(UserError):
    """MLflow, its database or its object store does not answer."""


def temporary(error: Exception) -> bool:
    """Says whether a later try may help.

    Of a server's refusals some do: one whose database of users is away takes nobody for known (401, MLflow 3.17).
    """
    if isinstance(error, MlflowException):
        return _may_pass(error.get_http_status_code())
    if isinstance(error, requests.RequestException):
        return error.response is None or _may_pass(error.response.status_code)
    if isinstance(error, Away | ConnectionError | TimeoutError):
        return True
    return type(error).__module__.partition(".")[0] in DRIVERS


def _may_pass(status: int) -> bool:
    return status >= 500 or status in (401, 403, 408, 429)


@contextlib.contextmanager
def brief(seconds: int = BRIEF) -> Iterator[None]:
    """Lets MLflow's client try once in the block, for so many seconds, and not again and again."""
    own = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds),
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def patiently(action: Callable[[], object], seconds: float) -> Exception | None:
    """Tries until MLflow answers or the time is over; returns None, or what stood in the way at last."""
    end, pause = time.monotonic() + seconds, 0.5
    while True:
        try:
            with brief():
                action()
            return None
        except Exception as error:
            if not temporary(error):
                raise
            if time.monotonic() + pause > end:
                return error
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _own_artifacts(path: Path, root: Path) -> None:
    """Lets experiments of a database in this folder keep their artifacts there, wherever the command was started.

    MLflow would take its `./mlruns`; it has no public setting for the artifacts of a store without a server.
    """
    if path.resolve().is_relative_to(root.resolve()):
        os.environ[ARTIFACT_ROOT] = str(root.resolve() / relocation.ARTIFACTS)
    else:
        os.environ.pop(ARTIFACT_ROOT, None)


def connect(root: Path) -> MlflowClient:
    """Opens the tracking store, initialising a new database under a lock: two first touches would corrupt it.

    Raises:
        Away: the store does not answer.
        UserError: it cannot be opened for another reason.
    """
    where, path = uri(root), database(root)
    served = where.startswith("http")  # a server has initialised its database itself
    try:
        with contextlib.nullcontext() if served else files.lock(root / "data/runs/.database.lock"), brief():
            if path is not None:
                _own_artifacts(path, root)
                sqlite_files.ready(path, _make, _made, "runs", DAMAGED)
                relocation.settle(path, root)
            client = MlflowClient(where.whole)
            client.search_experiments(max_results=1)
    except UserError:
        raise
    except Exception as error:
        if path is not None and path.is_file() and (damage := sqlite_files.intact(path)):
            raise UserError(f"MLflow's database {path} is damaged ({damage}); {DAMAGED}") from error
        kind = Away if temporary(error) else UserError
        if kind is UserError and not isinstance(error, MlflowException | OSError):
            raise
        raise kind(
            f"MLflow's store {where} cannot be opened: {masked(error)}. Set MLFLOW_TRACKING_URI or start it"
        ) from error
    return client


def _make(path: Path) -> None:
    """Lets MLflow fill a new file with its tables, which takes it many steps."""
    address = f"sqlite:///{path}"
    MlflowClient(address).search_experiments(max_results=1)
    engine = SqlAlchemyStore._engine_map.pop(address, None)
    if engine is not None:
        engine.dispose()


def _made(database: sqlite3.Connection) -> bool:
    """Says whether MLflow went through all of its steps: it notes each in one row."""
    return database.execute("SELECT version_num FROM alembic_version").fetchall() == [(_get_latest_schema_revision(),)]


def masked(text: object) -> str:
    """Words an error on one line, without what is secret in addresses."""
    words = scrub(" ".join(str(text).split()))
    return words if len(words) <= LONG else f"{words[:LONG]}..."


def place_of(client: MlflowClient, name: str) -> Experiment | None:
    """Finds an experiment by its name.

    Raises:
        UserError: it was deleted, and waits in MLflow's bin.
    """
    found: Experiment | None = client.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage != "active":
        where, number = Address(client.tracking_uri), found.experiment_id
        raise UserError(
            f"MLflow's experiment {name} (number {number}) was deleted, and its runs with it: they can be neither read "
            f"nor added to. Restore it: MLFLOW_TRACKING_URI={shlex.quote(where)} mlflow experiments restore "
            f"--experiment-id {number}"
        )
    return found


NOTE = "mlflow.note.content"
"""tag that MLflow shows as a description"""
DESCRIPTIONS = {
    "comparison": "Comparisons of the benchmark's finished runs, each with its whole report as artifacts.",
    "promotion": "Decisions of `promote` and `demote`: which model an alias points to, and why.",
    "pretraining": "Initializations pre-trained further on a dataset.",
    "tuning": "Studies of hyperparameters, one for each initialization and task; the trials are their children.",
}
"""experiment without its prefix -> what its runs are; any other is a task"""


VIEW = "medtransfer"
"""key of the table of a task's runs that its address asks for"""
TABLE = {
    "selectedColumns": ["attributes.`Duration`", "metrics.`score`", "params.`from`", "params.`seed`"],
    "orderByKey": "metrics.`score`", "orderByAsc": False, "searchFilter": "", "startTime": "ALL",
    "lifecycleFilter": "Active", "datasetsFilter": [], "modelVersionFilter": "All Runs",
}  # fmt: skip
"""what MLflow's page keeps of a shared view: score, init and seed as columns, the best on top"""


def _shown(name: str) -> dict[str, str]:
    """Gives the tags by which MLflow's page describes an experiment and lays out the runs of a task."""
    view = {} if name.removeprefix(PREFIX) in DESCRIPTIONS else {f"mlflow.sharedViewState.{VIEW}": json.dumps(TABLE)}
    return {NOTE: describe(name), **view}


def describe(name: str) -> str:
    """Says what the runs of an experiment are."""
    task = name.removeprefix(PREFIX)
    return DESCRIPTIONS.get(
        task,
        f"Fine-tuning on the task {task}: a run for each initialization (param `from`) and seed. `score` is the "
        "primary metric on test, `test_*` are all of them, `val_*` run over the epochs.",
    )


def experiment(client: MlflowClient, name: str) -> str:
    """Finds or makes an experiment; another worker may make it at the same moment.

    Raises:
        UserError: it was deleted.
    """
    for _ in range(2):
        found = place_of(client, name)
        if found is not None:
            for tag, value in _shown(name).items():
                if tag not in found.tags:  # made by an earlier version
                    client.set_experiment_tag(found.experiment_id, tag, value)
            return str(found.experiment_id)
        try:
            tags = {"mlflow.experimentKind": "custom_model_development"}
            return str(client.create_experiment(name, tags=tags | _shown(name)))
        except MlflowException:
            continue
    raise UserError(f"MLflow's experiment {name} can be neither found nor made; look in `mlflow ui`")


def find(client: MlflowClient, task: str, digest: str) -> list[Run]:
    """Finds the runs of a digest, newest first."""
    found = place_of(client, PREFIX + task)
    if found is None:
        return []
    return list(client.search_runs([found.experiment_id], f"tags.digest = '{digest}'"))


def finished(client: MlflowClient, task: str, digest: str) -> Run | None:
    """Returns the finished run of a digest.

    Raises:
        Away: MLflow does not answer.
    """
    try:
        with brief():
            runs = find(client, task, digest)
    except Exception as error:
        if not temporary(error):
            raise
        raise Away(f"MLflow does not answer: {masked(error)}") from error
    return next((run for run in runs if run.info.status == "FINISHED"), None)


def download(client: MlflowClient, run: Run, names: list[str], folder: Path) -> None:
    """Brings a finished run's artifacts back to its folder.

    Raises:
        Away: MLflow, or what keeps its artifacts, does not answer.
    """
    run_id = run.info.run_id
    for name in names:
        try:
            error = patiently(functools.partial(client.download_artifacts, run_id, name, str(folder)), PATIENCE)
        except (MlflowException, OSError) as absent:
            where = shlex.quote(Address(client.tracking_uri))
            raise UserError(
                f"MLflow has run {run_id} ({run.info.run_name}) as finished, but its results are gone: looked for "
                f"{name} in {folder} and in {scrub(run.info.artifact_uri)}, found it in neither ({masked(absent)}). "
                "Put one of the two folders back (a disk that is not mounted, a backup), or let it be trained anew: "
                f"MLFLOW_TRACKING_URI={where} mlflow runs delete --run-id {run_id}, then start the same command again"
            ) from absent
        if error:
            raise Away(f"MLflow does not give back {name} of run {run_id}: {masked(error)}") from error


def reap(client: MlflowClient) -> int:
    """Ends, as KILLED, every RUNNING run of this host whose process is gone; returns how many.

    A living owner holds the run's lock, which the kernel frees when the process dies.
    """
    experiments = [
        e.experiment_id for e in client.search_experiments() if e.name.startswith(PREFIX) or e.experiment_id == "0"
    ]
    gone = 0
    here = f"attributes.status = 'RUNNING' and tags.host = '{socket.gethostname()}'"
    for run in client.search_runs(experiments, here) if experiments else []:
        path = Path(run.data.tags.get("lock", ""))
        held = files.lock(path, wait=False) if path.parent.is_dir() else contextlib.nullcontext(True)
        with held as free:
            if free:
                client.set_terminated(run.info.run_id, "KILLED")
                gone += 1
    return gone
