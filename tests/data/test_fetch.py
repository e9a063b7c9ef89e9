from __future__ import annotations

import hashlib
import http.server
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from medtransfer.core import downloads
from medtransfer.core.errors import UserError
from medtransfer.data import catalog, fetch
from medtransfer.data.catalog import TASKS
from medtransfer.data.phantoms import write
from medtransfer.data.readers import montgomery, own_arrays, shenzhen
from medtransfer.data.readers.reading import Archive

FLAT = [name for name in fetch.medmnist() if not name.endswith("3d")]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder that a server on this machine offers, and its address."""
    monkeypatch.setattr(downloads, "BACKOFF", 0.001)
    folder = tmp_path / "served"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def pneumonia(served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny pneumoniamnist, whose address and checksums stand in MedMNIST's table."""
    folder, address = served
    rng = np.random.default_rng(0)
    numbers = {"train": 6, "val": 3, "test": 4}
    content: dict[str, Any] = {}
    for split, number in numbers.items():
        content[f"{split}_images"] = rng.integers(0, 256, (number, 28, 28), dtype=np.uint8)
        content[f"{split}_labels"] = np.arange(number, dtype=np.uint8)[:, None] % 2
    file = folder / "pneumoniamnist.npz"
    np.savez_compressed(file, **content)
    md5 = hashlib.md5(file.read_bytes()).hexdigest()
    table = fetch.medmnist()
    table["pneumoniamnist"] |= {"url": f"{address}/{file.name}?download=1", "MD5": md5, "n_samples": numbers}
    monkeypatch.setattr(fetch, "medmnist", lambda: table)
    return file


def test_a_medmnist_set_becomes_a_task(pneumonia: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "medtransfer")
    fetch.fetch("pneumoniamnist", tmp_path, 28)
    folder = tmp_path / "data/raw/pneumoniamnist"
    assert {path.name for path in folder.iterdir()} == {"pneumoniamnist.npz", "task.yaml"}
    assert {path.name for path in (tmp_path / "data/raw").iterdir()} == {"pneumoniamnist"}
    said = yaml.safe_load((folder / "task.yaml").read_text())
    assert said["labels"] == ["pneumonia"]
    assert said["counts"] == {"train": 6, "val": 3, "test": 4}
    assert said["image_size"] == said["cache_size"] == 64
    samples = list(own_arrays.read(catalog.lookup("pneumoniamnist", tmp_path), folder))
    assert [sample.split for sample in samples].count("test") == 4
    assert [sample.labels for sample in samples][:2] == [(0,), (1,)]
    assert caplog.text.index("licence CC BY 4.0") < caplog.text.index("downloading http")
    assert "prepare --task pneumoniamnist" in caplog.text
    with pytest.raises(UserError, match="is there already, and fetch never overwrites"):
        fetch.fetch("pneumoniamnist", tmp_path, 28)


def test_a_set_with_a_wrong_checksum_leaves_no_task(pneumonia: Path, tmp_path: Path) -> None:
    pneumonia.write_bytes(pneumonia.read_bytes() + b"x")
    with pytest.raises(UserError, match="expected md5"):
        fetch.fetch("pneumoniamnist", tmp_path, 28)
    assert not (tmp_path / "data/raw").exists()


def test_a_set_put_there_by_hand_needs_no_network(pneumonia: Path, tmp_path: Path) -> None:
    (tmp_path / "data/downloads").mkdir(parents=True)
    pneumonia.rename(tmp_path / "data/downloads" / pneumonia.name)
    fetch.fetch("pneumoniamnist", tmp_path, 28)
    assert "pneumoniamnist" in catalog.names(tmp_path)


