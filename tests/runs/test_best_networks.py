from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from medtransfer.core.errors import UserError
from medtransfer.data.catalog import TASKS
from medtransfer.params import WHOLE
from medtransfer.results import kept_network
from medtransfer.runs import best_networks
from medtransfer.runs.run import Run

INIT = "imagenet@resnet18"


def run(root: Path, seed: int, val: float | None, *, init: str = INIT, network: bool = True, **changes: Any) -> Run:
    """Lays out what a finished run leaves; of a `Run` no more is read."""
    folder = root / "data/runs" / f"{init}{seed}{changes}"
    folder.mkdir(parents=True)
    scores = {} if val is None else {"best_val_auc": val}
    cell = {"init": init, "task": "shenzhen", "digest": f"d{seed}", "seed": seed, "fold": None}
    (folder / "cell.json").write_text(json.dumps(cell | {"scores": scores} | changes))
    if network:
        (folder / kept_network.NETWORK).write_bytes(f"{init} {seed}".encode())
    slug = init.replace("@", "--")
    own = {"init": SimpleNamespace(slug=slug), "record": TASKS["shenzhen"], "protocol": "finetune", "fraction": WHOLE}
    return cast(Run, SimpleNamespace(folder=folder, name=f"{init}-s{seed}", **own))


def kept(root: Path) -> list[str]:
    return sorted(path.name for path in (root / kept_network.FOLDER / "shenzhen").iterdir())


def test_the_best_seed_on_val_of_each_init_is_kept_with_its_digest(tmp_path: Path) -> None:
    runs = [run(tmp_path, 0, 0.7), run(tmp_path, 1, 0.9), run(tmp_path, 2, 0.9), run(tmp_path, 3, None)]
    best_networks.write([*runs, run(tmp_path, 5, 0.1, init="random@resnet18")], "shenzhen", tmp_path)
    place = kept_network.path(tmp_path, "shenzhen", "imagenet--resnet18", "fixed")
    assert place.read_bytes() == f"{INIT} 1".encode()
    found = kept_network.read(place)
    assert (found.digest, found.seed, found.val, found.init) == ("d1", 1, 0.9, INIT)
    assert len(kept(tmp_path)) == 4


def test_recipes_are_kept_apart_and_older_files_go(tmp_path: Path) -> None:
    best_networks.write([run(tmp_path, 0, 0.7, init="random@resnet18")], "shenzhen", tmp_path)
    best_networks.write([run(tmp_path, 0, 0.7), run(tmp_path, 0, 0.6, recipe="tuned")], "shenzhen", tmp_path)
    names = ["imagenet--resnet18--tuned", "imagenet--resnet18"]
    assert kept(tmp_path) == sorted(f"{name}.{end}" for name in names for end in ("json", "safetensors"))


def test_a_run_without_its_network_is_said_and_no_other_seed_stands_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        best_networks.write([run(tmp_path, 0, 0.9, network=False), run(tmp_path, 1, 0.7)], "shenzhen", tmp_path)
    assert "imagenet@resnet18-s0 is the best of its seeds on val" in caplog.text
    assert kept(tmp_path) == []
    with pytest.raises(UserError, match="found none"):
        kept_network.read(kept_network.path(tmp_path, "shenzhen", "imagenet--resnet18", "fixed"))


def test_a_file_that_was_changed_is_refused(tmp_path: Path) -> None:
    best_networks.write([run(tmp_path, 0, 0.7)], "shenzhen", tmp_path)
    place = kept_network.path(tmp_path, "shenzhen", "imagenet--resnet18", "fixed")
    assert dataclasses.asdict(kept_network.read(place))["recipe"] == "fixed"
    place.write_bytes(b"other")
    with pytest.raises(UserError, match="is not the file that"):
        kept_network.read(place)
