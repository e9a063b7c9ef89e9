"""A model hub on this machine: the endpoints that huggingface_hub asks, and their faults.

A second port plays the store behind the hub, to which large files are redirected; it must never see a token.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

TOKEN = "hf_PLANTEDabcdefghijklmnop"
"""of the user whom gates let in"""
LARGE = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")


def commit_of(number: int) -> str:
    return hashlib.sha1(str(number).encode()).hexdigest()


@dataclass
class Repository:
    """What a repository holds, by commit."""

    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str]
    gated: bool = False
    private: bool = False

    def push(self, files: dict[str, bytes]) -> str:
        """Adds a commit and moves main to it."""
        name = commit_of(len(self.commits) + 100)
        self.commits[name] = files
        self.refs["main"] = name
        return name


@dataclass
class Hub:
    """What the hub holds, what it does next, and what it was asked."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    """content bytes after which each next answer of the store breaks off"""
    wrong: bool = False
    """the store sends other bytes than the hub states"""
    status: int = 0
    """answered to everything, where it is not 0"""
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """method, path and headers of each request, of the store those whose path begins with /store"""
    url: str = ""
    store: str = ""

    def add(self, repo: str, files: dict[str, bytes], **facts: Any) -> Repository:
        first = commit_of(len(self.repositories))
        made = Repository({first: files}, {"main": first, "v1": first}, **facts)
        self.repositories[repo] = made
        return made


def _etag(name: str, content: bytes) -> str:
    if name.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def fail(self, status: int, code: str, message: str = "", **headers: str) -> None:
        more = {"X_Error_Code": code} if code else {}
        self.answer(status, b"", X_Error_Message=message or code, **more, **headers)

    def tree(self, content: Any) -> None:
        self.answer(200, json.dumps(content).encode(), Content_Type="application/json")

    def do_HEAD(self) -> None:  # the handler's own names
        self.do_GET()

    def do_GET(self) -> None:
        path = urllib.parse.unquote(self.path.partition("?")[0])
        self.hub.asked.append((self.command, self.path, dict(self.headers)))
        if self.hub.status and not path.startswith("/store"):
            return self.answer(self.hub.status)
        if match := re.fullmatch(r"/store/([^/]+/[^/]+)/([0-9a-f]{40})/(.+)", path):
            return self.send_stored(self.hub.repositories[match[1]].commits[match[2]][match[3]])
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|refs)(?:/(.+))?)?", path)
        resolve = re.fullmatch(r"/([^/]+/[^/]+)/resolve/(refs/pr/\d+|[^/]+)/(.+)", path)
        match = api or resolve
        if match is None:
            return self.answer(404)
        return self.of_repository(match[1], api, resolve)

    def of_repository(self, name: str, api: re.Match[str] | None, resolve: re.Match[str] | None) -> None:
        known = self.hub.repositories.get(name)
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if given and given not in (TOKEN, "hf_OFSOMEONEELSE"):
            return self.fail(401, "", "Invalid credentials in Authorization header")
        if known is None or (known.private and given != TOKEN):
            return self.fail(404 if given else 401, "RepoNotFound", "Repository not found")
        if api and api[2] == "refs":
            branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in known.refs.items()]
            return self.tree({"branches": branches, "tags": [], "converts": []})
        revision = (resolve[2] if resolve else (api and api[3])) or "main"
        commit = known.refs.get(revision, revision)
        if commit not in known.commits:
            return self.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = known.commits[commit]
        if resolve is None:
            assert api is not None
            if api[2] == "tree":
                return self.tree([{"type": "file", "path": n, "size": len(c), "oid": "0"} for n, c in files.items()])
            siblings = [{"rfilename": n} for n in files]
            return self.tree({"id": name, "sha": commit, "gated": known.gated and "auto", "siblings": siblings})
        if known.gated and given != TOKEN:
            words = "Access is restricted" if given else "Access is restricted. You must be authenticated"
            return self.fail(403 if given else 401, "GatedRepo", words)
        file = resolve[3]
        if file not in files:
            return self.fail(404, "EntryNotFound", "Entry not found", X_Repo_Commit=commit)
        tag, size = _etag(file, files[file]), str(len(files[file]))
        if not file.endswith(LARGE):
            return self.answer(200, files[file], ETag=f'"{tag}"', X_Repo_Commit=commit)
        place = f"{self.hub.store}/store/{name}/{commit}/{urllib.parse.quote(file)}?X-Amz-Signature=SIGNED{tag[:9]}"
        return self.answer(302, X_Repo_Commit=commit, Location=place, X_Linked_Etag=f'"{tag}"', X_Linked_Size=size)

    def send_stored(self, content: bytes) -> None:
        if self.hub.wrong:
            content = bytes(byte ^ 255 for byte in content)
        start, status = 0, 200
        headers = {"ETag": '"store"', "Accept_Ranges": "bytes"}
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start, status = int(match[1]), 206
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = self.hub.cuts.pop(0) if self.hub.cuts and self.command == "GET" else None
        body = content[start:]
        if cut is None:
            self.answer(status, body, **headers)
            return
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body[:cut])
        self.wfile.flush()
        self.close_connection = True


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    """Runs the hub and its store while the block runs."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with contextlib.ExitStack() as stack:
        for place in ("url", "store"):
            server = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            stack.callback(server.shutdown)
            setattr(hub, place, f"http://127.0.0.1:{server.server_port}")
        yield hub


def point(patch: pytest.MonkeyPatch, url: str, home: Path) -> None:
    """Lets huggingface_hub of this process ask a hub, with an empty cache and no token."""
    from huggingface_hub import constants, file_download

    from medtransfer.weights import hub

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT"):
        patch.delenv(name, raising=False)
    patch.setattr(constants, "ENDPOINT", url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    patch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    patch.setattr(file_download, "time", SimpleNamespace(sleep=lambda _: None))  # between two pieces of a file
    hub._say_moved.cache_clear()


def environment(hub: Hub | None, home: Path, **more: str) -> dict[str, str]:
    """Makes the environment of a process that asks this hub: an empty token, a cache of its own."""
    drop = ("MLFLOW_RUN_ID", "HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_DEBUG")
    kept = {name: value for name, value in os.environ.items() if name not in drop}
    asked = {"HF_ENDPOINT": hub.url} if hub else {}
    return {**kept, "HF_HOME": str(home), "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", **asked, **more}


def run(top: Path, root: Path, environment: dict[str, str], *words: str) -> tuple[int, str]:
    """Runs a verb in a process of its own: (exit status, all that it printed)."""
    own = {"PYTHONPATH": str(top / "src"), "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db"}
    ended = subprocess.run(
        [sys.executable, "-m", "medtransfer", *words],
        cwd=root, env=environment | own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        timeout=300,
    )  # fmt: skip
    return ended.returncode, ended.stdout
