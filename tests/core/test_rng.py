from __future__ import annotations

import numpy as np

from medtransfer.core import rng


def test_seeds_differ_by_purpose_seed_and_key_and_never_change() -> None:
    made = {rng.seed_of(s, p, k) for s in (0, 1) for p in ("order", "head") for k in (0, 1)}
    assert len(made) == 8
    assert rng.seed_of(0, "order", 0) == 583293569008121160
    assert all(0 <= value < 2**63 for value in made)


def test_numbers_belong_to_the_sample_not_to_its_place() -> None:
    keys = rng.sample_keys(["a", "b", "c"])
    drawn = rng.uniforms(7, keys, 5)
    np.testing.assert_array_equal(rng.uniforms(7, keys[::-1].copy(), 5)[::-1], drawn)
    np.testing.assert_array_equal(rng.uniforms(7, keys[1:2], 9)[:, :5], drawn[1:2])
    assert not np.array_equal(rng.uniforms(8, keys, 5), drawn)


def test_numbers_are_uniform_and_uncorrelated() -> None:
    u = rng.uniforms(0, rng.sample_keys([str(i) for i in range(4000)]), 8)
    assert u.min() >= 0
    assert u.max() < 1
    np.testing.assert_allclose(u.mean(0), 0.5, atol=0.02)
    np.testing.assert_allclose(u.var(0), 1 / 12, atol=0.004)
    assert np.abs(np.corrcoef(u.T) - np.eye(8)).max() < 0.06
