"""Runs that any code logged to MLflow, as a table of scores: which key says what is told, nothing is guessed.

A page of a thousand runs is one request; no run is asked for by itself.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException

from medtransfer.core import sqlite_files
from medtransfer.core.addresses import Address
from medtransfer.core.errors import UserError, quantity, some
from medtransfer.core.schema import nearest
from medtransfer.tracking import search
from medtransfer.tracking.address import uri
from medtransfer.tracking.store import brief, connect, masked

KEY = re.compile(r"(params|tags|attributes)\.(.+)")
ONE_TASK = "=scores"
"""key of a task where runs name none"""
ATTRIBUTES = ("run_id", "run_name", "user_id", "start_time", "end_time")


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Under which key runs say what they are: `params.x`, `tags.x`, `attributes.run_name`, or `=x` for all of them."""

    init: str
    seed: str
    task: str = ONE_TASK
    fold: str = ""
    metric: tuple[str, ...]
    """names of the score on test; several where some runs call it otherwise"""
    val: tuple[str, ...] = ()
    """likewise, on val"""

    def __post_init__(self) -> None:
        for name in ("init", "seed", "task", "fold"):
            key = getattr(self, name)
            if key and not key.startswith("=") and not KEY.fullmatch(key):
                raise UserError(
                    f"{name} must be params.<name>, tags.<name> or attributes.<name> of the runs, or =<value> for all "
                    f"of them; got {key!r}"
                )
        if not self.metric:
            raise UserError("metric: name the score on test as the runs logged it, such as test_auc")
        if both := [name for name in self.val if name in self.metric]:
            raise UserError(f"{both[0]} is the score on test, and val may not be the same: it would pick by test")


@dataclass(frozen=True)
class Found:
    """Runs as a table of scores, and what was not taken."""

    table: pd.DataFrame
    """columns init, task, seed, fold, score, val, run_id; a score that is undefined is NaN"""
    notes: tuple[str, ...]
    """sentences: which runs were left out, and why"""


def runs(
    experiments: Sequence[str], keys: Keys, *, root: Path = Path(), tracking_uri: str = "", filter_string: str = ""
) -> Found:
    """Reads the finished runs of experiments.

    Args:
        experiments: their names.
        keys: which key says what.
        root: the folder whose tracking store is asked where `tracking_uri` and MLFLOW_TRACKING_URI name none.
        tracking_uri: address of the server or store.
        filter_string: MLflow's search syntax, such as `params.size = 'small'`.

    Raises:
        UserError: the store does not answer, an experiment does not exist, the filter is none, or no run has what is
            asked for.
    """
    client = _client(root, tracking_uri)
    places = [_experiment(client, name) for name in experiments]
    try:
        found = _all(client, places, filter_string)
    except MlflowException as error:
        raise UserError(f"MLflow does not take the filter {filter_string!r}: {masked(error)}") from error
    whole = ", ".join(experiments)
    if not found:
        held = filter_string and client.search_runs(places, "", ViewType.ALL, 1)
        raise UserError(
            f"the filter {filter_string!r} takes none of the runs of {whole}" if held else f"{whole} holds no run"
        )
    active = [run for run in found if run.info.lifecycle_stage == "active"]
    done = [run for run in active if run.info.status == "FINISHED"]
    states = Counter(run.info.status for run in active if run.info.status != "FINISHED")
    notes = [
        f"{quantity(count, 'run', 'are')} {state}, not FINISHED, and left out"
        for state, count in sorted(states.items())
    ]
    if deleted := len(found) - len(active):
        notes.append(f"{quantity(deleted, 'run', 'are')} deleted and left out")
    rows, lacking, unpicked = [], Counter[str](), 0
    for run in done:
        row = {name: _value(run, getattr(keys, name)) for name in ("init", "task", "seed", "fold")}
        missing = [f"{name} ({getattr(keys, name)})" for name in ("init", "task", "seed") if row[name] is None]
        score, present = _metric(run, keys.metric)
        missing += [] if present else [f"metric {' or '.join(keys.metric)}"]
        if missing:
            lacking[", ".join(missing)] += 1
            continue
        val, picked = _metric(run, keys.val)
        unpicked += not picked
        rows.append({**row, "score": score, "val": val, "run_id": run.info.run_id})
    notes += [f"left out: {quantity(count, 'finished run')} without {what}" for what, count in sorted(lacking.items())]
    if not rows:
        raise UserError(
            f"of {quantity(len(found), 'run')} of {whole} none is finished and says what is asked for"
            f"{': ' + '; '.join(notes) if notes else ''}. {_offered(done)}"
        )
    if keys.val and unpicked == len(rows):
        raise UserError(f"no finished run of {whole} has the score on val {' or '.join(keys.val)}. {_offered(done)}")
    if keys.val and unpicked:
        said = quantity(unpicked, "finished run", "lack")
        notes.append(f"{said} the score on val {' or '.join(keys.val)}, so val picks no init")
    table = pd.DataFrame(rows)
    undefined = table[table["score"].isna()]
    if len(undefined):
        named = [f"{row.init} on {row.task}, seed {row.seed}" for row in undefined.itertuples()]
        notes.append(f"{quantity(len(named), 'score', 'are')} not a number, so undefined {some(named)}")
    _once(table)
    return Found(table.drop(columns="fold") if not keys.fold else table, tuple(f"{note}." for note in notes))


