"""Nothing that a process writes, prints, logs or sends holds what is secret in an address."""

from __future__ import annotations

import base64
import contextlib
import copy
import http.server
import io
import json
import pickle
import sqlite3
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy
import timm
import torch
from safetensors.torch import save_file

from medtransfer import params as parameters
from medtransfer.core import addresses
from medtransfer.core.addresses import Address, Scrubbed, holds_secret, scrub
from medtransfer.core.errors import UserError
from medtransfer.runs.execution import leases
from medtransfer.weights import names, store
from medtransfer.weights.names import hidden, parse
from medtransfer.weights.receipts import Receipt
from tests.support import fakes, workspace

USER, PASSWORD, TOKEN = "Ursula-hidden-user", "pa@ss/SECRET-word", "SECRET-token-of-today"
FORMS = (USER, PASSWORD, urllib.parse.quote(PASSWORD, safe=""), TOKEN, "SECRET")


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives each test a process that knows no secret."""
    monkeypatch.setattr(addresses, "_whole", {})
    monkeypatch.setattr(addresses, "_secrets", set())


MLFLOW = "#/compare-runs?runs=%5B%22a1%22%2C%22b2%22%5D&experiments=%5B%222%22%5D&workflowType=machine_learning"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("http://me:SECRET@h:5000/" + MLFLOW, "http://h:5000/" + MLFLOW),
        ("http://h/#/models/x?token=SECRET&workflowType=machine_learning", "http://h/"),
        ("https://user:SECRET@h/w.safetensors?token=SECRET", "https://h/w.safetensors"),
        ("https://user:p@SECRET@h:80/w.st", "https://h:80/w.st"),
        ("https://user:pa/s?SECRET#w@h/w.st?SECRET=1&id=3", "https://h/w.st?id=3"),
        ("https://SECRET@h/w", "https://h/w"),
        ("https://h/w?SECRET", "https://h/w"),
        ("https://h/w#SECRET", "https://h/w"),
        ("https://b.s3.amazonaws.com/k?X-Amz-Signature=SECRET&X-Amz-Expires=60", "https://b.s3.amazonaws.com/k"),
        ("https://a.blob.core.windows.net/c/b?sv=2024&sig=SECRET%3D&se=2027", "https://a.blob.core.windows.net/c/b"),
        ("postgresql+psycopg://me:SECRET@h:5/db", "postgresql+psycopg://me@h:5/db"),
        ("postgresql://h/db?user=me&password=SECRET&host=/run", "postgresql://h/db?user=me&host=/run"),
        ("postgresql://me:SECRET/x@h/db", "postgresql://me@h/db"),
        ("http://me:SECRET@[::1]:80/x", "http://[::1]:80/x"),
    ],
)
def test_what_is_secret_is_not_in_the_text(given: str, shown: str) -> None:
    address = Address(given)
    assert (str(address), address.whole) == (shown, given)
    printed = [
        f"{address}",
        repr(address),
        json.dumps(address),
        f"{[address]}",
        "a" + address,
        str(copy.deepcopy(address)),
    ]
    assert not [text for text in printed if "SECRET" in text]
    assert Address(shown).whole == given  # named again without it
    assert pickle.loads(pickle.dumps(address)).whole == given  # our own pickle: what goes to a worker
    assert holds_secret(f"file:{given}")
    assert scrub(f"file:{given} and '{given}'") == f"file:{shown} and '{shown}'"


@pytest.mark.parametrize(
    "given",
    [
        f"http://127.0.0.1:5000/{MLFLOW}",
        "w.safetensors", "dir/a@b+c.pt", "https://h:80/a@b/w.pt?download=1&id=7", "s3://bucket/a?b#c", "sqlite:////a/m.db",
        "postgresql://me@h/db?host=/run", "http://[::1]:80/x", "https://h/%7Ea/b%20c.pt", "imagenet+chestxray14",
        "a: b?c=d",
    ],
)  # fmt: skip
def test_any_other_text_stays_as_it_is(given: str) -> None:
    assert (str(Address(given)), Address(given).whole, holds_secret(given), scrub(given)) == (
        given,
        given,
        False,
        given,
    )


def test_an_init_keeps_name_and_digest_when_its_token_changes(top: Path) -> None:
    one, two = (f"file:https://u:{n}SECRET@h/w.pt?token={n}SECRET@resnet18+chexpert" for n in "ab")
    first, second = parse(one, "resnet50"), parse(two, "resnet50")
    assert first == second == parse("file:https://h/w.pt@resnet18+chexpert", "resnet50")
    assert first.canonical == hidden(two) == "file:https://h/w.pt@resnet18+chexpert"
    assert "SECRET" not in repr(first) + first.slug
    assert first.source is not None
    assert Address(first.source.url).whole == "https://u:bSECRET@h/w.pt?token=bSECRET"
    params = parameters.load(top / "params.yaml", {"benchmark.inits": json.dumps([one, two])})
    with pytest.raises(UserError, match=r"file:https://h/w\.pt@resnet18\+chexpert is named twice") as caught:
        names.hide_all(params)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("inits: [random, imagenet, imagenet+chestxray14]", "inits: [random, 'file:https://u:SECRET@h/w']"),
        ("inits: {}", "inits: {mine: {file: 'https://h/w?sig=SECRET', backbone: resnet18}}"),
        ('leases: ""', 'leases: "postgresql://me:SECRET@h/db"'),
    ],
)
def test_a_file_that_dvc_copies_takes_none(tmp_path: Path, top: Path, old: str, new: str) -> None:
    text = (top / "params.yaml").read_text()
    assert old in text
    (tmp_path / "params.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=r"holds an address with .*DVC copies this file into dvc\.lock") as caught:
        parameters.load(tmp_path / "params.yaml")
    assert "SECRET" not in str(caught.value)


def test_messages_of_libraries_are_scrubbed() -> None:
    address = Address("postgresql://me:hush-SECRET@127.0.0.1:9/db?connect_timeout=1")
    with pytest.raises(psycopg.Error) as caught:
        psycopg.connect(address.whole.replace("postgresql://", "postgresl://"))
    assert "SECRET" in str(caught.value)
    assert "SECRET" not in scrub(caught.value)
    with pytest.raises(sqlalchemy.exc.ArgumentError) as refused:
        sqlalchemy.create_engine(address.whole.replace("://", ":/"))
    assert "SECRET" not in scrub(refused.value)
    with pytest.raises(UserError) as said:
        leases.initialise(address)
    assert "SECRET" not in str(said.value)
    assert (
        scrub("connection to host=h user=me password='a b' failed")
        == "connection to host=h user=me password=*** failed"
    )
    stream = io.StringIO()
    print("Traceback: token hush-SECRET", file=Scrubbed(stream))
    assert stream.getvalue() == "Traceback: token ***\n"


class Handler(http.server.BaseHTTPRequestHandler):
    """Gives one file to whoever knows user, password and token."""

    content = b""
    given = 0

    def do_GET(self) -> None:
        pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        known = self.headers.get("Authorization") == f"Basic {pair}" and f"token={TOKEN}" in self.path
        self.send_response(200 if known else 403)
        body = self.content if known else b"who are you?"
        type(self).given += known
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[str, str]]:
    """Serves a weight file; gives its address, and that without what is secret."""
    torch.manual_seed(0)
    save_file(timm.create_model(fakes.BACKBONE, num_classes=0).state_dict(), folder / "w.safetensors")
    Handler.content, Handler.given = (folder / "w.safetensors").read_bytes(), 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    password = urllib.parse.quote(PASSWORD, safe="")
    place = f"127.0.0.1:{server.server_port}/w.safetensors"
    try:
        yield f"http://{USER}:{password}@{place}?token={TOKEN}", f"http://{place}"
    finally:
        server.shutdown()
        server.server_close()


def hits(folder: Path) -> list[str]:
    """Finds the secrets in names and contents of all files below a folder, those of SQLite included."""
    found = []
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        found += [
            f"{path}: {form}" for form in FORMS if form.encode() in content or form in str(path.relative_to(folder))
        ]
    return found


def test_weights_are_fetched_again_when_the_user_names_them_again(tmp_path: Path) -> None:
    with served(tmp_path) as (whole, shown):
        init = parse(f"file:{whole}", fakes.BACKBONE)
        root = tmp_path / "root"
        first = store.obtain(init, root)
        assert isinstance(first, Receipt)
        assert first.files[0].address == shown
        assert store.obtain(parse(f"file:{shown}", fakes.BACKBONE), root) == first
        assert Handler.given == 1
        assert hits(root) == []
        for path in (root / "data").rglob("*.safetensors"):
            path.unlink()
        assert store.obtain(parse(f"file:{shown}", fakes.BACKBONE), root) == first  # this process still knows
        assert Handler.given == 2
    assert "SECRET" not in "\n".join(store.summary(first)) + repr(init)


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("--verbose",)])
def test_a_fine_tuning_with_a_secret_address_leaves_it_nowhere(
    tmp_path: Path, top: Path, words: tuple[str, ...]
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    workspace.make(root, top, "shenzhen", "chestxray14", "montgomery")
    with served(tmp_path) as (whole, shown):
        asked = ("finetune", "--init", f"file:{whole}", "--task", "shenzhen", "--seed", "0")
        code, said = workspace.run(top, root, *words, *asked, "--classification.max_epochs", "1")
        assert code == 0, said
        for line in (
            ("weights", "--init", f"file:{whole}"),
            ("finetune", "--init", f"file:{shown}", "--task", "shenzhen", "--seed", "0", "--classification.lr", "1e-4"),
            ("pretrain", "--init", f"file:{whole}", "--dataset", "chestxray14", "--pretraining.max_epochs", "1",
             "--pretraining.image_size", "32"),
            ("finetune", "--init", f"file:{whole.replace('token', 'tokn')}x@resnet18", "--task", "shenzhen"),
            ("finetune", "--init", f"file:{whole}", "--task", "nowhere"),
            ("finetune", "--init", "random", "--benchmark.inits", f"[file:{whole}", "--task", "shenzhen"),
        ):  # fmt: skip
            failed = "nowhere" in "".join(line) or "tokn" in "".join(line) or "[" in "".join(line)
            code, more = workspace.run(top, root, *words, *line)
            assert (code != 0) == failed, more
            said += more
        assert Handler.given == 1  # the others found it on disk, but for the one that was refused
    assert [form for form in FORMS if form in said] == []
    assert shown in said
    assert hits(root) == []
    with sqlite3.connect(root / "mlflow.db") as database:
        names = [name for (name,) in database.execute("SELECT name FROM runs")]
    assert any(name.startswith(f"file:{shown}@") for name in names)


@pytest.mark.slow
def test_a_whole_benchmark_with_a_secret_address_leaves_it_nowhere(tmp_path: Path, top: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    workspace.make(root, top, "shenzhen")
    said = ""
    with served(tmp_path) as (whole, shown):
        inits = f"[random, 'file:{whole}']"
        options = (
            "--benchmark.inits", inits, "--benchmark.tasks", "[shenzhen]", "--benchmark.seeds", "[0, 1, 2]",
            "--classification.max_epochs", "1", "--comparison.reference", "random", "--comparison.resamples", "0",
        )  # fmt: skip
        tuning = (
            "--tuning.trials", "1", "--tuning.startup", "1", "--tuning.finalists", "1", "--tuning.finalist_seeds",
            "[1001]",
        )  # fmt: skip
        for line in (
            ("benchmark", *options, "--dry-run"),
            ("benchmark", *options),
            ("status", *options),
            ("inits", *options),
            ("tune", "--init", f"file:{whole}", "--task", "shenzhen", *options, *tuning),
            ("compare", *options),
            ("show", *options),
            ("promote", *options),
            ("audit", *options, "--against", f"file:{whole}"),
            ("sync",),
        ):
            code, more = workspace.run(top, root, "--verbose", *line)
            assert code == 0 or line[0] in ("promote", "audit"), f"{line[0]}: {more}"
            assert "Traceback" not in more, more
            assert [form for form in FORMS if form in more] == [], line[0]
            said += more
    assert Handler.given == 1
    assert shown in said
    own_text = {f"{path}: SECRET" for path in root.glob("mlruns/*/models/*/artifacts/code/**/*") if path.is_file()}
    assert [
        hit for hit in hits(root) if hit not in own_text
    ] == []  # this program's own text, beside a model, has the word
    assert shown in (root / "data/results/report/index.html").read_text()
    with sqlite3.connect(root / "mlflow.db") as database:
        experiments = {name for (name,) in database.execute("SELECT name FROM experiments")}
    assert {"medtransfer/shenzhen", "medtransfer/tuning", "medtransfer/comparison"} <= experiments
