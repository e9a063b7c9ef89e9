"""The verb `pack`: the study's finished runs -> one file that others can read, compare and check."""

from __future__ import annotations

import dataclasses
import functools
import logging
import platform
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from medtransfer.comparison.selection import belongs, collect
from medtransfer.core import files, progress
from medtransfer.core.errors import UserError, quantity, some
from medtransfer.core.identity import PROTOCOL_VERSION
from medtransfer.packs import cards, file, predictions, private
from medtransfer.packs.file import Content
from medtransfer.packs.records import Contribution
from medtransfer.params import Params
from medtransfer.results import study
from medtransfer.results.result import ELSEWHERE, Result
from medtransfer.results.result import predictions as predictions_of
from medtransfer.weights.names import expected

log = logging.getLogger("medtransfer")

LIBRARIES = ("medtransfer", "torch", "timm", "numpy", "scikit-learn")


def pack(params: Params, root: Path, lab: str, target: Path, with_predictions: bool = False) -> Contribution:
    """Writes the benchmark's finished runs into a pack of one contribution.

    Args:
        params: of the study.
        root: the study's folder.
        lab: whose runs they are.
        target: of the file.
        with_predictions: takes the test predictions along.

    Raises:
        UserError: there is no finished run of the benchmark, or one is damaged or of another protocol version.
    """
    if not lab.strip():
        raise UserError("a pack says whose it is: --lab, as in --lab 'Example University'")
    folder = root / "data/results/cells"
    results = chosen(params, root)
    with tempfile.TemporaryDirectory() as place:
        tables = _tables(results, folder, Path(place)) if with_predictions else {}
        contribution = _contribution(results, params, root, lab.strip(), bool(tables))
        own, text = file.of_contribution(contribution, {run: files.sha256(path) for run, path in tables.items()})
        contents: dict[str, Content] = {f"contributions/{own}.json": lambda: text}
        for one in contribution.results:
            if one.digest in tables:
                contents[file.table(own, one.task, one.digest)] = functools.partial(Path.read_bytes, tables[one.digest])
        file.write(target, contents)
    return dataclasses.replace(contribution, digest=own)


def chosen(params: Params, root: Path) -> list[Result]:
    """Reads the finished runs of the benchmark.

    Raises:
        UserError: there is none, or one is of another protocol version.
    """
    every = [one for one in collect(root / "data/results/cells", root) if one.verb != ELSEWHERE]
    found = [one for one in every if belongs(one, expected(params))]
    if not found:
        raise UserError(
            f"none of the {len(every)} finished runs in data/results/cells belongs to the benchmark of params.yaml "
            f"{some([one.label for one in every])}"
        )
    if odd := [one.label for one in found if one.protocol_version != PROTOCOL_VERSION]:
        raise UserError(
            f"{len(odd)} of {quantity(len(found), 'run')} {some(odd)} of another protocol version than "
            f"{PROTOCOL_VERSION}; run "
            "`benchmark`, which trains them again"
        )
    if unknown := [one.task for one in found if not one.metric]:
        raise UserError(
            f"task {unknown[0]}: its metric is said nowhere here; restore its task.yaml, or run `benchmark`"
        )
    return found


def _contribution(
    results: Sequence[Result], params: Params, root: Path, lab: str, with_predictions: bool
) -> Contribution:
    tuned = {(one.init, one.task) for one in results if one.recipe == "tuned"}
    ledgers = [one for one in study.collect(root / study.FOLDER) if (one.init, one.task) in tuned]
    return Contribution(
        digest="",
        lab=lab,
        created=max(one.finished for one in results) or f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        protocol_version=PROTOCOL_VERSION,
        results=tuple(map(_public, results)),
        tasks=cards.of_tasks(results, root),
        inits=cards.of_inits(results, params, root),
        ledgers=tuple(map(private.ledger, ledgers)),
        params=private.params(dataclasses.asdict(params)),
        environment=_environment(),
        predictions=with_predictions,
    )


def _public(result: Result) -> Result:
    """Takes out of a run what identifies a person or a machine."""
    texts = {name: private.clean(getattr(result, name)) for name in ("params", "arithmetic", "study", "split")}
    return dataclasses.replace(result, init=private.name_of(result.init), **texts)


def _environment() -> dict[str, str]:
    found = {"system": platform.system(), "machine": platform.machine(), "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # packing needs no torch
            continue
    return found


def _tables(results: Sequence[Result], folder: Path, place: Path) -> dict[str, Path]:
    """Writes the predictions as they travel: digest of a run -> file."""
    found = {}
    with progress.bar("predictions", len(results), "runs") as advance:
        for one in results:
            found[one.digest] = place / f"{one.digest}.parquet"
            predictions.write(predictions_of(one, folder), found[one.digest])
            advance()
    return found
