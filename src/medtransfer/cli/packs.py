"""Verbs of results that travel: pack, merge, verify; and what compare does with a pack."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from medtransfer.cli.results import COMPARED
from medtransfer.cli.training import TRAINING
from medtransfer.cli.verb import verb
from medtransfer.core.errors import UserError, quantity
from medtransfer.params import Params

if TYPE_CHECKING:
    from rich.table import Table

    from medtransfer.packs.verify import Verified

log = logging.getLogger("medtransfer")


@verb(*COMPARED)
def pack(params: Params, root: Path, lab: str, out: str = "results.pack", predictions: str = "no") -> None:
    """Write the benchmark's finished runs into one file that others read, compare and check: no path, no host, no user.

    Args:
        params: of the study.
        root: the study's folder.
        lab: whose runs they are, as others will read it.
        out: file that is written.
        predictions: yes: truth and prediction of each test image travel too, names of images and patients as numbers.
    """
    from medtransfer.packs import pack as packing

    if predictions not in ("yes", "no"):
        raise UserError(f"--predictions must be yes or no, got {predictions!r}")
    found = packing.pack(params, root, lab, root / out, predictions == "yes")
    size = (root / out).stat().st_size
    log.info(
        "%s: %s of %s, %.0f kB, digest %s",
        out,
        quantity(len(found.results), "run"),
        found.lab,
        size / 1000,
        found.digest[:12],
    )
    if found.predictions:
        log.info("with predictions: whoever has the pack knows truth and prediction of each test image, not its name")


@verb(study=False)
def merge(root: Path, packs: str, out: str = "all.pack", tolerance: str = "0.2") -> None:
    """Join packs of several labs: everything stays whose it is, and what contradicts is refused by name.

    Args:
        root: the folder that paths are relative to.
        packs: files, with blanks or commas between.
        out: file that is written.
        tolerance: between the scores of one run that unlike machines trained; those of like machines must be equal.
    """
    from medtransfer.packs import merge as merging

    try:
        most = float(tolerance)
    except ValueError as error:
        raise UserError(f"--tolerance is a difference of scores, such as 0.05, got {tolerance!r}") from error
    if not 0 <= most <= 1:  # nothing is farther away than a number that is none
        raise UserError(f"--tolerance is a difference of scores, from 0 to 1, got {tolerance!r}")
    found = merging.merge([root / path for path in packs.split(",") if path], root / out, most)
    for one in found.pack.contributions:
        log.info("  %s: %s, %s, digest %s", one.lab, quantity(len(one.results), "run"), found.pack.status(one.digest),
                 one.digest[:12])  # fmt: skip
    log.info("%s: %s, digest %s", out, quantity(len(found.pack.contributions), "contribution"), found.pack.digest[:12])
    if found.dropped:
        log.info("in several packs, counted once: %s", quantity(found.dropped, "contribution or certificate"))
    if found.repeated:
        farthest = f"; those of unlike machines are {found.largest:.4f} apart at most ({found.farthest})"
        log.info(
            "%s trained by several labs%s", quantity(found.repeated, "run", "were"), farthest if found.farthest else ""
        )


@verb(*TRAINING, extra="train")
def verify(
    params: Params,
    root: Path,
    pack: str,
    lab: str,
    share: str = "0.05",
    draw: str = "new",
    only: str = "all",
    of: str = "",
    spread: str = "documented",
    out: str = "",
) -> None:
    """Train a drawn share of a pack's runs again here, say of each whether it came out equal, and write that into it.

    Args:
        params: of the study here; the runs are trained with the pack's own.
        root: the study's folder here, where data and weights are.
        pack: file.
        lab: who checks.
        share: of the runs, at least one.
        draw: number of the draw, which others can repeat; new: one that nobody knew before.
        only: tasks whose runs are drawn from, with commas between; all: those of the pack.
        of: lab, or beginning of the digest, whose runs are checked; needed where the pack holds several.
        spread: what unlike machines may differ by: a number; documented; measure: train one run anew as such machines.
        out: file that is written; empty: the pack itself.
    """
    from rich.console import Console

    from medtransfer.packs import verify as verifying
    from medtransfer.packs.sameness import named

    try:
        part = float(share)
    except ValueError as error:
        raise UserError(f"--share is a part of the runs, such as 0.05, got {share!r}") from error
    asked = verifying.Asked(
        lab=lab, share=part, draw=verifying.number_of(draw), of=of, spread=spread,
        tasks=() if only == "all" else tuple(only.split(",")),
    )  # fmt: skip
    target = root / (out or pack)
    found = verifying.verify(root / pack, target, asked, params, root)
    Console().print(_shown(found))
    checked = found.certificate.checked
    for run, one in zip(found.runs, checked, strict=True):
        if one.note:
            log.info("%s: %s", named(run), one.note)
    log.info("%s: certificate by %s, draw %d, spread %s", target.name, lab, asked.draw, found.certificate.rule)
    if different := sum(one.verdict == "different" for one in checked):
        raise UserError(
            f"{different} of {quantity(len(checked), 'run')} came out different; the certificate in {target} says which"
        )
    if failed := sum(one.verdict == "failed" for one in checked):
        raise UserError(
            f"{failed} of {quantity(len(checked), 'run')} could not be trained; the certificate in {target} says why"
        )


def compare_pack(root: Path, given: Mapping[str, str]) -> None:
    """Compares the runs of a pack's labs: prints what they say, and writes it where a folder is named.

    Args:
        root: the folder that paths are relative to.
        given: the options of `compare`.

    Raises:
        UserError: an option is of other scores, or the runs may not stand in one table.
    """
    from rich.console import Console

    from medtransfer.packs import compare
    from medtransfer.report import console
    from medtransfer.report.comparison import Comparison

    own = ("pack", "reference", "unbalanced", "out", "against")
    if odd := [f"--{name}" for name, value in given.items() if value not in ("", "no") and name not in own]:
        raise UserError(f"{', '.join(odd)}: of scores that other code measured, not of a pack")
    reference = "" if given["reference"] == "params" else given["reference"]
    unbalanced = tuple(filter(None, given["unbalanced"].split(",")))
    found = compare.compare(root / given["pack"], reference, unbalanced)
    Console().print(console.layout(console.summarize(found), every_task=True))
    if given["out"]:
        Comparison(found).save(root / given["out"])
        log.info("wrote %s/index.html, scores.csv, contrasts.csv and the figures", given["out"])


def _shown(found: Verified) -> Table:
    from rich.table import Table

    from medtransfer.packs.sameness import named

    table = Table("run", "claimed", "found", "verdict")
    for run, one in zip(found.runs, found.certificate.checked, strict=True):
        numbers = ["-" if value is None else f"{value:.6f}" for value in (one.claimed, one.found)]
        table.add_row(named(run), *numbers, one.verdict)
    return table
