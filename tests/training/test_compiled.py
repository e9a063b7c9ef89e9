from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch._dynamo.utils import counters

from medtransfer.core.errors import UserError
from medtransfer.params import Engine
from medtransfer.training import compiled
from medtransfer.training.checkpoint import Fit
from medtransfer.training.compiled import Compiled
from medtransfer.training.loader import Share
from medtransfer.training.trainer import TaskTrainer
from tests.support import fakes

ENGINE = Engine(precision="fp32", channels_last=True, compile=True, deterministic=True)
CLOSE: Any = {"rtol": 1e-4, "atol": 1e-5}
"""between compiled and eager numbers of a few steps in 32 bits; found: 6e-8 by inductor, 0 by aot_eager"""


class Tiny(nn.Module):
    """A convolution, a batch norm and a head, which notes the sizes that it was run on without being compiled."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)
        self.eager: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            self.eager.append(len(inputs))
        out: Tensor = self.head(self.norm(self.conv(inputs)).relu().mean((2, 3)))
        return out


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forgets what was compiled; the backend traces all that inductor would, and needs no C++ compiler."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Lists what we say: torch writes traces of its own."""
    return [record.getMessage() for record in caplog.records if record.name == "medtransfer"]


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


def images(count: int, seed: int = 0) -> Tensor:
    drawn = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return drawn.contiguous(memory_format=torch.channels_last)


def step(forward: Any, model: nn.Module, inputs: Tensor) -> Tensor:
    """Takes a step of plain gradient descent."""
    model.train()
    model.zero_grad(set_to_none=True)
    loss: Tensor = forward(inputs).square().mean()
    torch.autograd.backward([loss])
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.sub_(parameter.grad, alpha=0.1)
    return loss.detach()


def test_a_step_is_that_of_the_eager_network_and_a_short_batch_is_not_compiled_for() -> None:
    """The short batch moves the statistics of batch norm by its own images, and by them alone."""
    plain = Tiny()
    model = copy.deepcopy(plain)
    forward = Compiled(model, 6, 8, ENGINE)
    for number, count in enumerate((6, 6, 4, 1, 6)):
        inputs = images(count, number)
        torch.testing.assert_close(step(forward, model, inputs), step(plain, plain, inputs), **CLOSE)
    for one, other in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, **CLOSE)
    assert model.eager == [4, 1]
    assert graphs() == 1


