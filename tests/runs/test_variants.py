from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medtransfer import params as parameters
from medtransfer.cli.verb import fractions_of, protocols_of
from medtransfer.core.errors import UserError
from medtransfer.results.result import read_result
from medtransfer.runs import benchmark, building, feature_cache
from medtransfer.runs.run import Run
from medtransfer.runs.run import plan as plan_runs
from tests.support import workspace


@pytest.fixture
def root(tmp_path: Path, top: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.chdir(tmp_path)
    return workspace.make(tmp_path, top, "shenzhen", "montgomery")


def plan(
    root: Path, protocols: Any, fractions: Any, *,
    init: str = "random", tasks: Any = ("shenzhen",), seeds: Any = (0,), **overrides: str,
) -> list[Run]:  # fmt: skip
    params = parameters.load(root / "params.yaml", {k.replace("__", "."): v for k, v in overrides.items()})
    return plan_runs(params, root, [init], list(tasks), list(seeds), protocols=protocols, fractions=fractions)


CASES = [
    (protocol, task, fraction)
    for protocol in ("finetune", "linear", "knn", "partial", "lora")
    for task in ("shenzhen", "montgomery")
    for fraction in ("1", "0.5", "2-shot")
    if (protocol, task) != ("knn", "montgomery")
]
QUICK = [
    ("linear", "montgomery", "0.5"), ("knn", "shenzhen", "1"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("protocol", "task", "fraction"),
    [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_every_protocol_ends_on_every_kind_of_task_and_fraction(
    root: Path, protocol: str, task: str, fraction: str
) -> None:
    init = "random@test_vit" if protocol == "lora" else "random"
    changes = {
        "classification__max_epochs": "1",
        "segmentation__max_epochs": "1",
        "protocols__knn_neighbours": "[1, 2]",
    }
    (run,) = plan(root, [protocol], [fraction], init=init, tasks=[task], **changes)
    (again,) = plan(root, ["finetune"], ["1"], init=init, tasks=[task], **changes)
    (cell,) = benchmark.run_all([run])
    whole = building.labelled(again)
    result = read_result(run.folder / "cell.json")
    assert (result.protocol, result.fraction) == (protocol, fraction)
    expected = {"1": 1.0, "0.5": 0.5}.get(fraction)
    if expected:
        assert abs(result.counts["train"] - expected * len(whole.rows("train"))) <= 1
    else:
        assert result.counts["train"] == (4 if task == "shenzhen" else 2)
    assert result.counts["test"] == len(whole.rows("test"))
    assert np.isfinite(cell["scores"][f"test_{run.record.metric}"])
    assert (run.digest == again.digest) == (protocol == "finetune" and fraction == "1")
    assert benchmark.run_all([run]) == [cell]
    if run.frozen:
        assert result.cost["features_seconds"] > 0
        assert not (run.folder / "best.safetensors").exists()
        assert {"val_loss"} <= set(result.history[0])


def test_runs_of_one_backbone_share_one_pass_and_random_weights_have_one_each(root: Path) -> None:
    runs = plan(root, ["linear", "knn"], ["1", "0.5"], seeds=(0, 1), protocols__knn_neighbours="[1, 5]")
    assert len(runs) == 8
    assert len({feature_cache.identity(run) for run in runs}) == 2
    finetune_too = plan(root, ["finetune"], ["1"], seeds=(0, 1))
    feature_cache.make_all([*runs, *finetune_too])
    folders = list((root / feature_cache.FOLDER / "shenzhen").glob("[!.]*"))
    assert len(folders) == 2
    feature_cache.keep_only(runs[:1], root)
    assert [p.name for p in (root / feature_cache.FOLDER / "shenzhen").iterdir()] == [feature_cache.identity(runs[0])]


def test_a_digest_follows_protocol_and_fraction_and_what_each_reads(root: Path) -> None:
    (base,) = plan(root, ["finetune"], ["1"])
    digests = {run.digest for run in plan(root, ["finetune", "linear", "knn", "partial"], ["1", "0.5"])}
    assert len(digests) == 8
    assert base.digest in digests
    (linear,) = plan(root, ["linear"], ["1"])
    (half,) = plan(root, ["linear"], ["0.5"])
    for name, same in (
        ("classification__lr", True),
        ("classification__monitor", True),
        ("protocols__partial_blocks", True),
        ("protocols__linear_strengths", False),
        ("classification__crop_fraction", False),
        ("benchmark__fractions_of", True),
    ):
        values = {"lr": "0.5", "monitor": "val_auc", "partial_blocks": "2", "linear_strengths": "[1.0, 2.0]"}
        values |= {"crop_fraction": "1.0", "fractions_of": "train"}
        value = values[name.partition("__")[2]]
        (changed,) = plan(root, ["linear"], ["1"], **{name: value})
        assert (changed.digest == linear.digest) == same, name
    (changed,) = plan(root, ["linear"], ["0.5"], benchmark__fractions_of="train")
    assert changed.digest != half.digest


def test_fewer_labels_are_no_less_training(root: Path) -> None:
    (whole,) = plan(root, ["finetune"], ["1"])
    (part,) = plan(root, ["finetune"], ["0.25"])
    steps = []
    for run in (whole, part):
        built, prepared = building.trainer(run)
        order = built.loader.order(built.rows["train"], 0, 0, built.protocol.min_steps)
        steps.append(len(order))
        assert set(np.concatenate(order)) <= set(prepared.rows("train"))
    assert 0 <= steps[1] - steps[0] <= 1  # whole passes


@pytest.mark.parametrize(
    ("protocol", "fraction", "more", "message"),
    [
        ("linear", "0.02", {}, "fraction 0.02 of task shenzhen leaves no positive|nothing but positives"),
        ("knn", "500-shot", {}, "500-shot asks for 500 images of each class of task shenzhen, which has"),
        ("knn", "2-shot", {"protocols__knn_neighbours": "[50]"}, "has 4 images in train and .* asks for 50 at least"),
        ("lora", "1", {}, "lora changes the attention of a transformer, and test_resnet has none: take partial"),
        ("partial", "1", {"protocols__partial_blocks": "99"}, "partial_blocks is 99, and test_resnet has"),
        (
            "partial",
            "1",
            {"classification__backbone_lr": "0"},
            "trains a part of the backbone, and backbone_lr of task",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_law_value_and_repair(
    root: Path, protocol: str, fraction: str, more: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        plan(root, [protocol], [fraction], **more)


def test_of_several_what_cannot_be_is_left_out_and_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="medtransfer"):
        runs = plan(root, ["linear", "lora", "knn"], ["1"], tasks=("shenzhen", "montgomery"))
    assert [(run.protocol, run.task) for run in runs] == [
        ("linear", "shenzhen"), ("linear", "montgomery"), ("knn", "shenzhen"),
    ]  # fmt: skip
    assert "left out: the protocol lora" in caplog.text
    assert "left out: the protocol knn votes on whole images, and task montgomery has masks" in caplog.text


def test_linear_needs_features_of_a_known_shape(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medtransfer.training.fitting._feature_shape", lambda backbone, size: "(2, 8, 4, 4)")
    with pytest.raises(
        UserError, match=r"needs one vector of features for each image, and test_resnet gives \(2, 8, 4, 4\)"
    ):
        plan(root, ["linear"], ["1"])


def test_the_command_line_names_protocols_and_fractions(root: Path) -> None:
    params = parameters.load(root / "params.yaml")
    assert protocols_of(params, "all") == ("finetune",)
    assert protocols_of(params, "linear") == ("linear",)
    assert fractions_of(params, "all") == ("1",)
    assert fractions_of(params, "0.10") == ("0.1",)
    with pytest.raises(UserError, match="unknown protocol linaer; the nearest valid name is linear"):
        protocols_of(params, "linaer")
    with pytest.raises(UserError, match="a fraction is a share of train"):
        fractions_of(params, "2")
