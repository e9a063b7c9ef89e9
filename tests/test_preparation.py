from __future__ import annotations

import json
import logging
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medtransfer import datasets, decoding, params, preparation
from medtransfer.cache import load
from medtransfer.datasets import Sample
from medtransfer.errors import UserError
from medtransfer.preparation import prepare, slug
from medtransfer.sources import source
from medtransfer.splits import draw_split
from medtransfer.tasks import TASKS, Task

PARAMS = params.load(Path(__file__).parents[1] / "params.yaml")
LABELS = ("Effusion", "Mass")
FINDINGS = replace(
    TASKS["chestxray14"], labels=LABELS, counts={"trainval": 24, "test": 8}, positives={}, draw={"val": 0.25}
)
LUNGS = replace(TASKS["montgomery"], counts={"all": 20}, draw={"val": 0.2, "test": 0.25})
VESSELS = replace(TASKS["drive"], counts={"trainval": 8, "test": 4}, draw={"val": 0.25})


def settings(size: int = 32, **data: Any) -> params.Params:
    tasks = {name: replace(task, cache_size=size, image_size=16) for name, task in PARAMS.tasks.items()}
    return replace(PARAMS, tasks=tasks, data=replace(PARAMS.data, **data))


def fake_read(dataset: str, root: Path) -> Iterator[Sample]:
    """Reads the tests' own layout: samples.csv beside images/ and masks/."""
    table = pd.read_csv(root / "samples.csv", dtype=str, keep_default_na=False)
    for row in table.itertuples():
        masks = tuple(root / "masks" / name for name in str(row.masks).split()) if row.masks else ()
        yield Sample(
            id=str(row.id),
            patient=str(row.patient),
            split=str(row.split),  # type: ignore[arg-type]  # text from a table
            image=root / "images" / str(row.image),
            labels=tuple(int(value) for value in str(row.labels).split()),
            masks=masks,
        )


@pytest.fixture(autouse=True)
def _reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "read", fake_read)


def picture(seed: int, mode: str = "L", width: int = 50, height: int = 40) -> Image.Image:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def write(root: Path, task: Task, pools: list[str], kind: str = "raw", patients: list[str] | None = None) -> Path:
    """Writes one image per entry of `pools`; every second patient has two images unless given."""
    folder = root / "data" / kind / task.dataset
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    rows = []
    for number, pool in enumerate(pools):
        picture(number, "RGB" if task.channels == 3 else "L").save(folder / "images" / f"{number}.png")
        labels = "" if task.segmentation else f"{number % 2} {int(number % 4 == 0)}"
        if task.segmentation:
            mask = np.zeros((40, 50), dtype=np.uint8)
            mask[5 : 10 + number % 8, 8:30] = 255
            Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
        patient = patients[number] if patients else f"{pool}{number * 2 // 3}"
        masks = f"{number}.png" if task.segmentation else ""
        rows.append((f"i{number}", patient, pool, f"{number}.png", labels, masks))
    columns = ["id", "patient", "split", "image", "labels", "masks"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "samples.csv", index=False)
    return folder


def findings(root: Path, kind: str = "raw") -> Path:
    return write(root, FINDINGS, ["trainval"] * 24 + ["test"] * 8, kind)


def edit(folder: Path, row: int, **values: str) -> None:
    table = pd.read_csv(folder / "samples.csv", dtype=str, keep_default_na=False)
    for name, value in values.items():
        table.loc[row, name] = value
    table.to_csv(folder / "samples.csv", index=False)


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
    assert prepared.labels.shape == (32, 2)
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
    second[30:40, :] = 1  # any value above 0 counts
    Image.fromarray(second).save(folder / "masks" / "more.png")
    edit(folder, 9, masks="9.png more.png")
    prepared = prepare(VESSELS, settings(), tmp_path)
    assert prepared.images.shape == (12, 32, 32, 3)
    assert prepared.masks is not None
    assert prepared.masks.shape == (12, 32, 32)
    assert set(np.unique(prepared.masks)) == {0, 1}
    assert list(prepared.samples.columns) == ["id", "patient", "split"]
    native = prepared.native_mask(9)
    assert native.dtype == bool
    assert native.shape == (40, 50)
    assert native[35].all()
    assert native[6, 10]
    assert not native[0].any()
    assert prepared.masks[9][28:].all()
    with Image.open(prepared.folder / "native_masks" / "9.png") as stored:
        assert stored.mode == "1"
    with pytest.raises(UserError, match="only test rows"):
        prepared.native_mask(0)


