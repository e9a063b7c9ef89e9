from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medtransfer import params as parameters
from medtransfer.cli import links as verb
from medtransfer.core.errors import UserError
from medtransfer.weights import links, zoo
from medtransfer.weights.records import Record, Source
from tests.support import fake_hub

ANSWERS: dict[str, dict[str, int]] = {
    "/here.pth": {"HEAD": 200, "GET": 200},
    "/get-alone.pth": {"HEAD": 405, "GET": 206},
    "/signed.pth": {"HEAD": 403, "GET": 200},
    "/gone.pth": {"HEAD": 404, "GET": 404},
    "/login.pth": {"HEAD": 401, "GET": 401},
    "/page.pth": {"HEAD": 200, "GET": 200},
    "/down.pth": {"HEAD": 503, "GET": 503},
    "/moved.pth": {"HEAD": 302, "GET": 302},
}


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:  # the handler's own names
            self.send_response(ANSWERS[self.path][self.command])
            self.send_header("Content-Type", "text/html" if self.path == "/page.pth" else "application/octet-stream")
            self.send_header("Content-Length", "0")
            if self.path == "/moved.pth":
                self.send_header("Location", "/here.pth")
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def record(name: str, **source: Any) -> Record:
    return Record(name=name, family="medical", sources={"resnet50": Source(**source)})


def test_each_kind_of_answer_has_its_state(server: str) -> None:
    wanted = {f"{server}{path}": ("net",) for path in ANSWERS} | {"http://127.0.0.1:9/w.pth": ("net",)}
    found = {link.address.rpartition("/")[2]: link.state for link in links.check(wanted)}
    assert found == {
        "here.pth": "ok",
        "get-alone.pth": "ok",
        "signed.pth": "ok",
        "gone.pth": "gone",
        "login.pth": "asks for login",
        "page.pth": "asks for login",
        "down.pth": "unreachable",
        "moved.pth": "ok",
        "w.pth": "unreachable",
    }


def test_files_of_a_hub_are_asked_for_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = "https://huggingface.co/lab"
    with fake_hub.running() as hub:
        fake_hub.point(monkeypatch, hub.url, tmp_path / "home")
        hub.add("lab/net", {"w.pth": b"weights"})
        hub.add("lab/gated", {"w.pth": b"weights"}, gated=True)
        paths = (
            "net/resolve/main/w.pth",
            "gated/resolve/main/w.pth",
            "net/resolve/main/v.pth",
            "no/resolve/main/w.pth",
        )
        found = links.check({f"{page}/{path}": ("net",) for path in paths})
    assert [link.state for link in found] == ["ok", "asks for login", "gone", "gone"]


def test_every_address_of_the_table_is_asked_for_once() -> None:
    wanted = links.addresses(zoo.RECORDS)
    urls = {address for r in zoo.RECORDS.values() for s in r.sources.values() for address in (s.url, *s.beside)}
    assert urls - {""} <= set(wanted)
    assert "simclr-v2" in wanted[zoo.RECORDS["simclr-v2"].sources["resnet50"].url]
    by_hand = [address for address, names in wanted.items() if "inat2021" in names]
    assert by_hand == [zoo.RECORDS["inat2021"].sources["resnet50"].steps[0]]
    assert links.check({by_hand[0]: ("inat2021",)})[0].state == "by hand"


def test_the_verb_ends_with_an_error_where_a_file_is_gone(
    server: str, top: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    params = parameters.load(top / "params.yaml", {})
    here, gone = record("a", url=f"{server}/here.pth"), record("b", url=f"{server}/gone.pth")
    monkeypatch.setattr(zoo, "RECORDS", {"a": here})
    verb.check_links(params, top)
    monkeypatch.setattr(zoo, "RECORDS", {"a": here, "b": gone, "c": record("c", steps=("open a page in a browser",))})
    with pytest.raises(UserError, match="1 of 2 addresses are gone, of b"):
        verb.check_links(params, top)
    shown = capsys.readouterr().out
    assert "gone (1)" in shown
    assert "by hand (1)" in shown
    monkeypatch.setattr(zoo, "RECORDS", {"a": record("a", url="http://127.0.0.1:9/w.pth")})
    with pytest.raises(UserError, match="none of 1 addresses answered: is there a network"):
        verb.check_links(params, top)