@pytest.mark.parametrize("flag", FLAT)
@pytest.mark.parametrize("size", fetch.SIZES)
def test_every_set_is_described_in_full(flag: str, size: int, tmp_path: Path) -> None:
    info = fetch.medmnist()[flag]
    said = fetch.describe(flag, info, size)
    suffix = "" if size == 28 else f"_{size}"
    assert said["arrays"] == f"{flag}{suffix}.npz"
    assert info[f"url{suffix}"] == f"https://zenodo.org/records/10519652/files/{said['arrays']}?download=1"
    assert len(info[f"MD5{suffix}"]) == 32
    assert said["patient"] == "none"
    assert said["split"] == "official"
    assert said["channels"] in (1, 3)
    assert 32 <= said["image_size"] <= said["cache_size"]
    assert set(said["counts"]) == {"train", "val", "test"}
    assert said["licence"].startswith("CC BY")
    assert said["derived_from"] == (["chestxray14"] if flag == "chestmnist" else [])
    path = tmp_path / "data/raw" / flag / "task.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(said, sort_keys=False, allow_unicode=True))
    task = catalog.lookup(flag, tmp_path)
    assert len(task.labels) == (1 if task.kind == "binary" else len(info["label"]))
    assert task.metric == ("kappa" if flag == "retinamnist" else "auc")
    assert task.ordinal == (flag == "retinamnist")
    assert task.counts == info["n_samples"]
    assert task.unit == "image"


