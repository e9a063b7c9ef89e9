from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from medtransfer.core.errors import UserError
from medtransfer.data import audit, contact_sheets, decode, duplicates, pixel_sizes
from medtransfer.data.cache import counted
from medtransfer.data.prepare import prepare
from medtransfer.data.readers import reading
from medtransfer.data.readers.reading import Marking, Picture, Sample
from medtransfer.data.tasks import Folds, Task
from tests.support.raw_files import (
    FINDINGS,
    LABELS,
    LUNGS,
    PAIRS,
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


# What a cache holds


def test_classification_cache(tmp_path: Path) -> None:
    findings(tmp_path)
    prepared = prepare(FINDINGS, settings(), tmp_path)
    assert prepared.folder == tmp_path / "data/prepared/chestxray14/real"
    assert prepared.images.shape == (32, 32, 32)
    assert prepared.images.dtype == np.uint8
    assert isinstance(prepared.images, np.memmap)
    assert prepared.masks is None
    assert list(prepared.samples.columns) == ["id", "patient", "split", *LABELS]
    assert prepared.samples["Mass"].dtype == np.int8
    assert prepared.marks == ()
    wanted = picture(3).resize((32, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(prepared.images[3], np.asarray(wanted))
    rows = [prepared.rows(split) for split in ("train", "val", "test")]
    assert rows[2].tolist() == list(range(24, 32))
    assert rows[0].dtype == np.int64
    assert sorted(np.concatenate(rows).tolist()) == list(range(32))
    assert not prepared.samples["patient"].str.contains("trainval|test").any()
    assert prepared.samples["patient"].str.len().unique().tolist() == [16]


def test_manifest_facts(tmp_path: Path) -> None:
    findings(tmp_path)
    prepared = prepare(FINDINGS, settings(), tmp_path)
    manifest = prepared.manifest
    train = prepared.images[prepared.rows("train")] / 255
    assert manifest["mean"] == pytest.approx([train.mean()], abs=1e-6)
    assert manifest["std"] == pytest.approx([train.std()], abs=1e-6)
    assert manifest["expected"]["counts"] == manifest["found"]["counts"] == {"trainval": 24, "test": 8}
    assert manifest["counts"]["test"] == 8
    assert manifest["label_totals"]["test"] == {"Effusion": 4, "Mass": 2}
    assert manifest["undefined"] == {"val": [], "test": []}
    assert manifest["source"] == "raw"
    assert manifest["code"]["version"]
    assert len(manifest["digest"]) == len(manifest["split_hash"]) == len(manifest["fingerprint"]) == 64


def test_segmentation_cache(tmp_path: Path) -> None:
    folder = write(tmp_path, VESSELS, ["trainval"] * 8 + ["test"] * 4)
    second = np.zeros((40, 50), dtype=np.uint8)
    second[30:40, :] = 255
    Image.fromarray(second).save(folder / "masks" / "more.png")
    edit(folder, 9, masks="9.png more.png")
    prepared = prepare(VESSELS, settings(), tmp_path)
    assert prepared.images.shape == (12, 32, 32, 3)
    assert prepared.masks is not None
    assert prepared.masks.shape == (12, 32, 32)
    assert set(np.unique(prepared.masks)) == {0, 1}
    assert list(prepared.samples.columns) == ["id", "patient", "split", "Vessel", *pixel_sizes.COLUMNS]
    assert (prepared.samples["original.height"] == 40).all()
    assert (prepared.samples["original.width"] == 50).all()
    assert prepared.samples["Vessel"].all()
    native = prepared.native_mask(9)
    assert native.shape == (40, 50)
    assert native[35].all()
    assert native[6, 10]
    assert not native[0].any()
    assert prepared.masks[9][28:].all()
    with pytest.raises(UserError, match="only test rows"):
        prepared.native_mask(0)


def test_extras_are_further_bits_of_the_native_masks_of_test_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path, VESSELS, ["trainval"] * 8 + ["test"] * 4)
    view = np.zeros((40, 50), dtype=np.uint8)
    view[10:30] = 255
    Image.fromarray(view).save(folder / "masks" / "view.png")

    def with_extras(task: Task, root: Path) -> Iterator[Sample]:
        for sample in fake_read(task, root):
            shown = {"field_of_view": Picture(root / "masks/view.png")} if sample.split == "test" else {}
            yield replace(sample, extras=shown)

    monkeypatch.setattr(reading, "read", with_extras)
    task = replace(VESSELS, extras=("field_of_view", "second_observer"))
    native = prepare(task, settings(), tmp_path).native_mask(9)
    vessels = np.asarray(Image.open(folder / "masks" / "9.png")) > 0
    np.testing.assert_array_equal(native & 1, vessels)
    np.testing.assert_array_equal(native >> 1 & 1, view > 0)
    assert not (native >> 2).any()


def test_several_labels_are_bits_and_may_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path, LUNGS, ["all"] * 20)
    both = np.zeros((40, 50), dtype=np.uint8)
    both[:20], both[20:] = 1, 3
    Image.fromarray(both).save(folder / "masks" / "map.png")

    def two_labels(task: Task, root: Path) -> Iterator[Sample]:
        path = root / "masks/map.png"
        for number, sample in enumerate(fake_read(task, root)):
            second = (Picture(path, marking=Marking(values=(3,))),) if number % 2 else ()
            yield replace(sample, masks=((Picture(path, marking=Marking(values=(1,))), *sample.masks[0]), second))

    monkeypatch.setattr(reading, "read", two_labels)
    prepared = prepare(replace(LUNGS, labels=("Upper", "Lower")), settings(), tmp_path)
    assert prepared.masks is not None
    assert (prepared.masks[1][:15] & 1).all()
    assert (prepared.masks[1][17:] & 2).all()
    assert not (prepared.masks[0] & 2).any()
    assert prepared.samples["Upper"].all()
    assert prepared.samples["Lower"].tolist() == [number % 2 for number in range(20)]
    assert (
        prepared.manifest["label_totals"]["test"]["Lower"] == prepared.samples.query("split == 'test'")["Lower"].sum()
    )


def test_the_prepared_image_is_resized_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    picture(1, "RGB").save(path)
    sample = Sample(id="a", patient="a", split="all", image=Picture(path))
    decoded = decode.decode(FINDINGS, sample, 32)
    want = picture(1, "RGB").convert("L").resize((32, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(decoded.image, np.asarray(want))
    assert decoded.size == (50, 40)


def test_people_get_a_sheet_and_statistics(tmp_path: Path) -> None:
    findings(tmp_path)
    prepared = prepare(FINDINGS, settings(), tmp_path)
    with Image.open(prepared.folder / "samples.png") as sheet:
        assert sheet.width > 600
    statistics = prepared.manifest["statistics"]
    assert statistics["width"] == {"low": 50, "median": 50, "high": 50}
    assert statistics["height"]["high"] == 40
    test = prepared.images[prepared.rows("test")].mean(axis=(1, 2))
    assert statistics["intensity"]["test"]["low"] == pytest.approx(test.min(), abs=0.01)
    assert not (prepared.folder / "near_duplicates.png").exists()


def test_labels_without_positives_are_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = findings(tmp_path)
    for row in range(24, 32):
        edit(folder, row, labels="1 0")
    with caplog.at_level(logging.WARNING, "medtransfer"):
        prepared = prepare(FINDINGS, settings(), tmp_path)
    assert prepared.manifest["undefined"]["test"] == ["Effusion", "Mass"]
    assert "AUC is undefined in test" in caplog.text


def test_manifest_is_plain_json(tmp_path: Path) -> None:
    findings(tmp_path)
    prepared = prepare(FINDINGS, settings(), tmp_path)
    manifest = json.loads((prepared.folder / "manifest.json").read_text())
    assert manifest == prepared.manifest
    assert str(tmp_path) not in json.dumps(manifest)


# Refusals


def test_all_bad_files_are_listed_in_one_error(tmp_path: Path) -> None:
    folder = findings(tmp_path)
    for number in range(12):
        path = folder / "images" / f"{number}.png"
        path.write_bytes(path.read_bytes()[:600])
    (folder / "images" / "12.png").write_text("not an image")
    (folder / "images" / "13.png").unlink()
    (folder / "images" / "30.png").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        prepare(FINDINGS, settings(skip_bad=14), tmp_path)
    assert "15 of 32 samples" in str(caught.value)
    assert "--skip-bad 15" in str(caught.value)
    assert all(f"images/{number}.png" in str(caught.value) for number in (*range(14), 30))


def test_a_long_list_of_bad_files_is_in_a_file(tmp_path: Path) -> None:
    folder = findings(tmp_path)
    for number in range(25):
        (folder / "images" / f"{number}.png").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"and 5 more, all in .*\.bad\.txt"):
        prepare(FINDINGS, settings(), tmp_path)
    listed = (tmp_path / "data/prepared/.chestxray14-real.bad.txt").read_text().splitlines()
    assert len(listed) == 25


def test_bad_files_that_are_allowed_are_left_out_and_recorded(tmp_path: Path) -> None:
    folder = findings(tmp_path)
    for number in (2, 30):
        (folder / "images" / f"{number}.png").write_bytes(b"damaged")
    prepared = prepare(FINDINGS, settings(skip_bad=2), tmp_path)
    assert [entry["id"] for entry in prepared.manifest["skipped"]] == ["i2", "i30"]
    assert str(tmp_path) not in json.dumps(prepared.manifest)
    assert prepared.marks == ("partial",)
    assert prepared.manifest["counts"]["test"] == 7
    assert prepared.samples["split"].tolist()[2] == prepared.samples["split"].tolist()[30] == ""
    assert not any({2, 30} & set(prepared.rows(split)) for split in ("train", "val", "test"))
    with pytest.raises(UserError, match="2 of 32 samples"):
        prepare(FINDINGS, settings(), tmp_path)  # what was allowed once is not allowed for ever


def test_a_mended_file_alone_is_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path, VESSELS, ["trainval"] * 8 + ["test"] * 4)
    good = (folder / "images" / "5.png").read_bytes()
    (folder / "images" / "5.png").write_bytes(b"damaged")
    calls: list[str] = []
    with pytest.raises(UserError, match="1 of 12 samples"):
        prepare(VESSELS, settings(), tmp_path)
    (folder / "images" / "5.png").write_bytes(good)
    with monkeypatch.context() as patch:
        patch.setattr(decode, "decode", counting(calls, decode.decode))
        mended = prepare(VESSELS, settings(), tmp_path)
    assert calls == ["i5"]
    write(tmp_path / "other", VESSELS, ["trainval"] * 8 + ["test"] * 4)
    assert mended.digest == prepare(VESSELS, settings(), tmp_path / "other").digest
    assert not list((tmp_path / "data/prepared").glob(".*.bad.txt"))


def test_a_row_that_a_power_cut_damaged_is_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = findings(tmp_path)
    (folder / "images" / "5.png").rename(folder / "five")
    with pytest.raises(UserError, match="1 of 32 samples"):
        prepare(FINDINGS, settings(), tmp_path)
    (folder / "five").rename(folder / "images" / "5.png")
    array = np.load(tmp_path / "data/prepared/.chestxray14-real.new/images.npy", mmap_mode="r+")
    array[3, :10] = 0
    array.flush()
    calls: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(decode, "decode", counting(calls, decode.decode))
        prepared = prepare(FINDINGS, settings(), tmp_path)
    assert sorted(calls) == ["i3", "i5"]
    wanted = picture(3).resize((32, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(prepared.images[3], np.asarray(wanted))


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    folder = findings(tmp_path)
    Image.new("1", (9000, 9000)).save(folder / "images" / "5.png")
    Image.new("1", (15000, 15000)).save(folder / "images" / "6.png")
    with pytest.raises(UserError, match=r"5\.png: 9000x9000 pixels[\s\S]*6\.png"):
        prepare(FINDINGS, settings(), tmp_path)


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, LUNGS, ["all"] * 20)
    Image.new("L", (25, 20)).save(folder / "masks" / "3.png")
    with pytest.raises(UserError, match=r"images/3\.png: the mask 3\.png is 25x20 but its image 50x40"):
        prepare(LUNGS, settings(), tmp_path)


def test_too_little_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    findings(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(UserError, match="make room"):
        prepare(FINDINGS, settings(), tmp_path)


# Leaks


def test_a_patient_in_two_official_splits(tmp_path: Path) -> None:
    folder = findings(tmp_path)
    patient = str(pd.read_csv(folder / "samples.csv")["patient"][24])
    edit(folder, 0, patient=patient)
    with pytest.raises(UserError, match=r"1 patients and 0 identical .*drop_from_train"):
        prepare(FINDINGS, settings(), tmp_path)
    kept = prepare(FINDINGS, settings(on_leak="report"), tmp_path)
    assert kept.marks == ("leak-reported",)
    assert len(kept.images) == 32
    assert kept.manifest["audit"]["shared_patients"]["count"] == 1
    dropped = prepare(FINDINGS, settings(on_leak="drop_from_train"), tmp_path)
    assert dropped.marks == ("leak-dropped",)
    assert sum(dropped.manifest["counts"].values()) == 31
    assert not any(0 in dropped.rows(split) for split in ("train", "val", "test"))
    assert sum(dropped.manifest["audit"]["dropped"].values()) == 1
    assert kept.digest != dropped.digest


def test_an_identical_image_gives_way_to_test(tmp_path: Path) -> None:
    folder = write(tmp_path, VESSELS, ["trainval"] * 8 + ["test"] * 4)
    train = int(prepare(VESSELS, settings(), tmp_path).rows("train")[0])
    shutil.copy(folder / "images" / "9.png", folder / "images" / f"{train}.png")
    edit(folder, train, id="changed")  # sizes alone might not tell
    prepared = prepare(VESSELS, settings(on_leak="drop_from_train"), tmp_path)
    assert prepared.manifest["audit"]["exact_duplicates"]["count"] == 1
    assert sum(prepared.manifest["counts"].values()) == 11
    assert train not in prepared.rows("train")
    native = np.asarray(Image.open(folder / "masks" / "10.png")) > 0
    np.testing.assert_array_equal(prepared.native_mask(10), native)


def test_a_refused_leak_keeps_what_was_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = findings(tmp_path)
    edit(folder, 0, patient=str(pd.read_csv(folder / "samples.csv")["patient"][24]))
    with pytest.raises(UserError, match="drop_from_train"):
        prepare(FINDINGS, settings(), tmp_path)
    calls: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(decode, "decode", counting(calls, decode.decode))
        prepare(FINDINGS, settings(on_leak="report"), tmp_path)
    assert calls == []


# Folds


def test_every_unit_is_tested_once_in_every_repeat(tmp_path: Path) -> None:
    write(tmp_path, PAIRS, ["all"] * 32)
    task = replace(PAIRS, folds=Folds(count=4, repeats=2), draw={"val": 0.2})
    prepared = prepare(task, settings(), tmp_path)
    assert prepared.manifest["folds"] == 8
    assert contact_sheets._headline(task, prepared.manifest).endswith(
        "images: 32 in train, val and test of 8 folds; originals 50x40 pixels, prepared at 32x32"
    )
    tested = np.stack([prepared.samples[f"split.{fold}"] == "test" for fold in range(8)])
    assert (tested[:4].sum(axis=0) == 1).all()
    assert (tested[4:].sum(axis=0) == 1).all()
    assert (tested[:4] != tested[4:]).any()
    for fold in range(8):
        own = prepared.of_fold(fold)
        assert own.samples.groupby("patient")["split"].nunique().max() == 1
        assert all(len(own.rows(split)) for split in ("train", "val", "test"))
    assert "each is test once" in prepared.manifest["split_recipe"]


def test_a_locked_test_is_the_same_in_every_fold(tmp_path: Path) -> None:
    write(tmp_path, FINDINGS, ["trainval"] * 24 + ["test"] * 8)
    task = replace(FINDINGS, folds=Folds(count=3, repeats=1))
    prepared = prepare(task, settings(), tmp_path)
    vals = [set(prepared.of_fold(fold).rows("val")) for fold in range(3)]
    assert set.union(*vals) == set(range(24))
    assert sum(map(len, vals)) == 24
    assert all(prepared.of_fold(fold).rows("test").tolist() == list(range(24, 32)) for fold in range(3))
    counts = prepared.manifest["counts"]
    assert counted(counts, 3) == "24 in train and val of 3 folds, test 8 in all of them"
    assert counted(counts, 0) == "train 24, val 0, test 8"
    lines = "\n".join(audit._summary(prepared.manifest))
    assert "images: 24 in train and val of 3 folds, test 8 in all of them" in lines
    assert "all folds: positives" in lines
    assert "val: positives" not in lines


def test_identical_images_in_two_folds_fail(tmp_path: Path) -> None:
    folder = write(tmp_path, PAIRS, ["all"] * 32, patients=[str(number) for number in range(32)])
    for number in range(1, 31):
        shutil.copy(folder / "images" / "0.png", folder / "images" / f"{number}.png")
    with pytest.raises(UserError, match=r"1 identical images .* drawn by us"):
        prepare(replace(PAIRS, folds=Folds(count=2, repeats=1)), settings(), tmp_path)


def test_more_folds_than_units_are_refused(tmp_path: Path) -> None:
    write(tmp_path, PAIRS, ["all"] * 32, patients=["one", "two"] * 16)
    with pytest.raises(UserError, match="3 folds need as many patients, found 2"):
        prepare(replace(PAIRS, folds=Folds(count=3, repeats=1)), settings(), tmp_path)


def test_an_identical_image_in_a_drawn_split_always_fails(tmp_path: Path) -> None:
    patients = [f"p{number}" for number in range(20)]
    folder = write(tmp_path, LUNGS, ["all"] * 20, patients=patients)
    drawn = prepare(LUNGS, settings(), tmp_path)
    train, test = drawn.rows("train")[0], drawn.rows("test")[0]
    with Image.open(folder / "images" / f"{train}.png") as image:
        image.save(folder / "images" / "copy.bmp")  # other bytes, the same pixels
    edit(folder, int(test), image="copy.bmp")
    with pytest.raises(UserError, match="drawn by us"):
        prepare(LUNGS, settings(on_leak="report"), tmp_path)


@pytest.mark.parametrize("change", ["darker", "mirrored and cut"])
def test_near_duplicates_are_refused_marked_or_dropped(tmp_path: Path, change: str) -> None:
    folder = findings(tmp_path)
    copy = picture(30).point(lambda value: value * 0.8)
    if change == "mirrored and cut":
        copy = ImageOps.mirror(copy.crop((3, 3, copy.width - 3, copy.height - 3)).resize(copy.size))
    copy.save(folder / "images" / "1.png")
    with pytest.raises(UserError, match=r"1 pairs of images .* i1 and i30 .*look at .*near_duplicates.png") as refused:
        prepare(FINDINGS, settings(), tmp_path)
    drawn = Path(str(refused.value).split("look at ")[1].split(";")[0])
    assert Image.open(drawn).size[0] > 400
    kept = prepare(FINDINGS, settings(on_leak="report"), tmp_path)
    assert kept.marks == ("look-alikes-reported (1)",)
    near = kept.manifest["audit"]["near_duplicates"]
    assert near["count"] == 1
    assert {near["examples"][0]["a"], near["examples"][0]["b"]} == {"i1", "i30"}
    assert not drawn.exists()
    assert (kept.folder / "near_duplicates.png").is_file()
    dropped = prepare(FINDINGS, settings(on_leak="drop_from_train"), tmp_path)
    assert dropped.marks == ("look-alikes-dropped (1)",)
    assert sum(dropped.manifest["counts"].values()) == sum(kept.manifest["counts"].values()) - 1
    assert not any(1 in dropped.rows(split) for split in ("train", "val", "test"))


def test_a_cache_of_an_earlier_rule_is_looked_through_again(tmp_path: Path) -> None:
    findings(tmp_path)
    prepared = prepare(FINDINGS, settings(), tmp_path)
    place = prepared.folder / "manifest.json"
    place.write_text(place.read_text().replace(f'"near_threshold": {duplicates.NEAR}', '"near_threshold": 0.85'))
    assert prepare(FINDINGS, settings(), tmp_path).manifest["audit"]["near_threshold"] == duplicates.NEAR
