from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from medtransfer import params
from medtransfer.core.addresses import scrub
from medtransfer.core.errors import UserError
from medtransfer.data import catalog
from medtransfer.data.catalog import TASKS
from medtransfer.data.tasks import Folds

BINARY: dict[str, Any] = {
    "kind": "binary", "labels": ["Pneumonia"], "table": "images.csv", "patient": "who", "split": "part",
    "image_size": 64,
}  # fmt: skip


def write(root: Path, tree: dict[str, Any] | str, name: str = "mine") -> Path:
    path = root / "data/raw" / name / "task.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
    return path


def test_a_description_becomes_a_task(tmp_path: Path) -> None:
    write(tmp_path, BINARY | {"title": "Mine", "derived_from": ["chestxray14"], "margin": 0.02})
    task = catalog.lookup("mine", tmp_path)
    assert (task.kind, task.labels, task.metric, task.margin) == ("binary", ("Pneumonia",), "auc", 0.02)
    assert (task.unit, task.split_source, task.draw, task.folds) == ("patient", "given", {}, None)
    assert task.layout is not None
    assert (task.layout.table, task.layout.patient, task.layout.split) == ("images.csv", "who", "part")
    assert task.derived_from == ("chestxray14",)
    assert catalog.names(tmp_path) == [*TASKS, "mine"]


def test_patients_that_are_not_known_make_the_image_the_unit(tmp_path: Path) -> None:
    for none in ("none", None):
        write(tmp_path, BINARY | {"patient": none})
        task = catalog.lookup("mine", tmp_path)
        assert task.unit == "image"
        assert task.layout is not None
        assert task.layout.patient == ""


@pytest.mark.parametrize(
    ("split", "draw", "folds", "column", "source"),
    [
        ("part", {}, None, "part", "given"),
        ({"val": 0.1, "test": 0.2}, {"val": 0.1, "test": 0.2}, None, "", "drawn"),
        ({"column": "part", "val": 0.1}, {"val": 0.1}, None, "part", "drawn"),
        ({"folds": 5, "repeats": 2}, {"val": 0.1}, Folds(count=5, repeats=2), "", "drawn"),
        ({"folds": 3, "column": "part", "val": 0.2}, {"val": 0.2}, Folds(count=3, repeats=1), "part", "drawn"),
    ],
)
def test_forms_of_split(
    tmp_path: Path, split: Any, draw: dict[str, float], folds: Folds | None, column: str, source: str
) -> None:
    write(tmp_path, BINARY | {"split": split})
    task = catalog.lookup("mine", tmp_path)
    assert task.layout is not None
    assert (task.draw, task.folds, task.layout.split, task.split_source) == (draw, folds, column, source)


def test_grades_may_be_numbers_and_kappa_needs_an_order(tmp_path: Path) -> None:
    grades = BINARY | {"kind": "multiclass", "labels": [0, 1, 2], "label": "grade", "metric": "kappa"}
    write(tmp_path, grades | {"ordinal": True})
    assert catalog.lookup("mine", tmp_path).labels == ("0", "1", "2")
    write(tmp_path, grades)
    with pytest.raises(UserError, match=r"must be one of auc, .* got 'kappa' \(kappa needs `ordinal: true`\)"):
        catalog.lookup("mine", tmp_path)


