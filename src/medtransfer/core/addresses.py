"""Addresses that cannot be printed with what is secret in them: user, password, and the values of a query.

An `Address` is the text that may be shown. The whole address stays in the memory of this process and comes back by
`Address.whole`, for the library that asks for it and for nobody else. What is shown is the same whatever the secret, so
that it names a thing across tokens that expire.
"""

from __future__ import annotations

import io
import re
import urllib.parse
from typing import TextIO

HIDDEN = "***"
SHOWN = {
    "alt", "application_name", "charset", "connect_timeout", "dbname", "dl", "download", "export", "file", "filename",
    "format", "host", "id", "name", "options", "path", "port", "raw", "ref", "rev", "revision", "sslmode",
    "target_session_attrs", "timeout", "user", "v", "version", "versionid",
}  # fmt: skip
"""names in a query whose values are no secret; any other value may be one, as in every presigned address"""
PERSONAL = ("http", "https", "s3", "ftp", "ftps")
"""schemes whose user may be a token"""
LEAST = 5
"""characters of a secret that is looked for in other texts: shorter ones are found everywhere"""
TOKEN = 12
"""characters of a user beside a password that may be a token"""

_whole: dict[str, str] = {}
"""shown -> the whole address, as it was given last"""
_secrets: set[str] = set()
"""parts of addresses of this process that nothing may print"""

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>`]+")
_ROUTE = re.compile(
    r"/(?:experiments/\d+/runs|models/[\w.%-]+|compare-runs)\?(?:(?:runs|experiments)=[0-9A-Fa-f%]*&)*"
    r"(?:viewStateShareKey=medtransfer&)?"
    r"workflowType=machine_learning"
)
"""behind a # of MLflow's address: one of its pages, which a person must be able to open"""
_FIELD = re.compile(r"(?i)\b((?:ssl)?password|passwd|pwd|secret|token)(\s*=\s*)('[^']*'|[^\s&,;'\")]+)")


class Address(str):
    """An address without what is secret in it; `whole` is the one to ask."""

    __slots__ = ()

    def __reduce__(self) -> tuple[type[Address], tuple[str]]:
        """Lets another process of ours, which gets it through a pipe, have the whole address, too."""
        return Address, (self.whole,)

    def __new__(cls, text: str) -> Address:
        """Takes an address as a person wrote it; a path or any other text without `://` stays as it is."""
        shown, secrets = _split(text)
        if shown != text:
            _whole[shown] = text
            hide(*secrets)
        return super().__new__(cls, shown)

    @property
    def whole(self) -> str:
        """Is the address as it was given in this process; where it was given without its secrets, that."""
        return _whole.get(str(self), str(self))


def hide(*secrets: str) -> None:
    """Takes texts out of all that is printed from now on; short ones and plain numbers would be found everywhere."""
    forms = {form for secret in secrets for form in _forms(secret)}
    _secrets.update(form for form in forms if len(form) >= LEAST and not form.isdigit())


def holds_secret(text: str) -> bool:
    """Says whether a text holds an address with something that may not be shown."""
    return any(_split(found)[0] != found for found in _ADDRESS.findall(text))


def _split(text: str) -> tuple[str, list[str]]:
    """Returns what may be shown of an address, and its secrets."""
    scheme, mark, rest = text.partition("://")
    if not mark or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return text, []
    base, hash_mark, route = text.partition("#")
    if hash_mark and _ROUTE.fullmatch(route):
        shown, secrets = _split(base)
        return f"{shown}#{route}", secrets
    personal = scheme.partition("+")[0].lower() in PERSONAL
    place, fragment_mark, fragment = (rest, "", "") if scheme == "s3" else rest.partition("#")  # an S3 key as it is
    place, _, query = (place, "", "") if scheme == "s3" else place.partition("?")
    host, slash, path = place.partition("/")
    if "@" in rest and "@" not in host and not re.fullmatch(r"(\[[^]]*\]|[^:]*)(:\d*)?", host):
        # A password with an unescaped / or ? or #: all up to the last @ of the address is user and password.
        given, _, rest = rest.rpartition("@")
        user, _, password = given.partition(":")
        shown, secrets = _split(f"{scheme}://{rest}")
        return (shown if personal else _with_user(user, shown)), [*secrets, password]
    given, _, host = host.rpartition("@")
    user, _, password = given.partition(":")
    kept = [part for part in query.split("&") if part.partition("=")[0].lower() in SHOWN]
    left_out = [part.partition("=")[2] or part for part in query.split("&") if part not in kept]
    secrets = [password, fragment, *left_out]
    if personal and (not password or len(user) >= TOKEN):
        secrets.append(user)
    shown = f"{scheme}://{host}{slash}{path}" + ("?" + "&".join(kept) if kept else "")
    if not (password or fragment_mark or (query and left_out) or (personal and user)):
        return text, []
    return (shown if personal or not user else _with_user(user, shown)), secrets


def _with_user(user: str, shown: str) -> str:
    """Gives a database's address its user back, who is no secret."""
    return shown.replace("://", f"://{user}@", 1)


def _forms(secret: str) -> set[str]:
    """Lists how a secret may stand in a text: as given, decoded and encoded."""
    plain = urllib.parse.unquote(secret)
    return {
        secret,
        plain,
        urllib.parse.quote(plain, safe=""),
        urllib.parse.quote(plain),
        urllib.parse.quote_plus(plain),
    }


def scrub(text: object) -> str:
    """Takes the secrets of addresses out of any text, such as a library's own message."""
    words = str(text)
    for secret in sorted(_secrets, key=len, reverse=True):
        words = words.replace(secret, HIDDEN)
    words = _ADDRESS.sub(lambda found: _split(found[0])[0], words)
    return _FIELD.sub(rf"\1\2{HIDDEN}", words)


class Scrubbed(io.TextIOBase):
    """A stream of text that writes to another one, without the secrets of addresses."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Writes a text."""
        self.stream.write(scrub(text))
        return len(text)

    def flush(self) -> None:
        """Flushes the stream behind."""
        self.stream.flush()

    def isatty(self) -> bool:
        """Says whether a person looks at it."""
        return self.stream.isatty()

    def fileno(self) -> int:
        """Is the number of the file behind."""
        return self.stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # the base class has it as a variable
        """Is the encoding of the stream behind."""
        return self.stream.encoding
