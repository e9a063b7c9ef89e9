from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from medtransfer.core.errors import UserError
from medtransfer.packs import predictions


def travelled(tmp_path: Path, ids: list[str], patients: list[str], number: float = 0.25) -> pd.DataFrame:
    table = pd.DataFrame({"id": ids, "patient": patients, "target.a": 1, "probability.a": [number] * len(ids)})
    table.to_parquet(tmp_path / "predictions.parquet")
    predictions.write(tmp_path / "predictions.parquet", tmp_path / "out/x.parquet")
    return pd.read_parquet(tmp_path / "out/x.parquet")


def test_images_and_patients_become_numbers_of_their_test_and_keep_their_grouping(tmp_path: Path) -> None:
    one = travelled(tmp_path, ["i7", "i3", "i9"], ["ann", "bob", "ann"], 1 / 3)
    test = one["id"][0].partition("-")[0]
    assert one["id"].tolist() == [f"{test}-000000", f"{test}-000001", f"{test}-000002"]
    assert one["patient"].tolist() == [f"{test}-p000000", f"{test}-p000001", f"{test}-p000000"]
    assert one["probability.a"].tolist() == [1 / 3] * 3
    other_run = travelled(tmp_path, ["i7", "i3", "i9"], ["ann", "bob", "ann"], 0.5)
    assert other_run["id"].equals(one["id"])  # runs of one test can be paired
    other_fold = travelled(tmp_path, ["i7", "i3", "i8"], ["ann", "bob", "ann"])
    assert not set(other_fold["id"]) & set(one["id"])  # those of another are not


def test_groups_of_patients_stay_at_home(tmp_path: Path) -> None:
    table = pd.DataFrame({"id": ["a"], "patient": ["p"], "group.sex": ["F"], "target.a": [1], "probability.a": [0.5]})
    table.to_parquet(tmp_path / "p.parquet")
    predictions.write(tmp_path / "p.parquet", tmp_path / "q.parquet")
    assert list(pd.read_parquet(tmp_path / "q.parquet")) == ["id", "patient", "target.a", "probability.a"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"p\.parquet is damaged"):
        predictions.write(tmp_path / "p.parquet", tmp_path / "q.parquet")