def with_predictions(found: Found, artifact: str, root: Path, tracking_uri: str = "") -> Found:
    """Fetches an artifact of every run, its predictions on test, into `data/foreign`; column `predictions` says where.

    Raises:
        UserError: a run has no such artifact.
    """
    client = _client(root, tracking_uri)
    paths = []
    for run_id in found.table["run_id"]:
        place = root / "data/foreign" / run_id
        kept = place / artifact
        if not kept.is_file():
            place.mkdir(parents=True, exist_ok=True)
            try:
                client.download_artifacts(run_id, artifact, str(place))
            except (MlflowException, OSError) as error:
                raise UserError(
                    f"looked for the artifact {artifact} of run {run_id}, found none: {masked(error)}"
                ) from error
        paths.append(str(kept.resolve()))
    return Found(found.table.assign(predictions=paths), found.notes)


def _client(root: Path, tracking_uri: str) -> MlflowClient:
    where = Address(tracking_uri) if tracking_uri else uri(root)
    path = sqlite_files.path_of(where)
    if path is not None and not path.is_file():  # MLflow would make an empty one
        raise UserError(
            f"looked for MLflow's runs in {where}, found no such file: set MLFLOW_TRACKING_URI to the server, or the "
            "sqlite:///<file>, that holds them"
        )
    if not tracking_uri:
        return connect(root)
    client = MlflowClient(where.whole)
    try:
        with brief():
            client.search_experiments(max_results=1)
    except Exception as error:  # of MLflow, requests, SQLAlchemy, sqlite3
        raise UserError(f"MLflow's store {where} cannot be opened: {masked(error)}") from error
    return client


def _experiment(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        there = [one.name for one in client.search_experiments(view_type=ViewType.ACTIVE_ONLY)]
        where = Address(client.tracking_uri)
        raise UserError(f"looked for MLflow's experiment {name!r} in {where}, found none{nearest(name, there)}")
    if found.lifecycle_stage != "active":
        raise UserError(f"MLflow's experiment {name!r} is deleted: restore it, or name another")
    return str(found.experiment_id)


def _all(client: MlflowClient, places: list[str], filter_string: str) -> list[Run]:
    return list(search.every(client, places, filter_string, search.OLDEST_FIRST, ViewType.ALL))


def _value(run: Run, key: str) -> str | None:
    """Reads what a run says under a key."""
    if key.startswith("=") or not key:
        return key.removeprefix("=") or None
    kind, _, name = key.partition(".")
    held: dict[str, Any] = {
        "params": run.data.params,
        "tags": run.data.tags,
        "attributes": {attribute: getattr(run.info, attribute, None) for attribute in ATTRIBUTES},
    }[kind]
    value = held.get(name)
    return None if value is None else str(value)


def _metric(run: Run, names: Sequence[str]) -> tuple[float, bool]:
    """Reads a metric, under any of its names.

    Raises:
        UserError: the run has it under two, with different values.
    """
    values = {name: run.data.metrics[name] for name in names if name in run.data.metrics}
    if len(set(values.values())) > 1:
        said = ", ".join(f"{name} {value:g}" for name, value in values.items())
        raise UserError(f"run {run.info.run_id} ({run.info.run_name}) says {said}: name the one that is meant alone")
    return next(iter(values.values()), math.nan), bool(values)


def _once(table: pd.DataFrame) -> None:
    """Refuses a run that was logged twice."""
    keys = ["init", "task", "seed", "fold"]
    twice = table[table.duplicated(keys, keep=False)]
    if len(twice):
        groups = [
            f"{group.init.iloc[0]} on {group.task.iloc[0]}, seed {group.seed.iloc[0]}: runs {', '.join(group.run_id)}"
            for _, group in twice.groupby(keys, dropna=False)
        ]
        raise UserError(
            f"{quantity(len(groups), 'run', 'were')} logged more than once: "
            f"{'; '.join(groups[:3])}{'; ...' * (len(groups) > 3)}. "
            "Delete all but one of each in MLflow, or leave them out by a filter"
        )


def _offered(done: Sequence[Run]) -> str:
    """Says what finished runs have, for who named a key wrongly."""
    params, tags, metrics = Counter[str](), Counter[str](), Counter[str]()
    for run in done:
        params.update(run.data.params.keys())
        tags.update(key for key in run.data.tags if not key.startswith("mlflow."))
        metrics.update(run.data.metrics.keys())
    shown = [
        f"{word}: {', '.join(name for name, _ in counted.most_common(12))}"
        for word, counted in (("params", params), ("tags", tags), ("metrics", metrics))
        if counted
    ]
    return f"Finished runs have {'; '.join(shown)}" if shown else "No run is finished"
