"""What tells that raw files changed: their contents, asked again where size or times changed."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from medtransfer.cli.main import run as command
from medtransfer.core import files
from medtransfer.data import catalog, prepare
from medtransfer.data import raw as sources
from medtransfer.data.cache import Prepared
from medtransfer.data.raw import Source, fingerprint
from tests.conftest import TOP
from tests.support import workspace

OWN: dict[str, Any] = {
    "kind": "binary", "labels": ["Sick"], "arrays": "mine.npz", "patient": "none", "split": "official",
    "image_size": 32,
}  # fmt: skip


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A task of one's own in an uncompressed `.npz`, long settled."""
    workspace.make(tmp_path, TOP)
    folder = tmp_path / "data/raw/mine"
    folder.mkdir(parents=True)
    (folder / "task.yaml").write_text(yaml.safe_dump(OWN))
    write(folder, flip=False)
    return tmp_path


def write(folder: Path, *, flip: bool) -> None:
    rng = np.random.default_rng(0)
    parts: dict[str, Any] = {}
    for split, count in (("train", 20), ("val", 8), ("test", 8)):
        parts[f"{split}_images"] = rng.integers(0, 256, (count, 32, 32), dtype=np.uint8)
        parts[f"{split}_labels"] = (np.arange(count) % 2)[:, None]
    if flip:
        parts["test_labels"][[0, 1]] = parts["test_labels"][[1, 0]]
    np.savez(folder / "mine.npz", **parts)
    settle(folder / "mine.npz")


def settle(path: Path, seconds: float = 100.0) -> None:
    """Gives a file an older time of change; the kernel's own time stays that of now."""
    then = time.time_ns() - int(seconds * 1e9)
    os.utime(path, ns=(then, then))


def prepared(root: Path, *, check: bool = False) -> Prepared:
    from medtransfer import params

    here = params.load(root / "params.yaml", {}, catalog.sizes(root))
    return prepare.prepare(catalog.lookup("mine", root), here, root, check=check)


def test_labels_that_are_corrected_in_a_file_of_equal_size_arrive(mine: Path) -> None:
    path = mine / "data/raw/mine/mine.npz"
    before, size = prepared(mine), path.stat().st_size
    write(path.parent, flip=True)
    assert path.stat().st_size == size
    after = prepared(mine)
    assert after.digest != before.digest
    assert after.samples["Sick"].tolist() != before.samples["Sick"].tolist()


@pytest.mark.parametrize("ending", ["bmp", "tif"])
def test_a_picture_of_equal_size_is_seen(tmp_path: Path, ending: str) -> None:
    raw = Source("mine", synthetic=False, root=tmp_path)
    raw.folder.mkdir(parents=True)
    path = raw.folder / f"a.{ending}"
    Image.new("L", (20, 20), 10).save(path)
    before = fingerprint(raw), path.stat().st_size
    Image.new("L", (20, 20), 11).save(path)
    assert path.stat().st_size == before[1]
    assert fingerprint(raw) != before[0]


def test_a_file_that_was_touched_or_copied_is_the_same_and_nothing_is_built(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = prepared(mine)
    path = mine / "data/raw/mine/mine.npz"
    path.touch()
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    monkeypatch.setattr(prepare, "Build", lambda *_: pytest.fail("built again"))
    assert prepared(mine).digest == before.digest


def test_a_changed_margin_builds_nothing_and_is_seen_by_dvc(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = prepared(mine)
    sources.write(mine)
    noted = (mine / "data/sources/mine.json").read_text()
    (mine / "data/raw/mine/task.yaml").write_text(yaml.safe_dump(OWN | {"margin": 0.05, "derived_from": ["drive"]}))
    monkeypatch.setattr(prepare, "Build", lambda *_: pytest.fail("built again"))
    assert prepared(mine).digest == before.digest
    sources.write(mine)
    now = json.loads((mine / "data/sources/mine.json").read_text())
    assert now["raw"] == json.loads(noted)["raw"]
    assert now["task"] != json.loads(noted)["task"]


def test_what_another_site_is_made_of_is_seen_by_dvc_where_networks_are_read_on_it(mine: Path) -> None:
    def noted() -> tuple[dict[str, Any], dict[str, Any]]:
        sources.write(mine, {"shenzhen": ["mine", "unknown"], "mine": []})
        one, two = (json.loads((mine / f"data/sources/{name}.json").read_text()) for name in ("shenzhen", "mine"))
        return one, two

    home, away = noted()
    assert home == {"raw": None, "task": None, "external": {"mine": away}}
    assert away.keys() == {"raw", "task"}
    write(mine / "data/raw/mine", flip=True)
    assert noted()[0]["external"]["mine"]["raw"] != away["raw"]


def test_what_did_not_change_is_not_read_again_but_to_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = Source("mine", synthetic=False, root=tmp_path)
    raw.folder.mkdir(parents=True)
    for name in ("a", "b"):
        (raw.folder / name).write_text(name)
    monkeypatch.setattr(sources, "SETTLED", -10_000_000_000)  # as if written long ago
    read, sha256 = list[str](), files.sha256

    def count(path: Path) -> str:
        read.append(path.name)
        return sha256(path)

    monkeypatch.setattr(files, "sha256", count)
    first = fingerprint(raw)
    assert sorted(read) == ["a", "b"]
    read.clear()
    assert (fingerprint(raw), read) == (first, [])
    settle(raw.folder / "b")
    assert (fingerprint(raw), read) == (first, ["b"])
    read.clear()
    assert fingerprint(raw, whole=True) == first
    assert sorted(read) == ["a", "b"]


def test_a_time_of_a_moment_ago_is_not_trusted(tmp_path: Path) -> None:
    raw = Source("mine", synthetic=False, root=tmp_path)
    raw.folder.mkdir(parents=True)
    (raw.folder / "a").write_text("a")
    fingerprint(raw)
    assert json.loads(raw.hashes.read_text()) == {}


def test_check_finds_and_names_what_changed_without_a_sign(
    mine: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sources, "SETTLED", -10_000_000_000)
    path = mine / "data/raw/mine/mine.npz"
    before = prepared(mine)
    sources.write(mine)
    write(path.parent, flip=True)
    raw = Source("mine", synthetic=False, root=mine)
    notes = json.loads(raw.hashes.read_text())
    notes["mine.npz"]["state"] = sources._state(path)  # as after a fault of the disk
    raw.hashes.write_text(json.dumps(notes))
    assert prepared(mine).digest == before.digest
    with caplog.at_level(logging.WARNING):
        command(["prepare", "mine", "--check"], mine)
    assert "1 file under" in caplog.text
    assert "mine.npz: is the disk sound?" in caplog.text
    assert prepared(mine).digest != before.digest


def test_damaged_notes_are_made_anew(tmp_path: Path) -> None:
    raw = Source("mine", synthetic=False, root=tmp_path)
    raw.folder.mkdir(parents=True)
    (raw.folder / "a").write_text("a")
    before = fingerprint(raw)
    raw.hashes.write_text('{"a": ')
    assert fingerprint(raw) == before
