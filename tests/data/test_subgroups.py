"""Groups of patients in the cache: none that names a person, and none that changes a digest."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from medtransfer import params
from medtransfer.core.errors import UserError
from medtransfer.data import catalog, subgroups
from medtransfer.data.cache import Prepared
from medtransfer.data.catalog import TASKS
from medtransfer.data.prepare import prepare
from medtransfer.data.readers import columns, reading
from medtransfer.data.readers.reading import Picture, Sample
from tests.support import drawn_masks, workspace

ROOT = Path(__file__).parents[2]


def sample(number: int, **groups: str) -> Sample:
    return Sample(id=str(number), patient=str(number), split="test", image=Picture(Path("x")), groups=groups)


def settled(values: list[str], patients: list[int] | None = None) -> list[str]:
    samples = [sample(number, **({"sex": value} if value else {})) for number, value in enumerate(values)]
    units = np.array([str(number) for number in patients or range(len(values))])
    return subgroups.settle(samples, units, Path("raw")).get("group.sex", [])


def test_values_of_few_patients_lose_their_name() -> None:
    values = ["F"] * 6 + ["M"] * 5 + ["X"] * 4 + [""]
    assert settled(values) == ["F"] * 6 + ["M"] * 5 + [""] * 5
    assert settled([*values, "Y"]) == ["F"] * 6 + ["M"] * 5 + ["other"] * 4 + ["", "other"]
    assert settled(["F"] * 6 + ["M"] * 5, [0] * 6 + [1, 2, 3, 4, 5]) == [""] * 6 + ["M"] * 5, "images are no patients"


@pytest.mark.parametrize("number", [10, 13])
def test_what_tells_patients_apart_is_refused(number: int) -> None:
    with pytest.raises(UserError, match=rf"'sex' are {number} for {number} patients .*who somebody is"):
        settled([f"p{k}" for k in range(number)])
    with pytest.raises(UserError, match="'sex' are 13 for 130 patients"):
        settled([f"p{k % 13}" for k in range(130)])


@pytest.mark.parametrize(
    ("text", "group"),
    [("39", "below 40"), ("40", "40 to below 60"), ("058Y", "40 to below 60"), ("60", "60 and above"), ("412", ""),
     ("", ""), ("nan", "")],
)  # fmt: skip
def test_ages_are_bands(text: str, group: str) -> None:
    assert columns.age_band(text) == group


def own(root: Path, **settings: Any) -> Prepared:
    values = params.load(root / "params.yaml", {}, catalog.sizes(root))
    return prepare(catalog.lookup("case", root), values, root, workers=1)


@pytest.fixture
def root(tmp_path: Path, top: Path) -> Path:
    workspace.make(tmp_path, top)
    folder = drawn_masks.write(tmp_path, drawn_masks.gray_image)
    with open(folder / "images.csv", newline="") as stream:
        rows = list(csv.reader(stream))
    more = [[*rows[0], "sex", "age"]]
    more += [[*row, "F" if k % 2 else "M", str(20 + 5 * k)] for k, row in enumerate(rows[1:])]
    with open(folder / "images.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(more)
    return tmp_path


def declare(root: Path, said: Any) -> None:
    path = root / "data/raw/case/task.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"subgroups": said}))


def test_subgroups_of_a_table_enter_the_cache_and_change_no_digest(root: Path) -> None:
    before = own(root)
    assert not [name for name in map(str, before.samples) if name.startswith("group.")]
    declare(root, {"sex": [], "age": [45]})
    after = own(root)
    assert after.digest == before.digest
    assert after.samples["group.age"].tolist() == ["below 45"] * 5 + [""] * 4, "of four patients none has a name"
    assert set(after.samples["group.sex"]) == {"M", ""}
    pd.testing.assert_frame_equal(after.samples[before.samples.columns], before.samples)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (["patient"], "subgroups are columns of `table` that tell groups of patients apart"),
        ({"age": [60, 40]}, "rising cuts of numbers"),
        (["colour"], "no column 'colour'"),
        ({"sex": [3]}, "sex must be a number"),
        (["age"], "'age' are 9 for 9 patients"),
    ],
)
def test_wrong_subgroups_are_refused(root: Path, said: Any, words: str) -> None:
    declare(root, said)
    with pytest.raises(UserError, match=words):
        own(root)


def test_official_tables_bring_sex_age_and_view(tmp_path: Path, top: Path) -> None:
    workspace.make(tmp_path, top, "chexpert", "chestxray14")
    for name in ("chexpert", "chestxray14"):
        samples = list(reading.read(TASKS[name], tmp_path / "data/phantoms" / name))
        assert all(set(sample.groups) <= {"sex", "age", "view"} for sample in samples)
        assert {one.groups["sex"] for one in samples if "sex" in one.groups}
