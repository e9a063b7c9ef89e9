from __future__ import annotations

import base64
import errno
import gzip
import hashlib
import http.client
import http.server
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
import requests
from moto.server import ThreadedMotoServer

from medtransfer.core import downloads
from medtransfer.core.errors import UserError

CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


RESOLVE = socket.getaddrinfo


class Served:
    """What the server does next, and what it did."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.tag = '"one"'
        self.date = ""
        self.ranges = True
        self.if_range = True
        self.brief = False
        """an answer to a range does not repeat the version"""
        self.cuts: list[int] = []
        """content bytes after which the connection of each next request breaks"""
        self.answers: list[tuple[int, dict[str, str]]] = []
        """statuses and headers sent first"""
        self.type = "application/zip"
        self.headers: dict[str, str] = {}
        """further ones of each answer with content"""
        self.redirect: dict[str, str] = {}
        """headers with which each request is led to another path"""
        self.stalled = threading.Event()
        """set: a broken connection is not closed"""
        self.sent = 0
        self.requests: list[dict[str, str]] = []
        self.url = ""


@contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A server on this machine whose faults are set by the test."""
    monkeypatch.setattr(downloads, "BACKOFF", 0.001)
    state = Served()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def head(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def do_GET(self) -> None:  # the handler's own name
            state.requests.append(dict(self.headers))
            if state.answers:
                return self.head(*state.answers.pop(0))
            if state.redirect and not self.path.startswith("/blobs/"):
                return self.head(302, {"Location": "/blobs/1", "Content-Length": "0", **state.redirect})
            content, start = state.content, 0
            headers = {"Content-Type": state.type, "ETag": state.tag, "Last-Modified": state.date}
            headers = {name: value for name, value in headers.items() if value}
            condition = self.headers.get("If-Range", "")
            if state.ranges and "Range" in self.headers and (condition in headers.values() or not state.if_range):
                start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
                if start >= len(content):
                    return self.head(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
                headers = {} if state.brief else headers
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            headers |= state.headers
            self.head(206 if start else 200, {**headers, "Content-Length": str(len(content) - start)})
            body = content[start:][: state.cuts.pop(0) if state.cuts else None]
            state.sent += len(body)
            self.wfile.write(body)
            while state.stalled.is_set():
                time.sleep(0.01)
            return None

    with serving(Handler) as address:
        state.url = f"{address}/set.zip"
        yield state


def get(served: Served, folder: Path, **options: Any) -> str:
    return downloads.download(served.url, folder / "down/set.zip", what="dataset x", **options)


def left(folder: Path) -> set[str]:
    return {path.name for path in (folder / "down").iterdir()} - {".set.zip.lock"}


def test_a_whole_file_comes_once(served: Served, tmp_path: Path) -> None:
    assert get(served, tmp_path, sha256=SHA256.upper(), md5=MD5, size=len(CONTENT)) == SHA256
    assert (tmp_path / "down/set.zip").read_bytes() == CONTENT
    assert left(tmp_path) == {"set.zip"}
    assert get(served, tmp_path, md5=MD5) == SHA256
    assert len(served.requests) == 1


@pytest.mark.parametrize(("tag", "date"), [('"one"', ""), ('W/"weak"', formatdate(1e9, usegmt=True))])
def test_cut_connections_go_on_and_no_byte_is_sent_twice(served: Served, tmp_path: Path, tag: str, date: str) -> None:
    served.tag, served.date, served.cuts = tag, date, [100_000, 50_000, 1, 2, 3, 4, 5, 6]
    assert get(served, tmp_path) == SHA256
    assert served.sent == len(CONTENT)
    assert len(served.requests) == 9
    assert served.requests[1]["Range"] == "bytes=100000-"
    assert served.requests[1]["If-Range"] == (date or tag)


def test_a_version_holds_until_another_is_named(served: Served, tmp_path: Path) -> None:
    served.brief, served.cuts = True, [100_000, 50_000]
    assert get(served, tmp_path) == SHA256
    assert served.sent == len(CONTENT)


def test_another_process_goes_on_where_one_gave_up(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "ATTEMPTS", 1)
    served.cuts = [120_000]
    with pytest.raises(UserError, match="120000 bytes so far are kept"):
        get(served, tmp_path)
    assert left(tmp_path) == {"set.zip.part", "set.zip.part.json"}
    assert get(served, tmp_path) == SHA256
    assert served.sent == len(CONTENT)


def test_a_process_that_died_before_the_rename_fetches_nothing_again(served: Served, tmp_path: Path) -> None:
    (tmp_path / "down").mkdir()
    (tmp_path / "down/set.zip.part").write_bytes(CONTENT)
    (tmp_path / "down/set.zip.part.json").write_text(json.dumps({"url": served.url, "validator": '"one"'}))
    assert get(served, tmp_path) == SHA256
    assert served.sent == 0


@pytest.mark.parametrize(
    ("ranges", "if_range"), [(True, True), (True, False), (False, True)], ids=["if-range", "no if-range", "no range"]
)
def test_a_file_that_changed_meanwhile_starts_over(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranges: bool, if_range: bool
) -> None:
    with monkeypatch.context() as once:
        once.setattr(downloads, "ATTEMPTS", 1)
        served.cuts = [100_000]
        with pytest.raises(UserError):
            get(served, tmp_path)
    served.content, served.tag, served.ranges, served.if_range = CONTENT[::-1], '"two"', ranges, if_range
    assert get(served, tmp_path) == hashlib.sha256(CONTENT[::-1]).hexdigest()


def test_a_server_without_versions_or_ranges_starts_over(served: Served, tmp_path: Path) -> None:
    served.tag, served.cuts = "", [100_000]
    assert get(served, tmp_path) == SHA256
    assert "Range" not in served.requests[1]
    served.tag, served.ranges, served.cuts = '"one"', False, [100_000]
    (tmp_path / "down/set.zip").unlink()
    assert get(served, tmp_path) == SHA256
    assert served.sent == 2 * (100_000 + len(CONTENT))


def test_a_part_of_another_address_or_without_notes_is_not_gone_on_with(served: Served, tmp_path: Path) -> None:
    (tmp_path / "down").mkdir()
    for notes in ('{"url": "http://elsewhere/set.zip", "validator": "\\"one\\""}', "", "[]", "{"):
        (tmp_path / "down/set.zip.part").write_bytes(b"x" * 1000)
        (tmp_path / "down/set.zip.part.json").write_text(notes)
        assert get(served, tmp_path) == SHA256
        (tmp_path / "down/set.zip").unlink()


def test_a_busy_server_is_asked_again_after_the_time_it_says(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(downloads, "time", SimpleNamespace(sleep=waits.append))
    nothing = {"Content-Length": "0"}
    served.answers = [(503, nothing), (429, nothing | {"Retry-After": "7"}), (500, nothing)]
    assert get(served, tmp_path) == SHA256
    assert waits == [0.001, 7, 0.004]
    served.answers = [(429, nothing | {"Retry-After": "9000"})]
    (tmp_path / "down/set.zip").unlink()
    with pytest.raises(UserError, match=r"429 .*9000 s"):
        get(served, tmp_path)


def test_it_gives_up_and_says_what_to_do(served: Served, tmp_path: Path) -> None:
    served.answers = [(503, {"Content-Length": "0"})] * 9
    with pytest.raises(UserError) as error:
        get(served, tmp_path)
    assert len(served.requests) == downloads.ATTEMPTS
    for words in ("dataset x", served.url, "503", f"put it at {tmp_path / 'down/set.zip'}"):
        assert words in str(error.value)
    assert not left(tmp_path)


def test_a_missing_file_is_asked_for_once(served: Served, tmp_path: Path) -> None:
    served.answers = [(404, {"Content-Length": "0"})]
    with pytest.raises(UserError, match="404 Not Found"):
        get(served, tmp_path)
    assert len(served.requests) == 1


def test_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "BACKOFF", 0.001)
    with pytest.raises(UserError, match=r"ConnectionError with 127\.0\.0\.1"):
        downloads.download("http://127.0.0.1:9/set.zip", tmp_path / "down/set.zip", what="dataset x")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that are waited for, in no time."""
    seconds: list[float] = []
    monkeypatch.setattr(downloads, "time", SimpleNamespace(sleep=seconds.append))
    return seconds


def unknown(*_: Any, **__: Any) -> Any:
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


def unreachable(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))


@pytest.mark.parametrize(
    ("resolve", "connect", "expected"),
    [
        (unknown, None, [1.0]),
        (lambda *_, **__: [], unreachable, [1.0]),
        (lambda *_, **__: [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("127.0.0.1", 80))], unreachable, [1, 2, 4, 8]),
    ],
    ids=["no name", "no network", "no network to one of its addresses"],
)
def test_without_a_network_it_gives_up_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float], resolve: Any, connect: Any, expected: Any
) -> None:
    monkeypatch.setattr("socket.getaddrinfo", resolve)
    if connect:
        monkeypatch.setattr("urllib3.util.connection.create_connection", connect)
    with pytest.raises(UserError, match=r"ConnectionError with files\.test") as error:
        downloads.download("https://files.test/set.zip", tmp_path / "down/set.zip", what="dataset x")
    assert waits == expected
    assert ("no such name, or no network" in str(error.value)) == (expected == [1.0])


def test_a_network_that_went_away_meanwhile_is_waited_for(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    served.cuts, first = [100_000], [requests.get]

    def ask(url: str, **options: Any) -> requests.Response:
        return first.pop()(url, **options) if first else requests.request("GET", "http://files.test")

    monkeypatch.setattr("requests.get", ask)
    monkeypatch.setattr(
        "socket.getaddrinfo", lambda host, *a, **k: unknown() if host == "files.test" else RESOLVE(host, *a, **k)
    )
    with pytest.raises(UserError, match="100000 bytes so far are kept"):
        get(served, tmp_path)
    assert len(waits) == downloads.ATTEMPTS - 1


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://host/set.zip", "", "set.zip"])
def test_other_addresses_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match="only http, https and s3"):
        downloads.download(url, tmp_path / "down/set.zip", what="dataset x")


@pytest.mark.parametrize("expected", [{"sha256": "ab" * 32}, {"md5": "ab" * 16}])
def test_a_wrong_checksum_removes_what_came(served: Served, tmp_path: Path, expected: dict[str, str]) -> None:
    with pytest.raises(UserError) as error:
        get(served, tmp_path, **expected)
    (name, value), found = next(iter(expected.items())), {"sha256": SHA256, "md5": MD5}
    assert f"expected {name} {value}, found {found[name]}" in str(error.value)
    assert served.url in str(error.value)
    assert not left(tmp_path)


@pytest.mark.parametrize("digits", [6, 8, 31])
@pytest.mark.parametrize(("kind", "whole"), [("sha256", SHA256), ("md5", MD5)])
def test_the_first_digits_of_a_hash_are_enough(
    served: Served, tmp_path: Path, kind: str, whole: str, digits: int
) -> None:
    other = "".join("0" if digit != "0" else "1" for digit in whole[:digits])
    with pytest.raises(UserError, match=rf"expected {kind} {other}\.\.\., found {whole}"):
        get(served, tmp_path, **{kind: other})
    assert not left(tmp_path)
    assert get(served, tmp_path, **{kind: whole[:digits].upper()}) == SHA256


@pytest.mark.parametrize("hashes", [{"sha256": "abcde"}, {"sha256": SHA256 + "0"}, {"md5": "not hexadecimal"}])
def test_a_hash_that_is_none_is_refused_before_anything_is_asked(
    served: Served, tmp_path: Path, hashes: dict[str, str]
) -> None:
    with pytest.raises(UserError, match=r"must be 6 to (64|32) hexadecimal digits, got"):
        get(served, tmp_path, **hashes)
    assert not served.requests


def coded(digest: str) -> str:
    return base64.b64encode(bytes.fromhex(digest)).decode()


def linked(digest: str) -> dict[str, str]:
    return {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(CONTENT))}


def google(digest: str) -> dict[str, str]:
    return {"x-goog-hash": f"crc32c=AAAAAA==, md5={coded(digest)}"}


def digested(digest: str) -> dict[str, str]:
    return {"Repr-Digest": f"sha-256=:{coded(digest)}:"}


OTHER256, OTHER5 = "ab" * 32, "ab" * 16
STATEMENTS = [
    ("redirect", linked, SHA256, OTHER256),
    ("headers", google, MD5, OTHER5),
    ("headers", digested, SHA256, OTHER256),
]


@pytest.mark.parametrize(("place", "words", "right", "wrong"), STATEMENTS, ids=["hugging face", "google", "rfc 9530"])
def test_a_file_is_held_to_what_its_server_states(
    served: Served, tmp_path: Path, place: str, words: Callable[[str], dict[str, str]], right: str, wrong: str
) -> None:
    kind = "sha256" if len(right) == 64 else "md5"
    setattr(served, place, words(wrong))
    for first in ({}, {"sha256": SHA256[:8]}):
        with pytest.raises(UserError, match=rf"expected {kind} {wrong} \(stated by the server\), found {right}"):
            get(served, tmp_path, **first)
        assert not left(tmp_path)
    assert get(served, tmp_path, sha256=SHA256) == SHA256  # who knows better is not asked to believe
    (tmp_path / "down/set.zip").unlink()
    setattr(served, place, words(right))
    served.cuts = [100_000]
    assert get(served, tmp_path) == SHA256


@pytest.mark.parametrize(
    ("place", "headers"),
    [
        ("redirect", {"X-Linked-Etag": '"' + "ab" * 20 + '"'}),
        ("redirect", digested(OTHER256)),
        ("headers", {"x-goog-hash": "crc32c=AAAAAA=="}),
        ("headers", {**google(OTHER5), "x-goog-stored-content-encoding": "gzip"}),
        ("headers", {"Repr-Digest": "sha-256=:short:, unixsum=:AA==:"}),
    ],
    ids=["git hash", "of the redirect", "crc32c", "of the packed bytes", "another form"],
)
def test_a_header_that_does_not_state_the_files_hash_is_left_aside(
    served: Served, tmp_path: Path, place: str, headers: dict[str, str]
) -> None:
    setattr(served, place, headers)
    assert get(served, tmp_path) == SHA256


def interrupt(served: Served, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as once:
        once.setattr(downloads, "ATTEMPTS", 1)
        served.cuts = [100_000]
        with pytest.raises(UserError, match="100000 bytes so far are kept"):
            get(served, folder)


def test_what_was_stated_of_a_file_holds_for_all_of_it(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.redirect = linked(SHA256)
    interrupt(served, tmp_path, monkeypatch)
    served.redirect, served.content = {}, CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with pytest.raises(UserError, match="stated by the server"):
        get(served, tmp_path)
    assert not left(tmp_path)


@pytest.mark.parametrize("tag", ['"one"', '"two"'], ids=["same tag", "other tag"])
def test_what_was_stated_of_a_file_is_not_held_against_the_next(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tag: str
) -> None:
    served.redirect = linked(SHA256)
    interrupt(served, tmp_path, monkeypatch)
    served.content, served.tag = CONTENT[::-1], tag
    turned = hashlib.sha256(CONTENT[::-1]).hexdigest()
    served.redirect = linked(turned)
    assert get(served, tmp_path) == turned


def test_a_killed_process_loses_little(served: Served, tmp_path: Path) -> None:
    part = tmp_path / "down/set.zip.part"
    served.cuts = [100_000]
    served.stalled.set()
    code = "import sys, pathlib; from medtransfer.core import downloads as d\n"
    code += "d.download(sys.argv[1], pathlib.Path(sys.argv[2]), what='x')"
    child = subprocess.Popen([sys.executable, "-c", code, served.url, str(tmp_path / "down/set.zip")])
    while child.poll() is None and (not part.is_file() or part.stat().st_size < 80_000):
        time.sleep(0.01)
    child.kill()
    child.wait()
    served.stalled.clear()
    have = part.stat().st_size
    assert left(tmp_path) == {"set.zip.part", "set.zip.part.json"}
    assert get(served, tmp_path) == SHA256
    assert served.requests[-1]["Range"] == f"bytes={have}-"
    assert left(tmp_path) == {"set.zip"}


@pytest.mark.parametrize("query", ["?dl=1", "?download=1"], ids=["dropbox", "zenodo"])
def test_an_address_that_asks_for_the_file_itself_is_an_ordinary_one(
    served: Served, tmp_path: Path, query: str
) -> None:
    served.url += query
    assert get(served, tmp_path) == SHA256


@pytest.mark.parametrize("packing", ["gzip", "br"])
def test_a_file_that_its_server_packs_unasked_is_refused(served: Served, tmp_path: Path, packing: str) -> None:
    served.content, served.headers = gzip.compress(CONTENT), {"Content-Encoding": packing}
    with pytest.raises(UserError, match=f"packed by {packing}"):
        get(served, tmp_path)
    assert not left(tmp_path)
    served.headers = {"Content-Encoding": "identity"}
    assert get(served, tmp_path) == hashlib.sha256(served.content).hexdigest()


def test_a_wrong_size_is_refused_before_it_comes(served: Served, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="offers 300000 bytes, expected 5"):
        get(served, tmp_path, size=5)
    assert not left(tmp_path)


def test_a_wrong_file_put_there_by_hand_is_named_and_left(served: Served, tmp_path: Path) -> None:
    (tmp_path / "down").mkdir()
    (tmp_path / "down/set.zip").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"set\.zip is not .*expected md5 .*Delete it"):
        get(served, tmp_path, md5=MD5)
    assert (tmp_path / "down/set.zip").read_bytes() == b"mine"
    assert not served.requests


def test_a_web_page_is_no_dataset(served: Served, tmp_path: Path) -> None:
    served.type = "text/html; charset=utf-8"
    with pytest.raises(UserError, match="web page"):
        get(served, tmp_path)
    assert not left(tmp_path)


def test_secrets_in_an_address_are_not_repeated(
    served: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "medtransfer")
    served.url = served.url.replace("//", "//me:word@") + "?token=hidden"
    served.answers = [(503, {"Content-Length": "0"})]
    served.cuts = [1000]
    assert get(served, tmp_path) == SHA256
    (tmp_path / "down/set.zip").unlink()
    served.answers = [(403, {"Content-Length": "0"})]
    with pytest.raises(UserError) as error:
        get(served, tmp_path)
    for secret in ("word", "hidden"):
        assert secret not in str(error.value) + caplog.text
    assert "downloading http://127.0.0.1" in caplog.text


def test_a_full_disk_is_said_before_and_while_writing(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as small:
        small.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
        with pytest.raises(UserError, match="has 1000 bytes free, 300000 are needed"):
            get(served, tmp_path)
    assert served.sent <= len(CONTENT)

    def full(target: int) -> None:
        if os.fstat(target).st_size >= len(CONTENT):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as late:
        late.setattr("os.fsync", full)
        with pytest.raises(UserError, match=r"cannot write to .*down: No space left on device"):
            get(served, tmp_path)
    sent = served.sent
    assert get(served, tmp_path) == SHA256
    assert served.sent == sent


def test_two_at_once_fetch_the_file_once(served: Served, tmp_path: Path) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(get(served, tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [SHA256] * 4
    assert len(served.requests) == 1


def test_the_first_hash_is_held_to(tmp_path: Path) -> None:
    lock, file = tmp_path / "downloads.lock.json", tmp_path / "b.zip"
    downloads.remember(lock, "b.zip", "22", file)
    downloads.remember(lock, "a.zip", "11", file)
    downloads.remember(lock, "b.zip", "22", file)
    assert lock.read_text() == '{\n "a.zip": "11",\n "b.zip": "22"\n}\n'
    with pytest.raises(UserError) as error:
        downloads.remember(lock, "b.zip", "33", file)
    for words in (str(file), "expected sha256 22", "found 33", "take the line 'b.zip' out of", str(lock)):
        assert words in str(error.value)
    for text in ("<<<<<<< conflict", "3", "[1]"):
        lock.write_text(text)
        with pytest.raises(UserError, match="is not JSON"):
            downloads.remember(lock, "b.zip", "22", file)
        with pytest.raises(UserError, match="is not JSON"):
            downloads.known(lock, "b.zip")


def test_a_file_that_is_not_the_noted_one_gets_no_name(served: Served, tmp_path: Path) -> None:
    lock = tmp_path / "downloads.lock.json"
    assert downloads.known(lock, "set.zip") == ""
    downloads.remember(lock, "set.zip", SHA256, tmp_path)
    assert get(served, tmp_path, sha256=downloads.known(lock, "set.zip")) == SHA256
    (tmp_path / "down/set.zip").unlink()
    served.content = CONTENT[::-1]
    with pytest.raises(UserError, match=f"expected sha256 {SHA256}, found"):
        get(served, tmp_path, sha256=downloads.known(lock, "set.zip"))
    assert not left(tmp_path)


def test_processes_that_note_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from medtransfer.core import downloads\n"
        "for i in range(20): downloads.remember(pathlib.Path(sys.argv[1]), sys.argv[2] + str(i), '00', pathlib.Path())"
    )
    lock = str(tmp_path / "downloads.lock.json")
    children = [subprocess.Popen([sys.executable, "-c", code, lock, name]) for name in "abc"]
    assert [child.wait() for child in children] == [0, 0, 0]
    assert set(json.loads(Path(lock).read_text())) == {f"{name}{i}" for name in "abc" for i in range(20)}


class Between:
    """What a proxy before an S3 server does next, and what it saw."""

    def __init__(self) -> None:
        self.cuts: list[int] = []
        """content bytes after which the connection of each next request breaks"""
        self.answers: list[tuple[int, str]] = []
        """statuses and codes of refusals sent first"""
        self.damage = False
        """one bit of what passes is turned"""
        self.headers: dict[str, str] = {}
        """further ones of each answer"""
        self.sent = 0
        self.requests: list[dict[str, str]] = []


@pytest.fixture(scope="module")
def moto() -> Iterator[tuple[str, int]]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield server.get_host_and_port()
    server.stop()


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Nothing of what this machine has set for boto3; keys that every moto server takes."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setattr(downloads, "BACKOFF", 0.001)
    return monkeypatch


@pytest.fixture
def between(moto: tuple[str, int], settings: pytest.MonkeyPatch) -> Iterator[Between]:
    """An S3 server on this machine, behind a proxy whose faults are set by the test."""
    state = Between()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def head(self, status: int, headers: dict[str, str]) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def do_GET(self) -> None:  # the handler's own name
            state.requests.append(dict(self.headers))
            if state.answers:
                status, code = state.answers.pop(0)
                body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
                self.head(status, {"Content-Length": str(len(body))})
                self.wfile.write(body)
                return
            behind = http.client.HTTPConnection(*moto)
            behind.request("GET", self.path, headers=dict(self.headers))
            answer = behind.getresponse()
            body = answer.read()
            headers = {**dict(answer.getheaders()), **state.headers}
            if answer.status == 206:  # Amazon states the hash of a part, where the range is one
                headers["x-amz-checksum-sha256"] = coded(hashlib.sha256(body).hexdigest())
            self.head(answer.status, headers)
            body = body[: state.cuts.pop(0) if state.cuts else None]
            state.sent += len(body) if answer.status < 300 else 0
            self.wfile.write(body[:-1] + bytes([body[-1] ^ 1]) if state.damage else body)

    with serving(Handler) as address:
        settings.setenv("AWS_ENDPOINT_URL", address)
        yield state


@pytest.fixture
def put(moto: tuple[str, int], settings: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Puts an object where `s3://data/some/set.zip` says."""
    client = boto3.client("s3", endpoint_url="http://{}:{}".format(*moto), region_name="us-east-1")
    client.create_bucket(Bucket="data")
    return lambda content=CONTENT, **options: client.put_object(
        Bucket="data", Key="some/set.zip", Body=content, **options
    )


def take(folder: Path, url: str = "s3://data/some/set.zip", **options: Any) -> str:
    return downloads.download(url, folder / "down/set.zip", what="dataset x", **options)


@pytest.mark.parametrize("signed", [True, False])
def test_an_object_comes_signed_where_there_are_credentials(
    between: Between, put: Callable[..., Any], settings: pytest.MonkeyPatch, tmp_path: Path, signed: bool
) -> None:
    put(ACL="public-read")
    if not signed:
        settings.delenv("AWS_ACCESS_KEY_ID")
        settings.delenv("AWS_SECRET_ACCESS_KEY")
    assert take(tmp_path, sha256=SHA256[:8], size=len(CONTENT)) == SHA256
    assert (tmp_path / "down/set.zip").read_bytes() == CONTENT
    assert left(tmp_path) == {"set.zip"}
    assert ["Authorization" in request for request in between.requests] == [signed]


def test_an_object_goes_on_where_its_connection_was_cut(
    between: Between, put: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tag = put()["ETag"]
    between.cuts, between.answers = [100_000, 50_000], [(503, "SlowDown")]
    assert take(tmp_path) == SHA256
    assert between.sent == len(CONTENT)
    assert [request.get("Range") for request in between.requests] == [None, None, "bytes=100000-", "bytes=150000-"]
    assert between.requests[-1]["If-Match"] == tag
    assert "the server says 503 SlowDown; trying again" in caplog.text


def test_an_object_that_changed_meanwhile_starts_over(
    between: Between, put: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put()
    between.cuts = [100_000]
    with monkeypatch.context() as once:
        once.setattr(downloads, "ATTEMPTS", 1)
        with pytest.raises(UserError, match="100000 bytes so far are kept"):
            take(tmp_path)
    put(CONTENT[::-1])
    assert take(tmp_path) == hashlib.sha256(CONTENT[::-1]).hexdigest()


def test_an_object_that_is_whole_already_is_not_fetched_again(
    between: Between, put: Callable[..., Any], tmp_path: Path
) -> None:
    notes = {"url": "s3://data/some/set.zip", "validator": put()["ETag"]}
    (tmp_path / "down").mkdir()
    (tmp_path / "down/set.zip.part").write_bytes(CONTENT)
    (tmp_path / "down/set.zip.part.json").write_text(json.dumps(notes))
    assert take(tmp_path) == SHA256
    assert between.sent == 0


@pytest.mark.parametrize(
    ("options", "stated"), [({}, f"md5 {MD5}"), ({"ChecksumAlgorithm": "SHA256"}, f"sha256 {SHA256}")]
)
@pytest.mark.parametrize("cuts", [[], [100_000]], ids=["at once", "in two parts"])
def test_an_object_is_held_to_what_its_store_states(
    between: Between, put: Callable[..., Any], tmp_path: Path, options: dict[str, str], stated: str, cuts: list[int]
) -> None:
    put(**options)
    between.damage, between.cuts = True, cuts
    with pytest.raises(UserError, match=rf"expected {stated} \(stated by the server\)"):
        take(tmp_path)
    assert not left(tmp_path)
    between.damage = False
    assert take(tmp_path) == SHA256


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": f'"{OTHER5}-2"'},
        {"ETag": '"opaque"'},
        {"ETag": f'"{OTHER5}"', "x-amz-server-side-encryption": "aws:kms"},
        {"ETag": f'"{OTHER5}"', "x-amz-server-side-encryption-customer-algorithm": "AES256"},
        {"ETag": f'"{OTHER5}-2"', "x-amz-checksum-sha256": f"{coded(OTHER256)}-2"},
    ],
    ids=["in parts", "opaque", "key of kms", "key of the customer", "hash of hashes"],
)
def test_an_etag_that_is_no_md5_of_the_object_is_left_aside(
    between: Between, put: Callable[..., Any], tmp_path: Path, headers: dict[str, str]
) -> None:
    put()
    between.headers = headers
    assert take(tmp_path) == SHA256


@pytest.mark.parametrize("encoding", ["aws-chunked", "", "gzip", "gzip,aws-chunked"])
def test_an_object_may_have_been_put_in_chunks_but_not_be_packed(
    between: Between, put: Callable[..., Any], tmp_path: Path, encoding: str
) -> None:
    put()
    between.headers = {"Content-Encoding": encoding}
    with pytest.raises(UserError, match="packed by gzip,") if "gzip" in encoding else nullcontext():
        assert take(tmp_path) == SHA256


def test_an_object_that_was_put_in_parts_comes_too(
    between: Between, put: Callable[..., Any], moto: tuple[str, int], tmp_path: Path
) -> None:
    client, place = boto3.client("s3", endpoint_url="http://{}:{}".format(*moto)), {"Bucket": "data", "Key": "big.zip"}
    upload, content = client.create_multipart_upload(**place)["UploadId"], bytes(5 << 20) + CONTENT
    tags = [
        client.upload_part(**place, UploadId=upload, PartNumber=number, Body=body)["ETag"]
        for number, body in enumerate((content[: 5 << 20], CONTENT), 1)
    ]
    parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]
    client.complete_multipart_upload(**place, UploadId=upload, MultipartUpload={"Parts": parts})
    between.cuts = [3 << 20]
    assert take(tmp_path, "s3://data/big.zip") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://absent/set.zip", "404 NoSuchBucket: there is no bucket absent at http://127.0.0.1"),
        ("s3://data/absent.zip", "404 NoSuchKey: no object 'absent.zip' in the bucket data at http://127.0.0.1"),
        ("s3://data", "an object's address is s3://bucket/key"),
        ("s3:///set.zip", "an object's address is s3://bucket/key"),
    ],
)
def test_a_wrong_address_of_an_object_is_told_at_once(
    between: Between, put: Callable[..., Any], tmp_path: Path, url: str, words: str
) -> None:
    with pytest.raises(UserError) as error:
        take(tmp_path, url)
    assert words in str(error.value)
    assert len(between.requests) < 2


