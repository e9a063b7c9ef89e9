"""Finished runs as columns of plain data, and back: what many runs share is written once."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from medtransfer.core import schema
from medtransfer.core.errors import UserError
from medtransfer.results.result import LOOKED_UP, Result

NUMBERS = ("scores", "cost", "counts")
"""fields that are numbers by name: a column for each name"""
OWN = ("mlflow_run_id", "parts")
"""fields that say something of the machine that trained alone"""
LEFT_OUT = ("away",)
"""fields that describe predictions which no pack holds; the scores stay"""
DIGITS = 4
"""that the curves of a training and what it cost keep, and curves of single labels are left out; scores keep all"""

_FIELDS = tuple(
    field.name
    for field in dataclasses.fields(Result)
    if field.name not in (*LOOKED_UP, *NUMBERS, *OWN, *LEFT_OUT, "history", "protocol_version")
)
_HINTS = typing.get_type_hints(Result)
_ABSENT = type(None)


def write(results: Sequence[Result]) -> dict[str, Any]:
    """Lays runs out as columns, without what is looked up and what is the machine's own.

    Args:
        results: of one protocol version.
    """
    return {
        "runs": len(results),
        "fields": {name: _column([_plain(getattr(one, name)) for one in results]) for name in _FIELDS},
        **{name: _numbers([getattr(one, name) for one in results], name == "cost") for name in NUMBERS},
        "epochs": [len(one.history) for one in results],
        "history": _numbers([_without_labels(epoch) for one in results for epoch in one.history], True),
    }


def read(tree: object, protocol_version: int) -> list[Result]:
    """Makes runs of columns again.

    Args:
        tree: as `write` lays it out, of any origin.
        protocol_version: of all runs.

    Raises:
        UserError: a column is missing, unknown, too short or of another type.
    """
    whole = _mapping(tree, "results", ("runs", "fields", *NUMBERS, "epochs", "history"))
    count = whole["runs"]
    _require(type(count) is int and count >= 0, "runs", "a number of runs", count)
    fields = _mapping(whole["fields"], "fields", _FIELDS)
    own = fields["digest"].get("values") if isinstance(fields["digest"], Mapping) else None
    _require(isinstance(own, list) and len(own) == count, "digest", f"{count} values", own)  # before any is repeated
    columns = {name: _values(fields[name], name, count) for name in _FIELDS}
    for name in NUMBERS:
        columns[name] = _mappings(whole[name], name, count, whole=name == "counts")
    epochs = whole["epochs"]
    _require(isinstance(epochs, list) and len(epochs) == count, "epochs", f"{count} numbers", epochs)
    _require(set(map(type, epochs)) <= {int} and min(epochs, default=0) >= 0, "epochs", "numbers of epochs", epochs)
    history = _mappings(whole["history"], "history", sum(epochs))
    ends, at = [], 0
    for length in epochs:
        at += length
        ends.append(at)
    columns["history"] = [
        tuple(history[end - length : end]) for end, length in zip(ends, epochs, strict=True)
    ]  # fmt: skip
    shared: dict[str, Any] = {"mlflow_run_id": None, "protocol_version": protocol_version}
    names = list(columns)
    return [Result(**dict(zip(names, row, strict=True)), **shared) for row in zip(*columns.values(), strict=True)]


def canonical(tree: object) -> str:
    """Spells plain data in the one way in which equal data are equal bytes."""
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """Turns records into mappings."""
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def _column(values: Sequence[Any]) -> dict[str, Any]:
    """Writes each distinct value once, and which run has which where they differ."""
    spelled = [canonical(value) for value in values]
    places = {text: place for place, text in enumerate(dict.fromkeys(spelled))}
    first = dict(zip(reversed(spelled), reversed(values), strict=True))
    found: dict[str, Any] = {"values": [first[text] for text in places]}
    return found if len(places) in (1, len(values)) else {**found, "at": [places[text] for text in spelled]}


def _values(tree: object, name: str, count: int) -> list[Any]:
    """Reads a column; one value is all runs', as many as runs are one each."""
    column = _mapping(tree, name, ("values", "at")) if isinstance(tree, Mapping) and "at" in tree else None
    column = column or _mapping(tree, name, ("values",))
    _require(isinstance(column["values"], list), name, "a list of values", column["values"])
    values = [schema.convert(value, _HINTS[name], name) for value in column["values"]]
    if "at" not in column:
        _require(len(values) in (1, count), name, f"1 value or {count}", len(values))
        return values * count if len(values) == 1 else values
    at = column["at"]
    _require(isinstance(at, list) and len(at) == count, name, f"places of {count} runs", at)
    _require(
        set(map(type, at)) <= {int} and min(at, default=0) >= 0 and max(at, default=-1) < len(values),
        name, f"places below {len(values)}", at,
    )  # fmt: skip
    return [values[place] for place in at]


def _numbers(rows: Sequence[Mapping[str, float]], short: bool) -> dict[str, list[float | None]]:
    """Gives every name a column, with nothing where a row lacks it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [_short(row.get(name)) if short else row.get(name) for row in rows] for name in names}


def _without_labels(epoch: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in epoch.items() if "." not in name}


def _short(value: float | None) -> float | None:
    return value if value is None or value == int(value) else float(f"{value:.{DIGITS}g}")


def _mappings(tree: object, name: str, count: int, whole: bool = False) -> list[dict[str, Any]]:
    """Reads columns of numbers as a mapping for each row, without what the row lacks."""
    _require(isinstance(tree, Mapping), name, "numbers by name", tree)
    columns = typing.cast(Mapping[str, Any], tree)
    for key, column in columns.items():
        _require(isinstance(column, list) and len(column) == count, f"{name}.{key}", f"{count} numbers", column)
    _require(bool(columns) or name != "history" or not count, name, f"columns of {count} epochs", columns)
    rows: list[dict[str, Any]] = [{} for _ in range(count)]
    for key, column in columns.items():
        kinds = set(map(type, column))
        _require(kinds <= ({int, _ABSENT} if whole else {int, float, _ABSENT}), f"{name}.{key}", "numbers", kinds)
        given = [value for value in column if value is not None]
        _require(all(map(math.isfinite, given)), f"{name}.{key}", "finite numbers", "another")
        for row, value in zip(rows, column, strict=True):
            if value is not None:
                row[key] = value
    return rows


def _mapping(tree: object, name: str, keys: Sequence[str]) -> Mapping[str, Any]:
    """Refuses what has not exactly these keys."""
    _require(isinstance(tree, Mapping), name, "a mapping", tree)
    found = typing.cast(Mapping[str, Any], tree)
    unknown, lacking = [key for key in found if key not in keys], [key for key in keys if key not in found]
    if unknown or lacking:
        words = [*(f"unknown {key}" for key in unknown[:3]), *(f"no {key}" for key in lacking[:3])]
        raise UserError(f"{name}: {', '.join(words)}")
    return found


def _require(law: bool, name: str, wanted: str, got: object) -> None:
    if not law:
        raise UserError(f"{name} must be {wanted}, got {str(got)[:60]}")
