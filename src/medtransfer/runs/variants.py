"""Protocols and fractions of the labels: which runs they make of one, and which of these cannot be."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from medtransfer.core.errors import UserError
from medtransfer.data import label_subsets
from medtransfer.data.cache import Prepared, load
from medtransfer.params import parse_fraction, task_params
from medtransfer.training import fitting
from medtransfer.training.fitting import NetworkSpec

if TYPE_CHECKING:
    from medtransfer.runs.run import Run

log = logging.getLogger("medtransfer")


def spread(runs: Sequence[Run], protocols: Iterable[str], fractions: Iterable[str]) -> list[Run]:
    """Gives every run in each protocol and fraction that it can have; the others are left out and named.

    Raises:
        UserError: none is left, with the reasons.
    """
    wanted = [(protocol, parse_fraction(fraction)) for protocol in protocols for fraction in fractions]
    varied = [dataclasses.replace(run, protocol=one, fraction=share) for one, share in wanted for run in runs]
    caches = {run.prepared: load(run.prepared) for run in varied}
    reasons = [(run, misfit(run, caches[run.prepared])) for run in varied]
    left_out = dict.fromkeys(reason for _, reason in reasons if reason)
    left = [run for run, reason in reasons if not reason]
    if varied and not left:
        raise UserError("; ".join(left_out))
    for reason in left_out:
        log.info("left out: %s", reason)
    return left


def misfit(run: Run, whole: Prepared) -> str:
    """Says why a run cannot have its protocol or its fraction, and what to do; empty: it can."""
    try:
        size = task_params(run.params, run.task).image_size
        spec = NetworkSpec.of(run.init, run.params.model, size)
        fitting.check_protocol(run.record, run.protocol, run.params.protocols, spec, run.training.backbone_lr)
        if run.fraction.whole and run.protocol != "knn":
            return ""
        part = labelled(whole.of_fold(run.fold), run)
        if run.protocol == "knn" and (count := len(part.rows("train"))) < min(run.params.protocols.knn_neighbours):
            fewest = min(run.params.protocols.knn_neighbours)
            raise UserError(
                f"protocol knn on task {run.task} has {count} images in train and protocols.knn_neighbours asks for "
                f"{fewest} at least: name a smaller number there"
            )
    except UserError as error:
        return str(error)
    return ""


def labelled(prepared: Prepared, run: Run) -> Prepared:
    """Gives the cache, of the run's fold or drawn split, with the labels that its fraction leaves.

    Raises:
        UserError: as `label_subsets.subset`.
    """
    return label_subsets.subset(prepared, run.record, run.fraction, run.seed, run.params.benchmark.fractions_of)
