"""Two gloo processes against one, on tiny tasks.

Numbers are compared in 64 bits: what rounding does to a network with batch norm is far larger in 32 bits (see `curve`),
and would hide a wrong rule. Losses are means of 32-bit terms in any case, hence `LOSS`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from medtransfer.core.errors import UserError
from medtransfer.training import distributed
from medtransfer.training.distributed import Group
from medtransfer.training.loader import Share
from medtransfer.training.trainer import Log, Progress, TaskTrainer
from tests.conftest import TOP
from tests.support import fakes

LOSS, WEIGHTS = 1e-6, 1e-4
"""largest relative difference of losses, largest absolute one of weights, after three epochs; found: 2e-7 and 6e-6"""
ROUNDING = 0.02
"""largest relative difference of losses where a network with batch norm is trained in 32 bits; found: 1e-3"""


@dataclass(frozen=True)
class Scene:
    """A training in two processes, and the one in one process that it must equal."""

    backbone: str = fakes.BACKBONE
    segmentation: bool = False
    mean: bool = False
    """the loss is said to be a mean over the images"""
    bits: int = 64
    pair: dict[str, Any] = field(default_factory=dict)
    single: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)


THREES = {"classification__batch_size": "3"}
"""batches of 3 images: in parts of one image, one of two processes has none to take of a part"""
SCENES = {
    "joined": Scene(params={"classification__batch_size": "6"}, pair={"ema": 0.5}, single={"ema": 0.5}),
    "mean": Scene(mean=True, pair={"micro_batch": 2}, single={"micro_batch": 4}),
    "dice": Scene(segmentation=True, params={"segmentation__batch_size": "6", "segmentation__max_epochs": "1"}),
    "idle": Scene("test_vit", pair={"micro_batch": 1}, params=THREES),
    "idle, mean": Scene("test_vit", mean=True, pair={"micro_batch": 1}, params=THREES),
    "curve": Scene(bits=32),
}


def build(scene: Scene, folder: Path, group: Group | None, **changes: Any) -> TaskTrainer:
    """Builds the trainer of a scene, on 29 images, so that the last batch is smaller and no share is equal."""
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fakes, "BACKBONE", scene.backbone)
        first, _ = fakes.trainer(TOP, folder, segmentation=scene.segmentation, **scene.params)
    if scene.mean:
        first.objective.needs_whole_batch = False
    kind = torch.float64 if scene.bits == 64 else torch.float32
    trainer = TaskTrainer(
        first.model.to(kind), first.objective, first.loader, {**first.rows, "train": first.rows["train"][:29]},
        protocol=first.protocol, engine=first.engine, seed=first.seed, device=fakes.CPU, folder=folder,
        group=group, **changes,
    )  # fmt: skip
    trainer.forward = lambda inputs: trainer.model(inputs.to(kind))
    return trainer


def nothing(*_: Any) -> None:
    pass


def record(trainer: TaskTrainer, folder: Path) -> None:
    """Trains on and tests; leaves weights and scores in a folder of the process's own."""
    folder.mkdir(exist_ok=True)
    logged: list[int] = []
    log: Log = lambda metrics, epoch: logged.append(epoch)  # noqa: E731  # its type is what is shown
    trainer.run(log, nothing)
    save_file({key: tensor.contiguous() for key, tensor in trainer.model.state_dict().items()}, folder / "last")
    found = {"history": trainer.fit.history, "logged": logged, "test": trainer.test()[1].scores}
    (folder / "found.json").write_text(json.dumps(found))


def play(folder: Path, group: Group) -> None:
    """Runs what needs no fault: every scene, and batch norms alone."""
    for name, scene in SCENES.items():
        record(build(scene, folder / name, group, **scene.pair), folder / f"{name} {group.rank}")
    save_file(normalize(group), folder / f"norms {group.rank}")


def hold(folder: Path, group: Group) -> None:
    """Trains two epochs, says so, and waits to be killed."""

    def wait(progress: Progress) -> None:
        if progress.epoch == 2:
            (folder / "two epochs").touch()
            time.sleep(600)

    build(SCENES["joined"], folder / "killed", group, ema=0.5).run(nothing, wait)


def go_on(folder: Path, group: Group) -> None:
    trainer = build(SCENES["joined"], folder / "killed", group, ema=0.5)
    (folder / f"resumed at {trainer.resume()} {group.rank}").touch()
    record(trainer, folder / f"resumed {group.rank}")