def test_kinds_of_the_sets() -> None:
    table = fetch.medmnist()
    kinds = {flag: fetch.describe(flag, table[flag], 64)["kind"] for flag in FLAT}
    assert len(kinds) == 12
    assert {flag for flag, kind in kinds.items() if kind == "binary"} == {"pneumoniamnist", "breastmnist"}
    assert {flag for flag, kind in kinds.items() if kind == "multilabel"} == {"chestmnist"}
    assert fetch.describe("breastmnist", table["breastmnist"], 64)["labels"] == ["normal, benign"]


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("organmnist3d", 64, "is of volumes"),
        ("pneumonia", 64, r"is not known; the nearest names: pneumoniamnist"),
        ("shenzen", 64, "the nearest names: shenzhen"),
        ("", 64, "is not known. Datasets: montgomery, shenzhen"),
        ("bloodmnist", 32, "one of 28, 64, 128, 224 pixels, got 32"),
    ],
)
def test_what_is_not_there(tmp_path: Path, name: str, size: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        fetch.fetch(name, tmp_path, size)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", fetch.GATED)
def test_gated_sets_are_explained_step_by_step(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as error:
        fetch.fetch(name, tmp_path, 224)
    words = str(error.value)
    assert TASKS[name].source in words
    assert TASKS[name].licence in words
    assert str(tmp_path / "data/raw" / name) in words
    assert f"prepare --task {name}" in words
    assert "  1. " in words
    assert "{" not in words


def test_every_task_is_either_fetched_or_explained() -> None:
    assert {task.dataset for task in TASKS.values()} == {*fetch.ARCHIVES, *fetch.GATED}
    assert all(archive.url.startswith("https://openi.nlm.nih.gov/") for archive in fetch.ARCHIVES.values())


Publish = Callable[..., Path]


@pytest.fixture
def publish(served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Zips phantoms as the official archive is, with what file managers left in it."""

    def make(dataset: str, top: str, images: int = 5, bound: int = 10**9) -> Path:
        folder, address = served
        write.write(dataset, tmp_path / "made" / dataset, images=images, size=40, seed=0, contrast=1.0)
        file = folder / f"{top}.zip"
        with zipfile.ZipFile(file, "w") as archive:
            for path in sorted((tmp_path / "made" / dataset).rglob("*.*")):
                archive.write(path, f"{top}/{path.relative_to(tmp_path / 'made' / dataset)}")
            archive.mkdir(f"{top}/ClinicalReadings")
            for rubbish in (f"__MACOSX/{top}/._x.png", f"{top}/CXR_png/Thumbs.db", f"{top}/.DS_Store"):
                archive.writestr(rubbish, b"rubbish")
        monkeypatch.setitem(fetch.ARCHIVES, dataset, Archive(f"{address}/{file.name}", bound))
        return file

    return make


@pytest.mark.parametrize(
    ("dataset", "top", "read"),
    [("montgomery", "MontgomerySet", montgomery.read), ("shenzhen", "ChinaSet_AllFiles", shenzhen.read)],
)
def test_an_archive_becomes_a_folder_that_its_reader_takes(
    publish: Publish, tmp_path: Path, dataset: str, top: str, read: Callable[[Path], Iterator[Any]]
) -> None:
    file = publish(dataset, top)
    fetch.fetch(dataset, tmp_path, 224)
    folder = tmp_path / "data/raw" / dataset
    assert len(list(read(folder))) == 5
    names = {path.name for path in folder.rglob("*")}
    assert not names & {"Thumbs.db", ".DS_Store", "__MACOSX"}
    assert [path.name for path in (tmp_path / "data/downloads").iterdir()] == [f".{file.name}.lock"]
    noted = json.loads((tmp_path / "downloads.lock.json").read_text())
    assert noted == {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}
    with pytest.raises(UserError, match="never overwrites"):
        fetch.fetch(dataset, tmp_path, 224)


def test_an_archive_that_changed_since_the_first_download_is_refused_until_accepted(
    publish: Publish, tmp_path: Path
) -> None:
    publish("montgomery", "MontgomerySet")
    lock = tmp_path / "downloads.lock.json"
    lock.write_text('{"MontgomerySet.zip": "00"}')
    with pytest.raises(UserError, match="expected sha256 00"):
        fetch.fetch("montgomery", tmp_path, 224)
    assert not list((tmp_path / "data/raw").iterdir())
    lock.unlink()
    fetch.fetch("montgomery", tmp_path, 224)


def test_files_of_the_user_are_never_overwritten(tmp_path: Path) -> None:
    mine = tmp_path / "data/raw/montgomery/mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    (tmp_path / "data/raw/shenzhen").symlink_to(tmp_path / "elsewhere")
    for dataset in ("montgomery", "shenzhen"):
        with pytest.raises(UserError, match="never overwrites"):
            fetch.fetch(dataset, tmp_path, 224)
    assert mine.read_text() == "mine"


def test_an_archive_of_something_else_is_refused_whole(publish: Publish, tmp_path: Path) -> None:
    file = publish("montgomery", "MontgomerySet")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("MontgomerySet/readme.txt", "moved")
    with pytest.raises(UserError, match=r"MontgomerySet\.zip does not hold the published files"):
        fetch.fetch("montgomery", tmp_path, 224)
    assert not list((tmp_path / "data/raw").iterdir())
    assert not (tmp_path / "downloads.lock.json").exists()


def zipped(path: Path, *entries: tuple[str, bytes], mode: int = 0o100644) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries:
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = mode << 16
            archive.writestr(entry, content)
    return path


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "C:/evil", "..\\evil", "\\evil"])
def test_entries_that_lead_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    file = zipped(tmp_path / "x.zip", ("fine", b"1"), (name, b"2"))
    with pytest.raises(UserError, match="leads out of the folder"):
        fetch.unpack(file, tmp_path / "out", 100)
    assert not list((tmp_path / "out").iterdir())
    assert not list(tmp_path.rglob("evil"))


def test_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="is a link"):
        fetch.unpack(zipped(tmp_path / "x.zip", ("a", b"/etc"), mode=0o120777), tmp_path / "out", 100)


def test_what_unpacks_to_too_much_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    file = zipped(tmp_path / "x.zip", ("a", bytes(600_000)), ("b", bytes(600_000)))
    assert file.stat().st_size < 3000
    with pytest.raises(UserError, match="unpacks to 1200000 bytes, expected at most 1000000"):
        fetch.unpack(file, tmp_path / "out", 1_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 5}))
    with pytest.raises(UserError, match="needs 1200000 bytes to unpack, 5 are free"):
        fetch.unpack(file, tmp_path / "out", 2_000_000)
    assert not list((tmp_path / "out").iterdir())


def test_an_entry_that_understates_its_size_does_not_outgrow_the_bound(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    file = zipped(tmp_path / "x.zip", ("a", bytes(600_000)))
    size = (600_000).to_bytes(4, "little")
    file.write_bytes(file.read_bytes().replace(size, (10).to_bytes(4, "little")))
    with pytest.raises(UserError, match="cannot be unpacked"):
        fetch.unpack(file, tmp_path / "out", 100)
    assert all(path.stat().st_size <= 10 for path in (tmp_path / "out").iterdir())


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    file = zipped(tmp_path / "x.zip", ("a", np.random.default_rng(0).bytes(9000)))
    content = file.read_bytes()
    for damaged in (b"no zip at all", content[:5000], content[:500] + bytes(500) + content[1000:]):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"x\.zip cannot be unpacked: .*delete it and fetch again"):
            fetch.unpack(file, tmp_path / "out", 10_000)
        (tmp_path / "out/a").unlink(missing_ok=True)


def test_medmnist_is_not_imported() -> None:
    import sys

    fetch.medmnist()
    assert "medmnist" not in sys.modules
