"""Names of initializations: `<init>[@<backbone>]`, `timm:<architecture>.<tag>`, `file:<path or address>[@<backbone>]`.

A backbone in the model registry is `registry:<registered model>/<alias or version>`, a file on a model hub
`hf:<owner>/<repo>[@<revision>][/<file>][@<backbone>]`. Any of them takes `+<dataset>`, once or more: continual
pre-training, made by the verb `pretrain`.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from medtransfer.core.addresses import Address, holds_secret
from medtransfer.core.errors import UserError
from medtransfer.params import Benchmark, OwnInit, Params
from medtransfer.weights import hub_names, timm_index, variants
from medtransfer.weights.hub_names import HubFile
from medtransfer.weights.records import Record, Source
from medtransfer.weights.zoo import RECORDS

REGISTRY = "registry:"
DATASETS = frozenset({"chestxray14", "chexpert", "drive", "montgomery", "rsna_pe", "shenzhen", "siim"})
"""those that a + may name behind a path, which may hold a + of its own"""
HEAD = 4
"""letters that a label keeps of where a chain starts: MLflow's tables cut names after ten or so"""
LONGEST = 200
"""letters of a file's name without its ending: file systems take 255, and temporary files add to them"""
_met: dict[str, Record] = {}
"""records of section `inits` that were parsed in this process: `seen` is asked by name alone"""


@dataclass(frozen=True, kw_only=True)
class Initialization:
    """A record bound to a backbone: what a run starts from."""

    record: Record
    backbone: str
    chain: tuple[str, ...] = ()
    """datasets that the weights are pre-trained on further, in this order"""

    @property
    def label(self) -> str:
        """Names the initialization for narrow places: what differs comes first, a chain's start is cut to its head."""
        kind, colon, rest = self.record.name.partition(":")
        bare = re.split(r"[/\\]", rest)[-1] if colon and kind in ("file", "registry", "hf") else rest or kind
        return "+".join((bare[:HEAD] if self.chain else bare, *self.chain))

    @property
    def canonical(self) -> str:
        """Names the initialization with its backbone resolved: tags, params and tables use it."""
        bare = self.record.name.startswith("timm:") or not self.backbone
        start = self.record.name if bare else f"{self.record.name}@{self.backbone}"
        return "+".join((start, *self.chain))

    @property
    def parent(self) -> Initialization:
        """Is what the last pre-training of the chain started from."""
        return dataclasses.replace(self, chain=self.chain[:-1])

    @property
    def slug(self) -> str:
        """Names it in `[A-Za-z0-9._-]`, for files; names with a colon get 8 digest characters, long ones 16."""
        name = self.record.name
        if ":" in name:
            kind, _, rest = name.partition(":")
            name = f"{kind}-{hashlib.sha256(rest.encode()).hexdigest()[:8]}"
        whole = "--".join(re.sub(r"[^A-Za-z0-9._-]", "_", part) for part in (name, self.backbone, *self.chain))
        if len(whole) <= LONGEST:
            return whole
        return f"{whole[: LONGEST - 18]}--{hashlib.sha256(whole.encode()).hexdigest()[:16]}"

    @property
    def source(self) -> Source | None:
        """Is the file that the record itself names for this backbone."""
        return self.record.sources.get(self.backbone)

    @property
    def padding(self) -> str:
        """Says what its pre-training padded as TensorFlow's SAME does: `""`, `pool` or `all`."""
        return self.record.padding

    @property
    def random(self) -> bool:
        """Says whether the weights are drawn anew for every seed."""
        return self.record.family == "random" and not self.chain

    @property
    def registered(self) -> bool:
        """Says whether the weights come from the model registry."""
        return self.record.name.startswith(REGISTRY)

    @property
    def local(self) -> str:
        """Is the path of a file of the user's own on this machine, or empty; `~` is the user's home."""
        url = self.source.url if self.source and self.record.family == "yours" else ""
        return "" if "://" in url or hub_names.named(url) else os.path.expanduser(url)


