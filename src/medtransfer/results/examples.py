"""The worst and the best test predictions of a run, kept beside its results. Holds no name of an image or a patient.

Legend: n examples, L labels, S the network's input side, h and w those of its last feature map.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtransfer.core import files
from medtransfer.core.errors import UserError

FILE = "examples.npz"
"""in the folder of a run; runs that were finished before it was introduced, or restored from MLflow, lack it"""
DAMAGE = (OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""what numpy and zipfile raise where a file is not, or not wholly, what it should be"""


@dataclass(frozen=True, eq=False, kw_only=True)
class Examples:
    """Chosen test images, the worst before the best, the most extreme of each kind first."""

    kind: NDArray[np.str_]
    """(n,): worst or best"""
    score: NDArray[np.float64]
    """(n,): mean cross-entropy of the image in nats or, where the target is a mask, Dice"""
    labels: NDArray[np.str_]
    """(L,): names"""
    images: NDArray[np.uint8]
    """(n, S, S) or (n, S, S, 3): the centre crop, before normalization"""
    targets: NDArray[np.int8]
    """(n, L): 0, 1, or -1 for uncertain; or masks, (n, L, S, S)"""
    predictions: NDArray[Any]
    """(n, L): probabilities as tested; or masks, (n, L, S, S)"""
    shown: NDArray[np.int64]
    """(n,): the label that the caption and the heat map are of; empty for masks"""
    maps: NDArray[np.float16]
    """(n, h, w): evidence for that label where positive, against it where negative, largest magnitude 1; or empty"""
    note: NDArray[np.str_]
    """(): why a classifier has no maps; else empty"""

    @property
    def segmentation(self) -> bool:
        """Says whether the target is a mask."""
        return self.targets.ndim == 4


def save(path: Path, examples: Examples) -> None:
    """Writes examples whole or not at all; equal ones give equal bytes."""
    arrays = {field.name: getattr(examples, field.name) for field in fields(Examples)}
    with files.replacing(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **arrays)


def load(path: Path) -> Examples:
    """Reads what `save` wrote.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            examples = Examples(**{field.name: archive[field.name] for field in fields(Examples)})
        lengths = {len(each) for each in (examples.kind, examples.score, examples.images, examples.targets)}
        if lengths != {len(examples.predictions)}:
            raise ValueError(f"its arrays differ in length: {sorted(lengths)}")
    except DAMAGE as error:
        raise UserError(
            f"looked for the examples of a run in {path}, found no usable file ({error}); delete it, and the report "
            "goes without the images of this run"
        ) from error
    return examples
