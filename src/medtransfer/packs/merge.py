"""The verb `merge`: packs of several labs -> one, in which everything stays whose it is and nothing contradicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medtransfer.core.errors import UserError, quantity
from medtransfer.packs import file, sameness
from medtransfer.packs.file import Content
from medtransfer.packs.records import Certificate, Contribution, Pack
from medtransfer.results.result import Result

TOLERANCE = sameness.MEASURED
"""between the primary scores of one run that two machines trained"""
SHOWN = 10
"""contradictions that a message names"""


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What became of several packs."""

    pack: Pack
    dropped: int
    """contributions and certificates that several packs held, and the merged one holds once"""
    repeated: int
    """pairs of contributions' runs that are one run, trained by each"""
    largest: float
    """difference between the primary scores of such a pair"""
    farthest: str
    """the pair, in words; empty: there is none"""


def merge(paths: Sequence[Path], target: Path, tolerance: float = TOLERANCE) -> Merged:
    """Joins packs; every member is copied as it stands.

    Args:
        paths: of the packs.
        target: of the one that is written.
        tolerance: largest difference between the primary scores of one run that machines of different arithmetic
            trained; equal arithmetic must give equal scores.

    Raises:
        UserError: a pack cannot be read, or two contradict each other: one run with other numbers, one task with
            another metric, one initialization with other tensors.
    """
    if not paths:
        raise UserError("merge needs packs: `medtransfer merge a.pack b.pack --out all.pack`")
    contents: dict[str, Content] = {}
    contributions: dict[str, Contribution] = {}
    certificates: dict[str, Certificate] = {}
    members = 0
    for path in paths:
        opened = file.open_pack(path)
        found = opened.contents()
        members += sum(name.endswith(".json") for name in found)
        contents = found | contents
        contributions |= {one.digest: one for one in opened.pack.contributions if one.digest not in contributions}
        certificates |= {file.of_certificate(one)[0]: one for one in opened.pack.certificates}
    _refuse_declared(list(contributions.values()))
    repeated, largest, farthest = _weigh(list(contributions.values()), tolerance)
    kept = sum(name.endswith(".json") for name in contents)
    pack = Pack(
        contributions=tuple(contributions.values()),
        certificates=tuple(certificates.values()),
        digest=file.write(target, contents),
    )
    return Merged(pack=pack, dropped=members - kept, repeated=repeated, largest=largest, farthest=farthest)


def _refuse_declared(contributions: Sequence[Contribution]) -> None:
    """Refuses one name for several things."""
    tasks: dict[str, tuple[str, str, str]] = {}
    tensors: dict[str, tuple[str, str]] = {}
    for one in contributions:
        for name, task in one.tasks.items():
            lab, kind, metric = tasks.setdefault(name, (one.lab, task.kind, task.metric))
            if (kind, metric) != (task.kind, task.metric):
                raise UserError(
                    f"task {name} is {kind}, scored by {metric}, at {lab}, and {task.kind}, scored by {task.metric}, "
                    f"at {one.lab}: one of them needs another name, or leave one pack out"
                )
        for name, init in one.inits.items():
            if not init.tensors_sha256:
                continue
            lab, known = tensors.setdefault(name, (one.lab, init.tensors_sha256))
            if known != init.tensors_sha256:
                raise UserError(
                    f"init {name} is other tensors at {lab} (sha256 {known[:12]}) than at {one.lab} "
                    f"({init.tensors_sha256[:12]}): what each trained from has one name. Give one another name under "
                    "`inits`, share the file, or leave one pack out"
                )


def _weigh(contributions: Sequence[Contribution], tolerance: float) -> tuple[int, float, str]:
    """Compares the runs that several contributions hold.

    Returns:
        How many pairs there are, the largest difference of their primary scores, and that pair in words.

    Raises:
        UserError: some contradict each other.
    """
    against, count, largest, farthest, mendable = list[str](), 0, 0.0, "", 0
    for (lab, one), (other, two) in _pairs(contributions):
        count += 1
        words = sameness.named(one)
        if sameness.alike(one, two):
            if names := sameness.differing(one, two, sameness.EXACT):
                name = f"test_{one.metric}" if f"test_{one.metric}" in names else names[0]
                said = f"{name} {one.scores.get(name)} at {lab}, {two.scores.get(name)} at {other}"
                against.append(f"{words}: {said}, by equal arithmetic")
            continue
        mine, its = one.score, two.score
        if (mine is None) != (its is None):
            against.append(f"{words}: {mine} at {lab}, {its} at {other}")
        elif mine is not None and its is not None:
            said = f"{words}: {mine:.4f} at {lab}, {its:.4f} at {other}"
            if abs(mine - its) > tolerance:
                against.append(said)
                mendable += 1
            largest, farthest = max((largest, farthest), (abs(mine - its), said))
    if against:
        more = f"\n  ... and {len(against) - SHOWN} more" if len(against) > SHOWN else ""
        wider = ", or raise --tolerance" if mendable == len(against) else ""
        raise UserError(
            f"{quantity(len(against), 'run', 'have')} one digest and other numbers, beyond a tolerance of "
            f"{tolerance:g} (of equal "
            f"arithmetic {sameness.EXACT:g}):\n  " + "\n  ".join(against[:SHOWN]) + f"{more}\nOne of each pair is "
            f"wrong: have a share of both trained again (`verify`), leave one pack out{wider}"
        )
    return count, largest, farthest


def _pairs(contributions: Sequence[Contribution]) -> Iterator[tuple[tuple[str, Result], tuple[str, Result]]]:
    """Gives each run beside the first of its digest, both with whose they are."""
    first: dict[str, tuple[str, Result]] = {}
    labs = [contribution.lab for contribution in contributions]
    for contribution in contributions:
        lab = contribution.lab
        whose = f"{lab} ({contribution.digest[:8]})" if labs.count(lab) > 1 else lab
        for result in contribution.results:
            mine = (whose, result)
            other = first.setdefault(result.digest, mine)
            if other is not mine:
                yield other, mine
