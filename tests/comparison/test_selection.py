from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medtransfer import params
from medtransfer.comparison import findings, selection
from medtransfer.core import arithmetic
from medtransfer.core.errors import UserError
from medtransfer.report.sections.scores import score_notes
from tests.conftest import TOP
from tests.support import results

RANDOM, IMAGENET = "random@resnet50", "imagenet@resnet50"
BENCHMARK = params.Benchmark(inits=(RANDOM, IMAGENET), tasks=("shenzhen",), seeds=(0, 1), recipes=("fixed",))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    results.write(tmp_path, {RANDOM: 0.0, IMAGENET: 0.5}, BENCHMARK.tasks, BENCHMARK.seeds, cases=40)
    return tmp_path


def edit(folder: Path, init: str, seed: int, **changes: Any) -> None:
    for path in folder.rglob("cell.json"):
        cell = json.loads(path.read_text())
        if (cell["init"], cell["seed"]) == (init, seed):
            path.write_text(json.dumps({**cell, **changes}))


@pytest.mark.parametrize(
    ("condition", "changes"),
    [
        ("device", {"device": "cuda"}),
        (
            "arithmetic",
            {"arithmetic": dict.fromkeys(arithmetic.DECIDING, "cpu")},
        ),
        ("torch", {"versions": {"torch": "1.0.0", "timm": "1"}}),
    ],
)
def test_a_seed_s_runs_under_unequal_conditions_are_refused_unless_allowed_by_name(
    folder: Path, condition: str, changes: dict[str, Any]
) -> None:
    edit(folder, IMAGENET, 1, **changes)
    found = selection.collect(folder, TOP)
    with pytest.raises(UserError, match=rf"one {condition}(,| and) .*comparison\.unbalanced: \[{condition}(,|\])"):
        selection.select(found, BENCHMARK)
    assert len(selection.select(found, BENCHMARK, unbalanced=("device", "arithmetic", "torch", "timm"))) == 4


def test_all_unequal_conditions_are_named_at_once(folder: Path) -> None:
    edit(folder, IMAGENET, 1, device="cuda", arithmetic={"device": "A100"})
    words = r"one device and one arithmetic, .* A100 \(.*\) and unknown \(.*unbalanced: \[torch, device, arithmetic\]"
    with pytest.raises(UserError, match=words):
        selection.select(selection.collect(folder, TOP), BENCHMARK, unbalanced=("torch",))


def test_what_was_allowed_is_printed(folder: Path) -> None:
    edit(folder, IMAGENET, 1, device="cuda")
    base = params.load(TOP / "params.yaml", {"comparison.resamples": "0", "comparison.unbalanced": "[device]"})
    found = findings.find(folder, BENCHMARK, base, TOP, IMAGENET)
    assert any("allowed by comparison.unbalanced: device, " in note for note in score_notes(found))


def test_seeds_may_have_conditions_of_their_own(folder: Path) -> None:
    for init in (RANDOM, IMAGENET):
        edit(folder, init, 1, device="cuda")
    assert selection.imbalances(selection.select(selection.collect(folder, TOP), BENCHMARK)) == {}


def test_a_patch_version_is_no_other_condition(folder: Path) -> None:
    for path in folder.rglob("cell.json"):
        cell = json.loads(path.read_text())
        patch = "2" if cell["init"] == RANDOM else "3"
        path.write_text(json.dumps(cell | {"versions": {"torch": f"2.14.{patch}", "timm": "1.0.31"}}))
    assert selection.imbalances(selection.collect(folder, TOP)) == {}


def test_a_recipe_is_compared_alone(folder: Path) -> None:
    edit(folder, IMAGENET, 0, recipe="tuned")
    found = selection.collect(folder, TOP)
    assert {(c.init, c.seed) for c in selection.select(found, BENCHMARK)} == {(RANDOM, 0), (RANDOM, 1), (IMAGENET, 1)}
    assert [c.init for c in selection.select(found, BENCHMARK, "tuned")] == [IMAGENET]
    only = [c for c in found if c.recipe == "fixed"]
    with pytest.raises(UserError, match=r"none of the 3 finished runs .* \(fixed recipe, finetune, 1\)"):
        selection.select(only, BENCHMARK, "tuned")
