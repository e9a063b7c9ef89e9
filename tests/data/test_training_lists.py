from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from pydicom import uid
from pydicom.dataset import FileDataset, FileMetaDataset

from medtransfer import params
from medtransfer.core import files
from medtransfer.core.errors import UserError
from medtransfer.data import catalog, prepare, raw, training_lists
from medtransfer.data.cache import Prepared
from medtransfer.data.tasks import Listed

TEST, COUNT = 20, 40
"""test images, and all of them"""
UID = "1.2.826.0.1.3680043.8.498."


def stem(number: int) -> str:
    return f"scan_{number:04}"


def png(path: Path, number: int) -> None:
    Image.fromarray(np.random.default_rng(number).integers(0, 255, (20, 20)).astype(np.uint8)).save(path)


def dcm(path: Path, number: int) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        uid.SecondaryCaptureImageStorage,
        uid.UID(f"{UID}{number}"),
    )
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    file = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.StudyInstanceUID, file.SeriesInstanceUID = f"{UID}9.{number}", f"{UID}8.{number // 2}"
    file.Rows = file.Columns = 20
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated = file.BitsStored = 8
    file.HighBit, file.PixelRepresentation = 7, 0
    file.PixelData = np.random.default_rng(number).integers(0, 255, (20, 20)).astype(np.uint8).tobytes()
    file.save_as(path, enforce_file_format=True)


def task(root: Path, top: Path, name: Callable[[int], str] = lambda n: f"{stem(n)}.png", save: Any = png,
         **settings: Any) -> tuple[Any, Prepared, raw.Source]:  # fmt: skip
    """Writes a task whose images 20 to 39 are its test set, and prepares it."""
    folder = root / "data/raw/mine"
    tree = {"kind": "binary", "labels": ["ill"], "table": "t.csv", "image": "file", "patient": "who",
            "split": "split", "image_size": 20, "channels": 1} | settings  # fmt: skip
    rows = [["file", "who", "split", "ill", "name"]]
    for number in range(COUNT):
        path = folder / name(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, number)
        split = "test" if number >= TEST else "val" if number >= 14 else "train"
        rows.append([name(number), f"p{number}", split, str(number % 2), f"case-{number}"])
    (folder / "task.yaml").write_text(yaml.safe_dump(tree))
    with open(folder / "t.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    here = params.load(top / "params.yaml", {}, catalog.sizes(root))
    record = catalog.lookup("mine", root)
    return record, prepare.prepare(record, here, root, workers=1), raw.source(record, here.data, root)


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory, top: Path) -> tuple[Any, Prepared, raw.Source]:
    return task(tmp_path_factory.mktemp("mine"), top)


def listed(path: Path, given: tuple[Any, Prepared, raw.Source]) -> Listed:
    record, prepared, source = given
    found = training_lists.read(path)
    return training_lists.overlap(found, training_lists.match(found, record, prepared, source), prepared)


def write(path: Path, entries: Sequence[str]) -> Path:
    path.write_text("".join(f"{entry}\n" for entry in entries))
    return path


def hashes(given: tuple[Any, Prepared, raw.Source], algorithm: str, numbers: Sequence[int]) -> list[str]:
    folder = given[2].folder
    return [hashlib.new(algorithm, (folder / f"{stem(n)}.png").read_bytes()).hexdigest() for n in numbers]


OTHERS = [f"somebody_elses_{number}.png" for number in range(50)]
SEEN = (3, 21, 30, 39)
"""one of train and three of test"""


