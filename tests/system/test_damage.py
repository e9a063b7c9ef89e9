"""Flipped bytes in what was written are found when it is opened, and mended by the command that the message names."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from medtransfer.cli.main import run as command
from medtransfer.comparison import selection
from medtransfer.core import files
from medtransfer.core.errors import UserError
from medtransfer.data import cache, prepare
from medtransfer.data.catalog import TASKS
from medtransfer.results import kept_network, result
from medtransfer.runs import benchmark, finished, run
from medtransfer.training.trainer import Trainer
from tests.conftest import TOP
from tests.support import fakes, workspace


def flip(path: Path, place: float = 0.5) -> None:
    """Changes one bit, and nothing else that could be seen of the file."""
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    files._digest.cache_clear()  # as in another process


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return workspace.make(tmp_path, TOP, "shenzhen", "montgomery")


@pytest.mark.parametrize("part", cache.PARTS)
def test_a_flipped_bit_of_a_cache_is_named_and_prepare_mends_it(root: Path, part: str) -> None:
    here = fakes.load_params(root)
    first = prepare.prepare(TASKS["montgomery"], here, root)
    path = first.folder / part
    path = next(path.iterdir()) if path.is_dir() else path
    before = path.read_bytes()
    flip(path, 0.2 if part == "samples.parquet" else 0.9)
    with pytest.raises(UserError, match=rf"not what was written there: {part}; `python -m medtransfer prepare --task"):
        cache.load(first.folder)
    command(["prepare", "--task", "montgomery"], root)
    files._digest.cache_clear()
    assert cache.load(first.folder).digest == first.digest
    assert part == "samples.parquet" or path.read_bytes() == before


def test_a_cache_is_hashed_once_per_process(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files._digest.cache_clear()
    prepared = prepare.prepare(TASKS["shenzhen"], fakes.load_params(root), root)
    monkeypatch.setattr(files, "digest", lambda path: pytest.fail(f"hashed again: {path}"))
    cache.load(prepared.folder)


def one_run(root: Path, **overrides: str) -> run.Run:
    here = fakes.load_params(root, **overrides)
    (planned,) = run.plan(here, root, ["random"], ["shenzhen"], [0])
    return planned


@pytest.mark.parametrize("name", ["predictions.parquet", "cell.json"])
def test_results_that_were_damaged_come_back_from_mlflow(root: Path, name: str) -> None:
    run = one_run(root)
    (cell,) = benchmark.run_all([run])
    before = {path: path.read_bytes() for path in (run.folder / part for part in finished.RESULTS)}
    path = run.folder / name
    if name == "cell.json":
        path.write_text(path.read_text()[:-50])
    else:
        flip(path)
    assert not finished.whole(run)
    assert benchmark.run_all([run]) == [cell]
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
def test_damaged_results_that_mlflow_does_not_have_are_made_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = one_run(root)
    (cell,) = benchmark.run_all([run])
    flip(run.folder / "predictions.parquet")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/another.db")
    (again,) = benchmark.run_all([run])
    assert again["scores"] == cell["scores"]
    assert finished.whole(run)


def test_damaged_predictions_of_a_compared_run_are_named_and_benchmark_brings_them_again(root: Path) -> None:
    run = one_run(root)
    benchmark.run_all([run])
    folder = root / "data/results/cells"
    benchmark.write_results([run], folder / "shenzhen")
    (cell,) = selection.collect(folder, root)
    path = result.predictions(cell, folder)
    flip(path)
    with pytest.raises(UserError, match=r"is damaged: .* run `benchmark`, which brings it here again"):
        result.predictions(cell, folder)
    benchmark.write_results([run], folder / "shenzhen")
    assert result.predictions(cell, folder) == path


# Checkpoints


def fit(trainer: Trainer) -> list[dict[str, float]]:
    logged: list[dict[str, float]] = []
    trainer.run(lambda scores, _: logged.append(dict(scores)), lambda _: None)
    return [{k: v for k, v in scores.items() if k != "images_per_second"} for scores in logged]


def test_no_flipped_bit_of_a_checkpoint_is_trained_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer, _ = fakes.trainer(TOP, tmp_path)
    logged = fit(trainer)
    sound, rng = trainer.checkpoint_file.read_bytes(), random.Random(0)
    again, _ = fakes.trainer(TOP, tmp_path)
    for _ in range(40):
        trainer.checkpoint_file.write_bytes(sound)
        flip(trainer.checkpoint_file, rng.random())
        assert again.resume() == 0
    assert "the run starts over" in caplog.text
    assert fit(again) == logged


@pytest.mark.parametrize("damage", [flip, lambda path: path.unlink()])
def test_a_best_model_that_was_damaged_is_not_tested_and_the_run_begins_anew(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    trainer, _ = fakes.trainer(TOP, tmp_path)
    logged = fit(trainer)
    scores = trainer.test()[1].scores
    resumed, _ = fakes.trainer(TOP, tmp_path)
    assert resumed.resume() == len(logged)
    damage(resumed.best_file)
    with pytest.raises(UserError, match=r"is not the model that this training kept: .* Start the same run again"):
        resumed.test()
    again, _ = fakes.trainer(TOP, tmp_path)
    assert again.resume() == 0
    assert fit(again) == logged
    assert again.test()[1].scores == scores


@pytest.mark.slow
def test_a_network_that_was_damaged_is_not_kept(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    from medtransfer.runs import best_networks

    run = one_run(root)
    benchmark.run_all([run])
    best_networks.write([run], "shenzhen", root)
    assert kept_network.path(root, "shenzhen", run.init.slug, "fixed").is_file()
    flip(run.folder / kept_network.NETWORK)
    best_networks.write([run], "shenzhen", root)
    assert not kept_network.path(root, "shenzhen", run.init.slug, "fixed").exists()
    assert "or not as it was kept" in caplog.text


def test_an_older_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    trainer, _ = fakes.trainer(TOP, tmp_path)
    logged = fit(trainer)
    content = torch.load(trainer.checkpoint_file, weights_only=True)
    del content["best_sha256"]
    torch.save(content, trainer.checkpoint_file)
    again, _ = fakes.trainer(TOP, tmp_path)
    assert again.resume() == len(logged)
    assert np.isfinite(again.test()[1].scores["auc"])


def test_the_hash_of_a_folder_knows_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").write_text("y")
    before = files.digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "c")
    renamed = files.digest(tmp_path)
    (tmp_path / "c").rename(tmp_path / "a")
    (tmp_path / "b").write_text("z")
    assert len({before, renamed, files.digest(tmp_path)}) == 3
