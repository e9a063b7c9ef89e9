"""The file of a pack: a ZIP archive of JSON in which every byte is hashed, and equal content is equal bytes.

`pack.json` says what is in it; `contributions/<digest>.json` is named by its own hash and never changed again;
`predictions/<contribution>/<task>/<run>.parquet` are hashed in their contribution, `certificates/<hash>.json` are of
re-runs. A hash finds damage and careless edits, not a forger, who computes it anew: for that there are certificates.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from medtransfer.core import files, schema
from medtransfer.core.errors import UserError, one_line
from medtransfer.core.identity import PROTOCOL_VERSION
from medtransfer.data.tasks import origins
from medtransfer.packs import columns
from medtransfer.packs.records import FORMAT, Certificate, Contribution, InitCard, Pack, TaskCard
from medtransfer.results.result import Result
from medtransfer.results.study import Ledger

INDEX = "pack.json"
TASK, RUN = r"[A-Za-z0-9][A-Za-z0-9._-]*", "[0-9a-f]{16,64}"
NAMES = re.compile(
    r"contributions/[0-9a-f]{64}\.json|certificates/[0-9a-f]{64}\.json|"
    rf"predictions/[0-9a-f]{{64}}/{TASK}/{RUN}\.parquet"
)
MOST_TEXT = 512 << 20
"""bytes of all JSON together, unpacked"""
MOST_TABLES = 64 << 30
"""bytes of all predictions together"""
CHUNK = 1 << 20
BEGINNING = (1980, 1, 1, 0, 0, 0)
"""time of every member: the earliest that a ZIP archive can say"""

Content = Callable[[], bytes]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A pack that was read, and the bytes that it came from."""

    path: Path
    pack: Pack
    texts: Mapping[str, bytes]
    """member -> its JSON, but for the index"""
    tables: tuple[str, ...]
    """members that are predictions"""

    def contents(self) -> dict[str, Content]:
        """Gives the bytes of every member but the index, as they stand in the file."""
        found: dict[str, Content] = {name: _of(text) for name, text in self.texts.items()}
        return found | {name: _in(self.path, name) for name in self.tables}


def read(path: Path) -> Pack:
    """Reads a pack, every hash checked.

    Raises:
        UserError: as in `open_pack`.
    """
    return open_pack(path).pack


def open_pack(path: Path) -> Opened:
    """Reads a pack and keeps what its members hold.

    Raises:
        UserError: it is absent, no pack, cut off, changed, of a newer format or another protocol version, unpacks to
            too much, or holds what a pack has not.
    """
    if not path.is_file():
        raise UserError(f"looked for the pack {path}, found no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(path, archive)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise UserError(
            f"{path} is no whole pack ({one_line(error)}): cut off, damaged, or another kind of file; get it again"
        ) from error


