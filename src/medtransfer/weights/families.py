"""What an entry of a claim stands for: an initialization, a family of them, or one per dataset X."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from medtransfer.core.errors import UserError
from medtransfer.core.schema import nearest
from medtransfer.weights.zoo import RECORDS

FAMILIES = (*sorted({record.family for record in RECORDS.values()} - {"random"}), "yours")
"""words that stand for one of several inits; `random` is an init"""


def split(name: str) -> tuple[str, str]:
    """Splits a canonical name into the bare name and the backbone; a bare name has none."""
    if name.startswith("timm:"):
        return name, name.removeprefix("timm:").partition(".")[0]
    head, at, rest = name.rpartition("@")
    backbone, *datasets = rest.split("+")
    return ("+".join((head, *datasets)), backbone) if at else (name, "")


def backbone(inits: Iterable[str]) -> str:
    """Gives the backbone that all inits have; empty where they differ."""
    found = {split(init)[1] for init in inits}
    return found.pop() if len(found) == 1 else ""


def labels(inits: Sequence[str]) -> dict[str, str]:
    """Gives every init a label: its name without the backbone where all have the same one, else its whole name."""
    bare = {init: split(init)[0] for init in inits} if backbone(inits) else {}
    return bare if len(set(bare.values())) == len(inits) else {init: init for init in inits}


def matches(entry: str, name: str, backbone: str | None) -> bool:
    """Says whether an entry means a name: of the entry's own backbone, else of `backbone`; None: of any."""
    (meant, own), (bare, its) = split(entry), split(name)
    if entry == name or (own or backbone) not in (None, its):
        return entry == name
    if meant in FAMILIES:
        return _family(bare, its) == meant
    return bool(dataset_of(entry, name)) if meant.endswith("+X") else meant == bare


def dataset_of(entry: str, name: str) -> str:
    """Gives the one dataset that X stands for in a name; empty where there is none."""
    meant, bare = split(entry)[0], split(name)[0]
    dataset = bare.removeprefix(meant[:-1]) if meant.endswith("+X") else bare
    fits = bare not in RECORDS or RECORDS[bare].family == "domain-adapted"
    return dataset if dataset != bare and "+" not in dataset and fits else ""


def members(entry: str, other: str, inits: Iterable[str]) -> list[str]:
    """Lists the members of a family without what they are compared with; another entry is its only member."""
    if split(entry)[0] not in FAMILIES:
        return [entry]
    return [name for name in inits if matches(entry, name, None) and not matches(other, name, None)]


def check_entry(entry: str, own: Sequence[str], datasets: Sequence[str], place: str) -> None:
    """Refuses an entry that is no init, no family, and no init with datasets behind it, of which the last may be X.

    Raises:
        UserError: with `place` and the nearest valid name.
    """
    bare, _ = split(entry)
    if bare in (*RECORDS, *own, *FAMILIES) or bare.startswith(("timm:", "file:", "hf:")):
        return
    head, *further = bare.split("+")
    heads = [*RECORDS, *own, *([] if further else FAMILIES)]
    if head not in heads:
        raise UserError(f"{place}: unknown init or family {head!r}{nearest(head, heads)}")
    valid = [*sorted(datasets), "X"]
    for dataset in further:
        if dataset not in valid or "X" in further[:-1]:
            raise UserError(f"{place}: unknown dataset {dataset!r} in {entry}{nearest(dataset, valid)}")


def _family(bare: str, backbone: str) -> str:
    """Gives the family of an init; one that is not known is the user's own where it has a backbone."""
    if bare in RECORDS or bare.startswith("timm:"):
        return RECORDS[bare].family if bare in RECORDS else "supervised"
    head, plus, _ = bare.partition("+")
    return "domain-adapted" if plus and head in RECORDS else "yours" if backbone else ""