def test_evaluation_is_cut_and_filled_up_to_one_size_and_gives_what_the_images_give() -> None:
    model = Tiny()
    step(model, model, images(8))
    model.eval()
    seen: list[tuple[int, ...]] = []
    forward = Compiled(model, 6, 8, ENGINE)
    run = forward.compiled

    def watched(inputs: Tensor) -> Any:
        seen.append((*inputs.shape, *inputs.stride()))
        return run(inputs)

    forward.compiled = watched
    for count in (8, 1, 5, 9, 16, 21):
        seen.clear()
        model.eager.clear()
        with torch.inference_mode():
            inputs = images(count)
            found = forward(inputs)
            assert model.eager == []
            torch.testing.assert_close(found, model(inputs), **CLOSE)
        assert len(found) == count
        assert seen == [(8, 3, 8, 8, 192, 1, 24, 3)] * -(-count // 8)
    assert graphs() == 1
    made_elsewhere = images(8), images(3)  # as by a thread of a GPU's loader, which knows no inference mode
    with torch.inference_mode():
        for inputs in made_elsewhere:
            forward(inputs)
    assert graphs() == 2  # filled or not, they are of one other kind


def test_another_network_of_the_same_shapes_compiles_nothing_and_weights_that_are_put_in_are_used() -> None:
    first, second = Tiny(), Tiny()
    second.load_state_dict({key: tensor + 1 for key, tensor in first.state_dict().items()})
    for model in (first, second):
        forward = Compiled(model, 6, 8, ENGINE)
        step(forward, model, images(6))
        model.eval()
        with torch.inference_mode():
            forward(images(8))
        assert graphs() == 2
    forward = Compiled(second, 6, 8, ENGINE)
    second.load_state_dict(first.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(forward(images(8)), first(images(8)), **CLOSE)
    assert graphs() == 2
    for size in (5, 6, 5):
        step(Compiled(second, size, 8, ENGINE), second, images(size))
    assert graphs() == 3  # another batch is one more


def test_the_seconds_of_compiling_are_counted_and_stop_where_all_is_compiled() -> None:
    model = Tiny()
    forward = Compiled(model, 6, 8, ENGINE)
    Compiled(model, 6, 8, ENGINE)  # a second run of the worker counts nothing twice
    before, began = compiled.CLOCK.seconds, time.perf_counter()
    step(forward, model, images(6))
    spent = compiled.CLOCK.seconds - before
    assert 0 < spent <= time.perf_counter() - began
    for _ in range(3):
        step(forward, model, images(6))
    assert compiled.CLOCK.seconds - before == spent


def test_a_worker_that_may_compile_no_more_says_so_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiled, "LIMIT", 1)
    model = Tiny()
    forward = Compiled(model, 6, 8, ENGINE)
    step(forward, model, images(6))
    assert (model.eager, said(caplog)) == ([], [])
    model.eval()
    with caplog.at_level(logging.WARNING), torch.inference_mode():
        found = [forward(images(3)) for _ in range(2)]
    (words,) = said(caplog)
    assert "has compiled 1 graphs, which is the limit: the run goes on uncompiled" in words
    assert model.eager == [8, 8]
    torch.testing.assert_close(found[1], model(images(3)), **CLOSE)


@pytest.mark.slow
def test_more_than_torch_s_own_eight_graphs_are_compiled_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    """As of nine tasks: torch's own limit ends at eight, and nothing would say so."""
    model = Tiny()
    for size in range(1, 11):
        forward = Compiled(model.eval(), 6, size, ENGINE)
        with torch.inference_mode():
            forward(images(size))
    assert graphs() == 10
    assert said(caplog) == []


def test_a_network_that_cannot_be_compiled_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: Any, inputs: Any, **_: Any) -> Any:
        raise RuntimeError("no g++ here")

    monkeypatch.setattr(compiled, "BACKEND", broken)
    model = Tiny()
    with pytest.raises(
        UserError, match=r"could not compile the network \(RuntimeError: no g\+\+ here\); set engine.compile to false"
    ):
        step(Compiled(model, 6, 8, ENGINE), model, images(6))
    with torch._dynamo.config.patch(disable=True), pytest.raises(UserError, match=r"TORCHDYNAMO_DISABLE .* forbids"):
        Compiled(model, 6, 8, ENGINE)


@pytest.mark.parametrize(
    ("batch", "share", "found"),
    [
        (8, Share(), 8),
        (8, Share(micro_batch=3), 3),  # 2, 3, 3
        (7, Share(micro_batch=3), 2),  # 2, 2, 3
        (7, Share(rank=0, size=2), 3),
        (7, Share(rank=1, size=2), 4),
    ],
)
def test_a_training_is_compiled_for_the_part_that_it_has_most_often(batch: int, share: Share, found: int) -> None:
    for views in (1, 2):
        loader: Any = SimpleNamespace(batch_size=batch, share=share, views=views)
        assert compiled.training_size(loader) == views * found


@pytest.mark.parametrize(("val", "found"), [(100, 32), (32, 32), (17, 32), (16, 16), (9, 16), (8, 8), (3, 4), (1, 1)])
def test_a_small_val_is_not_filled_up_to_a_whole_batch(val: int, found: int) -> None:
    for views in (1, 2):
        loader: Any = SimpleNamespace(evaluation_step=lambda _: 32, views=views)
        assert compiled.evaluation_size(loader, val) == views * found


def graphs_of(top: Path, **changes: str) -> Engine:
    return fakes.load_params(top, **{f"engine__{name}": value for name, value in changes.items()}).engine


