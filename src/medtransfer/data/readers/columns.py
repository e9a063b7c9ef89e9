"""What the readers share whose images a table or list names: columns by name, missing files."""

from __future__ import annotations

import csv
import difflib
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from medtransfer.core.errors import UserError

UNKNOWN = ""
"""group of who has none"""
AGES = (40.0, 60.0)
"""years at which the official tables' ages are cut into bands"""
OLDEST = 120
"""years; more is a mistake of the table"""


def read_rows(dataset: str, table: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yields the line number of every row and its fields of some columns, without spaces around them.

    Raises:
        UserError: a column is absent, or a row has too few fields.
    """
    with open(table, newline="", encoding="utf-8-sig") as stream:
        rows = csv.reader(stream)
        try:
            places = find_columns(dataset, table, next(rows, []), columns)
            for row in filter(None, rows):  # blank lines are none
                if len(row) <= max(places):
                    raise UserError(
                        f"dataset {dataset}: {table}, line {rows.line_num}: too few fields, expected at least "
                        f"{max(places) + 1}, found {len(row)}: {row}"
                    )
                yield rows.line_num, [row[place].strip() for place in places]
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(
                f"dataset {dataset}: {table}, line {rows.line_num + 1}: {error}; a quote is never closed, or the file"
                " is not UTF-8 text: get the official table again"
            ) from error


def find_columns(dataset: str, table: Path, header: Sequence[str], columns: Sequence[str]) -> list[int]:
    """Returns the places of columns in a header.

    Raises:
        UserError: some are absent; the message names the nearest one that is there.
    """
    names = [name.strip() for name in header]
    absent = [column for column in columns if column not in names]
    if absent:
        near = difflib.get_close_matches(absent[0], names, n=1, cutoff=0)
        hint = f", the nearest to {absent[0]!r} is {near[0]!r}" if near else ""
        raise UserError(
            f"dataset {dataset}: looked for the columns {', '.join(columns)} in {table}, it lacks "
            f"{', '.join(absent)}{hint}; found {', '.join(names) or 'no header'}. Get the official table"
        )
    return [names.index(column) for column in columns]


def missing_images(dataset: str, table: Path, total: int, missing: Sequence[str], count: int = 0) -> UserError:
    """Words the refusal of a table that names images that are not on disk; `count` if `missing` holds only some."""
    return UserError(
        f"dataset {dataset}: {table} names {total} images, {count or len(missing)} are not on disk beside it: "
        f"{some(missing, count)}. Complete the files or shorten the table"
    )


def some(names: Iterable[str], count: int = 0) -> str:
    """Joins the first three of several names; `count` says how many there are if `names` holds only some."""
    listed = list(names)
    return ", ".join(listed[:3]) + (", ..." if max(count, len(listed)) > 3 else "")


def band(text: str, cuts: Sequence[float]) -> str:
    """Names the band of a number, such as `40 to below 60`; what is no number has none."""
    try:
        value = float(text)
    except ValueError:
        return UNKNOWN
    if not math.isfinite(value):
        return UNKNOWN
    below = [cut for cut in cuts if cut <= value]
    above = [cut for cut in cuts if cut > value]
    if not below:
        return f"below {above[0]:g}"
    return f"{below[-1]:g} to below {above[0]:g}" if above else f"{below[-1]:g} and above"


def read_some(table: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yields of every row of a table that was read before what it has of some columns; blank where it has none."""
    with open(table, newline="", encoding="utf-8-sig") as stream:
        rows = csv.reader(stream)
        header = [name.strip() for name in next(rows, [])]
        places = {column: header.index(column) for column in columns if column in header}
        for row in rows:
            yield {
                column: row[place].strip() if (place := places.get(column, len(row))) < len(row) else UNKNOWN
                for column in columns
            }


def age_band(text: str) -> str:
    """Names the band of an age in years, `58` or `058Y`."""
    years = text.upper().removesuffix("Y")
    return band(years, AGES) if years.isdigit() and int(years) <= OLDEST else UNKNOWN


def present(groups: dict[str, str]) -> dict[str, str]:
    """Leaves out the groups that are not known."""
    return {name: group for name, group in groups.items() if group != UNKNOWN}
