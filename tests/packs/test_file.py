from __future__ import annotations

import hashlib
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medtransfer.core.errors import UserError
from medtransfer.core.identity import PROTOCOL_VERSION
from medtransfer.packs import columns, file
from medtransfer.packs.records import Certificate, Checked
from tests.support import packs

RUNS = [packs.result(seed=seed, auc=0.9 + seed / 100) for seed in range(3)]
TABLE = {RUNS[0].digest: b"PAR1 of the first"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    packs.write(tmp_path / "a.pack", packs.contribution(RUNS), TABLE)
    return tmp_path / "a.pack"


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        file.read(path)
    return str(error.value)


def test_a_pack_says_what_was_written_and_is_equal_bytes_for_equal_content(path: Path, tmp_path: Path) -> None:
    written = packs.write(tmp_path / "b.pack", packs.contribution(RUNS), TABLE)
    assert path.read_bytes() == (tmp_path / "b.pack").read_bytes()
    found = file.read(path)
    (back,) = found.contributions
    assert (back.digest, back.lab, back.tasks, back.inits) == (written.digest, "Lab A", written.tasks, written.inits)
    assert [one.score for one in back.results] == [0.9, 0.91, 0.92]
    assert [(one.metric, one.margin, one.images) for one in back.results] == [("auc", 0.01, ("shenzhen",))] * 3
    assert back.predictions
    assert back.results[0].parts == {"predictions.parquet": hashlib.sha256(TABLE[RUNS[0].digest]).hexdigest()}
    assert back.results[1].parts == {}
    other = packs.write(tmp_path / "c.pack", packs.contribution(RUNS, lab="Lab B"), TABLE)
    assert other.digest != written.digest
    assert file.read(tmp_path / "c.pack").digest != found.digest


def test_every_hash_is_one_that_sha256sum_gives(path: Path) -> None:
    held = packs.members(path)
    index = json.loads(held["pack.json"])
    assert index["members"] == {n: hashlib.sha256(c).hexdigest() for n, c in held.items() if n != "pack.json"}
    own = next(name for name in held if name.startswith("contributions/"))
    assert own == f"contributions/{index['members'][own]}.json"


@pytest.mark.parametrize("kept", [0, 10, 300, -1])
def test_a_file_that_is_cut_off_is_no_pack(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    assert f"{path} is no whole pack" in refused(path)


def test_what_is_no_pack_is_said(tmp_path: Path) -> None:
    assert "found no such file" in refused(tmp_path / "none.pack")
    (tmp_path / "text.pack").write_text("init,task,seed\n" * 100)
    assert "another kind of file" in refused(tmp_path / "text.pack")
    packs.rewrite(tmp_path / "empty.pack", {})
    assert "looked for pack.json in it, found 0 other files" in refused(tmp_path / "empty.pack")


@pytest.mark.parametrize("kind", ["contributions", "predictions"])
def test_a_changed_member_is_named(path: Path, kind: str) -> None:
    held = packs.members(path)
    name = next(name for name in held if name.startswith(kind))
    packs.rewrite(path, held | {name: held[name].replace(b"0.92", b"0.99").replace(b"first", b"third")})
    words = refused(path)
    assert f"{path} was changed: {name} has the hash" in words
    held["pack.json"] = held["pack.json"].replace(b'"digest":"', b'"digest":"0')
    packs.rewrite(path, held)
    assert "was changed: pack.json has the hash" in refused(path)


def test_members_that_are_missing_or_not_listed_are_named(path: Path) -> None:
    held = packs.members(path)
    name = next(name for name in held if name.startswith("predictions/"))
    packs.rewrite(path, {key: value for key, value in held.items() if key != name})
    assert f"{name} is missing" in refused(path)
    more = f"certificates/{'0' * 64}.json"
    packs.rewrite(path, held | {more: b"{}"})
    assert f"{more} is not listed" in refused(path)


@pytest.mark.parametrize("name", ["../../etc/cron.d/x", "/etc/passwd", "C:\\x", "contributions/../x.json", "run.py"])
def test_a_member_that_leads_elsewhere_is_refused_by_its_name(path: Path, name: str) -> None:
    packs.rewrite(path, packs.members(path) | {name: b"x"})
    assert f"holds {name!r}, which no pack of this format holds" in refused(path)


def test_a_member_that_stands_there_twice_is_refused(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("pack.json", b"{}")
    assert "it holds pack.json twice" in refused(path)


def test_what_unpacks_to_too_much_is_refused_before_it_is_unpacked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "MOST_TEXT", 5 << 20)
    packs.rewrite(path, packs.members(path) | {f"certificates/{'0' * 64}.json": b" " * (6 << 20)})
    assert path.stat().st_size < 20_000
    assert "unpacks to 6 MB of .json files; a pack has at most 5" in refused(path)
    held = bytearray(path.read_bytes())  # a header that says less: what comes is cut there, and has another hash
    place = held.rindex(b"PK\x01\x02")
    assert struct.unpack_from("<I", held, place + 24)[0] == 6 << 20
    struct.pack_into("<I", held, place + 24, 100)
    path.write_bytes(held)
    assert str(path) in refused(path)


def told(path: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> str:
    """Changes a contribution, with every hash computed anew."""
    packs.write(path, packs.contribution(RUNS))
    packs.forge(path, tmp_path / "forged.pack", change)
    return refused(tmp_path / "forged.pack")


def test_a_newer_format_and_another_protocol_version_are_refused_with_both_numbers(path: Path, tmp_path: Path) -> None:
    held = packs.members(path)
    index = json.loads(held["pack.json"]) | {"format": 2, "signature": "x"}
    packs.rewrite(tmp_path / "new.pack", held | {"pack.json": json.dumps(index).encode()})
    assert "has format 2, this version of medtransfer reads 1: install a newer one" in refused(tmp_path / "new.pack")
    words = told(path, tmp_path, lambda tree: tree.update(protocol_version=PROTOCOL_VERSION + 1))
    assert f"protocol version {PROTOCOL_VERSION + 1}, this version of medtransfer trains and compares by " in words
    assert f"by {PROTOCOL_VERSION}:" in words


def put(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        for key in path[:-1]:
            tree = tree[key]
        tree[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("owner", value="me"), "unknown parameter owner"),
        (put("tasks", "shenzhen", "owner", value="me"), "unknown parameter tasks.shenzhen.owner"),
        (put("tasks", value={}), "nothing is said of the task shenzhen"),
        (put("inits", value={}), "nothing is said of the init random@resnet50"),
        (put("results", "fields", "task", value={"values": ["../x"]}), "nothing is said of the task ../x"),
        (put("results", "fields", "digest", value={"values": ["0" * 32] * 3}), "a run stands there twice"),
        (put("results", "fields", "digest", value={"values": ["../x", "b", "c"]}), "are no names of a task and a run"),
        (put("predictions", value={RUNS[1].digest: "0" * 64}), "is not what the contribution of Lab A says it is"),
    ],
)
def test_a_contribution_of_a_stranger_is_held_to_its_form(
    path: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    assert words in told(path, tmp_path, change)


def test_numbers_that_are_none_and_nests_without_end_are_no_json_of_a_pack(path: Path, tmp_path: Path) -> None:
    for content in (b'{"protocol_version": 1, "lab": NaN}', b'{"a":' + b"[" * 100_000, b"[]"):
        name = f"contributions/{hashlib.sha256(content).hexdigest()}.json"
        file.write(tmp_path / "x.pack", {name: _of(content)})
        assert f"{name} is no JSON of a pack" in refused(tmp_path / "x.pack")


def _of(content: bytes) -> Callable[[], bytes]:
    return lambda: content


def test_a_certificate_is_of_a_contribution_of_the_pack(path: Path) -> None:
    opened = file.open_pack(path)
    checked = Checked(run=RUNS[0].digest, verdict="equal", claimed=0.9, found=0.9, spread=None)
    own = opened.pack.contributions[0].digest
    for digest, found in ((own, "verified"), ("0" * 64, None)):
        certificate = Certificate(
            contribution=digest, by="Lab B", finished="2026-02-01T00:00:00Z", share=0.1, draw=3, machine="cpu",
            versions={}, checked=(checked,), rule="0.2: measured", tasks=("shenzhen",),
        )  # fmt: skip
        name, text = file.of_certificate(certificate)
        file.write(path.with_name("b.pack"), {**opened.contents(), name: _of(text)})
        if found is None:
            assert "a certificate or predictions of 000000000000, which is not in it" in refused(
                path.with_name("b.pack")
            )
            continue
        read = file.read(path.with_name("b.pack"))
        assert read.certificates == (certificate,)
        assert read.status(own) == found
        assert read.contributions == opened.pack.contributions
        assert read.digest != opened.pack.digest


def test_the_digest_of_a_pack_is_over_names_and_hashes() -> None:
    assert file.digest({"b": "2", "a": "1"}) == hashlib.sha256(b"1  a\n2  b\n").hexdigest()
    assert columns.canonical({}) == "{}"
