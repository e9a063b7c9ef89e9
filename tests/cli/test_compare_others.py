"""Runs of several sources in one table, as `comparison.sources` names them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

import medtransfer as mt
from medtransfer import params
from medtransfer.cli import compare_others, main
from medtransfer.params import Source

SEEDS = range(4)


def scores(means: dict[str, float]) -> pd.DataFrame:
    dice = np.random.default_rng(len("".join(means)))  # else two inits would differ alike on every seed
    rows = [(init, seed, mean + 0.005 * dice.normal()) for init, mean in means.items() for seed in SEEDS]
    return pd.DataFrame(rows, columns=["init", "seed", "auc"]).assign(task="ham")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A lab's experiment, in percent."""
    folder = tmp_path_factory.mktemp("lab")
    uri = f"sqlite:///{folder}/theirs.db"
    client = MlflowClient(uri)
    place = client.create_experiment("lab", artifact_location=str(folder))
    table = scores({"dino": 0.90})
    for seed, auc in zip(table["seed"], table["auc"], strict=True):
        run = client.create_run(place).info.run_id
        said = [Param("model", "dino"), Param("seed", str(seed))]
        client.log_batch(run, metrics=[Metric("acc", 100 * float(auc), 0, 0)], params=said)
        client.set_terminated(run)
    return uri


def theirs(store: str) -> Source:
    return Source(
        experiments=("lab",), tracking_uri=store, init="params.model", seed="params.seed", task="=ham",
        metric=("acc", "auc"), percent=True, margin=1.0,
    )  # fmt: skip


def test_an_experiment_and_a_table_stand_in_one_table(store: str, tmp_path: Path) -> None:
    ours = scores({"random": 0.80, "imagenet": 0.86})
    ours.rename(columns={"auc": "acc"}).to_csv(tmp_path / "ours.csv", index=False)
    sources = [Source(csv="ours.csv", metric=("acc",), margin=0.01), theirs(store)]
    found = compare_others.find(sources, tmp_path, "", 0.05)
    whole = mt.compare(pd.concat([ours, scores({"dino": 0.90})]), metric="auc", margin=0.01).findings
    assert found.columns["ham"].inits == ("random", "imagenet", "dino")
    assert np.allclose(found.columns["ham"].pairs.estimate, whole.columns["ham"].pairs.estimate, atol=1e-15)
    assert np.allclose(found.columns["ham"].pairs.seed_error, whole.columns["ham"].pairs.seed_error, atol=1e-15)
    assert found.answers[0].text.startswith("Start from dino")


def test_sources_of_the_parameter_file_are_compared_where_no_run_of_ours_is(
    store: str, tmp_path: Path, top: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores({"random": 0.80, "imagenet": 0.86}).rename(columns={"auc": "acc"}).to_csv(tmp_path / "ours.csv", index=False)
    text = f"""  sources:
    - {{csv: ours.csv, metric: [acc], margin: 0.01}}
    - {{experiments: [lab], tracking_uri: "{store}", init: params.model, seed: params.seed, task: =ham, metric: [acc],
       percent: true, margin: 1}}
"""
    plain = (top / "params.yaml").read_text()
    assert plain.count("  sources: []\n") == 1
    (tmp_path / "params.yaml").write_text(plain.replace("  sources: []\n", text))
    main.run(("compare",), tmp_path)
    assert "Start from dino: better than random and imagenet by more than 1 point" in " ".join(
        capsys.readouterr().out.split()
    )
    kept = pd.read_csv(tmp_path / "data/results/sources/scores.csv")
    assert dict(zip(kept["init"], kept["n"], strict=True)) == {"random": 4, "imagenet": 4, "dino": 4}
    shutil.rmtree(tmp_path / "data")


def test_sources_that_contradict_are_refused(store: str, tmp_path: Path) -> None:
    table = scores({"random": 0.80, "dino": 0.9}).rename(columns={"auc": "acc"})
    table.to_csv(tmp_path / "ours.csv", index=False)
    mine = Source(csv="ours.csv", metric=("acc",), margin=0.02)
    with pytest.raises(mt.UserError, match=r"task ham has two margins, 0\.02 and 0\.01"):
        compare_others.find([mine, theirs(store)], tmp_path, "", 0.05)
    with pytest.raises(mt.UserError, match=r"4 runs stand in the table more than once \(dino on ham, seed 0"):
        compare_others.find(
            [params.Source(csv="ours.csv", metric=("acc",), margin=0.01), theirs(store)], tmp_path, "", 0.05
        )
    table.rename(columns={"acc": "f1"}).to_csv(tmp_path / "ours.csv", index=False)
    with pytest.raises(mt.UserError, match="task ham has the scores f1 and acc: a task has one score on test"):
        compare_others.find([Source(csv="ours.csv", margin=0.01), theirs(store)], tmp_path, "", 0.05)
    means = pd.DataFrame({"init": ["a", "b"], "task": "ham", "mean": [0.8, 0.9], "std": [0.1, 0.1], "n": 3})
    means.to_csv(tmp_path / "paper.csv", index=False)
    with pytest.raises(mt.UserError, match=r"^paper\.csv: .* lacks the column model"):
        compare_others.find([theirs(store), Source(csv="paper.csv", init="model")], tmp_path, "", 0.05)
    with pytest.raises(mt.UserError, match="holds runs and printed means"):
        compare_others.find([Source(csv="paper.csv", margin=0.01), theirs(store)], tmp_path, "", 0.05)


def test_a_source_is_one_thing_and_holds_no_secret() -> None:
    for wrong in ({}, {"csv": "a.csv", "experiments": ("lab",)}):
        with pytest.raises(mt.UserError, match="a source is experiments of MLflow or a csv"):
            Source(**wrong)  # type: ignore[arg-type]  # both of them, or neither
    with pytest.raises(mt.UserError, match="tracking_uri holds a password") as refusal:
        Source(experiments=("lab",), tracking_uri="https://me:planted@host.org")
    assert "planted" not in str(refusal.value)