@pytest.mark.parametrize(
    ("file", "entries"),
    [
        ("names.txt", [f"{stem(n)}.png" for n in SEEN]),
        ("stems.txt", [stem(n) for n in SEEN]),
        ("another-extension.txt", [f"{stem(n)}.jpeg" for n in SEEN]),
        ("paths.txt", [f"/mnt/disk/set/images_00{n}/{stem(n)}.png" for n in SEEN]),
        ("windows.txt", [f"D:\\set\\{stem(n)}.png" for n in SEEN]),
        ("labels.txt", [f"{stem(n)}.png 0 1 0 0" for n in SEEN]),
        ("table.csv", ["index,image,sex", *(f"{n},{stem(n)}.png,F" for n in SEEN)]),
        ("no-heading.csv", [f"{n};{stem(n)}.png;F" for n in SEEN]),
        ("table.tsv", ["image\tindex", *(f"{stem(n)}.png\t{n}" for n in SEEN)]),
        ("list.json", [json.dumps([f"{stem(n)}.png" for n in SEEN])]),
        ("coco.json", [json.dumps({"images": [{"id": n, "file_name": f"{stem(n)}.png"} for n in SEEN]})]),
        ("keys.json", [json.dumps({"train": {stem(n): {"label": n} for n in SEEN}})]),
    ],
)
def test_names_are_found_in_any_column_of_any_form(
    mine: tuple[Any, Prepared, raw.Source], tmp_path: Path, file: str, entries: list[str]
) -> None:
    more = OTHERS if file.endswith("txt") else []
    found = listed(write(tmp_path / file, [*entries, *more]), mine)
    assert (found.held, found.test, found.by) == (3, TEST, ("name",))
    assert found.sha256 == hashlib.sha256((tmp_path / file).read_bytes()).hexdigest()
    assert found.words.startswith(f"3 of 20 test images are in its training list {file} (sha256 {found.sha256[:12]})")


@pytest.mark.parametrize("algorithm", ["sha256", "md5", "sha1"])
@pytest.mark.parametrize("kind", ["plain", "named", "sums", "upper case"])
def test_files_are_found_by_their_hashes(
    mine: tuple[Any, Prepared, raw.Source], tmp_path: Path, algorithm: str, kind: str
) -> None:
    sums = [*hashes(mine, algorithm, SEEN), hashlib.new(algorithm, b"other").hexdigest()]
    forms = {"plain": sums, "named": [f"{algorithm}:{one}" for one in sums]}
    forms |= {"sums": [f"{one}  other/{k}.png" for k, one in enumerate(sums)]}
    path = write(tmp_path / "sums.txt", forms.get(kind, [one.upper() for one in sums]))
    found = listed(path, mine)
    assert (found.held, found.test, found.by) == (3, TEST, (algorithm,))


