"""Scripts of other code log to a real MLflow server; what `compare` says of them is what their numbers say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pytest

import medtransfer as mt
from tests.support.servers import running

SWEEPS = {
    "sklearn": ({"init": "params.model", "seed": "params.seed", "task": "=cancer"}, "test_auc", "val_auc"),
    "timm": ({"init": "params.arch", "seed": "params.seed", "task": "tags.dataset"}, "test_acc", ""),
}


@pytest.mark.slow
def test_sixty_runs_of_two_scripts_are_compared_as_their_numbers_are(
    top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running() as services:
        for name, value in services.environment.items():
            monkeypatch.setenv(name, value)
        for name, (keys, metric, val) in SWEEPS.items():
            script = top / f"examples/{name}_sweep.py"
            assert "medtransfer" not in re.sub(r'""".*?"""', "", script.read_text(), flags=re.DOTALL)
            subprocess.run([sys.executable, script], check=True, cwd=tmp_path, env=os.environ.copy())
            logged = mlflow.search_runs(experiment_names=[f"{name}-sweep"], order_by=["attributes.start_time ASC"])
            assert len(logged) == 30
            columns = {"init": keys["init"], "seed": keys["seed"]}
            numbers = pd.DataFrame(
                {
                    "init": logged[columns["init"]],
                    "seed": logged[columns["seed"]],
                    "task": logged[keys["task"]] if keys["task"] in logged else keys["task"][1:],
                    metric: logged[f"metrics.{metric}"],
                    **({val: logged[f"metrics.{val}"]} if val else {}),
                }
            )
            numbers.to_csv(tmp_path / f"{name}.csv", index=False)
            table = mt.logged_runs(f"{name}-sweep", **keys, metric=metric, val=val)
            by_runs = mt.compare(table, metric="score", val="val" if val else "", margin=0.01)
            by_table = mt.compare(f"{name}.csv", root=tmp_path, metric=metric, val=val, margin=0.01)
            pd.testing.assert_frame_equal(by_runs.contrasts(), by_table.contrasts(), check_exact=True)
            pd.testing.assert_frame_equal(by_runs.table(), by_table.table(), check_exact=True)
            command = [
                sys.executable,
                "-m",
                "medtransfer",
                "compare",
                "--experiment",
                f"{name}-sweep",
                "--margin",
                "0.01",
            ]
            command += [part for key, value in keys.items() for part in (f"--{key}", value)]
            command += ["--metric", metric, *(["--val", val] if val else []), "--out", f"{name}-compared"]
            said = subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, text=True)
            for text in by_table.answers.values():
                assert " ".join(text.split()) in " ".join(said.stdout.split())
            drawn = pd.read_csv(tmp_path / f"{name}-compared/contrasts.csv")
            assert drawn["estimate"].tolist() == by_table.contrasts()["estimate"].tolist()
            assert (tmp_path / f"{name}-compared/scores.svg").is_file()
