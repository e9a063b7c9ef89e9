"""One deterministic pass of a frozen backbone over a prepared cache: what every protocol that trains no backbone reads.

Legend: N images of the cache, F features, P positions (pixels) of an image, S side of the network's input, L labels.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from medtransfer.core import files, rng, schema
from medtransfer.core.errors import UserError
from medtransfer.training.loader import Batch, Loader
from medtransfer.training.networks import Pyramid

BATCH = 64
"""images of one forward; fixed, so that equal passes give equal bytes wherever they stopped between"""
VALUES, BITS, MANIFEST, JOURNAL = "features.npy", "targets.npy", "manifest.json", "journal.txt"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a folder of features holds."""

    digest: str
    """of what they were computed from"""
    parts: dict[str, str]
    """file -> its hash"""
    seconds: float
    """that the pass took, all its starts together"""


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of every row of a cache."""

    values: NDArray[np.float16] | NDArray[np.float32]
    """(N, F), or (N, P, F) at positions of each image"""
    targets: NDArray[np.uint8] | None
    """(N, P): bit k for label k at each position; None where features are of whole images"""
    seconds: float
    """that the pass took"""


def positions(keys: NDArray[np.uint64], count: int, size: int) -> NDArray[np.int64]:
    """Draws the pixels of each image whose features are kept: (N, P), without repetition, the same for every backbone.

    Args:
        keys: of the samples, see `rng.sample_keys`.
        count: P, at most the number of pixels.
        size: S.
    """
    wanted = min(count, size * size)
    seed = rng.seed_of(0, "positions")
    drawn = [np.random.default_rng([seed, int(key)]).choice(size * size, wanted, replace=False) for key in keys]
    return np.stack(drawn).astype(np.int64)


def at(maps: list[Tensor], places: Tensor, size: int) -> Tensor:
    """Reads feature maps at pixels, as if each were enlarged to S x S bilinearly: (B, P, F), coarse maps last.

    Args:
        maps: (B, C, h, w) each.
        places: (B, P), row * S + column.
        size: S.
    """
    x, y = (places % size + 0.5) * (2 / size) - 1, (places // size + 0.5) * (2 / size) - 1
    grid = torch.stack([x, y], dim=-1)[:, :, None]
    read = [F.grid_sample(each.float(), grid, padding_mode="border", align_corners=False)[..., 0] for each in maps]
    return torch.cat(read, dim=1).transpose(1, 2)


class LinearSegmenter(nn.Module):
    """A linear layer on all maps of a frozen backbone at once, each enlarged bilinearly to the input's side.

    Hypercolumns (Hariharan et al., CVPR 2015) without storing one: a linear layer and bilinear enlargement commute.
    """

    def __init__(self, pyramid: nn.Module, weight: NDArray[np.float64], bias: NDArray[np.float64]) -> None:
        """Takes the layer: weight (L, F) and bias (L)."""
        super().__init__()
        self.pyramid = pyramid
        self.weight = nn.Parameter(torch.from_numpy(weight).float(), requires_grad=False)
        self.bias = nn.Parameter(torch.from_numpy(bias).float(), requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns logits, (B, L, S, S)."""
        maps = dense_maps(self.pyramid, inputs)
        parts = torch.split(self.weight, [each.shape[1] for each in maps], dim=1)
        total = self.bias[None, :, None, None]
        for each, weight in zip(maps, parts, strict=True):
            logits = F.conv2d(each.float(), weight[:, :, None, None])
            total = total + F.interpolate(logits, inputs.shape[-2:], mode="bilinear", align_corners=False)
        return total


