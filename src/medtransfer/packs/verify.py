"""The verb `verify`: a drawn share of a pack's runs is trained again; what comes out becomes a certificate in it."""

from __future__ import annotations

import hashlib
import logging
import math
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from medtransfer.core import arithmetic
from medtransfer.core.errors import UserError, quantity
from medtransfer.packs import file, retrain, sameness
from medtransfer.packs.records import Certificate, Checked, Contribution, Pack
from medtransfer.params import Params
from medtransfer.results.result import Result

log = logging.getLogger("medtransfer")

FOLDER = Path("data/verify")
BASIC = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}
"""torch without vectors: the other end of what a CPU may be"""
CAPS: Mapping[str, Mapping[str, str]] = {"AVX2": arithmetic.PINNED, "SSE4.1": BASIC}
"""instruction sets that `--spread measure` trains under, as other CPUs would"""
DOCUMENTED = f"{sameness.MEASURED:g}: the largest that docs/reproducibility.md measured between instruction sets"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be checked, and how."""

    lab: str
    """that checks"""
    share: float
    draw: int
    """number of the draw"""
    tasks: tuple[str, ...] = ()
    """that the draw is limited to; empty: it is not"""
    of: str = ""
    """lab, or beginning of the digest, of the contribution; empty: the only one"""
    spread: str = "documented"
    """documented, measure, or a number"""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """A certificate, and the runs that it speaks of."""

    certificate: Certificate
    runs: tuple[Result, ...]
    pack: str
    """digest of the pack that was written"""


def verify(path: Path, target: Path, asked: Asked, params: Params, root: Path) -> Verified:
    """Trains a drawn share of a contribution's runs again and writes what came out into the pack.

    Args:
        path: of the pack.
        target: of the pack with the certificate, which may be the same.
        asked: what is to be checked.
        params: of the study here, of which `execution` and own `inits` are read.
        root: the study's folder here.

    Raises:
        UserError: the pack cannot be read, what is asked is not in it, or a drawn run cannot be trained here, for want
            of its data or weights; then nothing is trained.
    """
    if asked.spread not in ("documented", "measure"):
        read_spread(asked.spread)
    opened = file.open_pack(path)
    contribution = find(opened.pack, asked.of)
    runs = draw(contribution, asked.share, asked.draw, asked.tasks)
    folder = root / FOLDER / contribution.digest[:12]
    log.info("%d of %s of %s drawn, trained in %s", len(runs), quantity(len(contribution.results), "run"),
             contribution.lab, folder)  # fmt: skip
    work = retrain.jobs(runs, contribution, params)
    retrain.workspace(root, folder / "study", work, contribution)
    if lacking := retrain.check(work, folder / "study"):
        lines = dict.fromkeys(lacking.values())
        raise UserError(
            f"{len(lacking)} of {len(runs)} drawn runs cannot be trained here, and nothing was trained:\n  "
            + "\n  ".join(lines)
            + "\nGet what is missing, or limit the draw to tasks whose data are here: --only a,b"
        )
    found = retrain.train(work, folder / "study")
    spread, rule = _spread(asked.spread, work, found, folder, root, contribution)
    checked = tuple(judge(one, found[one.digest], spread) for one in runs)
    certificate = Certificate(
        contribution=contribution.digest, by=asked.lab, finished=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        share=asked.share, draw=asked.draw, machine=_machine(found), versions=_versions(found), checked=checked,
        rule=rule, tasks=asked.tasks,
    )  # fmt: skip
    name, text = file.of_certificate(certificate)
    written = file.write(target, {**opened.contents(), name: lambda: text})
    return Verified(certificate=certificate, runs=tuple(runs), pack=written)


def find(pack: Pack, of: str) -> Contribution:
    """Finds the contribution that is meant: by its lab or the beginning of its digest; the only one by nothing.

    Raises:
        UserError: none is, or several are.
    """
    found = [one for one in pack.contributions if of in ("", one.lab) or (len(of) > 5 and one.digest.startswith(of))]
    if len(found) != 1:
        there = "; ".join(
            f"{one.lab} ({one.digest[:12]}, {quantity(len(one.results), 'run')})" for one in pack.contributions
        )
        raise UserError(
            f"--of must name one contribution by its lab or the beginning of its digest, {of or 'nothing'!r} names "
            f"{len(found)} of: {there}"
        )
    return found[0]


def draw(contribution: Contribution, share: float, number: int, tasks: Sequence[str] = ()) -> list[Result]:
    """Draws runs: at least one, of as many initializations as can be.

    The order is that of SHA-256 of "<contribution> <number> <run>", first runs of an initialization before second ones,
    so that anybody can draw them again.

    Args:
        contribution: to draw from.
        share: of its runs.
        number: of the draw.
        tasks: to draw from; empty: all.

    Raises:
        UserError: the share is none, or there is no run of a task.
    """
    if not 0 < share <= 1:
        raise UserError(f"--share is a part of the runs, above 0 and at most 1, got {share:g}")
    known = {one.task for one in contribution.results}
    if unknown := [task for task in tasks if task not in known]:
        raise UserError(f"the pack has no run of {unknown[0]}; its tasks: {', '.join(sorted(known))}")
    runs = [one for one in contribution.results if not tasks or one.task in tasks]
    order = sorted(
        runs, key=lambda one: hashlib.sha256(f"{contribution.digest} {number} {one.digest}".encode()).digest()
    )
    before, ranked = Counter[str](), list[tuple[int, Result]]()
    for one in order:
        ranked.append((before[one.init], one))
        before[one.init] += 1
    ranked.sort(key=lambda pair: pair[0])
    return [one for _, one in ranked[: max(1, math.ceil(share * len(runs)))]]


def number_of(text: str) -> int:
    """Reads the number of a draw; `new`: one that nobody could know before.

    Raises:
        UserError: it is neither.
    """
    if text == "new":
        return secrets.randbelow(2**31)
    if not text.isdigit():
        raise UserError(f"--draw is a whole number >= 0 or `new`, got {text!r}")
    return int(text)


def judge(claimed: Result, found: Result | str, spread: float) -> Checked:
    """Says how a run that was trained again stands to what its pack says.

    Args:
        claimed: of the pack.
        found: trained here, or why that failed.
        spread: between primary scores of runs of other arithmetic; of equal arithmetic it is none.
    """
    if isinstance(found, str):
        return Checked(run=claimed.digest, verdict="failed", claimed=claimed.score, found=None, spread=None, note=found)
    found = replace(found, metric=claimed.metric)
    mine, its = claimed.score, found.score
    blank = Checked(run=claimed.digest, verdict="equal", claimed=mine, found=its, spread=None)
    names = sameness.differing(claimed, found, 0.0)
    if not names:
        return blank
    apart = f"{names[0]} is {claimed.scores.get(names[0])} in the pack, {found.scores.get(names[0])} here"
    same = sameness.alike(claimed, found)
    allowed = 0.0 if same else spread
    words = "equal arithmetic" if same else f"{arithmetic.kind(claimed.arithmetic)} there"
    within = not same and mine is not None and its is not None and abs(mine - its) <= allowed
    return replace(blank, verdict="within" if within else "different", spread=allowed, note=f"{words}; {apart}")


def _spread(
    asked: str, work: Sequence[retrain.Job], found: Mapping[str, Result | str], folder: Path, root: Path,
    contribution: Contribution,
) -> tuple[float, str]:  # fmt: skip
    """Finds what equal seeds may differ by on machines of other arithmetic, and says how.

    Raises:
        UserError: it is no number.
    """
    if asked == "documented":
        return sameness.MEASURED, DOCUMENTED
    if asked != "measure":
        return read_spread(asked), f"{read_spread(asked):g}: given by who checked"
    job = next((job for job in work if isinstance(found[job.claimed.digest], Result)), None)
    if job is None:
        return sameness.MEASURED, DOCUMENTED
    scores = [_score(job, found)]
    for cap, variables in CAPS.items():
        log.info("%s is trained once more, under %s", job.claimed.label, cap)
        retrain.workspace(root, folder / cap, [job], contribution)
        scores.append(_score(job, retrain.train([job], folder / cap, variables)))
    known = [score for score in scores if score is not None]
    spread = max(known) - min(known)
    return spread, (
        f"{spread:g}: between {len(known)} trainings of {job.claimed.label} here, by the machine's own instructions "
        f"and under {' and '.join(CAPS)}"
    )


def read_spread(asked: str) -> float:
    """Reads a number of `--spread`.

    Raises:
        UserError: it is none, or below 0.
    """
    try:
        spread = float(asked)
    except ValueError:
        spread = -1.0
    if not 0 <= spread < math.inf:
        raise UserError(f"--spread is documented, measure or a number >= 0, got {asked!r}")
    return spread


def _score(job: retrain.Job, found: Mapping[str, Result | str]) -> float | None:
    result = found[job.claimed.digest]
    return None if isinstance(result, str) else result.scores.get(f"test_{job.claimed.metric}")


def _machine(found: Mapping[str, Result | str]) -> str:
    kinds = dict.fromkeys(arithmetic.kind(one.arithmetic) for one in found.values() if isinstance(one, Result))
    return "; ".join(kinds) or arithmetic.UNKNOWN


def _versions(found: Mapping[str, Result | str]) -> dict[str, str]:
    return next((dict(one.versions) for one in found.values() if isinstance(one, Result)), {})
