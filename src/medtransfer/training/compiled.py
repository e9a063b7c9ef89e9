"""Which forward a batch takes where `engine.compile` is true: the compiled network, of one shape, or the eager one.

torch compiles a network for the shape of what it first sees, which takes it as long as many steps. So a run has two
shapes, one in training and one in evaluation. The next run of the worker finds its network compiled if it differs in
its weights alone, and the next worker of the machine reads most of it from inductor's cache on disk.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from medtransfer.core.errors import UserError, one_line
from medtransfer.params import Engine
from medtransfer.training.loader import Loader

log = logging.getLogger("medtransfer")

LIMIT = 1024
"""graphs of one class of networks that a worker may compile: torch stops at 8, then goes on without a word uncompiled,
and tasks, backbones, protocols and both modes have graphs of their own"""
BACKEND = "inductor"


class Clock:
    """Adds up the seconds in which torch compiled in this process, or recorded CUDA graphs."""

    def __init__(self) -> None:
        self.seconds, self._began = 0.0, 0.0

    def start(self) -> None:
        """Lets torch tell of every compilation; may be called again."""
        from torch._dynamo.callback import callback_handler

        if self._begin not in callback_handler.start_callbacks:
            callback_handler.register_start_callback(self._begin)
            callback_handler.register_end_callback(self._end)

    def _begin(self, _: object) -> None:
        self._began = time.perf_counter()

    def _end(self, _: object) -> None:
        self.seconds += time.perf_counter() - self._began


CLOCK = Clock()


def forward_of(model: nn.Module, engine: Engine, loader: Loader, val: int) -> Callable[..., Any]:
    """Gives what a trainer calls with inputs: the model itself, or compiled as `engine` says.

    Args:
        model: on its device.
        engine: how arithmetic is done.
        loader: of its batches, which knows the process's share of them.
        val: images of it.
    """
    if not engine.compile:
        return model
    return Compiled(model, training_size(loader), evaluation_size(loader, val), engine)


def training_size(loader: Loader) -> int:
    """Counts the inputs that most forwards of a training have: those of a batch, or of its most frequent part."""
    counts = [part.count for part in loader.share.parts(loader.batch_size)]
    return max(counts, key=counts.count) * loader.views


def evaluation_size(loader: Loader, val: int) -> int:
    """Counts the inputs of an evaluated batch: halved while it holds all of val, which is read after every epoch.

    Few tasks then differ in it, and at most half of a small val's only batch is filling.
    """
    size = loader.evaluation_step(1)
    while 1 <= val <= size // 2:
        size //= 2
    return size * loader.views


def begin_step(engine: Engine) -> None:
    """Says that outputs and gradients of the step before are needed no more: graphs write the next ones over them."""
    if engine.graphs:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # torch's own is untyped


class Compiled:
    """A network that is compiled for one number of inputs in training, and for one in evaluation.

    In training a batch of another number takes the eager network, which has the same weights: padding would enter the
    statistics of batch norm, and the gradient. In evaluation nothing looks at several images, batch norm neither: a
    batch is cut into pieces of the one number, the last is filled up with its last image, and what comes of that is
    left out.
    """

    def __init__(self, model: nn.Module, training: int, evaluation: int, engine: Engine) -> None:
        """Takes the numbers of inputs; nothing is compiled before the first of them come."""
        import torch._dynamo

        self.model, self.training, self.evaluation, self.engine = model, training, evaluation, engine
        limits: Any = torch._dynamo.config  # of this thread, and without a stub
        if limits.disable:
            raise UserError(
                "engine.compile is true, but TORCHDYNAMO_DISABLE or TORCH_COMPILE_DISABLE of the environment forbids "
                "it; unset it, or set engine.compile to false"
            )
        limits.recompile_limit = limits.accumulated_recompile_limit = LIMIT
        limits.fail_on_recompile_limit_hit = True  # else it goes on uncompiled and nobody knows
        CLOCK.start()
        # What is timed on the device to choose a kernel would let two workers compute two things.
        options: Any = {"deterministic": engine.deterministic, "triton.cudagraphs": engine.graphs}
        self.compiled = torch.compile(model, dynamic=False, backend=BACKEND, options=options)

    def __call__(self, inputs: Tensor) -> Any:
        """Computes the network's outputs."""
        if self.model.training:
            return self._run(inputs) if len(inputs) == self.training else self.model(inputs)
        starts = range(0, len(inputs), self.evaluation)
        found = [self._evaluate(inputs[start : start + self.evaluation]) for start in starts]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _evaluate(self, inputs: Tensor) -> Tensor:
        begin_step(self.engine)
        outputs: Tensor = self._run(filled(inputs, self.evaluation))[: len(inputs)]
        return outputs.clone() if self.engine.graphs else outputs  # the next graph writes over them

    def _run(self, inputs: Tensor) -> Any:
        from torch._dynamo import exc

        try:
            return self.compiled(inputs)
        except exc.FailOnRecompileLimitHit:
            log.warning(
                "this worker has compiled %d graphs, which is the limit: the run goes on uncompiled, and its last "
                "digits are those of engine.compile: false. Start the command again: other workers compile anew",
                LIMIT,
            )
            self.compiled = self.model
            return self.model(inputs)
        except exc.TorchDynamoException as error:
            cause = getattr(error, "inner_exception", error)
            raise UserError(
                f"torch could not compile the network ({type(cause).__name__}: {one_line(cause)}); set engine.compile "
                "to false, or mend what it names (a CPU needs a C++ compiler such as g++, a GPU Triton)"
            ) from error


def filled(inputs: Tensor, size: int) -> Tensor:
    """Repeats the last one of inputs up to a number, laid out in memory as they are."""
    missing = size - len(inputs)
    if not missing:
        return inputs
    with torch.inference_mode(inputs.is_inference()):  # another kind of tensor would be compiled for once more
        whole = torch.empty_like(inputs[:1].expand(size, *inputs.shape[1:]), memory_format=_layout(inputs))
        whole[: len(inputs)] = inputs
        whole[len(inputs) :] = inputs[-1:]
    return whole


def _layout(inputs: Tensor) -> torch.memory_format:
    last = inputs.ndim == 4 and inputs.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format
