from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medtransfer.core.errors import UserError
from medtransfer.data.cache import Prepared
from medtransfer.data.catalog import TASKS
from medtransfer.data.label_subsets import subset
from medtransfer.data.tasks import Task
from medtransfer.params import parse_fraction

FRACTIONS = ("0.05", "0.1", "0.25", "0.5")


def cache(labels: Mapping[str, Any], patients: Any = None, train: int = 400, val: int = 80) -> Prepared:
    """Makes a cache of `train` + `val` + 20 images, of one patient each if none are given."""
    count = train + val + 20
    table = pd.DataFrame({"id": [f"i{n}" for n in range(count)], **labels})
    table.insert(1, "patient", [f"p{n}" for n in range(count)] if patients is None else patients)
    table.insert(2, "split", ["train"] * train + ["val"] * val + ["test"] * 20)
    manifest: Any = {"folds": 0}
    return Prepared(Path("nowhere"), manifest, np.zeros((count, 2, 2), np.uint8), None, lambda: table)


def binary(share: float = 0.1, **more: Any) -> Prepared:
    return cache({"Tuberculosis": (np.random.default_rng(3).random(500) < share).astype(np.int8)}, **more)


def rows(prepared: Prepared, fraction: str, seed: int, split: str = "train", task: Task = TASKS["shenzhen"],
         of: str = "train_and_val") -> set[int]:  # fmt: skip
    return set(subset(prepared, task, parse_fraction(fraction), seed, of).rows(split).tolist())


def test_fractions_are_nested_and_as_large_as_they_say() -> None:
    data = binary()
    for seed in range(5):
        found = [rows(data, fraction, seed) for fraction in FRACTIONS]
        assert [len(one) for one in found] == [20, 40, 100, 200]
        assert all(small < large for small, large in itertools.pairwise(found))


def test_seeds_draw_other_images_and_every_image_as_often() -> None:
    data, counts = binary(), np.zeros(500)
    for seed in range(150):
        counts[list(rows(data, "0.1", seed))] += 1
    assert counts[400:].sum() == 0
    # The share of each image is .1; its error over 150 draws is .025.
    assert abs(counts[:400] / 150 - 0.1).max() < 5 * 0.025
    assert rows(data, "0.1", 0) != rows(data, "0.1", 1)


def test_every_beginning_holds_each_label_as_often_as_the_whole() -> None:
    labels = np.zeros((500, 14), np.int8)
    draw = np.random.default_rng(0)
    for column, share in enumerate(np.geomspace(0.02, 0.3, 14)):
        labels[:, column] = draw.random(500) < share
    task = TASKS["chestxray14"]
    data = cache(dict(zip(task.labels, labels.T, strict=True)))
    rarest = labels[:400].sum(0).argmin()
    for seed in range(20):
        chosen = sorted(rows(data, "0.5", seed, task=task))
        assert abs(int(labels[chosen][:, rarest].sum()) - int(labels[:400, rarest].sum()) / 2) <= 1


def test_a_patient_has_all_images_or_none() -> None:
    patients = [f"p{n // 3}" for n in range(500)]
    patients[399:402] = ["x", "x2", "x3"]  # no one is in two splits
    data = binary(0.3, patients=patients)
    groups = pd.Series(patients[:400]).groupby(patients[:400]).groups
    for seed in range(5):
        for fraction in FRACTIONS:
            found = rows(data, fraction, seed)
            assert all(set(group) <= found or not set(group) & found for group in groups.values())
            assert 0 <= len(found) - float(fraction) * 400 < 3


def test_val_shrinks_with_train_where_asked_and_test_never() -> None:
    data = binary(0.4)
    assert len(rows(data, "0.25", 0, "val")) == 20
    assert len(rows(data, "0.25", 0, "val", of="train")) == 80
    assert len(rows(data, "0.25", 0, "test")) == 20
    assert rows(data, "0.25", 0) == rows(data, "0.25", 0, of="train")


def test_shots_take_so_many_images_of_each_class() -> None:
    data = binary(0.2)
    truth = data.samples["Tuberculosis"].to_numpy()
    small, large = sorted(rows(data, "4-shot", 1)), sorted(rows(data, "16-shot", 1))
    assert [int((truth[small] == value).sum()) for value in (0, 1)] == [4, 4]
    assert [int((truth[large] == value).sum()) for value in (0, 1)] == [16, 16]
    assert set(small) < set(large)
    positives = int(truth[:400].sum())
    with pytest.raises(
        UserError, match=rf"500-shot asks for 500 images .* which has {positives} images of `Tuberculosis`"
    ):
        rows(data, "500-shot", 0)


def test_a_fraction_that_leaves_a_label_one_sided_is_refused_by_name() -> None:
    data = cache({"Tuberculosis": np.array([1] * 3 + [0] * 497, np.int8)})
    message = r"fraction 0\.01 of task shenzhen leaves no positive of Tuberculosis among its 4"
    with pytest.raises(UserError, match=message):
        [rows(data, "0.01", seed) for seed in range(50)]


def test_an_order_does_not_depend_on_where_the_rows_stand() -> None:
    data = binary(0.3)
    turned = data.samples.iloc[::-1].reset_index(drop=True)
    other = dataclasses.replace(data, read_samples=lambda: turned)
    fraction = parse_fraction("0.1")
    one, two = (
        subset(one, TASKS["shenzhen"], fraction, 7, "train").samples.query("split == 'train'")["id"]
        for one in (data, other)
    )
    assert set(one) == set(two)


def test_a_fraction_of_a_fold_is_of_the_folds_own_train() -> None:
    data = binary(0.3)
    table = data.samples.copy()
    table["split.0"], table["split.1"] = table["split"], table["split"].to_numpy()[::-1]
    manifest: Any = {"folds": 2}
    folded = dataclasses.replace(data, read_samples=lambda: table, manifest=manifest)
    for fold in (0, 1):
        one = folded.of_fold(fold)
        part = subset(one, TASKS["shenzhen"], parse_fraction("0.25"), 0, "train_and_val")
        for split, size in (("train", 100), ("val", 20), ("test", 20)):
            assert set(part.rows(split)) <= set(one.rows(split))
            assert len(part.rows(split)) == size