def test_graphs_need_compiled_networks_a_gpu_and_no_portable_arithmetic(top: Path) -> None:
    from medtransfer.runs.run import check_engine

    with pytest.raises(UserError, match=r"engine.graphs has compile true"):
        graphs_of(top, graphs="true")
    with pytest.raises(UserError, match=r"engine.portable has precision fp32 and compile false"):
        graphs_of(top, graphs="true", compile="true", portable="true")
    found = fakes.load_params(top, engine__compile="true", engine__graphs="true")
    check_engine(found, "cuda")
    with pytest.raises(UserError, match="CUDA graphs need a GPU"):
        check_engine(found, "cpu")
    plain = graphs_of(top, compile="true").fields
    assert found.engine.fields == plain | {"engine.graphs": True}
    assert "engine.graphs" not in plain


def test_what_graphs_would_write_over_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU nothing is written over: that each output has memory of its own is all that can be seen here."""
    marks: list[int] = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marks.append(1))
    model = Tiny().eval()
    with torch.inference_mode():
        forward = Compiled(model, 6, 8, Engine(**{**vars(ENGINE), "graphs": True}))
        memory = torch.ones(8, 2)
        monkeypatch.setattr(forward, "compiled", lambda inputs: memory)
        found = forward(images(3))
        memory.zero_()
    assert found.tolist() == [[1, 1]] * 3
    assert marks == [1]
    compiled.begin_step(ENGINE)
    assert marks == [1]


def of_kind(top: Path, folder: Path, segmentation: bool, **changes: str) -> TaskTrainer:
    """Trains on 32 images in batches of 7: a last one of 4; val has 8, and test 8, each seen by ten views or by one."""
    kind = "segmentation" if segmentation else "classification"
    own = {f"{kind}__batch_size": "7", f"{kind}__max_epochs": "2", f"{kind}__lr": "1e-4"}
    own |= {} if segmentation else {"classification__test_views": "10"}
    return fakes.trainer(top, folder, segmentation=segmentation, seed=0, **own, **changes)[0]


def trained(top: Path, folder: Path, segmentation: bool, **changes: str) -> tuple[TaskTrainer, dict[str, float]]:
    folder.mkdir()
    built = of_kind(top, folder, segmentation, **changes)
    built.run(lambda *_: None, lambda _: None)
    return built, built.test()[1].scores


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "segmentation"), [("inductor", False), ("aot_eager", True)])
def test_whole_runs_are_those_of_eager_ones_and_the_second_compiles_nothing(
    top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, segmentation: bool
) -> None:
    monkeypatch.setattr(compiled, "BACKEND", backend)
    eager, scores = trained(top, tmp_path / "eager", segmentation)
    first, found = trained(top, tmp_path / "first", segmentation, engine__compile="true")
    assert isinstance(first.forward, Compiled)
    assert graphs() == 2
    assert eager.fit.compile_seconds == 0 < first.fit.compile_seconds < first.fit.seconds
    for one, other in zip(first.fit.history, eager.fit.history, strict=True):
        for name in ("train_loss", "val_loss"):
            assert one[name] == pytest.approx(other[name], rel=1e-5)  # found: 1e-7
    for key, tensor in eager.live.items():
        torch.testing.assert_close(first.live[key], tensor, rtol=0, atol=1e-3)  # found: 4e-5
    assert found.keys() == scores.keys()
    second, again = trained(top, tmp_path / "second", segmentation, engine__compile="true")
    assert (graphs(), second.fit.compile_seconds) == (2, 0.0)
    assert again == found
    killed, resumed = (of_kind(top, tmp_path, segmentation, engine__compile="true") for _ in range(2))
    killed.run(lambda *_: None, lambda _: None, until=1)
    assert resumed.resume() == 1
    resumed.run(lambda *_: None, lambda _: None)
    assert resumed.test()[1].scores == found
    assert all(torch.equal(tensor, first.live[key]) for key, tensor in resumed.live.items())


def test_a_resumed_run_knows_what_compiling_took_before(top: Path, tmp_path: Path) -> None:
    built, _ = fakes.trainer(top, tmp_path)
    built.fit.compile_seconds = 2.5
    built._save({})
    resumed, _ = fakes.trainer(top, tmp_path)
    resumed.resume()
    assert resumed.fit.compile_seconds == 2.5
    old: dict[str, Any] = {name: value for name, value in vars(built.fit).items() if name != "compile_seconds"}
    assert Fit(**old).compile_seconds == 0  # a checkpoint of an earlier version
