"""Plain YAML data to frozen records and back: every type is checked, every unknown name is answered with a near one."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import re
import shlex
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from medtransfer.core.errors import UserError

T = TypeVar("T")


class _Yaml12Loader(yaml.SafeLoader):
    """YAML with the floats of version 1.2, in which `1e-3` is a number."""


_Yaml12Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Yaml12Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)


def parse_yaml(text: str) -> Any:
    """Reads YAML text; the one loader that files and command-line values go through."""
    return yaml.load(text, Loader=_Yaml12Loader)  # a SafeLoader subclass: builds plain data only


def read_yaml(path: Path) -> Any:
    """Reads a YAML file that a person wrote.

    Raises:
        UserError: it is no YAML, or not in UTF-8.
    """
    content = path.read_bytes()
    try:
        return parse_yaml(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        kind = "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "WINDOWS-1252"
        name = shlex.quote(str(path))
        raise UserError(
            f"{path} is not UTF-8: byte {content[error.start]:#04x} in line {line}. Save it as UTF-8, in your editor "
            f"or by `iconv -f {kind} -t UTF-8 {name} -o {name}.new && mv {name}.new {name}`"
        ) from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from error


def read_json(path: Path, kind: type[T], what: str, advice: str) -> T:
    """Reads a file that this program wrote, which a full disk or another program may have damaged.

    Args:
        path: of the file.
        kind: as in `convert`.
        what: the file is.
        advice: what to do where it is damaged, the end of a sentence.

    Raises:
        UserError: it is absent, cut off, or something else.
    """
    try:
        return convert(json.loads(path.read_bytes()), kind)
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"{path} is no whole {what} ({error}); {advice}") from error


def convert(value: object, kind: type[T], name: str = "") -> T:
    """Converts plain data to a declared type.

    Raises:
        UserError: a key is unknown or missing, or a value has another type.
    """
    result: T = _convert(value, kind, name)
    return result


def _convert(value: Any, kind: Any, name: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _convert_section(value, typing.cast(type, kind), name)
    if kind is Any:
        return value
    if origin is Literal:
        return _check(
            value in arguments and not isinstance(value, bool), value, value, name, f"one of {list(arguments)}"
        )
    if origin is types.UnionType:  # of one type and None
        return None if value is None else _convert(value, arguments[0], name)
    if origin is tuple:
        law, words = isinstance(value, list | tuple), "a list"
        if Ellipsis not in arguments:
            law, words = law and len(value) == len(arguments), f"a list of {len(arguments)}"
        _check(law, value, value, name, words)
        return tuple(_convert(item, arguments[0], f"{name}[{index}]") for index, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        _check(isinstance(value, Mapping), value, value, name, "a mapping")
        return {str(key): _convert(item, arguments[1], f"{name}.{key}") for key, item in value.items()}
    if kind in (float, int, bool) and isinstance(value, str):  # "3e-4" in quotes means what 3e-4 means
        value = parse_yaml(value)
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(
            _check(number and abs(value) != float("inf") and value == value, value, value, name, "a finite number")
        )
    if kind is int:
        whole = not isinstance(value, bool) and (
            isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        )
        return int(_check(whole, value, value, name, "a whole number"))
    return _check(isinstance(value, kind), value, value, name, {bool: "true or false", str: "text"}[kind])


def _check(law: bool, result: Any, value: object, name: str, wanted: str) -> Any:
    if not law:
        raise UserError(f"parameter {name} must be {wanted}, got {value!r}")
    return result


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _convert_section(value: Any, kind: type, name: str) -> Any:
    prefix = f"{name}." if name else ""
    _check(isinstance(value, Mapping), value, value, name or "params", "a mapping of names to values")
    hints = _hints(kind)
    for key in value:
        if key not in hints:
            raise UserError(
                f"unknown parameter {prefix}{key}{nearest(f'{prefix}{key}', [f'{prefix}{h}' for h in hints])}"
            )
    needed = [f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING]
    for key in needed:
        if key not in value:
            raise UserError(f"missing parameter {prefix}{key}: it must be given, with `{key}: ...`")
    return kind(**{key: _convert(value[key], hint, f"{prefix}{key}") for key, hint in hints.items() if key in value})


MOST = 40
"""valid names that a message lists"""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Words a hint at the valid name nearest to an unknown one, or lists the valid ones."""
    names = list(valid)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return f"; the nearest valid name is {near[0]}" if near else f"; valid names: {', '.join(names[:MOST])}{more}"


def flatten(node: object, prefix: str = "") -> dict[str, Any]:
    """Lays a section (or the whole of `Params`) out as dotted name -> plain value."""
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        node = {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
    if not isinstance(node, Mapping) or not node:
        return {prefix: list(node) if isinstance(node, tuple) else node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Undoes `flatten` of a section."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return tree
