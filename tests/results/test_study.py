from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from medtransfer.core.errors import UserError
from medtransfer.results import study as ledger
from medtransfer.results.study import Ledger, Trial
from medtransfer.weights.names import parse


def trial(number: int, value: float | None, *, state: str = "complete", images: int = 10, **params: Any) -> Trial:
    return Trial(
        number=number, state=state, why="", params=params or {"lr": 0.1 * (number + 1)}, value=value, val=value,
        best_epoch=0, epochs=1, images=images, seconds=1.0, gpu_seconds=0.0,
    )  # fmt: skip


def study(*trials: Trial, init: str = "random@resnet18", maximize: bool = True, **changes: Any) -> Ledger:
    made = Ledger(
        init=init, task="shenzhen", study=f"tuning/shenzhen/{init}", identity={"space": {"lr": "{}"}, "sampler": "tpe"},
        metric="auc", monitor="val_auc" if maximize else "val_loss", maximize=maximize, budget_trials=4,
        budget_images=40, finished=True, exhausted=False, trials=trials, finalists=(), winner=0, recipe={"lr": 0.1},
        flags=(), importances={},
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    made = study(trial(0, 0.5), trial(1, None, state="failed"))
    ledger.write(made, tmp_path / "shenzhen/a.json")
    assert ledger.collect(tmp_path) == [made]
    assert ledger.collect(tmp_path, "drive") == []


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"init": 1}')
    with pytest.raises(UserError, match=r"x\.json is no ledger of a study .*run `tune` again"):
        ledger.read(tmp_path / "x.json")


def test_a_study_that_is_missing_or_open_is_refused(tmp_path: Path) -> None:
    init = parse("random@resnet18", "resnet18")
    with pytest.raises(UserError, match=r"looked for the study of random@resnet18 on shenzhen .* found none"):
        ledger.find(init.canonical, init.slug, "shenzhen", tmp_path)
    ledger.write(study(trial(0, 0.5), finished=False), ledger.path(init.slug, "shenzhen", tmp_path))
    with pytest.raises(UserError, match="not finished"):
        ledger.find(init.canonical, init.slug, "shenzhen", tmp_path)


def test_the_best_so_far_counts_images_of_pruned_and_failed_trials() -> None:
    made = study(
        trial(0, None, state="failed", images=5),
        trial(1, 0.6),
        trial(2, 0.9, state="pruned", images=3),
        trial(3, None, state="lost", images=7),
        trial(4, 0.5),
        trial(5, 0.7),
    )
    assert ledger.best_so_far(made) == [(15, 0.6), (18, 0.6), (28, 0.6), (38, 0.7)]
    assert [ledger.best_at(made, share) for share in (0.25, 0.5, 1.0)] == [None, 0.6, 0.7]
    assert made.spent == 38
    assert made.states() == {"complete": 3, "pruned": 1, "failed": 1, "lost": 1, "repeated": 0}


def test_of_losses_the_smallest_is_best() -> None:
    made = study(trial(0, 0.6), trial(1, 0.4), trial(2, 0.5), maximize=False)
    assert [value for _, value in ledger.best_so_far(made)] == [0.6, 0.4, 0.4]


@pytest.mark.parametrize(
    ("maximize", "ranks"), [(True, {"a": 3.0, "b": 1.5, "c": 1.5}), (False, {"a": 1.0, "b": 2.5, "c": 2.5})]
)
def test_equal_values_share_a_rank_and_what_has_none_has_no_rank(maximize: bool, ranks: dict[str, float]) -> None:
    values = {"a": 0.5, "b": 0.7, "c": 0.7, "d": None}
    found = [study(trial(0, value), init=init, maximize=maximize) for init, value in values.items()]
    assert ledger.ranking(found, 1.0) == ranks


def test_unequal_chances_are_refused() -> None:
    one, two = study(trial(0, 0.5), init="a"), study(trial(0, 0.5), init="b")
    ledger.refuse_unequal([one, two])
    with pytest.raises(UserError, match=r"one budget, got 40 images for a and 80 for b; run `tune` for all inits"):
        ledger.refuse_unequal([one, dataclasses.replace(two, budget_images=80)])
    other = dataclasses.replace(two, identity={**two.identity, "sampler": "random"})
    with pytest.raises(UserError, match="one sampler, got tpe for a and random for b"):
        ledger.refuse_unequal([one, other])


def test_a_study_without_a_completed_trial_says_why() -> None:
    bad = dataclasses.replace(trial(0, None, state="failed"), why="the training loss of epoch 0 is nan")
    with pytest.raises(UserError, match=r"no trial .* completed; .* loss of epoch 0 is nan"):
        _ = study(bad, winner=None).values
