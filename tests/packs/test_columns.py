from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from medtransfer.core.errors import UserError
from medtransfer.data.tasks import Listed
from medtransfer.packs import columns
from medtransfer.results.away import Away
from tests.support import packs

LISTED = Listed(name="list.csv", sha256="0" * 64, entries=9, held=1, test=5, by=("name",))


def travelled(*results: Any) -> list[Any]:
    return columns.read(json.loads(columns.canonical(columns.write(results))), 1)


def test_runs_come_back_but_for_what_is_looked_up_and_the_machine_s_own() -> None:
    read = Away(task="b", labels={"x": "y"}, manifest_digest="m", marks=(), unit="patient", images=3)
    one = packs.result(
        away=(read,), mlflow_run_id="abc", parts={"best.safetensors": "0" * 64}, listed=LISTED, undefined=("a",)
    )
    two = packs.result(seed=1, auc=0.1 + 0.2, fold=3, folds=5, history=())
    back = travelled(one, two)
    own: dict[str, Any] = {"metric": "", "margin": None, "images": (), "mlflow_run_id": None, "parts": {}, "away": ()}
    expected = [dataclasses.replace(each, **own) for each in (one, two)]
    expected[0] = dataclasses.replace(expected[0], cost={"epochs": 2.0, "seconds": 12.35})
    expected[1] = dataclasses.replace(expected[1], cost={"epochs": 2.0, "seconds": 12.35})
    assert back == expected
    assert back[1].scores["test_auc"] == 0.30000000000000004  # every digit of a score


def test_curves_keep_four_digits_and_those_of_single_labels_are_left_out() -> None:
    epoch = {"val_auc": 0.123456789, "val_auc.Edema": 0.5, "lr": 0.0001}
    (back,) = travelled(packs.result(history=(epoch,), cost={"images": 123456789.0}))
    assert back.history == ({"val_auc": 0.1235, "lr": 0.0001},)
    assert back.cost == {"images": 123456789.0}


def test_what_runs_share_is_written_once() -> None:
    tree = columns.write([packs.result(seed=seed) for seed in range(3)])
    assert tree["fields"]["params"] == {"values": [{"classification.lr": 1e-3, "classification.monitor": "val_loss"}]}
    assert tree["fields"]["seed"] == {"values": [0, 1, 2]}
    pair = columns.write([packs.result(seed=seed, init=f"init{seed % 2}@resnet50") for seed in range(3)])
    assert pair["fields"]["init"] == {"values": ["init0@resnet50", "init1@resnet50"], "at": [0, 1, 0]}


def change(path: str, value: Any) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(columns.canonical(columns.write([packs.result(seed=seed) for seed in range(3)])))
    *parents, last = path.split("/")
    node = tree
    for key in parents:
        node = node[key]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return tree


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("extra", 1, "results: unknown extra"),
        ("fields/seed", None, "fields: no seed"),
        ("fields/owner", {"values": ["me"]}, "fields: unknown owner"),
        ("fields/seed/values", [0, 1], "seed must be 1 value or 3, got 2"),
        ("fields/seed/values", [0, 1, "two"], "parameter seed must be a whole number, got 'two'"),
        ("fields/init", {"values": ["a"], "at": [0, 1, 0]}, "init must be places below 1"),
        ("fields/init", {"values": ["a"], "at": [0, -1, 0]}, "init must be places below 1"),
        ("fields/kind/values", ["regression"], "parameter kind must be one of"),
        ("scores/test_auc", [0.5, 0.6], "scores.test_auc must be 3 numbers"),
        ("scores/test_auc", [0.5, 0.6, "0.7"], "scores.test_auc must be numbers"),
        ("scores/test_auc", [0.5, 0.6, float("inf")], "scores.test_auc must be finite"),
        ("counts/train", [1, 2, 2.5], "counts.train must be numbers"),
        ("epochs", [2, 2, -2], "epochs must be numbers of epochs"),
        ("epochs", [2, 2, 3], "history.lr must be 7 numbers"),
        ("runs", 10**12, "digest must be 1000000000000 values"),
        ("history", {}, "history must be columns of 6 epochs"),
        ("runs", True, "runs must be a number of runs"),
    ],
)
def test_columns_of_a_stranger_are_held_to_their_form(path: str, value: Any, words: str) -> None:
    with pytest.raises(UserError) as error:
        columns.read(change(path, value), 1)
    assert words in str(error.value)


def test_equal_data_are_one_text() -> None:
    assert columns.canonical({"b": 1, "a": [0.1]}) == '{"a":[0.1],"b":1}'
    with pytest.raises(ValueError, match="JSON compliant"):
        columns.canonical(float("nan"))
