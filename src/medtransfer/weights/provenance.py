"""timm's own conversion of a published file, and from which of its tensors each result was made.

Most architectures of timm have a function that brings the names of their publishers to timm's. It says nothing of what
it left out or made up; here every tensor that goes in carries its key through all that is computed of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from timm.models import _builder
from torch import Tensor, nn

from medtransfer.core.errors import UserError, one_line
from medtransfer.weights import architectures

Found = dict[str, tuple[tuple[str, ...], Tensor]]
"""timm's key -> (keys in the file, tensor)"""


class _Traced(Tensor):
    """A tensor that knows the keys of the file that it was computed of."""

    origin: tuple[str, ...] = ()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result: Any = super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]  # torch types it not
        keys = tuple(dict.fromkeys(key for one in _tensors((args, kwargs)) for key in one.origin))
        for one in _tensors(result):
            one.origin = keys
        return result


def _tensors(tree: Any) -> Iterator[_Traced]:
    if isinstance(tree, _Traced):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _tensors(value)
    elif isinstance(tree, (tuple, list)):
        for value in tree:
            yield from _tensors(value)


def converted(backbone: str, tensors: Found) -> Found:
    """Passes tensors through timm's own function for a backbone; one that has none keeps them as they are.

    Args:
        backbone: its name.
        tensors: name that the function is to see -> (keys in the file, tensor).

    Returns:
        What came out, each with the keys of all that it was made of; none for what was made of nothing in the file.

    Raises:
        UserError: the function cannot take these tensors.
    """
    model, convert = _function(backbone)
    if convert is None:
        return dict(tensors)
    traced = {}
    for name, (keys, tensor) in tensors.items():
        traced[name] = tensor.as_subclass(_Traced)
        traced[name].origin = keys
    try:
        try:
            made = convert(traced, model)
        except TypeError:  # as timm does: some take one argument
            made = convert(traced)
    except architectures.REFUSALS as error:
        raise UserError(f"timm's own conversion of {backbone} fails: {one_line(error)}") from error
    return {
        name: (getattr(tensor, "origin", ()), tensor.as_subclass(Tensor))
        for name, tensor in made.items()
        if isinstance(tensor, Tensor)
    }


@functools.lru_cache(maxsize=4)
def _function(backbone: str) -> tuple[nn.Module, Callable[..., Any] | None]:
    """Finds the function that timm would call for a backbone's weights, and the network that it is told of."""
    with torch.device("meta"), _caught() as calls:
        architectures.create(backbone, pretrained=True, num_classes=0)
    return calls[-1]


@contextmanager
def _caught() -> Iterator[list[tuple[nn.Module, Callable[..., Any] | None]]]:
    """Lets timm build without loading; nothing public gives an architecture's function."""
    calls: list[tuple[nn.Module, Callable[..., Any] | None]] = []
    loading = _builder.load_pretrained

    def note(model: nn.Module, *_: Any, filter_fn: Callable[..., Any] | None = None, **__: Any) -> None:
        calls.append((model, filter_fn))

    _builder.load_pretrained = note
    try:
        yield calls
    finally:
        _builder.load_pretrained = loading
