"""Downloads that end whole and checked; one that was interrupted goes on where it stopped, in any process."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import urllib3
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from medtransfer.core import files, objectstore
from medtransfer.core.addresses import Address
from medtransfer.core.errors import UserError

log = logging.getLogger("medtransfer")

LOCK_FILE = "downloads.lock.json"
"""at the repository's top, in git: name of a file whose publisher gives no checksum -> its sha256; name of a file on a
hub -> its address with the commit"""
TIMEOUT = (15.0, 60.0)
"""seconds to connect, and between two pieces"""
ATTEMPTS = 5
"""in a row that bring nothing new"""
OFFLINE_ATTEMPTS = 2
"""in a row while there is no network"""
BACKOFF = 1.0
"""seconds before the second attempt, doubled for each further one"""
LONGEST_WAIT = 120.0
"""seconds that a server may ask to wait before another attempt"""
PIECE = 1 << 18

Show = Callable[[int, int | None], None]
"""told how many bytes are there, and of how many"""


class _AgainError(Exception):
    """What another attempt may mend: the reason, and the seconds to wait that the server asks for."""


class _OfflineError(_AgainError):
    """What a few more seconds hardly mend: there is no network."""


def download(url: str, target: Path, *, sha256: str = "", md5: str = "", size: int | None = None, what: str) -> str:
    """Brings a file to `target`, unless it is there already, and checks it; returns its sha256.

    Without a whole hash from the caller, the file is also held to what its server states of it (`objectstore.stated`).

    Args:
        url: http, https or s3 (`s3://bucket/key`, see `objectstore.get`).
        target: beside it, `.part` holds what came so far and `.part.json` what it is a part of.
        sha256: expected, if known, or its first digits, 6 or more.
        md5: likewise.
        size: expected number of bytes, if known.
        what: for whom, the first words of messages.

    Raises:
        UserError: the file cannot be had, is not the expected one, or does not fit on the disk.
    """
    expected = {"size": "" if size is None else str(size), "sha256": sha256.lower(), "md5": md5.lower()}
    job = _Job(Address(url), target, expected, what)
    if urllib.parse.urlsplit(url).scheme not in ("http", "https", "s3"):
        raise job.refuse("only http, https and s3 are downloaded")
    for kind, digits in objectstore.DIGITS.items():
        if not re.fullmatch(f"([0-9a-f]{{6,{digits}}})?", expected[kind]):
            raise job.refuse(f"{kind} must be 6 to {digits} hexadecimal digits, got {expected[kind]!r}")
    try:
        lock = target.with_name(f".{target.name}.lock")
        with files.lock(lock, wait=False) as alone:
            if alone:
                return job.run()
        log.info("%s: another process is downloading %s, waiting for it", what, target.name)
        with files.lock(lock):
            return job.run()
    except OSError as error:
        raise job.refuse(f"cannot write to {target.parent}: {error.strerror or error}") from error


def remember(lock_file: Path, name: str, sha256: str, where: Path | str) -> None:
    """Notes the hash of a file at its first download and holds later ones to it.

    Raises:
        UserError: the file is another one than at its first download, or the lock file cannot be read.
    """
    with files.lock(lock_file.with_name(f".{lock_file.name}.lock")):
        noted = _noted(lock_file)
        if name not in noted:
            files.write_text(lock_file, json.dumps({**noted, name: sha256}, indent=1, sort_keys=True) + "\n")
            log.info("noted the sha256 of %s in %s: commit that file", name, lock_file.name)
        elif noted[name] != sha256:
            raise UserError(
                f"{where} is not the file of the first download: expected sha256 {noted[name]} ({lock_file.name}), "
                f"found {sha256}. To get it again, delete it; to accept a file that its publisher changed, take the "
                f"line {name!r} out of {lock_file}; then run the same command"
            )


def pin(lock_file: Path, name: str, address: str) -> bool:
    """Notes what a name stands for on a hub where it was not noted yet; says whether it was not.

    Raises:
        UserError: the lock file cannot be read.
    """
    with files.lock(lock_file.with_name(f".{lock_file.name}.lock")):
        noted = _noted(lock_file)
        if name in noted:
            return False
        files.write_text(lock_file, json.dumps({**noted, name: address}, indent=1, sort_keys=True) + "\n")
    log.info("noted what %s is in %s: commit that file", name, lock_file.name)
    return True


def known(lock_file: Path, name: str) -> str:
    """Looks up what was noted of a file at its first download, its sha256 or its address; empty where nothing was.

    Raises:
        UserError: the lock file cannot be read.
    """
    return _noted(lock_file).get(name, "")


def _noted(lock_file: Path) -> dict[str, str]:
    try:
        return dict(json.loads(lock_file.read_text())) if lock_file.is_file() else {}
    except (ValueError, TypeError) as error:
        raise UserError(f"{lock_file} is not JSON of names ({error}); mend it or get it from git again") from error


@dataclass(frozen=True)
class _Job:
    url: Address
    target: Path
    expected: Mapping[str, str]
    """size, sha256 and md5, empty where they are not known"""
    what: str

    @property
    def part(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def notes(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part.json")

    def have(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def drop(self) -> None:
        self.part.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)

    def refuse(self, reason: str) -> UserError:
        have = self.resumable()[0]
        kept = f"; the {have} bytes so far are kept, the same command goes on from there" if have else ""
        hint = f"Or fetch it on a machine with a network and put it at {self.target}"
        return UserError(f"{self.what}: could not download {self.url} ({reason}){kept}. {hint}")

    def run(self) -> str:
        if self.target.is_file():
            found, wrong = self.check(self.target, {})
            if wrong:  # perhaps put there by hand, so not removed
                raise UserError(f"{self.what}: {self.target} is not {self.url}: {wrong}. Delete it to get it again")
            return found
        log.info("%s: downloading %s", self.what, self.url)
        with _progress(self.target.name) as show:
            self.insist(show)
        found, wrong = self.check(self.part, self.stated())
        if wrong:
            self.drop()
            raise self.refuse(f"{wrong}; what came was removed")
        with open(self.part, "rb") as whole:
            os.fsync(whole.fileno())
        os.replace(self.part, self.target)
        self.drop()
        return found

    def stated(self) -> Mapping[str, str]:
        """Returns what the server stated of the version that the part is of; empty where our own hash is whole."""
        whole = any(len(self.expected[kind]) == digits for kind, digits in objectstore.DIGITS.items())
        return {} if whole else self.noted().get("stated", {})

    def check(self, path: Path, stated: Mapping[str, str]) -> tuple[str, str]:
        """Returns a file's sha256 and what of it is not as expected or as its server stated."""
        claims = [(kind, value, "") for kind, value in self.expected.items() if value]
        claims += [(kind, value, " (stated by the server)") for kind, value in stated.items()]
        found = {"sha256": files.sha256(path), "size": str(path.stat().st_size)}
        if any(kind == "md5" for kind, *_ in claims):
            with open(path, "rb") as stream:
                found["md5"] = hashlib.file_digest(stream, "md5").hexdigest()
        wrong = []
        for kind, value, by in claims:
            short = len(value) < objectstore.DIGITS.get(kind, 0)
            if value != (found[kind][: len(value)] if short else found[kind]):
                wrong.append(f"expected {kind} {value}{'...' if short else ''}{by}, found {found[kind]}")
        return found["sha256"], "; ".join(wrong)

    def insist(self, show: Show) -> None:
        """Makes attempts until the part is whole or several in a row brought nothing new."""
        failures, most = 0, (begun := self.have())
        while True:
            try:
                return self.attempt(show)
            except _AgainError as again:
                reason, asked = again.args
                failures, most = 1 if self.have() > most else failures + 1, max(most, self.have())
                if asked:
                    reason += f", and to wait {asked:.0f} s"
                offline = isinstance(again, _OfflineError) and most == begun  # a network that was there may come back
                if failures >= (OFFLINE_ATTEMPTS if offline else ATTEMPTS) or asked > LONGEST_WAIT:
                    if not self.resumable()[0]:
                        self.drop()
                    raise self.refuse(reason) from again
                wait = max(BACKOFF * 2 ** (failures - 1), asked)
                log.warning("%s: %s; trying again in %.0f s", self.what, reason, wait)
                time.sleep(wait)

    def attempt(self, show: Show) -> None:
        have, validator = self.resumable()
        headers = {"Accept-Encoding": "identity"}  # no compression on the way: it changes from answer to answer
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": validator}
        try:
            with self.ask(headers) as answer:
                if answer.status_code == 416 and answer.headers.get("Content-Range") == f"bytes */{have}":
                    return  # a process died between the last byte and the rename
                self.write(answer, self.start(answer, have, validator), show)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise self.failure(error) from error

    def ask(self, headers: Mapping[str, str]) -> requests.Response:
        if urllib.parse.urlsplit(self.url).scheme == "s3":
            return objectstore.get(self.url.whole, headers=headers, timeout=TIMEOUT)
        return requests.get(self.url.whole, headers=headers, stream=True, timeout=TIMEOUT)

    def failure(self, error: Exception) -> Exception:
        """Says in our words why no answer came, or not all of it."""
        host = urllib.parse.urlsplit(self.url).hostname or ""
        # The text of other errors may hold the whole address, with what is secret in it.
        reason = str(error) if isinstance(error, objectstore.StoreError) else f"{type(error).__name__} with {host}"
        if _offline(error, host):
            return _OfflineError(f"{reason}; no such name, or no network", 0.0)
        passing = (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError)
        return _AgainError(reason, 0.0) if isinstance(error, passing) else self.refuse(reason)

    def noted(self) -> dict[str, Any]:
        """Reads what was noted of the part: address, validator, what the server stated; empty if it is not of ours."""
        with contextlib.suppress(OSError, ValueError):
            notes = json.loads(self.notes.read_text())
            if isinstance(notes, dict) and notes.get("url") == self.url:
                return notes
        return {}

    def resumable(self) -> tuple[int, str]:
        """Says how many bytes are there and of which version of the file; 0 if that is not known."""
        validator = self.noted().get("validator", "")
        return (self.have(), validator) if validator else (0, "")

    def start(self, answer: requests.Response, have: int, validator: str) -> int:
        """Reads from an answer's head at which byte its content starts."""
        status, headers = answer.status_code, answer.headers
        packed = headers.get("Content-Encoding", "").lower()
        if status in (200, 206) and packed not in ("", "identity"):
            raise self.refuse(f"the server sends the file packed by {packed}, though it was asked not to")
        same = _validator(answer) in ("", validator)  # a server may overlook If-Range
        noted = self.noted().get("stated", {})
        same = same and all(noted.get(kind, value) == value for kind, value in objectstore.stated(answer).items())
        if status == 206 and same and headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            return have
        if status in (206, 412, 416):
            self.drop()
            raise _AgainError("the file changed on the server, starting over", 0.0)
        if status in (408, 429) or status >= 500:
            asked = headers.get("Retry-After", "")  # its other form, a date, is not worth the code
            raise _AgainError(f"the server says {status} {answer.reason}", float(asked) if asked.isdigit() else 0.0)
        if status != 200:
            raise self.refuse(f"the server says {status} {answer.reason}")
        if headers.get("Content-Type", "").startswith("text/html") and self.target.suffix not in (".html", ".htm"):
            raise self.refuse("the server sends a web page, perhaps a login or a share page")
        return 0

    def write(self, answer: requests.Response, start: int, show: Show) -> None:
        partial, headers = answer.status_code == 206, answer.headers
        whole = headers.get("Content-Range", "").rpartition("/")[2] if partial else headers.get("Content-Length", "")
        total = int(whole) if whole.isdigit() else None
        if total is not None and self.expected["size"] not in ("", str(total)):
            raise self.refuse(f"the server offers {total} bytes, expected {self.expected['size']}")
        room = shutil.disk_usage(self.target.parent).free + (0 if start else self.have())
        if total is not None and total - start > room:
            raise self.refuse(f"{self.target.parent} has {room} bytes free, {total - start} are needed: make room")
        if not start:
            self.drop()  # first, so that notes never stand beside a part of another version
        self.note(answer)
        done = start
        with open(self.part, "ab") as out:
            # Bytes as they come: `iter_content` decodes, and loses the last piece when a connection breaks.
            while piece := answer.raw.read1(PIECE, decode_content=False):
                done += out.write(piece)
                show(done, total)
        if total is not None and done != total:
            raise _AgainError(f"got {done} of {total} bytes", 0.0)

    def note(self, answer: requests.Response) -> None:
        """Notes of which version the part is, and what the server states of it, beside what it stated before."""
        before = self.noted()
        validator, stated = _validator(answer) or before.get("validator", ""), before.get("stated", {})
        notes = {"url": self.url, "validator": validator, "stated": {**stated, **objectstore.stated(answer)}}
        files.write_text(self.notes, json.dumps(notes))


def _validator(answer: requests.Response) -> str:
    """Names the version of a file: by a strong ETag, which alone If-Range takes, else by its date."""
    tag = answer.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified", "")


def _offline(error: BaseException | None, host: str) -> bool:
    """Says whether a name could not be resolved or no network leads to a host."""
    while error and not isinstance(error, socket.gaierror):
        if isinstance(error, OSError) and error.errno == errno.ENETUNREACH:
            return not _routed(host)
        error = error.__cause__ or error.__context__
    return error is not None


def _routed(host: str) -> bool:
    """Says whether a network leads to any address of a host; connecting a datagram socket sends nothing.

    The error of the last address tried is told: without IPv6 an unreachable network, though IPv4 was refused.
    """
    with contextlib.suppress(OSError):
        for family, kind, protocol, _, address in socket.getaddrinfo(host, 80, type=socket.SOCK_DGRAM):
            with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
                probe.connect(address)
                return True
    return False


@contextlib.contextmanager
def _progress(name: str) -> Iterator[Show]:
    console = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn(name), *columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
