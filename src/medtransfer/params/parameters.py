"""All parameters together: `params.yaml` -> one frozen record, and what of it a task is trained under."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medtransfer.core import schema
from medtransfer.core.addresses import holds_secret, scrub
from medtransfer.core.errors import UserError
from medtransfer.params.corruptions import Corruptions
from medtransfer.params.data import Data, Model, OwnInit, Phantoms, TaskParams
from medtransfer.params.limits import require, require_names
from medtransfer.params.protocols import Protocols
from medtransfer.params.recommend import Recommend
from medtransfer.params.results import Benchmark, Claim, Comparison, Promotion
from medtransfer.params.training import (
    Classification,
    Engine,
    Execution,
    Pretraining,
    Segmentation,
)
from medtransfer.params.tuning import Dimension, Tuning


@dataclass(frozen=True, kw_only=True)
class Params:
    """Every parameter, one field per section of `params.yaml`."""

    data: Data
    phantoms: Phantoms
    tasks: Mapping[str, TaskParams]
    inits: Mapping[str, OwnInit]
    model: Model
    classification: Classification
    segmentation: Segmentation
    pretraining: Pretraining
    protocols: Protocols
    tuning: Tuning
    engine: Engine
    execution: Execution
    benchmark: Benchmark
    recommend: Recommend
    comparison: Comparison
    claims: Mapping[str, Claim]
    promotion: Promotion
    corruptions: Corruptions = dataclasses.field(default_factory=Corruptions)

    def __post_init__(self) -> None:
        require_names(self.tasks, "tasks")
        described = ("registry:", "hf:")  # such names stand for themselves, their entries are made by a command
        require_names([name for name in self.inits if not name.startswith(described)], "inits")
        for name, dimension in self.tuning.space.items():
            _check_dimension(name, dimension, self)
        if self.tuning.inits:
            check_values(self)
        shared = {self.tuning.seed, *self.tuning.finalist_seeds} & set(self.benchmark.seeds)
        require(not shared, "tuning's seeds are none of benchmark.seeds", shared=sorted(shared))
        require(
            self.comparison.recipe in self.benchmark.recipes,
            "comparison.recipe is one of benchmark.recipes",
            recipe=self.comparison.recipe,
            recipes=self.benchmark.recipes,
        )
        require(
            self.comparison.protocol in self.benchmark.protocols and "1" in self.benchmark.fractions,
            "comparison.protocol is one of benchmark.protocols, and benchmark.fractions holds 1",
            protocol=self.comparison.protocol,
            protocols=self.benchmark.protocols,
            fractions=self.benchmark.fractions,
        )
        require(
            self.comparison.recipe == "fixed" or self.comparison.protocol == "finetune",
            "comparison.recipe is fixed where comparison.protocol is not finetune, because only that is tuned",
            recipe=self.comparison.recipe,
            protocol=self.comparison.protocol,
        )


def dotted_names(record: type = Params) -> list[str]:
    """Lists the dotted names of all parameters, but for those below a name of the user's own (a task, an init)."""
    found = []
    for name, kind in typing.get_type_hints(record).items():
        record_below = isinstance(kind, type) and dataclasses.is_dataclass(kind)
        found += [f"{name}.{below}" for below in dotted_names(kind)] if record_below else [name]
    return found


def _check_dimension(name: str, dimension: Dimension, params: Params) -> None:
    """Refuses a tuned field that no kind of fine-tuning has, and values that it cannot take."""
    kinds = {kind: schema.flatten(getattr(params, kind)) for kind in ("classification", "segmentation")}
    dimension.check(f"tuning.space.{name}")
    full, valid = f"tuning.space.{name}", sorted({f"tuning.space.{key}" for fields in kinds.values() for key in fields})
    found = [fields for fields in kinds.values() if name in fields]
    if not found:
        raise UserError(
            f"unknown parameter {full}: no field of classification or segmentation{schema.nearest(full, valid)}"
        )
    for fields in found:
        number = isinstance(fields[name], int | float) and not isinstance(fields[name], bool)
        require(bool(dimension.choices) or number, f"{full} is a number where it has low and high", it=fields[name])


def check_values(params: Params) -> None:
    """Refuses a space with values that the recipe around them cannot take.

    Raises:
        UserError: with the value and the law.
    """
    for kind in ("classification", "segmentation"):
        fields = schema.flatten(getattr(params, kind))
        for name, dimension in params.tuning.space.items():
            for value in (dimension.choices or (dimension.low, dimension.high)) if name in fields else ():
                try:
                    schema.convert(schema.unflatten({**fields, name: value}), type(getattr(params, kind)), kind)
                except UserError as error:
                    raise UserError(f"tuning.space.{name} holds {value!r}, which {kind} refuses: {error}") from error


