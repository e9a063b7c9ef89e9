"""Runs of other code in MLflow -> the table that is compared."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

import medtransfer as mt
from medtransfer.tracking import foreign, search

MEANS = {"small": 0.80, "large": 0.86}
KEYS = foreign.Keys(
    init="params.model", task="tags.dataset", seed="params.seed", metric=("test_auc",), val=("best_val_auc",)
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without runs: MLflow takes seconds to make its tables."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").create_experiment("sweep", artifact_location=str(path.parent))
    return path


@pytest.fixture
def client(template: Path, tmp_path: Path) -> MlflowClient:
    copy = tmp_path / "mlflow.db"
    copy.write_bytes(template.read_bytes())
    return MlflowClient(f"sqlite:///{copy}")


def uri(client: MlflowClient) -> str:
    return str(client.tracking_uri)


def log(client: MlflowClient, *, status: str = "FINISHED", **said: Any) -> str:
    """Logs a run as any code does."""
    place = client.get_experiment_by_name("sweep").experiment_id
    run = client.create_run(place)
    metrics = [Metric(k, float(str(v)), 0, 0) for k, v in said.items() if k.endswith(("_auc", "_score"))]
    params = [Param(k, str(said[k])) for k in ("model", "seed", "size") if k in said]
    tags = [RunTag(k, str(said[k])) for k in ("dataset",) if k in said]
    client.log_batch(run.info.run_id, metrics=metrics, params=params, tags=tags)
    client.set_terminated(run.info.run_id, status)
    return str(run.info.run_id)


def log_all(client: MlflowClient, seeds: int = 5) -> pd.DataFrame:
    dice = np.random.default_rng(2)
    rows: list[dict[str, Any]] = [
        {"model": model, "dataset": "ham", "seed": seed, "test_auc": mean + 0.01 * dice.normal(), "best_val_auc": mean}
        for model, mean in MEANS.items()
        for seed in range(seeds)
    ]
    for row in rows:
        log(client, **row)
    return pd.DataFrame(rows)


def read(client: MlflowClient, keys: foreign.Keys = KEYS, filter_string: str = "") -> foreign.Found:
    return foreign.runs(["sweep"], keys, tracking_uri=uri(client), filter_string=filter_string)


def test_runs_of_an_experiment_say_what_their_numbers_say_as_a_table(client: MlflowClient) -> None:
    table = log_all(client)
    found = read(client)
    assert found.notes == ()
    names = {"model": "init", "dataset": "task", "test_auc": "score", "best_val_auc": "val"}
    wanted = table.rename(columns=names).astype({"seed": str})
    got = found.table.drop(columns="run_id").sort_values(["init", "seed"], ignore_index=True)
    pd.testing.assert_frame_equal(got, wanted.sort_values(["init", "seed"], ignore_index=True)[got.columns])
    by_runs = mt.compare(found.table, metric="score", val="val", margin=0.01, reference="small")
    columns = {"init": "model", "task": "dataset"}
    by_table = mt.compare(table, metric="test_auc", val="best_val_auc", margin=0.01, reference="small", columns=columns)
    mine, theirs = (one.contrasts().set_index(["task", "init", "against"]) for one in (by_runs, by_table))
    pd.testing.assert_frame_equal(mine.loc[theirs.index], theirs, check_exact=True)


@pytest.mark.slow
def test_the_verb_prints_what_the_runs_say(client: MlflowClient, tmp_path: Path) -> None:
    log_all(client)
    log(client, status="RUNNING", model="small", dataset="ham", seed=9)
    command = ["compare", "--experiment", "sweep", "--init", "params.model", "--task", "tags.dataset"]
    command += ["--seed", "params.seed", "--metric", "test_auc", "--val", "best_val_auc", "--margin", "0.01"]
    said = subprocess.run(
        [sys.executable, "-m", "medtransfer", *command],
        cwd=tmp_path, capture_output=True, text=True, check=True,
        env=os.environ | {"MLFLOW_TRACKING_URI": uri(client)},
    )  # fmt: skip
    assert "1 run is RUNNING, not FINISHED, and left out." in said.stderr
    words = " ".join(said.stdout.split())
    assert "Start from large: better than small by more than 1 point." in words
    assert "ham: AUC" in words


def test_what_is_left_out_is_named(client: MlflowClient) -> None:
    log_all(client, seeds=3)
    for status in ("RUNNING", "FAILED", "KILLED"):
        log(client, status=status, model="small", dataset="ham", seed=7, test_auc=0.1)
    client.delete_run(log(client, model="small", dataset="ham", seed=8, test_auc=0.1))
    log(client, model="small", dataset="ham", test_auc=0.1)
    log(client, model="small", dataset="ham", seed=5, other_score=0.1)
    log(client, model="small", dataset="ham", seed=6, test_auc=float("nan"))
    found = read(client)
    assert set(found.notes) == {
        "1 run is FAILED, not FINISHED, and left out.",
        "1 run is KILLED, not FINISHED, and left out.",
        "1 run is RUNNING, not FINISHED, and left out.",
        "1 run is deleted and left out.",
        "left out: 1 finished run without metric test_auc.",
        "left out: 1 finished run without seed (params.seed).",
        "1 score is not a number, so undefined (small on ham, seed 6).",
        "1 finished run lacks the score on val best_val_auc, so val picks no init.",
    }
    assert len(found.table) == 7
    with pytest.warns(UserWarning, match="deleted"):
        mt.logged_runs("sweep", init="params.model", seed="params.seed", metric="test_auc", tracking_uri=uri(client))


def test_a_run_logged_twice_is_refused_with_both_ids(client: MlflowClient) -> None:
    one, two = (log(client, model="small", dataset="ham", seed=0, test_auc=0.8, best_val_auc=0.8) for _ in range(2))
    with pytest.raises(mt.UserError, match="1 run was logged more than once: small on ham, seed 0") as error:
        read(client)
    assert one in str(error.value)
    assert two in str(error.value)


def test_a_metric_under_two_names_is_one_where_they_agree(client: MlflowClient) -> None:
    log(client, model="small", dataset="ham", seed=0, test_auc=0.8)
    log(client, model="small", dataset="ham", seed=1, eval_auc=0.81)
    keys = foreign.Keys(init="params.model", seed="params.seed", metric=("test_auc", "eval_auc"))
    assert sorted(read(client, keys).table.score) == [0.8, 0.81]
    odd = log(client, model="small", dataset="ham", seed=2, test_auc=0.8, eval_auc=0.9)
    with pytest.raises(mt.UserError, match=rf"{odd}.*test_auc 0\.8, eval_auc 0\.9"):
        read(client, keys)


def test_a_filter_is_mlflows(client: MlflowClient) -> None:
    log_all(client, seeds=2)
    found = read(client, filter_string="params.model = 'small'")
    assert set(found.table.init) == {"small"}
    with pytest.raises(mt.UserError, match="does not take the filter"):
        read(client, filter_string="model is small")


def test_what_is_not_there_is_said_with_what_is(client: MlflowClient) -> None:
    log_all(client, seeds=2)
    with pytest.raises(mt.UserError, match=r"'sweeep' in sqlite:///.*, found none; the nearest valid name is sweep"):
        foreign.runs(["sweeep"], KEYS, tracking_uri=uri(client))
    keys = foreign.Keys(init="params.backbone", seed="params.seed", metric=("test_auc",))
    with pytest.raises(
        mt.UserError,
        match=r"left out: 4 finished runs without init \(params\.backbone\).*params: model, seed; tags: dataset",
    ):
        read(client, keys)
    with pytest.raises(mt.UserError, match=r"params\.<name>"):
        foreign.Keys(init="backbone", seed="params.seed", metric=("test_auc",))
    with pytest.raises(mt.UserError, match="test_auc is the score on test, and val may not be the same"):
        foreign.Keys(init="params.model", seed="params.seed", metric=("test_auc",), val=("test_auc",))
    with pytest.raises(mt.UserError, match="cannot be opened"):
        foreign.runs(["sweep"], KEYS, tracking_uri="http://127.0.0.1:9")
    place = client.get_experiment_by_name("sweep").experiment_id
    client.delete_experiment(place)
    with pytest.raises(mt.UserError, match="is deleted"):
        read(client)


def test_what_nothing_was_found_by_is_named(client: MlflowClient, tmp_path: Path) -> None:
    with pytest.raises(mt.UserError, match="sweep holds no run"):
        read(client, filter_string="params.size = 'small'")
    log_all(client, seeds=2)
    with pytest.raises(mt.UserError, match=r"the filter .* takes none of the runs of sweep"):
        read(client, filter_string="params.size = 'small'")
    keys = foreign.Keys(init="params.model", seed="params.seed", metric=("test_auc",), val=("best_vla_auc",))
    with pytest.raises(mt.UserError, match=r"has the score on val best_vla_auc.*metrics: .*best_val_auc"):
        read(client, keys)
    log(client, model="small", dataset="ham", seed=2, test_auc=0.8)
    assert read(client).notes == ("1 finished run lacks the score on val best_val_auc, so val picks no init.",)
    with pytest.raises(mt.UserError, match=r"runs in sqlite:///.*/no\.db, found no such file"):
        foreign.runs(["sweep"], KEYS, tracking_uri=f"sqlite:///{tmp_path}/no.db")
    assert not (tmp_path / "no.db").exists()


def test_predictions_come_as_artifacts_once(client: MlflowClient, tmp_path: Path) -> None:
    ids = [log(client, model="small", dataset="ham", seed=seed, test_auc=0.8, best_val_auc=0.8) for seed in range(2)]
    for number, run_id in enumerate(ids):
        (tmp_path / "predictions.csv").write_text(f"id,target,probability\na,1,0.{number}\n")
        client.log_artifact(run_id, str(tmp_path / "predictions.csv"))
    found = foreign.with_predictions(read(client), "predictions.csv", tmp_path / "here", uri(client))
    held = {row.run_id: pd.read_csv(str(row.predictions)).probability.tolist() for row in found.table.itertuples()}
    assert held == {ids[0]: [0.0], ids[1]: [0.1]}
    client.delete_run(ids[0])  # what was fetched is not asked for again
    assert foreign.with_predictions(found, "predictions.csv", tmp_path / "here", uri(client)).table.equals(found.table)
    with pytest.raises(mt.UserError, match=rf"artifact other\.csv of run {ids[0]}|artifact other\.csv of run {ids[1]}"):
        foreign.with_predictions(found, "other.csv", tmp_path / "here", uri(client))


def test_many_runs_are_few_requests(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    log_all(client, seeds=3)
    asked: list[str] = []
    whole = mlflow.MlflowClient.search_runs

    def counted(self: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        asked.append("search")
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(search, "PAGE", 4)
    monkeypatch.setattr(mlflow.MlflowClient, "search_runs", counted)
    monkeypatch.setattr(mlflow.MlflowClient, "get_run", lambda *_: pytest.fail("a run was asked for by itself"))
    assert len(read(client).table) == 6
    assert len(asked) == 2
