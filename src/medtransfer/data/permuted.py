"""Labels drawn anew among the images of train and val, so that a pipeline that leaks nothing can learn nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medtransfer.core import rng
from medtransfer.data.cache import Prepared
from medtransfer.data.tasks import Task

if TYPE_CHECKING:
    import pandas as pd


def permute(prepared: Prepared, task: Task, seed: int) -> Prepared:
    """Gives the cache with the labels, or the masks, of train and of val permuted; test keeps its own.

    A split's images are laid in a row twice, each patient's together, the patients in two orders that a named stream of
    the seed draws; what is at a place of the first row gets the labels at that place of the second. So each split
    holds exactly the label rows that it had, and those of one patient stay together as far as patients have as many
    images as each other.

    Args:
        prepared: the cache, of one fold or drawn split.
        task: whose labels these are.
        seed: of the run; every initialization sees the same permutation.
    """
    source = np.arange(len(prepared.images))
    patients = prepared.samples["patient"].to_numpy()
    for number, split in enumerate(("train", "val")):
        rows = prepared.rows(split)
        draw = np.random.default_rng(rng.seed_of(seed, "permuted", number))
        source[_in_row(rows, patients[rows], draw)] = _in_row(rows, patients[rows], draw)

    def read() -> pd.DataFrame:
        samples = prepared.samples
        columns = list(task.labels)
        return samples.assign(**{name: samples[name].to_numpy()[source] for name in columns})

    masks = None if prepared.masks is None else np.asarray(prepared.masks)[source]
    return replace(prepared, masks=masks, read_samples=read)


def _in_row(rows: NDArray[np.int64], patients: NDArray[np.object_], draw: np.random.Generator) -> NDArray[np.int64]:
    """Lays rows side by side, a patient's together and the patients in an order that is drawn."""
    _, index = np.unique(patients, return_inverse=True)
    place = draw.permutation(int(index.max(initial=-1)) + 1)
    return rows[np.argsort(place[index], kind="stable")]