def part(folder: Path, group: Group) -> None:
    """Has two processes that stand at different epochs, then one that ends amid an epoch without a word."""
    start = time.monotonic()
    trainer = build(SCENES["joined"], folder / f"own {group.rank}", group)
    trainer.fit.epoch = group.rank
    with pytest.raises(UserError) as apart:
        trainer.run(nothing, nothing)
    trainer = build(SCENES["joined"], folder / "orphan", group)
    step = trainer.step

    def leave(*parts: Any) -> Tensor:
        return os._exit(7) if trainer.fit.epoch else step(*parts)

    if group.rank == 1:
        trainer.step = leave  # type: ignore[method-assign]  # a fault, put in
    with pytest.raises(UserError) as left:
        trainer.run(nothing, nothing)
    words = {"apart": str(apart.value), "left": str(left.value), "seconds": time.monotonic() - start}
    (folder / "words.json").write_text(json.dumps(words))


def enter(rank: int, port: int, act: Callable[[Path, Group], None], folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    group = distributed.from_environment("cpu", timeout=60)
    assert group is not None
    with group:
        act(folder, group)


@contextmanager
def pair(act: Callable[[Path, Group], None], folder: Path) -> Iterator[list[BaseProcess]]:
    """Starts two processes as torchrun does; waits for them at the end of the block, and leaves none behind."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")  # imports once for all pairs
    context.set_forkserver_preload([__name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{TOP}/src:{TOP}")
        started = [context.Process(target=enter, args=(rank, port, act, folder)) for rank in (0, 1)]
        for process in started:
            process.start()
    try:
        yield list(started)
        for process in started:
            process.join(100)
    finally:
        for process in started:
            process.kill()
            process.join()


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds what two processes found in every scene."""
    folder = tmp_path_factory.mktemp("pair")
    with pair(play, folder) as processes:
        pass
    assert [process.exitcode for process in processes] == [0, 0]
    return folder


def differences(a: Path, b: Path) -> tuple[float, float]:
    """Returns the largest relative difference of the losses and the largest absolute one of the weights."""
    one, other = (json.loads((path / "found.json").read_text())["history"] for path in (a, b))
    assert len(one) == len(other) >= 1
    losses = [abs(x[key] / y[key] - 1) for x, y in zip(one, other, strict=True) for key in ("train_loss", "val_loss")]
    first, second = load_file(a / "last"), load_file(b / "last")
    assert first.keys() == second.keys()
    return max(losses), max(float((first[key] - second[key]).abs().max()) for key in first)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES)
def test_two_processes_give_the_curve_and_the_weights_of_one(played: Path, name: str) -> None:
    alone, scene = played / f"{name} alone", SCENES[name]
    record(build(scene, alone, None, **scene.single), alone)
    loss, weights = differences(played / f"{name} 0", alone)
    print(f"{name}: losses {loss:.1e}, weights {weights:.1e}")
    assert loss < (LOSS if scene.bits == 64 else ROUNDING)
    assert scene.bits == 32 or weights < WEIGHTS
    assert differences(played / f"{name} 0", played / f"{name} 1") == (0, 0)
    best = load_file(played / name / "best.safetensors"), load_file(alone / "best.safetensors")
    assert scene.bits == 32 or all(float((best[0][key] - best[1][key]).abs().max()) < WEIGHTS for key in best[1])


@pytest.mark.slow
def test_only_the_first_process_logs_and_both_know_the_test_scores(played: Path) -> None:
    first, second = (json.loads((played / f"joined {rank}/found.json").read_text()) for rank in (0, 1))
    assert first["logged"] == [0, 1, 2]
    assert second["logged"] == []
    assert first["test"] == second["test"]