@pytest.mark.parametrize("mode", ["1", "LA", "RGBA", "P", "RGB", "CMYK"])
def test_other_modes_become_gray_or_colour(tmp_path: Path, mode: str) -> None:
    image = picture(1, "RGB").quantize(8) if mode == "P" else picture(1, "RGB").convert(mode)
    path = tmp_path / "image.tif"
    image.save(path)
    for channels, wanted in ((1, "L"), (3, "RGB")):
        decoded = decoding._decode(Sample(id="a", patient="a", split="all", image=path), channels, 50, False)
        assert not isinstance(decoded, str)
        want = image.convert(wanted).resize((50, 50), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(decoded.image, np.asarray(want))


def test_sixteen_bits_are_scaled_by_their_own_range(tmp_path: Path) -> None:
    values = np.linspace(1000, 4095, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(values).save(tmp_path / "deep.png")
    sample = Sample(id="a", patient="a", split="all", image=tmp_path / "deep.png")
    decoded = decoding._decode(sample, 1, 64, False)
    assert not isinstance(decoded, str)
    assert (decoded.image.min(), decoded.image.max()) == (0, 255)
    assert (np.diff(decoded.image.ravel().astype(int)) >= 0).all()


def test_labels_without_positives_are_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = findings(tmp_path)
    for row in range(24, 32):
        edit(folder, row, labels="1 0")
    with caplog.at_level(logging.WARNING, "medtransfer"):
        prepared = prepare(FINDINGS, settings(), tmp_path)
    assert prepared.manifest["undefined"]["test"] == ["Effusion", "Mass"]
    assert "AUC is undefined in test" in caplog.text


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


# Refusals


def test_all_bad_files_are_listed_in_one_error(tmp_path: Path) -> None:
    folder = findings(tmp_path)
    for number in range(12):
        path = folder / "images" / f"{number}.png"
        path.write_bytes(path.read_bytes()[:600])
    (folder / "images" / "12.png").write_text("not an image")
    (folder / "images" / "13.png").unlink()
    with pytest.raises(UserError) as caught:
        prepare(FINDINGS, settings(), tmp_path)
    assert "14 samples" in str(caught.value)
    assert "images/0.png" in str(caught.value)
    assert "images/9.png" in str(caught.value)
    assert "images/10.png" not in str(caught.value)
    assert "4 more" in str(caught.value)


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    folder = findings(tmp_path)
    Image.new("1", (9000, 9000)).save(folder / "images" / "5.png")
    Image.new("1", (15000, 15000)).save(folder / "images" / "6.png")
    with pytest.raises(UserError, match=r"5\.png: 9000x9000 pixels[\s\S]*6\.png"):
        prepare(FINDINGS, settings(), tmp_path)


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, LUNGS, ["all"] * 20)
    Image.new("L", (25, 20)).save(folder / "masks" / "3.png")
    with pytest.raises(UserError, match=r"masks/3\.png: the mask is 25x20 but its image 50x40"):
        prepare(LUNGS, settings(), tmp_path)


def test_readers_are_held_to_their_contract(tmp_path: Path) -> None:
    folder = findings(tmp_path)
    edit(folder, 3, id="i2")
    with pytest.raises(UserError, match="ids must be unique, 'i2'"):
        prepare(FINDINGS, settings(), tmp_path)
    edit(folder, 3, id="i3", labels="1")
    with pytest.raises(UserError, match="must have 2 labels"):
        prepare(FINDINGS, settings(), tmp_path)
    lungs = write(tmp_path, LUNGS, ["all"] * 20)
    edit(lungs, 0, masks="")
    with pytest.raises(UserError, match="has no mask file"):
        prepare(LUNGS, settings(), tmp_path)


def test_no_images_or_an_empty_split_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, FINDINGS, ["trainval"] * 24)
    with pytest.raises(UserError, match="'test': 0"):
        prepare(FINDINGS, settings(partial=True), tmp_path)
    (folder / "samples.csv").write_text("id,patient,split,image,labels,masks\n")
    with pytest.raises(UserError, match="found none"):
        prepare(FINDINGS, settings(), tmp_path)