def test_hashes_of_raw_files_are_kept_and_a_changed_file_is_hashed_again(
    tmp_path: Path, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = task(tmp_path, top)
    monkeypatch.setattr(raw, "SETTLED", -10_000_000_000)  # as if written long ago
    read, hashed = list[str](), files.hashed

    def count(path: Path, algorithm: str) -> str:
        read.append(path.name)
        return hashed(path, algorithm)

    monkeypatch.setattr(files, "hashed", count)
    paths = [given[2].folder / f"{stem(n)}.png" for n in (21, 22)]
    first = raw.hashed(given[2], paths, "md5")
    assert first == hashes(given, "md5", (21, 22))
    assert sorted(read) == [path.name for path in paths]
    assert raw.hashed(given[2], paths, "md5") == first
    assert len(read) == 2
    paths[0].write_bytes(b"another")
    assert raw.hashed(given[2], paths, "md5") == [hashlib.md5(b"another").hexdigest(), first[1]]
    assert read[2:] == [paths[0].name]


def test_a_list_that_names_train_alone_holds_no_test_image_and_is_known_to_fit(
    mine: tuple[Any, Prepared, raw.Source], tmp_path: Path
) -> None:
    found = listed(write(tmp_path / "train.txt", [stem(n) for n in range(14)]), mine)
    assert (found.held, found.by) == (0, ("name",))
    assert found.words.startswith("0 of 20 test images are in")


@pytest.mark.parametrize(
    "entries",
    [
        OTHERS,
        [stem(n).upper() for n in SEEN],
        ["0" * 32, "f" * 32],
        ["1.2.840.113619.2.55.3", "1.2.840.113619.2.55.4"],
        [f"prefix_{stem(n)}_suffix.png" for n in SEEN],
    ],
)
def test_a_list_in_which_nothing_is_of_the_task_is_not_taken_for_clean(
    mine: tuple[Any, Prepared, raw.Source], tmp_path: Path, entries: list[str]
) -> None:
    found = listed(write(tmp_path / "list.txt", entries), mine)
    assert (found.held, found.by) == (0, ())
    assert f"cannot tell whether it saw the 20 test images: none of the {len(entries)} entries of" in found.words


def test_files_of_one_name_in_many_folders_are_told_apart_by_these(tmp_path: Path, top: Path) -> None:
    given = task(tmp_path, top, lambda n: f"patient{n // 2}/study{n % 2}/view1.png")
    whole = write(tmp_path / "whole.txt", [f"other/patient{n // 2}/study{n % 2}/view1.jpg" for n in SEEN])
    assert (listed(whole, given).held, listed(whole, given).by) == (3, ("name",))
    bare = write(tmp_path / "bare.txt", ["view1.png", "study1/view1.png"])
    assert (listed(bare, given).held, listed(bare, given).by) == (0, ())


def test_of_a_fold_its_own_test_images_are_counted(tmp_path: Path, top: Path) -> None:
    record, prepared, source = task(tmp_path, top, split={"folds": 4, "repeats": 1})
    found = training_lists.read(write(tmp_path / "list.txt", [f"{stem(n)}.png" for n in SEEN]))
    rows = training_lists.match(found, record, prepared, source)
    counts = [training_lists.overlap(found, rows, prepared.of_fold(fold)) for fold in range(4)]
    assert sum(one.test for one in counts) == COUNT
    assert sum(one.held for one in counts) == len(SEEN)
    table = prepared.samples
    for fold, one in enumerate(counts):
        assert one.held == (table[f"split.{fold}"].to_numpy()[list(SEEN)] == "test").sum()


def test_ids_of_samples_and_of_the_cache_count_as_names(tmp_path: Path, top: Path) -> None:
    given = task(tmp_path, top, id="name")
    assert listed(write(tmp_path / "ids.txt", [f"case-{n}" for n in SEEN]), given).held == 3
    hashed = task(tmp_path / "other", top)
    ids = hashed[1].samples["id"].tolist()
    assert listed(write(tmp_path / "cache.txt", [ids[n] for n in SEEN]), hashed).held == 3


def test_dicom_files_are_found_by_their_uids(tmp_path: Path, top: Path) -> None:
    given = task(tmp_path, top, lambda n: f"{n:04}.dcm", dcm)
    own = listed(write(tmp_path / "own.txt", [f"{UID}{n}" for n in (21, 30, 39)]), given)
    assert (own.held, own.by) == (3, ("DICOM UID",))
    study = listed(write(tmp_path / "study.csv", ["n,study", *(f"{n},{UID}9.{n}" for n in (21, 30))]), given)
    assert (study.held, study.by) == (2, ("DICOM UID",))
    series = listed(write(tmp_path / "series.txt", [f"{UID}8.15"]), given)
    assert series.held == 2


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.txt", None, "found none"),
        ("empty.csv", b"", "nothing but blanks"),
        ("blank.txt", b" \n\n", "nothing but blanks"),
        ("latin.csv", "größe\n1.png\n".encode("latin-1"), "not UTF-8 (byte 2"),
        ("packed.csv.gz", b"\x1f\x8b\x08\x00", "not UTF-8 (byte 1"),
        ("binary.txt", b"a\0b", "zero bytes"),
        ("cut.json", b'["a.png", "b', "no JSON"),
        ("deep.json", b"[" * 100_000, "no JSON"),
        ("numbers.csv", b"id,age\n1,50\n2,60.5\n", "no column of file names, hashes or DICOM UIDs; its columns ("),
        ("numbers.json", b"[1, 2]", "no column of file names, hashes or DICOM UIDs; its columns (none)"),
        ("comments.txt", b"# nothing\n", "no column of"),
        ("quote.csv", b'name\n"a.png\n', "no table ("),
    ],
)
def test_a_bad_list_is_refused_with_what_was_found(
    tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        training_lists.read(tmp_path / name)
    assert words in str(caught.value)
    assert name in str(caught.value)


def test_an_address_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is an address; download it"):
        training_lists.place("https://host/list.csv", tmp_path)
    with pytest.raises(UserError, match="a folder; name a file in it"):
        training_lists.read(training_lists.place(".", tmp_path))


def test_plain_numbers_are_names_only_where_nothing_else_is_listed(tmp_path: Path, top: Path) -> None:
    given = task(tmp_path, top, lambda n: f"{n}.png")
    assert listed(write(tmp_path / "numbers.txt", [str(n) for n in SEEN]), given).held == 3
    assert listed(write(tmp_path / "index.csv", ["index,image", *(f"{n},x{n}.png" for n in SEEN)]), given).by == ()
