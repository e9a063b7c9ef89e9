"""Named random streams: one per purpose and seed, so that two initializations see identical batches.

Numbers are functions of what they are for (seed, purpose, epoch, sample), never of what was drawn before them:
a resumed run, another batch size or another device sees the same ones.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def seed_of(seed: int, purpose: str, *keys: int) -> int:
    """Derives a 63-bit seed from a run's seed, a purpose (`order`, `head`, `backbone`, `dropout`) and keys."""
    text = ":".join([str(seed), purpose, *map(str, keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def sample_keys(ids: list[str]) -> NDArray[np.uint64]:
    """Gives each sample id a 64-bit key that does not depend on its place in the table."""
    return np.array([int.from_bytes(hashlib.sha256(i.encode()).digest()[:8]) for i in ids], dtype=np.uint64)


def uniforms(seed: int, keys: NDArray[np.uint64], count: int) -> NDArray[np.float32]:
    """Draws `count` numbers in [0, 1) for every key: shape (len(keys), count).

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) on a counter that starts at a mix of seed and key.
    """
    with np.errstate(over="ignore"):
        start = _mix(keys ^ _mix(np.array([seed], dtype=np.uint64)))
        steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        bits = _mix(start[:, None] + steps[None, :])
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
