"""Names and addresses of files on a model hub: `hf:<owner>/<repo>[@<revision>][/<file>]`, timm's `hf-hub:` alike.

An address, `hf://<owner>/<repo>@<commit>/<file>`, has the same parts, all of them, and means one content for ever.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from medtransfer.core.addresses import scrub
from medtransfer.core.errors import UserError

PREFIX, TIMMS, SCHEME = "hf:", "hf-hub:", "hf://"

_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_FORM = re.compile(rf"({_PART}/{_PART})(?:@(refs/pr/\d+|refs/convert/[\w.-]+|[^@/\s]+))?(?:/([^/\s][^\s]*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_WEB = re.compile(r"https://huggingface\.co/([^/]+/[^/]+)/resolve/([^/]+)/([^?#]+)(?:\?[^#]*)?")


@dataclass(frozen=True)
class HubFile:
    """A file of a repository at a revision; empty parts are those that its name leaves out."""

    repo: str
    revision: str = ""
    file: str = ""

    @property
    def name(self) -> str:
        """Is the name as an init carries it."""
        return PREFIX + self._rest

    @property
    def address(self) -> str:
        """Is the address, where revision and file are known."""
        return SCHEME + self._rest

    @property
    def pinned(self) -> bool:
        """Says whether the revision is a commit, which nobody can move."""
        return bool(_COMMIT.fullmatch(self.revision))

    @property
    def _rest(self) -> str:
        return self.repo + (f"@{self.revision}" if self.revision else "") + (f"/{self.file}" if self.file else "")


def named(text: str) -> bool:
    """Says whether a text is a name of a hub's file; its address is one, too."""
    return text.startswith((PREFIX, TIMMS))


def addressed(text: str) -> bool:
    """Says whether a text is the address of a hub's file."""
    return text.startswith(SCHEME)


def read(text: str) -> HubFile:
    """Reads a name or an address.

    Raises:
        UserError: it has another form.
    """
    rest = next((text.removeprefix(start) for start in (SCHEME, TIMMS, PREFIX) if text.startswith(start)), text)
    match = _FORM.fullmatch(rest)
    if match is None or ".." in rest or "--" in match[1]:
        raise UserError(
            f"{scrub(text)!r} must be {PREFIX}<owner>/<repository>[@<revision>][/<file>], as in "
            f"{PREFIX}timm/resnet50.a1_in1k; a web address is given as file:https://..."
        )
    repo, revision, file = match.groups("")
    return HubFile(repo, revision, file)


def of_web(address: str) -> HubFile | None:
    """Reads the web address of a file on the hub; None for any other."""
    match = _WEB.fullmatch(address)
    return HubFile(*match.groups()) if match else None