def normalize(group: Group | None) -> dict[str, Tensor]:
    """Runs batch norms once on 6 images, of which the second process has none; returns all that they computed.

    One is plain, one timm's with an activation, one of vectors.
    """
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 4, 3), BatchNormAct2d(4, act_layer=nn.PReLU),
        nn.Flatten(), nn.BatchNorm1d(64, momentum=None), nn.Linear(64, 3),
    ).double()  # fmt: skip
    keys = list(model.state_dict())
    inputs = torch.randn(6, 3, 8, 8, dtype=torch.float64)
    if group is not None:
        distributed.join_batch_norms(model, group)
        group.idle = not group.is_main
        inputs = inputs[:1] if group.idle else inputs
    assert list(model.state_dict()) == keys
    outputs = model(inputs)
    joined = group.gather(outputs) if group is not None else outputs
    loss = (joined[:, 0] * joined[:, 1] + joined[:, 2].exp()).mean()
    loss.backward()
    total = group.add_gradients(model.parameters(), loss.detach()) / group.size if group is not None else loss.detach()
    gradients = {f"gradient.{key}": each.grad for key, each in model.named_parameters() if each.grad is not None}
    return {**model.state_dict(), **gradients, "joined": joined.detach(), "loss": total}


@pytest.mark.slow
def test_joined_batch_norms_equal_one_process_though_a_process_has_no_image(played: Path) -> None:
    wanted = normalize(None)
    assert len([key for key in wanted if key.startswith("gradient.")]) == 13
    for rank in (0, 1):
        found = load_file(played / f"norms {rank}")
        assert found.keys() == wanted.keys()
        for key, tensor in wanted.items():
            torch.testing.assert_close(found[key], tensor, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_a_pair_that_is_killed_and_resumed_ends_as_one_that_is_not(played: Path, tmp_path: Path) -> None:
    with pair(hold, tmp_path) as processes:
        deadline = time.monotonic() + 60
        while not (tmp_path / "two epochs").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        for process in processes:
            process.kill()
    with pair(go_on, tmp_path) as processes:
        pass
    assert [process.exitcode for process in processes] == [0, 0]
    assert all((tmp_path / f"resumed at 2 {rank}").exists() for rank in (0, 1))
    assert differences(tmp_path / "resumed 0", played / "joined 0") == (0, 0)
    assert (tmp_path / "killed/best.safetensors").read_bytes() == (played / "joined/best.safetensors").read_bytes()


@pytest.mark.slow
def test_processes_that_differ_are_refused_and_one_that_is_left_alone_ends(tmp_path: Path) -> None:
    with pair(part, tmp_path) as processes:
        pass
    assert [process.exitcode for process in processes] == [0, 7]
    words = json.loads((tmp_path / "words.json").read_text())
    assert "must be one folder that all of them share" in words["apart"]
    assert "another process of this training ended or does not answer" in words["left"]
    assert words["seconds"] < 30


def test_shares_and_parts_cover_a_batch_once_and_agree_over_processes() -> None:
    for images in range(1, 20):
        for size in (1, 2, 3):
            for micro_batch in (0, 1, 2, 5):
                shares = [Share(rank, size, micro_batch).parts(images) for rank in range(size)]
                assert len({len(parts) for parts in shares}) == 1
                taken = sorted(chain(*(range(one.start, one.stop) for parts in shares for one in parts)))
                assert taken == list(range(images))
                for together in zip(*shares, strict=True):
                    assert {one.joint for one in together} == {sum(one.count for one in together)}
                    assert all(one.count <= (micro_batch or images) for one in together)
                assert [one.last for one in shares[0]] == [False] * (len(shares[0]) - 1) + [True]


def test_the_parts_of_two_processes_are_together_those_of_one() -> None:
    wide = Share(micro_batch=6).parts(29)
    for place, whole in enumerate(wide):
        halves = [Share(rank, 2, 3).parts(29)[place] for rank in (0, 1)]
        assert (halves[0].start, halves[0].stop, halves[1].stop) == (whole.start, halves[1].start, whole.stop)


def test_without_torchrun_there_is_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert distributed.from_environment() is None
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert distributed.from_environment() is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(UserError, match="MASTER_PORT"):
        distributed.from_environment()


def test_an_unknown_batch_norm_is_refused() -> None:
    class Other(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's own name
            return super().forward(input) + 1

    with pytest.raises(UserError, match="Other cannot be joined"):
        distributed.join_batch_norms(nn.Sequential(Other(3)), Group(0, 2, fakes.CPU))


def test_shares_of_rows_are_whole_batches_in_order() -> None:
    rows = np.arange(10)
    found = [Group(rank, 3, fakes.CPU).share(rows, 4).tolist() for rank in range(3)]
    assert found == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [len(Group(rank, 3, fakes.CPU).share(rows, 10)) for rank in range(3)] == [0, 0, 10]