@pytest.mark.parametrize("status", [(403, "AccessDenied"), (403, "SignatureDoesNotMatch"), (400, "ExpiredToken")])
@pytest.mark.parametrize("signed", [True, False])
def test_who_has_no_access_is_told_where_credentials_are_read(
    between: Between, settings: pytest.MonkeyPatch, tmp_path: Path, status: tuple[int, str], signed: bool
) -> None:
    if not signed:
        settings.delenv("AWS_ACCESS_KEY_ID")
        settings.delenv("AWS_SECRET_ACCESS_KEY")
    between.answers = [status]
    with pytest.raises(UserError) as error:
        take(tmp_path)
    access = "with the credentials of env" if signed else "without credentials, none were found"
    for words in (*map(str, status), access, "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "'some/set.zip'"):
        assert words in str(error.value)
    assert "hidden" not in str(error.value)


@pytest.mark.parametrize(
    ("endpoint", "attempts"), [("http://127.0.0.1:9", downloads.ATTEMPTS), ("http://store.test", 2)]
)
def test_a_store_that_does_not_answer_is_named(
    settings: pytest.MonkeyPatch, tmp_path: Path, waits: list[float], endpoint: str, attempts: int
) -> None:
    settings.setattr(
        "socket.getaddrinfo", lambda host, *a, **k: unknown() if host == "store.test" else RESOLVE(host, *a, **k)
    )
    settings.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(UserError, match=rf"EndpointConnectionError with the endpoint {endpoint} \(AWS_ENDPOINT_URL"):
        take(tmp_path)
    assert len(waits) == attempts - 1


@pytest.mark.parametrize(("name", "words"), [("AWS_PROFILE", "profile"), ("AWS_ENDPOINT_URL", "Invalid endpoint")])
def test_settings_that_boto3_cannot_use_are_told(
    settings: pytest.MonkeyPatch, tmp_path: Path, name: str, words: str
) -> None:
    settings.setenv(name, "nonsense")
    with pytest.raises(UserError, match=f"boto3 says: .*{words}.*nonsense"):
        take(tmp_path)


def test_who_downloads_from_elsewhere_does_not_wait_for_boto3() -> None:
    code = "import sys, medtransfer.core.downloads; sys.exit('boto3' in sys.modules or 'botocore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