NONE = Initialization(record=Record(name="none", family="random"), backbone="")
"""what a run starts from that has no network; no name that a person writes"""


def parse(name: str, default_backbone: str, own: Mapping[str, OwnInit] | None = None) -> Initialization:
    """Reads the name of an initialization; whether timm knows the backbone is `check_backbone`'s question.

    Whether a dataset of a `+` exists is asked where it is prepared, because the user's own are found on disk.

    Args:
        name: as in `params.yaml` or on the command line.
        default_backbone: what a name without a backbone takes if its record has several.
        own: section `inits` of the parameters: records of the user's own.

    Raises:
        UserError: unknown init, a backbone the init does not exist for, or a dataset twice in a chain.
    """
    records = all_records(own or {})
    start, chain = _split_chain(name, records)
    if len(set(chain)) < len(chain) or any(not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", d) for d in chain):
        raise UserError(f"init {name!r}: each dataset behind a + must be named, and once, got {list(chain)}")
    return dataclasses.replace(_parse_start(start, default_backbone, records), chain=chain)


def all_records(own: Mapping[str, OwnInit]) -> dict[str, Record]:
    """Lists the records of all initializations that have a name of their own: the published, then the user's.

    Args:
        own: section `inits` of the parameters.

    Raises:
        UserError: one of the user's has the name of a published one, or one that no file can have.
    """
    theirs = {key: _own_record(key, entry) for key, entry in own.items()}
    _met.update(theirs)
    return RECORDS | theirs


def _split_chain(name: str, records: Collection[str]) -> tuple[str, tuple[str, ...]]:
    """Splits `<start>+<dataset>...`; the name of a record or of a file may hold a + of its own."""
    head, at, rest = name.partition("@")
    if name.startswith(("file:", REGISTRY)) or hub_names.named(name):
        parts = name.split("+")
        count = next(k for k in range(len(parts), 0, -1) if k == 1 or parts[k - 1] not in DATASETS)
    elif at or name.startswith("timm:"):
        start, *chain = rest.split("+") if at else name.split("+")
        return f"{head}@{start}" if at else start, tuple(chain)
    else:
        parts = name.split("+")
        count = next((k for k in range(len(parts), 0, -1) if "+".join(parts[:k]) in records), 1)
    return "+".join(parts[:count]), tuple(parts[count:])


def _parse_start(name: str, default_backbone: str, records: Mapping[str, Record]) -> Initialization:
    if name.startswith("file:"):
        return _parse_file(name, default_backbone)
    if name.startswith("timm:"):
        return _parse_timm(name)
    if hub_names.named(name):
        return _parse_hub(name, records)
    if name.startswith(REGISTRY) and registered(name) not in records:
        raise UserError(f"init {name} is not fetched: looked for it in the model registry at the start of the command")
    head, at, backbone = name.partition("@")
    if head not in records:
        near = _of_timm(head) or difflib.get_close_matches(head, records, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(
            f"unknown init {head!r}.{hint} `medtransfer inits` lists the {len(records)} that have a name; also "
            "timm:<architecture>.<tag>, file:<path or address> and hf:<owner>/<repo>"
        )
    return _bind(records[head], backbone if at else "", default_backbone)


def _of_timm(name: str) -> list[str]:
    """Gives a name of timm's as an init: an architecture with ImageNet's weights, or its tag."""
    if timm_index.is_architecture(name):
        return [f"imagenet@{name}"]
    return [f"timm:{name}"] if timm_index.pretrained(name) else []


def normal(backbone: str) -> str:
    """Spells a backbone's name as every other place does; a side of the input that is the published one is left out."""
    if ":" not in backbone or not timm_index.is_architecture(backbone):
        return backbone
    architecture, arguments = variants.split(backbone)
    plain = timm_index.find(architecture)
    if plain and arguments.get("img_size") == plain.input_size[-1]:
        del arguments["img_size"]
    return variants.spelled(architecture, arguments)


def _bind(record: Record, backbone: str, default: str) -> Initialization:
    """Finds the backbone; of a record with timm tags too, only timm can say which exist."""
    backbone, default = normal(backbone), normal(default)
    known = list(record.sources)
    only = known[0] if len(known) == 1 and not record.tags else ""
    chosen = backbone or only or default
    if known and not record.tags and chosen not in known:
        word = "backbone" if len(known) == 1 else "backbones"
        raise UserError(f"init {record.name} exists for the {word} {', '.join(known)} only, got {chosen!r}")
    return Initialization(record=record, backbone=chosen)


def _parse_timm(name: str) -> Initialization:
    tagged = name.removeprefix("timm:")
    architecture, dot, tag = tagged.partition(".")
    if not dot or not tag or "@" in tagged:
        raise UserError(f"init {name!r} must be timm:<architecture>.<tag>, as in timm:resnet50.a1_in1k")
    sources = {architecture: Source(tag=tagged)}
    record = Record(name=name, family="supervised", sources=sources, data="see its tag", method=f"timm's {tagged}")
    return Initialization(record=record, backbone=architecture)


def registered(name: str) -> str:
    """Takes `registry:<registered model>/<alias or version>` out of an init's name; empty for any other init.

    Raises:
        UserError: alias or version are missing.
    """
    if not name.startswith(REGISTRY):
        return ""
    start, _ = _split_chain(name, ())
    whole, at, backbone = start.rpartition("@")
    found = whole if at and timm_index.is_architecture(backbone) else start
    model, _, version = found.removeprefix(REGISTRY).partition("/")
    if not model or not version:
        raise UserError(f"init {name!r} must be {REGISTRY}<registered model>/<alias or version>, as in .../champion")
    return found


def on_hub(name: str) -> tuple[HubFile | None, str]:
    """Takes what is on a model hub out of an init's name, and the backbone if it names one; None for any other init.

    Raises:
        UserError: the name has another form.
    """
    if not hub_names.named(name):
        return None, ""
    start, _ = _split_chain(name, ())
    whole, at, backbone = start.rpartition("@")
    if at and timm_index.is_architecture(backbone):
        return hub_names.read(whole), normal(backbone)
    return hub_names.read(start), ""


def start_of(name: str, own: Mapping[str, OwnInit]) -> str:
    """Returns an init's name without backbone and chain, which may be that of an entry of `inits`.

    Args:
        name: of the init.
        own: section `inits` of the parameters.
    """
    return _split_chain(name, {*RECORDS, *own})[0].partition("@")[0]


def _parse_hub(name: str, records: Mapping[str, Record]) -> Initialization:
    """Finds what was described of a file on a hub, under its name with the backbone or without."""
    spec, backbone = on_hub(name)
    assert spec is not None, name
    found = records.get(f"{spec.name}@{backbone}") or records.get(spec.name)
    if found is None or (backbone and backbone not in found.sources):
        raise UserError(f"init {name} is not described: looked for it on the hub at the start of the command")
    return Initialization(record=dataclasses.replace(found, name=spec.name), backbone=next(iter(found.sources)))


def _parse_file(name: str, default_backbone: str) -> Initialization:
    """Splits `@<backbone>` off a file name only if what follows is a timm architecture."""
    path, backbone = _split_file(name)
    backbone = normal(backbone or default_backbone)
    record = Record(
        name=f"file:{path}",
        family="yours",
        sources={backbone: Source(url=path, nested=None, layout="auto")},
        data="not stated",
        method=f"read from {path}",
        licence="not stated",
    )
    return Initialization(record=record, backbone=backbone)


def _split_file(name: str) -> tuple[Address, str]:
    """Returns the path or address of a `file:` name without a chain, and its backbone if it names one."""
    path, at, backbone = name.removeprefix("file:").rpartition("@")
    if not at or not timm_index.is_architecture(backbone):  # a file name may hold an @, an address a password
        return Address(name.removeprefix("file:")), ""
    return Address(path), backbone


def hidden(name: str) -> str:
    """Returns an init's name without what is secret in its address, which this process goes on to know."""
    if not name.startswith("file:") or not holds_secret(name):
        return name
    start, chain = _split_chain(name, ())
    path, backbone = _split_file(start)
    return "+".join((f"file:{path}" + (f"@{backbone}" if backbone else ""), *chain))


def hide_all(params: Params) -> Params:
    """Takes what is secret in addresses out of the names of inits that parameters hold.

    Raises:
        UserError: two names differ in that alone, so that nothing could tell them apart.
    """
    benchmark, tuning, comparison = params.benchmark, params.tuning, params.comparison
    for names in (benchmark.inits, tuning.inits):
        shown = [hidden(name) for name in names]
        twice = sorted({name for name in shown if shown.count(name) > 1})
        if twice:
            raise UserError(
                f"{twice[0]} is named twice, with addresses that differ in what is kept secret alone (user, password, "
                "query): give each a name of its own under `inits` of params.yaml"
            )
    return dataclasses.replace(
        params,
        benchmark=dataclasses.replace(benchmark, inits=tuple(map(hidden, benchmark.inits))),
        tuning=dataclasses.replace(tuning, inits=tuple(map(hidden, tuning.inits))),
        comparison=dataclasses.replace(comparison, reference=hidden(comparison.reference)),
    )


def _own_record(name: str, entry: OwnInit) -> Record:
    named = name.startswith(REGISTRY) or hub_names.named(name) or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name)
    if name in RECORDS or not named:
        taken = "is the name of a published init" if name in RECORDS else "may hold letters, digits, . _ and - only"
        raise UserError(f"inits.{name}: the name {taken}; choose another")
    source = Source(
        url=entry.file,
        sha256=entry.sha256,
        member=entry.member,
        nested=entry.nested,
        layout="auto",
        prefix=entry.prefix,
        rename=tuple(entry.rename.items()),
        drop=entry.drop,
    )
    return Record(
        name=name,
        family="yours",
        sources={normal(entry.backbone): source},
        data=entry.data,
        method=entry.method,
        licence=entry.licence,
        mean=entry.mean,
        std=entry.std,
        padding=entry.padding,
        datasets=entry.datasets,
        images=entry.images,
        modality="not-stated",
    )


def seen(canonical: str, spared: Collection[str] = ()) -> set[str]:
    """Lists the datasets that an initialization was pre-trained on, by its canonical name.

    Args:
        canonical: its name.
        spared: datasets of its chain that do not count, because whoever a task tests was left out of them.
    """
    name, _, rest = canonical.rpartition("@")
    record = RECORDS.get(name) or _met.get(name) or _met.get(_split_chain(canonical, ())[0])
    return set(record.datasets if record else ()) | (set(rest.split("+")[1:]) - set(spared))


def expected(params: Params) -> Benchmark:
    """Returns the benchmark with canonical names of its initializations, as runs and tables carry them."""
    names = (parse(name, params.model.backbone, params.inits).canonical for name in params.benchmark.inits)
    return dataclasses.replace(params.benchmark, inits=tuple(names))


def check_backbone(name: str) -> None:
    """Checks that timm knows an architecture, and that what it is told of it are arguments.

    Raises:
        UserError: timm has no such architecture; the message names near ones.
    """
    bare = variants.split(name)[0]
    if timm_index.is_architecture(name):
        return
    near = difflib.get_close_matches(bare, timm_index.architectures(), n=3)
    hint = f"; near names: {', '.join(near)}" if near else ""
    raise UserError(f"unknown backbone {name!r}: timm has no such architecture{hint}")
