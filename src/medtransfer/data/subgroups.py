"""Groups that a task's table tells apart, such as sex and bands of age: as few, and as large, as to name nobody."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medtransfer.core.errors import UserError, some
from medtransfer.data.overlap import Strings
from medtransfer.data.readers.columns import UNKNOWN
from medtransfer.data.readers.reading import Sample
from medtransfer.data.tasks import GROUP, slug

MOST = 12
"""values of a column"""
FEW = 4
"""values that even a sample of few patients may have"""
FEWEST = 5
"""patients of a value that enters the cache by its name; those of rarer ones are `OTHER`"""
OTHER = "other"


def settle(samples: Sequence[Sample], units: Strings, where: Path) -> dict[str, list[str]]:
    """Gives the columns of the cache: the group of every sample, by name.

    Args:
        samples: of a task.
        units: the patient of each.
        where: the dataset's folder, for a message.

    Raises:
        UserError: a column tells so many apart that it may say who somebody is.
    """
    names = list(dict.fromkeys(name for sample in samples for name in sample.groups))
    return {f"{GROUP}{slug(name)}": _column(name, samples, units, where) for name in names}


def _column(name: str, samples: Sequence[Sample], units: Strings, where: Path) -> list[str]:
    values = [sample.groups.get(name, UNKNOWN) for sample in samples]
    held: dict[str, set[str]] = {}
    for value, unit in zip(values, units.tolist(), strict=True):
        if value != UNKNOWN:
            held.setdefault(value, set()).add(unit)
    patients = len({unit for group in held.values() for unit in group})
    if len(held) > MOST or (len(held) > FEW and 2 * len(held) > patients):
        raise UserError(
            f"{where}: the subgroups of {name!r} are {len(held)} for {patients} patients {some(sorted(held))}: at "
            f"most {MOST}, and no more than one for two patients, enter the cache, lest they say who somebody is. Cut "
            f"numbers into bands (`subgroups: {{{name}: [40, 60]}}`), or take the column out of task.yaml"
        )
    kept = {value: value if len(group) >= FEWEST else OTHER for value, group in held.items()}
    rare = {unit for value, group in held.items() if kept[value] == OTHER for unit in group}
    other = OTHER if len(rare) >= FEWEST else UNKNOWN
    return [other if kept.get(value) == OTHER else kept.get(value, UNKNOWN) for value in values]
