from __future__ import annotations

from typing import Any

import pytest

from medtransfer.packs import sameness
from tests.support import packs


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"arithmetic": packs.OTHER}, False),
        ({"arithmetic": packs.CPU | {"threads": "2"}}, False),
        ({"arithmetic": packs.CPU | {"cpu": "Intel Xeon (x86_64)"}}, False),  # its caches divide sums otherwise
        ({"arithmetic": packs.CPU | {"versions": "torch 2.13.0"}}, False),
        ({"versions": {"torch": "2.14.1", "timm": "1.0.30"}}, False),
        ({"arithmetic": {}}, False),  # written by an earlier version
        ({"device": "NVIDIA H200", "arithmetic": packs.CPU | {"device": "NVIDIA H200"}}, False),
    ],
)
def test_machines_of_one_cpu_and_one_set_of_libraries_are_alike(changes: dict[str, Any], expected: bool) -> None:
    assert sameness.alike(packs.result(), packs.result(**changes)) is expected
    assert sameness.alike(packs.result(**changes), packs.result()) is expected


def test_two_gpus_of_one_model_are_not_alike() -> None:
    gpu: dict[str, Any] = {"device": "NVIDIA H200", "arithmetic": packs.CPU | {"device": "NVIDIA H200"}}
    assert not sameness.alike(packs.result(**gpu), packs.result(**gpu))


def test_scores_that_one_lacks_or_that_differ_are_named() -> None:
    one = packs.result(scores={"test_auc": 0.9, "test_auc.a": 0.5, "best_val_auc": 0.1})
    two = packs.result(scores={"test_auc": 0.9 + 1e-12, "best_val_auc": 0.1, "test_f1": 0.2})
    assert sameness.differing(one, two, 0.0) == ["test_auc", "test_auc.a", "test_f1"]
    assert sameness.differing(one, two, sameness.EXACT) == ["test_auc.a", "test_f1"]


def test_a_run_is_named_by_what_is_not_usual_of_it() -> None:
    assert sameness.named(packs.result()) == "shenzhen, random@resnet50, seed 0"
    odd = packs.result(seed=3, fold=2, folds=5, recipe="tuned", protocol="linear", fraction="0.1")
    assert sameness.named(odd) == "shenzhen, random@resnet50, seed 3, fold 2, tuned, linear, fraction 0.1"
