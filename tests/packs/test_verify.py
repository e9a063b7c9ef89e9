from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from medtransfer.core.errors import UserError
from medtransfer.packs import verify
from medtransfer.packs.records import Pack
from medtransfer.results.result import Result
from tests.support import packs

GRID = [
    packs.result(task, f"{init}@resnet50", seed)
    for task in ("shenzhen", "montgomery")
    for init in ("random", "imagenet", "swav")
    for seed in range(10)
]
WHOLE = packs.contribution(GRID, digest="d" * 64)


def test_a_draw_can_be_repeated_and_another_number_draws_others() -> None:
    one = verify.draw(WHOLE, 0.1, 7)
    assert one == verify.draw(packs.contribution(GRID[::-1], digest="d" * 64), 0.1, 7)
    assert one != verify.draw(WHOLE, 0.1, 8)
    assert one != verify.draw(packs.contribution(GRID, digest="e" * 64), 0.1, 7)
    first = min(GRID, key=lambda run: hashlib.sha256(f"{'d' * 64} 7 {run.digest}".encode()).digest())
    assert one[0] == first


def test_a_draw_takes_every_init_once_before_one_twice() -> None:
    six = [run.init for run in verify.draw(WHOLE, 0.1, 0)]
    assert len(six) == 6
    assert sorted(six[:3]) == sorted(six[3:]) == ["imagenet@resnet50", "random@resnet50", "swav@resnet50"]


@pytest.mark.parametrize(("share", "count"), [(0.0001, 1), (0.05, 3), (0.051, 4), (1.0, 60)])
def test_a_share_is_a_run_at_least_and_rounded_up(share: float, count: int) -> None:
    assert len(verify.draw(WHOLE, share, 0)) == count


def test_a_draw_may_be_limited_to_tasks() -> None:
    assert {run.task for run in verify.draw(WHOLE, 0.5, 0, ["montgomery"])} == {"montgomery"}
    assert len(verify.draw(WHOLE, 0.5, 0, ["montgomery"])) == 15
    with pytest.raises(UserError, match="the pack has no run of drive; its tasks: montgomery, shenzhen"):
        verify.draw(WHOLE, 0.5, 0, ["drive"])


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
def test_a_share_is_a_part(share: float) -> None:
    with pytest.raises(UserError, match="--share is a part of the runs"):
        verify.draw(WHOLE, share, 0)


def test_a_new_draw_is_another_each_time() -> None:
    assert verify.number_of("12") == 12
    assert verify.number_of("new") != verify.number_of("new")
    with pytest.raises(UserError, match="--draw is a whole number >= 0 or `new`"):
        verify.number_of("-1")


@pytest.mark.parametrize(
    ("found", "spread", "verdict", "allowed"),
    [
        (packs.result(auc=0.9), 0.1, "equal", None),
        (packs.result(auc=0.9, arithmetic=packs.OTHER), 0.1, "equal", None),
        (packs.result(auc=0.95), 0.1, "different", 0.0),  # like machines give like digits, whatever others may
        (packs.result(auc=0.95, arithmetic=packs.OTHER), 0.1, "within", 0.1),
        (packs.result(auc=0.95, arithmetic=packs.OTHER), 0.04, "different", 0.04),
        (packs.result(scores={"best_val_auc": 1 / 3}, arithmetic=packs.OTHER), 0.9, "different", 0.9),
        (packs.result(scores={"test_auc": 0.9, "best_val_auc": 0.4}), 0.9, "different", 0.0),
        ("no memory", 0.1, "failed", None),
    ],
)
def test_a_run_is_judged_by_what_its_machines_may_differ_by(
    found: Result | str, spread: float, verdict: str, allowed: float | None
) -> None:
    checked = verify.judge(packs.result(auc=0.9), found, spread)
    assert (checked.verdict, checked.spread, checked.claimed) == (verdict, allowed, 0.9)
    assert checked.found == (None if isinstance(found, str) else found.scores.get("test_auc"))
    assert bool(checked.note) == (verdict != "equal")


def test_what_differs_is_in_the_note() -> None:
    note = verify.judge(packs.result(auc=0.9), packs.result(auc=0.95, arithmetic=packs.OTHER), 0.1).note
    words = "cpu, torch AVX2, oneDNN AVX2, MKL COMPATIBLE, threads 1 there; test_auc is 0.9 in the pack, 0.95 here"
    assert note == words


@pytest.mark.parametrize("asked", ["-0.1", "nan", "inf", "much"])
def test_a_spread_is_a_number(asked: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--spread is documented, measure or a number >= 0"):
        verify.read_spread(asked)


def test_a_contribution_is_named_by_lab_or_digest() -> None:
    def contribution(lab: str, digest: str) -> Any:
        return packs.contribution(GRID[:1], lab=lab, digest=digest)

    a, b, c = contribution("A", "a" * 64), contribution("B", "b" * 64), contribution("B", "c" * 64)
    assert verify.find(Pack(contributions=(a,)), "") is a
    assert verify.find(Pack(contributions=(a, b, c)), "A") is a
    assert verify.find(Pack(contributions=(a, b, c)), "cccccc") is c
    for of, count in (("", 3), ("B", 2), ("Z", 0)):
        with pytest.raises(UserError, match=rf"names {count} of: A \(aaaaaaaaaaaa, 1 run\); B"):
            verify.find(Pack(contributions=(a, b, c)), of)
