"""Asks a model hub, through huggingface_hub: its cache, its token, its offline mode, and HF_ENDPOINT's server.

What its exceptions mean for a user is said in one place here. Tokens stay in that library: what it prints and what is
made of its errors goes through `addresses.scrub`.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from medtransfer.core import extras, files
from medtransfer.core.addresses import hide, scrub
from medtransfer.core.errors import UserError, one_line, some
from medtransfer.weights.hub_names import HubFile

log = logging.getLogger("medtransfer")


class AwayError(UserError):
    """The hub was not reached, and the cache does not hold what is asked for."""


TOKEN = "set HF_TOKEN to a token of yours, or say `hf auth login`"


@functools.cache
def _hub() -> ModuleType:
    """Imports the library, half a second, whose log goes through `scrub` from then on.

    Raises:
        UserError: it is not installed.
    """
    extras.need("train", "a name of the Hugging Face hub")
    import huggingface_hub.constants
    import huggingface_hub.errors

    asking = map(logging.getLogger, ("httpx2", "httpcore2.http11", "httpcore2.http2"))
    for teller in (*logging.getLogger("huggingface_hub").handlers, *asking):
        teller.addFilter(_scrubbed)
    return huggingface_hub


def _scrubbed(record: logging.LogRecord) -> bool:
    record.msg, record.args = scrub(record.getMessage()), ()
    return True


def wanted() -> bool:
    """Says whether a file of the hub is asked for better by the library: a token, or another server, is set."""
    return bool(os.environ.get("HF_ENDPOINT")) or _hub().get_token() is not None


def page(repo: str) -> str:
    """Names the page of a repository, where a person reads and accepts."""
    return f"{_hub().constants.ENDPOINT}/{repo}"


def resolve(spec: HubFile) -> str:
    """Finds the commit that a revision is now; where the hub cannot be reached, the one in the library's cache.

    Raises:
        UserError: neither knows it.
    """
    with _explained(spec):
        commit: str = _hub().HfApi().resolve_revision(spec.repo, revision=spec.revision or None).resolved
        return commit


def moved(spec: HubFile) -> str:
    """Asks what commit a revision is now; empty where the hub does not say."""
    with contextlib.suppress(UserError), _explained(spec):
        return _hub().HfApi().model_info(spec.repo, revision=spec.revision or None).sha or ""
    return ""


def listing(spec: HubFile) -> tuple[str, ...]:
    """Lists the files of a repository at a commit; where the hub cannot be reached, those in the library's cache."""
    with _explained(spec):
        try:
            siblings = _hub().HfApi().model_info(spec.repo, revision=spec.revision).siblings or ()
            return tuple(one.rfilename for one in siblings)
        except Exception as error:
            if not _away(error):
                raise
            folder = Path(_hub().snapshot_download(spec.repo, revision=spec.revision, local_files_only=True))
            return tuple(sorted(str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file()))


def on_disk(spec: HubFile) -> Path | None:
    """Finds a file in the library's cache; None where it is not."""
    found = _hub().try_to_load_from_cache(spec.repo, spec.file, revision=spec.revision or None)
    return Path(found) if isinstance(found, str) else None


def small(spec: HubFile, name: str) -> Path | None:
    """Brings a small file that a repository may have, such as its card; None: it has none.

    Raises:
        UserError: the hub does not let it be read, or cannot be reached.
    """
    known = _hub().try_to_load_from_cache(spec.repo, name, revision=spec.revision)
    if known is not None:
        return Path(known) if isinstance(known, str) else None
    with _explained(replace(spec, file=name)):
        with contextlib.suppress(_hub().errors.RemoteEntryNotFoundError):
            _hub().get_hf_file_metadata(_hub().hf_hub_url(spec.repo, name, revision=spec.revision))  # fails at once
        try:
            return Path(
                _hub().hf_hub_download(spec.repo, name, revision=spec.revision)
            )  # notes in the cache what is not
        except _hub().errors.RemoteEntryNotFoundError:
            return None


def stated(spec: HubFile) -> str:
    """Asks for the SHA-256 that the hub states of a large file, which also shows who may read it; may be empty.

    Raises:
        UserError: the file is not there, or not for whoever asks.
    """
    with _explained(spec):
        url = _hub().hf_hub_url(spec.repo, spec.file, revision=spec.revision or None)
        tag = _hub().get_hf_file_metadata(url).etag or ""
        return tag if re.fullmatch("[0-9a-f]{64}", tag) else ""


def state(spec: HubFile) -> tuple[Literal["ok", "gone", "asks for login", "unreachable"], str]:
    """Asks whether a file can be had, and says why not."""
    errors = _hub().errors
    try:
        stated(spec)
    except UserError as error:
        cause = error.__cause__
        if isinstance(cause, errors.GatedRepoError):
            return "asks for login", "gated"
        status = cause.response.status_code if isinstance(cause, errors.HfHubHTTPError) else 0
        gone = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError)
        if isinstance(cause, (*gone, errors.DisabledRepoError)):
            return "gone", f"{status} {type(cause).__name__.removesuffix('Error')}"
        return ("asks for login" if status in (401, 403) else "unreachable"), str(status or type(cause).__name__)
    return "ok", ""


