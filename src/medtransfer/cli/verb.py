"""What a verb is: one command of the command line, one entry point of MLproject, one stage of dvc.yaml."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from medtransfer.core import schema
from medtransfer.core.errors import UserError
from medtransfer.params import Params, parse_fraction
from medtransfer.params.protocols import Protocol


@dataclass(frozen=True)
class Verb:
    """One command: what it does, which options name its work, which sections it reads."""

    function: Callable[..., None]
    sections: tuple[str, ...]
    extra: str = ""
    """of the package, without which it does nothing"""
    study: bool = True
    """whether it works on a study and gets its parameters; else it is no entry point of MLproject"""

    @property
    def identity(self) -> dict[str, str | None]:
        """Lists the identity arguments with their defaults, None for one that must be given."""
        given = list(inspect.signature(self.function).parameters.values())[2 if self.study else 1 :]
        return {p.name: None if p.default is inspect.Parameter.empty else str(p.default) for p in given}

    @property
    def summary(self) -> str:
        """Says in a sentence what it does: the first paragraph of the function's docstring."""
        return " ".join((inspect.getdoc(self.function) or "").partition("\n\n")[0].split())

    def help_of(self, argument: str) -> str:
        """Says what an identity argument means: its entry below `Args:` in the function's docstring."""
        _, _, entries = (inspect.getdoc(self.function) or "").partition("\nArgs:\n")
        lines = [line.strip() for line in entries.partition("\n\n")[0].splitlines()]
        return next((line.removeprefix(f"{argument}: ") for line in lines if line.startswith(f"{argument}: ")), "")


VERBS: dict[str, Verb] = {}


SEVERAL = ("packs",)
"""identity arguments that take several words, as a list with commas between"""


def verb(*sections: str, extra: str = "", study: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a function as the verb of its name, with a hyphen where that has an underscore.

    Args:
        sections: of `params.yaml` that it reads.
        extra: of the package, without which it does nothing.
        study: whether it takes the parameters and folder of a study; else only the folder that it was called in.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        VERBS[function.__name__.replace("_", "-")] = Verb(function, sections, extra, study)
        return function

    return register


def tasks_of(params: Params, task: str) -> tuple[str, ...]:
    """Lists the tasks that an identity argument names; `all`: the benchmark's."""
    return params.benchmark.tasks if task == "all" else (task,)


def seeds_of(params: Params, seed: str) -> tuple[int, ...]:
    """Lists the seeds that an identity argument names; `all`: the benchmark's.

    Raises:
        UserError: it is neither a number nor `all`.
    """
    if seed == "all":
        return params.benchmark.seeds
    if not seed.isdigit():
        raise UserError(f"seed must be a whole number >= 0 or `all`, got {seed!r}")
    return (int(seed),)


def protocols_of(params: Params, protocol: str) -> tuple[str, ...]:
    """Lists the protocols that an identity argument names; `all`: the benchmark's.

    Raises:
        UserError: there is none of this name.
    """
    if protocol == "all":
        return params.benchmark.protocols
    if protocol not in get_args(Protocol):
        raise UserError(f"unknown protocol {protocol}{schema.nearest(protocol, get_args(Protocol))}")
    return (protocol,)


def fractions_of(params: Params, fraction: str) -> tuple[str, ...]:
    """Lists the fractions of the labels that an identity argument names; `all`: the benchmark's.

    Raises:
        UserError: it is no fraction.
    """
    return params.benchmark.fractions if fraction == "all" else (str(parse_fraction(fraction)),)
