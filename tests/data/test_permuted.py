from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medtransfer.data.cache import Prepared
from medtransfer.data.catalog import TASKS
from medtransfer.data.permuted import permute

TASK = TASKS["shenzhen"]
LABEL = TASK.labels[0]


def cache(images: int = 120, each: int = 1, masks: bool = False) -> Prepared:
    rng = np.random.default_rng(0)
    patients = np.arange(images) // each
    table = pd.DataFrame(
        {
            "id": [f"i{k}" for k in range(images)],
            "patient": [f"p{k}" for k in patients],
            "split": np.array(["train", "train", "val", "test", ""])[patients % 5],
            LABEL: (rng.random(patients.max() + 1) < 0.4).astype(np.int8)[patients],
        }
    )
    manifest: Any = {}
    drawn = np.arange(images, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8) if masks else None
    return Prepared(Path(), manifest, np.zeros((images, 2, 2), np.uint8), drawn, lambda: table)


@pytest.mark.parametrize("each", [1, 3])
def test_train_and_val_keep_their_labels_in_another_order_and_test_keeps_its_own(each: int) -> None:
    prepared = cache(each=each)
    found = permute(prepared, TASK, 0)
    before, after = prepared.samples, found.samples
    for split in ("train", "val"):
        own = before["split"] == split
        assert sorted(before.loc[own, LABEL]) == sorted(after.loc[own, LABEL])
        assert (before.loc[own, LABEL] != after.loc[own, LABEL]).any()
    rest = before["split"].isin(["test", ""])
    pd.testing.assert_frame_equal(before[rest], after[rest])
    assert list(after.drop(columns=LABEL)) == list(before.drop(columns=LABEL))
    agree = after.groupby("patient")[LABEL].nunique()
    assert (agree == 1).all()  # equally many images of each: a patient's go together


def test_patients_of_unequal_numbers_lose_no_label() -> None:
    prepared = cache()
    table = prepared.samples.assign(patient=[f"p{int(k**0.7)}" for k in range(120)])
    found = permute(Prepared(Path(), prepared.manifest, prepared.images, None, lambda: table), TASK, 0)
    for split in ("train", "val", "test"):
        own = table["split"] == split
        assert sorted(table.loc[own, LABEL]) == sorted(found.samples.loc[own, LABEL])


def test_a_seed_has_one_permutation_and_another_seed_another() -> None:
    prepared = cache()
    first, again, other = (permute(prepared, TASK, seed).samples[LABEL].tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_over_seeds_labels_know_nothing_of_the_truth() -> None:
    prepared = cache(600)
    rows = prepared.rows("train")
    truth = prepared.samples[LABEL].to_numpy()[rows]
    drawn = [permute(prepared, TASK, seed).samples[LABEL].to_numpy()[rows] for seed in range(200)]
    correlation = [np.corrcoef(truth, one)[0, 1] for one in drawn]
    assert abs(np.mean(correlation)) < 3 * np.std(correlation) / np.sqrt(200)
    assert np.std(correlation) == pytest.approx(1 / np.sqrt(len(rows) - 1), rel=0.2)


def test_masks_go_with_another_image_of_their_split() -> None:
    prepared = cache(masks=True)
    table = prepared.samples.assign(**dict.fromkeys(TASKS["montgomery"].labels, 1))
    given = Prepared(Path(), prepared.manifest, prepared.images, prepared.masks, lambda: table)
    found = permute(given, TASKS["montgomery"], 0)
    assert found.masks is not None
    assert given.masks is not None
    for split in ("train", "val"):
        rows = given.rows(split)
        source = found.masks[rows, 0, 0]
        assert sorted(source.tolist()) == rows.tolist()
        assert (source != rows).any()
    rows = given.rows("test")
    assert (found.masks[rows] == given.masks[rows]).all()