def write(target: Path, contents: Mapping[str, Content]) -> str:
    """Writes a pack, whole or not at all; returns its digest.

    Args:
        target: of the file.
        contents: member -> gives its bytes.
    """
    files.make_folder(target.parent)
    hashes: dict[str, str] = {}
    with files.replacing(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in sorted(contents):
            content = contents[name]()
            hashes[name] = hashlib.sha256(content).hexdigest()
            _put(archive, name, content)
        index = {"format": FORMAT, "members": hashes, "digest": digest(hashes)}
        _put(archive, INDEX, columns.canonical(index).encode())
    return str(index["digest"])


def digest(hashes: Mapping[str, str]) -> str:
    """Hashes the names and hashes of all members but the index."""
    lines = (f"{hashes[name]}  {name}\n" for name in sorted(hashes))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def of_contribution(contribution: Contribution, tables: Mapping[str, str]) -> tuple[str, bytes]:
    """Gives a contribution's digest and its JSON.

    Args:
        contribution: whose digest is not looked at.
        tables: digest of a run -> SHA-256 of its predictions.
    """
    plain = {
        field.name: getattr(contribution, field.name)
        for field in dataclasses.fields(contribution)
        if field.name not in ("digest", "results", "predictions")
    }
    whole = dataclasses.asdict(Plain(**plain, results=columns.write(contribution.results), predictions=dict(tables)))
    text = columns.canonical(whole).encode()
    return hashlib.sha256(text).hexdigest(), text


def of_certificate(certificate: Certificate) -> tuple[str, bytes]:
    """Gives a certificate's member and its JSON."""
    text = columns.canonical(dataclasses.asdict(certificate)).encode()
    return f"certificates/{hashlib.sha256(text).hexdigest()}.json", text


def table(contribution: str, task: str, run: str) -> str:
    """Names the member that holds a run's predictions."""
    return f"predictions/{contribution}/{task}/{run}.parquet"


@dataclass(frozen=True, kw_only=True)
class Plain:
    """A contribution as it stands in the file, see `Contribution`."""

    lab: str
    created: str
    protocol_version: int
    results: Mapping[str, Any]
    tasks: Mapping[str, TaskCard]
    inits: Mapping[str, InitCard]
    ledgers: tuple[Ledger, ...]
    params: Mapping[str, Any]
    environment: Mapping[str, str]
    predictions: Mapping[str, str]
    """digest of a run -> SHA-256 of its predictions"""


def _put(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    info = zipfile.ZipInfo(name, BEGINNING)
    info.create_system, info.external_attr = 3, 0o644 << 16  # else these tell the system that wrote it
    packed = name.endswith(".json")  # parquet is packed already
    info.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    archive.writestr(info, content, compresslevel=6 if packed else None)


def _of(content: bytes) -> Content:
    return lambda: content


def _in(path: Path, name: str) -> Content:
    def content() -> bytes:
        with zipfile.ZipFile(path) as archive:
            return archive.read(name)

    return content


def _read(path: Path, archive: zipfile.ZipFile) -> Opened:
    members = _members(path, archive)
    if INDEX not in members:
        raise UserError(f"{path} is no pack: looked for {INDEX} in it, found {len(members)} other files")
    hashes = _index(path, _json(path, INDEX, archive.read(INDEX)))
    absent, more = sorted(hashes.keys() - members), sorted(members - hashes.keys() - {INDEX})
    if absent or more:
        words = [*(f"{name} is missing" for name in absent[:3]), *(f"{name} is not listed" for name in more[:3])]
        raise UserError(f"{path} was changed: {'; '.join(words)}; get it again from whoever made it")
    texts: dict[str, bytes] = {}
    for name, wanted in hashes.items():
        found, content = _hashed(archive, name)
        if found != wanted:
            _changed(path, name, wanted, found)
        if name.endswith(".json"):
            texts[name] = content
    tables = tuple(name for name in hashes if name.endswith(".parquet"))
    return Opened(path=path, pack=_pack(path, texts, hashes), texts=texts, tables=tables)


def _members(path: Path, archive: zipfile.ZipFile) -> set[str]:
    """Lists the members, none of which may lead out of a folder, stand there twice or unpack to too much."""
    infos = archive.infolist()
    names = [info.filename for info in infos]
    for name in names:
        if name != INDEX and not NAMES.fullmatch(name):
            raise UserError(f"{path} holds {name!r}, which no pack of this format holds; nothing of it was unpacked")
    if len(set(names)) < len(names):
        raise UserError(f"{path} was changed: it holds {next(n for n in names if names.count(n) > 1)} twice")
    for kind, most in ((".json", MOST_TEXT), (".parquet", MOST_TABLES)):
        size = sum(info.file_size for info in infos if info.filename.endswith(kind))
        if size > most:
            raise UserError(
                f"{path} unpacks to {size / 2**20:,.0f} MB of {kind} files; a pack has at most {most / 2**20:,.0f}"
            )
    return set(names)


def _index(path: Path, index: Mapping[str, Any]) -> dict[str, str]:
    """Reads which members there are, with their hashes."""
    number = index.get("format")
    if isinstance(number, int) and number > FORMAT:
        raise UserError(f"{path} has format {number}, this version of medtransfer reads {FORMAT}: install a newer one")
    said = _convert(path, INDEX, index, Index)
    if said.format != FORMAT:
        raise UserError(f"{path} has format {said.format}, which no version of medtransfer writes")
    if digest(said.members) != said.digest:
        _changed(path, INDEX, said.digest, digest(said.members))
    return dict(said.members)


@dataclass(frozen=True, kw_only=True)
class Index:
    """What `pack.json` holds."""

    format: int
    members: Mapping[str, str]
    """name -> SHA-256"""
    digest: str
    """see `digest`"""


def _hashed(archive: zipfile.ZipFile, name: str) -> tuple[str, bytes]:
    """Hashes a member; keeps its bytes where it is JSON."""
    hashing, kept = hashlib.sha256(), list[bytes]()
    with archive.open(name) as stream:  # which ends at the size that was looked at
        while chunk := stream.read(CHUNK):
            hashing.update(chunk)
            kept += [chunk] if name.endswith(".json") else []
    return hashing.hexdigest(), b"".join(kept)


def _changed(path: Path, name: str, wanted: str, found: str) -> NoReturn:
    raise UserError(
        f"{path} was changed: {name} has the hash {found[:12]}, its pack says {wanted[:12]}; get it again from whoever "
        "made it"
    )


def _json(path: Path, name: str, content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content, parse_constant=_no_number)
        if not isinstance(found, dict):
            raise ValueError("no names and values")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: {name} is no JSON of a pack ({one_line(error)})") from error
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _convert(path: Path, name: str, tree: object, kind: type[T]) -> T:
    try:
        return schema.convert(tree, kind)
    except (UserError, RecursionError) as error:
        raise UserError(f"{path}: {name}: {error}") from error


def _pack(path: Path, texts: Mapping[str, bytes], hashes: Mapping[str, str]) -> Pack:
    contributions, certificates = list[Contribution](), list[Certificate]()
    for name, text in texts.items():
        stem = name.rpartition("/")[2].removesuffix(".json")
        if hashes[name] != stem:
            _changed(path, name, stem, hashes[name])
        if name.startswith("contributions/"):
            contributions.append(_contribution(path, name, stem, _json(path, name, text), hashes))
        else:
            certificates.append(_convert(path, name, _json(path, name, text), Certificate))
    known = {one.digest for one in contributions}
    if not contributions:
        raise UserError(f"{path} holds no contribution")
    strangers = [one.contribution for one in certificates if one.contribution not in known]
    strangers += [name.split("/")[1] for name in hashes if name.startswith("predictions/")]
    if lost := [one for one in strangers if one not in known]:
        raise UserError(f"{path}: a certificate or predictions of {lost[0][:12]}, which is not in it")
    return Pack(
        contributions=tuple(sorted(contributions, key=lambda one: (one.created, one.lab, one.digest))),
        certificates=tuple(sorted(certificates, key=lambda one: (one.finished, one.by))),
        digest=digest(hashes),
    )


def _contribution(
    path: Path, name: str, own: str, tree: Mapping[str, Any], hashes: Mapping[str, str]
) -> Contribution:  # fmt: skip
    version = tree.get("protocol_version")
    if version != PROTOCOL_VERSION:
        raise UserError(
            f"{path}: the runs of {str(tree.get('lab'))[:60]} are of protocol version {version}, this version of "
            f"medtransfer trains and compares by {PROTOCOL_VERSION}: their numbers may not stand in one table. Use the "
            "version that made the pack, or have the runs trained again"
        )
    said = _convert(path, name, tree, Plain)
    try:
        results = _declared(columns.read(said.results, version), said)
    except UserError as error:
        raise UserError(f"{path}: {name}: {error}") from error
    found = {member: value for member, value in hashes.items() if member.startswith(f"predictions/{own}/")}
    wanted = {table(own, one.task, one.digest): said.predictions.get(one.digest) for one in results}
    wanted = {member: value for member, value in wanted.items() if value is not None}
    if found != wanted:
        odd = sorted(member for member in found.keys() | wanted.keys() if found.get(member) != wanted.get(member))
        raise UserError(f"{path} was changed: {odd[0]} is not what the contribution of {said.lab} says it is")
    parts = {one.digest: {"predictions.parquet": said.predictions[one.digest]} for one in results
             if one.digest in said.predictions}  # fmt: skip
    fields = {field.name: getattr(said, field.name) for field in dataclasses.fields(said)}
    fields |= {
        "digest": own,
        "results": tuple(dataclasses.replace(one, parts=parts.get(one.digest, {})) for one in results),
        "predictions": bool(said.predictions),
    }
    return Contribution(**fields)


def _declared(results: Sequence[Result], said: Plain) -> list[Result]:
    """Adds what is declared of tasks; refuses runs without a card, and runs that stand there twice."""
    for kind, names, cards in (
        ("task", [one.task for one in results], said.tasks), ("init", [one.init for one in results], said.inits)
    ):  # fmt: skip
        if lacking := [name for name in dict.fromkeys(names) if name not in cards]:
            raise UserError(f"nothing is said of the {kind} {lacking[0]}")
    for one in results:  # both become names of files
        if not re.fullmatch(TASK, one.task) or not re.fullmatch(RUN, one.digest):
            raise UserError(f"{one.task[:60]!r}, {one.digest[:60]!r} are no names of a task and a run")
    if len({one.digest for one in results}) < len(results):
        raise UserError("a run stands there twice")
    derived = {one.dataset: said.tasks[one.task].derived_from for one in results}
    images = {dataset: tuple(sorted(origins(dataset, derived))) for dataset in derived}
    return [
        dataclasses.replace(
            one, metric=said.tasks[one.task].metric, margin=said.tasks[one.task].margin, images=images[one.dataset]
        )
        for one in results
    ]
