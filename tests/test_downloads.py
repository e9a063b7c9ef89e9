from __future__ import annotations

import errno
import hashlib
import http.server
import json
import os
import threading
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medtransfer import downloads
from medtransfer.errors import UserError

CONTENT = os.urandom(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


class Served:
    """What the server does next, and what it did."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.tag = '"one"'
        self.date = ""
        self.ranges = True
        self.if_range = True
        self.cuts: list[int] = []
        """content bytes after which the connection of each next request breaks"""
        self.answers: list[tuple[int, dict[str, str]]] = []
        """statuses and headers sent first"""
        self.type = "application/zip"
        self.sent = 0
        self.requests: list[dict[str, str]] = []
        self.url = ""


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
            content, start = state.content, 0
            headers = {"Content-Type": state.type, "ETag": state.tag, "Last-Modified": state.date}
            headers = {name: value for name, value in headers.items() if value}
            condition = self.headers.get("If-Range", "")
            if state.ranges and "Range" in self.headers and (condition in headers.values() or not state.if_range):
                start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
                if start >= len(content):
                    return self.head(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.head(206 if start else 200, {**headers, "Content-Length": str(len(content) - start)})
            body = content[start:][: state.cuts.pop(0) if state.cuts else None]
            state.sent += len(body)
            self.wfile.write(body)
            return None

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        state.url = f"http://127.0.0.1:{server.server_port}/set.zip"
        yield state
        server.shutdown()


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


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://host/set.zip", "", "set.zip"])
def test_other_addresses_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match="only http and https"):
        downloads.download(url, tmp_path / "down/set.zip", what="dataset x")


@pytest.mark.parametrize("expected", [{"sha256": "ab" * 32}, {"md5": "ab" * 16}])
def test_a_wrong_checksum_removes_what_came(served: Served, tmp_path: Path, expected: dict[str, str]) -> None:
    with pytest.raises(UserError) as error:
        get(served, tmp_path, **expected)
    (name, value), found = next(iter(expected.items())), {"sha256": SHA256, "md5": MD5}
    assert f"{name} expected {value}, found {found[name]}" in str(error.value)
    assert served.url in str(error.value)
    assert not left(tmp_path)


def test_a_wrong_size_is_refused_before_it_comes(served: Served, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="offers 300000 bytes, expected 5"):
        get(served, tmp_path, size=5)
    assert not left(tmp_path)


def test_a_wrong_file_put_there_by_hand_is_named_and_left(served: Served, tmp_path: Path) -> None:
    (tmp_path / "down").mkdir()
    (tmp_path / "down/set.zip").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"set\.zip is not .*md5 expected .*Delete it"):
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

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as late:
        late.setattr("os.fsync", full)
        with pytest.raises(UserError, match=r"cannot write to .*down: No space left on device"):
            get(served, tmp_path)
    assert get(served, tmp_path) == SHA256


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
    lock.write_text("<<<<<<< conflict")
    with pytest.raises(UserError, match="is not JSON"):
        downloads.remember(lock, "b.zip", "22", file)
