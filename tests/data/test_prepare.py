from __future__ import annotations

import errno
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medtransfer.core.errors import UserError
from medtransfer.data import cache, decode
from medtransfer.data import prepare as preparation
from medtransfer.data.cache import load
from medtransfer.data.cache_build import Build
from medtransfer.data.prepare import prepare
from medtransfer.data.raw import source
from medtransfer.data.readers import reading
from medtransfer.data.row_writer import JOURNAL, NOTE
from tests.support.raw_files import (
    FINDINGS,
    LABELS,
    PARAMS,
    VESSELS,
    counting,
    edit,
    fake_read,
    findings,
    picture,
    settings,
    write,
)


@pytest.fixture(autouse=True)
def _reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "read", fake_read)


# Where files come from


def test_real_files_come_before_phantoms(tmp_path: Path) -> None:
    findings(tmp_path, "phantoms")
    assert source(FINDINGS, PARAMS.data, tmp_path).synthetic
    real = findings(tmp_path / "elsewhere")
    (tmp_path / "data/raw").mkdir(parents=True)
    (tmp_path / "data/raw/chestxray14").symlink_to(real)
    found = source(FINDINGS, PARAMS.data, tmp_path)
    assert found.folder == tmp_path / "data/raw/chestxray14"
    assert not found.synthetic
    assert prepare(FINDINGS, settings(), tmp_path).folder.name == "real"


def test_missing_files_name_both_places_and_both_ways(tmp_path: Path) -> None:
    (tmp_path / "data/raw/chestxray14").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        source(FINDINGS, PARAMS.data, tmp_path)
    for words in ("data/raw/chestxray14", "data/phantoms/chestxray14", FINDINGS.source, "medtransfer phantoms"):
        assert words in str(caught.value)
    findings(tmp_path, "phantoms")
    with pytest.raises(UserError, match="phantoms=false"):
        source(FINDINGS, replace(PARAMS.data, phantoms=False), tmp_path)


def test_phantoms_are_marked_and_need_no_published_counts(tmp_path: Path) -> None:
    write(tmp_path, FINDINGS, ["trainval"] * 12 + ["test"] * 6, "phantoms")
    prepared = prepare(FINDINGS, settings(), tmp_path)
    assert prepared.marks == ("synthetic",)
    assert prepared.folder.name == "phantoms"
    assert prepared.manifest["found"]["counts"] == {"trainval": 12, "test": 6}


# Published facts


def test_counts_that_differ_are_refused_or_marked(tmp_path: Path) -> None:
    write(tmp_path, FINDINGS, ["trainval"] * 12 + ["test"] * 6)
    words = r": trainval: published 24 images, found 12; test: published 8 images, found 6; .*data\.partial=true"
    with pytest.raises(UserError, match=words):
        prepare(FINDINGS, settings(), tmp_path)
    prepared = prepare(FINDINGS, settings(partial=True), tmp_path)
    assert prepared.marks == ("partial",)
    assert prepared.manifest["expected"]["counts"] == {"trainval": 24, "test": 8}
    assert prepared.manifest["found"]["counts"] == {"trainval": 12, "test": 6}


def test_positives_that_differ_are_refused(tmp_path: Path) -> None:
    findings(tmp_path)
    task = replace(FINDINGS, positives={"trainval": (12, 6), "test": (4, 3)})
    with pytest.raises(UserError, match=r": test Mass positives: published 3, found 2; complete"):
        prepare(task, settings(), tmp_path)
    task = replace(FINDINGS, positives={"trainval": (12, 6), "test": (4, 2)})
    assert prepare(task, settings(partial=True), tmp_path).marks == ()


