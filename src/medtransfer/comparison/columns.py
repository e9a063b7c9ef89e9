"""Which column of somebody's table holds what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from medtransfer.core.errors import UserError
from medtransfer.core.schema import nearest

ONE_TASK = "scores"
"""name of the task of a table that names none"""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column of a table holds what."""

    init: str = "init"
    task: str = "task"
    seed: str = "seed"
    fold: str = "fold"
    """of a cross-validation; a table may lack it"""
    metric: str = "metric"
    """of a long table, with `value`: name of the row's score; a table that lacks both is wide, a column each"""
    value: str = "value"
    mean: str = "mean"
    """of a table of printed means, which has no `seed`"""
    std: str = "std"
    """beside it, over runs, ddof 1; empty where none is printed"""
    n: str = "n"
    """beside it, the number of runs"""


def named(names: Mapping[str, str]) -> Columns:
    """Says which column of a table holds what.

    Raises:
        UserError: what is named is none of those that a table has.
    """
    valid = [field.name for field in fields(Columns)]
    unknown = [name for name in names if name not in valid]
    if unknown:
        raise UserError(f"columns: unknown {unknown[0]!r}{nearest(unknown[0], valid)}")
    return Columns(**names)


def chosen_metric(wanted: str, found: Sequence[str], where: str) -> str:
    """Takes the score that is meant.

    Args:
        wanted: its name; empty: the only one.
        found: names of those that are there.
        where: they are, in words.

    Raises:
        UserError: it is not there, or none is named of several.
    """
    if wanted:
        if wanted not in found:
            raise UserError(f"{where} have no {wanted!r}{nearest(wanted, found)}")
        return wanted
    if len(found) != 1:
        raise UserError(
            f"{where} hold {len(found)} scores ({', '.join(found) or 'none'}): name the one on test as metric"
        )
    return found[0]