def fetch(spec: HubFile, expected: str, what: str) -> tuple[Path, str]:
    """Brings a file into the library's cache and checks it; returns its path and sha256.

    Args:
        spec: of the file.
        expected: sha256, or its first digits; empty: what the hub states.
        what: for whom, the first words of messages.

    Raises:
        UserError: the file cannot be had, or is not the expected one.
    """
    path, came = on_disk(spec), False
    if path is None:
        by_hub = stated(spec)  # asked first: it fails at once where the hub is away
        expected = expected or by_hub
        log.info("%s: downloading %s", what, spec.address)
        with _explained(spec):
            path, came = Path(_hub().hf_hub_download(spec.repo, spec.file, revision=spec.revision or None)), True
    found = files.sha256(path)
    if expected and not found.startswith(expected):
        if came:
            path.resolve().unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        done = "what came was removed" if came else f"delete {path.resolve()} to get it again"
        raise UserError(f"{what}: {spec.address} is not the file: expected sha256 {expected}, found {found}; {done}")
    return path, found


@contextlib.contextmanager
def _explained(spec: HubFile) -> Iterator[None]:
    """Lets a failure of the library be said in words that tell what to do."""
    errors = _hub().errors
    import httpx2  # what huggingface_hub asks with

    hide(os.environ.get("HF_TOKEN", ""), _hub().get_token() or "")
    known = (OSError, ValueError, RuntimeError, httpx2.HTTPError, errors.EntryNotFoundError)
    try:
        yield
    except (*known, errors.RevisionResolutionError) as error:
        away = isinstance(error, errors.LocalEntryNotFoundError | errors.RevisionResolutionError) or _away(error)
        kind = AwayError if away else UserError
        raise kind(f"hf:{spec.repo}: {scrub(_words(error, spec))}") from error


def _away(error: BaseException) -> bool:
    """Says whether the hub was not reached, or is down."""
    import httpx2

    errors = _hub().errors
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 0
    return isinstance(error, errors.OfflineModeIsEnabled | httpx2.TransportError) or status >= 500


def _words(error: BaseException, spec: HubFile) -> str:
    errors, where = _hub().errors, page(spec.repo)
    if isinstance(error, errors.LocalEntryNotFoundError | errors.RevisionResolutionError):
        return _offline(error.__cause__, spec)
    if isinstance(error, errors.GatedRepoError):
        if _hub().get_token() is None:
            return f"the repository is gated: open {where}, accept its conditions, then {TOKEN}"
        return (
            f"the repository is gated, and whoever the token is of was not let in: open {where} as that user, accept "
            "its conditions, wait where its owners decide, then give the same command"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        if _hub().get_token() is None:
            return f"looked for {where}, found none; if it is a private repository, {TOKEN}"
        return f"looked for {where}, found none that the token opens; check its name, and whose token it is"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{where} has no revision {spec.revision}{_near_revision(spec)}"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"{where} has no file {spec.file} at {spec.revision or 'main'}{_near_file(spec)}"
    if _away(error):
        return _offline(error, spec)
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return f"{where} does not let it be read ({status}); the token may have expired: {TOKEN}"
        return f"the hub says {status} for {where}; try again later"
    return f"could not be had from {where}: {one_line(error) if isinstance(error, Exception) else type(error)}"


def _offline(error: BaseException | None, spec: HubFile) -> str:
    constants, errors = _hub().constants, _hub().errors
    what = spec.file or "the repository"
    place = f"looked for {what} in the cache {constants.HF_HUB_CACHE}, found none, and "
    machine = f"with a network, `medtransfer weights '{spec.name}'` fills the cache, which may then be copied here"
    if constants.HF_HUB_OFFLINE or isinstance(error, errors.OfflineModeIsEnabled):
        return f"{place}HF_HUB_OFFLINE keeps the hub from being asked: unset it; {machine}"
    if isinstance(error, errors.HfHubHTTPError):
        return f"{place}the hub {constants.ENDPOINT} says {error.response.status_code}: try again later"
    reason = f" ({type(error).__name__})" if error else ""
    return f"{place}the hub {constants.ENDPOINT} cannot be reached{reason}: {machine}"


def _near_file(spec: HubFile) -> str:
    with contextlib.suppress(Exception):  # a hint, on the way to an error
        return near(spec.file, _hub().HfApi().list_repo_files(spec.repo, revision=spec.revision or None))
    return ""


def _near_revision(spec: HubFile) -> str:
    with contextlib.suppress(Exception):  # likewise
        refs: Any = _hub().HfApi().list_repo_refs(spec.repo)
        return near(spec.revision, [ref.name for ref in (*refs.branches, *refs.tags)])
    return ""


def near(name: str, there: Sequence[str]) -> str:
    """Names, behind a message, what is there that looks like a name that is not."""
    found = difflib.get_close_matches(name, there, n=3)
    return f"; near names: {', '.join(found)}" if found else f"; it has {some(there)}" if there else ""