def test_slugs() -> None:
    assert slug("Pleural_Thickening") == "Pleural_Thickening"
    assert slug("T4 (large) é") == "T4__large___"


def test_labels_with_one_slug_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'a b' and 'a_b'"):
        prepare(replace(FINDINGS, labels=("a_b", "a b")), settings(), tmp_path)


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
    assert len(dropped.images) == len(dropped.samples) == 31
    assert "i0" not in set(dropped.samples["id"])
    np.testing.assert_array_equal(dropped.images[0], kept.images[1])
    assert sum(dropped.manifest["audit"]["dropped"].values()) == 1
    assert kept.digest != dropped.digest


def test_drop_renumbers_native_masks(tmp_path: Path) -> None:
    folder = write(tmp_path, VESSELS, ["trainval"] * 8 + ["test"] * 4)
    train = prepare(VESSELS, settings(), tmp_path).rows("train")[0]
    shutil.copy(folder / "images" / "9.png", folder / "images" / f"{train}.png")
    edit(folder, int(train), id="changed")  # sizes alone might not tell
    prepared = prepare(VESSELS, settings(on_leak="drop_from_train"), tmp_path)
    assert prepared.manifest["audit"]["exact_duplicates"]["count"] == 1
    assert len(prepared.images) == 11
    assert prepared.masks is not None
    assert len(prepared.masks) == 11
    assert sorted(path.name for path in (prepared.folder / "native_masks").iterdir()) == [
        "10.png",
        "7.png",
        "8.png",
        "9.png",
    ]
    native = np.asarray(Image.open(folder / "masks" / "10.png")) > 0
    np.testing.assert_array_equal(prepared.native_mask(9), native)


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


def test_near_duplicates_are_reported_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = findings(tmp_path)
    picture(30).point(lambda value: value * 0.8).save(folder / "images" / "1.png")
    with caplog.at_level(logging.WARNING, "medtransfer"):
        prepared = prepare(FINDINGS, settings(), tmp_path)
    near = prepared.manifest["audit"]["near_duplicates"]
    assert near["count"] == 1
    assert {near["examples"][0]["a"], near["examples"][0]["b"]} == {"i1", "i30"}
    assert "near duplicates" in caplog.text
    assert prepared.marks == ()


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
        patch.setattr(preparation, "_Build", None)
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
    assert names == {"chestxray14", ".chestxray14-real.lock"}


def test_leftovers_of_a_killed_run_are_cleaned(tmp_path: Path) -> None:
    findings(tmp_path)
    first = prepare(FINDINGS, settings(), tmp_path)
    prepared = tmp_path / "data/prepared"
    (prepared / ".chestxray14-real.new").mkdir()
    (prepared / ".chestxray14-real.new" / "images.npy").write_text("half")
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
    run = preparation._Build.run
    preparation._Build.run = lambda build: built.append(1) or run(build)  # type: ignore[method-assign,func-returns-value,assignment]  # counts calls
    results.put((prepare(FINDINGS, settings(), root, workers=1).digest, len(built)))


