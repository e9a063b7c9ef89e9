from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from medtransfer import params as parameters
from medtransfer.cli.main import run as command
from medtransfer.comparison.findings import of_benchmark
from medtransfer.report.sections.scores import score_grid, score_notes
from medtransfer.results.result import read_result
from medtransfer.runs import finished
from medtransfer.runs.recommend import jobs
from medtransfer.runs.run import plan
from tests.support import workspace

INITS = ["random", "random@test_nfnet", "random@test_efficientnet"]


@pytest.fixture
def root(tmp_path: Path, top: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.chdir(tmp_path)
    made = workspace.make(tmp_path, top, "shenzhen")
    tree = yaml.safe_load((made / "params.yaml").read_text())
    tree["classification"]["max_epochs"] = 2
    tree["comparison"] |= {"reference": "random", "against": [], "resamples": 0}
    tree["claims"] = {}
    tree["benchmark"] |= {"inits": INITS, "tasks": ["shenzhen"], "seeds": [0, 1, 2]}
    tree["recommend"] |= {"rungs": [0.5, 1.0], "drift": 0.0}
    (made / "params.yaml").write_text(yaml.safe_dump(tree))
    return made


@pytest.mark.slow
def test_who_is_behind_stops_early_is_named_and_never_averaged(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = jobs.train

    def scored(job: Any, report: Any) -> Any:
        """Takes the networks as they are, and says of one that it is far behind."""
        found = real(job, report)
        job.values.unlink()
        behind = job.init == "random@test_nfnet"
        score = (0.1 if behind else 0.8) + (job.run.seed * len(job.init) % 7) / 1000
        return type(found)(**{**found.__dict__, "score": score})

    monkeypatch.setattr(jobs, "train", scored)
    command(["benchmark", "--race"], root)
    params = parameters.load(root / "params.yaml")
    for name in INITS:
        for run in plan(params, root, [name], ["shenzhen"], (0, 1, 2)):
            assert finished.whole(run) == (name != "random@test_nfnet"), name
            assert run.folder.is_dir()  # the stopped one, too, was begun
    cells = root / "data/results/cells/shenzhen"
    assert {read_result(path).init for path in cells.glob("*/cell.json")} == {
        "random@test_resnet", "random@test_efficientnet"
    }  # fmt: skip
    words = json.loads((cells / "stopped.json").read_text())["inits"]
    assert list(words) == ["random@test_nfnet"]
    assert "worse than the leader by 0.7" in words["random@test_nfnet"]

    findings = of_benchmark(root / "data/results/cells", params, root)
    row = next(row for row in findings.rows if row.init == "random@test_nfnet")
    assert row.summary is None
    assert not row.missing
    assert row.stopped == words["random@test_nfnet"]
    lines = {line[0].text: line[1].text for line in score_grid(findings).rows}
    assert lines["random@test_nfnet"] == "stopped"
    notes = " ".join(score_notes(findings))
    assert "Stopped by the race on val" in notes
    assert "missing" not in notes
    assert "Stopped early" in findings.answers[0].text

    command(["benchmark", "--race", "no"], root)
    findings = of_benchmark(root / "data/results/cells", params, root)
    assert all(row.summary is not None and not row.stopped for row in findings.rows)