def dense_maps(pyramid: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Returns the maps of stride 4 and more that features are read from; of a plain transformer the last block's."""
    maps: list[Tensor] = pyramid(inputs)[2:]
    return maps[-1:] if len({each.shape[-1] for each in maps}) == 1 else maps


def width(backbone: nn.Module, size: int) -> int:
    """Counts F."""
    with torch.inference_mode():
        probe = next(backbone.parameters()).new_zeros((1, 3, size, size))
        if isinstance(backbone, Pyramid):
            return sum(each.shape[1] for each in dense_maps(backbone.eval(), probe))
        return int(backbone.eval()(probe).shape[-1])


def compute(
    backbone: nn.Module, loader: Loader, folder: Path, digest: str, count: int, report: Callable[[int, int], None]
) -> Features:
    """Passes all images through a frozen backbone and keeps their features; goes on where a kill stopped it.

    Args:
        backbone: bare, or a `Pyramid` for features at positions.
        loader: of the cache; its centre crop and normalization are what the backbone sees.
        folder: where the features lie when they are whole.
        digest: of what they are computed from.
        count: P; 0 for whole images.
        report: gets images done and images at all.

    Raises:
        UserError: a feature is not a finite number of 16 bits.
    """
    if (found := read(folder, digest)) is not None:
        return found
    folder.mkdir(parents=True, exist_ok=True)
    backbone.eval()
    rows, size = np.arange(len(loader.keys)), loader.size
    places = positions(loader.keys, count, size) if count else None
    shape = (len(rows), *(() if places is None else (places.shape[1],)), width(backbone, size))
    values = _open(folder / VALUES, np.dtype(np.float16), shape)
    targets = None if places is None else _open(folder / BITS, np.dtype(np.uint8), places.shape)
    done, spent = _resume(folder / JOURNAL, values, targets)
    start, steps = time.perf_counter(), [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
    loader.batch_size = BATCH
    with open(folder / JOURNAL, "a") as journal, torch.inference_mode():
        for number, batch in enumerate(loader.evaluate(rows[done * BATCH :], 1), start=done):
            chosen = steps[number]
            kept = _features(backbone, batch, places, size)
            values[chosen] = kept
            if targets is not None and places is not None:
                targets[chosen] = bits(batch.targets, places[chosen])
            for array in (values, targets):
                if isinstance(array, np.memmap):
                    array.flush()
            seconds = spent + time.perf_counter() - start
            journal.write(f"{number} {_hash(values, targets, chosen)} {seconds:.3f}\n")
            journal.flush()
            report(int(chosen[-1]) + 1, len(rows))
    parts = {name: files.sha256(folder / name) for name in (VALUES, BITS) if (folder / name).is_file()}
    whole = Manifest(digest=digest, parts=parts, seconds=round(spent + time.perf_counter() - start, 3))
    files.write_text(folder / MANIFEST, json.dumps(asdict(whole), indent=1) + "\n")
    (folder / JOURNAL).unlink()
    return _load(folder, whole)


def _features(backbone: nn.Module, batch: Batch, places: NDArray[np.int64] | None, size: int) -> NDArray[np.float16]:
    if places is None:
        found = backbone(batch.inputs).float()
    else:
        found = at(
            dense_maps(backbone, batch.inputs), torch.from_numpy(places[batch.rows]).to(batch.inputs.device), size
        )
    with np.errstate(over="ignore"):  # it is refused below
        kept: NDArray[np.float16] = found.cpu().numpy().astype(np.float16)
    if not np.isfinite(kept).all():
        raise UserError(
            f"features of rows {batch.rows[0]} to {batch.rows[-1]} are not finite numbers of 16 bits; this backbone "
            "needs the protocol finetune"
        )
    return kept


def bits(targets: Tensor, places: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Reads masks (B, L, S, S) at positions: (B, P), bit k for label k."""
    flat = targets.flatten(2).cpu().numpy() > 0.5
    found = np.zeros(places.shape, dtype=np.uint8)
    for label in range(flat.shape[1]):
        found |= np.take_along_axis(flat[:, label], places, axis=1).astype(np.uint8) << np.uint8(label)
    return found


def _open(path: Path, kind: np.dtype, shape: tuple[int, ...]) -> np.memmap:
    """Opens an array that is being filled; one of another shape is begun anew."""
    try:
        held = np.load(path, mmap_mode="r+")
        if isinstance(held, np.memmap) and (held.shape, held.dtype) == (shape, kind):
            return held
    except (OSError, ValueError):  # there is none, or half of a header
        pass
    return np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)


def _hash(values: NDArray[np.float16], targets: NDArray[np.uint8] | None, rows: NDArray[np.int64]) -> str:
    import hashlib

    state = hashlib.blake2b(values[rows].tobytes(), digest_size=16)
    state.update(b"" if targets is None else targets[rows].tobytes())
    return state.hexdigest()


def _resume(journal: Path, values: NDArray[np.float16], targets: NDArray[np.uint8] | None) -> tuple[int, float]:
    """Counts the first batches that lie there as they were noted, and the seconds they took; what is behind is cut."""
    lines = journal.read_text().splitlines() if journal.is_file() else []
    good, spent = list[str](), 0.0
    for number, line in enumerate(lines):
        rows = np.arange(number * BATCH, min((number + 1) * BATCH, len(values)))
        fields = line.split()
        if len(fields) != 3 or fields[:2] != [str(number), _hash(values, targets, rows)]:
            break
        good.append(line)
        spent = float(fields[2])
    journal.write_text("".join(f"{line}\n" for line in good))
    return len(good), spent


def read(folder: Path, digest: str) -> Features | None:
    """Reads whole features; None where there are none of this digest, or they are damaged."""
    try:
        whole = schema.convert(json.loads((folder / MANIFEST).read_bytes()), Manifest)
    except (OSError, ValueError, UserError):
        return None
    intact = all(files.checked(folder / name, sha256) for name, sha256 in whole.parts.items())
    return _load(folder, whole) if intact and whole.digest == digest else None


def _load(folder: Path, whole: Manifest) -> Features:
    targets = np.load(folder / BITS, mmap_mode="r") if BITS in whole.parts else None
    return Features(values=np.load(folder / VALUES, mmap_mode="r"), targets=targets, seconds=whole.seconds)