def test_two_processes_build_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    findings(tmp_path)
    monkeypatch.setattr(decoding, "_decode", slow(decoding._decode))
    context = multiprocessing.get_context("fork")  # the child keeps the tests' reader
    results = context.Queue()
    children = [context.Process(target=prepare_in_child, args=(tmp_path, results)) for _ in range(2)]
    for child in children:
        child.start()
    answers = [results.get(timeout=30) for _ in children]
    for child in children:
        child.join(30)
    assert len({digest for digest, _ in answers}) == 1
    assert sum(builds for _, builds in answers) == 1


def test_a_killed_build_leaves_the_former_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = findings(tmp_path)
    first = prepare(FINDINGS, settings(), tmp_path)
    edit(folder, 0, id="other")
    context = multiprocessing.get_context("fork")
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "_decode", slow(decoding._decode))
        child = context.Process(target=prepare_in_child, args=(tmp_path, context.Queue()))
        child.start()
        temporary = tmp_path / "data/prepared/.chestxray14-real.new/images.npy"
        deadline = time.monotonic() + 20
        while not temporary.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        child.kill()
        child.join()
    assert temporary.exists()
    assert load(first.folder).digest == first.digest
    assert prepare(FINDINGS, settings(), tmp_path).digest != first.digest
    assert not temporary.parent.exists()


# Draws


def cohort(seed: int = 0, count: int = 400) -> tuple[list[str], np.ndarray[Any, np.dtype[np.int8]]]:
    rng = np.random.default_rng(seed)
    patients = [f"p{number}" for number in rng.integers(0, count // 2, count)]
    return patients, (rng.random((count, 4)) < [0.4, 0.2, 0.08, 0.03]).astype(np.int8)


def test_draw_keeps_patients_together_and_labels_in_proportion() -> None:
    patients, labels = cohort()
    splits = draw_split(patients, labels, {"val": 0.1, "test": 0.2}, seed=0)
    table = pd.DataFrame({"patient": patients, "split": splits})
    assert table.groupby("patient")["split"].nunique().max() == 1
    people = table.drop_duplicates().groupby("split").size()
    total = people.sum()
    assert people["val"] == round(0.1 * total)
    assert people["test"] == round(0.2 * total)
    by_patient = pd.DataFrame(labels).groupby(patients).max()
    split_of = table.drop_duplicates().set_index("patient")["split"].loc[by_patient.index]
    for label in range(4):
        positives = by_patient[label].groupby(split_of.to_numpy()).sum()
        for split, share in (("val", 0.1), ("test", 0.2)):
            assert abs(positives[split] - share * positives.sum()) <= 1.5


def test_draw_ignores_row_order_and_follows_the_seed() -> None:
    patients, labels = cohort()
    order = np.random.default_rng(1).permutation(len(patients))
    splits = draw_split(patients, labels, {"val": 0.2}, seed=3)
    shuffled = draw_split(np.array(patients)[order], labels[order], {"val": 0.2}, seed=3)
    np.testing.assert_array_equal(splits[order], shuffled)
    assert (splits != draw_split(patients, labels, {"val": 0.2}, seed=4)).any()


def test_draw_without_labels_gives_each_split_a_patient() -> None:
    splits = draw_split(["a", "a", "b", "c"], np.zeros((4, 0), dtype=np.int8), {"val": 0.1, "test": 0.1}, seed=0)
    assert set(splits) == {"train", "val", "test"}
    assert splits[0] == splits[1]


def test_draw_is_what_it_was() -> None:
    patients = [f"{number}" for number in range(12)]
    labels = np.array([[number % 2] for number in range(12)], dtype=np.int8)
    splits = draw_split(patients, labels, {"val": 0.25}, seed=0)
    assert np.flatnonzero(splits == "val").tolist() == [0, 2, 7]


def test_manifest_is_plain_json(tmp_path: Path) -> None:
    findings(tmp_path)
    prepared = prepare(FINDINGS, settings(), tmp_path)
    manifest = json.loads((prepared.folder / "manifest.json").read_text())
    assert manifest == prepared.manifest
    assert str(tmp_path) not in json.dumps(manifest)
