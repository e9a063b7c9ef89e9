from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medtransfer.core.errors import UserError
from medtransfer.packs import file, merge
from medtransfer.packs.records import Contribution
from medtransfer.results.result import Result
from tests.support import packs

ONE = packs.result(seed=0, auc=0.90)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def write(folder: Path, lab: str, *results: Result, tables: dict[str, bytes] | None = None, **changes: Any) -> Path:
    packs.write(folder / f"{lab}.pack", packs.contribution(results, lab=lab, **changes), tables)
    return folder / f"{lab}.pack"


def labs(contributions: tuple[Contribution, ...]) -> dict[str, str]:
    return {one.digest: one.lab for one in contributions}


def test_a_merged_pack_keeps_whose_is_whose_and_every_byte(folder: Path) -> None:
    a = write(folder, "A", ONE, tables={ONE.digest: b"PAR1"})
    b = write(folder, "B", packs.result(seed=1), packs.result(seed=2))
    found = merge.merge([a, b], folder / "ab.pack")
    again = merge.merge([folder / "ab.pack", b, a], folder / "all.pack")
    parts = {n: c for path in (a, b) for n, c in packs.members(path).items() if n != "pack.json"}
    assert {n: c for n, c in packs.members(folder / "ab.pack").items() if n != "pack.json"} == parts
    assert (folder / "ab.pack").read_bytes() == (folder / "all.pack").read_bytes()
    assert (found.dropped, again.dropped, found.repeated) == (0, 2, 0)
    back = file.read(folder / "ab.pack")
    assert labs(back.contributions) == labs(found.pack.contributions)
    assert sorted(labs(back.contributions).values()) == ["A", "B"]
    assert back.digest == found.pack.digest


def test_one_run_of_unlike_machines_may_differ_by_the_tolerance(folder: Path) -> None:
    a = write(folder, "A", ONE, packs.result(seed=1))
    b = write(folder, "B", packs.result(auc=0.93, arithmetic=packs.OTHER), packs.result(seed=2))
    found = merge.merge([a, b], folder / "ab.pack", 0.05)
    assert (found.repeated, round(found.largest, 9)) == (1, 0.03)
    assert found.farthest == "shenzhen, random@resnet50, seed 0: 0.9000 at A, 0.9300 at B"
    with pytest.raises(UserError) as error:
        merge.merge([a, b], folder / "no.pack", 0.02)
    assert "1 run has one digest and other numbers, beyond a tolerance of 0.02" in str(error.value)
    assert str(error.value).endswith("leave one pack out, or raise --tolerance")
    assert "\n  shenzhen, random@resnet50, seed 0: 0.9000 at A, 0.9300 at B\n" in str(error.value)
    assert not (folder / "no.pack").exists()


def test_one_run_of_like_machines_may_not_differ(folder: Path) -> None:
    a, b = write(folder, "A", ONE), write(folder, "B", packs.result(auc=0.9001))
    with pytest.raises(UserError, match=r"seed 0: test_auc 0\.9 at A, 0\.9001 at B, by equal arithmetic"):
        merge.merge([a, b], folder / "ab.pack", 0.2)
    other = packs.result(scores=dict(ONE.scores) | {"best_val_auc": 0.5})  # a score beside the primary one
    with pytest.raises(UserError, match=r"seed 0: best_val_auc 0\.3333333333333333 at A, 0\.5 at C"):
        merge.merge([a, write(folder, "C", other)], folder / "ab.pack", 0.2)
    same = merge.merge([a, write(folder, "D", ONE)], folder / "ab.pack", 0.0)
    assert (same.repeated, same.farthest) == (1, "")


def test_an_undefined_score_contradicts_a_number(folder: Path) -> None:
    a = write(folder, "A", ONE)
    b = write(folder, "B", packs.result(scores={"best_val_auc": 0.5}, arithmetic=packs.OTHER))
    no_tolerance = r"seed 0: 0\.9 at A, None at B\n[^\n]*leave one pack out$"
    with pytest.raises(UserError, match=no_tolerance):
        merge.merge([a, b], folder / "ab.pack")


def test_contradictions_of_a_lab_with_itself_name_its_contributions(folder: Path) -> None:
    packs.write(folder / "1.pack", packs.contribution([ONE]))
    packs.write(folder / "2.pack", packs.contribution([packs.result(auc=0.5)]))
    with pytest.raises(UserError, match=r"test_auc 0\.9 at Lab A \([0-9a-f]{8}\), 0\.5 at Lab A \([0-9a-f]{8}\)"):
        merge.merge([folder / "1.pack", folder / "2.pack"], folder / "ab.pack")


def test_one_name_for_two_metrics_or_two_tensors_is_refused(folder: Path) -> None:
    a = write(folder, "A", packs.result(seed=0, weights_sha256="1" * 64))
    b = write(folder, "B", packs.result(seed=1, metric="accuracy", weights_sha256="1" * 64))
    with pytest.raises(UserError, match="task shenzhen is binary, scored by auc, at A, and binary, scored by accuracy"):
        merge.merge([a, b], folder / "ab.pack")
    c = write(folder, "C", packs.result(seed=1, weights_sha256="2" * 64))
    with pytest.raises(
        UserError, match=r"init random@resnet50 is other tensors at A \(sha256 1{12}\) than at C \(2{12}"
    ):
        merge.merge([a, c], folder / "ac.pack")


def test_nothing_to_merge_is_said(folder: Path) -> None:
    with pytest.raises(UserError, match="merge needs packs"):
        merge.merge([], folder / "ab.pack")
