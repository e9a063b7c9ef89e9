"""Test predictions of a run as they travel: without names of images and patients, whose grouping stays."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd

from medtransfer.core.errors import UserError, one_line
from medtransfer.data.tasks import GROUP


def write(source: Path, target: Path) -> None:
    """Copies predictions with numbers in place of names, and without groups of patients.

    An image is called by the hash of all names of its test together and its place among them, a patient likewise by
    its place in the order of their names. So runs of one test have the same names, whoever trained them, and runs of
    another test others; no name can be guessed from a hash of its own. Who has the data knows the order, and each image
    again.

    Args:
        source: what a run wrote.
        target: of the copy.

    Raises:
        UserError: the file is damaged.
    """
    try:
        table = pd.read_parquet(source)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{source} is damaged ({one_line(error)}); run `benchmark`, which brings it here again"
        ) from error
    ids = table["id"].astype(str)
    test = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:8]
    patients, _ = pd.factorize(table["patient"], sort=True)
    table = table[[name for name in table.columns if not name.startswith(GROUP)]].copy()  # two groups may be a person
    table["id"] = [f"{test}-{place:06}" for place in range(len(table))]
    table["patient"] = [f"{test}-p{number:06}" for number in patients]
    target.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(target, index=False, compression="zstd")