def test_six_differences_are_named_and_the_others_counted(tmp_path: Path) -> None:
    labels = (*LABELS, *(f"L{number}" for number in range(5)))
    folder = findings(tmp_path)
    for row in range(32):
        edit(folder, row, labels="1 0 0 0 0 0 0")
    task = replace(FINDINGS, labels=labels, counts={"trainval": 25, "test": 8}, positives={"test": (8, *(1,) * 6)})
    with pytest.raises(UserError) as caught:
        prepare(task, settings(), tmp_path)
    assert "trainval: published 25 images, found 24; test Mass positives: published 1, found 0;" in str(caught.value)
    assert "Effusion" not in str(caught.value)
    assert "L3 positives: published 1, found 0; and 1 more; complete the files" in str(caught.value)
    assert "L4" not in str(caught.value)


def test_a_given_val_list_counts_as_trainval(tmp_path: Path) -> None:
    patients = [str(number) for number in range(32)]
    write(tmp_path, FINDINGS, ["train"] * 18 + ["val"] * 6 + ["test"] * 8, patients=patients)
    prepared = prepare(FINDINGS, settings(), tmp_path)
    assert prepared.marks == ()
    assert prepared.rows("val").tolist() == list(range(18, 24))


# Digest and currency


def test_digest_ignores_workers_time_and_place(tmp_path: Path) -> None:
    digests = set()
    for name, workers in (("one", 1), ("two", 7)):
        write(tmp_path / name, VESSELS, ["trainval"] * 8 + ["test"] * 4)
        digests.add(prepare(VESSELS, settings(), tmp_path / name, workers=workers).digest)
    assert len(digests) == 1


def test_digest_follows_pixels_masks_table_and_fields(tmp_path: Path) -> None:
    task = replace(VESSELS, counts={"trainval": 8, "test": 4})
    folder = write(tmp_path, task, ["trainval"] * 8 + ["test"] * 4)
    seen = [prepare(task, settings(), tmp_path).digest]
    picture(99, "RGB").save(folder / "images" / "0.bmp")
    edit(folder, 0, image="0.bmp")
    seen.append(prepare(task, settings(), tmp_path).digest)
    mask = np.asarray(Image.open(folder / "masks" / "9.png")).copy()
    mask[0, 0] = 255  # changes the native mask only
    Image.fromarray(mask).save(folder / "masks" / "9.gif")
    edit(folder, 9, masks="9.gif")
    seen.append(prepare(task, settings(), tmp_path).digest)
    edit(folder, 2, patient="another")
    seen.append(prepare(task, settings(), tmp_path).digest)
    for change in ({"split_seed": 5}, {"on_leak": "report"}, {"size": 40}):
        seen.append(prepare(task, settings(**change), tmp_path).digest)
    seen.append(prepare(replace(task, draw={"val": 0.5}), settings(), tmp_path).digest)
    assert len(set(seen)) == len(seen)


def test_a_current_cache_is_returned_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = findings(tmp_path)
    first = prepare(FINDINGS, settings(), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "Build", None)
        again = prepare(FINDINGS, settings(), tmp_path)
    assert again.manifest == first.manifest
    picture(77, width=60).save(folder / "images" / "0.png")
    assert prepare(FINDINGS, settings(), tmp_path).digest != first.digest


def test_a_damaged_cache_is_rebuilt(tmp_path: Path) -> None:
    findings(tmp_path)
    first = prepare(FINDINGS, settings(), tmp_path)
    path = first.folder / "images.npy"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="no usable prepared cache"):
        load(first.folder)
    assert prepare(FINDINGS, settings(), tmp_path).digest == first.digest


# Atomicity


def test_a_failing_build_leaves_the_former_cache(tmp_path: Path) -> None:
    folder = findings(tmp_path)
    first = prepare(FINDINGS, settings(), tmp_path)
    (folder / "images" / "9.png").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"9\.png"):
        prepare(FINDINGS, settings(), tmp_path)
    kept = load(first.folder)
    assert kept.digest == first.digest
    np.testing.assert_array_equal(kept.images, first.images)
    names = {path.name for path in (tmp_path / "data/prepared").iterdir()}
    assert names == {
        "chestxray14", ".chestxray14-real.lock", ".chestxray14-real.new", ".chestxray14-real.bad.txt"
    }  # fmt: skip


