"""Data parallel training: the processes that torchrun starts act as one, on the same batches in the same order.

Every process takes its share of a batch. What is joined is exact: gradients, batch statistics, and the outputs that a
loss compares with each other; so the numbers are those of one process up to the order of sums.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from medtransfer.core.errors import UserError

TIMEOUT = 1800.0
"""seconds that a process waits for the others, as long as torch's own default for gloo"""
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""what torchrun tells every process that it starts"""


@dataclass
class Group:
    """The processes of one training; as a context manager it ends their connections."""

    rank: int
    size: int
    device: torch.device
    idle: bool = False
    """this process has no image at this moment; the one that it runs, because it must run one, counts for nothing"""

    @property
    def is_main(self) -> bool:
        """Says whether this process is the one that logs and writes."""
        return self.rank == 0

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *error: object) -> None:
        dist.destroy_process_group()

    def collect(self, item: Any) -> list[Any]:
        """Returns the item of every process, by rank; no process is past this before all have come to it.

        The items are pickled by torch; they come from the other processes of this very training.

        Raises:
            UserError: a process is gone, or did not come within the timeout.
        """
        items: list[Any] = [None] * self.size
        with _together():
            dist.all_gather_object(items, item)
        return items

    def agree(self, state: Hashable, folder: Path) -> None:
        """Refuses processes that would train on from different states.

        Raises:
            UserError: they differ; or as `collect`.
        """
        if len(set(self.collect(state))) > 1:
            raise UserError(
                f"the processes of this training do not start from the same weights: {folder} must be one folder that "
                "all of them share, and their machines must have the same data and the same library versions"
            )

    def share(self, rows: NDArray[np.int64], step: int) -> NDArray[np.int64]:
        """Returns the process's share of some rows, in whole batches of `step`; the shares follow one another."""
        batches = -(-len(rows) // step)
        start, stop = (batches * rank // self.size * step for rank in (self.rank, self.rank + 1))
        return rows[start:stop]

    def gather(self, outputs: Any) -> Any:
        """Joins the outputs of all processes by rank along the first dimension, in which they may differ, also be 0.

        Every process must compute the same loss from what it gets. The gradient that goes back is then that of the
        process's own outputs, and the sum over processes of the gradients of the weights is the whole one. Those of an
        idle process are left out.

        Args:
            outputs: a tensor, or a tuple of such.

        Raises:
            UserError: as `collect`.
        """
        if isinstance(outputs, tuple):
            return tuple(self.gather(each) for each in outputs)
        return _Gather.apply(outputs[:0] if self.idle else outputs, self)

    def add_gradients(self, parameters: Iterable[nn.Parameter], loss: Tensor) -> Tensor:
        """Sums gradients, in place, and loss over the processes, by one message; returns the summed loss.

        Raises:
            UserError: as `collect`.
        """
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([*(each.reshape(-1) for each in gradients), loss.reshape(1)])
        with _together():
            dist.all_reduce(flat)
        start = 0
        for each in gradients:
            each.copy_(flat[start : start + each.numel()].view(each.shape))
            start += each.numel()
        return flat[-1]


def from_environment(device: str = "cpu", timeout: float = TIMEOUT) -> Group | None:
    """Joins the processes that torchrun started; None where it did not, or where it started one only.

    Args:
        device: `cpu` (gloo) or `cuda` (nccl, each process on the GPU of its number on its machine).
        timeout: seconds after which a process gives up to wait for the others.

    Raises:
        UserError: the environment is torchrun's in part only, there are fewer GPUs than processes on this machine, or
            the others cannot be reached.
    """
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE") == "1":
        return None
    if missing := [name for name in VARIABLES if name not in os.environ]:
        raise UserError(f"RANK is set, but not {', '.join(missing)}: start by torchrun, or unset RANK")
    local = int(os.environ["LOCAL_RANK"])
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise UserError(
                f"process {local} of this machine finds {torch.cuda.device_count()} GPUs: one is needed for each "
                "process; lower --nproc-per-node, or set execution.device to cpu"
            )
        torch.cuda.set_device(local)
    own = torch.device("cuda", local) if device == "cuda" else torch.device("cpu")
    with _together():
        dist.init_process_group(
            "nccl" if device == "cuda" else "gloo",
            timeout=timedelta(seconds=timeout),
            device_id=own if device == "cuda" else None,
        )
    return Group(dist.get_rank(), dist.get_world_size(), own)


def nothing(outputs: Any) -> Tensor:
    """Returns a loss of 0, so that a process takes part in the exchanges of a backward pass though it has no image."""
    each = outputs if isinstance(outputs, tuple) else (outputs,)
    return torch.stack([one[:0].float().sum() for one in each]).sum()


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """Says in the user's words that another process is gone: torch names but the connection."""
    try:
        yield
    except RuntimeError as error:
        raise UserError(
            f"another process of this training ended or does not answer ({str(error).splitlines()[0]}); its own "
            "message says why. Mend that, end what is left, and start the same command again: it resumes"
        ) from error


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, group: Group) -> Tensor:
        lengths = [torch.zeros(1, dtype=torch.int64, device=own.device) for _ in range(group.size)]
        with _together():
            dist.all_gather(lengths, torch.tensor([len(own)], device=own.device))
        counts = [int(length) for length in lengths]  # waits for the device: only the process itself knows its length
        padded = own.new_zeros((max(counts), *own.shape[1:]))
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in counts]
        with _together():
            dist.all_gather(parts, padded)
        ctx.start, ctx.count = sum(counts[: group.rank]), len(own)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.start : ctx.start + ctx.count], None


