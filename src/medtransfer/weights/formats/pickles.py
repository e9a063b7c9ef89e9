"""Reads pickles without making anything but plain data and stand-ins.

The stand-in of a class or function keeps what it would have been called with, and is never more than that: no library
is imported, no attribute is looked up, nothing is called. Arrays become tensors from their bytes, not by numpy's own
unpickling. That is enough for BYOL's checkpoints (deepmind-research, `byol/utils/checkpointing.py`): a dill pickle of a
named tuple of haiku's parameters and states (`haiku/_src/data_structures.py` has their forms over the years).
"""

from __future__ import annotations

import math
import pickle
import pickletools
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from medtransfer.core.errors import UserError

Saved = Callable[[Any], Any]
"""finds what a pickle refers to by a persistent id"""

NUMPY = (
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *(f"numpy.{core}._multiarray_umath.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
)
PLAIN = (
    "argparse.Namespace",
    *(f"{root}._reconstructor" for root in ("copyreg", "copy_reg")),
    *(
        f"{root}.{t}"
        for root in ("builtins", "__builtin__")
        for t in ("object", "dict", "list", "tuple", "set", "frozenset")
    ),
)
ROOTS = ("haiku", "jax", "jaxlib", "optax", "byol", "deepmind_research")
"""packages whose classes are in BYOL's checkpoints"""
TORCH = re.compile(r"torch\.(\w+(Storage|Tensor)|Size|device|_utils\._rebuild_\w+|nn\.parameter\.Parameter)")
DILL = re.compile(r"dill\.(_dill\.|dill\.)?(_create_namedtuple|_create_array|_get_attr|_import_module|_load_type)")
"""dill (0.3.1 and 0.4, both tried) saves functions of numpy by way of `_get_attr`, arrays by way of `_create_array`"""
STATE = ("online_params", "target_params", "online_state", "target_state", "opt_state")
"""fields of BYOL's `_ByolExperimentState`, for files that name the class without them"""
NUMBERS = re.compile(r"[<>=|](f[248]|[iu][1248]|b1)")
MOST_NODES, DEEPEST = 200_000, 32
"""of a tree: above any network's, and below those of a file that repeats itself"""


class Inert:
    """Stands for an object of a pickle: keeps what it is made from and does nothing."""

    __slots__ = ("args", "made", "state")
    name: ClassVar[str] = ""
    """module and name of what it stands for"""
    fields: ClassVar[tuple[str, ...]] = ()
    """of a named tuple"""
    args: tuple[Any, ...]
    state: Any
    """what the pickle would set on it"""
    made: Tensor | None
    """of an array, once it was asked for"""

    def __new__(cls, *args: Any, **_: Any) -> Any:
        """Keeps the arguments."""
        self: Inert = super().__new__(cls)
        self.args, self.state, self.made = args, None, None
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state


def held(tensor: Tensor) -> Inert:
    """Makes the stand-in of a tensor, which is given back by `array`: a pickle could set attributes of the tensor."""
    holder: Inert = Inert()
    holder.made = tensor
    return holder


class _Ordered(dict[Any, Any]):
    """An OrderedDict without attributes, which a pickle could set."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Leaves out the attributes, such as torch's `_metadata`."""


def stand_in(name: str, fields: Iterable[str] = ()) -> type[Inert]:
    """Makes the class that stands for the class or function `name`."""

    class StandIn(Inert):
        __slots__ = ()

    StandIn.name, StandIn.fields = name, tuple(fields)
    return StandIn


def _calling(function: Callable[..., Any]) -> type[Inert]:
    """Makes a class whose call is a function's, because a pickle can change attributes of functions."""

    class Call(Inert):
        __slots__ = ()

        def __new__(cls, *args: Any) -> Any:
            return function(*args)

    return Call


class _Unpickler(pickle.Unpickler):
    """Gives stand-ins for all names, and notes those that are not plain data."""

    def __init__(self, stream: IO[bytes], saved: Saved | None) -> None:
        super().__init__(stream, encoding="latin1")
        self.saved = saved
        self.refused: list[str] = []
        self.special: dict[str, type] = {
            "collections.OrderedDict": _Ordered,
            "_codecs.encode": _calling(lambda text, _: text),  # protocol 2 saves bytes as text, in Latin-1
            "builtins.bytes": _calling(lambda: b""),
            "__builtin__.bytes": _calling(lambda: b""),
            "_get_attr": _calling(lambda module, name: self.find_class(module.args[0], name)),
            "_load_type": _calling(lambda name: self.find_class("builtins", name)),
            "_create_namedtuple": _calling(lambda name, fields, module, *_: stand_in(f"{module}.{name}", fields)),
        }

    def find_class(self, module: str, name: str) -> type:
        full = f"{module}.{name}"
        key = name if DILL.fullmatch(full) else full
        if key not in self.special:
            known = full in NUMPY or full in PLAIN or TORCH.fullmatch(full) or key == name
            if not known and module.split(".")[0] not in ROOTS:
                self.refused.append(full)
            self.special[key] = stand_in(full, STATE if name == "_ByolExperimentState" else ())
        return self.special[key]

    def persistent_load(self, key: Any) -> Any:
        if self.saved is None:
            raise pickle.UnpicklingError("a persistent id without a file that it could refer to")
        return self.saved(key)


def unpickle(stream: IO[bytes], saved: Saved | None = None) -> Any:
    """Reads one pickle from where the stream stands, and leaves the stream behind it.

    Raises:
        UserError: the pickle wants what is not plain data.
        Exception: of any kind, on damaged bytes.
    """
    start = stream.tell()
    unpickler = _Unpickler(stream, saved)
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if opcode.name in ("EXT1", "EXT2", "EXT4"):  # they pass `find_class` by
                unpickler.refused.append(f"extension code {argument}")
                raise pickle.UnpicklingError("an extension code")
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > number:
                raise pickle.UnpicklingError("a memo with gaps")  # memory is taken for every number below
        stream.seek(start)
        return unpickler.load()
    finally:
        unpickler.memo.clear()  # of the bytes of arrays: the unpickler is in a cycle, so it would keep them for a while
        if unpickler.refused:  # first, whatever else went wrong: stand-ins do not behave as the program expects
            names = ", ".join(sorted(set(unpickler.refused)))
            raise UserError(
                f"was not loaded, because it could run code: its pickle wants {names}. "
                "Get the weights as safetensors, or as a state dict of tensors saved with torch.save"
            )


def array(value: object) -> Tensor | None:
    """Gives the stand-in of a numpy array or scalar as a tensor, None for anything else."""
    if not isinstance(value, Inert):
        return None
    if value.made is None and (found := _array_state(value)):
        shape, dtype, fortran, data = found
        kind = f"{dtype.state[1]}{dtype.args[0]}"
        if NUMBERS.fullmatch(kind):
            value.made = _numbers(shape, np.dtype(kind), "F" if fortran else "C", data)
            value.args, value.state = (), None  # a file's bytes are not held twice
    return value.made


def _array_state(value: Inert) -> tuple[Any, ...] | None:
    """Finds an array's shape, type, order and bytes, as numpy's `ndarray.__reduce__` has them."""
    name = value.name.rpartition(".")[2]
    if value.name in NUMPY and name == "scalar":
        return (), value.args[0], False, value.args[1]
    if value.name in NUMPY and name == "_reconstruct":
        return tuple(value.state[1:])
    if len(value.args) > 2 and isinstance(value.args[0], type) and issubclass(value.args[0], Inert):
        # dill's `_create_array` and jax's `_reconstruct_array`: numpy's function, its arguments, the state
        return tuple(value.args[2][1:]) if value.args[0].name in NUMPY else None
    return None


def _numbers(shape: tuple[int, ...], dtype: np.dtype[Any], order: Any, data: str | bytes) -> Tensor:
    buffer = bytearray(data.encode("latin1") if isinstance(data, str) else data)
    if math.prod(shape) * dtype.itemsize != len(buffer):
        raise ValueError(f"an array of shape {shape} has {len(buffer)} bytes")
    numbers: np.ndarray = np.ndarray(shape, dtype, buffer, order=order)
    return torch.from_numpy(numbers.astype(dtype.newbyteorder("="), copy=False))


def read(path: Path) -> tuple[str, Any, list[str]]:
    """Reads a pickle of arrays.

    Returns:
        The container, the tree (of a haiku experiment, every array by its path, "online_params/<module>/<name>"), and
        names of what was left out of the tree.

    Raises:
        UserError: the pickle wants what is not plain data, or holds an experiment in a form that is not read.
    """
    with path.open("rb") as stream:
        tree = unpickle(stream)
    if not isinstance(tree, Mapping) or "experiment_state" not in tree:
        return "pickle", tree, []
    tensors, others = _leaves(tree["experiment_state"])
    return "haiku pickle", tensors, [*(str(key) for key in tree if key != "experiment_state"), *others]


def _leaves(state: object) -> tuple[dict[str, Tensor], list[str]]:
    """Gives all arrays of a tree, and the paths of what are none."""
    tensors: dict[str, Tensor] = {}
    others: list[str] = []
    todo: list[tuple[tuple[str, ...], Any]] = [((), state)]
    for _ in range(MOST_NODES):
        if not todo:
            return tensors, others
        where, value = todo.pop()
        path, tensor, inside = "/".join(where), array(value), _inside(value)
        if tensor is not None:
            tensors[path] = tensor
        elif inside is not None:
            todo += reversed([((*where, str(key)), item) for key, item in inside.items()])
        elif isinstance(value, Inert) and where[:1] != ("opt_state",):  # an optimizer's odd ends hold no weights
            raise UserError(f"holds {path or 'its state'} in a form that is not read: {value.name}")
        else:
            others.append(path)
        if len(where) > DEEPEST or len(todo) > MOST_NODES:
            break
    raise ValueError("its tree has no end")


def _inside(value: object) -> Mapping[Any, Any] | None:
    """Opens a mapping, a sequence, a named tuple, or one of haiku's mappings."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    if not isinstance(value, Inert):
        return None
    if value.fields:
        return dict(zip(value.fields, value.args, strict=True))
    for part in value.state if isinstance(value.state, tuple) else (value.state,):
        for slot in ("_storage", "_mapping"):
            if isinstance(part, Mapping) and part.get(slot) is not None:
                return _inside(part[slot])
    if value.name.startswith("haiku."):
        return _inside_argument(value.args)
    return dict(enumerate(value.args)) if value.state is None and value.name.split(".")[0] in ROOTS else None


def _inside_argument(args: tuple[Any, ...]) -> Mapping[Any, Any] | None:
    """Opens a haiku mapping that was saved as its class and a dict or a list of pairs."""
    if len(args) != 1 or not isinstance(args[0], Mapping | list | tuple):
        return None
    return dict(args[0])