def test_leftovers_of_a_killed_run_are_cleaned(tmp_path: Path) -> None:
    findings(tmp_path)
    first = prepare(FINDINGS, settings(), tmp_path)
    prepared = tmp_path / "data/prepared"
    first.folder.rename(prepared / ".chestxray14-real.old")  # killed between the two renames
    assert prepare(FINDINGS, settings(), tmp_path).manifest == first.manifest
    assert {path.name for path in prepared.iterdir()} == {"chestxray14", ".chestxray14-real.lock"}


def slow(work: Callable[..., Any]) -> Callable[..., Any]:
    def slower(*arguments: Any, **named: Any) -> Any:
        time.sleep(0.02)
        return work(*arguments, **named)

    return slower


def prepare_in_child(root: Path, results: Any) -> None:
    built = []
    run = Build.run
    Build.run = lambda build: built.append(1) or run(build)  # type: ignore[method-assign,func-returns-value,assignment]  # counts calls
    results.put((prepare(FINDINGS, settings(), root, workers=1).digest, len(built)))


def test_two_processes_build_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    findings(tmp_path)
    monkeypatch.setattr(decode, "decode", slow(decode.decode))
    context = multiprocessing.get_context("fork")  # the child keeps the tests' reader
    results = context.Queue()
    children = [context.Process(target=prepare_in_child, args=(tmp_path, results)) for _ in range(2)]
    for child in children:
        child.start()
    answers = [results.get(timeout=300) for _ in children]
    for child in children:
        child.join(30)
    assert len({digest for digest, _ in answers}) == 1
    assert sum(builds for _, builds in answers) == 1


def test_a_killed_build_leaves_the_former_cache_and_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = findings(tmp_path)
    first = prepare(FINDINGS, settings(), tmp_path)
    edit(folder, 0, id="other")
    context = multiprocessing.get_context("fork")
    with monkeypatch.context() as patch:
        patch.setattr(decode, "decode", slow(decode.decode))
        child = context.Process(target=prepare_in_child, args=(tmp_path, context.Queue()))
        child.start()
        journal = tmp_path / "data/prepared/.chestxray14-real.new" / JOURNAL
        deadline = time.monotonic() + 20
        while not (journal.exists() and journal.stat().st_size > 5 * NOTE.itemsize) and time.monotonic() < deadline:
            time.sleep(0.005)
        child.kill()
        child.join()
    done = journal.stat().st_size // NOTE.itemsize
    assert 5 < done < 32
    assert load(first.folder).digest == first.digest
    calls: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(decode, "decode", counting(calls, decode.decode))
        resumed = prepare(FINDINGS, settings(), tmp_path)
    assert len(calls) == 32 - done
    assert resumed.digest != first.digest
    np.testing.assert_array_equal(resumed.images, first.images)
    assert not journal.parent.exists()
    assert {path.name for path in resumed.folder.iterdir()} == {
        "images.npy", "thumbnails.npy", "samples.parquet", "samples.png", "manifest.json"
    }  # fmt: skip


def test_a_full_disk_keeps_what_was_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    findings(tmp_path)
    pwrite, written = os.pwrite, []

    def full(file: int, data: Any, place: int) -> int:
        written.append(place)
        if len(written) > 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(file, data, place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(UserError, match=r"No space left on device; what is decoded is kept"):
            prepare(FINDINGS, settings(), tmp_path)
    calls: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(decode, "decode", counting(calls, decode.decode))
        prepare(FINDINGS, settings(), tmp_path)
    assert 0 < len(calls) < 32


def test_a_build_that_is_killed_before_its_end_decodes_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings(tmp_path)
    calls: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(cache, "put", lambda *_: 1 / 0)  # as if it was killed just before
        with pytest.raises(ZeroDivisionError):
            prepare(FINDINGS, settings(), tmp_path)
        patch.undo()
        patch.setattr(decode, "decode", counting(calls, decode.decode))
        prepare(FINDINGS, settings(), tmp_path)
    assert calls == []