def join_batch_norms(model: nn.Module, group: Group) -> None:
    """Puts into the place of every batch norm one whose statistics are those of all processes' images together.

    Keys, parameters and buffers stay; so do activation and dropout inside timm's own batch norms.

    Raises:
        UserError: a batch norm of a kind that is not known.
    """
    for name, child in model.named_children():
        if not isinstance(child, _BatchNorm):
            join_batch_norms(child, group)
        elif type(child).forward in (_BatchNorm.forward, BatchNormAct2d.forward):
            setattr(model, name, JointBatchNorm(child, group))
        else:
            raise UserError(
                f"the batch norm {type(child).__name__} cannot be joined over processes; "
                "train this backbone in one process"
            )


class JointBatchNorm(_BatchNorm):
    """Batch norm over the images of all processes, on a CPU too, where `torch.nn.SyncBatchNorm` does not run.

    In evaluation mode nothing is exchanged.
    """

    def __init__(self, local: _BatchNorm, group: Group) -> None:
        """Takes over what a batch norm holds: parameters, buffers, mode, and the modules that follow inside it."""
        super().__init__(
            local.num_features, local.eps, local.momentum, local.affine, local.track_running_stats, device="meta"
        )
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(self, name, getattr(local, name))
        for name, child in local.named_children():  # timm's: first drop, then act
            self.add_module(name, child)
        self.group = group
        self.train(local.training)

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalizes (B, C, ...)."""
        if self.training:
            mean, variance, count = self._statistics(inputs.detach())
            out: Tensor = _Normalize.apply(
                inputs, self.weight, self.bias, mean, variance, count, self.eps, self.group.idle
            )
        else:
            own = self.running_mean is None
            out = F.batch_norm(inputs, self.running_mean, self.running_var, self.weight, self.bias, own, 0.0, self.eps)
        for child in self.children():
            out = child(out)
        return out

    @torch.no_grad()
    def _statistics(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns mean (C), biased variance (C) and count () over all processes; moves the running ones.

        Means and squared deviations of the parts are combined as by Chan, Golub and LeVeque (1979): no cancellation.
        """
        channels = inputs.shape[1]
        kind = torch.promote_types(inputs.dtype, torch.float32)
        own = inputs.new_zeros(2 * channels + 1, dtype=kind)
        if not self.group.idle:
            count = inputs.numel() // channels
            variance, mean = torch.var_mean(inputs.to(kind), _sides(inputs), correction=0)
            own = torch.cat([mean, variance * count, mean.new_full((1,), count)])
        parts = [torch.empty_like(own) for _ in range(self.group.size)]
        with _together():
            dist.all_gather(parts, own)
        means, squares, counts = torch.split(torch.stack(parts), [channels, channels, 1], dim=1)
        total = counts.sum()
        mean = (means * counts).sum(0) / total
        square = (squares + counts * (means - mean) ** 2).sum(0)
        self._move(mean, square / (total - 1).clamp(min=1))
        return mean, square / total, total

    def _move(self, mean: Tensor, variance: Tensor) -> None:
        """Moves the running mean and, without bias, the running variance, as torch's own batch norm does."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.mul_(1 - share).add_(mean, alpha=share)
        self.running_var.mul_(1 - share).add_(variance, alpha=share)


def _sides(inputs: Tensor) -> list[int]:
    """Lists all dimensions but the channels'."""
    return [0, *range(2, inputs.ndim)]


class _Normalize(torch.autograd.Function):
    """Batch norm by given statistics, whose gradient knows that they came from all processes' inputs.

    The gradient is that of Ioffe and Szegedy (2015), its two sums taken over all processes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        eps: float,
        idle: bool,
    ) -> Tensor:
        ctx.idle = idle
        ctx.save_for_backward(inputs, weight, mean, (variance + eps).rsqrt(), count)
        return F.batch_norm(inputs, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, mean, scale, count = ctx.saved_tensors
        shape, sides = [1, -1, *[1] * (inputs.ndim - 2)], _sides(inputs)
        normal = (inputs - mean.view(shape)) * scale.view(shape)
        outer = gradient.to(mean.dtype)
        own = torch.stack([outer.sum(sides), (outer * normal).sum(sides)])
        whole = own.clone()
        with _together():
            dist.all_reduce(whole)
        shift, slope = (whole / count).view(2, *shape[1:]).unsqueeze(1)
        factor = scale if weight is None else scale * weight
        inner = (outer if ctx.idle else outer - shift - normal * slope) * factor.view(shape)
        beta, gamma = (None, None) if weight is None else (own[0], own[1])
        return inner.to(inputs.dtype), gamma, beta, None, None, None, None, None