def test_masks_of_several_labels(tmp_path: Path) -> None:
    base = BINARY | {"kind": "segmentation", "labels": ["Lung", "Heart"]}
    write(tmp_path, base | {"mask": "file", "values": {"Lung": 1, "Heart": 2}})
    task = catalog.lookup("mine", tmp_path)
    assert task.layout is not None
    assert task.layout.masks == {"Lung": "file", "Heart": "file"}
    write(tmp_path, base | {"mask": {"Lung": "a", "Heart": "b"}})
    task = catalog.lookup("mine", tmp_path)
    assert task.layout is not None
    assert task.layout.masks == {"Lung": "a", "Heart": "b"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "regression"}, "kind must be one of"),
        ({"lables": ["x"]}, "unknown parameter lables; the nearest valid name is labels"),
        ({"labels": ["a", "b"]}, r"a binary task has 1 to 1 labels, got 2"),
        ({"kind": "multilabel", "labels": ["a", "a"]}, "labels must differ"),
        ({"table": ""}, "name either `table`"),
        ({"arrays": "x.npz"}, "name either `table`"),
        ({"metric": "dice"}, "metric must be one of auc, average_precision for a binary task, got 'dice'"),
        ({"kind": "segmentation", "metric": ""}, "`mask` must name a column"),
        ({"kind": "segmentation", "labels": ["a", "b"], "mask": "m"}, "need `values"),
        ({"kind": "segmentation", "labels": [str(n) for n in range(9)], "mask": "m"}, "1 to 8 labels, got 9"),
        ({"mask": "m"}, "`mask` is for segmentation"),
        ({"kind": "multiclass", "labels": ["a", "b"]}, "needs `label`"),
        ({"ordinal": True}, "`ordinal` is for multiclass"),
        ({"uncertain": True, "kind": "multiclass", "labels": ["a", "b"], "label": "x"}, "`uncertain` is for"),
        ({"windows": [[40]]}, "list of \\[level, width\\]"),
        ({"windows": [[40, 400], [50, 300]]}, "one window or one per channel, got 2 for 3"),
        ({"cache_size": 32}, "image_size <= cache_size must hold"),
        ({"margin": 0}, "margin > 0"),
        ({"split": {"folds": 1}}, "split.folds must be a whole number >= 2, got 1"),
        ({"split": {"folds": 5, "repeats": 0}}, "split.repeats"),
        ({"split": {"folds": 5, "test": 0.1}}, "lock a test set with `column`"),
        ({"split": {"val": 0.1}}, "a draw needs val and test"),
        ({"split": {"val": 0.6, "test": 0.5}}, "train needs images"),
        ({"split": {"val": 2, "test": 0.5}}, "0 < split.val < 1"),
        ({"split": {"vla": 0.1}}, "split must be a column"),
        ({"split": 3}, "split must be a column"),
    ],
)
def test_what_does_not_hold_is_refused_with_file_law_and_value(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    path = write(tmp_path, BINARY | changes)
    with pytest.raises(UserError, match=words) as caught:
        catalog.lookup("mine", tmp_path)
    assert str(path) in str(caught.value)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    write(tmp_path, {k: v for k, v in BINARY.items() if k != "patient"})
    with pytest.raises(UserError, match="missing parameter patient"):
        catalog.lookup("mine", tmp_path)


def test_text_that_is_not_yaml_spoils_only_its_own_task(tmp_path: Path) -> None:
    write(tmp_path, "kind: [", "broken")
    write(tmp_path, BINARY)
    assert list(catalog.sizes(tmp_path)) == ["mine"]
    assert catalog.lookup("mine", tmp_path).name == "mine"
    with pytest.raises(UserError, match="is not YAML"):
        catalog.lookup("broken", tmp_path)


def test_names_that_are_not_there(tmp_path: Path) -> None:
    write(tmp_path, BINARY)
    with pytest.raises(UserError, match=r"unknown task 'mien'; did you mean mine\? .*task\.yaml"):
        catalog.lookup("mien", tmp_path)
    write(tmp_path, BINARY, "my task")
    with pytest.raises(UserError, match="rename it"):
        catalog.lookup("my task", tmp_path)


def test_sizes_of_own_tasks_stand_where_the_file_has_none(top: Path, tmp_path: Path) -> None:
    there = [{"task": "shenzhen", "labels": {"Nodule": "Tuberculosis"}}]
    write(tmp_path, BINARY | {"cache_size": 80, "changes": {"max_epochs": 3}, "external": there})
    loaded = params.load(top / "params.yaml", {"tasks.mine.image_size": "48"}, catalog.sizes(tmp_path))
    own = loaded.tasks["mine"]
    assert (own.image_size, own.cache_size, dict(own.changes)) == (48, 80, {"max_epochs": 3})
    assert own.external == (params.External(task="shenzhen", labels={"Nodule": "Tuberculosis"}),)
    assert params.protocol(loaded, "mine", False).max_epochs == 3
    assert params.load(top / "params.yaml").tasks.keys() == set(loaded.tasks) - {"mine"}


def test_truth_values_are_no_names_of_labels(tmp_path: Path) -> None:
    folder = tmp_path / "data/raw/mine"
    folder.mkdir(parents=True)
    text = "kind: {}\nlabels: {}\ntable: t.csv\nlabel: grade\npatient: who\nsplit: part\nimage_size: 32\n"
    (folder / "task.yaml").write_text(text.format("binary", "[on]"))
    with pytest.raises(UserError, match=r"YAML reads yes, no, on, off.*in quotes"):
        catalog.lookup("mine", tmp_path)
    (folder / "task.yaml").write_text(text.format("multiclass", "[no, yes]"))
    assert catalog.lookup("mine", tmp_path).labels == ("False", "True")


def test_where_the_data_are_from_is_printed_whole() -> None:
    for task in TASKS.values():
        assert scrub(f"get it from {task.source}, or not") == f"get it from {task.source}, or not"
