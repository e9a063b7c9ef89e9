"""What is collected of masks: counts and shapes, at the network's size and at the images' own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from medtransfer import params as parameters
from medtransfer.core.errors import UserError
from medtransfer.data import pixel_sizes
from medtransfer.data.cache import Prepared
from medtransfer.data.catalog import TASKS
from medtransfer.data.tasks import Task
from medtransfer.statistics import mask_shapes
from medtransfer.training.objectives import SegmentationObjective, on_host
from tests.support import fakes

Array = NDArray[Any]
HEIGHT, WIDTH = 3 * fakes.SIDE, 2 * fakes.SIDE


def goal_of(top: Path, prepared: Prepared, task: Task) -> SegmentationObjective:
    protocol: Any = parameters.protocol(fakes.load_params(top), "montgomery", segmentation=True)
    return SegmentationObjective(task, prepared, protocol, fakes.CPU)


def task_of(**changes: Any) -> Task:
    return dataclasses.replace(TASKS["montgomery"], **changes)


def logits_of(prepared: Prepared, rows: Array, shift: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Answers with each target moved to the right."""
    assert prepared.masks is not None
    truth = torch.from_numpy(prepared.masks[rows][:, None].astype(np.float32))
    return 20 * torch.roll(truth, shift, dims=3) - 10, truth


def collected(
    goal: SegmentationObjective, answer: tuple[torch.Tensor, torch.Tensor], rows: Array, native: bool = True
) -> Array:
    (found,) = on_host([goal.collect(*answer, rows, native)])
    return found


def test_shapes_are_measured_at_the_size_of_the_original(top: Path, tmp_path: Path) -> None:
    """Test masks are three times as high and twice as wide: a shift of 3 of the network's pixels is one of 6 there."""
    prepared = fakes.prepared(tmp_path, segmentation=True)
    goal = goal_of(top, prepared, task_of(measures=("surface", "centre_line", "lesions"), tolerance=(3, "px")))
    rows = prepared.rows("test")
    found = goal.finish(collected(goal, logits_of(prepared, rows, 3), rows), rows, None)
    enlarged = torch.nn.functional.interpolate(logits_of(prepared, rows, 3)[0], (HEIGHT, WIDTH), mode="bilinear") > 0
    names = mask_shapes.names(tuple(mask_shapes.GROUPS), "px")
    for image, row in enumerate(rows):
        own = prepared.native_mask(int(row)) > 0
        expected = mask_shapes.measure(enlarged[image, 0].numpy(), own, tuple(mask_shapes.GROUPS), (1, 1), 3)
        told = found.table.loc[image, [f"native_{name}" for name in names]].to_numpy(np.float64)
        assert told == pytest.approx(expected)
    assert 5 <= found.scores["test_native_hd95_px".removeprefix("test_")] <= 7
    assert found.scores["native_no_distance"] == 0
    assert found.table["native_target"].dtype == np.int64
    assert not any(name in found.table for name in names), "at the network's size it takes a primary metric"


def test_a_primary_metric_of_shapes_is_measured_on_val_with_the_network_s_pixels(top: Path, tmp_path: Path) -> None:
    """A pixel of the network is here 3 pixels of the original high and 2 wide: a shift by one is 2 away."""
    prepared = fakes.prepared(tmp_path, segmentation=True)
    goals = [goal_of(top, prepared, task_of(metric="surface_dice", tolerance=(most, "px"))) for most in (1.9, 2.0)]
    rows = prepared.rows("val")
    scores = [goal.score(collected(goal, logits_of(prepared, rows, 1), rows, False), rows) for goal in goals]
    assert scores[0]["surface_dice"] < 0.9
    assert scores[1]["surface_dice"] == 1
    assert scores[0]["hd95_px"] == scores[1]["hd95_px"] == 2
    plain = goal_of(top, prepared, task_of())
    assert "surface_dice" not in plain.score(collected(plain, logits_of(prepared, rows, 1), rows, False), rows)


def test_what_is_counted_is_the_same_whatever_is_measured(top: Path, tmp_path: Path) -> None:
    prepared = fakes.prepared(tmp_path, segmentation=True)
    rows = prepared.rows("test")
    tables = []
    for task in (task_of(measures=()), task_of(metric="cldice")):
        goal = goal_of(top, prepared, task)
        tables.append(goal.finish(collected(goal, logits_of(prepared, rows, 2), rows), rows, None))
    assert tables[0].table.equals(tables[1].table[tables[0].table.columns])
    assert {name: tables[1].scores[name] for name in tables[0].scores} == tables[0].scores
    assert {"cldice", "native_cldice"} <= set(tables[1].scores)
    assert not [name for name in tables[0].scores if "surface" in name]


def test_images_in_which_nothing_is_found_have_no_distance_and_are_counted(top: Path, tmp_path: Path) -> None:
    prepared = fakes.prepared(tmp_path, segmentation=True)
    goal, rows = goal_of(top, prepared, task_of()), prepared.rows("test")
    logits, truth = logits_of(prepared, rows, 2)
    logits[:3] = -10
    some = goal.finish(collected(goal, (logits, truth), rows), rows, None)
    none = goal.finish(collected(goal, (-10 + 0 * logits, truth), rows), rows, None)
    assert some.scores["native_no_distance"] == 3
    assert some.table["native_hd95_px"].isna().sum() == 3
    assert some.scores["native_hd95_px"] == pytest.approx(some.table["native_hd95_px"][3:].mean())
    assert some.scores["native_surface_dice"] == pytest.approx(some.table["native_surface_dice"][3:].sum() / len(rows))
    assert "native_hd95_px" not in none.scores
    assert none.scores["native_surface_dice"] == 0
    assert none.scores["native_no_distance"] == len(rows)


def test_a_cache_without_sizes_measures_counts_alone(top: Path, tmp_path: Path) -> None:
    prepared = fakes.prepared(tmp_path, segmentation=True)
    table = prepared.samples.drop(columns=list(pixel_sizes.COLUMNS))
    earlier = dataclasses.replace(prepared, read_samples=lambda: table)
    rows = earlier.rows("test")
    goal = goal_of(top, earlier, task_of())
    found = goal.finish(collected(goal, logits_of(earlier, rows, 2), rows), rows, None)
    assert "native_dice" in found.scores
    assert "native_surface_dice" not in found.scores
    with pytest.raises(UserError, match=r"surface_dice needs the sizes of the images of montgomery.*prepare again"):
        goal_of(top, earlier, task_of(metric="surface_dice"))