def load(
    path: Path, overrides: Mapping[str, str] | None = None, tasks: Mapping[str, Mapping[str, Any]] | None = None
) -> Params:
    """Reads a parameter file and applies overrides, dotted name -> YAML text.

    Args:
        path: of the file.
        overrides: dotted name -> YAML text.
        tasks: entries of `tasks` that stand where the file has none, such as those of a task's own `task.yaml`.

    Raises:
        UserError: the file is missing, or a key is unknown, missing or ill-typed (with its full name and the
            nearest valid one).
    """
    if not path.is_file():
        raise UserError(
            f"looked for the parameter file {path}, found none; run in the folder of a study, which `medtransfer init "
            "my-study` makes"
        )
    tree = schema.read_yaml(path)
    for name, value in schema.flatten(tree).items() if isinstance(tree, dict) else ():
        if holds_secret(str(value)):
            raise UserError(
                f"{path}: {name} holds an address with a user, a password or a query that may be a token "
                f"({scrub(value)}). DVC copies this file into dvc.lock, and git keeps both: take that part out. The "
                "init keeps its name without it; fetch it once with the whole address on the command line, as in "
                "`medtransfer weights 'file:https://user:password@host/file'`, or put the file where the message of "
                "`medtransfer weights` says"
            )
    if tasks and isinstance(tree, dict) and isinstance(tree.get("tasks"), dict):
        tree["tasks"] = {**tasks, **tree["tasks"]}
    for name, text in (overrides or {}).items():
        _set(tree, name, text)
    return schema.convert(tree, Params)


def _set(tree: Any, name: str, text: str) -> None:
    """Sets one dotted name in a plain tree; `tasks.<task>.changes` takes new keys, nothing else does."""
    *path, last = name.split(".")
    node = tree
    for depth, key in enumerate(path):
        if not isinstance(node, dict) or key not in node:
            raise UserError(f"unknown parameter {name}{schema.nearest(name, schema.flatten(tree))}")
        node = node[key]
        if key == "changes" and depth == 2:  # tasks.<task>.changes.<dotted name of the kind's section>
            path, last = path[: depth + 1], ".".join([*path[depth + 1 :], last])
            break
    if not isinstance(node, dict) or (last not in node and path[-1:] != ["changes"]):
        raise UserError(f"unknown parameter {name}{schema.nearest(name, schema.flatten(tree))}")
    try:
        node[last] = schema.parse_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"the value of {name} is not YAML: {text!r}") from error


def protocol(params: Params, task: str, segmentation: bool) -> Classification | Segmentation:
    """Resolves the section that a task is fine-tuned under: its kind's, with the task's own changes.

    Raises:
        UserError: the task has no entry under `tasks`, or changes an unknown field.
    """
    kind: type[Classification] | type[Segmentation] = Segmentation if segmentation else Classification
    name = kind.__name__.lower()
    tree = schema.unflatten(schema.flatten(getattr(params, name)))
    for key, value in task_params(params, task).changes.items():
        full = f"tasks.{task}.changes.{key}"
        valid = schema.flatten(getattr(params, name))
        if key not in valid:
            raise UserError(
                f"unknown parameter {full}{schema.nearest(full, [f'tasks.{task}.changes.{v}' for v in valid])}"
            )
        *path, last = key.split(".")
        node = tree
        for part in path:
            node = node[part]
        node[last] = value
    return schema.convert(tree, kind, name)


def task_params(params: Params, task: str) -> TaskParams:
    """Finds a task's sizes.

    Raises:
        UserError: the parameter file has no entry for the task.
    """
    if task not in params.tasks:
        raise UserError(
            f"task {task} has no sizes: add `tasks.{task}: {{cache_size: ..., image_size: ..., changes: {{}}}}`"
        )
    return params.tasks[task]


def refuse_shadowed(params: Params, overrides: typing.Iterable[str], task: str | None) -> None:
    """Refuses an override that the task's own changes would silently undo.

    Raises:
        UserError: names the parameter to set instead.
    """
    changes = params.tasks[task].changes if task is not None and task in params.tasks else {}
    for name in overrides:
        section, _, field = name.partition(".")
        if section in ("classification", "segmentation") and field in changes:
            raise UserError(f"{name} has no effect on task {task}: set tasks.{task}.changes.{field} instead")
